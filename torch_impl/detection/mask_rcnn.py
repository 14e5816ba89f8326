"""Mask R-CNN: Faster R-CNN with a mask for every box, separately for each class.

"Mask R-CNN", 2017, arXiv:1703.06870.
Parameter names: torchvision ``detection/mask_rcnn.py`` (BSD-3); the others: mmdet ``mask_rcnn`` (Apache-2.0). In
training masks are computed for the positive proposals, otherwise for the boxes that suppression keeps.

Mirror notes:
- NCHW here, NHWC in TensorFlow. Keras infers the widths of the maps.
"""

from torch_impl.classification.resnet import BasicBlock
from torch_impl.detection._masks import MaskCriterion, MaskPostProcess, with_masks
from torch_impl.detection._two_stage import TwoStagePostProcess
from torch_impl.detection.faster_rcnn import FasterRCNN, RoIHeads, StandardRoIHead, TwoStageDetector, pyramid_detector
from torch_impl.rois.extractors import RoIExtractor
from torch_impl.rois.mask_heads import FCNMaskHead, MaskPredictor, mask_convolutions

__all__ = [
    "MaskCriterion",
    "MaskPostProcess",
    "MaskRCNN",
    "MaskRoIHeads",
    "StandardMaskRoIHead",
    "mask_mmdet_criterion",
    "mask_rcnn_r18_fpn",
    "mask_rcnn_r50_fpn",
    "mask_rcnn_r101_fpn",
    "mask_rcnn_x101_32x4d_fpn",
    "mask_rcnn_x101_64x4d_fpn",
    "maskrcnn_resnet50_fpn",
]


class MaskRoIHeads(RoIHeads):
    """The second stage with masks under torchvision's names.

    Args:
        in_channels, num_classes, units, samples: see :class:`RoIHeads`.
        mask_channels: width of the masks' convolutions.
        score_threshold, pairs, iou_threshold, detections: of the best boxes, see :class:`TwoStagePostProcess`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        units: int = 1024,
        samples: int = 512,
        mask_channels: int = 256,
        score_threshold: float = 0.05,
        pairs: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
    ):
        super().__init__(in_channels, num_classes, units, samples)
        self.postprocess = TwoStagePostProcess("torchvision", score_threshold, pairs, iou_threshold, detections)
        self.mask_roi_pool = RoIExtractor("torchvision", 14)
        self.mask_head = mask_convolutions(in_channels, mask_channels)
        self.mask_predictor = MaskPredictor(mask_channels, num_classes)

    def segment(self, maps, boxes):
        """Mask logits (N * R, K, 28, 28) of boxes (N, R, 4)."""
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(maps, boxes)))

    def forward(self, maps, proposals, image_size, targets=None, given: bool = False):
        found = super().forward(maps, proposals, image_size, targets, given)
        return with_masks(self, found, maps, image_size, targets, given)


class StandardMaskRoIHead(StandardRoIHead):
    """The second stage with masks under mmdet's names.

    Args:
        in_channels, num_classes, units, num_convs, conv_channels, num_fcs, norm, norm_groups, samples, low_quality: see
            :class:`StandardRoIHead`; ``norm`` and ``norm_groups`` also of the masks' convolutions.
        mask_channels: width of the masks' convolutions.
        score_threshold, pairs, iou_threshold, detections: of the best boxes, see :class:`TwoStagePostProcess`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        units: int = 1024,
        num_convs: int = 0,
        conv_channels: int = 256,
        num_fcs: int = 2,
        norm=None,
        norm_groups: int = 32,
        samples: int = 512,
        low_quality: str | None = "forced",
        mask_channels: int = 256,
        score_threshold: float = 0.05,
        pairs: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
    ):
        super().__init__(
            in_channels, num_classes, units, num_convs, conv_channels, num_fcs, norm, norm_groups, samples, low_quality
        )
        self.postprocess = TwoStagePostProcess("mmdet", score_threshold, pairs, iou_threshold, detections)
        self.mask_roi_extractor = RoIExtractor("mmdet", 14)
        self.mask_head = FCNMaskHead(in_channels, mask_channels, num_classes, norm=norm, norm_groups=norm_groups)

    def segment(self, maps, boxes):
        """Mask logits (N * R, K, 28, 28) of boxes (N, R, 4)."""
        return self.mask_head(self.mask_roi_extractor(maps, boxes))

    def forward(self, maps, proposals, image_size, targets=None, given: bool = False):
        found = super().forward(maps, proposals, image_size, targets, given)
        return with_masks(self, found, maps, image_size, targets, given)


class MaskRCNN(FasterRCNN):
    """Residual network, pyramid P2 to P6, two stages with masks (torchvision's names and constants).

    Args:
        mask_channels, score_threshold, pairs, iou_threshold, detections: see :class:`MaskRoIHeads`.
        options: of :class:`FasterRCNN`.

    Inputs: as for :class:`FasterRCNN`.
    Returns: as for :class:`FasterRCNN`, and what :func:`with_masks` adds.
    """

    def __init__(
        self,
        mask_channels: int = 256,
        score_threshold: float = 0.05,
        pairs: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
        **options,
    ):
        self.mask_options = mask_channels, score_threshold, pairs, iou_threshold, detections
        super().__init__(**options)

    def make_roi_heads(self, *options):
        return MaskRoIHeads(*options, *self.mask_options)


def mask_mmdet_criterion(**options) -> MaskCriterion:
    """mmdet's losses."""
    return MaskCriterion(**{"convention": "mmdet", **options})


def maskrcnn_resnet50_fpn(layers=(3, 4, 6, 3), **options) -> MaskRCNN:
    """torchvision's results."""
    return MaskRCNN(layers=layers, **options)


def mask_rcnn_r50_fpn(
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
    head = StandardMaskRoIHead(
        out_channels,
        num_classes,
        units,
        samples=samples,
        mask_channels=mask_channels,
        pairs=pairs,
        detections=detections,
    )
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)


def mask_rcnn_r18_fpn(block=BasicBlock, layers=(2, 2, 2, 2), **options) -> TwoStageDetector:
    return mask_rcnn_r50_fpn(block=block, layers=layers, **options)


def mask_rcnn_r101_fpn(layers=(3, 4, 23, 3), **options) -> TwoStageDetector:
    return mask_rcnn_r50_fpn(layers=layers, **options)


def mask_rcnn_x101_32x4d_fpn(layers=(3, 4, 23, 3), groups=32, base_width=4, **options) -> TwoStageDetector:
    return mask_rcnn_r50_fpn(layers=layers, groups=groups, base_width=base_width, **options)


def mask_rcnn_x101_64x4d_fpn(layers=(3, 4, 23, 3), groups=64, base_width=4, **options) -> TwoStageDetector:
    return mask_rcnn_r50_fpn(layers=layers, groups=groups, base_width=base_width, **options)
