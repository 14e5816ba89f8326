"""DeepLab v2: a dilated ResNet, and parallel convolutions of four dilations whose scores are added.

"DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs", 2016,
arXiv:1606.00915.
Parameter names: kazuto1011/deeplab-pytorch ``libs/models`` (MIT), after the authors' Caffe networks.
What to look at: all blocks of a stage have its dilation, strides are on the first 1x1 convolution, the pool rounds up.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
- Images are scaled by the given factor: the reference does not divide the sizes.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationPostProcess, pixel_cross_entropy

__all__ = [
    "ASPP",
    "Bottleneck",
    "DeepLabV2",
    "DeepLabV2Criterion",
    "MultiScale",
    "SegmentationPostProcess",
    "deeplabv2_resnet101",
    "deeplabv2_resnet101_msc",
    "scaled",
]


norm = functools.partial(BatchNormalization, momentum=0.999)
conv_bn = functools.partial(ConvModule, norm=norm)


@keras.saving.register_keras_serializable("diptych")
class Bottleneck(keras.layers.Layer):
    """1x1 with the strides, 3x3 with the dilation, 1x1, and a shortcut.  x: (N, H, W, C) -> (N, H', W', filters)."""

    def __init__(self, filters: int, strides: int, dilation_rate: int, shortcut: bool, **kwargs):
        super().__init__(**kwargs)
        width = filters // 4
        self.reduce = conv_bn(width, 1, strides)
        self.conv3x3 = conv_bn(width, 3, padding=dilation_rate, dilation_rate=dilation_rate)
        self.increase = conv_bn(filters, 1, activation=None)
        self.shortcut = conv_bn(filters, 1, strides, activation=None) if shortcut else keras.layers.Identity()

    def call(self, x, training=False):
        y = self.conv3x3(self.reduce(x, training=training), training=training)
        return tf.nn.relu(self.increase(y, training=training) + self.shortcut(x, training=training))


@keras.saving.register_keras_serializable("diptych")
class ASPP(keras.layers.Layer):
    """The sum of convolutions of several dilations (section 3.2).  x: (N, H, W, C) -> (N, H, W, K)."""

    def __init__(self, num_classes: int, rates: tuple[int, ...], **kwargs):
        super().__init__(**kwargs)
        self.count = len(rates)
        for i, rate in enumerate(rates):
            normal = keras.initializers.RandomNormal(stddev=0.01)
            options = {"kernel_initializer": normal, "bias_initializer": "zeros"}
            setattr(self, f"c{i}", Conv2D(num_classes, 3, padding=rate, dilation_rate=rate, **options))

    def call(self, x):
        return sum(getattr(self, f"c{i}")(x) for i in range(self.count))


@keras.saving.register_keras_serializable("diptych")
class Stage(keras.layers.Layer):
    """Named layers, one after the other."""

    def __init__(self, layers: dict, **kwargs):
        super().__init__(**kwargs)
        self.names = tuple(layers)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def call(self, x, training=False):
        for name in self.names:
            x = getattr(self, name)(x, training=training) if name != "pool" else self.pool(x)
        return x


@keras.saving.register_keras_serializable("diptych")
class DeepLabV2(Model):
    """The network at one scale.

    Args:
        num_classes: classes K.
        layers: blocks of the four stages.
        width: channels of the stem; the first stage has four times as many, doubled from stage to stage.
        rates: dilations of the parallel convolutions.

    Inputs: (N, H, W, 3) float, BGR minus the mean.
    Returns: dict: ``"logits"`` (N, H / 8, W / 8, K).
    """

    def __init__(
        self,
        num_classes: int = 21,
        layers: tuple[int, ...] = (3, 4, 23, 3),
        width: int = 64,
        rates: tuple[int, ...] = (6, 12, 18, 24),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        pool = MaxPooling2D(3, 2, padding=1, ceil_mode=True)
        self.layer1 = Stage({"conv1": conv_bn(width, 7, 2, 3), "pool": pool})
        for i, (depth, strides, dilation) in enumerate(zip(layers, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
            filters, blocks = 4 * width * 2**i, {}
            for j in range(depth):
                block = Bottleneck(filters, strides if j == 0 else 1, dilation, shortcut=j == 0)
                blocks[f"block{j + 1}"] = block
            setattr(self, f"layer{i + 2}", Stage(blocks))
        self.aspp = ASPP(num_classes, rates)

    def call(self, images, training=False):
        x = images
        for i in range(1, 6):
            x = getattr(self, f"layer{i}")(x, training=training)
        return {"logits": self.aspp(x)}


def scaled(images, factor: float):
    """Bilinear, floor(factor * size).  (N, H, W, C) -> (N, h, w, C)."""
    for axis, length in enumerate(map_size(images), start=1):
        place = np.maximum((np.arange(int(length * factor)) + 0.5) / factor - 0.5, 0)  # mirror: given factor
        left = np.floor(place).astype(np.int64)
        right = np.minimum(left + 1, length - 1)
        weight = tf.constant((place - left).reshape((-1, *(1,) * (3 - axis))), images.dtype)
        images = tf.gather(images, left, axis=axis) * (1 - weight) + tf.gather(images, right, axis=axis) * weight
    return images


@keras.saving.register_keras_serializable("diptych")
class MultiScale(Model):
    """The largest of the scores at several scales (section 4.1).

    Args:
        base: the network at one scale.

    Inputs: as of the network.
    Returns: dict of logits (N, h, w, K): ``"logits"``, the largest; ``"full"``, ``"half"``, ``"threequarters"``, of
        each scale.
    """

    def __init__(self, base: DeepLabV2, **kwargs):
        super().__init__(**kwargs)
        self.base = base

    def call(self, images, training=False):
        full = self.base(images, training=training)["logits"]
        half, threequarters = (self.base(scaled(images, factor), training=training)["logits"] for factor in (0.5, 0.75))
        resized = [resize_bilinear(x, map_size(full)) for x in (half, threequarters)]
        largest = tf.reduce_max(tf.stack([full, *resized]), 0)
        return {"logits": largest, "full": full, "half": half, "threequarters": threequarters}


@keras.saving.register_keras_serializable("diptych")
class DeepLabV2Criterion(keras.layers.Layer):
    """Cross-entropy of every map of scores, at its own size.

    Args:
        ignore_index: label of pixels that do not count.

    Inputs: ``outputs``, maps of logits (N, h, w, K); ``targets["labels"]`` (N, H, W) int, sampled to each map's size.
    Returns: dict of scalars: one for each map, ``"ce"`` for ``"logits"``; ``"total"``.
    """

    def __init__(self, ignore_index: int = 255, **kwargs):
        super().__init__(**kwargs)
        self.ignore_index = ignore_index

    def call(self, outputs, targets):
        losses = {}
        for name, logits in outputs.items():
            labels = nearest(targets["labels"], map_size(logits))
            loss = pixel_cross_entropy(logits, labels, self.ignore_index, avg_non_ignore=True)
            losses["ce" if name == "logits" else name] = loss
        return {**losses, "total": sum(losses.values())}


def nearest(labels, size: tuple[int, int]):
    """Labels (N, H, W) at another size: the one under the centre of each pixel."""
    for axis, length in enumerate(size, start=1):
        index = np.floor((np.arange(length) + 0.5) * (labels.shape[axis] / length)).astype(np.int64)
        labels = tf.gather(labels, index, axis=axis)
    return labels


def deeplabv2_resnet101(**options) -> DeepLabV2:
    return DeepLabV2(**options)


def deeplabv2_resnet101_msc(**options) -> MultiScale:
    return MultiScale(DeepLabV2(**options))
