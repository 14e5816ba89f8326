"""Common parts of the networks in darknet's configuration files: a list of layers that refer to each other by number.

Names: darknet ``cfg/*.cfg`` (public domain), as its converters to PyTorch write them, ``models.{i}`` for
layer i of the file, ``conv{n}`` and ``bn{n}`` for the n-th convolution: Tianxiaomo/pytorch-YOLOv4
``tool/darknet2pytorch.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch.
- A pooling of size 2 that keeps the size needs one more row and column: PyTorch pads the map, Keras has "same".
"""

import keras
import tensorflow as tf

from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import max_pool2d
from tf_impl.layers.resize import resize_nearest

__all__ = ["DarknetConv", "DarknetLayers", "reorganise"]


def reorganise(x, strides: int = 2):
    """darknet's reorganisation of a map into a smaller one with more channels, which is not space-to-depth.

    The values are read in a different order than they were written in: as if the map were larger with 1 / strides^2 of
    its channels. Published weights rely on this order.

    Args:
        x: (N, H, W, C); strides^2 divides C.

    Returns:
        (N, H / strides, W / strides, strides^2 C).

    Source: darknet ``src/blas.c``, ``reorg_cpu``.
    """
    _, h, w, c = x.shape
    y = tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (-1, c * h // strides**2, strides, w, strides))
    y = tf.reshape(tf.transpose(y, (0, 2, 4, 1, 3)), (-1, c * strides**2, h // strides, w // strides))
    return tf.transpose(y, (0, 2, 3, 1))


@keras.saving.register_keras_serializable("diptych")
class DarknetConv(keras.layers.Layer):
    """Convolution that keeps the size at stride 1; batch normalisation and leaky ReLU of slope 0.1, or a bias.

    Args:
        filters, kernel_size, strides: of the convolution.
        number: index of the convolution in the network, from 1.
        plain: no normalisation and no activation.

    Inputs: (N, H, W, C).  Returns: (N, H', W', filters).
    """

    def __init__(self, filters: int, kernel_size: int, strides: int, number: int, plain: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.number, self.plain = number, plain
        conv = Conv2D(filters, kernel_size, strides=strides, padding=kernel_size // 2, use_bias=plain)
        setattr(self, f"conv{number}", conv)
        if not plain:
            setattr(self, f"bn{number}", BatchNormalization())
            self.activation = LeakyReLU(0.1)

    def call(self, x, training=False):
        y = getattr(self, f"conv{self.number}")(x)
        return y if self.plain else self.activation(getattr(self, f"bn{self.number}")(y, training=training))


@keras.saving.register_keras_serializable("diptych")
class DarknetLayers(Model):
    """A network given as a list of rows, one per section of the configuration file.

    Args:
        rows: ("conv", width, kernel size, stride), with normalisation and leaky ReLU; ("plain", width), 1x1 with bias;
            ("max", size, stride); ("route", numbers), several layers' maps concatenated, negative numbers count back;
            ("shortcut", number), the sum with that layer's map; ("upsample",); ("reorg",); ("out",), the preceding map
            is a result.
        in_chans: channels of the image.

    Inputs: (N, H, W, in_chans) float.
    Returns: list of the results, in the order of the rows.
    """

    def __init__(self, rows: tuple[tuple, ...], in_chans: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        self.rows, models, number = tuple(rows), [], 0
        for kind, *values in rows:
            layer = keras.layers.Identity()
            if kind in ("conv", "plain"):
                number += 1
                size = values[1:] if kind == "conv" else (1, 1)
                layer = DarknetConv(values[0], *size, number, kind == "plain")
            models.append(layer)
        self.models = models

    def call(self, images, training=False):
        x, maps, results = images, [], []
        for i, (kind, *values) in enumerate(self.rows):
            if kind == "max":
                size, strides = values
                if strides == 1 and size == 2:
                    x = tf.nn.max_pool2d(x, 2, 1, "SAME")  # mirror: keeps the size
                else:
                    x = max_pool2d(x, size, strides, size // 2 if strides == 1 else 0)
            elif kind == "route":
                x = tf.concat([maps[j if j >= 0 else i + j] for j in values[0]], -1)
            elif kind == "shortcut":
                x = x + maps[i + values[0]]
            elif kind == "upsample":
                x = resize_nearest(x, (2 * x.shape[1], 2 * x.shape[2]))
            elif kind == "reorg":
                x = reorganise(x)
            elif kind == "out":
                results.append(x)
            else:
                x = self.models[i](x, training=training)
            maps.append(x)
        return results
