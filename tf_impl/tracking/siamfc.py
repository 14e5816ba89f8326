"""SiamFC: one correlation of two maps finds where in a frame the object of the first frame is.

"Fully-Convolutional Siamese Networks for Object Tracking", 2016, arXiv:1606.09549. Parameter names and numbers:
huanglianghua/siamfc-pytorch ``siamfc`` (MIT). What to look at: nothing is padded, so every cell of the response
corresponds to the same offset everywhere; the loop over frames, which needs no tensors, is
``weights/processing/tracking/siamfc.py``.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Normalisation has epsilon 1e-6 and momentum 0.95 (0.05 in PyTorch).
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.cross_correlation import cross_correlation
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization

__all__ = [
    "AlexNet",
    "SiamFC",
    "SiamFCCriterion",
    "siamfc_alexnet_v1",
    "siamfc_alexnet_v2",
    "siamfc_alexnet_v3",
]


@keras.saving.register_keras_serializable("diptych", "siamfc.Convolution")
class Convolution(Conv2D):
    """:class:`Conv2D`, whose bias is added like any other tensor.

    Graphs fuse a convolution with ``tf.nn.bias_add``, and with groups the fused kernel does not run.
    """

    def call(self, inputs):
        return self.convolution_op(inputs, self.kernel) + tf.convert_to_tensor(self.bias)


CONV = functools.partial(Convolution, kernel_initializer="glorot_uniform", bias_initializer="zeros")


def batch_norm():
    return BatchNormalization(epsilon=1e-6, momentum=0.95)  # mirror: epsilon 1e-6


@keras.saving.register_keras_serializable("diptych", "siamfc.AlexNet")
class AlexNet(keras.layers.Layer):
    """The trunk: five convolutions without padding.

    Args:
        channels: of the convolutions.
        groups: of the convolutions.
        pool_strides: of the two poolings.
        last_norm: whether the last convolution is normalised, too.

    x: (N, H, W, 3) -> (N, H', W', channels[-1]).
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (96, 256, 384, 384, 256),
        groups: tuple[int, ...] = (1, 2, 1, 2, 2),
        pool_strides: tuple[int, int] = (2, 2),
        last_norm: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for i, (filters, count) in enumerate(zip(channels, groups, strict=True), start=1):
            size, strides = {1: (11, 2), 2: (5, 1)}.get(i, (3, 1))
            layers = [CONV(filters, size, strides=strides, groups=count)]
            if i < 5:
                layers += [batch_norm(), keras.layers.ReLU()]
            elif last_norm:
                layers.append(batch_norm())
            if i < 3:
                layers.append(keras.layers.MaxPooling2D(3, pool_strides[i - 1]))
            setattr(self, f"conv{i}", keras.Sequential(layers))

    def call(self, x, training=False):
        for i in range(1, 6):
            x = getattr(self, f"conv{i}")(x, training=training)
        return x


@keras.saving.register_keras_serializable("diptych")
class SiamFC(Model):
    """The tracker's network.

    Args:
        channels, groups, pool_strides, last_norm: of the trunk.
        out_scale: of the response.

    Inputs: ``exemplar`` (N, 127, 127, 3), ``search`` (N, 255, 255, 3) float, RGB in 0 to 255.
    Returns: (N, 17, 17, 1), the response.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (96, 256, 384, 384, 256),
        groups: tuple[int, ...] = (1, 2, 1, 2, 2),
        pool_strides: tuple[int, int] = (2, 2),
        last_norm: bool = False,
        out_scale: float = 0.001,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.out_scale = out_scale
        self.backbone = AlexNet(channels, groups, pool_strides, last_norm)

    def template(self, exemplar, training=False):
        """The features of the object in the first frame: (N, h, w, C)."""
        return self.backbone(exemplar, training=training)

    def track(self, template, search, training=False):
        """The response (N, H', W', 1) of a later frame."""
        x = self.backbone(search, training=training)
        return cross_correlation(x, template[..., None]) * self.out_scale

    def call(self, exemplar, search, training=False):
        return self.track(self.template(exemplar, training), search, training)


@keras.saving.register_keras_serializable("diptych")
class SiamFCCriterion(keras.layers.Layer):
    """Cross-entropy of the response, where both kinds of cells have the same total weight.

    Args:
        neg_weight: of all cells without the object relative to all with it.

    Inputs: ``outputs`` (N, H, W, 1); ``targets["labels"]`` (N, H, W, 1): 1 the object, 0 background, others are
        ignored; see ``weights/processing/tracking/targets.py``.
    Returns: dict of scalars: ``"balanced"``, ``"total"`` (the same).
    """

    def __init__(self, neg_weight: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.neg_weight = neg_weight

    def call(self, outputs, targets):
        labels = tf.cast(targets["labels"], outputs.dtype)
        positive, negative = (tf.cast(labels == value, outputs.dtype) for value in (1, 0))
        weight = positive / tf.maximum(tf.reduce_sum(positive), 1.0)
        weight = weight + self.neg_weight * negative / tf.maximum(tf.reduce_sum(negative), 1.0)
        losses = tf.nn.relu(outputs) - outputs * positive + tf.nn.softplus(-tf.abs(outputs))
        loss = tf.reduce_sum(losses * weight) / tf.reduce_sum(weight)
        return {"balanced": loss, "total": loss}


def siamfc_alexnet_v1(**options) -> SiamFC:
    return SiamFC(**options)


def siamfc_alexnet_v2(channels=(96, 256, 384, 384, 32), pool_strides=(2, 1), **options) -> SiamFC:
    return SiamFC(channels, pool_strides=pool_strides, **options)


def siamfc_alexnet_v3(channels=(192, 512, 768, 768, 512), groups=(1, 1, 1, 1, 1), last_norm=True, **options) -> SiamFC:
    return SiamFC(channels, groups, last_norm=last_norm, **options)
