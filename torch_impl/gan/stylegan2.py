"""StyleGAN2: styles scale the weights of convolutions, whose results are scaled back to deviation 1.

"Analyzing and Improving the Image Quality of StyleGAN", 2019, arXiv:1912.04958.
Parameter names: NVlabs/stylegan2-ada-pytorch ``training/networks.py`` (names and formulas alone).
What to look at: scaling the input and the output of a shared convolution is the same as separate weights per image.

Mirror notes:
- NCHW here, NHWC in TensorFlow; a dense kernel expects the map before it in the order C, H, W.
- A transposed convolution here is a convolution between zeros in TensorFlow, which exports and differentiates as one.
- A training step needs gradients of several losses: calls of ``lower`` here, tapes in TensorFlow.
- The average of the styles is a buffer, which moves while the model trains.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.gan._equalized import EqualizedLinear, minibatch_deviation, pixel_norm
from torch_impl.gan.pggan import PGGANPostProcess, ScoreCriterion, channels_at, sizes_from_four
from torch_impl.gan.stylegan import StyledImageCriterion, StyleGANCriterion
from torch_impl.losses.adversarial import r1_penalty
from torch_impl.training.moving_average import MovingAverage
from torch_impl.training.optimizers import Adam
from torch_impl.training.players import Player

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


def filter_of_four():
    """(4, 4): the outer product of (1, 3, 3, 1) / 8 with itself."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return row * row[:, None] / 64


def between_zeros(x):
    """A zero after every pixel, in both directions.  (N, C, H, W) -> (N, C, 2H, 2W)."""
    n, c, h, w = x.shape
    return F.pad(x[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1)).reshape(n, c, 2 * h, 2 * w)


def filtered(x, kernel, pads: tuple[int, int], stride: int = 1):
    """Depthwise convolution with one filter for all channels.  x: (N, C, H, W), kernel (4, 4) -> (N, C, H', W')."""
    kernel = kernel.flip(0, 1).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (*pads, *pads)), kernel, stride=stride, groups=x.shape[1])


def activated(x):
    """Leaky ReLU that keeps the deviation."""
    return F.leaky_relu(x, 0.2) * GAIN


class ModulatedConv2d(nn.Module):
    """A convolution whose weights are scaled by a style, per image (section 2.2).

    Args:
        in_channels, out_channels, kernel_size, w_dim: of the convolution, and the length of a style.

    x: (N, in_channels, H, W), w (N, w_dim) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, w_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.affine = EqualizedLinear(w_dim, in_channels, gain=1.0)
        nn.init.ones_(self.affine.bias)

    def demodulation(self, styles):
        """The factor that restores deviation 1.  (N, in_channels) -> (N, out_channels, 1, 1)."""
        squares = self.weight.square().sum((2, 3))
        return (styles.square() @ squares.T + 1e-8).rsqrt()[:, :, None, None]


class StyledConv2d(ModulatedConv2d):
    """A scaled convolution, noise, bias and activation.

    Args:
        in_channels, out_channels, side, w_dim: channels, size of the result, length of a style.
        up: double the size.

    x: (N, in_channels, H, W), w (N, w_dim), noise (N, 1, side, side) or None -> (N, out_channels, side, side).
    """

    def __init__(self, in_channels: int, out_channels: int, side: int, w_dim: int, up: bool = False):
        super().__init__(in_channels, out_channels, 3, w_dim)
        self.up = up
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(side, side))
        self.register_buffer("resample_filter", filter_of_four())

    def forward(self, x, w, noise=None):
        styles = self.affine(w)
        x = x * styles[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)  # mirror: between zeros
            x = filtered(x, self.resample_filter * 4, (1, 1))
        else:
            x = F.conv2d(x, self.weight, padding=1)
        x = x * self.demodulation(styles)
        x = x + (self.noise_const if noise is None else noise) * self.noise_strength
        return activated(x + self.bias[:, None, None])


class ToRGB(ModulatedConv2d):
    """Map features to colours.  x: (N, in_channels, H, W), w (N, w_dim) -> (N, 3, H, W)."""

    def __init__(self, in_channels: int, w_dim: int):
        super().__init__(in_channels, 3, 1, w_dim)

    def forward(self, x, w):
        styles = self.affine(w) / self.weight.shape[1] ** 0.5
        return F.conv2d(x * styles[:, :, None, None], self.weight, self.bias)


class SynthesisBlock(nn.Module):
    """The layers of one size, and its share of the image (figure 7b)."""

    def __init__(self, in_channels: int, out_channels: int, side: int, w_dim: int):
        super().__init__()
        self.first = in_channels == 0
        self.register_buffer("resample_filter", filter_of_four())
        if self.first:
            self.const = nn.Parameter(torch.randn(out_channels, side, side))
        else:
            self.conv0 = StyledConv2d(in_channels, out_channels, side, w_dim, up=True)
        self.conv1 = StyledConv2d(out_channels, out_channels, side, w_dim)
        self.torgb = ToRGB(out_channels, w_dim)

    def forward(self, x, image, ws, noise):
        """``ws``: the styles of the layers and then of the colours; ``noise``: of the layers, or Nones."""
        if self.first:
            x = self.const.expand(ws[0].shape[0], -1, -1, -1)
        else:
            x = self.conv0(x, ws[0], noise[0])
            image = filtered(between_zeros(image), self.resample_filter * 4, (2, 1))
        x = self.conv1(x, ws[-2], noise[-1])
        colours = self.torgb(x, ws[-1])
        return x, colours if self.first else image + colours


class StyleMapping(nn.Module):
    """From latent vectors to styles, and their average.  (N, z_dim) -> (N, w_dim)."""

    def __init__(self, z_dim: int, w_dim: int, layers: int, momentum: float = 0.995):
        super().__init__()
        self.layers, self.momentum = layers, momentum
        self.register_buffer("w_avg", torch.zeros(w_dim))
        for i in range(layers):
            setattr(self, f"fc{i}", EqualizedLinear(w_dim if i else z_dim, w_dim, gain=1.0, lr_mul=0.01))

    def follow(self, w) -> None:
        """Move the average towards the mean of a batch."""
        mean = w.detach().mean(0)  # mirror: moves while the model trains
        self.w_avg.copy_(mean + (self.w_avg - mean) * self.momentum)

    def forward(self, z):
        x = pixel_norm(z)
        for i in range(self.layers):
            x = activated(getattr(self, f"fc{i}")(x))
        return x


class StyleSynthesis(nn.Module):
    """From styles to images.  ws (N, L, D), noise (N, P) or None -> (N, 3, size, size)."""

    def __init__(self, size: int, w_dim: int, base: int, most: int):
        super().__init__()
        self.sizes = sizes_from_four(size)
        channels = 0
        for side in self.sizes:
            wider = channels_at(side, base, most)
            setattr(self, f"b{side}", SynthesisBlock(channels, wider, side, w_dim))
            channels = wider

    def forward(self, ws, noise=None):
        x = image = None
        layer = seen = 0
        for side in self.sizes:
            count = 1 if side == 4 else 2
            of_block = [None] * count
            if noise is not None:
                pixels = noise[:, seen : seen + count * side**2].reshape(-1, count, 1, side, side)
                of_block = [pixels[:, i] for i in range(count)]
            styles = [ws[:, layer + i] for i in range(count + 1)]
            x, image = getattr(self, f"b{side}")(x, image, styles, of_block)
            layer, seen = layer + count, seen + count * side**2
        return image


class StyleGAN2Generator(nn.Module):
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
    Returns: dict: ``"ws"`` (N, L, w_dim), styles by layer; ``"fake"`` (N, 3, size, size), about [-1, 1].
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
    ):
        super().__init__()
        self.psi, self.truncated_layers = psi, truncated_layers
        self.synthesis = StyleSynthesis(size, w_dim, base, most)
        self.mapping = StyleMapping(z_dim, w_dim, mapping_layers)

    def styles(self, z, z2, cutoff):
        """Styles by layer."""
        w, w2 = self.mapping(z), self.mapping(z2)
        if self.training:
            self.mapping.follow(w)
        count = 2 * len(self.synthesis.sizes)
        second = torch.arange(count, device=z.device) >= cutoff[0]
        ws = torch.where(second[:, None], w2[:, None], w[:, None])
        if self.training or self.psi == 1:
            return ws
        share = ws.new_tensor([[self.psi if i < self.truncated_layers else 1.0] for i in range(count)])
        return self.mapping.w_avg + share * (ws - self.mapping.w_avg)

    def forward(self, z, z2, cutoff, noise=None):
        ws = self.styles(z, z2, cutoff)
        return {"ws": ws, "fake": self.synthesis(ws, noise)}


class FilteredConv2d(nn.Module):
    """A convolution with weights scaled at run time, after a filter where it halves the size.

    Args:
        in_channels, out_channels, kernel_size: of the convolution.
        down: halve the size.
        linear: no bias and no activation.
        gain: times the result.

    x: (N, in_channels, H, W) -> (N, out_channels, H', W').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        down: bool = False,
        linear: bool = False,
        gain: float = 1.0,
    ):
        super().__init__()
        self.down, self.linear, self.gain, self.kernel_size = down, linear, gain, kernel_size
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.scale = (in_channels * kernel_size**2) ** -0.5
        if not linear:
            self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("resample_filter", filter_of_four())

    def forward(self, x):
        weight = self.weight * self.scale
        if not self.down:
            x = F.conv2d(x, weight, padding=self.kernel_size // 2)
        elif self.kernel_size == 1:
            x = F.conv2d(filtered(x, self.resample_filter, (1, 1), stride=2), weight)
        else:
            x = F.conv2d(filtered(x, self.resample_filter, (2, 2)), weight, stride=2)
        return (x if self.linear else activated(x + self.bias[:, None, None])) * self.gain


class DiscriminatorBlock(nn.Module):
    """Two convolutions and a skip connection that halve the size (figure 7c).

    x: (N, in_channels, H, W) -> (N, out_channels, H / 2, W / 2).
    """

    def __init__(self, in_channels: int, out_channels: int, first: bool = False):
        super().__init__()
        self.register_buffer("resample_filter", filter_of_four())
        self.first = first
        if first:
            self.fromrgb = FilteredConv2d(3, in_channels, 1)
        self.conv0 = FilteredConv2d(in_channels, in_channels, 3)
        self.conv1 = FilteredConv2d(in_channels, out_channels, 3, down=True, gain=0.5**0.5)
        self.skip = FilteredConv2d(in_channels, out_channels, 1, down=True, linear=True, gain=0.5**0.5)

    def forward(self, x):
        x = self.fromrgb(x) if self.first else x
        return self.skip(x) + self.conv1(self.conv0(x))


class DiscriminatorEpilogue(nn.Module):
    """From the last map to a score.  (N, C, 4, 4) -> (N, 1)."""

    def __init__(self, in_channels: int, group: int = 4):
        super().__init__()
        self.group = group
        self.conv = FilteredConv2d(in_channels + 1, in_channels, 3)
        self.fc = EqualizedLinear(in_channels * 16, in_channels, gain=1.0)
        self.out = EqualizedLinear(in_channels, 1, gain=1.0)

    def forward(self, x):
        x = self.conv(minibatch_deviation(x, self.group))
        return self.out(activated(self.fc(x.flatten(1))))  # mirror: in the order C, H, W


class StyleGAN2Discriminator(nn.Module):
    """The residual discriminator (section 4.1).

    Args:
        size: height and width of the images.
        base, most: a map of size s has min(base / s, most) channels.
        group: images per group of the minibatch deviation.

    Inputs: (N, 3, size, size) in [-1, 1].
    Returns: scores (N, 1).
    """

    def __init__(self, size: int = 1024, base: int = 32768, most: int = 512, group: int = 4):
        super().__init__()
        self.sizes = sizes_from_four(size)[:0:-1]
        for side in self.sizes:
            channels, wider = channels_at(side, base, most), channels_at(side // 2, base, most)
            setattr(self, f"b{side}", DiscriminatorBlock(channels, wider, side == size))
        self.b4 = DiscriminatorEpilogue(channels_at(4, base, most), group)

    def forward(self, images):
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
        direction: (N, 3, H, W) normal noise.
        noise: of ``synthesis``.

    Returns:
        lengths (N,), and the gradient (N, L, D).
    """
    if not ws.requires_grad:
        ws = ws.detach().requires_grad_()
    image = synthesis(ws, noise)
    moved = (image * direction).sum() / (image.shape[2] * image.shape[3]) ** 0.5
    gradient = torch.autograd.grad(moved, ws, create_graph=True)[0]
    # the last term is zero; it gives all parameters a gradient, even if only zero
    return gradient.square().sum(2).mean(1).sqrt() + 0 * moved, gradient


class StyleGAN2(nn.Module):
    """Generator and discriminator.

    Args:
        size, z_dim, w_dim, mapping_layers, base, most, group: of both.

    Inputs: ``images`` (N, 3, size, size) in [-1, 1]; for the generator's loss, its path lengths and the discriminator's
        loss: ``z`` (N, 6, z_dim), pairs of vectors whose styles are mixed, ``cutoff`` (3,) and ``noise`` (N, 3, P);
        ``direction`` (N, 3, size, size), normal noise of the path lengths.
    Returns: dict: ``"fake"`` (N, 3, size, size) for the discriminator; scores (N, 1) ``"D_real"``, ``"D_fake"``, and
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
    ):
        super().__init__()
        self.generator = StyleGAN2Generator(size, z_dim, w_dim, mapping_layers, base, most)
        self.discriminator = StyleGAN2Discriminator(size, base, most, group)

    def generated(self, phase: int, z, cutoff, noise):
        """Images of the generator's loss (0), of the path lengths (1), or of the discriminator's loss (2)."""
        first, second = z[:, 2 * phase], z[:, 2 * phase + 1]
        return self.generator(first, second, cutoff[phase : phase + 1], noise[:, phase])["fake"]

    def forward(self, images, z, cutoff, noise, direction):
        fake = self.generated(2, z, cutoff, noise)
        return {
            "fake": fake,
            "D_real": self.discriminator(images),
            "D_fake": self.discriminator(fake),
            "G_fake": self.discriminator(self.generated(0, z, cutoff, noise)),
            "moved": (self.generated(1, z, cutoff, noise) * direction).flatten(1).sum(1),
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
        mean = self.mean_length + 0.01 * (lengths.mean() - self.mean_length)
        self.mean_length = mean.detach()
        return self.path_weight * (lengths - mean).square().mean()

    def step(self, inputs, targets) -> dict:
        """One step of each player from the inputs of the model; returns the losses as each saw them."""
        images, z, cutoff, noise = (inputs[name] for name in ("images", "z", "cutoff", "noise"))
        G, D = self.model.generator, self.model.discriminator
        losses = self.criterion.generator(D(self.model.generated(0, z, cutoff, noise)))
        self.generator.lower(losses["G"])  # mirror: tapes
        if self.steps % self.every[0] == 0:
            half = max(len(images) // 2, 1)
            ws = G.styles(z[:half, 2], z[:half, 3], cutoff[1:2])
            losses["G_path"] = self.path_loss(ws, inputs["direction"][:half], noise[:half, 1])
            self.generator.lower(losses["G_path"] * self.every[0])
        fake = self.model.generated(2, z, cutoff, noise).detach()
        losses |= self.criterion.discriminator(D(images), D(fake))
        self.discriminator.lower(losses["D"])
        if self.steps % self.every[1] == 0:
            losses["D_r1"] = self.gamma / 2 * r1_penalty(D, images)
            # the last term is zero; it gives all parameters a gradient, even if only zero
            self.discriminator.lower(losses["D_r1"] * self.every[1] + 0 * D(images).mean())
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
