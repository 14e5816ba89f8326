"""StyleGAN2: styles scale the weights of convolutions, whose results are scaled back to deviation 1.

"Analyzing and Improving the Image Quality of StyleGAN", 2019, arXiv:1912.04958.
Parameter names: NVlabs/stylegan2-ada-pytorch ``training/networks.py`` (names and formulas alone).
What to look at: scaling the input and the output of a shared convolution is the same as separate weights per image.

Mirror notes:
- NHWC here, NCHW in PyTorch; a dense kernel expects the map before it in the order C, H, W.
- A transposed convolution in PyTorch is a convolution between zeros here, which exports and differentiates as one.
- A training step needs gradients of several losses: tapes here, calls of ``lower`` in PyTorch.
- The average of the styles is a buffer, which moves while the model trains.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.gan._equalized import EqualizedLinear, minibatch_deviation, pixel_norm
from tf_impl.gan.pggan import PGGANPostProcess, ScoreCriterion, channels_at, sizes_from_four
from tf_impl.gan.stylegan import StyledImageCriterion, StyleGANCriterion
from tf_impl.layers.convolution import convolve
from tf_impl.layers.model import Model
from tf_impl.layers.resize import map_size
from tf_impl.losses.adversarial import r1_penalty
from tf_impl.training.moving_average import MovingAverage
from tf_impl.training.optimizers import Adam
from tf_impl.training.players import Player

__all__ = [
    "PGGANPostProcess",
    "ScoreCriterion",
    "StyleGAN2",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "StyleGAN2Trainer",
    "StyleGANCriterion",
    "StyledImageCriterion",
    "path_lengths",
    "stylegan2_256",
    "stylegan2_512",
    "stylegan2_1024",
    "stylegan2_discriminator_256",
    "stylegan2_discriminator_512",
    "stylegan2_discriminator_1024",
    "stylegan2_generator_256",
    "stylegan2_generator_512",
    "stylegan2_generator_1024",
]

GAIN = 2**0.5  # of an activation


@keras.saving.register_keras_serializable("diptych")
class FilterOfFour(keras.initializers.Initializer):
    """(4, 4): the outer product of (1, 3, 3, 1) / 8 with itself."""

    def __call__(self, shape, dtype=None):
        row = tf.constant([1.0, 3.0, 3.0, 1.0], dtype)
        return row * row[:, None] / 64


def normal(layer, name: str, shape, **options):
    """Add a variable to a layer that starts as normal noise."""
    return layer.add_weight(name=name, shape=shape, initializer=keras.initializers.RandomNormal(stddev=1.0), **options)


def resample_filter(layer):
    """Add the constant filter to a layer."""
    return layer.add_weight(name="resample_filter", shape=(4, 4), initializer=FilterOfFour(), trainable=False)


def between_zeros(x):
    """A zero after every pixel, in both directions.  (N, H, W, C) -> (N, 2H, 2W, C)."""
    height, width = map_size(x)
    x = tf.pad(x[:, :, None, :, None], ((0, 0), (0, 0), (0, 1), (0, 0), (0, 1), (0, 0)))
    return tf.reshape(x, (-1, 2 * height, 2 * width, x.shape[-1]))


def filtered(x, kernel, pads: tuple[int, int], strides: int = 1):
    """Depthwise convolution with one filter for all channels.  x: (N, H, W, C), kernel (4, 4) -> (N, H', W', C)."""
    kernel = tf.tile(tf.reverse(tf.convert_to_tensor(kernel), (0, 1))[:, :, None, None], (1, 1, 1, x.shape[-1]))
    return convolve(x, kernel, (strides, strides), (pads, pads), groups=x.shape[-1])


def activated(x):
    """Leaky ReLU that keeps the deviation."""
    return tf.maximum(0.2 * x, x) * GAIN


@keras.saving.register_keras_serializable("diptych")
class ModulatedConv2d(keras.layers.Layer):
    """A convolution whose weights are scaled by a style, per image (section 2.2).

    Args:
        in_channels, filters, kernel_size: of the convolution.

    x: (N, H, W, in_channels), w (N, w_dim) -> (N, H, W, filters).
    """

    torch_names = {
        "kernel": ("weight", (3, 2, 0, 1)),
        "bias": ("bias", None),
        "noise_strength": ("noise_strength", None),
        "noise_const": ("noise_const", None),
        "resample_filter": ("resample_filter", None),
    }

    def __init__(self, in_channels: int, filters: int, kernel_size: int, **kwargs):
        super().__init__(**kwargs)
        self.kernel = normal(self, "kernel", (kernel_size, kernel_size, in_channels, filters))
        self.bias = self.add_weight(name="bias", shape=(filters,), initializer="zeros")
        self.affine = EqualizedLinear(in_channels, gain=1.0, bias_initializer="ones")

    def demodulation(self, styles):
        """The factor that restores deviation 1.  (N, in_channels) -> (N, 1, 1, filters)."""
        squares = tf.reduce_sum(tf.square(self.kernel), (0, 1))
        return tf.math.rsqrt(tf.matmul(tf.square(styles), squares) + 1e-8)[:, None, None, :]


@keras.saving.register_keras_serializable("diptych")
class StyledConv2d(ModulatedConv2d):
    """A scaled convolution, noise, bias and activation.

    Args:
        in_channels, filters, side: of the convolution, and size of the result.
        up: double the size.

    x: (N, H, W, in_channels), w (N, w_dim), noise (N, side, side, 1) or None -> (N, side, side, filters).
    """

    def __init__(self, in_channels: int, filters: int, side: int, up: bool = False, **kwargs):
        super().__init__(in_channels, filters, 3, **kwargs)
        self.up = up
        self.noise_strength = self.add_weight(name="noise_strength", shape=(), initializer="zeros")
        self.noise_const = normal(self, "noise_const", (side, side), trainable=False)
        self.resample_filter = resample_filter(self)

    def call(self, x, w, noise=None):
        styles = self.affine(w)
        kernel = tf.convert_to_tensor(self.kernel)
        x = x * styles[:, None, None, :]
        if self.up:
            # mirror: between zeros
            x = convolve(between_zeros(x), tf.reverse(kernel, (0, 1)), pads=((2, 1), (2, 1)))
            x = filtered(x, self.resample_filter * 4, (1, 1))
        else:
            x = convolve(x, kernel, pads=((1, 1), (1, 1)))
        x = x * self.demodulation(styles)
        noise = tf.convert_to_tensor(self.noise_const)[:, :, None] if noise is None else noise
        return activated(x + noise * self.noise_strength + tf.convert_to_tensor(self.bias))


@keras.saving.register_keras_serializable("diptych")
class ToRGB(ModulatedConv2d):
    """Map features to colours.  x: (N, H, W, in_channels), w (N, w_dim) -> (N, H, W, 3)."""

    def __init__(self, in_channels: int, **kwargs):
        super().__init__(in_channels, 3, 1, **kwargs)

    def call(self, x, w):
        styles = self.affine(w) / self.kernel.shape[2] ** 0.5
        return convolve(x * styles[:, None, None, :], tf.convert_to_tensor(self.kernel)) + tf.convert_to_tensor(
            self.bias
        )


@keras.saving.register_keras_serializable("diptych")
class SynthesisBlock(keras.layers.Layer):
    """The layers of one size, and its share of the image (figure 7b)."""

    torch_names = {"const": ("const", (2, 0, 1)), "resample_filter": ("resample_filter", None)}

    def __init__(self, in_channels: int, filters: int, side: int, **kwargs):
        super().__init__(**kwargs)
        self.first = in_channels == 0
        self.resample_filter = resample_filter(self)
        if self.first:
            self.const = normal(self, "const", (side, side, filters))
        else:
            self.conv0 = StyledConv2d(in_channels, filters, side, up=True)
        self.conv1 = StyledConv2d(filters, filters, side)
        self.torgb = ToRGB(filters)

    def call(self, x, image, ws, noise):
        """``ws``: the styles of the layers and then of the colours; ``noise``: of the layers, or Nones."""
        if self.first:
            x = tf.tile(tf.convert_to_tensor(self.const)[None], (tf.shape(ws[0])[0], 1, 1, 1))
        else:
            x = self.conv0(x, ws[0], noise[0])
            image = filtered(between_zeros(image), self.resample_filter * 4, (2, 1))
        x = self.conv1(x, ws[-2], noise[-1])
        colours = self.torgb(x, ws[-1])
        return x, colours if self.first else image + colours


@keras.saving.register_keras_serializable("diptych")
class StyleMapping(keras.layers.Layer):
    """From latent vectors to styles, and their average.  (N, z_dim) -> (N, w_dim)."""

    def __init__(self, w_dim: int, layers: int, momentum: float = 0.995, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.momentum = layers, momentum
        self.w_avg = self.add_weight(name="w_avg", shape=(w_dim,), initializer="zeros", trainable=False)
        for i in range(layers):
            setattr(self, f"fc{i}", EqualizedLinear(w_dim, gain=1.0, lr_mul=0.01))

    def follow(self, w) -> None:
        """Move the average towards the mean of a batch."""
        mean = tf.reduce_mean(w, 0)  # mirror: moves while the model trains
        self.w_avg.assign(mean + (self.w_avg - mean) * self.momentum)

    def call(self, z):
        x = pixel_norm(z)
        for i in range(self.depth):
            x = activated(getattr(self, f"fc{i}")(x))
        return x


@keras.saving.register_keras_serializable("diptych")
class StyleSynthesis(keras.layers.Layer):
    """From styles to images.  ws (N, L, D), noise (N, P) or None -> (N, size, size, 3)."""

    def __init__(self, size: int, base: int, most: int, **kwargs):
        super().__init__(**kwargs)
        self.sizes = tuple(sizes_from_four(size))
        channels = 0
        for side in self.sizes:
            wider = channels_at(side, base, most)
            setattr(self, f"b{side}", SynthesisBlock(channels, wider, side))
            channels = wider

    def call(self, ws, noise=None):
        x = image = ws  # the first block has its own map
        layer = seen = 0
        for side in self.sizes:
            count = 1 if side == 4 else 2
            of_block = [None] * count
            if noise is not None:
                pixels = tf.reshape(noise[:, seen : seen + count * side**2], (-1, count, side, side, 1))
                of_block = [pixels[:, i] for i in range(count)]
            styles = [ws[:, layer + i] for i in range(count + 1)]
            x, image = getattr(self, f"b{side}")(x, image, styles, of_block)
            layer, seen = layer + count, seen + count * side**2
        return image


@keras.saving.register_keras_serializable("diptych")
class StyleGAN2Generator(Model):
    """The generator with skips (section 4.1).

    Args:
        size: height and width of the images.
        z_dim, w_dim: lengths of a latent vector and of a style.
        mapping_layers: layers of the mapping network.
        base, most: a map of size s has min(base / s, most) channels.
        psi: share of a style's distance from the average that is kept in evaluation mode, in the first
            ``truncated_layers`` layers.

    Inputs: ``z``, ``z2`` (N, z_dim); ``cutoff`` (1,), index of the style from which on they are those of ``z2``: L = 2
        log2(size) - 2 or more for none; ``noise`` (N, P), the pixels of all layers' noise, or None for the buffers.
    Returns: dict: ``"ws"`` (N, L, w_dim), styles by layer; ``"fake"`` (N, size, size, 3), about [-1, 1].
    """

    def __init__(
        self,
        size: int = 1024,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        base: int = 32768,
        most: int = 512,
        psi: float = 1.0,
        truncated_layers: int = 8,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.psi, self.truncated_layers = psi, truncated_layers
        self.synthesis = StyleSynthesis(size, base, most)
        self.mapping = StyleMapping(w_dim, mapping_layers)

    def styles(self, z, z2, cutoff, training=False):
        """Styles by layer."""
        w, w2 = self.mapping(z), self.mapping(z2)
        if training:
            self.mapping.follow(w)
        count = 2 * len(self.synthesis.sizes)
        second = tf.cast(tf.range(count), cutoff.dtype) >= cutoff[0]
        ws = tf.where(second[:, None], w2[:, None], w[:, None])
        if training or self.psi == 1:
            return ws
        share = tf.constant([[self.psi if i < self.truncated_layers else 1.0] for i in range(count)], ws.dtype)
        average = tf.convert_to_tensor(self.mapping.w_avg)
        return average + share * (ws - average)

    def call(self, z, z2, cutoff, noise=None, training=False):
        ws = self.styles(z, z2, cutoff, training)
        return {"ws": ws, "fake": self.synthesis(ws, noise)}


@keras.saving.register_keras_serializable("diptych")
class FilteredConv2d(keras.layers.Layer):
    """A convolution with weights scaled at run time, after a filter where it halves the size.

    Args:
        in_channels, filters, kernel_size: of the convolution.
        down: halve the size.
        linear: no bias and no activation.
        gain: times the result.

    x: (N, H, W, in_channels) -> (N, H', W', filters).
    """

    torch_names = {
        "kernel": ("weight", (3, 2, 0, 1)),
        "bias": ("bias", None),
        "resample_filter": ("resample_filter", None),
    }

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: int,
        down: bool = False,
        linear: bool = False,
        gain: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.down, self.linear, self.gain, self.kernel_size = down, linear, gain, kernel_size
        self.kernel = normal(self, "kernel", (kernel_size, kernel_size, in_channels, filters))
        self.scale = (in_channels * kernel_size**2) ** -0.5
        if not linear:
            self.bias = self.add_weight(name="bias", shape=(filters,), initializer="zeros")
        self.resample_filter = resample_filter(self)

    def call(self, x):
        kernel = tf.convert_to_tensor(self.kernel) * self.scale
        if not self.down:
            side = self.kernel_size // 2
            x = convolve(x, kernel, pads=((side, side), (side, side)))
        elif self.kernel_size == 1:
            x = convolve(filtered(x, self.resample_filter, (1, 1), strides=2), kernel)
        else:
            x = convolve(filtered(x, self.resample_filter, (2, 2)), kernel, (2, 2))
        return (x if self.linear else activated(x + tf.convert_to_tensor(self.bias))) * self.gain


@keras.saving.register_keras_serializable("diptych")
class DiscriminatorBlock(keras.layers.Layer):
    """Two convolutions and a skip connection that halve the size (figure 7c).

    x: (N, H, W, in_channels) -> (N, H / 2, W / 2, filters).
    """

    def __init__(self, in_channels: int, filters: int, first: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.resample_filter = resample_filter(self)
        self.first = first
        if first:
            self.fromrgb = FilteredConv2d(3, in_channels, 1)
        self.conv0 = FilteredConv2d(in_channels, in_channels, 3)
        self.conv1 = FilteredConv2d(in_channels, filters, 3, down=True, gain=0.5**0.5)
        self.skip = FilteredConv2d(in_channels, filters, 1, down=True, linear=True, gain=0.5**0.5)

    def call(self, x):
        x = self.fromrgb(x) if self.first else x
        return self.skip(x) + self.conv1(self.conv0(x))


@keras.saving.register_keras_serializable("diptych")
class DiscriminatorEpilogue(keras.layers.Layer):
    """From the last map to a score.  (N, 4, 4, C) -> (N, 1)."""

    def __init__(self, in_channels: int, group: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.group = group
        self.conv = FilteredConv2d(in_channels + 1, in_channels, 3)
        self.fc = EqualizedLinear(in_channels, gain=1.0)
        self.out = EqualizedLinear(1, gain=1.0)

    def call(self, x):
        x = self.conv(minibatch_deviation(x, self.group))
        x = tf.transpose(x, (0, 3, 1, 2))  # mirror: in the order C, H, W
        return self.out(activated(self.fc(tf.reshape(x, (-1, 16 * x.shape[1])))))


@keras.saving.register_keras_serializable("diptych")
class StyleGAN2Discriminator(Model):
    """The residual discriminator (section 4.1).

    Args:
        size: height and width of the images.
        base, most: a map of size s has min(base / s, most) channels.
        group: images per group of the minibatch deviation.

    Inputs: (N, size, size, 3) in [-1, 1].
    Returns: scores (N, 1).
    """

    def __init__(self, size: int = 1024, base: int = 32768, most: int = 512, group: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(shape=(None, size, size, 3))
        self.sizes = tuple(sizes_from_four(size)[:0:-1])
        for side in self.sizes:
            channels, wider = channels_at(side, base, most), channels_at(side // 2, base, most)
            setattr(self, f"b{side}", DiscriminatorBlock(channels, wider, side == size))
        self.b4 = DiscriminatorEpilogue(channels_at(4, base, most), group)

    def call(self, images, training=False):
        x = images
        for side in self.sizes:
            x = getattr(self, f"b{side}")(x)
        return self.b4(x)


def path_lengths(synthesis, ws, direction, noise=None):
    """Path lengths: how far an image moves along a random direction for a step of its styles (section 3.2),
    differentiable.

    Args:
        synthesis: from styles and noise to images.
        ws: (N, L, D).
        direction: (N, H, W, 3) normal noise.
        noise: of ``synthesis``.

    Returns:
        lengths (N,), and the gradient (N, L, D).
    """
    with tf.GradientTape() as tape:
        tape.watch(ws)
        image = synthesis(ws, noise)
        height, width = map_size(image)
        moved = tf.reduce_sum(image * direction) / (height * width) ** 0.5
    gradient = tape.gradient(moved, ws)
    # the last term is zero; it gives all parameters a gradient, even if only zero
    return tf.sqrt(tf.reduce_mean(tf.reduce_sum(tf.square(gradient), 2), 1)) + 0 * moved, gradient


@keras.saving.register_keras_serializable("diptych")
class StyleGAN2(Model):
    """Generator and discriminator.

    Args:
        size, z_dim, w_dim, mapping_layers, base, most, group: of both.

    Inputs: ``images`` (N, size, size, 3) in [-1, 1]; for the generator's loss, its path lengths and the discriminator's
        loss: ``z`` (N, 6, z_dim), pairs of vectors whose styles are mixed, ``cutoff`` (3,) and ``noise`` (N, 3, P);
        ``direction`` (N, size, size, 3), normal noise of the path lengths.
    Returns: dict: ``"fake"`` (N, size, size, 3) for the discriminator; scores (N, 1) ``"D_real"``, ``"D_fake"``, and
        ``"G_fake"`` for the generator; ``"moved"`` (N,), images in their directions, whose gradients are path lengths.
    """

    def __init__(
        self,
        size: int = 1024,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        base: int = 32768,
        most: int = 512,
        group: int = 4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.generator = StyleGAN2Generator(size, z_dim, w_dim, mapping_layers, base, most)
        self.discriminator = StyleGAN2Discriminator(size, base, most, group)

    def generated(self, phase: int, z, cutoff, noise, training=False):
        """Images of the generator's loss (0), of the path lengths (1), or of the discriminator's loss (2)."""
        first, second = z[:, 2 * phase], z[:, 2 * phase + 1]
        cutoff, noise = cutoff[phase : phase + 1], noise[:, phase]
        return self.generator(first, second, cutoff, noise, training=training)["fake"]

    def call(self, images, z, cutoff, noise, direction, training=False):
        fake = self.generated(2, z, cutoff, noise, training)
        return {
            "fake": fake,
            "D_real": self.discriminator(images),
            "D_fake": self.discriminator(fake),
            "G_fake": self.discriminator(self.generated(0, z, cutoff, noise, training)),
            "moved": tf.reduce_sum(self.generated(1, z, cutoff, noise, training) * direction, (1, 2, 3)),
        }


class StyleGAN2Trainer:
    """Alternating training: the generator first; both are regularised in some of the steps only (appendix B).

    Args:
        model: a :class:`StyleGAN2`.
        criterion: its losses.
        learning_rate: of both players' Adam, which is slowed down to allow for the regularisation steps.
        gamma: twice the weight of the squared gradient on real images.
        path_weight: of the path lengths' squared distance from their mean.
        every: regularise the generator, and the discriminator, once in this many steps.
        half_life: thousands of images after which half of the generator's ``average`` is new.
    """

    def __init__(
        self,
        model,
        criterion,
        learning_rate: float = 2e-3,
        gamma: float = 10.0,
        path_weight: float = 2.0,
        every: tuple[int, int] = (4, 16),
        half_life: float = 10.0,
    ):
        self.model, self.criterion, self.gamma, self.path_weight = model, criterion, gamma, path_weight
        self.every, self.half_life, self.steps, self.mean_length = every, half_life, 0, 0.0
        networks = {"generator": model.generator, "discriminator": model.discriminator}
        players = []
        for (name, network), k in zip(networks.items(), every, strict=True):
            share = k / (k + 1)
            adam = functools.partial(Adam, lr=learning_rate * share, betas=(0.0, 0.99**share))
            players.append(Player({name: network}, adam))
        self.generator, self.discriminator = players
        self.average = MovingAverage(model.generator)

    @property
    def gradients(self) -> dict:
        """Gradients of each player's last loss by name."""
        return {**self.generator.gradients, **self.discriminator.gradients}

    def path_loss(self, ws, direction, noise):
        """The path lengths' penalty; their running mean is updated before it is compared with them."""
        lengths, _ = path_lengths(self.model.generator.synthesis, ws, direction, noise)
        mean = self.mean_length + 0.01 * (tf.reduce_mean(lengths) - self.mean_length)
        self.mean_length = tf.stop_gradient(mean)
        return self.path_weight * tf.reduce_mean(tf.square(lengths - mean))

    def step(self, inputs, targets) -> dict:
        """One step of each player from the inputs of the model; returns the losses as each saw them."""
        images, z, cutoff, noise = (inputs[name] for name in ("images", "z", "cutoff", "noise"))
        G, D = self.model.generator, self.model.discriminator
        with tf.GradientTape() as tape:  # mirror: tapes
            losses = self.criterion.generator(D(self.model.generated(0, z, cutoff, noise, training=True)))
        self.generator.lower(losses["G"], tape)
        if self.steps % self.every[0] == 0:
            half = max(len(images) // 2, 1)
            with tf.GradientTape() as tape:
                ws = G.styles(z[:half, 2], z[:half, 3], cutoff[1:2], training=True)
                losses["G_path"] = self.path_loss(ws, inputs["direction"][:half], noise[:half, 1])
                scaled = losses["G_path"] * self.every[0]
            self.generator.lower(scaled, tape)
        fake = self.model.generated(2, z, cutoff, noise, training=True)
        with tf.GradientTape() as tape:
            losses |= self.criterion.discriminator(D(images), D(fake))
        self.discriminator.lower(losses["D"], tape)
        if self.steps % self.every[1] == 0:
            with tf.GradientTape() as tape:
                losses["D_r1"] = self.gamma / 2 * r1_penalty(D, images)
                # the last term is zero; it gives all parameters a gradient, even if only zero
                scaled = losses["D_r1"] * self.every[1] + 0 * tf.reduce_mean(D(images))
            self.discriminator.lower(scaled, tape)
        self.steps += 1
        self.average.update(0.5 ** (len(images) / (1000 * self.half_life)))
        return {**losses, "total": losses["G"] + losses["D"]}


def stylegan2_generator_256(size=256, base=16384, **options) -> StyleGAN2Generator:
    return StyleGAN2Generator(size=size, base=base, **options)


def stylegan2_generator_512(size=512, base=32768, **options) -> StyleGAN2Generator:
    return StyleGAN2Generator(size=size, base=base, **options)


def stylegan2_generator_1024(size=1024, base=32768, **options) -> StyleGAN2Generator:
    return StyleGAN2Generator(size=size, base=base, **options)


def stylegan2_discriminator_256(size=256, base=16384, **options) -> StyleGAN2Discriminator:
    return StyleGAN2Discriminator(size=size, base=base, **options)


def stylegan2_discriminator_512(size=512, base=32768, **options) -> StyleGAN2Discriminator:
    return StyleGAN2Discriminator(size=size, base=base, **options)


def stylegan2_discriminator_1024(size=1024, base=32768, **options) -> StyleGAN2Discriminator:
    return StyleGAN2Discriminator(size=size, base=base, **options)


def stylegan2_256(size=256, base=16384, **options) -> StyleGAN2:
    return StyleGAN2(size=size, base=base, **options)


def stylegan2_512(size=512, base=32768, **options) -> StyleGAN2:
    return StyleGAN2(size=size, base=base, **options)


def stylegan2_1024(size=1024, base=32768, **options) -> StyleGAN2:
    return StyleGAN2(size=size, base=base, **options)
