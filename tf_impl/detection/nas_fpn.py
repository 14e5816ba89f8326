"""RetinaNet on the pyramid NAS-FPN, with batch normalisation in its towers.

"NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection", 2019, arXiv:1904.07392.
Parameter names: mmdet ``dense_heads/retina_sepbn_head.py``, ``configs/nas_fpn`` (Apache-2.0).
What to look at: the towers' convolutions are shared by all levels, their normalisations are not.

Mirror notes:
- NHWC here, NCHW in PyTorch: there the heads' maps are transposed before they become rows of anchors, here not.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.anchors import cell_anchors, grid_anchors
from tf_impl.detection._dense import LEVELS, PRIOR_BIAS, STRIDES, DenseHead, dense_backbone
from tf_impl.detection.retinanet import (
    BASE_SIZE,
    OCTAVES,
    RATIOS,
    RetinaNetCriterion,
    retinanet_mmdet_criterion,
    retinanet_mmdet_postprocess,
)
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.model import Model
from tf_impl.layers.rows import anchor_rows
from tf_impl.necks.nas_fpn import NASFPN

__all__ = [
    "NASFPNRetinaNet",
    "RetinaSepBNHead",
    "nas_fpn_criterion",
    "retinanet_mmdet_postprocess",
    "retinanet_r50_nasfpn",
]


def separate_towers(channels: int, num_convs: int) -> list:
    """A tower of convolutions per level, with shared kernels and separate normalisations."""
    options = dict(padding=1, norm="batch", kernel_initializer=SmallNormal)
    first = [ConvModule(channels, 3, **options) for _ in range(num_convs)]
    towers = [first]
    for _ in LEVELS[1:]:
        towers.append([ConvModule(channels, 3, norm="batch", conv=lambda *a, x=x.conv, **k: x) for x in first])
    return towers


@keras.saving.register_keras_serializable("diptych")
class RetinaSepBNHead(keras.layers.Layer):
    """Classes and boxes of every anchor; the levels share everything except their batch normalisations.

    Args:
        channels: channels of the levels and of the convolutions.
        num_anchors: anchors A of a cell.
        num_classes: classes K.
        num_convs: convolutions of each tower.

    Inputs: dict of levels (N, H, W, C).
    Returns: class logits (N, sum of H * W * A, K), box deltas (N, sum of H * W * A, 4).
    """

    def __init__(self, channels: int, num_anchors: int, num_classes: int, num_convs: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.cls_convs = separate_towers(channels, num_convs)
        self.reg_convs = separate_towers(channels, num_convs)
        self.retina_cls = DenseHead.last(num_anchors * num_classes, PRIOR_BIAS)
        self.retina_reg = DenseHead.last(num_anchors * 4)

    def call(self, maps, training=False):
        logits, deltas = [], []
        for x, of_classes, of_boxes in zip(maps.values(), self.cls_convs, self.reg_convs):
            y = x
            for conv in of_classes:
                y = conv(y, training=training)
            logits.append(anchor_rows(self.retina_cls(y), self.num_classes))  # mirror: rows of anchors
            for conv in of_boxes:
                x = conv(x, training=training)
            deltas.append(anchor_rows(self.retina_reg(x), 4))
        return tf.concat(logits, 1), tf.concat(deltas, 1)


@keras.saving.register_keras_serializable("diptych")
class NASFPNRetinaNet(Model):
    """Residual network, pyramid, head.

    Args:
        backbone: returns its maps by name.
        out_channels: channels of the levels.
        stack_times: stages of the pyramid.
        num_classes: classes K, without a background.
        num_convs: convolutions of each tower of the head.

    Inputs: (N, H, W, 3) float, normalised; H and W multiples of 128.
    Returns: dict: ``"cls_logits"`` (N, A, K), ``"bbox_regression"`` (N, A, 4) deltas; ``"anchors_p3"`` to
        ``"anchors_p7"`` (A_l, 4) xyxy in pixels, the anchors of each level, A together; ``"image_size"`` (2,) int64,
        H and W.
    """

    def __init__(
        self,
        backbone,
        out_channels: int = 256,
        stack_times: int = 7,
        num_classes: int = 80,
        num_convs: int = 4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = backbone
        self.neck = NASFPN(backbone.channels, out_channels, stack_times)
        self.cells = [cell_anchors([BASE_SIZE * stride * octave for octave in OCTAVES], RATIOS) for stride in STRIDES]
        self.bbox_head = RetinaSepBNHead(out_channels, len(self.cells[0]), num_classes, num_convs)

    def call(self, images, training=False):
        maps = self.neck(self.backbone(images, training=training), training=training)
        logits, deltas = self.bbox_head(maps, training=training)
        outputs = {"cls_logits": logits, "bbox_regression": deltas}
        for (level, x), cell, stride in zip(maps.items(), self.cells, STRIDES):
            anchors = grid_anchors(cell, x.shape[1:3], (stride, stride))
            outputs[f"anchors_{level}"] = tf.constant(anchors, x.dtype)
        return {**outputs, "image_size": tf.constant(tuple(images.shape[1:3]), tf.int64)}


def nas_fpn_criterion(negative: float = 0.5, **options) -> RetinaNetCriterion:
    """RetinaNet's losses as in mmdet, without ignored anchors."""
    return retinanet_mmdet_criterion(negative=negative, **options)


def retinanet_r50_nasfpn(
    depth: int = 50,
    out_channels: int = 256,
    stack_times: int = 7,
    num_classes: int = 80,
    num_convs: int = 4,
    norm_eval: bool = False,
    **options,
) -> NASFPNRetinaNet:
    backbone = dense_backbone(depth, norm_eval=norm_eval, **options)
    return NASFPNRetinaNet(backbone, out_channels, stack_times, num_classes, num_convs)
