"""SqueezeNet: layers that first squeeze the channels, then expand them by parallel 1x1 and 3x3 kernels.

"SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016, arXiv:1602.07360.
Parameter names: torchvision ``models/squeezenet.py`` (BSD-3).

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Max pooling keeps a last window that crosses the border; padding for it is explicit in TensorFlow.
- Dropout follows the framework's own generator.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.backbone import Backbone
from torch_impl.layers.initialization import kaiming_uniform
from torch_impl.layers.pooling import MaxPool2d
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "Fire",
    "SqueezeNet",
    "squeezenet1_0",
    "squeezenet1_1",
]


class Fire(nn.Module):
    """1x1 squeeze, then 1x1 and 3x3 expansions of the same input, concatenated in this order (section 3.2).

    Args:
        in_channels: width of the input.
        squeeze: width of the squeeze; each expansion is four times as wide.

    x: (N, C, H, W) -> (N, 8 squeeze, H, W).
    """

    def __init__(self, in_channels: int, squeeze: int):
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, 4 * squeeze, 1)
        self.expand3x3 = nn.Conv2d(squeeze, 4 * squeeze, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), 1))


class SqueezeNet(Backbone):
    """The classifier.

    Args:
        stem: channels and kernel size of the first convolution.
        stages: squeeze widths of the Fire blocks of each stage; a pooling begins each.
        num_classes: classes K.
        in_chans: channels of the image.
        dropout: rate before the classifier.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16 (0 to 3) are returned with ``features_only``.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K), not negative; with ``features_only`` a dict of maps ``"c1"``, ``"c2"``, ...
    """

    def __init__(
        self,
        stem: tuple[int, int],
        stages: tuple[tuple[int, ...], ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        dropout: float = 0.5,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
    ):
        super().__init__()
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        channels, kernel_size = stem
        features = [nn.Conv2d(in_chans, channels, kernel_size, 2), nn.ReLU(inplace=True)]
        self.stage_ends = [1]  # index of the last block at each stride
        for widths in stages:
            features.append(MaxPool2d(3, 2, ceil_mode=True))  # mirror: Max pooling keeps
            for squeeze in widths:
                features.append(Fire(channels, squeeze))
                channels = 8 * squeeze
            self.stage_ends.append(len(features) - 1)
        self.features = nn.ModuleList(features)
        kaiming_uniform(self)
        if not features_only:
            # mirror: Dropout follows
            self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(channels, num_classes, 1))
            nn.init.normal_(self.classifier[1].weight, std=0.01)
            nn.init.zeros_(self.classifier[1].bias)
        self.freeze(False, frozen_stages)

    def forward(self, images):
        if self.features_only:
            return self.forward_features(images)
        x = images
        for block in self.features:
            x = block(x)
        return F.relu(self.classifier(x)).mean((2, 3))  # mirror: NCHW


def squeezenet1_0(stem=(96, 7), stages=((16, 16, 32), (32, 48, 48, 64), (64,)), **options) -> SqueezeNet:
    return SqueezeNet(stem=stem, stages=stages, **options)


def squeezenet1_1(stem=(64, 3), stages=((16, 16), (32, 32), (48, 48, 64, 64)), **options) -> SqueezeNet:
    return SqueezeNet(stem=stem, stages=stages, **options)
