"""Progressive GAN: both networks grow from 4x4 pixels; a new resolution is faded in.

"Progressive Growing of GANs for Improved Quality, Stability, and Variation", 2017, arXiv:1710.10196.
Parameter names: genforce/genforce ``models/pggan_{generator,discriminator}.py`` (MIT).
What to look at: the level of detail ``lod`` is a tensor: all resolutions are computed, and blended by clipped weights.

Mirror notes:
- NCHW here, NHWC in TensorFlow; a dense kernel expects the map before it in the order C, H, W.
- A training step needs gradients of two losses: two calls of ``lower`` here, two tapes in TensorFlow.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.gan._equalized import EqualizedConv2d, EqualizedLinear, minibatch_deviation, pixel_norm
from torch_impl.layers.pooling import avg_pool2d
from torch_impl.layers.resize import map_size, resize_nearest
from torch_impl.losses.adversarial import adversarial_loss, gradient_penalty, interpolate
from torch_impl.training.moving_average import MovingAverage
from torch_impl.training.optimizers import Adam
from torch_impl.training.players import Player

__all__ = [
    "PGGAN",
    "PGGANCriterion",
    "PGGANDiscriminator",
    "PGGANGenerator",
    "PGGANPostProcess",
    "PGGANTrainer",
    "ScoreCriterion",
    "SynthesisCriterion",
    "level_of_detail",
    "pggan",
    "pggan_discriminator",
    "pggan_generator",
    "real_images",
]

SLOPE = 0.2


def channels_at(size: int, base: int, most: int) -> int:
    """Channels of the maps of a given size (table 2)."""
    return min(base // size, most)


def enlarged(x):
    """Nearest-neighbour upsampling by 2.  (N, C, H, W) -> (N, C, 2H, 2W)."""
    return resize_nearest(x, [2 * n for n in map_size(x)])


def blended(a, b, lod, level: int):
    """``a`` where ``lod`` is at most ``level``, ``b`` from ``level`` + 1 on, and a blend between them."""
    return a + (b - a) * (lod[0] - level).clamp(0, 1)


def sizes_from_four(size: int) -> list[int]:
    """The sizes 4, 8, ... up to a power of two."""
    if size < 8 or size & (size - 1):
        raise ValueError(f"size={size} must be a power of 2 from 8 on")
    return [2**i for i in range(2, size.bit_length())]


class PGGANGenerator(nn.Module):
    """The generator (table 2).

    Args:
        size: height and width of the images.
        z_dim: D, length of a latent vector.
        base, most: a map of size s has min(base / s, most) channels.
        fused_scale: enlarge by a transposed convolution, whose kernel is mirrored.

    Inputs: ``z`` (N, D); ``lod`` (1,), level of detail: 0 for all, k for 2^k times coarser images.
    Returns: (N, 3, size, size) about [-1, 1].
    """

    def __init__(
        self, size: int = 1024, z_dim: int = 512, base: int = 16384, most: int = 512, fused_scale: bool = False
    ):
        super().__init__()
        self.register_buffer("lod", torch.zeros(()))
        self.sizes = sizes_from_four(size)
        channels = z_dim
        for block, side in enumerate(self.sizes):
            wider = channels_at(side, base, most)
            if block == 0:
                first = EqualizedConv2d(channels, wider, 4, padding=3)  # from 1x1 to 4x4 pixels
            else:
                first = EqualizedConv2d(channels, wider, 3, padding=1, transposed=fused_scale)
            setattr(self, f"layer{2 * block}", first)
            setattr(self, f"layer{2 * block + 1}", EqualizedConv2d(wider, wider, 3, padding=1))
            setattr(self, f"output{block}", EqualizedConv2d(wider, 3, 1, gain=1.0))
            channels = wider

    def layer(self, i: int, x):
        """A convolution, its activation, and pixel normalisation."""
        return pixel_norm(F.leaky_relu(getattr(self, f"layer{i}")(x), SLOPE))

    def forward(self, z, lod):
        x = pixel_norm(z)[:, :, None, None]
        images, last = None, len(self.sizes) - 1
        for block in range(last + 1):
            x = self.layer(2 * block, enlarged(x) if block else x)
            x = self.layer(2 * block + 1, x)
            image = getattr(self, f"output{block}")(x)
            images = image if block == 0 else blended(image, enlarged(images), lod, last - block)
        return images


class PGGANDiscriminator(nn.Module):
    """The discriminator (table 2).

    Args:
        size: height and width of the images.
        base, most: a map of size s has min(base / s, most) channels.
        fused_scale: average before the activation.
        group: images per group of the minibatch deviation.

    Inputs: ``images`` (N, 3, size, size) in [-1, 1]; ``lod`` (1,), see :class:`PGGANGenerator`.
    Returns: scores (N, 1).
    """

    def __init__(self, size: int = 1024, base: int = 16384, most: int = 512, fused_scale: bool = False, group: int = 4):
        super().__init__()
        self.register_buffer("lod", torch.zeros(()))
        self.sizes, self.fused_scale, self.group = sizes_from_four(size)[::-1], fused_scale, group
        for block, side in enumerate(self.sizes):
            channels, wider = channels_at(side, base, most), channels_at(side // 2, base, most)
            setattr(self, f"input{block}", EqualizedConv2d(3, channels, 1))
            if side > 4:
                setattr(self, f"layer{2 * block}", EqualizedConv2d(channels, channels, 3, padding=1))
                setattr(self, f"layer{2 * block + 1}", self.halving(channels, wider))
            else:
                setattr(self, f"layer{2 * block}", EqualizedConv2d(channels + 1, channels, 3, padding=1))
                setattr(self, f"layer{2 * block + 1}", EqualizedLinear(channels * 16, wider))
                setattr(self, f"layer{2 * block + 2}", EqualizedLinear(wider, 1, gain=1.0))

    def halving(self, channels: int, wider: int):
        """A convolution that halves the map's size."""
        return EqualizedConv2d(channels, wider, 3, padding=1)

    def layer(self, i: int, x):
        """A layer without its activation."""
        return getattr(self, f"layer{i}")(x)

    def seen(self, block: int, images):
        """The first features of images at a block's size."""
        return F.leaky_relu(getattr(self, f"input{block}")(images), SLOPE)

    def forward(self, images, lod):
        x = self.seen(0, images)
        last = len(self.sizes) - 1
        for block in range(last):
            x = F.leaky_relu(self.layer(2 * block, x), SLOPE)
            x = self.layer(2 * block + 1, x)
            x = F.leaky_relu(avg_pool2d(x, 2), SLOPE) if self.fused_scale else avg_pool2d(F.leaky_relu(x, SLOPE), 2)
            images = avg_pool2d(images, 2)
            x = blended(x, self.seen(block + 1, images), lod, block)
        x = F.leaky_relu(self.layer(2 * last, minibatch_deviation(x, self.group)), SLOPE)
        x = F.leaky_relu(self.layer(2 * last + 1, x.flatten(1)), SLOPE)  # mirror: in the order C, H, W
        return self.layer(2 * last + 2, x)


class PGGAN(nn.Module):
    """Generator and discriminator.

    Args:
        size, z_dim, base, most, fused_scale, group: of both.

    Inputs: ``images`` (N, 3, size, size) in [-1, 1]; ``z``, ``z2`` (N, D), for the discriminator's step and for the
        generator's; ``mix`` (N,) in [0, 1], the share of the generated image in each mixture; ``lod`` (1,).
    Returns: dict: ``"fake"`` (N, 3, size, size); scores (N, 1) ``"D_real"``, ``"D_fake"``, ``"D_mix"``, and
        ``"G_fake"`` of the images from ``z2``.
    """

    def __init__(
        self,
        size: int = 1024,
        z_dim: int = 512,
        base: int = 16384,
        most: int = 512,
        fused_scale: bool = False,
        group: int = 4,
    ):
        super().__init__()
        self.generator = PGGANGenerator(size, z_dim, base, most, fused_scale)
        self.discriminator = PGGANDiscriminator(size, base, most, fused_scale, group)

    def forward(self, images, z, z2, mix, lod):
        fake = self.generator(z, lod)
        return {
            "fake": fake,
            "D_real": self.discriminator(images, lod),
            "D_fake": self.discriminator(fake, lod),
            "D_mix": self.discriminator(interpolate(fake, images, mix), lod),
            "G_fake": self.discriminator(self.generator(z2, lod), lod),
        }


class PGGANCriterion(nn.Module):
    """Both players' losses (appendix A.1), without the gradient penalty, which the trainer adds.

    Args:
        drift: weight of the squared scores of real images.

    Inputs: ``outputs`` of :class:`PGGAN`; no targets.
    Returns: dict of scalars: ``"D_wgan"``, ``"D_drift"``, their sum ``"D"``; ``"G"``; ``"total"``, the sum of ``"G"``
        and ``"D"``, which a training step lowers in turn.
    """

    def __init__(self, drift: float = 1e-3):
        super().__init__()
        self.drift = drift

    def discriminator(self, D_real, D_fake) -> dict:
        """The discriminator's loss."""
        wgan = adversarial_loss(D_real, True, "wgan") + adversarial_loss(D_fake, False, "wgan")
        drift = self.drift * D_real.square().mean()
        return {"D_wgan": wgan, "D_drift": drift, "D": wgan + drift}

    def generator(self, G_fake) -> dict:
        """The generator's loss."""
        return {"G": adversarial_loss(G_fake, True, "wgan")}

    def forward(self, outputs, targets):
        losses = self.discriminator(outputs["D_real"], outputs["D_fake"]) | self.generator(outputs["G_fake"])
        return {**losses, "total": losses["G"] + losses["D"]}


class PGGANTrainer:
    """Alternating training: the discriminator, the generator's average, then the generator on new vectors.

    Args:
        model: a :class:`PGGAN`.
        criterion: its losses.
        learning_rate: of both players' Adam; see :meth:`restart`.
        penalty: weight of the gradient penalty.
        momentum: of the generator's ``average``.
    """

    def __init__(self, model, criterion, learning_rate: float = 1e-3, penalty: float = 10.0, momentum: float = 0.999):
        self.model, self.criterion, self.penalty = model, criterion, penalty
        self.average = MovingAverage(model.generator, momentum)
        self.restart(learning_rate)

    def restart(self, learning_rate: float) -> None:
        """New optimisers, as whenever the level of detail passes an integer."""
        adam = functools.partial(Adam, lr=learning_rate, betas=(0.0, 0.99))
        self.generator = Player({"generator": self.model.generator}, adam)
        self.discriminator = Player({"discriminator": self.model.discriminator}, adam)

    @property
    def gradients(self) -> dict:
        """Gradients of the last step by name: ``discriminator.*`` from ``"D"``, ``generator.*`` from ``"G"``."""
        return {**self.generator.gradients, **self.discriminator.gradients}

    def step(self, inputs, targets) -> dict:
        """One step of each player from the inputs of the model; returns the losses as each saw them."""
        images, lod = inputs["images"], inputs["lod"]
        G, D = self.model.generator, functools.partial(self.model.discriminator, lod=lod)
        fake = G(inputs["z"], lod).detach()
        losses = self.criterion.discriminator(D(images), D(fake))
        losses["D_gp"] = self.penalty * gradient_penalty(D, interpolate(fake, images, inputs["mix"]))
        losses["D"] = losses["D"] + losses["D_gp"]
        self.discriminator.lower(losses["D"])  # mirror: two tapes
        self.average.update()
        losses |= self.criterion.generator(D(G(inputs["z2"], lod)))
        self.generator.lower(losses["G"])
        return {**losses, "total": losses["G"] + losses["D"]}


class SynthesisCriterion(nn.Module):
    """The distance of generated images to given ones.

    Args:
        weight: factor of the mean absolute difference.

    Inputs: ``outputs`` (N, 3, H, W); ``targets["images"]``.
    Returns: dict of scalars: ``"l1"``, ``"total"``.
    """

    def __init__(self, weight: float = 100.0):
        super().__init__()
        self.weight = weight

    def forward(self, outputs, targets):
        l1 = self.weight * (outputs - targets["images"]).abs().mean()
        return {"l1": l1, "total": l1}


class ScoreCriterion(nn.Module):
    """A discriminator's loss on images that are all real.

    Args:
        mode: see :func:`adversarial_loss`.

    Inputs: ``outputs``, scores (N, 1); no targets.
    Returns: dict of scalars: ``"real"``, ``"total"``.
    """

    def __init__(self, mode: str = "wgan"):
        super().__init__()
        self.mode = mode

    def forward(self, outputs, targets):
        real = adversarial_loss(outputs, True, self.mode)
        return {"real": real, "total": real}


class PGGANPostProcess(nn.Module):
    """Images with values for display.

    Inputs: ``outputs`` of a generator, or of a model that returns it under ``"fake"``, about [-1, 1].
    Returns: dict: ``"pictures"`` (N, 3, H, W) float in [0, 255].
    """

    def forward(self, outputs):
        images = outputs["fake"] if isinstance(outputs, dict) else outputs
        return {"pictures": (images.clamp(-1, 1) + 1) * 127.5}


def level_of_detail(kimg: float, size: int = 1024, stable: float = 600.0, fade: float = 600.0) -> float:
    """The level of detail after a number of thousands of images: 4x4 first, then each size is faded in and kept."""
    most = float(size.bit_length() - 3)
    phase, rest = divmod(kimg, stable + fade)
    return max(0.0, most - phase - max(0.0, rest - stable) / fade)


def real_images(images, lod: float):
    """Real images at a level of detail: coarser, faded, and at full size again.  (N, 3, H, W) -> (N, 3, H, W)."""
    factor = 2 ** int(lod)
    x = avg_pool2d(images, factor)
    x = x + (enlarged(avg_pool2d(x, 2)) - x) * (lod - int(lod)) if lod > int(lod) else x
    return resize_nearest(x, map_size(images))


def pggan_generator(size=1024, **options) -> PGGANGenerator:
    return PGGANGenerator(size=size, **options)


def pggan_discriminator(size=1024, **options) -> PGGANDiscriminator:
    return PGGANDiscriminator(size=size, **options)


def pggan(size=1024, **options) -> PGGAN:
    return PGGAN(size=size, **options)
