"""CARAFE: upsampling in which every output pixel weights the neighbourhood below it with its own kernel.

"CARAFE: Content-Aware ReAssembly of FEatures", 2019, arXiv:1905.02188. Parameter names: mmcv ``ops/carafe.py`` and
mmdet ``necks/fpn_carafe.py`` (Apache-2.0).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow, which transposes its maps to NCHW for the sum: in a file these transposes cancel
  those of the convolutions.
- Neighbours come from ``F.unfold`` in PyTorch, from shifted maps in TensorFlow; in both from one ``Gather`` in ONNX.
- Keras infers the widths of the maps.
"""

import keras
import numpy as np
import tensorflow as tf

from .conv_module import ConvModule
from .convolution import Conv2D
from .native import exporting

__all__ = ["CARAFE", "FPNCARAFE", "CARAFEPack", "carafe"]


def carafe(features, masks, kernel_size: int, group_size: int = 1, scale_factor: int = 2):
    """Weighted sums over the neighbourhood of the pixel that lies below each output pixel.

    Args:
        features: (N, H, W, C), zero outside; all but N are static.
        masks: (N, s H, s W, g k k), the weights: for each group rows, then columns of the neighbourhood.
        kernel_size: k, odd, side of the neighbourhood.
        group_size: g, groups of consecutive channels, each with its own mask.
        scale_factor: s.

    Returns:
        (N, s H, s W, C).

    Raises:
        ValueError: if ``masks`` has a wrong number of channels, ``kernel_size`` is even or ``group_size`` does not
            divide C.
    """
    _, height, width, channels = features.shape
    taps, s = kernel_size**2, scale_factor
    _check(channels, masks.shape[-1], kernel_size, group_size)
    masks = tf.reshape(tf.transpose(masks, (0, 3, 1, 2)), (-1, group_size, taps, height, s, width, s))
    masks = tf.transpose(masks, (0, 1, 3, 5, 4, 6, 2))
    return reassemble(features, tf.reshape(masks, (-1, group_size, height * width, s * s, taps)))


def _check(channels, mask_channels, kernel_size, group_size):
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} must be odd")
    if channels % group_size:
        raise ValueError(f"group_size={group_size} must divide the {channels} channels of the features")
    if mask_channels != group_size * kernel_size**2:
        raise ValueError(
            f"masks must have group_size * kernel_size^2 = {group_size * kernel_size**2} channels, got {mask_channels}"
        )


def reassemble(features, masks):
    """The sums.  features: (N, H, W, C), masks: (N, g, H W, s s, k k) -> (N, s H, s W, C)."""
    _, height, width, channels = features.shape
    _, groups, places, cells, taps = masks.shape
    kernel_size, s = int(taps**0.5), int(cells**0.5)
    around = neighbours(tf.transpose(features, (0, 3, 1, 2)), kernel_size)  # mirror: maps to NCHW for the sum
    around = tf.reshape(around, (-1, groups, channels // groups, taps, places))
    sums = tf.matmul(masks, tf.transpose(around, (0, 1, 4, 3, 2)))  # (N, g, H W, s s, C / g)
    sums = tf.reshape(sums, (-1, groups, height, width, s, s, channels // groups))
    sums = tf.reshape(tf.transpose(sums, (0, 1, 6, 2, 4, 3, 5)), (-1, channels, height * s, width * s))
    return tf.transpose(sums, (0, 2, 3, 1))


def neighbours(x, kernel_size: int):
    """The pixels around every pixel, zeros outside.  (N, C, H, W) -> (N, C, k k, H W) or (N, C, k k, H, W)."""
    radius = kernel_size // 2
    _, channels, height, width = x.shape
    x = tf.pad(x, ((0, 0), (0, 0), (radius, radius), (radius, radius)))
    if not exporting():
        shifts = [(i, j) for i in range(kernel_size) for j in range(kernel_size)]
        return tf.stack([x[:, :, i : i + height, j : j + width] for i, j in shifts], axis=2)
    x = tf.reshape(x, (-1, channels, (height + 2 * radius) * (width + 2 * radius)))
    return tf.gather(x, neighbour_index(height, width, kernel_size), axis=2)  # mirror: Neighbours come


def neighbour_index(height: int, width: int, kernel_size: int) -> np.ndarray:
    """Where the neighbours are in the flat map with its margin of zeros: (k k, H W)."""
    rows, columns = np.arange(height) * (width + kernel_size - 1), np.arange(width)
    taps = (np.arange(kernel_size)[:, None] * (width + kernel_size - 1) + np.arange(kernel_size)).ravel()
    return taps[:, None] + (rows[:, None] + columns).ravel()


@keras.saving.register_keras_serializable("diptych")
class CARAFE(keras.layers.Layer):
    """:func:`carafe` as a layer.

    Args:
        kernel_size, group_size, scale_factor: see :func:`carafe`.

    Inputs: features and masks.  Returns: the larger features.
    """

    def __init__(self, kernel_size: int, group_size: int = 1, scale_factor: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size, self.group_size, self.scale_factor = kernel_size, group_size, scale_factor

    def call(self, features, masks):
        return carafe(features, masks, self.kernel_size, self.group_size, self.scale_factor)


@keras.saving.register_keras_serializable("diptych")
class CARAFEPack(keras.layers.Layer):
    """Upsampling by CARAFE that computes its own masks, by two convolutions and a softmax over the neighbourhood.

    Args:
        channels: width C of the map.
        scale_factor: s.
        up_kernel: side k of the neighbourhood, odd.
        up_group: groups of channels, each with its own mask.
        encoder_kernel, encoder_dilation: of the second convolution.
        compressed_channels: width between the convolutions.

    x: (N, H, W, C) -> (N, s H, s W, C).
    """

    def __init__(
        self,
        channels: int,
        scale_factor: int,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check(channels, up_group * up_kernel**2, up_kernel, up_group)
        self.scale_factor, self.up_kernel, self.up_group = scale_factor, up_kernel, up_group
        self.channel_compressor = Conv2D(
            compressed_channels, 1, kernel_initializer="glorot_uniform", bias_initializer="zeros"
        )
        self.content_encoder = Conv2D(  # mirror: infers the widths
            up_kernel**2 * up_group * scale_factor**2,
            encoder_kernel,
            padding=(encoder_kernel - 1) * encoder_dilation // 2,
            dilation_rate=encoder_dilation,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.001),
            bias_initializer="zeros",
        )

    def call(self, x):
        _, height, width, _ = x.shape
        masks = self.content_encoder(self.channel_compressor(x))
        # channel (tap, cell): here a pixel keeps what a pixel shuffle would spread over the cells
        shape = (-1, self.up_group, self.up_kernel**2, self.scale_factor**2, height * width)
        masks = tf.reshape(tf.transpose(masks, (0, 3, 1, 2)), shape)
        return reassemble(x, tf.nn.softmax(tf.transpose(masks, (0, 1, 4, 3, 2))))


@keras.saving.register_keras_serializable("diptych")
class FPNCARAFE(keras.layers.Layer):
    """Feature pyramid whose top-down path upsamples by CARAFE, from the extra levels too.

    Args:
        in_channels: channels of every map, fine to coarse; Keras only needs how many there are.
        out_channels: channels of the levels.
        num_outs: number of levels.

    Inputs: maps (N, H_i, W_i, C_i), fine to coarse, each half as large as the one before, rounded up.
    Returns: list of ``num_outs`` maps (N, H_i, W_i, out_channels), fine to coarse.
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: int = 256, num_outs: int = 5, **kwargs):
        super().__init__(**kwargs)
        options = dict(activation=None, kernel_initializer="glorot_uniform")
        laterals = [ConvModule(out_channels, 1, **options) for _ in in_channels]
        for _ in range(num_outs - len(in_channels)):
            laterals.append(ConvModule(out_channels, 3, strides=2, padding=1, **options))
        self.lateral_convs = laterals
        self.fpn_convs = [ConvModule(out_channels, 3, padding=1, **options) for _ in laterals]
        self.upsample_modules = [CARAFEPack(out_channels, 2) for _ in laterals[1:]]

    def call(self, *maps, training=False):
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps)]
        for i in range(len(maps), len(self.lateral_convs)):
            laterals.append(self.lateral_convs[i](maps[-1] if i == len(maps) else laterals[-1]))
        for i in range(len(laterals) - 1, 0, -1):
            height, width = laterals[i - 1].shape[1:3]
            laterals[i - 1] = laterals[i - 1] + self.upsample_modules[i - 1](laterals[i])[:, :height, :width]
        return [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
