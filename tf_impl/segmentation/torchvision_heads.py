"""torchvision's FCN and DeepLabv3: other names, other widths, another order of branches, another loss.

"Fully Convolutional Networks for Semantic Segmentation", 2014, arXiv:1411.4038; "Rethinking Atrous Convolution for
Semantic Image Segmentation", 2017, arXiv:1706.05587.
Parameter names: torchvision ``models/segmentation`` (BSD-3).
What to look at: the branches are joined with the 1x1 convolution first and the mean of the map last; mmsegmentation
begins with the mean.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.classification.resnet import resnet50, resnet101
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import AdaptiveAveragePooling2D
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess

__all__ = [
    "ASPP",
    "SegmentationPostProcess",
    "TorchvisionCriterion",
    "TorchvisionSegmenter",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "fcn_resnet50",
    "fcn_resnet101",
]


def conv_bn_relu(filters: int, kernel: int, dilation_rate: int = 1) -> list[keras.layers.Layer]:
    """Convolution without bias, normalisation, ReLU."""
    padding = dilation_rate * (kernel // 2)
    conv = Conv2D(filters, kernel, padding=padding, dilation_rate=dilation_rate, use_bias=False)
    return [conv, BatchNormalization(), keras.layers.ReLU()]


def fcn_head(in_filters: int, num_classes: int, dropout: float = 0.1) -> keras.Sequential:
    """A 3x3 convolution to a quarter of the channels, and the classifier."""
    return keras.Sequential([*conv_bn_relu(in_filters // 4, 3), keras.layers.Dropout(dropout), Conv2D(num_classes, 1)])


@keras.saving.register_keras_serializable("diptych", "torchvision_heads.ASPP")
class ASPP(keras.layers.Layer):
    """Atrous spatial pyramid pooling.

    Args:
        filters: of every convolution.
        rates: dilations.
        dropout: rate at the end.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(self, filters: int, rates: tuple[int, ...], dropout: float, **kwargs):
        super().__init__(**kwargs)
        branches = [keras.Sequential(conv_bn_relu(filters, 1))]
        branches += [keras.Sequential(conv_bn_relu(filters, 3, rate)) for rate in rates]
        branches += [keras.Sequential([AdaptiveAveragePooling2D(1), *conv_bn_relu(filters, 1)])]
        self.convs = branches
        self.project = keras.Sequential([*conv_bn_relu(filters, 1), keras.layers.Dropout(dropout)])

    def call(self, x, training=False):
        maps = [conv(x, training=training) for conv in self.convs]
        maps[-1] = resize_bilinear(maps[-1], map_size(x))
        return self.project(tf.concat(maps, -1), training=training)


@keras.saving.register_keras_serializable("diptych")
class TorchvisionSegmenter(Model):
    """Dilated ResNet, head on its last map, and an auxiliary head on the one before.

    Args:
        backbone: returns the maps ``"c4"`` and ``"c5"``.
        classifier, aux_classifier: the heads; the second may be None.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict of logits (N, H, W, K): ``"logits"``, ``"aux_logits"``.
    """

    def __init__(self, backbone, classifier, aux_classifier=None, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone, self.classifier = backbone, classifier
        self.aux_classifier = aux_classifier

    def call(self, images, training=False):
        maps, size = self.backbone(images, training=training), map_size(images)
        outputs = {"logits": resize_bilinear(self.classifier(maps["c5"], training=training), size)}
        if self.aux_classifier is not None:
            logits = self.aux_classifier(maps["c4"], training=training)
            outputs["aux_logits"] = resize_bilinear(logits, size)
        return outputs


@keras.saving.register_keras_serializable("diptych")
class TorchvisionCriterion(SegmentationCriterion):
    """Mean cross-entropy of the pixels that count, and half of that of the auxiliary head.

    Args:
        ignore_index: label of pixels that do not count.

    Inputs and returns: as for :class:`SegmentationCriterion`; the terms are ``"out"`` and ``"aux"``, the latter halved.
    """

    def __init__(self, ignore_index: int = 255, **kwargs):
        terms = (("out", "logits", 1.0), ("aux", "aux_logits", 0.5))
        super().__init__(terms, ignore_index, avg_non_ignore=True, **kwargs)


def dilated(builder, **options):
    """The backbone: strides of the last two stages become dilations."""
    return builder(output_stride=8, features_only=True, out_indices=(3, 4), **options)


def fcn_resnet50(
    builder=resnet50, num_classes: int = 21, aux_loss: bool = True, dropout: float = 0.1, **options
) -> TorchvisionSegmenter:
    backbone = dilated(builder, **options)
    aux = fcn_head(backbone.channels["c4"], num_classes, dropout) if aux_loss else None
    return TorchvisionSegmenter(backbone, fcn_head(backbone.channels["c5"], num_classes, dropout), aux)


def fcn_resnet101(builder=resnet101, **options) -> TorchvisionSegmenter:
    return fcn_resnet50(builder=builder, **options)


def deeplabv3_resnet50(
    builder=resnet50,
    num_classes: int = 21,
    aux_loss: bool = True,
    channels: int = 256,
    dropout: float = 0.1,
    aspp_dropout: float = 0.5,
    rates: tuple[int, ...] = (12, 24, 36),
    **options,
) -> TorchvisionSegmenter:
    backbone = dilated(builder, **options)
    aspp = ASPP(channels, rates, aspp_dropout)
    head = keras.Sequential([aspp, *conv_bn_relu(channels, 3), Conv2D(num_classes, 1)])
    aux = fcn_head(backbone.channels["c4"], num_classes, dropout) if aux_loss else None
    return TorchvisionSegmenter(backbone, head, aux)


def deeplabv3_resnet101(builder=resnet101, **options) -> TorchvisionSegmenter:
    return deeplabv3_resnet50(builder=builder, **options)
