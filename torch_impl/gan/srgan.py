"""SRGAN: enlarge images so that they pass for photographs in a classifier's deep layers and to a discriminator.

"Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network", 2016, arXiv:1609.04802.
Parameter names: Lornatang/SRGAN-PyTorch ``model.py`` (Apache-2.0); xinntao/BasicSR ``srresnet_arch.py`` and
``discriminator_arch.py`` (Apache-2.0) for ``MSRResNet`` and ``Discriminator128``; leftthomas/SRGAN (MIT) for
``PooledDiscriminator``.
What to look at: images are only enlarged at the very end, where channels become pixels.

Mirror notes:
- NCHW here, NHWC in TensorFlow; a dense kernel expects the map before it in the order C, H, W.
- A training step needs gradients of two losses: two calls of ``lower`` here, two tapes in TensorFlow.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.gan._perceptual import PerceptualDistance
from torch_impl.layers.pixel_shuffle import PixelShuffle, pixel_shuffle
from torch_impl.layers.prelu import PReLU
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.adversarial import adversarial_loss, gradient_penalty, interpolate
from torch_impl.training.moving_average import MovingAverage
from torch_impl.training.optimizers import Adam
from torch_impl.training.players import Player
from torch_impl.training.rmsprop import RMSprop

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

NORMS = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "none": None}
OUTPUTS = {
    "clamp": lambda x: x.clamp(0, 1),  # no gradient outside
    "tanh": lambda x: (torch.tanh(x) + 1) / 2,
    "linear": lambda x: x,
}


def norm_layer(norm: str):
    """A normalisation by name, and whether a convolution needs a bias, which normalisation makes superfluous."""
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} must be one of {sorted(NORMS)}")
    return NORMS[norm], norm == "none"


class ResidualConvBlock(nn.Module):
    """Two normalised convolutions and the input.  x: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, bias: bool = False):
        super().__init__()
        self.rcb = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=bias),
            nn.BatchNorm2d(channels),
            PReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=bias),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x):
        return x + self.rcb(x)


class UpsampleBlock(nn.Module):
    """Doubling of the size, from four times the channels.  x: (N, C, H, W) -> (N, C, 2H, 2W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.upsample_block = nn.Sequential(nn.Conv2d(channels, 4 * channels, 3, 1, 1), PixelShuffle(2), PReLU())

    def forward(self, x):
        return self.upsample_block(x)


class SRResNet(nn.Module):
    """The generator (figure 4).

    Args:
        scale: 2, 4 or 8.
        blocks: residual blocks.
        width: channels.
        bias: whether the convolutions before a normalisation have a bias.
        output: "clamp" clips the result to [0, 1]; "tanh" is (tanh(x) + 1) / 2; "linear" leaves it unchanged.

    Inputs: (N, 3, H, W) in [0, 1].
    Returns: (N, 3, scale H, scale W).
    """

    def __init__(self, scale: int = 4, blocks: int = 16, width: int = 64, bias: bool = False, output: str = "clamp"):
        super().__init__()
        if scale not in (2, 4, 8):
            raise ValueError(f"scale={scale} must be 2, 4 or 8")
        if output not in OUTPUTS:
            raise ValueError(f"output={output!r} must be one of {sorted(OUTPUTS)}")
        self.output = output
        self.conv1 = nn.Sequential(nn.Conv2d(3, width, 9, 1, 4), PReLU())
        self.trunk = nn.Sequential(*(ResidualConvBlock(width, bias) for _ in range(blocks)))
        self.conv2 = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=bias), nn.BatchNorm2d(width))
        self.upsampling = nn.Sequential(*(UpsampleBlock(width) for _ in range(scale.bit_length() - 1)))
        self.conv3 = nn.Conv2d(width, 3, 9, 1, 4)

    def forward(self, lr):
        x = self.conv1(lr)
        x = x + self.conv2(self.trunk(x))
        return OUTPUTS[self.output](self.conv3(self.upsampling(x)))


class PlainResidualBlock(nn.Module):
    """Two convolutions and the input, without normalisation.  x: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))


class MSRResNet(nn.Module):
    """The generator without normalisation, which adds to the bilinearly upsampled image.

    Args:
        scale: 2, 3 or 4.
        blocks: residual blocks.
        width: channels.

    Inputs: (N, 3, H, W) in [0, 1].
    Returns: (N, 3, scale H, scale W).
    """

    def __init__(self, scale: int = 4, blocks: int = 16, width: int = 64):
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(f"scale={scale} must be 2, 3 or 4")
        self.scale, self.step = scale, 2 if scale == 4 else scale
        self.conv_first = nn.Conv2d(3, width, 3, 1, 1)
        self.body = nn.Sequential(*(PlainResidualBlock(width) for _ in range(blocks)))
        self.upconv1 = nn.Conv2d(width, width * self.step**2, 3, 1, 1)
        if scale == 4:
            self.upconv2 = nn.Conv2d(width, width * 4, 3, 1, 1)
        self.conv_hr = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_last = nn.Conv2d(width, 3, 3, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                module.weight.data *= 0.1
                nn.init.zeros_(module.bias)

    def forward(self, lr):
        x = self.body(F.leaky_relu(self.conv_first(lr), 0.1))
        x = F.leaky_relu(pixel_shuffle(self.upconv1(x), self.step), 0.1)
        if self.scale == 4:
            x = F.leaky_relu(pixel_shuffle(self.upconv2(x), 2), 0.1)
        x = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.1))
        return x + resize_bilinear(lr, [n * self.scale for n in map_size(lr)])


class Discriminator96(nn.Module):
    """The discriminator of 96 pixels: the size is halved and the channels doubled in turn (figure 4).

    Args:
        size: height and width of the images, a multiple of 16.
        width: channels of the first layer.
        norm: "batch", "instance" or "none"; batch normalisation would mix the images of a gradient penalty.
        hidden: width of the layer before the last.

    Inputs: (N, 3, size, size) in [0, 1].
    Returns: logits (N, 1).
    """

    def __init__(self, size: int = 96, width: int = 64, norm: str = "batch", hidden: int = 1024):
        super().__init__()
        make_norm, bias = norm_layer(norm)
        features = [nn.Conv2d(3, width, 3, 1, 1), nn.LeakyReLU(0.2)]
        channels = width
        for factor, stride in ((1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)):
            features.append(nn.Conv2d(channels, width * factor, 3, stride, 1, bias=bias))
            channels = width * factor
            features += [make_norm(channels)] if make_norm else []
            features.append(nn.LeakyReLU(0.2))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Linear(channels * (size // 16) ** 2, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )

    def forward(self, images):
        return self.classifier(self.features(images).flatten(1))  # mirror: in the order C, H, W


class Discriminator128(nn.Module):
    """The discriminator of 128 pixels (BasicSR): a 4x4 kernel where the size is halved.

    Args:
        size: height and width of the images, a multiple of 32.
        width: channels of the first layer.
        norm: "batch", "instance" or "none".
        hidden: width of the layer before the last.

    Inputs: (N, 3, size, size) in [0, 1].
    Returns: logits (N, 1).
    """

    def __init__(self, size: int = 128, width: int = 64, norm: str = "batch", hidden: int = 100):
        super().__init__()
        make_norm, bias = norm_layer(norm)
        self.norm = norm
        channels = 3
        for i, factor in enumerate((1, 2, 4, 8, 8)):
            wider = width * factor
            setattr(self, f"conv{i}_0", nn.Conv2d(channels, wider, 3, 1, 1, bias=bias or i == 0))
            if make_norm and i:
                setattr(self, f"bn{i}_0", make_norm(wider))
            setattr(self, f"conv{i}_1", nn.Conv2d(wider, wider, 4, 2, 1, bias=bias))
            if make_norm:
                setattr(self, f"bn{i}_1", make_norm(wider))
            channels = wider
        self.linear1 = nn.Linear(channels * (size // 32) ** 2, hidden)
        self.linear2 = nn.Linear(hidden, 1)

    def forward(self, images):
        x = images
        for i in range(5):
            for j in range(2):
                x = getattr(self, f"conv{i}_{j}")(x)
                if self.norm != "none" and i + j:
                    x = getattr(self, f"bn{i}_{j}")(x)
                x = F.leaky_relu(x, 0.2)
        return self.linear2(F.leaky_relu(self.linear1(x.flatten(1)), 0.2))


class PooledDiscriminator(nn.Module):
    """A discriminator for images of any size: the last map is averaged (leftthomas).

    Args:
        width: channels of the first layer.

    Inputs: (N, 3, H, W) in [0, 1].
    Returns: probabilities (N,) of being real.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        net = [nn.Conv2d(3, width, 3, 1, 1), nn.LeakyReLU(0.2)]
        channels = width
        for factor, stride in ((1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)):
            net += [nn.Conv2d(channels, width * factor, 3, stride, 1), nn.BatchNorm2d(width * factor)]
            net.append(nn.LeakyReLU(0.2))
            channels = width * factor
        net += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2 * channels, 1), nn.LeakyReLU(0.2)]
        net.append(nn.Conv2d(2 * channels, 1, 1))
        self.net = nn.Sequential(*net)

    def forward(self, images):
        return torch.sigmoid(self.net(images).flatten())


class SRGAN(nn.Module):
    """Generator ``netG`` and discriminator ``netD``.

    Args:
        generator, discriminator: the networks.

    Inputs: ``lr`` (N, 3, H, W), ``hr`` (N, 3, sH, sW) in [0, 1]; for a gradient penalty also ``mix`` (N,) in [0, 1],
        the share of the real image in each mixture.
    Returns: dict: ``"sr"`` (N, 3, sH, sW); logits (N, 1) ``"D_real"``, ``"D_fake"`` and, with ``mix``, ``"D_mix"``.
    """

    def __init__(self, generator, discriminator):
        super().__init__()
        self.netG, self.netD = generator, discriminator

    def forward(self, lr, hr, mix=None):
        sr = self.netG(lr)
        outputs = {"sr": sr, "D_real": self.netD(hr), "D_fake": self.netD(sr)}
        if mix is not None:
            outputs["D_mix"] = self.netD(interpolate(hr, sr, mix))
        return outputs


class SuperResolutionCriterion(nn.Module):
    """The distance of enlarged images to the real ones, as the only loss.

    Args:
        weight: factor of the distance.
        distance: "l1" or "l2".

    Inputs: ``outputs`` (N, 3, H, W); ``targets["hr"]``, the real images.
    Returns: dict of scalars: ``"pixel"``, ``"total"``.
    """

    def __init__(self, weight: float = 1.0, distance: str = "l2"):
        super().__init__()
        self.weight, self.distance = weight, distance

    def forward(self, outputs, targets):
        difference = outputs - targets["hr"]
        pixel = self.weight * (difference.abs() if self.distance == "l1" else difference.square()).mean()
        return {"pixel": pixel, "total": pixel}


class RealImagesCriterion(nn.Module):
    """A discriminator's loss on images that are all real.

    Args:
        mode: see :func:`adversarial_loss`.

    Inputs: ``outputs``, logits (N, 1); no targets.
    Returns: dict of scalars: ``"real"``, ``"total"``.
    """

    def __init__(self, mode: str = "vanilla"):
        super().__init__()
        self.mode = mode

    def forward(self, outputs, targets):
        real = adversarial_loss(outputs, True, self.mode)
        return {"real": real, "total": real}


class SRGANCriterion(nn.Module):
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
    ):
        super().__init__()
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

    def forward(self, outputs, targets):
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
        first, second = self.move_generator, self.move_discriminator
        if self.criterion.mode != "vanilla":
            first, second = second, first
        sr = self.model.netG(inputs["lr"])
        losses = first(sr, inputs) | second(sr, inputs)
        return {**losses, "total": losses["G"] + losses["D"]}

    def move_generator(self, sr, inputs) -> dict:
        """The generator's step; its losses."""
        losses = self.criterion.generator(self.model.netD(sr), sr, inputs["hr"])
        self.generator.lower(losses["G"])  # mirror: two tapes
        self.average.update()
        return losses

    def move_discriminator(self, sr, inputs) -> dict:
        """The discriminator's step; its losses."""
        hr, sr, netD = inputs["hr"], sr.detach(), self.model.netD
        losses = self.criterion.discriminator(netD(hr), netD(sr))
        if self.criterion.mode == "wgan_gp":
            losses["D_gp"] = self.penalty * gradient_penalty(netD, interpolate(hr, sr, inputs["mix"]))
            losses["D"] = losses["D"] + losses["D_gp"]
        self.discriminator.lower(losses["D"])
        if self.criterion.mode == "wgan_clip":
            with torch.no_grad():
                for p in self.discriminator.parameters.values():
                    p.clamp_(-self.clip, self.clip)
        return losses


class SuperResolutionPostProcess(nn.Module):
    """Images with values for display.

    Inputs: ``outputs`` of a generator, or of a model that returns it under ``"sr"``, in [0, 1].
    Returns: dict: ``"images"`` (N, 3, H, W) float in [0, 255].
    """

    def forward(self, outputs):
        images = outputs["sr"] if isinstance(outputs, dict) else outputs
        return {"images": images.clamp(0, 1) * 255.0}


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
