"""Upsampling of deep layer aggregation: maps are joined in pairs, after deformable convolutions, until the finest
contains all.

"Objects as Points", 2019, arXiv:1904.07850, appendix; "Deep Layer Aggregation", 2017, arXiv:1707.06484.
Parameter names: xingyizhou/CenterNet ``networks/pose_dla_dcn.py``, ``networks/DCNv2`` (MIT).

Mirror notes:
- NHWC here, NCHW in PyTorch.
- PyTorch fills the kernels of upsampling; Keras has an initialiser for them.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.deform_conv import deform_conv2d
from tf_impl.layers.native import exporting, onnx_node
from tf_impl.layers.normalization import BatchNormalization

__all__ = ["DCNv2", "DLAUp", "IDAUp", "UpSampling", "bilinear_kernel"]


def bilinear_kernel(size: int) -> np.ndarray:
    """The kernel of bilinear interpolation by a transposed convolution of stride size / 2.  (size, size) float64."""
    half = -(-size // 2)
    centre = (2 * half - 1 - half % 2) / (2 * half)
    line = 1 - np.abs(np.arange(size) / half - centre)
    return line[:, None] * line


@keras.saving.register_keras_serializable("diptych")
class DCNv2(keras.layers.Layer):
    """Deformable convolution v2, 3x3, with the first implementation's name for its offsets and masks.

    Args:
        filters: width of the result.

    Inputs: (N, H, W, C).  Returns: (N, H, W, filters).
    """

    torch_names = {"kernel": ("weight", (3, 2, 0, 1)), "bias": ("bias", None)}

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.conv_offset_mask = Conv2D(27, 3, padding=1, kernel_initializer="zeros", bias_initializer="zeros")

    def build(self, input_shape):
        channels = input_shape[-1]
        bound = (channels * 9) ** -0.5
        self.kernel = self.add_weight(
            name="kernel",
            shape=(3, 3, channels, self.filters),
            initializer=keras.initializers.RandomUniform(-bound, bound),
        )
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        if not self.conv_offset_mask.built:
            self.conv_offset_mask.build(input_shape)

    def call(self, x):
        found = self.conv_offset_mask(x)
        kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
        return deform_conv2d(x, found[..., :18], kernel, bias, padding=1, mask=tf.sigmoid(found[..., 18:]))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)


@keras.saving.register_keras_serializable("diptych")
class DeformBlock(keras.layers.Layer):
    """Deformable convolution, batch normalisation, ReLU.  (N, H, W, C) -> (N, H, W, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.actf = keras.Sequential([BatchNormalization(), keras.layers.ReLU()])
        self.conv = DCNv2(filters)

    def call(self, x, training=False):
        return self.actf(self.conv(x), training=training)


@keras.saving.register_keras_serializable("diptych")
class UpSampling(keras.layers.Layer):
    """A learned depthwise upsampling, initially bilinear.

    Args:
        factor: even.

    Inputs: (N, H, W, C).  Returns: (N, factor H, factor W, C).
    """

    torch_names = {"kernel": ("weight", (2, 3, 0, 1))}

    def __init__(self, factor: int, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, input_shape):
        kernel = bilinear_kernel(2 * self.factor)[:, :, None, None]
        shape = (*kernel.shape[:2], input_shape[-1], 1)
        self.kernel = self.add_weight(
            name="kernel",
            shape=shape,
            initializer=lambda shape, dtype: tf.cast(
                np.broadcast_to(kernel, shape), dtype
            ),  # mirror: fills the kernels
        )

    def call(self, x):
        kernel, pad = tf.cast(self.kernel, x.dtype), self.factor // 2
        height, width, channels = (n or tf.shape(x)[i] for i, n in enumerate(x.shape[1:], start=1))
        if exporting():
            attributes = {
                "kernel_shape": [2 * self.factor] * 2,
                "strides": [self.factor] * 2,
                "pads": [pad] * 4,
                "group": x.shape[3],
            }
            inputs = [tf.transpose(x, (0, 3, 1, 2)), tf.transpose(kernel, (2, 3, 0, 1))]
            shape = (x.shape[0], x.shape[3], *(None if n is None else n * self.factor for n in x.shape[1:3]))
            return tf.transpose(onnx_node("ConvTranspose", inputs, attributes, x.dtype, shape), (0, 2, 3, 1))
        # the gradient of the convolution that a transposed one is named after
        size = (tf.shape(x)[0], height * self.factor, width * self.factor, channels)
        pads = [[0, 0], [pad, pad], [pad, pad], [0, 0]]
        strides = (1, self.factor, self.factor, 1)
        y = tf.nn.depthwise_conv2d_backprop_input(size, kernel, x, strides, pads)
        return tf.ensure_shape(y, self.compute_output_shape(x.shape))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, *(None if n is None else n * self.factor for n in (height, width)), channels)


@keras.saving.register_keras_serializable("diptych")
class IDAUp(keras.layers.Layer):
    """Bring maps to the size and width of the first, one after the other, adding each to the one before it.

    Args:
        filters: width of the results.
        factors: by which each map is smaller than the first, whose factor is 1.

    Inputs: list of maps (N, H, W, C).
    Returns: list of equal length, all of the first map's size; the first is returned unchanged.
    """

    def __init__(self, filters: int, factors: tuple[int, ...], **kwargs):
        super().__init__(**kwargs)
        for i in range(1, len(factors)):
            setattr(self, f"proj_{i}", DeformBlock(filters))
            setattr(self, f"up_{i}", UpSampling(factors[i]))
            setattr(self, f"node_{i}", DeformBlock(filters))

    def call(self, maps, training=False):
        found = [maps[0]]
        for i, x in enumerate(maps[1:], start=1):
            x = getattr(self, f"up_{i}")(getattr(self, f"proj_{i}")(x, training=training))
            found.append(getattr(self, f"node_{i}")(x + found[-1], training=training))
        return found


@keras.saving.register_keras_serializable("diptych")
class DLAUp(keras.layers.Layer):
    """Join every map except the last with all coarser ones, from the coarsest pair to the finest.

    Args:
        channels: of the maps, each half the size of the one before it.

    Inputs: list of maps (N, H, W, C).
    Returns: list of maps of the same sizes and widths, each except the last joined with all coarser ones.
    """

    def __init__(self, channels: tuple[int, ...], **kwargs):
        super().__init__(**kwargs)
        self.count = len(channels) - 1
        for i in range(self.count):
            setattr(self, f"ida_{i}", IDAUp(channels[self.count - 1 - i], (1, *[2] * (i + 1))))

    def call(self, maps, training=False):
        maps, found = list(maps), [maps[-1]]
        for i in range(self.count):
            first = self.count - 1 - i
            maps[first:] = getattr(self, f"ida_{i}")(maps[first:], training=training)
            found.insert(0, maps[-1])
        return found
