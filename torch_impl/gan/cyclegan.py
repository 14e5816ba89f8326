"""CycleGAN: translate images between two sets without pairs; translating there and back must reproduce the image.

"Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks", 2017, arXiv:1703.10593.
Parameter names: junyanz/pytorch-CycleGAN-and-pix2pix ``models/networks.py`` (BSD-2-Clause).
What to look at: the generators move first, against the old discriminators; pix2pix does the opposite.

Mirror notes:
- A training step needs gradients of two losses: two calls of ``lower`` here, two tapes in TensorFlow.
- PyTorch ships reflection padding; Keras only has zero padding.
"""

import functools

import torch
from torch import nn

from torch_impl.gan._patchgan import (
    NLayerDiscriminator,
    PatchCriterion,
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
    "CycleGAN",
    "CycleGANCriterion",
    "CycleGANTrainer",
    "ImagePool",
    "PatchCriterion",
    "ReconstructionCriterion",
    "ResnetBlock",
    "ResnetGenerator",
    "TranslationPostProcess",
    "cyclegan",
    "cyclegan_resnet_6blocks",
    "cyclegan_resnet_9blocks",
    "linear_decay",
    "patchgan_instance",
]


class ResnetBlock(nn.Module):
    """Two convolutions and the input.  x: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, norm: str = "instance", dropout: float | None = None):
        super().__init__()
        make_norm, bias = norm_layer(norm)
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias)]  # mirror: ships reflection
        layers += [make_norm(channels), nn.ReLU()]
        layers += [] if dropout is None else [nn.Dropout(dropout)]
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), make_norm(channels)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.conv_block(x)


class ResnetGenerator(nn.Module):
    """The generator (section 7.2): two halvings, residual blocks, two doublings.

    Args:
        blocks: residual blocks; the paper has 6 for 128 pixels and 9 from 256 on.
        width: channels of the first layer.
        in_chans, out_chans: channels of the images.
        norm: "instance" or "batch".
        dropout: rate in the middle of every block; with None there is no such layer, which changes the indices of the
            next ones.

    Inputs: (N, in_chans, H, W) float in [-1, 1]; H and W multiples of 4.
    Returns: (N, out_chans, H, W) in [-1, 1].
    """

    def __init__(
        self,
        blocks: int = 9,
        width: int = 64,
        in_chans: int = 3,
        out_chans: int = 3,
        norm: str = "instance",
        dropout: float | None = None,
    ):
        super().__init__()
        make_norm, bias = norm_layer(norm)
        conv = functools.partial(nn.Conv2d, bias=bias)
        model = [nn.ReflectionPad2d(3), conv(in_chans, width, 7), make_norm(width), nn.ReLU()]
        for channels in (width, 2 * width):
            model += [conv(channels, 2 * channels, 3, 2, 1), make_norm(2 * channels), nn.ReLU()]
        model += [ResnetBlock(4 * width, norm, dropout) for _ in range(blocks)]
        for channels in (2 * width, width):
            model += [nn.ConvTranspose2d(2 * channels, channels, 3, 2, 1, 1, bias=bias), make_norm(channels), nn.ReLU()]
        model += [nn.ReflectionPad2d(3), nn.Conv2d(width, out_chans, 7), nn.Tanh()]
        self.model = nn.Sequential(*model)
        initialize(self)

    def forward(self, images):
        return self.model(images)


class CycleGAN(nn.Module):
    """Generators ``netG_A`` (A to B) and ``netG_B`` (back), discriminators ``netD_A`` (of B) and ``netD_B`` (of A).

    Args:
        blocks, dropout: of the generators.
        width, norm: of the generators and of the discriminators.
        layers: of the discriminators.

    Inputs: ``A`` and ``B``, images of the two sets: (N, 3, H, W) float in [-1, 1].
    Returns: dict: ``"fake_B"``, ``"fake_A"``, the translations; ``"rec_A"``, ``"rec_B"``, these translated back;
        ``"idt_A"``, ``"idt_B"``, what ``netG_A`` makes of B and ``netG_B`` of A: (N, 3, H, W); logits (N, 1, H', W')
        of the discriminators on real and translated images: ``"D_A_real"`` and ``"D_A_fake"`` (of B), ``"D_B_real"``
        and ``"D_B_fake"`` (of A).
    """

    def __init__(
        self, blocks: int = 9, dropout: float | None = None, width: int = 64, norm: str = "instance", layers: int = 3
    ):
        super().__init__()
        self.netG_A, self.netG_B = (ResnetGenerator(blocks, width, norm=norm, dropout=dropout) for _ in range(2))
        self.netD_A, self.netD_B = (NLayerDiscriminator(3, width, layers, norm) for _ in range(2))

    def forward(self, A, B):
        fake_B, fake_A = self.netG_A(A), self.netG_B(B)
        return {
            "fake_B": fake_B,
            "rec_A": self.netG_B(fake_B),
            "fake_A": fake_A,
            "rec_B": self.netG_A(fake_A),
            "idt_A": self.netG_A(B),
            "idt_B": self.netG_B(A),
            "D_A_real": self.netD_A(B),
            "D_A_fake": self.netD_A(fake_B),
            "D_B_real": self.netD_B(A),
            "D_B_fake": self.netD_B(fake_A),
        }


class CycleGANCriterion(nn.Module):
    """The players' losses (equations 1 to 4, and section 5.2 for the identity).

    Args:
        lambda_a, lambda_b: weights of the cycles A to B to A and B to A to B.
        lambda_identity: weight of the identity on images of the target set, relative to these.
        mode: see :func:`adversarial_loss`.

    Inputs: ``outputs`` of :class:`CycleGAN`; ``targets["A"]``, ``targets["B"]``, the images of the two sets.
    Returns: dict of scalars: ``"G_A"``, ``"G_B"``, ``"cycle_A"``, ``"cycle_B"``, ``"idt_A"``, ``"idt_B"``, their sum
        ``"G"``; ``"D_A"``, ``"D_B"``, their sum ``"D"``; ``"total"``, the sum of ``"G"`` and ``"D"``, which a training
        step lowers in turn.
    """

    def __init__(
        self, lambda_a: float = 10.0, lambda_b: float = 10.0, lambda_identity: float = 0.5, mode: str = "lsgan"
    ):
        super().__init__()
        self.lambda_a, self.lambda_b, self.lambda_identity, self.mode = lambda_a, lambda_b, lambda_identity, mode

    def generators(self, outputs, A, B) -> dict:
        """The loss of both generators."""
        losses = {
            "G_A": adversarial_loss(outputs["D_A_fake"], True, self.mode),
            "G_B": adversarial_loss(outputs["D_B_fake"], True, self.mode),
            "cycle_A": self.lambda_a * (outputs["rec_A"] - A).abs().mean(),
            "cycle_B": self.lambda_b * (outputs["rec_B"] - B).abs().mean(),
            # NOTE: the weights are those of the set that the image comes from
            "idt_A": self.lambda_b * self.lambda_identity * (outputs["idt_A"] - B).abs().mean(),
            "idt_B": self.lambda_a * self.lambda_identity * (outputs["idt_B"] - A).abs().mean(),
        }
        return {**losses, "G": sum(losses.values())}

    def discriminators(self, outputs) -> dict:
        """The loss of both discriminators."""
        losses = {
            name: 0.5
            * (
                adversarial_loss(outputs[f"{name}_real"], True, self.mode)
                + adversarial_loss(outputs[f"{name}_fake"], False, self.mode)
            )
            for name in ("D_A", "D_B")
        }
        return {**losses, "D": losses["D_A"] + losses["D_B"]}

    def forward(self, outputs, targets):
        losses = self.generators(outputs, targets["A"], targets["B"]) | self.discriminators(outputs)
        return {**losses, "total": losses["G"] + losses["D"]}


class ImagePool:
    """Earlier translations, some of which a discriminator sees instead of new ones (section 4).

    Args:
        size: images kept; 0 returns every image unchanged.
    """

    def __init__(self, size: int = 50):
        self.size, self.images = size, []

    def query(self, images, keep, index):
        """Images to show: until the pool is full, each image is stored and shown; after that it is shown, or replaces
        another.

        Args:
            images: (N, C, H, W).
            keep: (N,) booleans, each with probability 1/2: show the new image without storing it.
            index: (N,) integers below ``size``: which stored image is otherwise shown and replaced.

        Returns:
            (N, C, H, W), without a gradient.
        """
        shown = []
        for image, new, i in zip(images.detach(), keep, index):
            if len(self.images) < self.size:
                self.images.append(image)
                shown.append(image)
            elif self.size == 0 or new:
                shown.append(image)
            else:
                shown.append(self.images[i])
                self.images[i] = image
        return torch.stack(shown)


class CycleGANTrainer:
    """Alternating training: both generators against the old discriminators, then both discriminators.

    Args:
        model: a :class:`CycleGAN`.
        criterion: its losses.
        learning_rate: of both players; see :func:`linear_decay`.
        pool: images kept per set, see :class:`ImagePool`.
    """

    def __init__(self, model, criterion, learning_rate: float = 2e-4, pool: int = 50):
        self.model, self.criterion = model, criterion
        adam = functools.partial(Adam, lr=learning_rate, betas=(0.5, 0.999))
        self.generators = Player({"netG_A": model.netG_A, "netG_B": model.netG_B}, adam)
        self.discriminators = Player({"netD_A": model.netD_A, "netD_B": model.netD_B}, adam)
        self.pool_A, self.pool_B = ImagePool(pool), ImagePool(pool)

    @property
    def gradients(self) -> dict:
        """Gradients of the last step by name: ``netG_*`` from the loss ``"G"``, ``netD_*`` from ``"D"``."""
        return {**self.generators.gradients, **self.discriminators.gradients}

    def step(self, inputs, targets) -> dict:
        """One step of each player from the images ``"A"`` and ``"B"``; returns the losses as each saw them.

        ``inputs["keep"]`` and ``inputs["index"]``, (2, N) are the random choices of the pools of A and of B; without
        them the first images are shown and stored.
        """
        A, B = inputs["A"], inputs["B"]
        count = len(A)
        keep = inputs.get("keep", torch.ones(2, count, dtype=torch.bool)).tolist()
        index = inputs.get("index", torch.zeros(2, count, dtype=torch.long)).tolist()
        outputs = self.model(A, B)
        losses = self.criterion.generators(outputs, A, B)
        self.generators.lower(losses["G"])  # mirror: two tapes
        fake_A = self.pool_A.query(outputs["fake_A"], keep[0], index[0])
        fake_B = self.pool_B.query(outputs["fake_B"], keep[1], index[1])
        netD_A, netD_B = self.model.netD_A, self.model.netD_B
        logits = {"D_A_real": netD_A(B), "D_A_fake": netD_A(fake_B), "D_B_real": netD_B(A), "D_B_fake": netD_B(fake_A)}
        losses |= self.criterion.discriminators(logits)
        self.discriminators.lower(losses["D"])
        return {**losses, "total": losses["G"] + losses["D"]}


def cyclegan_resnet_9blocks(**options) -> ResnetGenerator:
    return ResnetGenerator(**{"blocks": 9, **options})


def cyclegan_resnet_6blocks(**options) -> ResnetGenerator:
    return ResnetGenerator(**{"blocks": 6, **options})


def patchgan_instance(**options) -> NLayerDiscriminator:
    return NLayerDiscriminator(**{"in_chans": 3, "norm": "instance", **options})


def cyclegan(**options) -> CycleGAN:
    return CycleGAN(**options)
