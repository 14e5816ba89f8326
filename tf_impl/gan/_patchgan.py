"""Common parts of pix2pix and CycleGAN: patch discriminators, losses of one network, initial values.

Parameter names: junyanz/pytorch-CycleGAN-and-pix2pix ``models/networks.py`` (BSD-2-Clause).

Mirror notes:
- Keras gives initial values to constructors; PyTorch fills the tensors of a finished network.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2D, Conv2DTranspose
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization, InstanceNormalization
from tf_impl.losses.adversarial import adversarial_loss

__all__ = [
    "NLayerDiscriminator",
    "PatchCriterion",
    "PixelDiscriminator",
    "ReconstructionCriterion",
    "TranslationPostProcess",
    "linear_decay",
    "norm_layer",
]


@keras.saving.register_keras_serializable("diptych")
class Normal002(keras.initializers.RandomNormal):
    """Normal(0, 0.02). A layer that receives the class makes its own values."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.02, seed=None):
        super().__init__(mean, stddev, seed)


@keras.saving.register_keras_serializable("diptych")
class Normal1002(Normal002):
    """Normal(1, 0.02)."""

    def __init__(self, mean: float = 1.0, stddev: float = 0.02, seed=None):
        super().__init__(mean, stddev, seed)


conv = functools.partial(Conv2D, kernel_initializer=Normal002, bias_initializer="zeros")  # mirror: initial values
conv_transpose = functools.partial(Conv2DTranspose, kernel_initializer=Normal002, bias_initializer="zeros")
NORMS = {
    "batch": functools.partial(BatchNormalization, gamma_initializer=Normal1002),
    "instance": InstanceNormalization,
    "none": keras.layers.Identity,
}


def norm_layer(norm: str):
    """A normalisation by name, and whether the convolution before it has a bias: only with instance normalisation."""
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} must be one of {sorted(NORMS)}")
    return NORMS[norm], norm == "instance"


@keras.saving.register_keras_serializable("diptych")
class NLayerDiscriminator(Model):
    """PatchGAN: a logit for every overlapping patch; 70 pixels wide for three layers (arXiv:1611.07004, section 6.1.2).

    Args:
        in_chans: channels of the image, or of both images concatenated.
        width: channels of the first layer; doubled up to eightfold.
        layers: convolutions of stride 2.
        norm: "batch", "instance" or "none".

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, H', W', 1); 30 x 30 for three layers and 256 pixels.
    """

    def __init__(self, in_chans: int = 6, width: int = 64, layers: int = 3, norm: str = "batch", **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        make_norm, use_bias = norm_layer(norm)
        model = [conv(width, 4, strides=2, padding=1), LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            strides = 2 if i < layers else 1
            model += [conv(width * min(2**i, 8), 4, strides=strides, padding=1, use_bias=use_bias)]
            model += [make_norm(), LeakyReLU(0.2)]
        model += [conv(1, 4, padding=1)]
        self.model = keras.Sequential(model)

    def call(self, images, training=False):
        return self.model(images, training=training)


@keras.saving.register_keras_serializable("diptych")
class PixelDiscriminator(Model):
    """PixelGAN: a separate logit for every pixel.

    Args:
        in_chans: channels of both images concatenated.
        width: channels of the first layer.
        norm: "batch" or "instance".

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, H, W, 1).
    """

    def __init__(self, in_chans: int = 6, width: int = 64, norm: str = "batch", **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        make_norm, use_bias = norm_layer(norm)
        self.net = keras.Sequential(
            [
                conv(width, 1),
                LeakyReLU(0.2),
                conv(2 * width, 1, use_bias=use_bias),
                make_norm(),
                LeakyReLU(0.2),
                conv(1, 1, use_bias=use_bias),
            ]
        )

    def call(self, images, training=False):
        return self.net(images, training=training)


@keras.saving.register_keras_serializable("diptych")
class ReconstructionCriterion(keras.layers.Layer):
    """The distance of a generator's images to the real ones, as its only loss.

    Args:
        weight: factor of the mean absolute difference.

    Inputs: ``outputs`` (N, H, W, 3); ``targets["B"]``, the real images.
    Returns: dict of scalars: ``"l1"``, ``"total"``.
    """

    def __init__(self, weight: float = 100.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, outputs, targets):
        l1 = self.weight * tf.reduce_mean(tf.abs(outputs - targets["B"]))
        return {"l1": l1, "total": l1}


@keras.saving.register_keras_serializable("diptych")
class PatchCriterion(keras.layers.Layer):
    """A discriminator's loss on images that are all real.

    Args:
        mode: see :func:`adversarial_loss`.

    Inputs: ``outputs``, logits (N, H', W', 1); no targets.
    Returns: dict of scalars: ``"real"``, ``"total"``.
    """

    def __init__(self, mode: str = "vanilla", **kwargs):
        super().__init__(**kwargs)
        self.mode = mode

    def call(self, outputs, targets):
        real = adversarial_loss(outputs, True, self.mode)
        return {"real": real, "total": real}


@keras.saving.register_keras_serializable("diptych")
class TranslationPostProcess(keras.layers.Layer):
    """Images with values for display.

    Inputs: ``outputs`` of a generator, or of a model that returns it under ``"fake_B"``, in [-1, 1].
    Returns: dict: ``"images"`` (N, H, W, 3) float in [0, 255].
    """

    def call(self, outputs):
        images = outputs["fake_B"] if isinstance(outputs, dict) else outputs
        return {"images": (images + 1) * 127.5}


def linear_decay(epoch: int, constant: int = 100, decay: int = 100) -> float:
    """Factor of the learning rate in an epoch counted from 0: 1 for ``constant`` epochs, then linear to 0."""
    return 1.0 - max(0, epoch + 1 - constant) / (decay + 1)
