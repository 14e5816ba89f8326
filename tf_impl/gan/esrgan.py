"""ESRGAN: SRGAN with dense blocks inside residual ones, and a discriminator that judges which of two images is more
real.

"ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks", 2018, arXiv:1809.00219.
Parameter names: xinntao/BasicSR ``rrdbnet_arch.py`` (Apache-2.0); those of the first release are renamed.
What to look at: both players compare with the mean of the other class, so the generator sees the real images too.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- A training step needs gradients of two losses: two tapes here, two calls of ``lower`` in PyTorch.
"""

import functools
from collections.abc import Mapping

import keras
import tensorflow as tf

from tf_impl.gan._perceptual import PerceptualDistance
from tf_impl.gan.srgan import CONV, SRGAN, Discriminator128, SuperResolutionCriterion, SuperResolutionPostProcess
from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.resize import map_size, resize_nearest
from tf_impl.losses.adversarial import adversarial_loss
from tf_impl.training.moving_average import MovingAverage
from tf_impl.training.optimizers import Adam
from tf_impl.training.players import Player

__all__ = [
    "ESRGANCriterion",
    "ESRGANTrainer",
    "RRDBNet",
    "SuperResolutionCriterion",
    "SuperResolutionPostProcess",
    "blend",
    "esrgan",
    "rrdbnet_x4",
    "rrdbnet_x4_b16",
]

RESIDUAL = 0.2  # of every residual branch (section 3.1)
SLOPE = 0.2


@keras.saving.register_keras_serializable("diptych")
class ResidualDenseBlock(keras.layers.Layer):
    """Five convolutions, each over all maps before it.  x: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, filters: int, growth: int, **kwargs):
        super().__init__(**kwargs)
        for i in range(1, 6):
            setattr(self, f"conv{i}", CONV(growth if i < 5 else filters, 3, padding=1))
        self.lrelu = LeakyReLU(SLOPE)

    def call(self, x):
        maps = x
        for i in range(1, 5):
            maps = tf.concat((maps, self.lrelu(getattr(self, f"conv{i}")(maps))), -1)
        return x + RESIDUAL * self.conv5(maps)


@keras.saving.register_keras_serializable("diptych")
class RRDB(keras.layers.Layer):
    """Residual in residual: three dense blocks and the input.  x: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, filters: int, growth: int, **kwargs):
        super().__init__(**kwargs)
        self.rdb1 = ResidualDenseBlock(filters, growth)
        self.rdb2 = ResidualDenseBlock(filters, growth)
        self.rdb3 = ResidualDenseBlock(filters, growth)

    def call(self, x):
        return x + RESIDUAL * self.rdb3(self.rdb2(self.rdb1(x)))


@keras.saving.register_keras_serializable("diptych")
class RRDBNet(Model):
    """The generator (figures 3 and 4), which enlarges fourfold.

    Args:
        blocks: residual-in-residual blocks.
        width: channels.
        growth: channels that each convolution of a dense block adds.

    Inputs: (N, H, W, 3) in [0, 1].
    Returns: (N, 4H, 4W, 3).
    """

    def __init__(self, blocks: int = 23, width: int = 64, growth: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.conv_first = Conv2D(width, 3, padding=1)
        self.body = keras.Sequential([RRDB(width, growth) for _ in range(blocks)])
        self.conv_body = Conv2D(width, 3, padding=1)
        self.conv_up1 = Conv2D(width, 3, padding=1)
        self.conv_up2 = Conv2D(width, 3, padding=1)
        self.conv_hr = Conv2D(width, 3, padding=1)
        self.conv_last = Conv2D(3, 3, padding=1)
        self.lrelu = LeakyReLU(SLOPE)

    def call(self, lr, training=False):
        x = self.conv_first(lr)
        x = x + self.conv_body(self.body(x))
        for conv in (self.conv_up1, self.conv_up2):
            x = self.lrelu(conv(resize_nearest(x, [2 * n for n in map_size(x)])))
        return self.conv_last(self.lrelu(self.conv_hr(x)))


@keras.saving.register_keras_serializable("diptych")
class ESRGANCriterion(keras.layers.Layer):
    """Both players' losses (equations 1 to 3).

    Args:
        pixel, content, adversarial: weights of the generator's parts; without a content weight there is no classifier.
        widths: channels of VGG-19's stages; its last convolution is used before the ReLU.

    Inputs: ``outputs`` of :class:`SRGAN`; ``targets["hr"]``, the real images.
    Returns: dict of scalars: ``"G_pixel"``, ``"G_content"``, ``"G_gan"``, all weighted, their sum ``"G"``;
        ``"D_real"``, ``"D_fake"``, their sum ``"D"``; ``"total"``, the sum of ``"G"`` and ``"D"``, which a training
        step lowers in turn.
    """

    def __init__(
        self,
        pixel: float = 0.01,
        content: float = 1.0,
        adversarial: float = 5e-3,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.pixel, self.adversarial = pixel, adversarial
        self.content = PerceptualDistance({34: content}, widths=widths) if content else None

    def generator(self, D_real, D_fake, sr, hr) -> dict:
        """The generator's loss; the answers on real images are constants."""
        D_real = tf.stop_gradient(D_real)
        real = adversarial_loss(D_real - tf.reduce_mean(D_fake), False)
        fake = adversarial_loss(D_fake - tf.reduce_mean(D_real), True)
        losses = {"G_pixel": self.pixel * tf.reduce_mean(tf.abs(sr - hr))}
        losses |= {"G_content": self.content(sr, hr)} if self.content else {}
        losses["G_gan"] = self.adversarial * 0.5 * (real + fake)
        return {**losses, "G": sum(losses.values())}

    def discriminator(self, D_real, D_fake) -> dict:
        """The discriminator's loss; each class is compared with the constant mean of the other."""
        real = 0.5 * adversarial_loss(D_real - tf.stop_gradient(tf.reduce_mean(D_fake)), True)
        fake = 0.5 * adversarial_loss(D_fake - tf.stop_gradient(tf.reduce_mean(D_real)), False)
        return {"D_real": real, "D_fake": fake, "D": real + fake}

    def call(self, outputs, targets):
        losses = self.generator(outputs["D_real"], outputs["D_fake"], outputs["sr"], targets["hr"])
        losses |= self.discriminator(outputs["D_real"], outputs["D_fake"])
        return {**losses, "total": losses["G"] + losses["D"]}


class ESRGANTrainer:
    """Alternating training: the generator against the old discriminator, then the discriminator on the same images.

    Args:
        model: of :func:`esrgan`.
        criterion: its losses.
        learning_rate, betas: of both players' Adam.
        momentum: of the generator's ``average``.
    """

    def __init__(
        self,
        model,
        criterion,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.999,
    ):
        self.model, self.criterion = model, criterion
        adam = functools.partial(Adam, lr=learning_rate, betas=betas)
        self.generator = Player({"netG": model.netG}, adam)
        self.discriminator = Player({"netD": model.netD}, adam)
        self.average = MovingAverage(model.netG, momentum)

    @property
    def gradients(self) -> dict:
        """Gradients of the last step by name: ``netG.*`` from the loss ``"G"``, ``netD.*`` from ``"D"``."""
        return {**self.generator.gradients, **self.discriminator.gradients}

    def step(self, inputs, targets) -> dict:
        """One step of each player from the images ``"lr"`` and ``"hr"``; the losses as each saw them."""
        hr, netD = inputs["hr"], functools.partial(self.model.netD, training=True)
        with tf.GradientTape() as tape:  # mirror: two tapes
            sr = self.model.netG(inputs["lr"], training=True)
            losses = self.criterion.generator(netD(hr), netD(sr), sr, hr)
        self.generator.lower(losses["G"], tape)
        netD(sr)  # NOTE: the reference evaluates them once more, which moves the running statistics
        with tf.GradientTape() as tape:
            losses |= self.criterion.discriminator(netD(hr), netD(sr))
        self.discriminator.lower(losses["D"], tape)
        self.average.update()
        return {**losses, "total": losses["G"] + losses["D"]}


def blend(first: Mapping, second: Mapping, share: float) -> dict:
    """Interpolate the weights of two networks (section 3.4): (1 - share) first + share second.

    Args:
        first, second: arrays by name, as in ``state_dict``; the network trained for pixels comes first.
        share: of the second, in [0, 1].
    """
    return {name: (1 - share) * value + share * second[name] for name, value in first.items()}


def rrdbnet_x4(blocks=23, **options) -> RRDBNet:
    return RRDBNet(blocks=blocks, **options)


def rrdbnet_x4_b16(blocks=16, **options) -> RRDBNet:
    return RRDBNet(blocks=blocks, **options)


def esrgan(blocks=23, width=64, growth=32, size=128, D_width=64, hidden=100) -> SRGAN:
    generator = RRDBNet(blocks=blocks, width=width, growth=growth)
    return SRGAN(generator, Discriminator128(size=size, width=D_width, hidden=hidden))
