"""SRGAN: enlarge images so that they pass for photographs in a classifier's deep layers and to a discriminator.

"Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network", 2016, arXiv:1609.04802.
Parameter names: Lornatang/SRGAN-PyTorch ``model.py`` (Apache-2.0); xinntao/BasicSR ``srresnet_arch.py`` and
``discriminator_arch.py`` (Apache-2.0) for ``MSRResNet`` and ``Discriminator128``; leftthomas/SRGAN (MIT) for
``PooledDiscriminator``.
What to look at: images are only enlarged at the very end, where channels become pixels.

Mirror notes:
- NHWC here, NCHW in PyTorch; a dense kernel expects the map before it in the order C, H, W.
- A training step needs gradients of two losses: two tapes here, two calls of ``lower`` in PyTorch.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.gan._perceptual import PerceptualDistance
from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization, InstanceNormalization
from tf_impl.layers.pixel_shuffle import PixelShuffle, pixel_shuffle
from tf_impl.layers.pooling import AdaptiveAveragePooling2D
from tf_impl.layers.prelu import PReLU
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.adversarial import adversarial_loss, gradient_penalty, interpolate
from tf_impl.training.moving_average import MovingAverage
from tf_impl.training.optimizers import Adam
from tf_impl.training.players import Player
from tf_impl.training.rmsprop import RMSprop

__all__ = [
    "SRGAN",
    "Discriminator96",
    "Discriminator128",
    "MSRResNet",
    "PooledDiscriminator",
    "RealImagesCriterion",
    "SRGANCriterion",
    "SRGANTrainer",
    "SRResNet",
    "SuperResolutionCriterion",
    "SuperResolutionPostProcess",
    "discriminator_96",
    "discriminator_128",
    "discriminator_pooled",
    "msrresnet_x2",
    "msrresnet_x3",
    "msrresnet_x4",
    "srgan",
    "srgan_basicsr",
    "srresnet_x2",
    "srresnet_x4",
    "srresnet_x8",
]

NORMS = {"batch": BatchNormalization, "instance": InstanceNormalization, "none": None}
OUTPUTS = {
    "clamp": lambda x: tf.clip_by_value(x, 0, 1),  # no gradient outside
    "tanh": lambda x: (tf.tanh(x) + 1) / 2,
    "linear": lambda x: x,
}


def norm_layer(norm: str):
    """A normalisation by name, and whether a convolution needs a bias, which normalisation makes superfluous."""
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} must be one of {sorted(NORMS)}")
    return NORMS[norm], norm == "none"


def flat(x):
    """(N, H, W, C) -> (N, C H W), in this order."""
    x = tf.transpose(x, (0, 3, 1, 2))  # mirror: in the order C, H, W
    return tf.reshape(x, (-1, x.shape[1] * x.shape[2] * x.shape[3]))


@keras.saving.register_keras_serializable("diptych")
class SmallKaimingNormal(keras.initializers.VarianceScaling):
    """A tenth of a normal with variance 2 / fan_in. A layer that receives the class makes its own values."""

    def __init__(self, seed=None):
        super().__init__(0.02, "fan_in", "untruncated_normal", seed)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


CONV = functools.partial(Conv2D, kernel_initializer=SmallKaimingNormal, bias_initializer="zeros")


@keras.saving.register_keras_serializable("diptych")
class ResidualConvBlock(keras.layers.Layer):
    """Two normalised convolutions and the input.  x: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, filters: int, use_bias: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.rcb = keras.Sequential(
            [
                Conv2D(filters, 3, padding=1, use_bias=use_bias),
                BatchNormalization(),
                PReLU(),
                Conv2D(filters, 3, padding=1, use_bias=use_bias),
                BatchNormalization(),
            ]
        )

    def call(self, x, training=False):
        return x + self.rcb(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class UpsampleBlock(keras.layers.Layer):
    """Doubling of the size, from four times the channels.  x: (N, H, W, C) -> (N, 2H, 2W, C)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.upsample_block = keras.Sequential([Conv2D(4 * filters, 3, padding=1), PixelShuffle(2), PReLU()])

    def call(self, x):
        return self.upsample_block(x)


@keras.saving.register_keras_serializable("diptych")
class SRResNet(Model):
    """The generator (figure 4).

    Args:
        scale: 2, 4 or 8.
        blocks: residual blocks.
        width: channels.
        bias: whether the convolutions before a normalisation have a bias.
        output: "clamp" clips the result to [0, 1]; "tanh" is (tanh(x) + 1) / 2; "linear" leaves it unchanged.

    Inputs: (N, H, W, 3) in [0, 1].
    Returns: (N, scale H, scale W, 3).
    """

    def __init__(
        self,
        scale: int = 4,
        blocks: int = 16,
        width: int = 64,
        bias: bool = False,
        output: str = "clamp",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        if scale not in (2, 4, 8):
            raise ValueError(f"scale={scale} must be 2, 4 or 8")
        if output not in OUTPUTS:
            raise ValueError(f"output={output!r} must be one of {sorted(OUTPUTS)}")
        self.output_range = output
        self.conv1 = keras.Sequential([Conv2D(width, 9, padding=4), PReLU()])
        self.trunk = keras.Sequential([ResidualConvBlock(width, bias) for _ in range(blocks)])
        self.conv2 = keras.Sequential([Conv2D(width, 3, padding=1, use_bias=bias), BatchNormalization()])
        self.upsampling = keras.Sequential([UpsampleBlock(width) for _ in range(scale.bit_length() - 1)])
        self.conv3 = Conv2D(3, 9, padding=4)

    def call(self, lr, training=False):
        x = self.conv1(lr)
        x = x + self.conv2(self.trunk(x, training=training), training=training)
        return OUTPUTS[self.output_range](self.conv3(self.upsampling(x)))


@keras.saving.register_keras_serializable("diptych")
class PlainResidualBlock(keras.layers.Layer):
    """Two convolutions and the input, without normalisation.  x: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = CONV(filters, 3, padding=1)
        self.conv2 = CONV(filters, 3, padding=1)

    def call(self, x):
        return x + self.conv2(tf.nn.relu(self.conv1(x)))


@keras.saving.register_keras_serializable("diptych")
class MSRResNet(Model):
    """The generator without normalisation, which adds to the bilinearly upsampled image.

    Args:
        scale: 2, 3 or 4.
        blocks: residual blocks.
        width: channels.

    Inputs: (N, H, W, 3) in [0, 1].
    Returns: (N, scale H, scale W, 3).
    """

    def __init__(self, scale: int = 4, blocks: int = 16, width: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        if scale not in (2, 3, 4):
            raise ValueError(f"scale={scale} must be 2, 3 or 4")
        self.scale, self.step = scale, 2 if scale == 4 else scale
        self.conv_first = CONV(width, 3, padding=1)
        self.body = keras.Sequential([PlainResidualBlock(width) for _ in range(blocks)])
        self.upconv1 = CONV(width * self.step**2, 3, padding=1)
        if scale == 4:
            self.upconv2 = CONV(width * 4, 3, padding=1)
        self.conv_hr = CONV(width, 3, padding=1)
        self.conv_last = CONV(3, 3, padding=1)
        self.lrelu = LeakyReLU(0.1)

    def call(self, lr, training=False):
        x = self.body(self.lrelu(self.conv_first(lr)))
        x = self.lrelu(pixel_shuffle(self.upconv1(x), self.step))
        if self.scale == 4:
            x = self.lrelu(pixel_shuffle(self.upconv2(x), 2))
        x = self.conv_last(self.lrelu(self.conv_hr(x)))
        return x + resize_bilinear(lr, [n * self.scale for n in map_size(lr)])


@keras.saving.register_keras_serializable("diptych")
class Discriminator96(Model):
    """The discriminator of 96 pixels: the size is halved and the channels doubled in turn (figure 4).

    Args:
        size: height and width of the images, a multiple of 16.
        width: channels of the first layer.
        norm: "batch", "instance" or "none"; batch normalisation would mix the images of a gradient penalty.
        hidden: width of the layer before the last.

    Inputs: (N, size, size, 3) in [0, 1].
    Returns: logits (N, 1).
    """

    def __init__(self, size: int = 96, width: int = 64, norm: str = "batch", hidden: int = 1024, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(shape=(None, size, size, 3))
        make_norm, use_bias = norm_layer(norm)
        features = [Conv2D(width, 3, padding=1), LeakyReLU(0.2)]
        for factor, strides in ((1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)):
            features.append(Conv2D(width * factor, 3, strides=strides, padding=1, use_bias=use_bias))
            features += [make_norm()] if make_norm else []
            features.append(LeakyReLU(0.2))
        self.features = keras.Sequential(features)
        self.classifier = keras.Sequential([Dense(hidden), LeakyReLU(0.2), Dense(1)])

    def call(self, images, training=False):
        return self.classifier(flat(self.features(images, training=training)))


@keras.saving.register_keras_serializable("diptych")
class Discriminator128(Model):
    """The discriminator of 128 pixels (BasicSR): a 4x4 kernel where the size is halved.

    Args:
        size: height and width of the images, a multiple of 32.
        width: channels of the first layer.
        norm: "batch", "instance" or "none".
        hidden: width of the layer before the last.

    Inputs: (N, size, size, 3) in [0, 1].
    Returns: logits (N, 1).
    """

    def __init__(self, size: int = 128, width: int = 64, norm: str = "batch", hidden: int = 100, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(shape=(None, size, size, 3))
        make_norm, use_bias = norm_layer(norm)
        self.norm = norm
        for i, factor in enumerate((1, 2, 4, 8, 8)):
            setattr(self, f"conv{i}_0", Conv2D(width * factor, 3, padding=1, use_bias=use_bias or i == 0))
            if make_norm and i:
                setattr(self, f"bn{i}_0", make_norm())
            setattr(self, f"conv{i}_1", Conv2D(width * factor, 4, strides=2, padding=1, use_bias=use_bias))
            if make_norm:
                setattr(self, f"bn{i}_1", make_norm())
        self.linear1 = Dense(hidden)
        self.linear2 = Dense(1)
        self.lrelu = LeakyReLU(0.2)

    def call(self, images, training=False):
        x = images
        for i in range(5):
            for j in range(2):
                x = getattr(self, f"conv{i}_{j}")(x)
                if self.norm != "none" and i + j:
                    x = getattr(self, f"bn{i}_{j}")(x, training=training)
                x = self.lrelu(x)
        return self.linear2(self.lrelu(self.linear1(flat(x))))


@keras.saving.register_keras_serializable("diptych")
class PooledDiscriminator(Model):
    """A discriminator for images of any size: the last map is averaged (leftthomas).

    Args:
        width: channels of the first layer.

    Inputs: (N, H, W, 3) in [0, 1].
    Returns: probabilities (N,) of being real.
    """

    def __init__(self, width: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        net = [Conv2D(width, 3, padding=1), LeakyReLU(0.2)]
        for factor, strides in ((1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)):
            net += [Conv2D(width * factor, 3, strides=strides, padding=1), BatchNormalization(), LeakyReLU(0.2)]
        net += [AdaptiveAveragePooling2D(1), Conv2D(16 * width, 1), LeakyReLU(0.2), Conv2D(1, 1)]
        self.net = keras.Sequential(net)

    def call(self, images, training=False):
        return tf.sigmoid(tf.reshape(self.net(images, training=training), (-1,)))


@keras.saving.register_keras_serializable("diptych")
class SRGAN(Model):
    """Generator ``netG`` and discriminator ``netD``.

    Args:
        generator, discriminator: the networks.

    Inputs: ``lr`` (N, H, W, 3), ``hr`` (N, sH, sW, 3) in [0, 1]; for a gradient penalty also ``mix`` (N,) in [0, 1],
        the share of the real image in each mixture.
    Returns: dict: ``"sr"`` (N, sH, sW, 3); logits (N, 1) ``"D_real"``, ``"D_fake"`` and, with ``mix``, ``"D_mix"``.
    """

    def __init__(self, generator, discriminator, **kwargs):
        super().__init__(**kwargs)
        self.netG, self.netD = generator, discriminator

    def call(self, lr, hr, mix=None, training=False):
        netD = functools.partial(self.netD, training=training)
        sr = self.netG(lr, training=training)
        outputs = {"sr": sr, "D_real": netD(hr), "D_fake": netD(sr)}
        if mix is not None:
            outputs["D_mix"] = netD(interpolate(hr, sr, mix))
        return outputs


@keras.saving.register_keras_serializable("diptych")
class SuperResolutionCriterion(keras.layers.Layer):
    """The distance of enlarged images to the real ones, as the only loss.

    Args:
        weight: factor of the distance.
        distance: "l1" or "l2".

    Inputs: ``outputs`` (N, H, W, 3); ``targets["hr"]``, the real images.
    Returns: dict of scalars: ``"pixel"``, ``"total"``.
    """

    def __init__(self, weight: float = 1.0, distance: str = "l2", **kwargs):
        super().__init__(**kwargs)
        self.weight, self.distance = weight, distance

    def call(self, outputs, targets):
        difference = outputs - targets["hr"]
        difference = tf.abs(difference) if self.distance == "l1" else tf.square(difference)
        pixel = self.weight * tf.reduce_mean(difference)
        return {"pixel": pixel, "total": pixel}


@keras.saving.register_keras_serializable("diptych")
class RealImagesCriterion(keras.layers.Layer):
    """A discriminator's loss on images that are all real.

    Args:
        mode: see :func:`adversarial_loss`.

    Inputs: ``outputs``, logits (N, 1); no targets.
    Returns: dict of scalars: ``"real"``, ``"total"``.
    """

    def __init__(self, mode: str = "vanilla", **kwargs):
        super().__init__(**kwargs)
        self.mode = mode

    def call(self, outputs, targets):
        real = adversarial_loss(outputs, True, self.mode)
        return {"real": real, "total": real}


@keras.saving.register_keras_serializable("diptych")
class SRGANCriterion(keras.layers.Layer):
    """Both players' losses (equations 3 to 6).

    Args:
        mode: "vanilla" (cross-entropy), or a Wasserstein distance: "wgan_clip" (arXiv:1701.07875), whose discriminator
            has its parameters clipped, or "wgan_gp" (arXiv:1704.00028), whose trainer adds a gradient penalty.
        pixel, content, adversarial: weights of the generator's parts.
        distance: "l1" or "l2", of the pixels and of the content.
        layer: of VGG-19, see :class:`PerceptualDistance`: 35 after, 34 before the last ReLU.
        widths: channels of VGG-19's stages.

    Inputs: ``outputs`` of :class:`SRGAN`; ``targets["hr"]``, the real images.
    Returns: dict of scalars: ``"G_pixel"``, ``"G_content"``, ``"G_gan"``, all weighted, their sum ``"G"``;
        ``"D_real"``, ``"D_fake"``, their sum ``"D"``; ``"total"``, the sum of ``"G"`` and ``"D"``, which a training
        step lowers in turn.
    Raises: ValueError if ``mode`` is unknown.
    """

    def __init__(
        self,
        mode: str = "vanilla",
        pixel: float = 1.0,
        content: float = 1.0,
        adversarial: float = 1e-3,
        distance: str = "l2",
        layer: int = 35,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if mode not in ("vanilla", "wgan_clip", "wgan_gp"):
            raise ValueError(f"mode={mode!r} must be 'vanilla', 'wgan_clip' or 'wgan_gp'")
        self.mode, self.pixel, self.adversarial = mode, pixel, adversarial
        self.distance = SuperResolutionCriterion(pixel, distance)
        self.content = PerceptualDistance({layer: content}, distance, widths=widths)

    def generator(self, D_fake, sr, hr) -> dict:
        """The generator's loss."""
        losses = {
            "G_pixel": self.distance(sr, {"hr": hr})["pixel"],
            "G_content": self.content(sr, hr),
            "G_gan": self.adversarial * adversarial_loss(D_fake, True, self.mode.split("_")[0]),
        }
        return {**losses, "G": sum(losses.values())}

    def discriminator(self, D_real, D_fake) -> dict:
        """The discriminator's loss."""
        mode = self.mode.split("_")[0]
        real, fake = adversarial_loss(D_real, True, mode), adversarial_loss(D_fake, False, mode)
        return {"D_real": real, "D_fake": fake, "D": real + fake}

    def call(self, outputs, targets):
        losses = self.generator(outputs["D_fake"], outputs["sr"], targets["hr"])
        losses |= self.discriminator(outputs["D_real"], outputs["D_fake"])
        return {**losses, "total": losses["G"] + losses["D"]}


class SRGANTrainer:
    """Alternating training on one set of enlarged images: with cross-entropy the generator moves first, otherwise last.

    Args:
        model: an :class:`SRGAN`.
        criterion: its losses, whose mode determines how the discriminator is constrained.
        learning_rate: of both players; they have Adam, with "wgan_clip" RMSProp.
        betas: of Adam.
        clip: bound of the discriminator's parameters, with "wgan_clip".
        penalty: weight of the gradient penalty, with "wgan_gp".
        momentum: of the generator's ``average``.
    """

    def __init__(
        self,
        model,
        criterion,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        clip: float = 0.01,
        penalty: float = 10.0,
        momentum: float = 0.999,
    ):
        self.model, self.criterion, self.clip, self.penalty = model, criterion, clip, penalty
        adam = functools.partial(Adam, lr=learning_rate, betas=betas)
        optimizer = functools.partial(RMSprop, lr=learning_rate) if criterion.mode == "wgan_clip" else adam
        self.generator = Player({"netG": model.netG}, optimizer)
        self.discriminator = Player({"netD": model.netD}, optimizer)
        self.average = MovingAverage(model.netG, momentum)

    @property
    def gradients(self) -> dict:
        """Gradients of the last step by name: ``netG.*`` from the loss ``"G"``, ``netD.*`` from ``"D"``."""
        return {**self.generator.gradients, **self.discriminator.gradients}

    def step(self, inputs, targets) -> dict:
        """One step of each player from ``"lr"``, ``"hr"`` and any ``"mix"``; returns the losses as each saw them."""
        with tf.GradientTape() as tape:  # mirror: two tapes
            sr = self.model.netG(inputs["lr"], training=True)
        if self.criterion.mode == "vanilla":
            losses = self.move_generator(sr, inputs, tape) | self.move_discriminator(sr, inputs)
        else:
            losses = self.move_discriminator(sr, inputs) | self.move_generator(sr, inputs, tape)
        return {**losses, "total": losses["G"] + losses["D"]}

    def move_generator(self, sr, inputs, tape) -> dict:
        """The generator's step; its losses."""
        with tape:  # which has recorded the generator
            losses = self.criterion.generator(self.model.netD(sr, training=True), sr, inputs["hr"])
        self.generator.lower(losses["G"], tape)
        self.average.update()
        return losses

    def move_discriminator(self, sr, inputs) -> dict:
        """The discriminator's step; its losses."""
        hr, netD = inputs["hr"], functools.partial(self.model.netD, training=True)
        with tf.GradientTape() as tape:
            losses = self.criterion.discriminator(netD(hr), netD(sr))
            if self.criterion.mode == "wgan_gp":
                losses["D_gp"] = self.penalty * gradient_penalty(netD, interpolate(hr, sr, inputs["mix"]))
                losses["D"] = losses["D"] + losses["D_gp"]
        self.discriminator.lower(losses["D"], tape)
        if self.criterion.mode == "wgan_clip":
            for p in self.discriminator.parameters.values():
                p.assign(tf.clip_by_value(p, -self.clip, self.clip))
        return losses


@keras.saving.register_keras_serializable("diptych")
class SuperResolutionPostProcess(keras.layers.Layer):
    """Images with values for display.

    Inputs: ``outputs`` of a generator, or of a model that returns it under ``"sr"``, in [0, 1].
    Returns: dict: ``"images"`` (N, H, W, 3) float in [0, 255].
    """

    def call(self, outputs):
        images = outputs["sr"] if isinstance(outputs, dict) else outputs
        return {"images": tf.clip_by_value(images, 0, 1) * 255.0}


def srresnet_x2(scale=2, **options) -> SRResNet:
    return SRResNet(scale=scale, **options)


def srresnet_x4(scale=4, **options) -> SRResNet:
    return SRResNet(scale=scale, **options)


def srresnet_x8(scale=8, **options) -> SRResNet:
    return SRResNet(scale=scale, **options)


def msrresnet_x2(scale=2, **options) -> MSRResNet:
    return MSRResNet(scale=scale, **options)


def msrresnet_x3(scale=3, **options) -> MSRResNet:
    return MSRResNet(scale=scale, **options)


def msrresnet_x4(scale=4, **options) -> MSRResNet:
    return MSRResNet(scale=scale, **options)


def discriminator_96(size=96, **options) -> Discriminator96:
    return Discriminator96(size=size, **options)


def discriminator_128(size=128, **options) -> Discriminator128:
    return Discriminator128(size=size, **options)


def discriminator_pooled(**options) -> PooledDiscriminator:
    return PooledDiscriminator(**options)


def srgan(scale=4, blocks=16, width=64, output="clamp", size=96, norm="batch", hidden=1024) -> SRGAN:
    generator = SRResNet(scale=scale, blocks=blocks, width=width, output=output)
    return SRGAN(generator, Discriminator96(size=size, width=width, norm=norm, hidden=hidden))


def srgan_basicsr(scale=4, blocks=16, width=64, size=128, norm="batch", hidden=100) -> SRGAN:
    generator = MSRResNet(scale=scale, blocks=blocks, width=width)
    return SRGAN(generator, Discriminator128(size=size, width=width, norm=norm, hidden=hidden))
