"""Cascade R-CNN: three second stages, each given the boxes of the one before and trained with stricter overlaps.

"Cascade R-CNN: High Quality Object Detection and Instance Segmentation", 2017, arXiv:1712.00726, 1906.09756.
Parameter names: mmdet ``roi_heads/cascade_roi_head.py`` (Apache-2.0). In training every stage samples again from the
boxes refined by the one before; objects that were added to them are removed first.

Mirror notes:
- NHWC here, NCHW in PyTorch: here the classes of mask logits are moved to the front afterwards, there they come first
  already.
- Gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.coders import DeltaCoder, clip_boxes
from tf_impl.boxes.convention import convention_of
from tf_impl.classification.resnet import BasicBlock
from tf_impl.detection._masks import MaskPostProcess, mask_loss
from tf_impl.detection._two_stage import TwoStageCriterion, TwoStagePostProcess, of_class
from tf_impl.detection.faster_rcnn import TwoStageDetector, pyramid_detector
from tf_impl.layers.precision import single
from tf_impl.layers.rows import take_rows
from tf_impl.rois.box_heads import ConvFCBBoxHead
from tf_impl.rois.extractors import RoIExtractor
from tf_impl.rois.mask_heads import FCNMaskHead
from tf_impl.rois.sampling import sample_rois

__all__ = [
    "CascadeCriterion",
    "CascadeMaskCriterion",
    "CascadeMaskPostProcess",
    "CascadeMaskRoIHead",
    "CascadePostProcess",
    "CascadeRoIHead",
    "cascade_mask_rcnn_r50_fpn",
    "cascade_mask_rcnn_r101_fpn",
    "cascade_mask_rcnn_x101_32x4d_fpn",
    "cascade_rcnn_r18_fpn",
    "cascade_rcnn_r50_fpn",
    "cascade_rcnn_r101_fpn",
    "cascade_rcnn_x101_32x4d_fpn",
    "cascade_rcnn_x101_64x4d_fpn",
]

OVERLAPS = (0.5, 0.6, 0.7)  # overlap from which on a proposal belongs to an object
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
WEIGHTS = (1.0, 0.5, 0.25)  # of the stages' losses
SHARE = 0.25  # of the sampled proposals may be positive


@keras.saving.register_keras_serializable("diptych")
class CascadePostProcess(TwoStagePostProcess):
    """The best boxes of the last stage.

    Args:
        score_threshold, candidates, iou_threshold, detections: see :class:`TwoStagePostProcess`.

    Inputs and returns: as for :class:`TwoStagePostProcess`.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
        **kwargs,
    ):
        super().__init__("mmdet", score_threshold, candidates, iou_threshold, detections, **kwargs)
        self.coder = DeltaCoder(STDS[-1], self.convention.clamp)


@keras.saving.register_keras_serializable("diptych")
class CascadeRoIHead(keras.layers.Layer):
    """Three heads, one after the other; their deltas are the same for all classes.

    Args:
        num_classes: classes K, without a background.
        units: width of the linear layers.
        samples: proposals per image that a stage's losses are computed from, S.

    Inputs: as for :class:`RoIHead`.
    Returns: dict: ``"proposals"`` (N, P, 4), the input boxes of the last stage, ``"class_logits"`` (N, P, K + 1),
        the mean of all stages, ``"box_deltas"`` (N, P, 4) of the last stage. With targets, of every stage, ``"..._0"``
        to ``"..._2"``, the same with S for P, and ``"matched"`` (N, S).
    """

    def __init__(self, num_classes: int, units: int = 1024, samples: int = 512, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.samples, self.convention = samples, convention_of("mmdet")
        self.coders = [DeltaCoder(stds, self.convention.clamp) for stds in STDS]
        self.bbox_roi_extractor = [RoIExtractor("mmdet", 7) for _ in STDS]
        self.bbox_head = [ConvFCBBoxHead(num_classes, units=units, class_agnostic=True) for _ in STDS]

    def classify(self, stage: int, maps, boxes):
        """Class logits (N, R, K + 1) and deltas (N, R, 4) of boxes (N, R, 4)."""
        found = self.bbox_head[stage](self.bbox_roi_extractor[stage](maps, boxes))
        logits, deltas = (single(values) for values in found)
        rows = (-1, boxes.shape[1] or tf.shape(boxes)[1])
        return tf.reshape(logits, (*rows, logits.shape[-1])), tf.reshape(deltas, (*rows, 4))

    def refine(self, stage: int, boxes, deltas, image_size):
        """A stage's refined boxes; rows of 0 stay 0."""
        return tf.stop_gradient(clip_boxes(self.coders[stage].decode(deltas, boxes), image_size))

    def call(self, maps, proposals, image_size, targets=None, given: bool = False):
        if targets is not None:
            return self.learn(maps, proposals, image_size, targets)
        every = []
        for stage in range(len(STDS)):
            logits, deltas = self.classify(stage, maps, proposals)
            every.append(logits)
            if stage < len(STDS) - 1:
                proposals = self.refine(stage, proposals, deltas, image_size)
        return {"proposals": proposals, "class_logits": sum(every) / len(every), "box_deltas": deltas}

    def learn(self, maps, proposals, image_size, targets):
        """What the losses of all stages are computed from."""
        found = {}
        for stage, overlap in enumerate(OVERLAPS):
            boxes, matched = sample_rois(proposals, targets, self.convention, self.samples, positive=overlap)
            logits, deltas = self.classify(stage, maps, boxes)
            of_stage = {"proposals": boxes, "matched": matched, "class_logits": logits, "box_deltas": deltas}
            found |= {f"{key}_{stage}": value for key, value in of_stage.items()}
            itself = tf.reduce_all(boxes == take_rows(targets["boxes"], matched), -1) & (matched >= 0)
            boxes = tf.where(itself[..., None], 0.0, boxes)  # an object that was added
            proposals = self.refine(stage, boxes, deltas, image_size)
        return found


@keras.saving.register_keras_serializable("diptych")
class CascadeMaskRoIHead(CascadeRoIHead):
    """:class:`CascadeRoIHead` with a mask head for every stage.

    Args:
        num_classes, units, samples: see :class:`CascadeRoIHead`.
        mask_filters: width of the masks' convolutions.
        score_threshold, pairs, iou_threshold, detections: of the best boxes, see :class:`TwoStagePostProcess`.

    Returns: as for :class:`CascadeRoIHead`, and with targets ``"mask_logits_0"`` to ``"mask_logits_2"`` (N, P, 28, 28)
        of the objects' classes for the first P proposals of each stage, all positive ones among them; for given
        proposals ``"masks"`` (N, P, K, 28, 28), the mean probabilities of all stages; otherwise the best boxes,
        ``"boxes"``, ``"scores"``, ``"labels"``, ``"valid"``, and ``"masks"`` (N, D, 28, 28) of their classes.
    """

    def __init__(
        self,
        num_classes: int,
        units: int = 1024,
        samples: int = 512,
        mask_filters: int = 256,
        score_threshold: float = 0.05,
        pairs: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
        **kwargs,
    ):
        super().__init__(num_classes, units, samples, **kwargs)
        self.postprocess = CascadePostProcess(score_threshold, pairs, iou_threshold, detections)
        self.mask_roi_extractor = [RoIExtractor("mmdet", 14) for _ in STDS]
        self.mask_head = [FCNMaskHead(mask_filters, num_classes) for _ in STDS]

    def segment(self, stage: int, maps, boxes):
        """Mask logits (N, R, K, 28, 28) of boxes (N, R, 4)."""
        logits = self.mask_head[stage](self.mask_roi_extractor[stage](maps, boxes))
        logits = tf.transpose(logits, (0, 3, 1, 2))  # mirror: come first
        return tf.reshape(logits, (-1, boxes.shape[1] or tf.shape(boxes)[1], *logits.shape[1:]))

    def call(self, maps, proposals, image_size, targets=None, given: bool = False):
        found = super().call(maps, proposals, image_size, targets, given)
        if targets is not None:
            for stage in range(len(STDS)):
                boxes = found[f"proposals_{stage}"][:, : int(self.samples * SHARE)]
                labels = take_rows(targets["labels"], found[f"matched_{stage}"][:, : boxes.shape[1]])
                found[f"mask_logits_{stage}"] = of_class(self.segment(stage, maps, boxes), labels)
            return found
        if not given:
            found |= self.postprocess({**found, "image_size": image_size})
        boxes = found["proposals"] if given else found["boxes"]
        masks = sum(tf.sigmoid(self.segment(stage, maps, boxes)) for stage in range(len(STDS))) / len(STDS)
        return {**found, "masks": masks if given else of_class(masks, found["labels"])}


@keras.saving.register_keras_serializable("diptych")
class CascadeCriterion(TwoStageCriterion):
    """The losses of the first stage and, with decreasing weights, of all second stages.

    Args:
        samples: anchors per image that the losses are computed from.

    Inputs: as for :class:`TwoStageCriterion`.
    Returns: dict of scalars: ``"loss_rpn_cls"``, ``"loss_rpn_bbox"``, ``"s0.loss_cls"``, ``"s0.loss_bbox"``, and so on
        to ``"s2.loss_bbox"``; ``"total"``.
    """

    def __init__(self, samples: int = 256, **kwargs):
        super().__init__("mmdet", 1 / 9, 1.0, True, samples, **kwargs)
        self.coders = [DeltaCoder(stds, self.convention.clamp) for stds in STDS]

    def box_losses(self, outputs, targets):
        losses = {}
        for stage, (weight, coder) in enumerate(zip(WEIGHTS, self.coders)):
            names = ("class_logits", "box_deltas", "proposals", "matched")
            found = self.of_proposals(*(outputs[f"{name}_{stage}"] for name in names), targets, coder)
            losses |= {f"s{stage}.{name}": weight * loss for name, loss in zip(("loss_cls", "loss_bbox"), found)}
        return losses


@keras.saving.register_keras_serializable("diptych")
class CascadeMaskCriterion(CascadeCriterion):
    """The same with the losses of masks.

    Args:
        samples: see :class:`CascadeCriterion`.

    Inputs: as for :class:`MaskCriterion`.
    Returns: as for :class:`CascadeCriterion`, and ``"s0.loss_mask"`` to ``"s2.loss_mask"``.
    """

    def box_losses(self, outputs, targets):
        losses = super().box_losses(outputs, targets)
        for stage, weight in enumerate(WEIGHTS):
            names = ("mask_logits", "proposals", "matched")
            loss = mask_loss(*(outputs[f"{name}_{stage}"] for name in names), targets["masks"], True)
            losses[f"s{stage}.loss_mask"] = weight * loss
        return losses


@keras.saving.register_keras_serializable("diptych")
class CascadeMaskPostProcess(MaskPostProcess):
    """The best boxes, already found by the model, with their masks.

    Inputs and returns: as for :class:`MaskPostProcess`.
    """

    def call(self, outputs):
        return {
            **{key: outputs[key] for key in ("boxes", "scores", "labels", "valid")},
            "masks": tf.where(outputs["valid"][..., None, None], outputs["masks"], 0.0),
        }


def cascade_rcnn_r50_fpn(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (2000, 1000),
    samples: int = 512,
    **options,
) -> TwoStageDetector:
    head = CascadeRoIHead(num_classes, units, samples)
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)


def cascade_rcnn_r18_fpn(block=BasicBlock, layers=(2, 2, 2, 2), **options) -> TwoStageDetector:
    return cascade_rcnn_r50_fpn(block=block, layers=layers, **options)


def cascade_rcnn_r101_fpn(layers=(3, 4, 23, 3), **options) -> TwoStageDetector:
    return cascade_rcnn_r50_fpn(layers=layers, **options)


def cascade_rcnn_x101_32x4d_fpn(layers=(3, 4, 23, 3), groups=32, base_width=4, **options) -> TwoStageDetector:
    return cascade_rcnn_r50_fpn(layers=layers, groups=groups, base_width=base_width, **options)


def cascade_rcnn_x101_64x4d_fpn(layers=(3, 4, 23, 3), groups=64, base_width=4, **options) -> TwoStageDetector:
    return cascade_rcnn_r50_fpn(layers=layers, groups=groups, base_width=base_width, **options)


def cascade_mask_rcnn_r50_fpn(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    mask_channels: int = 256,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (2000, 1000),
    samples: int = 512,
    pairs: int = 4096,
    detections: int = 100,
    **options,
) -> TwoStageDetector:
    head = CascadeMaskRoIHead(num_classes, units, samples, mask_channels, pairs=pairs, detections=detections)
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)


def cascade_mask_rcnn_r101_fpn(layers=(3, 4, 23, 3), **options) -> TwoStageDetector:
    return cascade_mask_rcnn_r50_fpn(layers=layers, **options)


def cascade_mask_rcnn_x101_32x4d_fpn(layers=(3, 4, 23, 3), groups=32, base_width=4, **options) -> TwoStageDetector:
    return cascade_mask_rcnn_r50_fpn(layers=layers, groups=groups, base_width=base_width, **options)
