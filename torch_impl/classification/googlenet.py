"""GoogLeNet (Inception v1), with batch normalisation: blocks of four branches, and two auxiliary classifiers.

"Going Deeper with Convolutions", 2014, arXiv:1409.4842; batch normalisation: 2015, arXiv:1502.03167.
Parameter names: torchvision ``models/googlenet.py`` (BSD-3).

Mirror notes:
- NCHW here, NHWC in TensorFlow; the auxiliary heads flatten their maps as (C, H, W) in both.
- Dropout follows the framework's own generator.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.backbone import Backbone
from torch_impl.layers.initialization import normal
from torch_impl.layers.pooling import MaxPool2d, adaptive_avg_pool2d, max_pool2d
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "AuxiliaryHead",
    "BasicConv2d",
    "ClassificationPostProcess",
    "GoogLeNet",
    "GoogLeNetCriterion",
    "InceptionBlock",
    "googlenet",
    "scaled",
    "to_inception_range",
]

# widths of the 1x1 branch, reduction and 3x3, reduction and "5x5", projection after the pool (table 1)
STAGES = (
    {
        "3a": (64, 96, 128, 16, 32, 32),
        "3b": (128, 128, 192, 32, 96, 64),
    },
    {
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
    },
    {
        "5a": (256, 160, 320, 32, 128, 128),
        "5b": (384, 192, 384, 48, 128, 128),
    },
)
AUXILIARY = {"aux1": 0.3, "aux2": 0.3}  # section 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def scaled(width: float, *channels: int) -> tuple[int, ...]:
    """Channels times the width multiplier, rounded down."""
    return tuple(int(c * width) for c in channels)


def first_blocks(stages, layers) -> tuple[tuple[str, ...], ...]:
    """The names of the blocks that a model has.

    Args:
        stages: for every stage of the published network, its blocks by name.
        layers: how many blocks of each stage, counted from the first.

    Raises:
        ValueError: if a stage has fewer, or is left without any.
    """
    if len(layers) != len(stages) or not all(0 < n <= len(blocks) for n, blocks in zip(layers, stages)):
        raise ValueError(f"layers are 1 to {[len(blocks) for blocks in stages]} blocks; layers={list(layers)}")
    return tuple(tuple(blocks)[:n] for n, blocks in zip(layers, stages))


def to_inception_range(images):
    """Convert images normalised by ImageNet's mean and deviation to 2 x - 1 of [0, 1].  (N, 3, H, W)."""
    scale = torch.tensor([std / 0.5 for std in STD], dtype=images.dtype, device=images.device)
    shift = torch.tensor([(mean - 0.5) / 0.5 for mean in MEAN], dtype=images.dtype, device=images.device)
    return images * scale[:, None, None] + shift[:, None, None]


class BasicConv2d(nn.Module):
    """Convolution, batch normalisation, ReLU.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: of the convolution.

    x: (N, in_channels, H, W) -> (N, out_channels, H', W').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionBlock(nn.Module):
    """Four branches side by side: 1x1, 3x3, "5x5", max pool (figure 2 b).

    Args:
        in_channels: width of the input.
        widths: see ``BLOCKS``; the 1st, 3rd, 5th and 6th are concatenated.
        five_by_five: kernel of the third branch as in the paper; the published weights have 3x3 there.

    x: (N, C, H, W) -> (N, C', H, W).
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], five_by_five: bool = False):
        super().__init__()
        one, reduced3, three, reduced5, five, projected = widths
        kernel = 5 if five_by_five else 3
        self.branch1 = BasicConv2d(in_channels, one, 1)
        self.branch2 = nn.Sequential(BasicConv2d(in_channels, reduced3, 1), BasicConv2d(reduced3, three, 3, padding=1))
        self.branch3 = nn.Sequential(
            BasicConv2d(in_channels, reduced5, 1), BasicConv2d(reduced5, five, kernel, padding=kernel // 2)
        )
        self.branch4 = nn.Sequential(MaxPool2d(3, 1, 1), BasicConv2d(in_channels, projected, 1))

    def forward(self, x):
        branches = self.branch1, self.branch2, self.branch3, self.branch4
        return torch.cat([branch(x) for branch in branches], 1)


class AuxiliaryHead(nn.Module):
    """Classifier of an inner map: average over 4x4 bins, 1x1 convolution, two fully connected layers.

    Args:
        in_channels: width of the map.
        channels: width of the convolution.
        hidden: width between the fully connected layers.
        num_classes: classes K.
        dropout: rate before the last layer.

    x: (N, C, H, W) -> logits (N, K).
    """

    def __init__(self, in_channels: int, channels: int, hidden: int, num_classes: int, dropout: float):
        super().__init__()
        self.conv = BasicConv2d(in_channels, channels, 1)
        self.fc1 = nn.Linear(16 * channels, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)
        self.dropout = nn.Dropout(dropout)  # mirror: Dropout follows

    def forward(self, x):
        x = self.conv(adaptive_avg_pool2d(x, 4)).flatten(1)  # mirror: flatten their maps
        return self.fc2(self.dropout(F.relu(self.fc1(x), inplace=True)))


class GoogLeNet(Backbone):
    """The classifier.

    Args:
        layers: blocks of the three stages, at most those of the default.
        width: multiplier of all channels.
        num_classes: classes K.
        in_chans: channels of the image.
        aux_logits: whether there are auxiliary heads after blocks 4a and 4d. They also run in evaluation mode, so that
            the loss is the same function in both; build the model without them if only its logits are needed.
        transform_input: whether images normalised by ImageNet's mean and deviation are converted to 2 x - 1, which the
            weights expect.
        five_by_five: see :class:`InceptionBlock`.
        dropout, dropout_aux: rates before the last layer of the classifier and of the auxiliary heads.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifiers; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, in_chans, H, W) float.
    Returns: dict of logits (N, K): ``"logits"``, ``"aux1"``, ``"aux2"``; without auxiliary heads only the tensor; with
        ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, ....
    """

    def __init__(
        self,
        layers: tuple[int, int, int] = (2, 5, 2),
        width: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        aux_logits: bool = True,
        transform_input: bool = False,
        five_by_five: bool = False,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
    ):
        super().__init__()
        if transform_input and in_chans != 3:
            raise ValueError(f"transform_input needs in_chans=3; in_chans={in_chans}")
        self.stages = first_blocks(STAGES, layers)
        has_heads = aux_logits and not features_only
        if has_heads and layers[1] < 4:
            raise ValueError(f"aux_logits=True needs block 4d: layers[1] of 4 or 5; layers={list(layers)}")
        self.transform_input, self.features_only, self.out_indices = transform_input, features_only, tuple(out_indices)
        c64, c128, c1024, channels = scaled(width, 64, 128, 1024, 192)
        self.conv1 = BasicConv2d(in_chans, c64, 7, 2, 3)
        self.conv2 = BasicConv2d(c64, c64, 1)
        self.conv3 = BasicConv2d(c64, channels, 3, padding=1)
        ends = {}
        for blocks, names in zip(STAGES, self.stages, strict=True):
            for name in names:
                widths = scaled(width, *blocks[name])
                setattr(self, f"inception{name}", InceptionBlock(channels, widths, five_by_five))
                channels = ends[name] = widths[0] + widths[2] + widths[4] + widths[5]
        self.aux1 = self.aux2 = None
        if has_heads:
            self.aux1 = AuxiliaryHead(ends["4a"], c128, c1024, num_classes, dropout_aux)
            self.aux2 = AuxiliaryHead(ends["4d"], c128, c1024, num_classes, dropout_aux)
        if not features_only:
            self.dropout = nn.Dropout(dropout)
            self.fc = nn.Linear(channels, num_classes)
        normal(self, 0.01)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        blocks = ([getattr(self, f"inception{name}") for name in names] for names in self.stages)
        return [[self.conv1], [self.conv2, self.conv3], *blocks]

    def _maps(self, images) -> dict:
        """The maps that heads and detectors read, by block name."""
        maps = {"conv1": self.conv1(to_inception_range(images) if self.transform_input else images)}
        x = self.conv2(max_pool2d(maps["conv1"], 3, 2, ceil_mode=True))
        x = maps["conv3"] = self.conv3(x)
        for names, size in zip(self.stages, (3, 3, 2), strict=True):
            x = max_pool2d(x, size, 2, ceil_mode=True)
            for name in names:
                x = maps[name] = getattr(self, f"inception{name}")(x)
        return maps

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        maps = self._maps(images)
        ends = "conv1", "conv3", *(names[-1] for names in self.stages)  # last map at each stride, 2 to 32
        return {f"c{i + 1}": maps[name] for i, name in enumerate(ends) if i in self.out_indices}

    def forward(self, images):
        if self.features_only:
            return self.forward_features(images)
        maps = self._maps(images)
        x = maps[self.stages[-1][-1]].mean((2, 3))  # mirror: NCHW
        logits = self.fc(self.dropout(x))
        if self.aux1 is None:
            return logits
        return {"logits": logits, "aux1": self.aux1(maps["4a"]), "aux2": self.aux2(maps["4d"])}


class GoogLeNetCriterion(ClassificationCriterion):
    """Cross-entropy of the logits, plus 0.3 of that of each auxiliary head.

    Args:
        label_smoothing, weight: see :class:`ClassificationCriterion`.
        auxiliary: weight of each auxiliary output by its key; ``{}`` for a model without auxiliary heads.
    """

    def __init__(self, label_smoothing: float = 0.0, weight=None, auxiliary=AUXILIARY):
        super().__init__(label_smoothing, weight, auxiliary)


def googlenet(**options) -> GoogLeNet:
    return GoogLeNet(**options)
