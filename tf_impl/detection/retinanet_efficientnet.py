"""RetinaNet on EfficientNet, with batch normalisation in pyramid and towers.

"Focal Loss for Dense Object Detection", 2017, arXiv:1708.02002; "EfficientNet: Rethinking Model Scaling for
Convolutional Neural Networks", 2019, arXiv:1905.11946.
Parameter names: mmdet ``configs/efficientnet`` (Apache-2.0), those of the backbone as in timm.

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

from collections.abc import Mapping

import keras
import tensorflow as tf

from tf_impl.boxes.anchors import cell_anchors, grid_anchors
from tf_impl.classification.efficientnet import tf_efficientnet_b3
from tf_impl.detection._dense import STRIDES
from tf_impl.detection.nas_fpn import RetinaSepBNHead, nas_fpn_criterion
from tf_impl.detection.retinanet import BASE_SIZE, OCTAVES, RATIOS, retinanet_mmdet_postprocess
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.model import Model
from tf_impl.necks.fpn import level_names, top_down

__all__ = [
    "EfficientNetRetinaNet",
    "NormalisedFPN",
    "nas_fpn_criterion",
    "retinanet_effb3_fpn",
    "retinanet_mmdet_postprocess",
]


@keras.saving.register_keras_serializable("diptych")
class NormalisedFPN(keras.layers.Layer):
    """A feature pyramid whose 3x3 convolutions have batch normalisations, and the 1x1 ones biases.

    Args:
        in_channels: channels of every map that is used, by name, fine to coarse.
        out_channels: channels of the levels.
        num_outs: number of levels; those beyond the maps are a chain of stride-2 convolutions after the last map, with
            a ReLU in between.

    Inputs: dict of maps (N, H_i, W_i, C_i).
    Returns: dict of levels (N, H_i, W_i, out_channels), fine to coarse, "p3" for "c3" and so on.
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 256, num_outs: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.num_outs, self.used = num_outs, tuple(in_channels)
        options = {"activation": None, "kernel_initializer": "glorot_uniform"}
        self.lateral_convs = [ConvModule(out_channels, 1, **options) for _ in self.used]
        convs = [ConvModule(out_channels, 3, padding=1, norm="batch", **options) for _ in self.used]
        for _ in range(num_outs - len(self.used)):
            convs.append(ConvModule(out_channels, 3, strides=2, padding=1, norm="batch", **options))
        self.fpn_convs = convs

    def call(self, maps, training=False):
        maps = [maps[name] for name in self.used]
        laterals = top_down([conv(x) for conv, x in zip(self.lateral_convs, maps)])
        levels = [conv(x, training=training) for conv, x in zip(self.fpn_convs, laterals)]
        x = maps[-1]
        for i in range(len(laterals), self.num_outs):
            x = tf.nn.relu(x) if i > len(laterals) else x
            x = self.fpn_convs[i](x, training=training)
            levels.append(x)
        return dict(zip(level_names(self.used, len(levels)), levels))


@keras.saving.register_keras_serializable("diptych")
class EfficientNetRetinaNet(Model):
    """EfficientNet, pyramid, head.

    Args:
        backbone: returns its maps by name.
        out_channels: channels of the levels.
        num_classes: classes K, without a background.
        num_convs: convolutions of each tower of the head.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: ``"cls_logits"`` (N, A, K), ``"bbox_regression"`` (N, A, 4) deltas; ``"anchors_p3"`` to
        ``"anchors_p7"`` (A_l, 4) xyxy in pixels, the anchors of each level, A together; ``"image_size"`` (2,) int64,
        H and W.
    """

    def __init__(self, backbone, out_channels: int = 256, num_classes: int = 80, num_convs: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = backbone
        self.neck = NormalisedFPN(backbone.channels, out_channels)
        self.cells = [cell_anchors([BASE_SIZE * stride * octave for octave in OCTAVES], RATIOS) for stride in STRIDES]
        self.bbox_head = RetinaSepBNHead(out_channels, len(self.cells[0]), num_classes, num_convs)

    def call(self, images, training=False):
        maps = self.neck(self.backbone(images, training=training), training=training)
        logits, deltas = self.bbox_head(maps, training=training)
        outputs = {"cls_logits": logits, "bbox_regression": deltas}
        for (level, x), cell, stride in zip(maps.items(), self.cells, STRIDES):
            anchors = grid_anchors(cell, x.shape[1:3], (stride, stride))  # mirror: NHWC
            outputs[f"anchors_{level}"] = tf.constant(anchors, x.dtype)
        return {**outputs, "image_size": tf.constant(tuple(images.shape[1:3]), tf.int64)}


def retinanet_effb3_fpn(
    out_channels: int = 256, num_classes: int = 80, num_convs: int = 4, **options
) -> EfficientNetRetinaNet:
    backbone = tf_efficientnet_b3(features_only=True, out_indices=(2, 3, 4), **options)
    return EfficientNetRetinaNet(backbone, out_channels, num_classes, num_convs)
