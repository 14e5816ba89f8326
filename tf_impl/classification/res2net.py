"""Res2Net: ResNet whose 3x3 convolution is a chain of narrow ones, each of which also sees the result before it.

"Res2Net: A New Multi-scale Backbone Architecture", 2019, arXiv:1904.01169.
Parameter names: timm ``res2net.py`` (Apache-2.0), the same as in the authors' code.

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit, because "same" would pad one side only at stride 2.
- Keras infers the input width, so a block is told whether its shortcut needs a projection.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.classification.resnet import ClassificationCriterion, ClassificationPostProcess, ResNet, shortcut
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import AveragePooling2D

__all__ = [
    "Bottle2neck",
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "Res2Net",
    "res2net50_14w_8s",
    "res2net50_26w_4s",
    "res2net50_26w_6s",
    "res2net50_26w_8s",
    "res2net50_48w_2s",
    "res2net50_v1b",
    "res2net101_26w_4s",
    "res2net101_v1b",
    "res2next50",
]

CONV = functools.partial(Conv2D, use_bias=False, kernel_initializer=KaimingNormal)


@keras.saving.register_keras_serializable("diptych")
class Bottle2neck(keras.layers.Layer):
    """1x1 reduction, ``scale`` chunks of channels with a chain of 3x3 convolutions, 1x1 expansion, and a shortcut.

    The last chunk has no convolution. In a block with a projected shortcut the chunks do not see each other, and the
    last one is averaged over 3x3 pixels.

    Args:
        planes: nominal width of the block; the output has ``4 * planes``.
        strides, first_dilation: of the 3x3 convolutions.
        dilation_rate: not used; a block has one layer of 3x3 convolutions.
        project: whether the shortcut has a projection.
        groups, base_width: a chunk has ``planes * base_width // 64`` channels in each group.
        norm: makes a normalisation.
        avg_down, zero_init_residual: see :class:`tf_impl.classification.resnet.ResNet`.
        stride_in_1x1: only False.
        scale: number of chunks; 1 is a single convolution over all channels.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), 4 * planes).
    """

    expansion = 4

    def __init__(
        self,
        planes: int,
        strides: int = 1,
        dilation_rate: int = 1,
        first_dilation: int = 1,
        project: bool = False,
        groups: int = 1,
        base_width: int = 26,
        norm=BatchNormalization,
        avg_down: bool = False,
        stride_in_1x1: bool = False,
        zero_init_residual: bool = False,
        scale: int = 4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if stride_in_1x1:
            raise ValueError(f"Bottle2neck has stride_in_1x1=False only; stride_in_1x1={stride_in_1x1}")
        self.width, self.scale = planes * base_width // 64 * groups, scale
        filters = planes * self.expansion
        self.conv1 = CONV(self.width * scale, 1)
        self.bn1 = norm()
        convs, bns = [], []
        for _ in range(max(scale - 1, 1)):
            # mirror: padding is explicit
            convs.append(
                CONV(
                    self.width, 3, strides=strides, padding=first_dilation, dilation_rate=first_dilation, groups=groups
                )
            )
            bns.append(norm())
        self.convs, self.bns = convs, bns
        self.conv3 = CONV(filters, 1)
        self.bn3 = norm(gamma_initializer="zeros" if zero_init_residual else "ones")
        self.pool = self.downsample = None
        if project:  # mirror: told whether
            self.pool = AveragePooling2D(3, strides, padding=1)
            self.downsample = shortcut(filters, strides, norm, avg_down)

    def call(self, x, training=False):
        identity = x if self.downsample is None else self.downsample(x, training=training)
        y = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        chunks = [y[..., i * self.width : (i + 1) * self.width] for i in range(self.scale)]
        results = []
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            chunk = chunks[i] if i == 0 or self.pool is not None else results[-1] + chunks[i]
            results.append(tf.nn.relu(bn(conv(chunk), training=training)))
        if self.scale > 1:
            results.append(chunks[-1] if self.pool is None else self.pool(chunks[-1]))
        y = self.bn3(self.conv3(tf.concat(results, -1)), training=training)  # mirror: NHWC
        return tf.nn.relu(y + identity)


@keras.saving.register_keras_serializable("diptych")
class Res2Net(ResNet):
    """Stem, four stages, linear classifier.

    Args:
        layers: blocks of each stage.
        scale: see :class:`Bottle2neck`.
        base_width: see :class:`Bottle2neck`.
        options: of :class:`tf_impl.classification.resnet.ResNet`, with the same inputs and results.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        scale: int = 4,
        base_width: int = 26,
        **options,
    ):
        super().__init__(functools.partial(Bottle2neck, scale=scale), layers, base_width=base_width, **options)


def res2net50_26w_4s(layers=(3, 4, 6, 3), base_width=26, scale=4, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net50_48w_2s(layers=(3, 4, 6, 3), base_width=48, scale=2, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net50_14w_8s(layers=(3, 4, 6, 3), base_width=14, scale=8, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net50_26w_6s(layers=(3, 4, 6, 3), base_width=26, scale=6, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net50_26w_8s(layers=(3, 4, 6, 3), base_width=26, scale=8, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net101_26w_4s(layers=(3, 4, 23, 3), base_width=26, scale=4, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net50_v1b(deep_stem=(32, 32, 64), avg_down=True, **options) -> Res2Net:
    return res2net50_26w_4s(deep_stem=deep_stem, avg_down=avg_down, **options)


def res2net101_v1b(deep_stem=(32, 32, 64), avg_down=True, **options) -> Res2Net:
    return res2net101_26w_4s(deep_stem=deep_stem, avg_down=avg_down, **options)


def res2next50(layers=(3, 4, 6, 3), groups=8, base_width=4, scale=4, **options) -> Res2Net:
    return Res2Net(layers=layers, groups=groups, base_width=base_width, scale=scale, **options)
