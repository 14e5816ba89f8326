"""Common parts of pix2pix and CycleGAN: patch discriminators, losses of one network, initial values.

Parameter names: junyanz/pytorch-CycleGAN-and-pix2pix ``models/networks.py`` (BSD-2-Clause).

Mirror notes:
- Keras gives initial values to constructors; PyTorch fills the tensors of a finished network.
"""

from torch import nn

from torch_impl.losses.adversarial import adversarial_loss

__all__ = [
    "NLayerDiscriminator",
    "PatchCriterion",
    "PixelDiscriminator",
    "ReconstructionCriterion",
    "TranslationPostProcess",
    "linear_decay",
    "norm_layer",
]

NORMS = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "none": nn.Identity}


def norm_layer(norm: str):
    """A normalisation by name, and whether the convolution before it has a bias: only with instance normalisation."""
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} must be one of {sorted(NORMS)}")
    return NORMS[norm], norm == "instance"


def initialize(model) -> None:
    """Convolutions normal(0, 0.02), scales of batch normalisation normal(1, 0.02), biases 0."""
    for module in model.modules():  # mirror: initial values
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)


class NLayerDiscriminator(nn.Module):
    """PatchGAN: a logit for every overlapping patch; 70 pixels wide for three layers (arXiv:1611.07004, section 6.1.2).

    Args:
        in_chans: channels of the image, or of both images concatenated.
        width: channels of the first layer; doubled up to eightfold.
        layers: convolutions of stride 2.
        norm: "batch", "instance" or "none".

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, 1, H', W'); 30 x 30 for three layers and 256 pixels.
    """

    def __init__(self, in_chans: int = 6, width: int = 64, layers: int = 3, norm: str = "batch"):
        super().__init__()
        make_norm, bias = norm_layer(norm)
        model = [nn.Conv2d(in_chans, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels = width
        for i in range(1, layers + 1):
            wider = width * min(2**i, 8)
            stride = 2 if i < layers else 1
            model += [nn.Conv2d(channels, wider, 4, stride, 1, bias=bias)]
            model += [make_norm(wider), nn.LeakyReLU(0.2)]
            channels = wider
        model += [nn.Conv2d(channels, 1, 4, 1, 1)]
        self.model = nn.Sequential(*model)
        initialize(self)

    def forward(self, images):
        return self.model(images)


class PixelDiscriminator(nn.Module):
    """PixelGAN: a separate logit for every pixel.

    Args:
        in_chans: channels of both images concatenated.
        width: channels of the first layer.
        norm: "batch" or "instance".

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, 1, H, W).
    """

    def __init__(self, in_chans: int = 6, width: int = 64, norm: str = "batch"):
        super().__init__()
        make_norm, bias = norm_layer(norm)
        self.net = nn.Sequential(
            nn.Conv2d(in_chans, width, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 1, bias=bias),
            make_norm(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 1, bias=bias),
        )
        initialize(self)

    def forward(self, images):
        return self.net(images)


class ReconstructionCriterion(nn.Module):
    """The distance of a generator's images to the real ones, as its only loss.

    Args:
        weight: factor of the mean absolute difference.

    Inputs: ``outputs`` (N, 3, H, W); ``targets["B"]``, the real images.
    Returns: dict of scalars: ``"l1"``, ``"total"``.
    """

    def __init__(self, weight: float = 100.0):
        super().__init__()
        self.weight = weight

    def forward(self, outputs, targets):
        l1 = self.weight * (outputs - targets["B"]).abs().mean()
        return {"l1": l1, "total": l1}


class PatchCriterion(nn.Module):
    """A discriminator's loss on images that are all real.

    Args:
        mode: see :func:`adversarial_loss`.

    Inputs: ``outputs``, logits (N, 1, H', W'); no targets.
    Returns: dict of scalars: ``"real"``, ``"total"``.
    """

    def __init__(self, mode: str = "vanilla"):
        super().__init__()
        self.mode = mode

    def forward(self, outputs, targets):
        real = adversarial_loss(outputs, True, self.mode)
        return {"real": real, "total": real}


class TranslationPostProcess(nn.Module):
    """Images with values for display.

    Inputs: ``outputs`` of a generator, or of a model that returns it under ``"fake_B"``, in [-1, 1].
    Returns: dict: ``"images"`` (N, 3, H, W) float in [0, 255].
    """

    def forward(self, outputs):
        images = outputs["fake_B"] if isinstance(outputs, dict) else outputs
        return {"images": (images + 1) * 127.5}


def linear_decay(epoch: int, constant: int = 100, decay: int = 100) -> float:
    """Factor of the learning rate in an epoch counted from 0: 1 for ``constant`` epochs, then linear to 0."""
    return 1.0 - max(0, epoch + 1 - constant) / (decay + 1)
