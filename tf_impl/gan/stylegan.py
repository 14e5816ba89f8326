"""StyleGAN: a constant image grows; at each layer a vector scales its channels, and noise adds the details.

"A Style-Based Generator Architecture for Generative Adversarial Networks", 2018, arXiv:1812.04948.
Parameter names: genforce/genforce ``models/stylegan_{generator,discriminator}.py`` (MIT).
What to look at: latent vectors never enter the image; they only scale and shift normalised channels.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- A training step needs gradients of two losses: two tapes here, two calls of ``lower`` in PyTorch.
- The average of the styles is a buffer, which moves while the model trains.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.gan._equalized import EqualizedConv2d, EqualizedLinear, pixel_norm
from tf_impl.gan.pggan import (
    SLOPE,
    PGGANDiscriminator,
    PGGANPostProcess,
    ScoreCriterion,
    blended,
    channels_at,
    enlarged,
    sizes_from_four,
)
from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import convolve
from tf_impl.layers.model import Model
from tf_impl.losses.adversarial import adversarial_loss, r1_penalty
from tf_impl.training.moving_average import MovingAverage
from tf_impl.training.optimizers import Adam
from tf_impl.training.players import Player

__all__ = [
    "PGGANPostProcess",
    "ScoreCriterion",
    "StyleGAN",
    "StyleGANCriterion",
    "StyleGANDiscriminator",
    "StyleGANGenerator",
    "StyleGANTrainer",
    "StyledImageCriterion",
    "stylegan",
    "stylegan_discriminator",
    "stylegan_generator",
]

FUSED = 128  # from this size on, checkpoints contain kernels of transposed convolutions, which are mirrored


PADS = ((1, 1), (1, 1))


@keras.saving.register_keras_serializable("diptych")
class BinomialKernel(keras.initializers.Initializer):
    """Outer product of (1, 2, 1) / 4 with itself, for every channel."""

    def __call__(self, shape, dtype=None):
        row = tf.constant([1.0, 2.0, 1.0], dtype)
        return tf.tile((row * row[:, None] / 16)[:, :, None, None], (1, 1, *shape[2:]))


@keras.saving.register_keras_serializable("diptych")
class Blur(keras.layers.Layer):
    """Binomial filter of 3x3 pixels; its kernel is a buffer.  x: (N, H, W, C) -> (N, H, W, C)."""

    torch_names = {"kernel": ("kernel", (3, 2, 0, 1))}

    def build(self, input_shape):
        shape = (3, 3, 1, input_shape[-1])
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=BinomialKernel(), trainable=False)

    def call(self, x):
        return convolve(x, tf.convert_to_tensor(self.kernel), pads=PADS, groups=x.shape[-1])


@keras.saving.register_keras_serializable("diptych")
class ApplyNoise(keras.layers.Layer):
    """Add one map of noise to all channels, times a learnt strength per channel.  x: (N, H, W, C) -> (N, H, W, C)."""

    torch_names = {"strength": ("weight", None), "noise": ("noise", (0, 3, 1, 2))}

    def __init__(self, side: int, **kwargs):
        super().__init__(**kwargs)
        self.side = side

    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.strength = self.add_weight(name="strength", shape=input_shape[-1:], initializer="zeros")
        shape = (1, self.side, self.side, 1)
        self.noise = self.add_weight(name="noise", shape=shape, initializer=normal, trainable=False)

    def call(self, x, noise=None):
        noise = tf.convert_to_tensor(self.noise) if noise is None else noise
        return x + tf.convert_to_tensor(self.strength) * noise


@keras.saving.register_keras_serializable("diptych")
class SynthesisLayer(keras.layers.Layer):
    """A convolution, noise, bias, activation, normalisation, and a style (figure 1b).

    Args:
        in_channels, filters, side: channels, and size of the result.
        kind: "const" has a learnt map instead of a convolution, "up" doubles the size first, "same" leaves it.

    x: (N, H, W, C) -> (N, side, side, filters).
    """

    torch_names = {
        "bias": ("bias", None),
        "const": ("const", (0, 3, 1, 2)),
        "kernel": ("weight", (3, 2, 0, 1)),
    }

    def __init__(self, in_channels: int, filters: int, side: int, kind: str = "same", **kwargs):
        super().__init__(**kwargs)
        self.kind, self.flip = kind, kind == "up" and side >= FUSED
        self.filters, self.lrelu = filters, LeakyReLU(SLOPE)
        self.bias = self.add_weight(name="bias", shape=(filters,), initializer="zeros")
        if kind == "const":
            self.const = self.add_weight(name="const", shape=(1, side, side, filters), initializer="ones")
        else:
            normal = keras.initializers.RandomNormal(stddev=1.0)
            self.kernel = self.add_weight(name="kernel", shape=(3, 3, in_channels, filters), initializer=normal)
            self.scale = (2 / (9 * in_channels)) ** 0.5
        self.apply_noise = ApplyNoise(side)
        self.style = EqualizedLinear(2 * filters, gain=1.0)
        if kind == "up":
            self.blur = Blur()

    def call(self, x, w, noise=None):
        if self.kind == "const":
            x = tf.tile(tf.convert_to_tensor(self.const), (tf.shape(w)[0], 1, 1, 1))
        else:
            kernel = tf.convert_to_tensor(self.kernel) * self.scale
            kernel = tf.reverse(kernel, (0, 1)) if self.flip else kernel
            x = convolve(enlarged(x) if self.kind == "up" else x, kernel, pads=PADS)
            x = self.blur(x) if self.kind == "up" else x
        x = self.lrelu(self.apply_noise(x, noise) + tf.convert_to_tensor(self.bias))
        x = x - tf.reduce_mean(x, (1, 2), keepdims=True)
        x = x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), (1, 2), keepdims=True) + 1e-8)
        scale, shift = tf.split(self.style(w)[:, None, None, :], 2, -1)
        return x * (scale + 1) + shift


@keras.saving.register_keras_serializable("diptych")
class Mapping(keras.layers.Layer):
    """From latent vectors to styles, both normalised.  (N, z_dim) -> (N, w_dim)."""

    def __init__(self, w_dim: int, layers: int, lr_mul: float = 0.01, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.lrelu = layers, LeakyReLU(SLOPE)
        for i in range(layers):
            setattr(self, f"dense{i}", EqualizedLinear(w_dim, lr_mul=lr_mul))

    def call(self, z):
        x = pixel_norm(z)
        for i in range(self.depth):
            x = self.lrelu(getattr(self, f"dense{i}")(x))
        return x


@keras.saving.register_keras_serializable("diptych")
class Truncation(keras.layers.Layer):
    """Move styles towards their average (appendix B).

    Args:
        w_dim: D, length of a style.
        psi: share of the distance from the average that is kept in evaluation mode, in the first ``layers`` layers.

    wp: (N, L, D) -> (N, L, D).
    """

    def __init__(self, w_dim: int, psi: float = 1.0, layers: int = 8, momentum: float = 0.995, **kwargs):
        super().__init__(**kwargs)
        self.psi, self.first, self.momentum = psi, layers, momentum
        self.w_avg = self.add_weight(name="w_avg", shape=(w_dim,), initializer="zeros", trainable=False)

    def follow(self, w) -> None:
        """Move the average towards the mean of a batch."""
        mean = tf.reduce_mean(w, 0)  # mirror: moves while the model trains
        self.w_avg.assign(mean + (self.w_avg - mean) * self.momentum)

    def call(self, wp, training=False):
        if training or self.psi == 1:
            return wp
        share = tf.constant([[self.psi if i < self.first else 1.0] for i in range(wp.shape[1])], wp.dtype)
        average = tf.convert_to_tensor(self.w_avg)
        return average + share * (wp - average)


@keras.saving.register_keras_serializable("diptych")
class Synthesis(keras.layers.Layer):
    """From styles to images.  wp (N, L, D), lod (1,), noise (N, P) or None -> (N, size, size, 3)."""

    def __init__(self, size: int, base: int, most: int, **kwargs):
        super().__init__(**kwargs)
        self.lod = self.add_weight(name="lod", shape=(), initializer="zeros", trainable=False)
        self.sizes = tuple(sizes_from_four(size))
        channels = 0
        for block, side in enumerate(self.sizes):
            wider = channels_at(side, base, most)
            first = SynthesisLayer(channels or wider, wider, side, "up" if block else "const")
            setattr(self, f"layer{2 * block}", first)
            setattr(self, f"layer{2 * block + 1}", SynthesisLayer(wider, wider, side))
            setattr(self, f"output{block}", EqualizedConv2d(3, 1, gain=1.0))
            channels = wider

    def call(self, wp, lod, noise=None):
        x = wp  # the first layer has its own map
        images, last, seen = None, len(self.sizes) - 1, 0
        for block, side in enumerate(self.sizes):
            for i in (2 * block, 2 * block + 1):
                of_layer = None if noise is None else tf.reshape(noise[:, seen : seen + side**2], (-1, side, side, 1))
                x = getattr(self, f"layer{i}")(x, wp[:, i], of_layer)
                seen += side**2
            image = getattr(self, f"output{block}")(x)
            images = image if block == 0 else blended(image, enlarged(images), lod, last - block)
        return images


@keras.saving.register_keras_serializable("diptych")
class StyleGANGenerator(Model):
    """The generator (section 2).

    Args:
        size: height and width of the images.
        z_dim: length of a latent vector.
        w_dim: D, length of a style.
        mapping_layers: layers of the mapping network.
        base, most: a map of size s has min(base / s, most) channels.
        psi, truncated_layers: see :class:`Truncation`.

    Inputs: ``z``, ``z2`` (N, z_dim); ``cutoff`` (1,), index of the layer from which on the styles are those of ``z2``:
        L = 2 log2(size) - 2 or more for none; ``lod`` (1,), level of detail; ``noise`` (N, P), the pixels of all
        layers' noise, or None for the buffers.
    Returns: dict: ``"w"`` (N, D), the style of ``z``; ``"wp"`` (N, L, D), styles by layer; ``"fake"`` (N, size, size,
        3), about [-1, 1].
    """

    def __init__(
        self,
        size: int = 1024,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        base: int = 16384,
        most: int = 512,
        psi: float = 1.0,
        truncated_layers: int = 8,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.mapping = Mapping(w_dim, mapping_layers)
        self.truncation = Truncation(w_dim, psi, truncated_layers)
        self.synthesis = Synthesis(size, base, most)

    def call(self, z, z2, cutoff, lod, noise=None, training=False):
        w, w2 = self.mapping(z), self.mapping(z2)
        if training:
            self.truncation.follow(w)
        layers = tf.range(2 * len(self.synthesis.sizes))
        second = tf.cast(layers, cutoff.dtype) >= cutoff[0]
        wp = self.truncation(tf.where(second[:, None], w2[:, None], w[:, None]), training=training)
        return {"w": w, "wp": wp, "fake": self.synthesis(wp, lod, noise)}


@keras.saving.register_keras_serializable("diptych")
class BlurredConv2d(EqualizedConv2d):
    """A convolution of the blurred map.  x: (N, H, W, C) -> (N, H, W, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(filters, **{"kernel_size": 3, "padding": 1, **kwargs})
        self.blur = Blur()

    def call(self, x):
        return super().call(self.blur(x))


@keras.saving.register_keras_serializable("diptych")
class StyleGANDiscriminator(PGGANDiscriminator):
    """Progressive GAN's discriminator, which also blurs a map before it halves its size, and averages before the
    activation.

    Args:
        size, base, most, group: see :class:`PGGANDiscriminator`.

    Inputs: ``images`` (N, size, size, 3) in [-1, 1]; ``lod`` (1,).
    Returns: scores (N, 1).
    """

    def __init__(self, size: int = 1024, base: int = 16384, most: int = 512, group: int = 4, **kwargs):
        super().__init__(size, base, most, True, group, **kwargs)

    def halving(self, channels: int, wider: int):
        return BlurredConv2d(wider)


@keras.saving.register_keras_serializable("diptych")
class StyleGAN(Model):
    """Generator and discriminator.

    Args:
        size, z_dim, w_dim, mapping_layers, base, most, group: of both.

    Inputs: ``images`` (N, size, size, 3) in [-1, 1]; ``z`` (N, 4, z_dim): two vectors whose styles are mixed for the
        discriminator's step, and two for the generator's; ``cutoff`` (2,) and ``noise`` (N, 2, P) for the two steps,
        see :class:`StyleGANGenerator`; ``lod`` (1,).
    Returns: dict: ``"fake"`` (N, size, size, 3); scores (N, 1) ``"D_real"``, ``"D_fake"``, and ``"G_fake"`` of the
        generator's step.
    """

    def __init__(
        self,
        size: int = 1024,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        base: int = 16384,
        most: int = 512,
        group: int = 4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.generator = StyleGANGenerator(size, z_dim, w_dim, mapping_layers, base, most)
        self.discriminator = StyleGANDiscriminator(size, base, most, group)

    def generated(self, step: int, z, cutoff, noise, lod, training=False):
        """Images of the discriminator's step (0) or of the generator's (1)."""
        first, second = z[:, 2 * step], z[:, 2 * step + 1]
        cutoff, noise = cutoff[step : step + 1], noise[:, step]
        return self.generator(first, second, cutoff, lod, noise, training=training)["fake"]

    def call(self, images, z, cutoff, noise, lod, training=False):
        fake = self.generated(0, z, cutoff, noise, lod, training)
        return {
            "fake": fake,
            "D_real": self.discriminator(images, lod),
            "D_fake": self.discriminator(fake, lod),
            "G_fake": self.discriminator(self.generated(1, z, cutoff, noise, lod, training), lod),
        }


@keras.saving.register_keras_serializable("diptych")
class StyleGANCriterion(keras.layers.Layer):
    """Both players' losses (arXiv:1406.2661, non-saturating for the generator), without the penalty of the trainer.

    Inputs: ``outputs`` of :class:`StyleGAN`; no targets.
    Returns: dict of scalars: ``"D_real"``, ``"D_fake"``, their sum ``"D"``; ``"G"``; ``"total"``, the sum of ``"G"``
        and ``"D"``, which a training step lowers in turn.
    """

    def discriminator(self, D_real, D_fake) -> dict:
        """The discriminator's loss."""
        real, fake = adversarial_loss(D_real, True), adversarial_loss(D_fake, False)
        return {"D_real": real, "D_fake": fake, "D": real + fake}

    def generator(self, G_fake) -> dict:
        """The generator's loss."""
        return {"G": adversarial_loss(G_fake, True)}

    def call(self, outputs, targets):
        losses = self.discriminator(outputs["D_real"], outputs["D_fake"]) | self.generator(outputs["G_fake"])
        return {**losses, "total": losses["G"] + losses["D"]}


class StyleGANTrainer:
    """Alternating training: the discriminator, the generator's average, then the generator on new vectors.

    Args:
        model: a :class:`StyleGAN`.
        criterion: its losses.
        learning_rate: of both players' Adam.
        gamma: twice the weight of the squared gradient on real images.
        half_life: thousands of images after which half of the generator's ``average`` is new.
    """

    def __init__(self, model, criterion, learning_rate: float = 1e-3, gamma: float = 10.0, half_life: float = 10.0):
        self.model, self.criterion, self.gamma, self.half_life = model, criterion, gamma, half_life
        adam = functools.partial(Adam, lr=learning_rate, betas=(0.0, 0.99))
        self.generator = Player({"generator": model.generator}, adam)
        self.discriminator = Player({"discriminator": model.discriminator}, adam)
        self.average = MovingAverage(model.generator)

    @property
    def gradients(self) -> dict:
        """Gradients of the last step by name: ``discriminator.*`` from ``"D"``, ``generator.*`` from ``"G"``."""
        return {**self.generator.gradients, **self.discriminator.gradients}

    def step(self, inputs, targets) -> dict:
        """One step of each player from the inputs of the model; returns the losses as each saw them."""
        images, lod = inputs["images"], inputs["lod"]
        drawn = {name: inputs[name] for name in ("z", "cutoff", "noise", "lod")}
        D = functools.partial(self.model.discriminator, lod=lod)
        fake = self.model.generated(0, **drawn, training=True)
        with tf.GradientTape() as tape:  # mirror: two tapes
            losses = self.criterion.discriminator(D(images), D(fake))
            losses["D_r1"] = self.gamma / 2 * r1_penalty(D, images)
            losses["D"] = losses["D"] + losses["D_r1"]
        self.discriminator.lower(losses["D"], tape)
        self.average.update(0.5 ** (len(images) / (1000 * self.half_life)))
        with tf.GradientTape() as tape:
            losses |= self.criterion.generator(D(self.model.generated(1, **drawn, training=True)))
        self.generator.lower(losses["G"], tape)
        return {**losses, "total": losses["G"] + losses["D"]}


@keras.saving.register_keras_serializable("diptych")
class StyledImageCriterion(keras.layers.Layer):
    """The distance of generated images to given ones.

    Args:
        weight: factor of the mean absolute difference.

    Inputs: ``outputs["fake"]`` (N, H, W, 3); ``targets["images"]``.
    Returns: dict of scalars: ``"l1"``, ``"total"``.
    """

    def __init__(self, weight: float = 100.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, outputs, targets):
        l1 = self.weight * tf.reduce_mean(tf.abs(outputs["fake"] - targets["images"]))
        return {"l1": l1, "total": l1}


def stylegan_generator(size=1024, **options) -> StyleGANGenerator:
    return StyleGANGenerator(size=size, **options)


def stylegan_discriminator(size=1024, **options) -> StyleGANDiscriminator:
    return StyleGANDiscriminator(size=size, **options)


def stylegan(size=1024, **options) -> StyleGAN:
    return StyleGAN(size=size, **options)
