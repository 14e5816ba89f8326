"""SOLOv2: every cell of a grid predicts a kernel, whose convolution with shared maps is its mask.

"SOLOv2: Dynamic and Fast Instance Segmentation", 2020, arXiv:2003.10152. Parameter names: mmdet
``dense_heads/solov2_head.py`` (Apache-2.0). What to look at: a convolution whose kernels are outputs is one matrix
product.

Mirror notes:
- NCHW here, NHWC in TensorFlow, where the shared maps are transposed before the product.
"""

import torch
from torch import nn

from torch_impl.classification.resnet import CONV, DEFORM, BasicBlock
from torch_impl.detection.faster_rcnn import pyramid_backbone
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.initialization import normal
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.layers.rows import map_rows, take_rows
from torch_impl.losses.dice import squared_dice
from torch_impl.necks.fpn import FPN
from torch_impl.segmentation._instances import LEVELS, MaskDetector, coordinates, strided_masks
from torch_impl.segmentation.solo import (
    GRIDS,
    PRIOR_BIAS,
    SOLOCriterion,
    SOLOPostProcess,
    even_levels,
    upper_left_peaks,
)

__all__ = [
    "MaskFeatures",
    "SOLOv2Criterion",
    "SOLOv2Head",
    "SOLOv2PostProcess",
    "solov2_light_criterion",
    "solov2_light_r18_fpn",
    "solov2_light_r34_fpn",
    "solov2_light_r50_dcn_fpn",
    "solov2_light_r50_fpn",
    "solov2_r50_fpn",
    "solov2_r101_dcn_fpn",
    "solov2_r101_fpn",
    "solov2_x101_dcn_fpn",
]

LIGHT_RANGES = ((1, 56), (28, 112), (56, 224), (112, 448), (224, 896))
STRIDE = 4  # of the masks


def norm_conv(in_channels: int, out_channels: int, kernel_size: int, norm_groups: int, deform: bool) -> ConvModule:
    """A convolution that keeps the size, optionally deformable, and group normalisation."""
    conv = DEFORM["v2"] if deform else nn.Conv2d
    padding = kernel_size // 2
    return ConvModule(
        in_channels, out_channels, kernel_size, 1, padding, norm="group", norm_groups=norm_groups, conv=conv
    )


class Enlarged(nn.Sequential):
    """Convolutions ``conv0`` ... of a level, each except the finest level's followed by an upsampling by two.

    Args:
        in_channels: channels of the level, with coordinates if there are any.
        out_channels: channels of the convolutions.
        doublings: how often the size is doubled.
        norm_groups: groups of the normalisation.
        deform: whether the convolutions are deformable.
    """

    def __init__(self, in_channels: int, out_channels: int, doublings: int, norm_groups: int, deform: bool):
        super().__init__()
        self.doublings = doublings
        for i in range(max(doublings, 1)):
            conv = norm_conv(in_channels if i == 0 else out_channels, out_channels, 3, norm_groups, deform)
            self.add_module(f"conv{i}", conv)

    def forward(self, x):
        for conv in self:
            x = conv(x)
            if self.doublings:
                height, width = map_size(x)
                x = resize_bilinear(x, (2 * height, 2 * width))
        return x


class MaskFeatures(nn.Module):
    """The sum of P2 to P5 at the size of P2, P5 with its coordinates, and a 1x1 convolution.

    Args:
        in_channels: channels of the levels.
        mid_channels: channels of the convolutions before the sum.
        out_channels: channels of the result.
        norm_groups: groups of the normalisations.
        deform: whether the convolutions are deformable.

    x: list of levels (N, in_channels, H_i, W_i) -> (N, out_channels, H_0, W_0).
    """

    def __init__(
        self, in_channels: int, mid_channels: int, out_channels: int, norm_groups: int = 32, deform: bool = False
    ):
        super().__init__()
        self.convs_all_levels = nn.ModuleList(
            Enlarged(in_channels + (2 if i == 3 else 0), mid_channels, i, norm_groups, deform) for i in range(4)
        )
        self.conv_pred = norm_conv(mid_channels, out_channels, 1, norm_groups, deform)

    def forward(self, levels):
        *levels, last = levels
        levels = [*levels, torch.cat([last, coordinates(last)], 1)]
        return self.conv_pred(sum(convs(x) for convs, x in zip(self.convs_all_levels, levels)))


class SOLOv2Head(nn.Module):
    """Towers for the kernels and the classes of the grid's cells, and the maps that the kernels are applied to.

    Args:
        in_channels: channels of the levels.
        num_classes: classes K.
        channels: channels of the towers.
        num_convs: convolutions of each tower.
        num_grids: cells S per axis of the grid of every level.
        mask_channels: channels of the maps before their sum.
        mask_out_channels: channels E of the shared maps and length of the kernels.
        norm_groups: groups of the normalisation after each convolution.
        deform: which convolutions are deformable: "none", "last", of the towers, or "all".

    Inputs: dict of levels P2 to P6, (N, C, H, W).
    Returns: dict: ``"kernel_p2"`` ... (N, E, S, S), ``"cls_p2"`` ... (N, K, S, S) logits, ``"mask_features"``
        (N, E, H / 4, W / 4). The mask of a cell is the sigmoid of the product of its kernel with every position.
    Raises: ValueError if ``deform`` is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 512,
        num_convs: int = 4,
        num_grids: tuple[int, ...] = GRIDS,
        mask_channels: int = 128,
        mask_out_channels: int = 256,
        norm_groups: int = 32,
        deform: str = "none",
    ):
        super().__init__()
        if deform not in ("none", "last", "all"):
            raise ValueError(f"deform={deform!r} must be 'none', 'last' or 'all'")
        self.num_grids = tuple(num_grids)
        for name, extra in (("cls_convs", 0), ("kernel_convs", 2)):
            widths = [in_channels + extra] + [channels] * (num_convs - 1)
            chosen = [deform == "all" or (deform == "last" and i == num_convs - 1) for i in range(num_convs)]
            convs = [norm_conv(c, channels, 3, norm_groups, each) for c, each in zip(widths, chosen)]
            setattr(self, name, nn.ModuleList(convs))
        self.conv_cls = nn.Conv2d(channels, num_classes, 3, 1, 1)
        self.conv_kernel = nn.Conv2d(channels, mask_out_channels, 3, 1, 1)
        self.mask_feature_head = MaskFeatures(
            in_channels, mask_channels, mask_out_channels, norm_groups, deform == "all"
        )
        normal(self, 0.01)
        nn.init.constant_(self.conv_cls.bias, PRIOR_BIAS)

    def forward(self, maps):
        found = {}
        for name, x, grid in zip(maps, even_levels(maps), self.num_grids):
            x = resize_bilinear(torch.cat([x, coordinates(x)], 1), (grid, grid))
            y = x[:, :-2]
            for conv in self.kernel_convs:
                x = conv(x)
            for conv in self.cls_convs:
                y = conv(y)
            found |= {f"kernel_{name}": self.conv_kernel(x), f"cls_{name}": self.conv_cls(y)}
        return {**found, "mask_features": self.mask_feature_head(list(maps.values())[:4])}


def masks_of_kernels(outputs, levels, cells):
    """Masks of cells (N, Q), counted through all levels, flat: (N, Q, h w)."""
    kernels = torch.cat([map_rows(outputs[f"kernel_{level}"]) for level in levels], 1)
    return (take_rows(kernels, cells) @ outputs["mask_features"].flatten(2)).sigmoid()


class SOLOv2Criterion(SOLOCriterion):
    """The losses of :class:`SOLOCriterion`; a cell that several objects claim learns the masks of all of them.

    Args, inputs, returns: as there.
    """

    def counted(self, owner, row, column, slots):
        return torch.ones_like(row, dtype=torch.bool).unflatten(1, (-1, 9))

    def dice(self, outputs, level, row, column, masks, factor):
        grid = outputs[f"cls_{level}"].shape[-1]
        found = masks_of_kernels(outputs, [level], row * grid + column).unflatten(1, (-1, 9))
        return squared_dice(found, strided_masks(masks, STRIDE).flatten(2)[:, :, None])


def solov2_light_criterion(**options) -> SOLOv2Criterion:
    """The losses with the ranges of the light variant."""
    return SOLOv2Criterion(**{"ranges": LIGHT_RANGES, **options})


class SOLOv2PostProcess(SOLOPostProcess):
    """See :class:`SOLOPostProcess`.

    Args, inputs, returns: as there.
    """

    def judged(self, outputs):
        found = {key: upper_left_peaks(x.sigmoid()) if key.startswith("cls") else x for key, x in outputs.items()}
        return found, map_size(outputs["mask_features"])

    def masks_of(self, found, cells, grids):
        return masks_of_kernels(found, LEVELS, cells)


def solov2_r50_fpn(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    channels: int = 512,
    num_convs: int = 4,
    num_grids: tuple[int, ...] = GRIDS,
    mask_channels: int = 128,
    mask_out_channels: int = 256,
    norm_groups: int = 32,
    deform: str = "none",
    **options,
) -> MaskDetector:
    conv = CONV if deform == "none" else (CONV, *(DEFORM["v2"],) * 3)
    backbone = pyramid_backbone(layers=layers, conv=conv, **options)
    masks = mask_channels, mask_out_channels
    head = SOLOv2Head(out_channels, num_classes, channels, num_convs, num_grids, *masks, norm_groups, deform)
    return MaskDetector(backbone, FPN(backbone.channels, out_channels), head)


def solov2_r101_fpn(layers=(3, 4, 23, 3), **options) -> MaskDetector:
    return solov2_r50_fpn(layers=layers, **options)


def solov2_r101_dcn_fpn(deform: str = "all", **options) -> MaskDetector:
    return solov2_r101_fpn(deform=deform, **options)


def solov2_x101_dcn_fpn(groups: int = 64, base_width: int = 4, **options) -> MaskDetector:
    return solov2_r101_dcn_fpn(groups=groups, base_width=base_width, **options)


def solov2_light_r50_fpn(
    channels: int = 256, num_convs: int = 2, mask_out_channels: int = 128, **options
) -> MaskDetector:
    return solov2_r50_fpn(channels=channels, num_convs=num_convs, mask_out_channels=mask_out_channels, **options)


def solov2_light_r50_dcn_fpn(num_convs: int = 3, deform: str = "last", **options) -> MaskDetector:
    return solov2_light_r50_fpn(num_convs=num_convs, deform=deform, **options)


def solov2_light_r18_fpn(block=BasicBlock, layers=(2, 2, 2, 2), **options) -> MaskDetector:
    return solov2_light_r50_fpn(block=block, layers=layers, **options)


def solov2_light_r34_fpn(block=BasicBlock, layers=(3, 4, 6, 3), **options) -> MaskDetector:
    return solov2_light_r50_fpn(block=block, layers=layers, **options)
