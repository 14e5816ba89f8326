"""pix2pix: translate one kind of image into another with a U-Net that has to fool a patch discriminator.

"Image-to-Image Translation with Conditional Adversarial Networks", 2016, arXiv:1611.07004.
Parameter names: junyanz/pytorch-CycleGAN-and-pix2pix ``models/networks.py`` (BSD-2-Clause). The reference's in-place
activation overwrites the skip tensor; the ReLU after the concatenation makes this the same function.

Mirror notes:
- NCHW here, NHWC in TensorFlow; the last axis is concatenated there.
- A training step needs gradients of two losses: two calls of ``lower`` here, two tapes in TensorFlow.
"""

import functools

import torch
from torch import nn

from torch_impl.gan._patchgan import (
    NLayerDiscriminator,
    PatchCriterion,
    PixelDiscriminator,
    ReconstructionCriterion,
    TranslationPostProcess,
    initialize,
    linear_decay,
    norm_layer,
)
from torch_impl.losses.adversarial import adversarial_loss
from torch_impl.training.optimizers import Adam
from torch_impl.training.players import Player

__all__ = [
    "NLayerDiscriminator",
    "PatchCriterion",
    "Pix2Pix",
    "Pix2PixCriterion",
    "Pix2PixTrainer",
    "PixelDiscriminator",
    "ReconstructionCriterion",
    "TranslationPostProcess",
    "UnetGenerator",
    "UnetSkipConnectionBlock",
    "linear_decay",
    "patchgan_70",
    "patchgan_n5",
    "pix2pix",
    "pixelgan",
    "translate",
    "unet_128",
    "unet_256",
]


class UnetSkipConnectionBlock(nn.Module):
    """One level of the U-Net: halve the size, apply the level below, double the size, and append the result to the
    input.

    Args:
        outer, inner: channels of its output (and of the input, unless ``in_channels`` is given) and of the
            level below.
        submodule: the level below; None for the innermost.
        outermost: no activation before it, no skip around it, tanh after it.
        norm: "batch" or "instance".
        dropout: rate after the level.

    x: (N, C, H, W) -> (N, C + outer, H, W), or (N, outer, H, W) for the outermost.
    """

    def __init__(
        self,
        outer: int,
        inner: int,
        in_channels: int | None = None,
        submodule=None,
        outermost: bool = False,
        norm: str = "batch",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.outermost = outermost
        make_norm, bias = norm_layer(norm)
        down = nn.Conv2d(outer if in_channels is None else in_channels, inner, 4, 2, 1, bias=bias)
        up = functools.partial(nn.ConvTranspose2d, out_channels=outer, kernel_size=4, stride=2, padding=1)
        if outermost:
            layers = [down, submodule, nn.ReLU(), up(2 * inner), nn.Tanh()]
        elif submodule is None:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up(inner, bias=bias), make_norm(outer)]
        else:
            layers = [nn.LeakyReLU(0.2), down, make_norm(inner), submodule]
            layers += [nn.ReLU(), up(2 * inner, bias=bias), make_norm(outer)]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        y = self.model(x)
        return y if self.outermost else torch.cat((x, y), 1)  # mirror: last axis is concatenated


class UnetGenerator(nn.Module):
    """The generator (section 6.1.1).

    Args:
        num_downs: how often the size is halved; 8 reduces 256 pixels to 1.
        width: channels of the outermost level; doubled up to eightfold.
        in_chans, out_chans: channels of the images.
        norm: "batch" or "instance".
        dropout: rate of the middle levels with eightfold width.

    Inputs: (N, in_chans, H, W) float in [-1, 1]; H and W multiples of 2 ** num_downs.
    Returns: (N, out_chans, H, W) in [-1, 1].
    """

    def __init__(
        self,
        num_downs: int = 8,
        width: int = 64,
        in_chans: int = 3,
        out_chans: int = 3,
        norm: str = "batch",
        dropout: float = 0.5,
    ):
        super().__init__()
        if num_downs < 5:
            raise ValueError(f"num_downs={num_downs} must be 5 or more")
        self.num_downs = num_downs
        block = functools.partial(UnetSkipConnectionBlock, norm=norm)
        level = block(8 * width, 8 * width)
        for _ in range(num_downs - 5):
            level = block(8 * width, 8 * width, submodule=level, dropout=dropout)
        for factor in (4, 2, 1):
            level = block(factor * width, 2 * factor * width, submodule=level)
        self.model = block(out_chans, width, in_channels=in_chans, submodule=level, outermost=True)
        initialize(self)

    def forward(self, images):
        if any(size % 2**self.num_downs for size in images.shape[2:]):
            raise ValueError(
                f"images of {tuple(images.shape[2:])}: height and width must be multiples of {2**self.num_downs}"
            )
        return self.model(images)


class Pix2Pix(nn.Module):
    """Generator ``netG`` and conditional discriminator ``netD``.

    Args:
        num_downs, dropout: of the generator.
        width: of the generator and of the discriminator.
        norm: "batch" or "instance", of both.
        layers: of the discriminator.

    Inputs: ``A``, the images to translate, and ``B``, their targets: (N, 3, H, W) float in [-1, 1].
    Returns: dict: ``"fake_B"`` (N, 3, H, W), and the discriminator's logits on both pairs, ``"pred_fake"`` and
        ``"pred_real"`` (N, 1, H', W').
    """

    def __init__(self, num_downs: int = 8, dropout: float = 0.5, width: int = 64, norm: str = "batch", layers: int = 3):
        super().__init__()
        self.netG = UnetGenerator(num_downs, width, norm=norm, dropout=dropout)
        self.netD = NLayerDiscriminator(6, width, layers, norm)

    def forward(self, A, B):
        fake_B = self.netG(A)
        pred_fake = self.netD(torch.cat((A, fake_B), 1))
        pred_real = self.netD(torch.cat((A, B), 1))
        return {"fake_B": fake_B, "pred_fake": pred_fake, "pred_real": pred_real}


class Pix2PixCriterion(nn.Module):
    """Both players' losses (equations 1 to 4).

    Args:
        lambda_l1: weight of the distance to the real image.
        mode: see :func:`adversarial_loss`.

    Inputs: ``outputs`` of :class:`Pix2Pix`; ``targets["B"]``, the real images.
    Returns: dict of scalars: ``"D_fake"``, ``"D_real"``, their mean ``"D"``, ``"G_GAN"``, the weighted ``"G_L1"``,
        their sum ``"G"``, and ``"total"``, the sum of ``"D"`` and ``"G"``, which a training step lowers in turn.
    """

    def __init__(self, lambda_l1: float = 100.0, mode: str = "vanilla"):
        super().__init__()
        self.lambda_l1, self.mode = lambda_l1, mode

    def discriminator(self, pred_fake, pred_real) -> dict:
        """The discriminator's loss."""
        fake = adversarial_loss(pred_fake, False, self.mode)
        real = adversarial_loss(pred_real, True, self.mode)
        return {"D_fake": fake, "D_real": real, "D": 0.5 * (fake + real)}

    def generator(self, pred_fake, fake_B, B) -> dict:
        """The generator's loss."""
        gan = adversarial_loss(pred_fake, True, self.mode)
        l1 = self.lambda_l1 * (fake_B - B).abs().mean()
        return {"G_GAN": gan, "G_L1": l1, "G": gan + l1}

    def forward(self, outputs, targets):
        losses = self.discriminator(outputs["pred_fake"], outputs["pred_real"])
        losses |= self.generator(outputs["pred_fake"], outputs["fake_B"], targets["B"])
        return {**losses, "total": losses["D"] + losses["G"]}


class Pix2PixTrainer:
    """Alternating training (section 3.3): first the discriminator, then the generator against the updated one.

    Args:
        model: a :class:`Pix2Pix`.
        criterion: its losses.
        learning_rate: of both players; see :func:`linear_decay`.
    """

    def __init__(self, model, criterion=None, learning_rate: float = 2e-4):
        self.model = model
        self.criterion = Pix2PixCriterion() if criterion is None else criterion
        adam = functools.partial(Adam, lr=learning_rate, betas=(0.5, 0.999))
        self.generator = Player({"netG": model.netG}, adam)
        self.discriminator = Player({"netD": model.netD}, adam)

    @property
    def gradients(self) -> dict:
        """Gradients of the last step by name: ``netD.*`` from the loss ``"D"``, ``netG.*`` from ``"G"``."""
        return {**self.generator.gradients, **self.discriminator.gradients}

    def step(self, inputs, targets) -> dict:
        """One step of each player from ``inputs["A"]`` and ``targets["B"]``; returns the losses as each saw them."""
        A, B = inputs["A"], targets["B"]
        netG, netD = self.model.netG, self.model.netD
        fake_B = netG(A)
        losses = self.criterion.discriminator(netD(torch.cat((A, fake_B.detach()), 1)), netD(torch.cat((A, B), 1)))
        self.discriminator.lower(losses["D"])  # mirror: two tapes
        losses |= self.criterion.generator(netD(torch.cat((A, fake_B), 1)), fake_B, B)
        self.generator.lower(losses["G"])
        return {**losses, "total": losses["D"] + losses["G"]}


def translate(generator, images, mode: str = "train_stats"):
    """Images of a generator.

    Args:
        generator: a :class:`UnetGenerator`.
        images: (N, 3, H, W) float in [-1, 1].
        mode: "train_stats" keeps dropout and the batch's statistics, as in the paper (section 3.4); "eval" does not.

    Returns:
        (N, 3, H, W) in [-1, 1].
    """
    if mode not in ("train_stats", "eval"):
        raise ValueError(f"mode={mode!r} must be 'train_stats' or 'eval'")
    state = {name: buffer.clone() for name, buffer in generator.named_buffers()}
    training = generator.training
    generator.train(mode == "train_stats")
    with torch.no_grad():
        fake = generator(images)
        for name, buffer in generator.named_buffers():
            buffer.copy_(state[name])
    generator.train(training)
    return fake


def unet_256(**options) -> UnetGenerator:
    return UnetGenerator(**{"num_downs": 8, **options})


def unet_128(**options) -> UnetGenerator:
    return UnetGenerator(**{"num_downs": 7, **options})


def patchgan_70(**options) -> NLayerDiscriminator:
    return NLayerDiscriminator(**{"layers": 3, **options})


def patchgan_n5(**options) -> NLayerDiscriminator:
    return NLayerDiscriminator(**{"layers": 5, **options})


def pixelgan(**options) -> PixelDiscriminator:
    return PixelDiscriminator(**options)


def pix2pix(**options) -> Pix2Pix:
    return Pix2Pix(**options)
