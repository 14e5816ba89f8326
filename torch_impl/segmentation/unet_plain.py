"""U-Net in its most common variant: without separate backbone and head, with padding and batch normalisation.

"U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, arXiv:1505.04597.
Parameter names: those of the widespread PyTorch implementation milesial/Pytorch-UNet (GPL-3.0; names and shapes alone).
What to look at: images of any size; the doubled map is padded to the size of the one that it is joined with.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationPostProcess, pixel_cross_entropy

__all__ = [
    "DiceCriterion",
    "DoubleConv",
    "Down",
    "OutConv",
    "PlainUNet",
    "SegmentationPostProcess",
    "Up",
    "dice_loss",
    "unet_bilinear",
    "unet_deconv",
]


class DoubleConv(nn.Module):
    """Two 3x3 convolutions with normalisation and ReLU.

    Args:
        in_channels, out_channels, mid_channels: of the map, the result, and between.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int | None = None):
        super().__init__()
        mid_channels = mid_channels or out_channels
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, mid_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(),
            nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, x):
        return self.double_conv(x)


class Down(nn.Module):
    """Max pooling by 2, then two convolutions.  x: (N, C, H, W) -> (N, out_channels, H // 2, W // 2)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(in_channels, out_channels))

    def forward(self, x):
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Double a map, pad it to the size of another, join both, and two convolutions.

    Args:
        in_channels: of the small map and, joined, of both.
        out_channels: of the result.
        bilinear: whether to upsample by interpolation, or by a transposed convolution that halves the channels.

    Inputs: the small map, the other map (N, C, H, W).
    Returns: (N, out_channels, H, W) of the other map.
    """

    def __init__(self, in_channels: int, out_channels: int, bilinear: bool):
        super().__init__()
        self.up = None if bilinear else nn.ConvTranspose2d(in_channels, in_channels // 2, 2, 2)
        self.conv = DoubleConv(in_channels, out_channels, in_channels // 2 if bilinear else None)

    def forward(self, x, skip):
        x = resize_bilinear(x, tuple(2 * n for n in map_size(x)), True) if self.up is None else self.up(x)
        dy, dx = (there - here for there, here in zip(map_size(skip), map_size(x)))
        x = F.pad(x, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2))
        return self.conv(torch.cat((skip, x), 1))


class OutConv(nn.Module):
    """The classifier of the pixels.  x: (N, C, H, W) -> (N, K, H, W)."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, x):
        return self.conv(x)


class PlainUNet(nn.Module):
    """The network.

    Args:
        num_classes: classes K.
        in_chans: channels of the image.
        bilinear: see :class:`Up`; if set, the bottom has half as many channels.
        width: channels of the first stage; doubled from stage to stage.

    Inputs: (N, in_chans, H, W) float, 16 pixels or more on each side.
    Returns: dict: ``"logits"`` (N, K, H, W).
    """

    def __init__(self, num_classes: int = 2, in_chans: int = 3, bilinear: bool = False, width: int = 64):
        super().__init__()
        factor = 2 if bilinear else 1
        self.inc = DoubleConv(in_chans, width)
        self.down1, self.down2 = Down(width, 2 * width), Down(2 * width, 4 * width)
        self.down3, self.down4 = Down(4 * width, 8 * width), Down(8 * width, 16 * width // factor)
        self.up1 = Up(16 * width, 8 * width // factor, bilinear)
        self.up2 = Up(8 * width, 4 * width // factor, bilinear)
        self.up3 = Up(4 * width, 2 * width // factor, bilinear)
        self.up4 = Up(2 * width, width, bilinear)
        self.outc = OutConv(width, num_classes)

    def forward(self, images):
        x1 = self.inc(images)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up1(self.down4(x4), x4)
        x = self.up4(self.up3(self.up2(x, x3), x2), x1)
        return {"logits": self.outc(x)}


def dice_loss(probabilities, wanted, eps: float = 1e-6):
    """Dice loss of two sets of maps over a whole batch.

    Args:
        probabilities, wanted: (N, K, H, W), the latter 0 or 1.
        eps: added to both sides of the fraction.

    Returns:
        Scalar.
    """
    overlap = 2 * (probabilities * wanted).sum()
    return 1 - (overlap + eps) / (probabilities.sum() + wanted.sum() + eps)


class DiceCriterion(nn.Module):
    """Cross-entropy and the overlap of every class.

    Inputs: ``outputs["logits"]`` (N, K, H, W); ``targets["labels"]`` (N, H, W) int, none ignored.
    Returns: dict of scalars: ``"ce"``, ``"dice"``, ``"total"``.
    """

    def forward(self, outputs, targets):
        logits, labels = outputs["logits"], targets["labels"]
        classes = torch.arange(logits.shape[1], device=labels.device)[:, None, None]
        wanted = (labels[:, None] == classes).to(logits.dtype)
        losses = {"ce": pixel_cross_entropy(logits, labels), "dice": dice_loss(logits.softmax(1), wanted)}
        return {**losses, "total": losses["ce"] + losses["dice"]}


def unet_deconv(bilinear: bool = False, **options) -> PlainUNet:
    return PlainUNet(bilinear=bilinear, **options)


def unet_bilinear(bilinear: bool = True, **options) -> PlainUNet:
    return PlainUNet(bilinear=bilinear, **options)
