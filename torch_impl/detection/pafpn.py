"""Faster R-CNN on a pyramid with path aggregation: a few layers lead from the fine levels to the coarse ones.

"Path Aggregation Network for Instance Segmentation", 2018, arXiv:1803.01534, section 3.1.
Parameter names: mmdet ``pafpn`` (Apache-2.0).

Mirror notes:
- The layers have the same names in both panels, and their framework's argument names.
"""

from torch_impl.detection._proposals import RPNHead
from torch_impl.detection.faster_rcnn import (
    StandardRoIHead,
    TwoStageDetector,
    mmdet_criterion,
    mmdet_postprocess,
    pyramid_backbone,
)
from torch_impl.necks.pafpn import PAFPN

__all__ = ["faster_rcnn_r50_pafpn", "mmdet_criterion", "mmdet_postprocess"]


def faster_rcnn_r50_pafpn(
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
    backbone = pyramid_backbone(layers=layers, **options)
    neck = PAFPN(backbone.channels, out_channels, 5)
    return TwoStageDetector(backbone, neck, RPNHead(out_channels, candidates, proposals), head)
