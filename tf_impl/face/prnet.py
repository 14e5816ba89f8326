"""PRNet: a face as a map of positions, from which a mesh, key points and a pose are read.

"Joint 3D Face Reconstruction and Dense Alignment with Position Map Regression Network", 2018, arXiv:1803.07835.
Parameter names: the variables of YadiraF/PRNet ``predictor.py`` (MIT), with dots, a layer's weights called ``weight``.
What to look at: a pixel of the result is a point on the face's surface, and its three channels are the point's position
in the image; the last layer is also normalised, before the sigmoid.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Convolutions pad as TensorFlow's "same"; a transposed one of stride 1 loses one row before and two after.
- Normalisation has the constants of TensorFlow: epsilon 0.001, momentum 0.999 (0.001 in PyTorch).
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D, Conv2DTranspose
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization

__all__ = ["PRNet", "PRNetCriterion", "ResBlock", "ResFCN256", "prnet"]

# width / 16 and stride of the blocks in the encoder, and of the transposed convolutions in the decoder
DOWN = ((2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), (16, 1), (32, 2), (32, 1))
UP = ((32, 1), *((f, s) for f in (16, 8, 4) for s in (2, 1, 1)), (2, 2), (2, 1), (1, 2), (1, 1))
LAST = 3  # further ones, of three channels


def batch_norm():
    """Normalisation with slim's constants."""
    return BatchNormalization(epsilon=1e-3, momentum=0.999)  # mirror: constants of TensorFlow


def name_of(kind: str, i: int) -> str:
    """slim's name of the i-th layer of a kind."""
    return f"{kind}_{i}" if i else kind


@keras.saving.register_keras_serializable("diptych", "prnet.Conv")
class Conv(Conv2D):
    """Convolution without a bias, normalisation, ReLU.

    Args:
        filters, kernel_size, strides: of the convolution.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, filters: int, kernel_size: int, strides: int = 1, **kwargs):
        options = {"padding": "same", "use_bias": False, "kernel_initializer": "glorot_uniform", **kwargs}
        super().__init__(filters, kernel_size, strides=strides, **options)  # mirror: pad as
        self.BatchNorm = batch_norm()

    def call(self, x, training=False):
        return tf.nn.relu(self.BatchNorm(super().call(x), training=training))


@keras.saving.register_keras_serializable("diptych", "prnet.ConvTranspose")
class ConvTranspose(Conv2DTranspose):
    """Transposed convolution of 4x4 without a bias, normalisation, activation.

    Args:
        filters, strides: of the convolution.
        last: whether the activation is a sigmoid, not a ReLU.

    x: (N, H, W, C) -> (N, strides H, strides W, filters).
    """

    def __init__(self, filters: int, strides: int = 1, last: bool = False, **kwargs):
        for key in ("kernel_size", "padding", "use_bias", "kernel_initializer", "output_padding"):
            kwargs.pop(key, None)  # in a saved layer's config
        padding = 1 if strides == 2 else 0
        options = {"padding": padding, "use_bias": False, "kernel_initializer": "glorot_uniform"}
        super().__init__(filters, 4, strides=strides, **options, **kwargs)
        self.last = last
        self.BatchNorm = batch_norm()

    def call(self, x, training=False):
        y = super().call(x)
        y = y if self.strides[0] == 2 else y[:, 1:-2, 1:-2]
        y = self.BatchNorm(y, training=training)
        return tf.sigmoid(y) if self.last else tf.nn.relu(y)


@keras.saving.register_keras_serializable("diptych", "prnet.ResBlock")
class ResBlock(keras.layers.Layer):
    """1x1, 4x4 and 1x1 convolution, the shortcut, normalisation, ReLU.

    Args:
        filters: width of the result, twice that of the middle.
        strides: of the 4x4 convolution.
        project: whether the shortcut is a convolution.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, filters: int, strides: int = 1, project: bool = False, **kwargs):
        super().__init__(**kwargs)
        plain = {"use_bias": False, "kernel_initializer": "glorot_uniform"}
        self.shortcut = Conv2D(filters, 1, strides=strides, **plain) if project else None
        self.Conv, self.Conv_1 = Conv(filters // 2, 1), Conv(filters // 2, 4, strides)
        self.Conv_2 = Conv2D(filters, 1, **plain)
        self.BatchNorm = batch_norm()

    def call(self, x, training=False):
        y = self.Conv_2(self.Conv_1(self.Conv(x, training=training), training=training))
        y = y + (x if self.shortcut is None else self.shortcut(x))
        return tf.nn.relu(self.BatchNorm(y, training=training))


@keras.saving.register_keras_serializable("diptych")
class ResFCN256(keras.layers.Layer):
    """Encoder and decoder.

    Args:
        base: width of the first convolution.

    x: (N, H, W, 3) -> the same; H and W multiples of 32.
    """

    def __init__(self, base: int = 16, **kwargs):
        super().__init__(**kwargs)
        self.Conv = Conv(base, 4)
        width = base
        for i, (factor, strides) in enumerate(DOWN):
            project = strides != 1 or width != factor * base
            width = factor * base
            setattr(self, name_of("resBlock", i), ResBlock(width, strides, project))
        for i, (factor, strides) in enumerate(UP):
            setattr(self, name_of("Conv2d_transpose", i), ConvTranspose(factor * base, strides))
        for i in range(LAST):
            setattr(self, name_of("Conv2d_transpose", len(UP) + i), ConvTranspose(3, last=i == LAST - 1))

    def call(self, x, training=False):
        x = self.Conv(x, training=training)
        for i in range(len(DOWN)):
            x = getattr(self, name_of("resBlock", i))(x, training=training)
        for i in range(len(UP) + LAST):
            x = getattr(self, name_of("Conv2d_transpose", i))(x, training=training)
        return x


@keras.saving.register_keras_serializable("diptych")
class PRNet(Model):
    """The network of the paper.

    Args:
        base: width of the first convolution.

    Inputs: (N, H, W, 3) float, RGB in [0, 1]; 256 x 256 as published, multiples of 32.
    Returns: (N, H, W, 3) in [0, 1], positions x, y, z divided by 1.1 times the size of the image.
    """

    def __init__(self, base: int = 16, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.resfcn256 = ResFCN256(base)

    def call(self, images, training=False):
        return self.resfcn256(images, training=training)


@keras.saving.register_keras_serializable("diptych")
class PRNetCriterion(keras.layers.Layer):
    """Weighted mean squared difference of the positions (equation 3).

    Inputs: ``outputs`` (N, H, W, 3); ``targets["positions"]`` (N, H, W, 3), ``targets["weight"]`` (N, H, W, 1): 16 for
        the 68 landmarks, 4 for eyes, nose and mouth, 3 for the rest of the face, 0 for the neck.
    Returns: dict of scalars: ``"weighted_mse"``, ``"total"`` (the same).
    """

    def call(self, outputs, targets):
        difference = tf.square(outputs - tf.cast(targets["positions"], outputs.dtype))
        loss = tf.reduce_mean(tf.cast(targets["weight"], outputs.dtype) * difference)
        return {"weighted_mse": loss, "total": loss}


def prnet(**options) -> PRNet:
    return PRNet(**options)
