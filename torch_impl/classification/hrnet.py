"""HRNet: parallel branches of high to low resolution that exchange their maps repeatedly; the classifier.

"Deep High-Resolution Representation Learning for Visual Recognition", 2019, arXiv:1908.07919; pose estimation:
arXiv:1902.09212.
Parameter names: the authors' ``lib/models/cls_hrnet.py`` (MIT), the same as in timm ``hrnet.py`` (Apache-2.0); heads:
``pose_hrnet.py`` and ``seg_hrnet.py`` (MIT).

Mirror notes:
- NCHW here, NHWC in TensorFlow; padding is explicit there, because "same" would pad one side only at stride 2.
- Keras infers the input width, so a block there is told whether its shortcut needs a projection.
- Dropout follows the framework's own generator.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.classification.resnet import BasicBlock, Bottleneck
from torch_impl.layers.backbone import Backbone
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.layers.normalization import choose_norm
from torch_impl.layers.resize import resize_bilinear, resize_nearest
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "HRNet",
    "HRNetModule",
    "hrnet_w18",
    "hrnet_w18_small_v2",
    "hrnet_w30",
    "hrnet_w32",
    "hrnet_w40",
    "hrnet_w44",
    "hrnet_w48",
    "hrnet_w64",
]

UPSAMPLE = {
    "nearest": resize_nearest,
    "bilinear": resize_bilinear,
    "bilinear_corners": functools.partial(resize_bilinear, align_corners=True),
}
HEADS = ("classification", "pose", "segmentation")


def conv_bn(in_channels: int, out_channels: int, norm, kernel_size=3, stride=2, bias=False, relu=True):
    """Convolution that keeps the size at stride 1, normalisation, and optionally ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=bias)
    return nn.Sequential(conv, norm(out_channels), *([nn.ReLU(inplace=True)] if relu else []))


def blocks(block, depth: int, in_channels: int, planes: int, norm):
    """A sequence of residual blocks at stride 1."""
    widths = (in_channels, *(planes * block.expansion,) * (depth - 1))
    return nn.Sequential(*(block(width, planes, norm=norm) for width in widths))  # mirror: told whether


class HRNetModule(nn.Module):
    """Residual blocks in every branch, then every output is the sum of all branches at its resolution (figure 4).

    Args:
        channels: widths of the branches, from the highest resolution to the lowest.
        depth: blocks of each branch.
        norm: makes the normalisation of a number of channels.
        upsample: resizes a map to a given size.
        outputs: number of branches that are returned, from the highest resolution.

    Inputs: list of (N, channels[i], H / 2^i, W / 2^i).  Returns: the first ``outputs`` of the same shapes.
    """

    def __init__(self, channels: tuple[int, ...], depth: int, norm, upsample, outputs: int):
        super().__init__()
        self.upsample = upsample
        self.branches = nn.ModuleList([blocks(BasicBlock, depth, width, width, norm) for width in channels])
        rows = []
        for i in range(outputs):
            row = []
            for j, width in enumerate(channels):
                if j > i:
                    row.append(conv_bn(width, channels[i], norm, 1, 1, relu=False))
                elif j == i:
                    row.append(nn.Identity())
                else:
                    steps = [conv_bn(width, width, norm) for _ in range(i - j - 1)]
                    row.append(nn.Sequential(*steps, conv_bn(width, channels[i], norm, relu=False)))
            rows.append(nn.ModuleList(row))
        self.fuse_layers = nn.ModuleList(rows)

    def forward(self, maps):
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for i, row in enumerate(self.fuse_layers):
            total = None
            for j, layer in enumerate(row):
                x = layer(maps[j])
                if j > i:
                    x = self.upsample(x, maps[i].shape[2:])
                total = x if total is None else total + x
            fused.append(F.relu(total))
        return fused


class HRNet(Backbone):
    """Stem, a stage of bottlenecks, three stages of parallel branches, and a head.

    Args:
        channels: width C of the branch with the highest resolution; the others have 2 C, 4 C and 8 C.
        modules: exchanges in the stages 2 to 4.
        depth: blocks in each branch of each exchange.
        stage1: number and nominal width of the bottlenecks of stage 1.
        num_classes: classes, or joints, K.
        in_chans: channels of the image.
        head: "classification": the branches are widened, added from high to low resolution, and averaged; "pose": a 1x1
            convolution of the highest resolution; "segmentation": two of all branches at the highest resolution.
        head_planes: nominal widths of the bottlenecks of the classification head.
        fuse_upsample: "nearest" (classification, pose), "bilinear", or "bilinear_corners", with aligned corner centres.
        dropout: rate before the classifier.
        norm: a callable that makes a normalisation, or "batch", "frozen" (fixed scale and shift) or "group" (32
            groups).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; 0 freezes the stem, k also stages 1 to k: no gradient, running statistics.
        features_only: no head; return the branches.
        out_indices: which of the branches (1 to 4) ``forward_features`` returns.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K), or maps (N, K, H / 4, W / 4) of the other two heads; with ``features_only`` a dict of the
        maps ``"c2"`` to ``"c5"`` (strides 4 to 32).
    """

    def __init__(
        self,
        channels: int,
        modules: tuple[int, int, int] = (1, 4, 3),
        depth: int = 4,
        stage1: tuple[int, int] = (4, 64),
        num_classes: int = 1000,
        in_chans: int = 3,
        head: str = "classification",
        head_planes: tuple[int, int, int, int] = (32, 64, 128, 256),
        fuse_upsample: str = "nearest",
        dropout: float = 0.0,
        norm="batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
    ):
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"head={head!r} must be one of {HEADS}")
        if fuse_upsample not in UPSAMPLE:
            raise ValueError(f"fuse_upsample={fuse_upsample!r} must be one of {sorted(UPSAMPLE)}")
        self.out_indices, self.upsample = tuple(out_indices), UPSAMPLE[fuse_upsample]
        self.head = None if features_only else head
        norm = choose_norm(norm)
        self.conv1 = nn.Conv2d(in_chans, 64, 3, 2, 1, bias=False)  # mirror: padding is explicit
        self.bn1 = norm(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = norm(64)
        self.layer1 = blocks(Bottleneck, stage1[0], 64, stage1[1], norm)
        widths = (stage1[1] * Bottleneck.expansion,)
        for i, count in enumerate(modules, start=1):
            before, widths = widths, tuple(channels * 2**j for j in range(i + 1))
            transition = []
            for j, width in enumerate(widths):
                if j == len(before):
                    transition.append(nn.Sequential(conv_bn(before[-1], width, norm)))
                else:
                    unchanged = width == before[j]
                    transition.append(nn.Identity() if unchanged else conv_bn(before[j], width, norm, stride=1))
            setattr(self, f"transition{i}", nn.ModuleList(transition))
            stage = []
            for j in range(count):
                last = i == 3 and j == count - 1 and self.head == "pose"
                stage.append(HRNetModule(widths, depth, norm, self.upsample, 1 if last else len(widths)))
            setattr(self, f"stage{i + 1}", nn.ModuleList(stage))
        if self.head == "classification":
            self.incre_modules = nn.ModuleList(
                [blocks(Bottleneck, 1, width, planes, norm) for width, planes in zip(widths, head_planes, strict=True)]
            )
            ends = [planes * Bottleneck.expansion for planes in head_planes]
            self.downsamp_modules = nn.ModuleList([conv_bn(ends[i], ends[i + 1], norm, bias=True) for i in range(3)])
            self.final_layer = conv_bn(ends[-1], 2 * ends[-1], norm, 1, 1, bias=True)
            self.dropout = nn.Dropout(dropout)  # mirror: Dropout follows
            self.classifier = nn.Linear(2 * ends[-1], num_classes)
        elif self.head == "pose":
            self.final_layer = nn.Conv2d(channels, num_classes, 1)
        elif self.head == "segmentation":
            joined = conv_bn(sum(widths), sum(widths), norm, 1, 1, bias=True)
            self.last_layer = nn.Sequential(*joined, nn.Conv2d(sum(widths), num_classes, 1))
        kaiming_normal(self)
        self.known_channels = {f"c{i + 1}": widths[i - 1] for i in self.out_indices}
        self.freeze(norm_eval, frozen_stages)

    def levels(self) -> list:
        levels = [[self.conv1, self.bn1, self.conv2, self.bn2], [self.layer1]]
        for i in (1, 2, 3):
            levels.append([*getattr(self, f"transition{i}"), *getattr(self, f"stage{i + 1}")])
        return levels

    def branches(self, images) -> list:
        """The maps of all branches after the last exchange, from an image batch."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        maps = [self.layer1(x)]
        for i in (1, 2, 3):
            before = maps
            # a new branch starts from the lowest resolution
            maps = [layer(before[min(j, len(before) - 1)]) for j, layer in enumerate(getattr(self, f"transition{i}"))]
            for module in getattr(self, f"stage{i + 1}"):
                maps = module(maps)
        return maps

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        maps = self.branches(images)
        return {f"c{i + 1}": maps[i - 1] for i in self.out_indices}

    def forward(self, images):
        if self.head is None:
            return self.forward_features(images)
        maps = self.branches(images)
        if self.head == "pose":
            return self.final_layer(maps[0])
        if self.head == "segmentation":
            size = maps[0].shape[2:]
            return self.last_layer(torch.cat([maps[0], *(self.upsample(x, size) for x in maps[1:])], 1))
        x = self.incre_modules[0](maps[0])
        for i, down in enumerate(self.downsamp_modules, start=1):
            x = self.incre_modules[i](maps[i]) + down(x)
        return self.classifier(self.dropout(self.final_layer(x).mean((2, 3))))  # mirror: NCHW


def hrnet_w18(channels=18, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w18_small_v2(channels=18, modules=(1, 3, 2), depth=2, stage1=(2, 64), **options) -> HRNet:
    return HRNet(channels=channels, modules=modules, depth=depth, stage1=stage1, **options)


def hrnet_w30(channels=30, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w32(channels=32, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w40(channels=40, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w44(channels=44, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w48(channels=48, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w64(channels=64, **options) -> HRNet:
    return HRNet(channels=channels, **options)
