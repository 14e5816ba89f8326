"""SqueezeNet: layers that first squeeze the channels, then expand them by parallel 1x1 and 3x3 kernels.

"SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016, arXiv:1602.07360.
Parameter names: torchvision ``models/squeezenet.py`` (BSD-3).

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Max pooling keeps a last window that crosses the border; padding for it is explicit in TensorFlow.
- Dropout follows the framework's own generator.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.backbone import Backbone
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingUniform, SmallNormal
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "Fire",
    "SqueezeNet",
    "squeezenet1_0",
    "squeezenet1_1",
]

CONV = functools.partial(Conv2D, kernel_initializer=KaimingUniform, bias_initializer="zeros")


@keras.saving.register_keras_serializable("diptych")
class Fire(keras.layers.Layer):
    """1x1 squeeze, then 1x1 and 3x3 expansions of the same input, concatenated in this order (section 3.2).

    Args:
        squeeze: width of the squeeze; each expansion is four times as wide.

    x: (N, H, W, C) -> (N, H, W, 8 squeeze).
    """

    def __init__(self, squeeze: int, **kwargs):
        super().__init__(**kwargs)
        self.squeeze = CONV(squeeze, 1)
        self.expand1x1 = CONV(4 * squeeze, 1)
        self.expand3x3 = CONV(4 * squeeze, 3, padding=1)

    def call(self, x):
        x = tf.nn.relu(self.squeeze(x))
        return tf.nn.relu(tf.concat((self.expand1x1(x), self.expand3x3(x)), -1))


@keras.saving.register_keras_serializable("diptych")
class SqueezeNet(Backbone):
    """The classifier.

    Args:
        stem: channels and kernel size of the first convolution.
        stages: squeeze widths of the Fire blocks of each stage; a pooling begins each.
        num_classes: classes K.
        in_chans: channels of the image.
        dropout: rate before the classifier.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16 (0 to 3) are returned with ``features_only``.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K), not negative; with ``features_only`` a dict of maps ``"c1"``, ``"c2"``, ...
    """

    def __init__(
        self,
        stem: tuple[int, int],
        stages: tuple[tuple[int, ...], ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        dropout: float = 0.5,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        features = [CONV(*stem, strides=2), keras.layers.ReLU()]
        self.stage_ends = [1]  # index of the last block at each stride
        for widths in stages:
            features.append(MaxPooling2D(3, 2, ceil_mode=True))  # mirror: Max pooling keeps
            for squeeze in widths:
                features.append(Fire(squeeze))
            self.stage_ends.append(len(features) - 1)
        self.features = features
        if not features_only:
            # mirror: Dropout follows
            self.classifier = keras.Sequential(
                [keras.layers.Dropout(dropout), CONV(num_classes, 1, kernel_initializer=SmallNormal)]
            )
        self.freeze(False, frozen_stages)

    def call(self, images, training=False):
        if self.features_only:
            return self.forward_features(images, training)
        x = images
        for block in self.features:
            x = block(x)
        return tf.reduce_mean(tf.nn.relu(self.classifier(x, training=training)), (1, 2))  # mirror: NHWC


def squeezenet1_0(stem=(96, 7), stages=((16, 16, 32), (32, 48, 48, 64), (64,)), **options) -> SqueezeNet:
    return SqueezeNet(stem=stem, stages=stages, **options)


def squeezenet1_1(stem=(64, 3), stages=((16, 16), (32, 32), (48, 48, 64, 64)), **options) -> SqueezeNet:
    return SqueezeNet(stem=stem, stages=stages, **options)
