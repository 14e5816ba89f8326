"""SENet: residual stages whose blocks end with squeeze and excitation; SE-ResNet, SE-ResNeXt and SENet-154.

"Squeeze-and-Excitation Networks", 2017, arXiv:1709.01507.
Parameter names: timm ``senet.py`` (Apache-2.0), as in the port of the authors' Caffe models.

Mirror notes:
- NCHW here, NHWC in TensorFlow; padding is explicit there, because "same" would pad one side only at stride 2.
- Keras infers the input width, so a block there is told whether its shortcut needs a projection.
- Dropout follows the framework's own generator.
"""

import torch.nn.functional as F
from torch import nn

from torch_impl.layers.backbone import Backbone
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.layers.normalization import choose_norm
from torch_impl.layers.squeeze_excite import SqueezeExcite
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "SEBasicBlock",
    "SEBottleneck",
    "SENet",
    "se_resnet18",
    "se_resnet34",
    "se_resnet50",
    "se_resnet101",
    "se_resnet152",
    "se_resnext26_32x4d",
    "se_resnext50_32x4d",
    "se_resnext101_32x4d",
    "senet154",
]

REDUCTION = 16  # width of the map divided by the inner width of its gate


class Stem(nn.Module):
    """Convolutions with normalisation and ReLU: one 7x7, or several 3x3, the first with stride 2.

    Args:
        in_chans: channels of the image.
        widths: of the convolutions.
        norm: makes the normalisation of a number of channels.
    """

    def __init__(self, in_chans: int, widths: tuple[int, ...], norm):
        super().__init__()
        self.depth = len(widths)
        kernel = 7 if self.depth == 1 else 3
        for i, (channels, width) in enumerate(zip((in_chans, *widths), widths, strict=False), start=1):
            # mirror: padding is explicit
            setattr(self, f"conv{i}", nn.Conv2d(channels, width, kernel, 2 if i == 1 else 1, kernel // 2, bias=False))
            setattr(self, f"bn{i}", norm(width))

    def forward(self, x):
        for i in range(1, self.depth + 1):
            x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)), inplace=True)
        return x


def shortcut(in_channels: int, out_channels: int, kernel_size: int, stride: int, norm):
    """Projection of the shortcut; a 3x3 one pads."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False), norm(out_channels)
    )


class SEBasicBlock(nn.Module):
    """Two 3x3 convolutions, each with ReLU, squeeze and excitation, and a shortcut.

    Args:
        in_channels, planes: width of the input and of the convolutions.
        stride: of the first convolution.
        groups, base_width, doubled: only 1, 64 and False, see :class:`SENet`.
        stride_in_1x1: ignored here.
        norm: makes the normalisation of a number of channels.
        downsample_kernel: kernel size of the shortcut's projection.

    x: (N, C, H, W) -> (N, planes, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        groups: int = 1,
        base_width: int = 64,
        doubled: bool = False,
        stride_in_1x1: bool = False,
        norm=nn.BatchNorm2d,
        downsample_kernel: int = 1,
    ):
        super().__init__()
        if (groups, base_width, doubled) != (1, 64, False):
            raise ValueError(
                f"SEBasicBlock has groups=1, base_width=64 and doubled=False only; "
                f"groups={groups}, base_width={base_width}, doubled={doubled}"
            )
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride, 1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = norm(planes)
        self.se_module = SqueezeExcite(planes, planes // REDUCTION)
        self.downsample = None
        if stride != 1 or in_channels != planes:
            self.downsample = shortcut(in_channels, planes, downsample_kernel, stride, norm)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.se_module(y) + identity, inplace=True)


class SEBottleneck(nn.Module):
    """1x1 reduction, 3x3 (grouped), 1x1 expansion, squeeze and excitation, and a shortcut.

    Args:
        in_channels, planes: width of the input and nominal width of the block; the output has ``4 * planes``.
        stride: of the 3x3 convolution, or of the first 1x1.
        groups, base_width, doubled, stride_in_1x1: see :class:`SENet`.
        norm: makes the normalisation of a number of channels.
        downsample_kernel: kernel size of the shortcut's projection.

    x: (N, C, H, W) -> (N, 4 * planes, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        groups: int = 1,
        base_width: int = 64,
        doubled: bool = False,
        stride_in_1x1: bool = False,
        norm=nn.BatchNorm2d,
        downsample_kernel: int = 1,
    ):
        super().__init__()
        out_channels = planes * self.expansion
        width1 = width2 = planes * base_width // 64 * groups
        if doubled:
            width1, width2 = 2 * planes, 4 * planes
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width1, 1, stride1, bias=False)
        self.bn1 = norm(width1)
        self.conv2 = nn.Conv2d(width1, width2, 3, stride2, 1, groups=groups, bias=False)
        self.bn2 = norm(width2)
        self.conv3 = nn.Conv2d(width2, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.se_module = SqueezeExcite(out_channels, out_channels // REDUCTION)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:  # mirror: told whether
            self.downsample = shortcut(in_channels, out_channels, downsample_kernel, stride, norm)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(self.se_module(y) + identity, inplace=True)


class SENet(Backbone):
    """Stem, four stages, linear classifier.

    Args:
        block: :class:`SEBasicBlock` or :class:`SEBottleneck`.
        layers: blocks of each stage.
        num_classes: classes K.
        in_chans: channels of the image.
        planes: nominal width of each stage.
        stem: width of the 7x7 convolution, or widths of several 3x3 ones.
        groups, base_width: the 3x3 convolution has ``planes * base_width // 64`` channels in each group.
        doubled: twice the nominal width before the grouped convolution, four times after it (SENet-154).
        stride_in_1x1: stride on the first 1x1 convolution (SE-ResNet) instead of the 3x3 one.
        downsample_kernel: kernel size of the shortcut's projection in the stages 2 to 4.
        dropout: rate before the classifier.
        norm: a callable that makes a normalisation, or "batch", "frozen" (fixed scale and shift) or "group" (32
            groups).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; 0 freezes the stem, k also stages 1 to k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the stages (1 to 4) ``forward_features`` returns.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K); with ``features_only`` a dict of the maps ``"c2"`` to ``"c5"`` (strides 4 to 32).
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        planes: tuple[int, ...] = (64, 128, 256, 512),
        stem: tuple[int, ...] = (64,),
        groups: int = 1,
        base_width: int = 64,
        doubled: bool = False,
        stride_in_1x1: bool = False,
        downsample_kernel: int = 1,
        dropout: float = 0.0,
        norm="batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
    ):
        super().__init__()
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        norm = choose_norm(norm)
        self.layer0 = Stem(in_chans, tuple(stem), norm)
        # the windows start at the first pixel, and a last partial one counts, as in Caffe
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        channels, widths = stem[-1], {}
        for i, (depth, width) in enumerate(zip(layers, planes, strict=True)):
            stride, kernel = (1, 1) if i == 0 else (2, downsample_kernel)
            blocks = []
            for _ in range(depth):
                blocks.append(block(channels, width, stride, groups, base_width, doubled, stride_in_1x1, norm, kernel))
                channels, stride = width * block.expansion, 1
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            widths[f"c{i + 2}"] = channels
        self.known_channels = {f"c{i + 1}": widths[f"c{i + 1}"] for i in self.out_indices}
        if not features_only:
            self.dropout = nn.Dropout(dropout)  # mirror: Dropout follows
            self.last_linear = nn.Linear(channels, num_classes)
        kaiming_normal(self)
        self.freeze(norm_eval, frozen_stages)

    def levels(self) -> list:
        return [[self.layer0], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        # the windows start at the first pixel, and a last partial one counts, as in Caffe
        x = F.max_pool2d(self.layer0(images), 3, 2, ceil_mode=True)
        maps = {}
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=1):
            if i > max(self.out_indices):
                break
            x = stage(x)
            if i in self.out_indices:
                maps[f"c{i + 1}"] = x
        return maps

    def forward(self, images):
        maps = self.forward_features(images)
        return maps if self.features_only else self.last_linear(self.dropout(maps["c5"].mean((2, 3))))  # mirror: NCHW


def se_resnet18(layers=(2, 2, 2, 2), **options) -> SENet:
    return SENet(SEBasicBlock, layers=layers, **options)


def se_resnet34(layers=(3, 4, 6, 3), **options) -> SENet:
    return SENet(SEBasicBlock, layers=layers, **options)


def se_resnet50(layers=(3, 4, 6, 3), stride_in_1x1=True, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, stride_in_1x1=stride_in_1x1, **options)


def se_resnet101(layers=(3, 4, 23, 3), stride_in_1x1=True, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, stride_in_1x1=stride_in_1x1, **options)


def se_resnet152(layers=(3, 8, 36, 3), stride_in_1x1=True, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, stride_in_1x1=stride_in_1x1, **options)


def se_resnext26_32x4d(layers=(2, 2, 2, 2), groups=32, base_width=4, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, groups=groups, base_width=base_width, **options)


def se_resnext50_32x4d(layers=(3, 4, 6, 3), groups=32, base_width=4, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, groups=groups, base_width=base_width, **options)


def se_resnext101_32x4d(layers=(3, 4, 23, 3), groups=32, base_width=4, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, groups=groups, base_width=base_width, **options)


def senet154(**options) -> SENet:
    senet = {"stem": (64, 64, 128), "groups": 64, "doubled": True, "downsample_kernel": 3, "dropout": 0.2}
    return SENet(SEBottleneck, **{"layers": (3, 8, 36, 3), **senet, **options})
