"""pix2pixHD: street scenes from label maps, coarse to fine, judged at several scales.

"High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs", 2017, arXiv:1711.11585.
Parameter names: NVIDIA/pix2pixHD ``models/networks.py`` (NVIDIA's own licence, BSD-like). What to look at: the
generator also minimises the difference of the discriminator's features between its images and the real ones.

Mirror notes:
- NCHW here, NHWC in TensorFlow; labels and instances are (N, H, W) in both.
- A training step needs gradients of two losses: two calls of ``lower`` here, two tapes in TensorFlow.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.gan._patchgan import (
    ReconstructionCriterion,
    TranslationPostProcess,
    initialize,
    linear_decay,
    norm_layer,
)
from torch_impl.gan._perceptual import PerceptualDistance
from torch_impl.gan.cyclegan import ResnetBlock
from torch_impl.losses.adversarial import adversarial_loss
from torch_impl.training.optimizers import Adam
from torch_impl.training.players import Player

__all__ = [
    "FeatureEncoder",
    "GlobalGenerator",
    "LocalEnhancer",
    "MultiscaleCriterion",
    "MultiscaleDiscriminator",
    "Pix2PixHD",
    "Pix2PixHDCriterion",
    "Pix2PixHDTrainer",
    "ReconstructionCriterion",
    "TranslationPostProcess",
    "edges",
    "feature_matching",
    "instance_mean",
    "linear_decay",
    "pix2pixhd",
    "pix2pixhd_encoder",
    "pix2pixhd_global",
    "pix2pixhd_global_features",
    "pix2pixhd_local",
    "pix2pixhd_local_features",
    "pix2pixhd_multiscale_d2",
    "pix2pixhd_multiscale_d3",
]

VGG_WEIGHTS = {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 20: 1 / 4, 29: 1.0}  # of the first ReLU of VGG-19's stages


def conv_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    """A convolution, instance normalisation, ReLU; the 7x7 one pads by reflection, the others by zeros."""
    border = kernel_size == 7
    return [
        *([nn.ReflectionPad2d(3)] if border else []),
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, 0 if border else 1),
        nn.InstanceNorm2d(out_channels),
        nn.ReLU(),
    ]


def doubling(in_channels: int, out_channels: int) -> list[nn.Module]:
    """A transposed convolution that doubles the size, instance normalisation, ReLU."""
    up = nn.ConvTranspose2d(in_channels, out_channels, 3, 2, 1, 1)
    return [up, nn.InstanceNorm2d(out_channels), nn.ReLU()]


def resnet_layers(in_channels: int, width: int, downs: int, blocks: int) -> list[nn.Module]:
    """A 7x7 convolution, ``downs`` halvings, residual blocks, as many doublings."""
    layers = conv_relu(in_channels, width, 7)
    for i in range(downs):
        layers += conv_relu(width * 2**i, width * 2 ** (i + 1), 3, 2)
    layers += [ResnetBlock(width * 2**downs) for _ in range(blocks)]
    for i in reversed(range(downs)):
        layers += doubling(width * 2 ** (i + 1), width * 2**i)
    return layers


def image_layers(in_channels: int, out_channels: int) -> list[nn.Module]:
    """The image in [-1, 1]."""
    return [nn.ReflectionPad2d(3), nn.Conv2d(in_channels, out_channels, 7), nn.Tanh()]


class GlobalGenerator(nn.Module):
    """The coarse generator (section 3.2).

    Args:
        in_chans: channels of labels, edges and features.
        width: channels of the first layer.
        downs: halvings.
        blocks: residual blocks.

    Inputs: (N, in_chans, H, W) float; H and W multiples of 2 ** downs.
    Returns: (N, 3, H, W) in [-1, 1].
    """

    def __init__(self, in_chans: int = 36, width: int = 64, downs: int = 4, blocks: int = 9):
        super().__init__()
        self.model = nn.Sequential(*resnet_layers(in_chans, width, downs, blocks), *image_layers(width, 3))
        initialize(self)

    def forward(self, maps):
        return self.model(maps)


class LocalEnhancer(nn.Module):
    """The coarse generator at a fraction of the size, and enhancers that double it, given the map at their size.

    Args:
        in_chans: channels of labels, edges and features.
        width: channels of the last enhancer's first layer.
        downs, blocks: of the coarse generator.
        enhancers: number of enhancers.
        local_blocks: residual blocks of each.

    Inputs: (N, in_chans, H, W) float; H and W multiples of 2 ** (downs + enhancers).
    Returns: (N, 3, H, W) in [-1, 1].
    """

    def __init__(
        self,
        in_chans: int = 36,
        width: int = 32,
        downs: int = 4,
        blocks: int = 9,
        enhancers: int = 1,
        local_blocks: int = 3,
    ):
        super().__init__()
        self.enhancers = enhancers
        self.model = nn.Sequential(*resnet_layers(in_chans, width * 2**enhancers, downs, blocks))
        for i in range(1, enhancers + 1):
            channels = width * 2 ** (enhancers - i)
            first = [*conv_relu(in_chans, channels, 7), *conv_relu(channels, 2 * channels, 3, 2)]
            second = [*(ResnetBlock(2 * channels) for _ in range(local_blocks)), *doubling(2 * channels, channels)]
            second += image_layers(channels, 3) if i == enhancers else []
            setattr(self, f"model{i}_1", nn.Sequential(*first))
            setattr(self, f"model{i}_2", nn.Sequential(*second))
        self.downsample = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        initialize(self)

    def forward(self, maps):
        pyramid = [maps]
        for _ in range(self.enhancers):
            pyramid.append(self.downsample(pyramid[-1]))
        x = self.model(pyramid.pop())
        for i in range(1, self.enhancers + 1):
            x = getattr(self, f"model{i}_2")(getattr(self, f"model{i}_1")(pyramid.pop()) + x)
        return x


def one_hot(indices, classes: int, dtype):
    """One-hot maps of indices (N, H, W) -> (N, classes, H, W), 0 or 1."""
    return (indices[:, None] == torch.arange(classes, device=indices.device)[:, None, None]).to(dtype)


def edges(instances, dtype):
    """1 where a neighbour above, below, to the left or to the right is another instance.

    Args:
        instances: (N, H, W) integer.
        dtype: of the result.

    Returns:
        (N, 1, H, W) 0 or 1.
    """
    across = (instances[:, :, 1:] != instances[:, :, :-1]).to(dtype)
    down = (instances[:, 1:] != instances[:, :-1]).to(dtype)
    found = F.pad(across, (1, 0)) + F.pad(across, (0, 1)) + F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1))
    return (found > 0).to(dtype)[:, None]


def instance_mean(features, instances, count: int):
    """Replace every pixel by the mean over its instance.

    Args:
        features: (N, C, H, W).
        instances: (N, H, W) integer, below ``count``.
        count: maximal number of instances.

    Returns:
        (N, C, H, W).
    """
    member = one_hot(instances, count, features.dtype).flatten(2)  # (N, K, H W)
    means = features.flatten(2) @ member.mT / torch.clamp(member.sum(2), min=1)[:, None]  # (N, C, K)
    return (means @ member).reshape(features.shape)


class FeatureEncoder(nn.Module):
    """Features of the appearance of instances in an image (section 3.4).

    Args:
        width: channels of the first layer.
        downs: halvings.
        features: channels of the result.
        max_instances: maximal number of instances per image.

    Inputs: ``images`` (N, 3, H, W) float in [-1, 1], H and W multiples of 2 ** downs; ``instances`` (N, H, W) int64,
        instance indices from 0 to ``max_instances - 1``.
    Returns: (N, features, H, W) in [-1, 1], constant over an instance.
    """

    def __init__(self, width: int = 16, downs: int = 4, features: int = 3, max_instances: int = 256):
        super().__init__()
        self.max_instances = max_instances
        self.model = nn.Sequential(*resnet_layers(3, width, downs, 0), *image_layers(width, features))
        initialize(self)

    def forward(self, images, instances):
        return instance_mean(self.model(images), instances, self.max_instances)


class MultiscaleDiscriminator(nn.Module):
    """Patch discriminators of an image and of smaller versions of it (section 3.2).

    Args:
        in_chans: channels of labels, edges and image.
        width: channels of the first layer; doubled up to eightfold.
        layers: convolutions of stride 2.
        num_D: discriminators; the last one sees the full image.
        norm: "instance" or "batch".

    Inputs: ``images`` (N, in_chans, H, W) float, and ``others`` of the same shape or None: real and fake.
    Returns: dict: the output of layer j of the discriminator of scale i, for ``images`` under ``"real_i_j"``, for
        ``others`` under ``"fake_i_j"``: (N, C, H', W'), scale 0 being the full image; the last layer's are logits of
            patches.
    """

    def __init__(self, in_chans: int = 39, width: int = 64, layers: int = 3, num_D: int = 2, norm: str = "instance"):
        super().__init__()
        self.depth, self.num_D, make_norm = layers, num_D, norm_layer(norm)[0]
        for scale in range(num_D):
            widths = [width * min(2**i, 8) for i in range(layers + 1)]
            found = [[nn.Conv2d(in_chans, width, 4, 2, 2), nn.LeakyReLU(0.2)]]
            for i in range(1, layers + 1):
                conv = nn.Conv2d(widths[i - 1], widths[i], 4, 2 if i < layers else 1, 2)
                found.append([conv, make_norm(widths[i]), nn.LeakyReLU(0.2)])
            found.append([nn.Conv2d(widths[-1], 1, 4, 1, 2)])
            for i, parts in enumerate(found):
                setattr(self, f"scale{scale}_layer{i}", nn.Sequential(*parts))
        self.downsample = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        initialize(self)

    def judge(self, images, name: str) -> dict:
        """Outputs of all layers for images, by ``name_i_j``."""
        found = {}
        for i in range(self.num_D):
            x = images
            for j in range(self.depth + 2):
                x = getattr(self, f"scale{self.num_D - 1 - i}_layer{j}")(x)
                found[f"{name}_{i}_{j}"] = x
            images = self.downsample(images) if i < self.num_D - 1 else images
        return found

    def forward(self, images, others=None):
        found = self.judge(images, "real")
        return found if others is None else {**found, **self.judge(others, "fake")}


def scales(outputs, name: str) -> list[list]:
    """The layers' outputs of every scale, in order."""
    keys = [key.split("_")[1:] for key in outputs if key.startswith(f"{name}_") and key.count("_") == 2]
    counts = [max(int(number) for number in numbers) + 1 for numbers in zip(*keys)]
    return [[outputs[f"{name}_{i}_{j}"] for j in range(counts[1])] for i in range(counts[0])]


def scales_loss(found: list[list], real: bool):
    """Sum over the scales of the squared distance of all patches' logits from a label."""
    return sum(adversarial_loss(layers[-1], real, "lsgan") for layers in found)


def feature_matching(fakes: list[list], reals: list[list], weight: float = 10.0):
    """Mean absolute differences of all layers except the last, averaged over scales (equation 4)."""
    share = weight * 4 / (len(fakes[0]) - 1) / len(fakes)
    return share * sum(
        (fake - real.detach()).abs().mean()
        for of_fake, of_real in zip(fakes, reals)
        for fake, real in zip(of_fake[:-1], of_real[:-1])
    )


class MultiscaleCriterion(nn.Module):
    """Losses of a discriminator alone.

    Args:
        lambda_feat: weight of :func:`feature_matching`.

    Inputs: ``outputs`` of :class:`MultiscaleDiscriminator`; no targets.
    Returns: dict of scalars: ``"D_real"``, with fake images ``"D_fake"`` and ``"G_GAN_Feat"``, ``"total"``.
    """

    def __init__(self, lambda_feat: float = 10.0):
        super().__init__()
        self.lambda_feat = lambda_feat

    def forward(self, outputs, targets):
        reals = scales(outputs, "real")
        losses = {"D_real": scales_loss(reals, True)}
        if "fake_0_0" in outputs:
            fakes = scales(outputs, "fake")
            losses["D_fake"] = scales_loss(fakes, False)
            losses["G_GAN_Feat"] = feature_matching(fakes, reals, self.lambda_feat)
        return {**losses, "total": sum(losses.values())}


class Pix2PixHD(nn.Module):
    """Generator ``netG``, discriminators ``netD``, feature encoder ``netE``.

    Args:
        generator: makes the generator for a number of channels.
        label_nc: number of labels.
        feat_num: number of features; 0 for no encoder.
        encoder_width, encoder_downs, max_instances: of the encoder.
        discriminator_width, layers, num_D: of :class:`MultiscaleDiscriminator`.

    Inputs: ``labels`` (N, H, W) int64; ``instances`` (N, H, W) int64, see :class:`FeatureEncoder`; ``real``
        (N, 3, H, W) in [-1, 1].
    Returns: dict: ``"fake_B"`` (N, 3, H, W), and the discriminators' outputs for it and for the real images, see
        :class:`MultiscaleDiscriminator`.
    """

    def __init__(
        self,
        generator,
        label_nc: int = 35,
        feat_num: int = 3,
        encoder_width: int = 16,
        encoder_downs: int = 4,
        max_instances: int = 256,
        discriminator_width: int = 64,
        layers: int = 3,
        num_D: int = 2,
    ):
        super().__init__()
        self.label_nc, self.feat_num = label_nc, feat_num
        self.netG = generator(label_nc + 1 + feat_num)
        self.netD = MultiscaleDiscriminator(label_nc + 4, discriminator_width, layers, num_D)
        self.netE = FeatureEncoder(encoder_width, encoder_downs, feat_num, max_instances) if feat_num else None

    def encode(self, labels, instances, dtype):
        """The map of labels and edges, (N, label_nc + 1, H, W)."""
        return torch.cat([one_hot(labels, self.label_nc, dtype), edges(instances, dtype)], 1)

    def generate(self, maps, instances, images):
        """Images from maps, with the features of other images."""
        return self.netG(maps if self.netE is None else torch.cat([maps, self.netE(images, instances)], 1))

    def forward(self, labels, instances, real):
        maps = self.encode(labels, instances, real.dtype)
        fake = self.generate(maps, instances, real)
        return {"fake_B": fake, **self.netD(torch.cat([maps, real], 1), torch.cat([maps, fake], 1))}


class Pix2PixHDCriterion(nn.Module):
    """The players' losses (equations 2 to 5, and the perceptual loss of section 3.2).

    Args:
        lambda_feat: weight of the discriminators' features and of VGG's.
        widths: channels of VGG-19's stages.

    Inputs: ``outputs`` of :class:`Pix2PixHD`; ``targets["real"]``, the real images.
    Returns: dict of scalars: ``"G_GAN"``, ``"G_GAN_Feat"``, ``"G_VGG"``, their sum ``"G"``; ``"D_real"``, ``"D_fake"``,
        their mean ``"D"``; ``"total"``, the sum of ``"G"`` and ``"D"``, which a training step lowers in turn.
    """

    def __init__(self, lambda_feat: float = 10.0, widths: tuple[int, ...] = (64, 128, 256, 512, 512)):
        super().__init__()
        self.lambda_feat = lambda_feat
        layers = {layer: lambda_feat * weight for layer, weight in VGG_WEIGHTS.items()}
        self.perceptual = PerceptualDistance(layers, "l1", normalize=False, widths=widths)

    def generator(self, outputs, images) -> dict:
        """The generator's and the encoder's loss."""
        reals, fakes = scales(outputs, "real"), scales(outputs, "fake")
        losses = {
            "G_GAN": scales_loss(fakes, True),
            "G_GAN_Feat": feature_matching(fakes, reals, self.lambda_feat),
            "G_VGG": self.perceptual(outputs["fake_B"], images),
        }
        return {**losses, "G": sum(losses.values())}

    def discriminator(self, outputs) -> dict:
        """The discriminators' loss."""
        real, fake = scales_loss(scales(outputs, "real"), True), scales_loss(scales(outputs, "fake"), False)
        return {"D_real": real, "D_fake": fake, "D": 0.5 * (real + fake)}

    def forward(self, outputs, targets):
        losses = self.generator(outputs, targets["real"]) | self.discriminator(outputs)
        return {**losses, "total": losses["G"] + losses["D"]}


class Pix2PixHDTrainer:
    """Both players from one forward pass: both losses see the old generator and the old discriminators.

    Args:
        model: a :class:`Pix2PixHD`.
        criterion: its losses.
        learning_rate: of both players; see :func:`linear_decay`.
    """

    def __init__(self, model, criterion, learning_rate: float = 2e-4):
        self.model, self.criterion = model, criterion
        adam = functools.partial(Adam, lr=learning_rate, betas=(0.5, 0.999))
        encoder = {} if model.netE is None else {"netE": model.netE}
        self.generator = Player({"netG": model.netG, **encoder}, adam)
        self.discriminator = Player({"netD": model.netD}, adam)

    @property
    def gradients(self) -> dict:
        """Gradients of the last step by name: ``netG.*``, ``netE.*`` from the loss ``"G"``, ``netD.*`` from ``"D"``."""
        return {**self.generator.gradients, **self.discriminator.gradients}

    def step(self, inputs, targets) -> dict:
        """One step of each player from ``"labels"``, ``"instances"``, ``"real"``; the losses as each saw them."""
        model, images, instances = self.model, inputs["real"], inputs["instances"]
        maps = model.encode(inputs["labels"], instances, images.dtype)
        fake = model.generate(maps, instances, images)
        real = torch.cat([maps, images], 1)
        losses = self.criterion.generator({"fake_B": fake, **model.netD(real, torch.cat([maps, fake], 1))}, images)
        self.generator.lower(losses["G"])  # mirror: two tapes
        losses |= self.criterion.discriminator(model.netD(real, torch.cat([maps, fake.detach()], 1)))
        self.discriminator.lower(losses["D"])
        return {**losses, "total": losses["G"] + losses["D"]}


def pix2pixhd_global(**options) -> GlobalGenerator:
    return GlobalGenerator(**options)


def pix2pixhd_global_features(in_chans=39, **options) -> GlobalGenerator:
    return GlobalGenerator(in_chans, **options)


def pix2pixhd_local(**options) -> LocalEnhancer:
    return LocalEnhancer(**options)


def pix2pixhd_local_features(in_chans=39, **options) -> LocalEnhancer:
    return LocalEnhancer(in_chans, **options)


def pix2pixhd_encoder(**options) -> FeatureEncoder:
    return FeatureEncoder(**options)


def pix2pixhd_multiscale_d2(**options) -> MultiscaleDiscriminator:
    return MultiscaleDiscriminator(**{"num_D": 2, **options})


def pix2pixhd_multiscale_d3(**options) -> MultiscaleDiscriminator:
    return MultiscaleDiscriminator(**{"num_D": 3, **options})


def pix2pixhd(width=64, downs=4, blocks=9, **options) -> Pix2PixHD:
    return Pix2PixHD(functools.partial(GlobalGenerator, width=width, downs=downs, blocks=blocks), **options)
