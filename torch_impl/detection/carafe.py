"""Detectors whose pyramid, and mask head, enlarge maps by CARAFE: every pixel weights the neighbourhood below it.

"CARAFE: Content-Aware ReAssembly of FEatures", 2019, arXiv:1905.02188.
Parameter names: mmdet ``carafe`` (Apache-2.0).

Mirror notes:
- The layers have the same names in both panels, and their framework's argument names.
"""

import functools

from torch_impl.detection._proposals import RPNHead
from torch_impl.detection.faster_rcnn import (
    StandardRoIHead,
    TwoStageDetector,
    mmdet_criterion,
    mmdet_postprocess,
    pyramid_backbone,
)
from torch_impl.detection.mask_rcnn import MaskPostProcess, StandardMaskRoIHead, mask_mmdet_criterion
from torch_impl.layers.carafe import FPNCARAFE, CARAFEPack
from torch_impl.necks.fpn import level_names
from torch_impl.rois.mask_heads import FCNMaskHead

__all__ = [
    "CARAFEMaskRoIHead",
    "CARAFENeck",
    "MaskPostProcess",
    "faster_rcnn_r50_fpn_carafe",
    "mask_mmdet_criterion",
    "mask_rcnn_r50_fpn_carafe",
    "mmdet_criterion",
    "mmdet_postprocess",
]


class CARAFENeck(FPNCARAFE):
    """:class:`FPNCARAFE` of maps by name.

    Args:
        in_channels, out_channels, num_outs: as there.

    Inputs: dict of maps (N, C_i, H_i, W_i), fine to coarse.
    Returns: dict of levels (N, out_channels, H_i, W_i), fine to coarse, "p2" for "c2" and so on.
    """

    def forward(self, maps):
        levels = super().forward(*maps.values())
        return dict(zip(level_names(maps, len(levels)), levels))


class CARAFEMaskRoIHead(StandardMaskRoIHead):
    """The second stage whose masks are enlarged by CARAFE, without a ReLU after it.

    Args:
        in_channels, num_classes, units, samples, mask_channels, pairs, detections: see :class:`StandardMaskRoIHead`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        units: int = 1024,
        samples: int = 512,
        mask_channels: int = 256,
        pairs: int = 4096,
        detections: int = 100,
    ):
        few = {"samples": samples, "pairs": pairs, "detections": detections}
        super().__init__(in_channels, num_classes, units, mask_channels=mask_channels, **few)
        upsample = functools.partial(CARAFEPack, scale_factor=2)
        self.mask_head = FCNMaskHead(in_channels, mask_channels, num_classes, upsample=upsample)


def detector(head, layers, out_channels, candidates, proposals, **options) -> TwoStageDetector:
    """A detector with a CARAFE pyramid; options: those of :func:`pyramid_backbone`."""
    backbone = pyramid_backbone(layers=layers, **options)
    neck = CARAFENeck(tuple(backbone.channels.values()), out_channels, 5)
    return TwoStageDetector(backbone, neck, RPNHead(out_channels, candidates, proposals), head)


def faster_rcnn_r50_fpn_carafe(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    **options,
) -> TwoStageDetector:
    head = StandardRoIHead(out_channels, num_classes, units, samples=samples)
    return detector(head, layers, out_channels, candidates, proposals, **options)


def mask_rcnn_r50_fpn_carafe(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    mask_channels: int = 256,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    pairs: int = 4096,
    detections: int = 100,
    **options,
) -> TwoStageDetector:
    head = CARAFEMaskRoIHead(out_channels, num_classes, units, samples, mask_channels, pairs, detections)
    return detector(head, layers, out_channels, candidates, proposals, **options)
