"""VGG: stages of 3x3 convolutions, the map halved and the channels doubled after each.

"Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, arXiv:1409.1556.
Parameter names: torchvision ``models/vgg.py`` (BSD-3).
What to look at: other networks compare images by the outputs of single layers (``activations``).

Mirror notes:
- NCHW here, NHWC in TensorFlow; the classifier's kernel expects the pooled map in the order C, H, W.
- Dropout follows the framework's own generator.
"""

from collections.abc import Collection

from torch import nn

from torch_impl.layers.backbone import Backbone
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.layers.pooling import MaxPool2d, adaptive_avg_pool2d
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "VGG",
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]


class VGG(Backbone):
    """The classifier (table 1).

    Args:
        depths: convolutions of the five stages.
        batch_norm: whether to normalise after every convolution, which keeps its bias.
        widths: channels of the five stages.
        hidden: width of the two hidden layers of the classifier.
        bins: size of the grid that the last map is averaged to.
        num_classes: classes K.
        in_chans: channels of the image.
        dropout: rate after each hidden layer.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16 (the last before their pooling) and 32 (pooled) are
            returned with ``features_only``.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c1"`` to ``"c5"``.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        batch_norm: bool = False,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        hidden: int = 4096,
        bins: int = 7,
        num_classes: int = 1000,
        in_chans: int = 3,
        dropout: float = 0.5,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
    ):
        super().__init__()
        self.features_only, self.out_indices, self.bins = features_only, tuple(out_indices), bins
        features, channels = [], in_chans
        self.stage_ends = []  # index of the last layer at each stride
        for depth, width in zip(depths, widths, strict=True):
            for _ in range(depth):
                features.append(nn.Conv2d(channels, width, 3, padding=1))
                features += [nn.BatchNorm2d(width)] if batch_norm else []
                features.append(nn.ReLU())
                channels = width
            self.stage_ends.append(len(features) - 1)
            features.append(MaxPool2d(2))
        self.stage_ends = [*self.stage_ends[1:], len(features) - 1]
        self.features = nn.ModuleList(features)
        kaiming_normal(self)
        if not features_only:
            self.classifier = nn.Sequential(
                nn.Linear(channels * bins**2, hidden),
                nn.ReLU(),
                nn.Dropout(dropout),  # mirror: Dropout follows
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, num_classes),
            )
            for i in (0, 3, 6):
                nn.init.normal_(self.classifier[i].weight, std=0.01)
                nn.init.zeros_(self.classifier[i].bias)
        self.freeze(False, frozen_stages)

    def activations(self, images, layers: Collection[int]) -> dict:
        """Outputs of some of the ``features``, by index; the layers after the last of them are not called."""
        x, found = images, {}
        for i in range(max(layers) + 1):
            x = self.features[i](x)
            if i in layers:
                found[i] = x
        return found

    def forward(self, images):
        if self.features_only:
            return self.forward_features(images)
        last = len(self.features) - 1
        x = self.activations(images, (last,))[last]
        # mirror: NCHW
        return self.classifier(adaptive_avg_pool2d(x, (self.bins, self.bins)).flatten(1))


def vgg11(depths=(1, 1, 2, 2, 2), **options) -> VGG:
    return VGG(depths=depths, **options)


def vgg11_bn(depths=(1, 1, 2, 2, 2), batch_norm=True, **options) -> VGG:
    return VGG(depths=depths, batch_norm=batch_norm, **options)


def vgg13(depths=(2, 2, 2, 2, 2), **options) -> VGG:
    return VGG(depths=depths, **options)


def vgg13_bn(depths=(2, 2, 2, 2, 2), batch_norm=True, **options) -> VGG:
    return VGG(depths=depths, batch_norm=batch_norm, **options)


def vgg16(depths=(2, 2, 3, 3, 3), **options) -> VGG:
    return VGG(depths=depths, **options)


def vgg16_bn(depths=(2, 2, 3, 3, 3), batch_norm=True, **options) -> VGG:
    return VGG(depths=depths, batch_norm=batch_norm, **options)


def vgg19(depths=(2, 2, 4, 4, 4), **options) -> VGG:
    return VGG(depths=depths, **options)


def vgg19_bn(depths=(2, 2, 4, 4, 4), batch_norm=True, **options) -> VGG:
    return VGG(depths=depths, batch_norm=batch_norm, **options)
