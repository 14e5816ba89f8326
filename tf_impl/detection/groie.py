"""Detectors that take the features of every box from all levels of the pyramid.

"A Novel Region of Interest Extraction Layer for Instance Segmentation", 2020, arXiv:2004.13665.
Parameter names: mmdet ``groie`` (Apache-2.0).

Mirror notes:
- The layers have the same names in both panels, and their framework's argument names.
"""

import functools

import keras

from tf_impl.detection.faster_rcnn import (
    StandardRoIHead,
    TwoStageDetector,
    mmdet_criterion,
    mmdet_postprocess,
    pyramid_detector,
)
from tf_impl.detection.mask_rcnn import MaskPostProcess, StandardMaskRoIHead, mask_mmdet_criterion
from tf_impl.layers.context import ContextBlock
from tf_impl.rois.generic import GenericRoIExtractor

__all__ = [
    "GenericMaskRoIHead",
    "GenericRoIHead",
    "MaskPostProcess",
    "faster_rcnn_r50_fpn_groie",
    "mask_mmdet_criterion",
    "mask_rcnn_r50_fpn_groie",
    "mask_rcnn_r50_fpn_syncbn_r4_gcb_c3_c5_groie",
    "mmdet_criterion",
    "mmdet_postprocess",
]


@keras.saving.register_keras_serializable("diptych")
class GenericRoIHead(StandardRoIHead):
    """The second stage whose boxes have features from all levels.

    Args:
        filters, num_heads: of the levels and of the attention, see :class:`GenericRoIExtractor`.
        num_classes, units, samples: see :class:`StandardRoIHead`.
    """

    def __init__(
        self, filters: int, num_classes: int, units: int = 1024, samples: int = 512, num_heads: int = 6, **kwargs
    ):
        super().__init__(num_classes, units, samples=samples, **kwargs)
        self.bbox_roi_extractor = GenericRoIExtractor(filters, 7, num_heads)


@keras.saving.register_keras_serializable("diptych")
class GenericMaskRoIHead(StandardMaskRoIHead):
    """The same with masks, which have a separate extractor.

    Args:
        filters, num_heads: of the levels and of the attention, see :class:`GenericRoIExtractor`.
        num_classes, units, samples, mask_filters, pairs, detections: see :class:`StandardMaskRoIHead`.
    """

    def __init__(
        self,
        filters: int,
        num_classes: int,
        units: int = 1024,
        samples: int = 512,
        num_heads: int = 6,
        mask_filters: int = 256,
        pairs: int = 4096,
        detections: int = 100,
        **kwargs,
    ):
        few = {"samples": samples, "pairs": pairs, "detections": detections}
        super().__init__(num_classes, units, mask_filters=mask_filters, **few, **kwargs)
        self.bbox_roi_extractor = GenericRoIExtractor(filters, 7, num_heads)
        self.mask_roi_extractor = GenericRoIExtractor(filters, 14, num_heads)


def faster_rcnn_r50_fpn_groie(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    num_heads: int = 6,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    **options,
) -> TwoStageDetector:
    head = GenericRoIHead(out_channels, num_classes, units, samples, num_heads)
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)


def mask_rcnn_r50_fpn_groie(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    num_heads: int = 6,
    mask_channels: int = 256,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    pairs: int = 4096,
    detections: int = 100,
    **options,
) -> TwoStageDetector:
    head = GenericMaskRoIHead(out_channels, num_classes, units, samples, num_heads, mask_channels, pairs, detections)
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)


def mask_rcnn_r50_fpn_syncbn_r4_gcb_c3_c5_groie(ratio: float = 1 / 4, norm_eval: bool = False, **options):
    layer = functools.partial(ContextBlock, ratio=ratio)
    plugin = {"name": "context_block", "position": "after_conv3", "layer": layer}
    plugins = ({**plugin, "stages": (False, True, True, True)},)
    return mask_rcnn_r50_fpn_groie(plugins=plugins, norm_eval=norm_eval, **options)
