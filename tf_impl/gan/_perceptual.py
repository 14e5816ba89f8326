"""The distance of two images in a classifier's features.

"Perceptual Losses for Real-Time Style Transfer and Super-Resolution", 2016, arXiv:1603.08155.

Mirror notes:
- Frozen: parameters without a gradient in PyTorch, a non-trainable layer in Keras.
"""

from collections.abc import Mapping

import keras
import tensorflow as tf

from tf_impl import state
from tf_impl.classification.vgg import vgg19

__all__ = ["PerceptualDistance"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


@keras.saving.register_keras_serializable("diptych")
class PerceptualDistance(keras.layers.Layer):
    """Weighted sum over layers of VGG-19 of the distance between two images' activations; the network is frozen.

    Args:
        layers: weight by layer index: 1, 6, 11, 20, 29 are the first ReLU of the stages, 34 and 35 the last
            convolution before and after its ReLU.
        distance: "l1" or "l2", the mean over all values.
        normalize: normalise images in [0, 1] by ImageNet's mean and deviation.
        widths: channels of the five stages.

    Inputs: ``images`` and ``others`` (N, H, W, 3); ``others`` without a gradient.
    Returns: scalar.
    Raises: ValueError if ``distance`` is unknown.
    """

    def __init__(
        self,
        layers: Mapping[int, float],
        distance: str = "l1",
        normalize: bool = True,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if distance not in ("l1", "l2"):
            raise ValueError(f"distance={distance!r} must be 'l1' or 'l2'")
        self.taps, self.distance, self.normalize = tuple(dict(layers).items()), distance, normalize
        self.vgg = state.build(vgg19(widths=widths, features_only=True))
        self.vgg.trainable = False  # mirror: Frozen

    def seen(self, images) -> dict:
        """Activations by layer index."""
        if self.normalize:
            images = (images - tf.constant(MEAN, images.dtype)) / tf.constant(STD, images.dtype)
        return self.vgg.activations(images, [layer for layer, _ in self.taps])

    def call(self, images, others):
        total = 0.0
        mine, theirs = self.seen(images), self.seen(tf.stop_gradient(others))
        for layer, weight in self.taps:
            difference = mine[layer] - theirs[layer]
            difference = tf.abs(difference) if self.distance == "l1" else tf.square(difference)
            total = total + weight * tf.reduce_mean(difference)
        return total
