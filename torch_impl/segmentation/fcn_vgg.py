"""FCN on VGG-16, as in the paper: fully connected layers become convolutions, and transposed ones upsample the scores.

"Fully Convolutional Networks for Semantic Segmentation", 2014, arXiv:1411.4038.
Parameter names: wkentaro/pytorch-fcn ``torchfcn/models`` (MIT), after the authors' Caffe networks.
What to look at: the first convolution pads by 100, and every map is cropped at a fixed offset to align it with the one
it is added to.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
- Kernels of transposed convolutions are stored (in, out, kh, kw), in Keras (kh, kw, out, in).
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.resize import map_size
from torch_impl.losses.segmentation import SegmentationPostProcess, pixel_losses

__all__ = [
    "FCN",
    "FCNCriterion",
    "SegmentationPostProcess",
    "fcn8s_atonce_vgg16",
    "fcn8s_vgg16",
    "fcn16s_vgg16",
    "fcn32s_vgg16",
]


DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each stage of VGG-16
ONCE = (0.01, 0.0001)  # factors of the maps of pool4 and pool3 when everything is trained at once


def bilinear(channels: int, kernel: int):
    """Kernel (C, C, k, k) of depthwise bilinear interpolation."""
    factor = (kernel + 1) // 2
    place = torch.arange(kernel) - (factor - 0.5 if kernel % 2 == 0 else factor - 1)
    line = 1 - place.abs() / factor
    return torch.eye(channels)[:, :, None, None] * (line[:, None] * line)


class FCN(nn.Module):
    """The network.

    Args:
        stride: 32, 16 or 8: of the finest map that scores are taken from.
        num_classes: classes K.
        widths: channels of the five stages.
        fc_width: channels of the convolutions that were fully connected.
        at_once: whether pool4's and pool3's maps are scaled down, to train everything at once.
        dropout: rate after these.

    Inputs: (N, 3, H, W) float, BGR, the mean (104.00699, 116.66877, 122.67892) subtracted.
    Returns: dict: ``"logits"`` (N, K, H, W).
    Raises: ValueError if ``stride`` is unknown.
    """

    def __init__(
        self,
        stride: int = 8,
        num_classes: int = 21,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        fc_width: int = 4096,
        at_once: bool = False,
        dropout: float = 0.5,
    ):
        super().__init__()
        if stride not in (8, 16, 32):
            raise ValueError(f"stride={stride} must be 8, 16 or 32")
        self.stride, self.scales = stride, ONCE if at_once else (1.0, 1.0)
        channels = 3
        for stage, (width, depth) in enumerate(zip(widths, DEPTHS, strict=True), start=1):
            for i in range(1, depth + 1):
                padding = 100 if stage == i == 1 else 1
                self.add_module(f"conv{stage}_{i}", nn.Conv2d(channels, width, 3, padding=padding))
                channels = width
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.fc6, self.fc7 = nn.Conv2d(channels, fc_width, 7), nn.Conv2d(fc_width, fc_width, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.score_fr = nn.Conv2d(fc_width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # the paper starts from VGG-16, and scores from zero
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

        def up(stride):
            layer = nn.ConvTranspose2d(num_classes, num_classes, 2 * stride, stride, bias=False)
            layer.weight.data.copy_(bilinear(num_classes, 2 * stride))  # mirror: transposed convolutions
            return layer

        def score(channels):
            layer = nn.Conv2d(channels, num_classes, 1)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            return layer

        if stride == 32:
            self.upscore = up(32)
        if stride == 8:
            self.score_pool3 = score(widths[2])
        if stride <= 16:
            self.score_pool4 = score(widths[3])
            self.upscore2 = up(2)
        if stride == 16:
            self.upscore16 = up(16)
        if stride == 8:
            self.upscore8, self.upscore_pool4 = up(8), up(2)

    def forward(self, images):
        x, pools = images, {}
        for stage, depth in enumerate(DEPTHS, start=1):
            for i in range(1, depth + 1):
                x = F.relu(getattr(self, f"conv{stage}_{i}")(x))
            x = pools[stage] = self.pool(x)
        x = self.dropout(F.relu(self.fc6(x)))
        x = self.score_fr(self.dropout(F.relu(self.fc7(x))))
        size = map_size(images)
        if self.stride == 32:
            return {"logits": cropped(self.upscore(x), 19, size)}
        x = self.upscore2(x)
        x = x + cropped(self.score_pool4(pools[4] * self.scales[0]), 5, map_size(x))
        if self.stride == 16:
            return {"logits": cropped(self.upscore16(x), 27, size)}
        x = self.upscore_pool4(x)
        x = x + cropped(self.score_pool3(pools[3] * self.scales[1]), 9, map_size(x))
        return {"logits": cropped(self.upscore8(x), 31, size)}


def cropped(x, start: int, size: tuple[int, int]):
    """(N, C, H, W) -> (N, C, h, w) from row and column ``start`` on."""
    return x[:, :, start : start + size[0], start : start + size[1]]


class FCNCriterion(nn.Module):
    """Cross-entropy of the pixels (section 4.3).

    Args:
        reduction: "sum" over all pixels that count, or "mean_valid", their mean.
        weight: factor; the paper's learning rate is 1e-10 for the sum.

    Inputs: ``outputs["logits"]`` (N, K, H, W); ``targets["labels"]`` (N, H, W) int, -1 does not count.
    Returns: dict of scalars: ``"nll"``, ``"total"``.
    Raises: ValueError if ``reduction`` is unknown.
    """

    def __init__(self, reduction: str = "sum", weight: float = 1.0):
        super().__init__()
        if reduction not in ("sum", "mean_valid"):
            raise ValueError(f"reduction={reduction!r} must be 'sum' or 'mean_valid'")
        self.reduction, self.weight = reduction, weight

    def forward(self, outputs, targets):
        losses, valid = pixel_losses(outputs["logits"], targets["labels"], -1)
        loss = self.weight * losses.sum()
        if self.reduction == "mean_valid":
            loss = loss / valid.to(losses.dtype).sum().clamp(min=1)
        return {"nll": loss, "total": loss}


def fcn32s_vgg16(stride: int = 32, **options) -> FCN:
    return FCN(stride=stride, **options)


def fcn16s_vgg16(stride: int = 16, **options) -> FCN:
    return FCN(stride=stride, **options)


def fcn8s_vgg16(stride: int = 8, **options) -> FCN:
    return FCN(stride=stride, **options)


def fcn8s_atonce_vgg16(at_once: bool = True, **options) -> FCN:
    return fcn8s_vgg16(at_once=at_once, **options)
