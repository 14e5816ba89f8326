"""MobileNetV2: narrow residual ends, wide depthwise middles, no activation on the narrow part.

"MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, arXiv:1801.04381.
Parameter names: torchvision ``models/mobilenetv2.py`` (BSD-3).

Mirror notes:
- NCHW here, NHWC in TensorFlow; padding is explicit there, because "same" would pad one side only at stride 2.
- Dropout follows the framework's own generator.
"""

from torch import nn

from torch_impl.layers.backbone import Backbone
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "InvertedResidual",
    "MobileNetV2",
    "make_divisible",
    "mobilenet_v2",
    "mobilenet_v2_035",
    "mobilenet_v2_050",
    "mobilenet_v2_075",
    "mobilenet_v2_140",
    "mobilenet_v2_embedding",
]

# expansion t, channels c, repeats n, stride s (table 2)
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``value``, but not below 90 % of it."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def conv_bn_relu6(in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1):
    """Convolution that keeps the size at stride 1, batch normalisation, ReLU6."""
    return nn.Sequential(
        # mirror: padding is explicit
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection, and a shortcut where the shapes agree (figure 4).

    Args:
        in_channels, out_channels: widths of the narrow ends.
        stride: of the depthwise convolution, 1 or 2.
        expansion: width of the middle relative to ``in_channels``; 1 leaves the first convolution out.

    x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int):
        super().__init__()
        hidden = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == out_channels
        layers = [conv_bn_relu6(in_channels, hidden)] if expansion != 1 else []
        layers += [
            conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(Backbone):
    """The classifier.

    Args:
        width: multiplier of all channels; the last convolution does not go below 1280.
        stages: expansion, channels, repeats and stride of each stage, see ``STAGES``.
        num_classes: classes K; 0 leaves the classifier out.
        in_chans: channels of the image.
        dropout: rate before the classifier.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) ``features`` returns.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K), without classes the mean of the last map (N, D); with ``features_only`` a dict of maps
        ``"c2"``, ``"c3"``, ... at strides 4, 8, ....
    """

    def __init__(
        self,
        width: float = 1.0,
        stages: tuple[tuple[int, int, int, int], ...] = STAGES,
        num_classes: int = 1000,
        in_chans: int = 3,
        dropout: float = 0.2,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
    ):
        super().__init__()
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        channels = make_divisible(32 * width)
        features = [conv_bn_relu6(in_chans, channels, 3, 2)]
        self.stage_ends = []  # index of the last block at each stride
        for t, c, n, s in stages:
            for i in range(n):
                stride = s if i == 0 else 1
                if stride == 2:
                    self.stage_ends.append(len(features) - 1)
                features.append(InvertedResidual(channels, make_divisible(c * width), stride, t))
                channels = make_divisible(c * width)
        self.stage_ends.append(len(features) - 1)
        if not features_only:
            last = make_divisible(1280 * max(1.0, width))
            features.append(conv_bn_relu6(channels, last))
            self.classifier = None
            if num_classes:
                # mirror: Dropout follows
                self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        self.features = nn.ModuleList(features)
        kaiming_normal(self)
        if not features_only and num_classes:
            nn.init.normal_(self.classifier[1].weight, std=0.01)
            nn.init.zeros_(self.classifier[1].bias)
        self.freeze(norm_eval, frozen_stages, norm)

    def forward(self, images):
        if self.features_only:
            return self.forward_features(images)
        x = images
        for block in self.features:
            x = block(x)
        x = x.mean((2, 3))  # mirror: NCHW
        return x if self.classifier is None else self.classifier(x)


def mobilenet_v2(**options) -> MobileNetV2:
    return MobileNetV2(**options)


def mobilenet_v2_035(**options) -> MobileNetV2:
    return MobileNetV2(width=0.35, **options)


def mobilenet_v2_050(**options) -> MobileNetV2:
    return MobileNetV2(width=0.5, **options)


def mobilenet_v2_075(**options) -> MobileNetV2:
    return MobileNetV2(width=0.75, **options)


def mobilenet_v2_140(**options) -> MobileNetV2:
    return MobileNetV2(width=1.4, **options)


def mobilenet_v2_embedding(num_classes=0, **options) -> MobileNetV2:
    return MobileNetV2(num_classes=num_classes, **options)
