"""ResNet: stages of residual blocks; also its wide, grouped (ResNeXt) and "bag of tricks" (-B, -C, -D) variants.

"Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385; "Wide Residual Networks", 2016,
arXiv:1605.07146; "Aggregated Residual Transformations for Deep Neural Networks", 2016, arXiv:1611.05431; "Bag of Tricks
for Image Classification with Convolutional Neural Networks", 2018, arXiv:1812.01187.
Parameter names: torchvision ``models/resnet.py`` (BSD-3); deep stem and average-pool shortcut: timm ``resnet.py``
(Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow; padding is explicit there, because "same" would pad one side only at stride 2.
- Keras infers the input width, so a block there is told whether its shortcut needs a projection.
"""

import functools

import torch.nn.functional as F
from torch import nn

from torch_impl.layers.backbone import Backbone
from torch_impl.layers.context import ContextBlock
from torch_impl.layers.deform_conv import DeformConv2dPack, ModulatedDeformConv2dPack
from torch_impl.layers.generalized_attention import GeneralizedAttention
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.layers.normalization import choose_norm
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "ResNet",
    "resnet18",
    "resnet18d",
    "resnet34",
    "resnet34d",
    "resnet50",
    "resnet50_attention",
    "resnet50_dcn",
    "resnet50_gcb",
    "resnet50_gn",
    "resnet50c",
    "resnet50d",
    "resnet50s",
    "resnet101",
    "resnet101c",
    "resnet101d",
    "resnet101s",
    "resnet152",
    "resnet152c",
    "resnet152d",
    "resnet152s",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

CONV = functools.partial(nn.Conv2d, bias=False)
DEFORM = {
    name: functools.partial(layer, bias=False)
    for name, layer in (("v1", DeformConv2dPack), ("v2", ModulatedDeformConv2dPack))
}


def expansion(block) -> int:
    """Ratio of a block's output width to its nominal width; of a class or of a partial of one."""
    return getattr(block, "func", block).expansion


def stage_dilations(output_stride: int, dilations=None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and dilations of the four stages.

    Raises:
        ValueError: if ``output_stride`` is not 8, 16 or 32, or ``dilations`` are not four.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride={output_stride} must be 8, 16 or 32")
    if dilations is None:
        dilations = tuple(max(stride // output_stride, 1) for stride in (4, 8, 16, 32))
    if len(dilations) != 4:
        raise ValueError(f"dilations={tuple(dilations)} must be four, one for each stage")
    return (1, *(1 if dilation > 1 else 2 for dilation in dilations[1:])), tuple(dilations)


def shortcut(in_channels: int, out_channels: int, stride: int, norm, avg_down: bool):
    """Projection of the shortcut: 1x1 convolution with the stride (-B), or an average pool before it (-D)."""
    if not avg_down:
        return nn.Sequential(CONV(in_channels, out_channels, 1, stride), norm(out_channels))
    # a last odd row or column is kept, and averaged over the pixels that exist
    pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    return nn.Sequential(pool, CONV(in_channels, out_channels, 1), norm(out_channels))


def deep_convs(in_chans: int, widths: tuple[int, int, int], norm) -> list[nn.Module]:
    """Three 3x3 convolutions, the first two with normalisation and ReLU."""
    first, second, third = widths
    return [
        CONV(in_chans, first, 3, 2, padding=1),
        norm(first),
        nn.ReLU(inplace=True),
        CONV(first, second, 3, padding=1),
        norm(second),
        nn.ReLU(inplace=True),
        CONV(second, third, 3, padding=1),
    ]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Args:
        in_channels, planes: width of the input and of the convolutions.
        stride, first_dilation: of the first convolution.
        dilation: of the second convolution.
        groups, base_width: only 1 and 64, see :class:`Bottleneck`.
        norm: makes the normalisation of a number of channels.
        avg_down, stride_in_1x1, zero_init_residual: see :class:`ResNet`; the second is ignored here.

    x: (N, C, H, W) -> (N, planes, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        first_dilation: int = 1,
        groups: int = 1,
        base_width: int = 64,
        norm=nn.BatchNorm2d,
        avg_down: bool = False,
        stride_in_1x1: bool = False,
        zero_init_residual: bool = False,
    ):
        super().__init__()
        if groups != 1 or base_width != 64:
            raise ValueError(
                f"BasicBlock has groups=1 and base_width=64 only; groups={groups}, base_width={base_width}"
            )
        self.conv1 = CONV(in_channels, planes, 3, stride, padding=first_dilation, dilation=first_dilation)
        self.bn1 = norm(planes)
        self.conv2 = CONV(planes, planes, 3, padding=dilation, dilation=dilation)
        self.bn2 = norm(planes)
        if zero_init_residual:
            nn.init.zeros_(self.bn2.weight)
        self.downsample = None
        if stride != 1 or in_channels != planes:  # mirror: told whether
            self.downsample = shortcut(in_channels, planes, stride, norm, avg_down)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += identity
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3 (grouped), 1x1 expansion by four, and a shortcut.

    Args:
        in_channels, planes: width of the input and nominal width of the block; the output has ``4 * planes``.
        stride, first_dilation: of the 3x3 convolution.
        dilation: not used; a :class:`BasicBlock` has a second 3x3 convolution.
        groups, base_width: the 3x3 convolution has ``planes * base_width // 64`` channels in each group.
        norm: makes the normalisation of a number of channels.
        avg_down, stride_in_1x1, zero_init_residual: see :class:`ResNet`.
        conv: makes the 3x3 convolution.
        plugins: (name, position, layer of a number of channels); position is "after_conv1" or "after_conv2", after the
            ReLU, or "after_conv3", before the shortcut is added. The layer becomes an attribute of that name.

    x: (N, C, H, W) -> (N, 4 * planes, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        first_dilation: int = 1,
        groups: int = 1,
        base_width: int = 64,
        norm=nn.BatchNorm2d,
        avg_down: bool = False,
        stride_in_1x1: bool = False,
        zero_init_residual: bool = False,
        conv=CONV,
        plugins: tuple[tuple, ...] = (),
    ):
        super().__init__()
        width, out_channels = int(planes * base_width / 64) * groups, planes * self.expansion
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)  # -A, Caffe; -B, torchvision
        self.conv1 = CONV(in_channels, width, 1, stride1)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, stride2, padding=first_dilation, dilation=first_dilation, groups=groups)
        self.bn2 = norm(width)
        self.conv3 = CONV(width, out_channels, 1)
        self.bn3 = norm(out_channels)
        if zero_init_residual:
            nn.init.zeros_(self.bn3.weight)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:  # mirror: told whether
            self.downsample = shortcut(in_channels, out_channels, stride, norm, avg_down)
        self.plugins = [(name, position) for name, position, _ in plugins]
        for name, position, layer in plugins:
            setattr(self, name, layer(out_channels if position == "after_conv3" else width))

    def plugged(self, x, position: str):
        """Apply the plugins of a position, one after the other."""
        for name, where in self.plugins:
            x = getattr(self, name)(x) if where == position else x
        return x

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        y = self.plugged(F.relu(self.bn1(self.conv1(x)), inplace=True), "after_conv1")
        y = self.plugged(F.relu(self.bn2(self.conv2(y)), inplace=True), "after_conv2")
        y = self.plugged(self.bn3(self.conv3(y)), "after_conv3")
        y += identity
        return F.relu(y, inplace=True)


class ResNet(Backbone):
    """Stem, four stages, linear classifier.

    Args:
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        layers: blocks of each stage.
        num_classes: classes K.
        in_chans: channels of the image.
        planes: nominal width of each stage.
        groups, base_width: see :class:`Bottleneck`.
        deep_stem: widths of three 3x3 convolutions instead of the 7x7 one (-C); the last is also the pool's width.
        avg_down: average pool before the projection of the shortcut (-D).
        stride_in_1x1: stride on the first 1x1 convolution (-A) instead of the 3x3 one (-B).
        output_stride: 32, 16 or 8; strides beyond it become dilations.
        dilations: of every stage, instead of ``output_stride``; a stage with a dilation above 1 has no stride.
        contract_dilation: a dilated stage's first block keeps the dilation of the stage before (torchvision, timm).
        multi_grid: dilations of the last stage's blocks, instead of the stage's own (arXiv:1706.05587, section 3.3).
        norm: a callable that makes a normalisation, or "batch", "frozen" (fixed scale and shift) or "group" (32
            groups).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; 0 freezes the stem, k also stages 1 to k: no gradient, running statistics.
        zero_init_residual: whether the last normalisation of each block starts with scale 0.
        conv: makes the 3x3 convolutions of the bottlenecks; or four such callables, one per stage.
        plugins: dicts of ``"name"``, ``"position"``, ``"layer"``, see :class:`Bottleneck`, and ``"stages"``, which of
            the four have it (as in arXiv:1904.11492).
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
        groups: int = 1,
        base_width: int = 64,
        deep_stem: tuple[int, int, int] | None = None,
        avg_down: bool = False,
        stride_in_1x1: bool = False,
        output_stride: int = 32,
        dilations: tuple[int, ...] | None = None,
        contract_dilation: bool = True,
        multi_grid: tuple[int, ...] | None = None,
        norm="batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        zero_init_residual: bool = False,
        conv=CONV,
        plugins: tuple[dict, ...] = (),
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
    ):
        super().__init__()
        strides, dilations = stage_dilations(output_stride, dilations)
        if multi_grid is not None and len(multi_grid) != layers[-1]:
            raise ValueError(f"multi_grid={tuple(multi_grid)} must have one dilation for each of {layers[-1]} blocks")
        convs = tuple(conv) if isinstance(conv, (list, tuple)) else (conv,) * 4
        if block is BasicBlock and (set(convs) != {CONV} or plugins):
            raise ValueError("conv and plugins need a Bottleneck; BasicBlock has neither")
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        norm = choose_norm(norm)
        channels = planes[0] if deep_stem is None else deep_stem[-1]
        self.make_stem(in_chans, channels, deep_stem, norm)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        stride, first_dilation, widths, reached = 4, 1, {}, {}
        for i, (depth, width) in enumerate(zip(layers, planes, strict=True)):
            chosen = [plugin for plugin in plugins if plugin["stages"][i]]
            extras = {"conv": convs[i]} if convs[i] is not CONV else {}
            if chosen:
                extras["plugins"] = tuple((plugin["name"], plugin["position"], plugin["layer"]) for plugin in chosen)
            grid = tuple(multi_grid) if multi_grid is not None and i == 3 else (dilations[i],) * depth
            if (multi_grid is not None and i == 3) or not contract_dilation:
                first_dilation = grid[0]
            blocks = []
            for j in range(depth):
                blocks.append(
                    block(
                        channels,
                        width,
                        strides[i] if j == 0 else 1,
                        grid[j],
                        first_dilation if j == 0 else grid[j],
                        groups=groups,
                        base_width=base_width,
                        norm=norm,
                        avg_down=avg_down,
                        stride_in_1x1=stride_in_1x1,
                        zero_init_residual=zero_init_residual,
                        **extras,
                    )
                )
                channels = width * expansion(block)
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            stride, first_dilation = stride * strides[i], dilations[i]
            widths[f"c{i + 2}"], reached[f"c{i + 2}"] = channels, stride
        names = [f"c{i + 1}" for i in self.out_indices]
        self.known_channels, self.known_strides = ({name: found[name] for name in names} for found in (widths, reached))
        if not features_only:
            self.fc = nn.Linear(channels, num_classes)
        kaiming_normal(self)
        self.freeze(norm_eval, frozen_stages)

    def make_stem(self, in_chans: int, channels: int, deep_stem, norm) -> None:
        """The layers before the pool."""
        if deep_stem is None:
            self.conv1 = CONV(in_chans, channels, 7, 2, padding=3)  # mirror: padding is explicit
        else:
            self.conv1 = nn.Sequential(*deep_convs(in_chans, deep_stem, norm))
        self.bn1 = norm(channels)

    def forward_stem(self, images):
        """(N, in_chans, H, W) -> (N, C, ceil(H / 4), ceil(W / 4))."""
        return self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))

    def levels(self) -> list:
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x, maps = self.forward_stem(images), {}
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=1):
            if i > max(self.out_indices):
                break
            x = stage(x)
            if i in self.out_indices:
                maps[f"c{i + 1}"] = x
        return maps

    def forward(self, images):
        maps = self.forward_features(images)
        return maps if self.features_only else self.fc(maps["c5"].mean((2, 3)))  # mirror: NCHW


def resnet18(layers=(2, 2, 2, 2), **options) -> ResNet:
    return ResNet(BasicBlock, layers, **options)


def resnet34(layers=(3, 4, 6, 3), **options) -> ResNet:
    return ResNet(BasicBlock, layers, **options)


def resnet50(layers=(3, 4, 6, 3), **options) -> ResNet:
    return ResNet(Bottleneck, layers, **options)


def resnet101(layers=(3, 4, 23, 3), **options) -> ResNet:
    return ResNet(Bottleneck, layers, **options)


def resnet152(layers=(3, 8, 36, 3), **options) -> ResNet:
    return ResNet(Bottleneck, layers, **options)


def wide_resnet50_2(base_width=128, **options) -> ResNet:
    return resnet50(base_width=base_width, **options)


def wide_resnet101_2(base_width=128, **options) -> ResNet:
    return resnet101(base_width=base_width, **options)


def resnext50_32x4d(groups=32, base_width=4, **options) -> ResNet:
    return resnet50(groups=groups, base_width=base_width, **options)


def resnext101_32x8d(groups=32, base_width=8, **options) -> ResNet:
    return resnet101(groups=groups, base_width=base_width, **options)


def resnext101_64x4d(groups=64, base_width=4, **options) -> ResNet:
    return resnet101(groups=groups, base_width=base_width, **options)


def resnet18d(deep_stem=(32, 32, 64), avg_down=True, **options) -> ResNet:
    return resnet18(deep_stem=deep_stem, avg_down=avg_down, **options)


def resnet34d(deep_stem=(32, 32, 64), avg_down=True, **options) -> ResNet:
    return resnet34(deep_stem=deep_stem, avg_down=avg_down, **options)


def resnet50d(deep_stem=(32, 32, 64), avg_down=True, **options) -> ResNet:
    return resnet50(deep_stem=deep_stem, avg_down=avg_down, **options)


def resnet101d(deep_stem=(32, 32, 64), avg_down=True, **options) -> ResNet:
    return resnet101(deep_stem=deep_stem, avg_down=avg_down, **options)


def resnet152d(deep_stem=(32, 32, 64), avg_down=True, **options) -> ResNet:
    return resnet152(deep_stem=deep_stem, avg_down=avg_down, **options)


def resnet50c(deep_stem=(32, 32, 64), **options) -> ResNet:
    return resnet50(deep_stem=deep_stem, **options)


def resnet101c(deep_stem=(32, 32, 64), **options) -> ResNet:
    return resnet101(deep_stem=deep_stem, **options)


def resnet152c(deep_stem=(32, 32, 64), **options) -> ResNet:
    return resnet152(deep_stem=deep_stem, **options)


def resnet50s(deep_stem=(64, 64, 128), **options) -> ResNet:
    return resnet50(deep_stem=deep_stem, **options)


def resnet101s(deep_stem=(64, 64, 128), **options) -> ResNet:
    return resnet101(deep_stem=deep_stem, **options)


def resnet152s(deep_stem=(64, 64, 128), **options) -> ResNet:
    return resnet152(deep_stem=deep_stem, **options)


def resnet50_gn(norm="group", **options) -> ResNet:
    return resnet50(norm=norm, **options)


def resnet50_dcn(
    deform: str = "v2", deform_groups: int = 1, deform_stages=(False, True, True, True), **options
) -> ResNet:
    """Options for deformable 3x3 convolutions in stages 2 to 4.

    Args:
        deform: "v1" or "v2", without and with a mask (arXiv:1703.06211, arXiv:1811.11168, table 1).
        deform_groups: groups of offsets of each.
        deform_stages: which of the four stages have them.
    """
    if deform not in DEFORM:
        raise ValueError(f"deform={deform!r} must be one of {sorted(DEFORM)}")
    conv = functools.partial(DEFORM[deform], deform_groups=deform_groups)
    return resnet50(conv=tuple(conv if chosen else CONV for chosen in deform_stages), **options)


def resnet50_gcb(ratio: float = 1 / 16, **options) -> ResNet:
    """With global context blocks in stages 2 to 4, before the shortcut is added (arXiv:1904.11492, section 4.1)."""
    plugin = {
        "name": "context_block",
        "position": "after_conv3",
        "layer": functools.partial(ContextBlock, ratio=ratio),
        "stages": (False, True, True, True),
    }
    return resnet50(plugins=(plugin,), **options)


def resnet50_attention(attention_type: str = "1111", num_heads: int = 8, **options) -> ResNet:
    """With generalised attention after the 3x3 convolutions of stages 3 and 4 (arXiv:1904.05873, section 4.2)."""
    plugin = {
        "name": "gen_attention_block",
        "position": "after_conv2",
        "layer": functools.partial(GeneralizedAttention, num_heads=num_heads, attention_type=attention_type),
        "stages": (False, False, True, True),
    }
    return resnet50(plugins=(plugin,), **options)
