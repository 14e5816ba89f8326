"""Detectors with group normalisation in all their parts, and with standardised kernels.

"Group Normalization", 2018, arXiv:1803.08494; "Micro-Batch Training with Batch-Channel Normalization and Weight
Standardization", 2019, arXiv:1903.10520. Parameter names: mmdet ``gn``, ``gn+ws`` (Apache-2.0). The backbone, the
pyramid, the convolutions of the box head and those of the mask head are normalised; the first stage is not.

Mirror notes:
- The layers have the same names in both panels, and their framework's argument names.
"""

import functools

from torch import nn

from torch_impl.detection._proposals import RPNHead
from torch_impl.detection._trunk import ConvResNet
from torch_impl.detection.faster_rcnn import StandardRoIHead, TwoStageDetector, mmdet_criterion, mmdet_postprocess
from torch_impl.detection.mask_rcnn import MaskPostProcess, StandardMaskRoIHead, mask_mmdet_criterion
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.weight_standardization import ConvWS2d
from torch_impl.necks.fpn import FPN
from torch_impl.rois.box_heads import ConvFCBBoxHead
from torch_impl.rois.mask_heads import FCNMaskHead

__all__ = [
    "GroupNormFPN",
    "GroupNormMaskRoIHead",
    "GroupNormRoIHead",
    "MaskPostProcess",
    "faster_rcnn_r50_fpn_gn_ws_all",
    "faster_rcnn_r101_fpn_gn_ws_all",
    "faster_rcnn_x50_32x4d_fpn_gn_ws_all",
    "mask_mmdet_criterion",
    "mask_rcnn_r50_fpn_gn_all",
    "mask_rcnn_r50_fpn_gn_ws_all",
    "mask_rcnn_r101_fpn_gn_all",
    "mmdet_criterion",
    "mmdet_postprocess",
]

CONVS = {False: nn.Conv2d, True: ConvWS2d}  # by whether kernels are standardised


class GroupNormFPN(FPN):
    """:class:`FPN` of five levels, with a normalisation after every convolution.

    Args:
        in_channels, out_channels, norm_groups: as there.
        standardize: whether kernels are standardised.

    Inputs, returns: as for :class:`FPN`.
    """

    def __init__(self, in_channels, out_channels: int = 256, norm_groups: int = 32, standardize: bool = False):
        super().__init__(in_channels, out_channels, norm="group", norm_groups=norm_groups)
        options = dict(norm="group", norm_groups=norm_groups, activation=None, conv=CONVS[standardize])
        widths = list(in_channels.values())
        self.lateral_convs = nn.ModuleList(ConvModule(c, out_channels, 1, **options) for c in widths)
        self.fpn_convs = nn.ModuleList(ConvModule(out_channels, out_channels, 3, 1, 1, **options) for _ in widths)
        for module in (*self.lateral_convs, *self.fpn_convs):
            nn.init.xavier_uniform_(module.conv.weight)


class GroupNormRoIHead(StandardRoIHead):
    """The second stage whose box head has four normalised convolutions and one linear layer.

    Args:
        in_channels, num_classes, units, samples: see :class:`StandardRoIHead`.
        conv_channels: width of the convolutions.
        norm_groups: groups of a normalisation.
        standardize: whether kernels are standardised.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        units: int = 1024,
        samples: int = 512,
        conv_channels: int = 256,
        norm_groups: int = 32,
        standardize: bool = False,
    ):
        super().__init__(in_channels, num_classes, units, samples=samples)
        options = dict(norm="group", norm_groups=norm_groups, conv=CONVS[standardize])
        self.bbox_head = ConvFCBBoxHead(in_channels, num_classes, 4, conv_channels, 1, units, **options)


class GroupNormMaskRoIHead(StandardMaskRoIHead):
    """The same with masks, whose convolutions are also normalised.

    Args:
        in_channels, num_classes, units, samples, conv_channels, norm_groups, standardize: see
            :class:`GroupNormRoIHead`.
        mask_channels, pairs, detections: see :class:`StandardMaskRoIHead`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        units: int = 1024,
        samples: int = 512,
        conv_channels: int = 256,
        norm_groups: int = 32,
        standardize: bool = False,
        mask_channels: int = 256,
        pairs: int = 4096,
        detections: int = 100,
    ):
        few = {"samples": samples, "pairs": pairs, "detections": detections}
        super().__init__(in_channels, num_classes, units, mask_channels=mask_channels, **few)
        options = dict(norm="group", norm_groups=norm_groups, conv=CONVS[standardize])
        self.bbox_head = ConvFCBBoxHead(in_channels, num_classes, 4, conv_channels, 1, units, **options)
        self.mask_head = FCNMaskHead(in_channels, mask_channels, num_classes, **options)


def detector(
    head, out_channels, candidates, proposals, norm_groups: int, standardize: bool, **options
) -> TwoStageDetector:
    """A normalised trunk and pyramid and two stages, ``head`` the second; options: those of :class:`ConvResNet`."""
    norm = functools.partial(nn.GroupNorm, norm_groups)
    backbone = ConvResNet(conv=CONVS[standardize], norm=norm, norm_name="gn", **options)
    neck = GroupNormFPN(backbone.channels, out_channels, norm_groups, standardize)
    return TwoStageDetector(backbone, neck, RPNHead(out_channels, candidates, proposals), head)


def faster_rcnn_r50_fpn_gn_ws_all(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    conv_channels: int = 256,
    norm_groups: int = 32,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    **options,
) -> TwoStageDetector:
    head = GroupNormRoIHead(out_channels, num_classes, units, samples, conv_channels, norm_groups, True)
    return detector(head, out_channels, candidates, proposals, norm_groups, True, layers=layers, **options)


def faster_rcnn_r101_fpn_gn_ws_all(layers=(3, 4, 23, 3), **options) -> TwoStageDetector:
    return faster_rcnn_r50_fpn_gn_ws_all(layers=layers, **options)


def faster_rcnn_x50_32x4d_fpn_gn_ws_all(groups=32, base_width=4, **options) -> TwoStageDetector:
    return faster_rcnn_r50_fpn_gn_ws_all(groups=groups, base_width=base_width, **options)


def mask_rcnn_r50_fpn_gn_all(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    conv_channels: int = 256,
    norm_groups: int = 32,
    standardize: bool = False,
    mask_channels: int = 256,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    pairs: int = 4096,
    detections: int = 100,
    **options,
) -> TwoStageDetector:
    widths = conv_channels, norm_groups, standardize, mask_channels
    head = GroupNormMaskRoIHead(out_channels, num_classes, units, samples, *widths, pairs, detections)
    return detector(head, out_channels, candidates, proposals, norm_groups, standardize, layers=layers, **options)


def mask_rcnn_r50_fpn_gn_ws_all(standardize: bool = True, **options) -> TwoStageDetector:
    return mask_rcnn_r50_fpn_gn_all(standardize=standardize, **options)


def mask_rcnn_r101_fpn_gn_all(layers=(3, 4, 23, 3), **options) -> TwoStageDetector:
    return mask_rcnn_r50_fpn_gn_all(layers=layers, **options)
