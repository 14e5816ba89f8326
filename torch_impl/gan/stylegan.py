"""StyleGAN: a constant image grows; at each layer a vector scales its channels, and noise adds the details.

"A Style-Based Generator Architecture for Generative Adversarial Networks", 2018, arXiv:1812.04948.
Parameter names: genforce/genforce ``models/stylegan_{generator,discriminator}.py`` (MIT).
What to look at: latent vectors never enter the image; they only scale and shift normalised channels.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- A training step needs gradients of two losses: two calls of ``lower`` here, two tapes in TensorFlow.
- The average of the styles is a buffer, which moves while the model trains.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.gan._equalized import EqualizedConv2d, EqualizedLinear, pixel_norm
from torch_impl.gan.pggan import (
    SLOPE,
    PGGANDiscriminator,
    PGGANPostProcess,
    ScoreCriterion,
    blended,
    channels_at,
    enlarged,
    sizes_from_four,
)
from torch_impl.losses.adversarial import adversarial_loss, r1_penalty
from torch_impl.training.moving_average import MovingAverage
from torch_impl.training.optimizers import Adam
from torch_impl.training.players import Player

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


class Blur(nn.Module):
    """Binomial filter of 3x3 pixels; its kernel is a buffer.  x: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (row * row[:, None] / 16).expand(channels, 1, 3, 3).clone())

    def forward(self, x):
        return F.conv2d(x, self.kernel, padding=1, groups=x.shape[1])


class ApplyNoise(nn.Module):
    """Add one map of noise to all channels, times a learnt strength per channel.  x: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.register_buffer("noise", torch.randn(1, 1, side, side))

    def forward(self, x, noise=None):
        noise = self.noise if noise is None else noise
        return x + self.weight[:, None, None] * noise


class SynthesisLayer(nn.Module):
    """A convolution, noise, bias, activation, normalisation, and a style (figure 1b).

    Args:
        in_channels, out_channels, side, w_dim: channels, size of the result and length of a style.
        kind: "const" has a learnt map instead of a convolution, "up" doubles the size first, "same" leaves it.

    x: (N, in_channels, H, W) -> (N, out_channels, side, side).
    """

    def __init__(self, in_channels: int, out_channels: int, side: int, w_dim: int, kind: str = "same"):
        super().__init__()
        self.kind, self.flip = kind, kind == "up" and side >= FUSED
        self.scale = (2 / (9 * in_channels)) ** 0.5
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if kind == "const":
            self.const = nn.Parameter(torch.ones(1, out_channels, side, side))
        else:
            self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.apply_noise = ApplyNoise(out_channels, side)
        self.style = EqualizedLinear(w_dim, 2 * out_channels, gain=1.0)
        if kind == "up":
            self.blur = Blur(out_channels)

    def forward(self, x, w, noise=None):
        if self.kind == "const":
            x = self.const.expand(w.shape[0], -1, -1, -1)
        else:
            weight = (self.weight.flip(2, 3) if self.flip else self.weight) * self.scale
            x = F.conv2d(enlarged(x) if self.kind == "up" else x, weight, padding=1)
            x = self.blur(x) if self.kind == "up" else x
        x = F.leaky_relu(self.apply_noise(x, noise) + self.bias[:, None, None], SLOPE)
        x = x - x.mean((2, 3), keepdim=True)
        x = x * (x.square().mean((2, 3), keepdim=True) + 1e-8).rsqrt()
        scale, shift = self.style(w)[:, :, None, None].chunk(2, 1)
        return x * (scale + 1) + shift


class Mapping(nn.Module):
    """From latent vectors to styles, both normalised.  (N, z_dim) -> (N, w_dim)."""

    def __init__(self, z_dim: int, w_dim: int, layers: int, lr_mul: float = 0.01):
        super().__init__()
        self.layers = layers
        for i in range(layers):
            setattr(self, f"dense{i}", EqualizedLinear(w_dim if i else z_dim, w_dim, lr_mul=lr_mul))

    def forward(self, z):
        x = pixel_norm(z)
        for i in range(self.layers):
            x = F.leaky_relu(getattr(self, f"dense{i}")(x), SLOPE)
        return x


class Truncation(nn.Module):
    """Move styles towards their average (appendix B).

    Args:
        w_dim: D, length of a style.
        psi: share of the distance from the average that is kept in evaluation mode, in the first ``layers`` layers.

    wp: (N, L, D) -> (N, L, D).
    """

    def __init__(self, w_dim: int, psi: float = 1.0, layers: int = 8, momentum: float = 0.995):
        super().__init__()
        self.psi, self.layers, self.momentum = psi, layers, momentum
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def follow(self, w) -> None:
        """Move the average towards the mean of a batch."""
        mean = w.detach().mean(0)  # mirror: moves while the model trains
        self.w_avg.copy_(mean + (self.w_avg - mean) * self.momentum)

    def forward(self, wp):
        if self.training or self.psi == 1:
            return wp
        share = wp.new_tensor([[self.psi if i < self.layers else 1.0] for i in range(wp.shape[1])])
        return self.w_avg + share * (wp - self.w_avg)


class Synthesis(nn.Module):
    """From styles to images.  wp (N, L, D), lod (1,), noise (N, P) or None -> (N, 3, size, size)."""

    def __init__(self, size: int, w_dim: int, base: int, most: int):
        super().__init__()
        self.register_buffer("lod", torch.zeros(()))
        self.sizes = sizes_from_four(size)
        channels = 0
        for block, side in enumerate(self.sizes):
            wider = channels_at(side, base, most)
            first = SynthesisLayer(channels or wider, wider, side, w_dim, "up" if block else "const")
            setattr(self, f"layer{2 * block}", first)
            setattr(self, f"layer{2 * block + 1}", SynthesisLayer(wider, wider, side, w_dim))
            setattr(self, f"output{block}", EqualizedConv2d(wider, 3, 1, gain=1.0))
            channels = wider

    def forward(self, wp, lod, noise=None):
        x = images = None
        last, seen = len(self.sizes) - 1, 0
        for block, side in enumerate(self.sizes):
            for i in (2 * block, 2 * block + 1):
                of_layer = None if noise is None else noise[:, seen : seen + side**2].reshape(-1, 1, side, side)
                x = getattr(self, f"layer{i}")(x, wp[:, i], of_layer)
                seen += side**2
            image = getattr(self, f"output{block}")(x)
            images = image if block == 0 else blended(image, enlarged(images), lod, last - block)
        return images


class StyleGANGenerator(nn.Module):
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
    Returns: dict: ``"w"`` (N, D), the style of ``z``; ``"wp"`` (N, L, D), styles by layer; ``"fake"`` (N, 3, size,
        size), about [-1, 1].
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
    ):
        super().__init__()
        self.mapping = Mapping(z_dim, w_dim, mapping_layers)
        self.truncation = Truncation(w_dim, psi, truncated_layers)
        self.synthesis = Synthesis(size, w_dim, base, most)

    def forward(self, z, z2, cutoff, lod, noise=None):
        w, w2 = self.mapping(z), self.mapping(z2)
        if self.training:
            self.truncation.follow(w)
        second = torch.arange(2 * len(self.synthesis.sizes), device=z.device) >= cutoff[0]
        wp = self.truncation(torch.where(second[:, None], w2[:, None], w[:, None]))
        return {"w": w, "wp": wp, "fake": self.synthesis(wp, lod, noise)}


class BlurredConv2d(EqualizedConv2d):
    """A convolution of the blurred map.  x: (N, in_channels, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.blur = Blur(in_channels)

    def forward(self, x):
        return super().forward(self.blur(x))


class StyleGANDiscriminator(PGGANDiscriminator):
    """Progressive GAN's discriminator, which also blurs a map before it halves its size, and averages before the
    activation.

    Args:
        size, base, most, group: see :class:`PGGANDiscriminator`.

    Inputs: ``images`` (N, 3, size, size) in [-1, 1]; ``lod`` (1,).
    Returns: scores (N, 1).
    """

    def __init__(self, size: int = 1024, base: int = 16384, most: int = 512, group: int = 4):
        super().__init__(size, base, most, True, group)

    def halving(self, channels: int, wider: int):
        return BlurredConv2d(channels, wider)


class StyleGAN(nn.Module):
    """Generator and discriminator.

    Args:
        size, z_dim, w_dim, mapping_layers, base, most, group: of both.

    Inputs: ``images`` (N, 3, size, size) in [-1, 1]; ``z`` (N, 4, z_dim): two vectors whose styles are mixed for the
        discriminator's step, and two for the generator's; ``cutoff`` (2,) and ``noise`` (N, 2, P) for the two steps,
        see :class:`StyleGANGenerator`; ``lod`` (1,).
    Returns: dict: ``"fake"`` (N, 3, size, size); scores (N, 1) ``"D_real"``, ``"D_fake"``, and ``"G_fake"`` of the
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
    ):
        super().__init__()
        self.generator = StyleGANGenerator(size, z_dim, w_dim, mapping_layers, base, most)
        self.discriminator = StyleGANDiscriminator(size, base, most, group)

    def generated(self, step: int, z, cutoff, noise, lod):
        """Images of the discriminator's step (0) or of the generator's (1)."""
        first, second = z[:, 2 * step], z[:, 2 * step + 1]
        return self.generator(first, second, cutoff[step : step + 1], lod, noise[:, step])["fake"]

    def forward(self, images, z, cutoff, noise, lod):
        fake = self.generated(0, z, cutoff, noise, lod)
        return {
            "fake": fake,
            "D_real": self.discriminator(images, lod),
            "D_fake": self.discriminator(fake, lod),
            "G_fake": self.discriminator(self.generated(1, z, cutoff, noise, lod), lod),
        }


class StyleGANCriterion(nn.Module):
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

    def forward(self, outputs, targets):
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
        fake = self.model.generated(0, **drawn).detach()
        losses = self.criterion.discriminator(D(images), D(fake))
        losses["D_r1"] = self.gamma / 2 * r1_penalty(D, images)
        losses["D"] = losses["D"] + losses["D_r1"]
        self.discriminator.lower(losses["D"])  # mirror: two tapes
        self.average.update(0.5 ** (len(images) / (1000 * self.half_life)))
        losses |= self.criterion.generator(D(self.model.generated(1, **drawn)))
        self.generator.lower(losses["G"])
        return {**losses, "total": losses["G"] + losses["D"]}


class StyledImageCriterion(nn.Module):
    """The distance of generated images to given ones.

    Args:
        weight: factor of the mean absolute difference.

    Inputs: ``outputs["fake"]`` (N, 3, H, W); ``targets["images"]``.
    Returns: dict of scalars: ``"l1"``, ``"total"``.
    """

    def __init__(self, weight: float = 100.0):
        super().__init__()
        self.weight = weight

    def forward(self, outputs, targets):
        l1 = self.weight * (outputs["fake"] - targets["images"]).abs().mean()
        return {"l1": l1, "total": l1}


def stylegan_generator(size=1024, **options) -> StyleGANGenerator:
    return StyleGANGenerator(size=size, **options)


def stylegan_discriminator(size=1024, **options) -> StyleGANDiscriminator:
    return StyleGANDiscriminator(size=size, **options)


def stylegan(size=1024, **options) -> StyleGAN:
    return StyleGAN(size=size, **options)
