"""U-Net on volumes whose slices are far apart: maps are halved within the slices, and across them once at the bottom.

The U-Net idea: arXiv:1505.04597, in three dimensions arXiv:1606.06650. This network finds the platelets of a blood clot
in fluorescence microscopy: affinities of neighbouring voxels, a mask, and centres.
Parameter names: ``unet.py`` of the package platelet-unet-watershed 0.0.3 (BSD-3-Clause), which ships its weights.
What to look at: the pools add a border on both sides, so that even maps become odd ones, and the rows too many are cut
off on the way up; each channel is doubled by a kernel of its own.

Mirror notes:
- NDHWC here, NCDHW in PyTorch; Keras infers the input widths.
- Keras has no transposed convolution with groups: where strides and kernel are equal it is a product with the kernel.
- TensorFlow's pool of volumes computes in float32 alone: the slices are pooled as images, then pairs of slices.
"""

import math

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv3D
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import max_pool2d

__all__ = ["ConvPair", "UNet3D", "unet_platelets"]

WITHIN, ACROSS = (1, 2, 2), (2, 2, 2)  # how a map is halved: slices, rows, columns


@keras.saving.register_keras_serializable("diptych")
class ConvPair(keras.layers.Layer):
    """Two 3x3x3 convolutions with normalisation; a ReLU after each, or a sigmoid after the second.

    Args:
        filters: of the result.
        last: whether a sigmoid ends it.

    x: (N, D, H, W, C) -> (N, D, H, W, filters).
    """

    def __init__(self, filters: int, last: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.conv0 = Conv3D(filters, 3, padding=1)
        self.conv1 = Conv3D(filters, 3, padding=1)
        self.batch0, self.batch1 = BatchNormalization(), BatchNormalization()
        self.last = last

    def call(self, x, training=False):
        x = tf.nn.relu(self.batch0(self.conv0(x), training=training))
        x = self.batch1(self.conv1(x), training=training)
        return tf.sigmoid(x) if self.last else tf.nn.relu(x)


@keras.saving.register_keras_serializable("diptych")
class DepthwiseDoubling(keras.layers.Layer):
    """Every voxel becomes a block of the strides' size, by a kernel for each channel.

    x: (N, D, H, W, C) -> (N, d D, h H, w W, C).
    """

    torch_names = {"kernel": ("weight", (4, 3, 0, 1, 2)), "bias": ("bias", None)}

    def __init__(self, strides: tuple[int, int, int], **kwargs):
        super().__init__(**kwargs)
        self.strides = tuple(strides)

    def build(self, input_shape):
        bound = math.prod(self.strides) ** -0.5  # PyTorch's
        uniform = [keras.initializers.RandomUniform(-bound, bound) for _ in range(2)]
        shape = (*self.strides, 1, input_shape[-1])
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=uniform[0])
        self.bias = self.add_weight(name="bias", shape=input_shape[-1:], initializer=uniform[1])

    def call(self, x):
        d, h, w = self.strides
        _, depth, height, width, channels = x.shape
        kernel = tf.reshape(tf.cast(self.kernel, x.dtype), (d * h * w, channels))
        blocks = tf.reshape(x, (-1, height, width, 1, channels)) * kernel  # mirror: with groups
        blocks = tf.reshape(blocks, (-1, height, width, d, h, w, channels))
        blocks = tf.transpose(blocks, (0, 3, 1, 4, 2, 5, 6))  # (N D, d, H, h, W, w, C)
        return tf.reshape(blocks, (-1, d * depth, h * height, w * width, channels)) + tf.cast(self.bias, x.dtype)


def pool(x, strides: tuple[int, int, int]):
    """Maxima of blocks, with a border around each slice.  (N, D, H, W, C) -> (N, D / d, H // 2 + 1, W // 2 + 1, C)."""
    _, depth, *size = x.shape
    x = max_pool2d(tf.reshape(x, (-1, *size)), 2, 2, 1)  # mirror: pool of volumes
    x = tf.reshape(x, (-1, depth, *x.shape[1:]))
    return tf.maximum(x[:, ::2], x[:, 1::2]) if strides[0] == 2 else x


@keras.saving.register_keras_serializable("diptych")
class UNet3D(Model):
    """The network of five levels.

    Args:
        width: channels of the first level; doubled from level to level but for the last.
        num_outputs: maps that are made.

    Inputs: (N, D, H, W, 1) float, from 0 to 1; D even, H and W multiples of 16.
    Returns: dict: ``"probabilities"`` (N, D, H, W, num_outputs); the published five are the affinities to the
        neighbours in depth, rows and columns, the mask, and the centres.
    Raises: ValueError for other sizes.
    """

    def __init__(self, width: int = 32, num_outputs: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=5, axes={-1: 1})
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.c0, self.c1 = ConvPair(widths[0]), ConvPair(widths[1])
        self.c2, self.c3 = ConvPair(widths[2]), ConvPair(widths[3])
        self.c4 = ConvPair(widths[3])
        self.c5_0, self.c6_0 = ConvPair(widths[2]), ConvPair(widths[1])
        self.c7_0, self.c8_0 = ConvPair(widths[0]), ConvPair(num_outputs, last=True)
        self.up0, self.up1 = DepthwiseDoubling(ACROSS), DepthwiseDoubling(WITHIN)
        self.up2, self.up3 = DepthwiseDoubling(WITHIN), DepthwiseDoubling(WITHIN)

    def call(self, volumes, training=False):
        depth, height, width = volumes.shape[1:4]
        if depth % 2 or height % 16 or width % 16:
            raise ValueError(
                f"volumes of {depth} x {height} x {width}: an even depth, and multiples of 16 are expected"
            )
        c0 = self.c0(volumes, training=training)
        c1 = self.c1(pool(c0, WITHIN), training=training)
        c2 = self.c2(pool(c1, WITHIN), training=training)
        c3 = self.c3(pool(c2, WITHIN), training=training)
        x = self.up0(self.c4(pool(c3, ACROSS), training=training))
        x = self.up1(self.c5_0(tf.concat((x[:, :, :-1, :-1], c3), -1), training=training))
        x = self.up2(self.c6_0(tf.concat((x[:, :, :-1, :-1], c2), -1), training=training))
        x = self.up3(self.c7_0(tf.concat((x[:, :, :-1, :-1], c1), -1), training=training))
        x = tf.concat((x[:, :, 1:-1, 1:-1], c0), -1)  # mirror: NDHWC here
        return {"probabilities": self.c8_0(x, training=training)}


def unet_platelets(width: int = 32, num_outputs: int = 5) -> UNet3D:
    return UNet3D(width, num_outputs)
