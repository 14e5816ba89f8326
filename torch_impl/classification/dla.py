"""DLA: trees of blocks whose roots combine the outputs of all their branches.

"Deep Layer Aggregation", 2017, arXiv:1707.06484.
Parameter names: ucbdrive/dla ``dla.py`` (BSD-3).
What to look at: a tree of depth 2 projects its input without using the result; checkpoints contain these projections.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.backbone import Backbone
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = ["DLA", "ClassificationCriterion", "ClassificationPostProcess", "dla34"]


def conv_bn(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size at stride 1, and its normalisation."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class DLABlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Args:
        in_channels, out_channels: widths.
        stride: of the first convolution.

    Inputs: ``x`` (N, C, H, W); ``shortcut``, the tensor that is added, or None for ``x``.
    Returns: (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, out_channels, 3, stride)
        self.conv2, self.bn2 = conv_bn(out_channels, out_channels, 3)

    def forward(self, x, shortcut=None):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + (x if shortcut is None else shortcut))


class DLARoot(nn.Module):
    """A 1x1 convolution over all branches.  List of (N, C, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv, self.bn = conv_bn(in_channels, out_channels, 1)

    def forward(self, branches):
        return F.relu(self.bn(self.conv(torch.cat(branches, 1))))


class DLATree(nn.Module):
    """Two blocks and a root, or two trees one level less deep, the second of which has the root (figure 3).

    Args:
        depth: 1 for blocks.
        in_channels, out_channels: widths.
        stride: 2 halves the map.
        level_root: whether the halved input is a branch too.
        root_channels: channels of further branches that are passed in.

    Inputs: ``x`` (N, C, H, W); ``branches``: list of further maps for the root.
    Returns: (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        depth: int,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        level_root: bool = False,
        root_channels: int = 0,
    ):
        super().__init__()
        root_channels += in_channels if level_root else 0
        self.depth, self.level_root = depth, level_root
        self.downsample = nn.MaxPool2d(stride) if stride > 1 else None
        if depth == 1:
            self.tree1 = DLABlock(in_channels, out_channels, stride)
            self.tree2 = DLABlock(out_channels, out_channels)
            self.root = DLARoot(2 * out_channels + root_channels, out_channels)
        else:
            self.tree1 = DLATree(depth - 1, in_channels, out_channels, stride)
            self.tree2 = DLATree(depth - 1, out_channels, out_channels, root_channels=root_channels + out_channels)
        self.project = None
        if in_channels != out_channels:
            self.project = nn.Sequential(*conv_bn(in_channels, out_channels, 1))

    def forward(self, x, branches=()):
        bottom = x if self.downsample is None else self.downsample(x)
        shortcut = bottom if self.project is None else self.project(bottom)
        branches = [*branches, bottom] if self.level_root else list(branches)
        if self.depth > 1:  # the shortcut is not used
            first = self.tree1(x)
            return self.tree2(first, [*branches, first])
        first = self.tree1(x, shortcut)
        return self.root([self.tree2(first), first, *branches])


class DLA(Backbone):
    """The classifier.

    Args:
        depths: of the six levels: convolutions in the first two, depth of the trees in the others.
        widths: channels of the levels.
        num_classes: classes K.
        in_chans: channels of the image.
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classification; return the feature maps instead of logits. The classifier stays.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c1"`` to ``"c5"``.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
    ):
        super().__init__()
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        self.base_layer = nn.Sequential(*conv_bn(in_chans, widths[0], 7), nn.ReLU())
        channels = widths[0]
        for i in range(2):
            convs = []
            for j in range(depths[i]):
                convs += [*conv_bn(channels, widths[i], 3, 1 if i == 0 or j else 2), nn.ReLU()]
                channels = widths[i]
            setattr(self, f"level{i}", nn.Sequential(*convs))
        for i in range(2, 6):
            setattr(self, f"level{i}", DLATree(depths[i], channels, widths[i], 2, level_root=i > 2))
            channels = widths[i]
        self.fc = nn.Conv2d(channels, num_classes, 1)
        names = [f"c{i + 1}" for i in self.out_indices]
        self.known_channels = {name: widths[i + 1] for name, i in zip(names, self.out_indices)}
        kaiming_normal(self)
        self.freeze(norm_eval, frozen_stages)

    def levels(self) -> list:
        return [
            [self.base_layer, self.level0, self.level1],
            *([getattr(self, f"level{i}")] for i in range(2, 6)),
        ]

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x, maps = images, {}
        for i, level in enumerate(self.levels()):
            for part in level:
                x = part(x)
            if i in self.out_indices:
                maps[f"c{i + 1}"] = x
        return maps

    def forward(self, images):
        maps = self.forward_features(images)
        if self.features_only:
            return maps
        return self.fc(maps["c5"].mean((2, 3), keepdim=True)).flatten(1)  # mirror: NCHW


def dla34(depths=(1, 1, 1, 2, 2, 1), widths=(16, 32, 64, 128, 256, 512), **options) -> DLA:
    return DLA(depths=depths, widths=widths, **options)
