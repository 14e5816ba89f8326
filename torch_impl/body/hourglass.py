"""Stacked Hourglass: down to a few cells and up again, several times, with a prediction of all joints after each.

"Stacked Hourglass Networks for Human Pose Estimation", 2016, arXiv:1603.06937. Parameter names and numbers:
princeton-vl/pytorch_stacked_hourglass ``models/posenet.py`` (BSD-3). What to look at: every hourglass has its own loss
and passes its predictions to the next; every block has a convolution for its shortcut, used or not, because the
checkpoints do.

Mirror notes:
- NCHW here, NHWC in TensorFlow; heat maps are (N, S, J, H, W) here, (N, S, H, W, J) there.
- Keras infers the input widths; a block is told whether its shortcut needs the convolution.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.resize import map_size, resize_nearest
from torch_impl.layers.top_k import argmax

__all__ = [
    "Hourglass",
    "HourglassCriterion",
    "HourglassPostProcess",
    "StackedHourglass",
    "average_flipped",
    "hourglass_1",
    "hourglass_2",
    "hourglass_4",
    "hourglass_8",
]

# the same joint on the other side of the body, in the order of MPII: right ankle, knee, hip, left hip, knee, ankle,
# pelvis, thorax, neck, head, right wrist, elbow, shoulder, left shoulder, elbow, wrist
MIRRORED = (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)
STRIDE = 4  # pixels of the image per cell of the heat maps


class Conv(nn.Module):
    """Convolution that keeps the size at stride 1, optionally with normalisation and ReLU.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution.
        bn: whether normalisation and ReLU follow.

    x: (N, C, H, W) -> (N, out_channels, H', W').
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, bn: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
        self.bn = nn.BatchNorm2d(out_channels) if bn else None

    def forward(self, x):
        x = self.conv(x)
        return x if self.bn is None else self.bn(x).relu()


class Residual(nn.Module):
    """Normalisation, ReLU and convolution three times: 1x1, 3x3, 1x1; and a shortcut.

    Args:
        in_channels: C.
        out_channels: width of the result, twice that of the middle.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        half = out_channels // 2
        self.bn1, self.conv1 = nn.BatchNorm2d(in_channels), Conv(in_channels, half)
        self.bn2, self.conv2 = nn.BatchNorm2d(half), Conv(half, half, 3)
        self.bn3, self.conv3 = nn.BatchNorm2d(half), Conv(half, out_channels)
        self.skip_layer = Conv(in_channels, out_channels)  # in the checkpoints, even where it is never called
        self.project = in_channels != out_channels  # mirror: is told

    def forward(self, x):
        y = self.conv1(self.bn1(x).relu())
        y = self.conv2(self.bn2(y).relu())
        y = self.conv3(self.bn3(y).relu())
        return y + (self.skip_layer(x) if self.project else x)


class Hourglass(nn.Module):
    """Halving, the next smaller hourglass, doubling; and a branch at full size.

    Args:
        depth: halvings.
        channels: width.
        increase: extra channels at each halving.

    x: (N, channels, H, W) -> the same; H and W multiples of 2^depth.
    """

    def __init__(self, depth: int, channels: int, increase: int = 0):
        super().__init__()
        wider = channels + increase
        self.up1 = Residual(channels, channels)
        self.low1 = Residual(channels, wider)
        self.low2 = Hourglass(depth - 1, wider, increase) if depth > 1 else Residual(wider, wider)
        self.low3 = Residual(wider, channels)

    def forward(self, x):
        around = self.up1(x)
        y = self.low1(F.max_pool2d(x, 2))
        y = self.low3(self.low2(y))
        return around + resize_nearest(y, map_size(around))


class Merge(nn.Module):
    """The input that one stack adds for the next.

    Args:
        in_channels: C.
        out_channels: width of the result.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = Conv(in_channels, out_channels)

    def forward(self, x):
        return self.conv(x)


class StackedHourglass(nn.Module):
    """The network of the paper.

    Args:
        nstack: hourglasses S.
        inp_dim: their width.
        oup_dim: joints J.
        increase: see :class:`Hourglass`.
        depth: halvings of each hourglass.
        stem: widths of the first convolution and of the two blocks after it.

    Inputs: (N, 3, H, W) float, RGB in [0, 1]; H and W multiples of 64.
    Returns: (N, S, J, H / 4, W / 4), heat maps of every stack.
    """

    def __init__(
        self,
        nstack: int = 8,
        inp_dim: int = 256,
        oup_dim: int = 16,
        increase: int = 0,
        depth: int = 4,
        stem: tuple[int, int] = (64, 128),
    ):
        super().__init__()
        first, second = stem
        blocks = [Residual(first, second), nn.MaxPool2d(2), Residual(second, second)]
        self.pre = nn.Sequential(Conv(3, first, 7, 2, True), *blocks, Residual(second, inp_dim))
        self.hgs = nn.ModuleList(nn.Sequential(Hourglass(depth, inp_dim, increase)) for _ in range(nstack))
        features = [nn.Sequential(Residual(inp_dim, inp_dim), Conv(inp_dim, inp_dim, bn=True)) for _ in range(nstack)]
        self.features = nn.ModuleList(features)
        self.outs = nn.ModuleList(Conv(inp_dim, oup_dim) for _ in range(nstack))
        self.merge_features = nn.ModuleList(Merge(inp_dim, inp_dim) for _ in range(nstack - 1))
        self.merge_preds = nn.ModuleList(Merge(oup_dim, inp_dim) for _ in range(nstack - 1))

    def forward(self, images):
        x, heatmaps = self.pre(images), []
        for i, (hourglass, features, out) in enumerate(zip(self.hgs, self.features, self.outs, strict=True)):
            y = features(hourglass(x))
            heatmaps.append(out(y))
            if i < len(self.merge_preds):
                x = x + self.merge_preds[i](heatmaps[-1]) + self.merge_features[i](y)
        return torch.stack(heatmaps, 1)  # mirror: NCHW


def average_flipped(heatmaps, flipped):
    """The mean of the heat maps of the image and of its mirror image.

    Args:
        heatmaps, flipped: (N, S, 16, H, W), of the image and of its mirror image.

    Returns:
        (N, S, 16, H, W).
    """
    return (heatmaps + flipped.flip(4)[:, :, list(MIRRORED)]) / 2


class HourglassCriterion(nn.Module):
    """Mean squared difference of the heat maps of every stack.

    Args:
        weight: of the mean over the stacks.

    Inputs: ``outputs`` (N, S, J, H, W); ``targets["joints"]`` (N, J, H, W), see
        ``weights/processing/body/heatmaps.py``.
    Returns: dict of scalars: ``"stack0"``, ``"stack1"``, ...; ``"total"``.
    """

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, outputs, targets):
        wanted = targets["joints"].to(outputs.dtype)
        losses = [(outputs[:, i] - wanted).square().mean() for i in range(outputs.shape[1])]
        total = self.weight * sum(losses) / len(losses)
        return {**{f"stack{i}": loss for i, loss in enumerate(losses)}, "total": total}


class HourglassPostProcess(nn.Module):
    """The position of every joint of one person: the largest peak, moved a quarter of a cell towards its larger
    neighbours.

    Inputs: ``outputs`` (N, S, J, H, W), the last stack is used.
    Returns: dict: ``"keypoints"`` (N, J, 2), x and y in pixels of the image, ``"scores"`` (N, J), at most 1.
    """

    def forward(self, outputs):
        maps = outputs[:, -1].clamp(max=1.0)  # (N, J, H, W)
        height, width = maps.shape[2:]
        peaks = F.max_pool2d(maps, 3, 1, 1)
        peaks = torch.where(peaks == maps, maps, torch.zeros_like(maps))
        place = argmax(peaks.flatten(2), 2)  # (N, J)
        y = place // width
        x = place - y * width
        rows = maps.flatten(2)

        def at(row, column):
            return rows.gather(2, (row * width + column)[..., None])[..., 0]

        def quarter(larger):
            return torch.where(larger, 0.25, -0.25).to(maps.dtype)

        right = quarter(at(y, (x + 1).clamp(max=width - 1)) > at(y, (x - 1).clamp(min=0)))
        down = quarter(at((y + 1).clamp(max=height - 1), x) > at((y - 1).clamp(min=0), x))
        found = torch.stack((x.to(maps.dtype) + right, y.to(maps.dtype) + down), -1) + 0.5
        return {"keypoints": STRIDE * found, "scores": at(y, x)}


def hourglass_1(nstack=1, **options) -> StackedHourglass:
    return StackedHourglass(nstack, **options)


def hourglass_2(nstack=2, **options) -> StackedHourglass:
    return StackedHourglass(nstack, **options)


def hourglass_4(nstack=4, **options) -> StackedHourglass:
    return StackedHourglass(nstack, **options)


def hourglass_8(nstack=8, **options) -> StackedHourglass:
    return StackedHourglass(nstack, **options)
