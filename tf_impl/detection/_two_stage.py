"""Common parts of two-stage detectors: the heads of the second stage, the losses of both, the best boxes.

Names: torchvision ``detection/generalized_rcnn.py``, ``detection/roi_heads.py`` (BSD-3); mmdet
``detectors/two_stage.py``, ``roi_heads/standard_roi_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Values of one class are picked by ``tf.gather(batch_dims=2)``, in PyTorch by ``gather``.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.assignment import BACKGROUND, IGNORED, assign_max_iou
from tf_impl.boxes.coders import DeltaCoder, clip_boxes
from tf_impl.boxes.convention import convention_of
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.results import results
from tf_impl.boxes.sampling import has_area, sample
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.precision import single
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import top_k
from tf_impl.losses.box import l1_loss, smooth_l1_loss
from tf_impl.losses.dense import binary_cross_entropy
from tf_impl.rois.sampling import sample_rois

__all__ = [
    "ROI_STDS",
    "RoIHead",
    "TwoStageCriterion",
    "TwoStagePostProcess",
    "class_entropy",
    "of_class",
    "two_stages",
]

ROI_STDS = (0.1, 0.1, 0.2, 0.2)  # of the second stage's deltas; the first has 1


def of_class(values, labels):
    """The values of one class for every box.  (N, S, K, ...), (N, S) int64, negative for 0 -> (N, S, ...)."""
    return tf.gather(values, tf.maximum(labels, 0), batch_dims=2)  # mirror: gather


def class_entropy(logits, labels):
    """Cross-entropy of every box.  (N, S, K), (N, S) int64 -> (N, S)."""
    return -of_class(tf.nn.log_softmax(logits, -1), labels)


def two_stages(first, second, maps, images, proposals=None, targets=None) -> dict:
    """A detector's outputs, from its maps.

    Args:
        first: a :class:`ProposalNetwork`.
        second: a :class:`RoIHead`.
        maps: dict of levels, p2 and coarser.
        images: (N, H, W, 3), of which only the size is used.
        proposals: (N, P, 4) or (N * P, 4) xyxy in pixels instead of the network's own; rows without area are ignored.
        targets: those of the losses; any ``"proposals"`` in them replace the network's own.
    """
    found = first(maps, image_size=map_size(images), learning=targets is not None)
    own = found.pop("proposals")
    if targets is not None:
        proposals = targets.get("proposals")
    given = proposals is not None
    proposals = proposals if given else own
    if len(proposals.shape) == 2:
        proposals = tf.reshape(proposals, (tf.shape(images)[0], -1, 4))
    size = tf.constant(map_size(images), tf.int64)
    found |= {"image_size": size}
    return found | second(maps, proposals, image_size=size, targets=targets, given=given)


@keras.saving.register_keras_serializable("diptych")
class RoIHead(keras.layers.Layer):
    """The second stage: samples proposals in training, and predicts their classes and boxes.

    Args:
        convention: "torchvision" or "mmdet".
        samples: proposals per image that the losses are computed from, S.
        positive, low_quality: of the assignment, see :func:`sample_rois`.

    Inputs: dict of maps (N, H, W, C); ``proposals`` (N, P, 4); ``image_size`` (2,); ``targets``, see
        :func:`sample_rois`, or None; ``given``: whether the proposals are not the network's own.
    Returns: dict: ``"proposals"`` (N, P or S, 4), ``"class_logits"`` (N, P or S, K), ``"box_deltas"`` the same with
        four values per box, or four for each of its classes; with targets also ``"matched"`` (N, S).
    """

    def __init__(
        self, convention: str, samples: int = 512, positive: float = 0.5, low_quality: str | None = None, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        self.convention, self.samples = convention_of(convention), samples
        self.positive, self.low_quality = positive, low_quality

    def classify(self, maps, boxes):
        """Class logits (N * R, K) and deltas (N * R, ...) of boxes (N, R, 4)."""
        raise NotImplementedError

    def call(self, maps, proposals, image_size, targets=None, given: bool = False):
        found = {}
        if targets is not None:
            proposals, found["matched"] = sample_rois(
                proposals,
                targets,
                self.convention,
                self.samples,
                positive=self.positive,
                low_quality=self.low_quality,
            )
        logits, deltas = (single(values) for values in self.classify(maps, proposals))
        rows = (-1, proposals.shape[1] or tf.shape(proposals)[1])
        return {
            **found,
            "proposals": proposals,
            "class_logits": tf.reshape(logits, (*rows, logits.shape[-1])),
            "box_deltas": tf.reshape(deltas, (*rows, deltas.shape[-1])),
        }


@keras.saving.register_keras_serializable("diptych")
class TwoStageCriterion(keras.layers.Layer):
    """Objectness and boxes of sampled anchors, classes and boxes of sampled proposals.

    Args:
        convention: "torchvision" or "mmdet".
        anchor_beta: of the smooth L1 loss of the anchors' boxes; None for the convention's, 0 for the L1 loss.
        box_beta: the same of the proposals' boxes.
        inside: whether only anchors inside the image take part.
        samples: anchors per image that the losses are computed from; up to half of them positive.

    Inputs: ``outputs`` of the model, which was given the targets; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels,
        ``"labels"`` (N, M) int64, ``"valid"`` (N, M) bool, False for padding; boxes without area take no part. If there
        is ``"anchor_priorities"``, (N, A), the anchors with the highest are sampled, otherwise the first.
    Returns: dict of scalars: ``"loss_objectness"``, ``"loss_rpn_box_reg"``, ``"loss_classifier"``, ``"loss_box_reg"``
        or, in mmdet, ``"loss_rpn_cls"``, ``"loss_rpn_bbox"``, ``"loss_cls"``, ``"loss_bbox"``; ``"total"``.
    """

    def __init__(
        self,
        convention: str = "torchvision",
        anchor_beta: float | None = None,
        box_beta: float | None = None,
        inside: bool = False,
        samples: int = 256,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.convention, self.inside, self.samples = convention_of(convention), inside, samples
        self.anchor_beta = self.convention.beta if anchor_beta is None else anchor_beta
        self.box_beta = self.convention.beta if box_beta is None else box_beta
        self.anchor_coder = DeltaCoder(clamp=self.convention.clamp)
        self.box_coder = DeltaCoder(ROI_STDS, self.convention.clamp)

    def call(self, outputs, targets):
        losses = {**self.anchor_losses(outputs, targets), **self.box_losses(outputs, targets)}
        return {**losses, "total": sum(losses.values())}

    def anchor_losses(self, outputs, targets):
        """Losses of the first stage."""
        logits, deltas, anchors = outputs["objectness"], outputs["anchor_deltas"], outputs["anchors"]
        boxes = targets["boxes"]
        present = targets["valid"] & has_area(boxes)
        iou = pairwise_iou(boxes, anchors, self.convention.iou_eps)  # (N, M, A)
        inside = tf.ones_like(anchors[:, 0], dtype=tf.bool)
        if self.inside:
            limit = tf.cast(tf.reverse(outputs["image_size"], [0]), anchors.dtype)
            inside = tf.reduce_all(anchors[:, :2] >= 0, -1) & tf.reduce_all(anchors[:, 2:] < limit, -1)
            iou = tf.where(inside, iou, -1.0)
        low_quality = self.convention.low_quality, self.convention.low_quality_iou
        matched = tf.where(inside, assign_max_iou(iou, present, 0.7, 0.3, *low_quality), IGNORED)  # (N, A)
        positive, negative = sample(
            matched >= 0, matched == BACKGROUND, self.samples, 0.5, targets.get("anchor_priorities")
        )
        divisor = tf.cast(self._divisor(positive, negative), logits.dtype) + self.convention.eps
        entropy = binary_cross_entropy(logits, tf.cast(positive, logits.dtype))
        # an anchor without an object is its own target: finite, and masked
        wanted = tf.where(positive[..., None], take_rows(boxes, matched), anchors)
        regression = self._regression(deltas, self.anchor_coder.encode(wanted, anchors), self.anchor_beta)
        return {
            self.convention.losses[0]: tf.reduce_sum(tf.where(positive | negative, entropy, 0.0)) / divisor,
            self.convention.losses[1]: tf.reduce_sum(tf.where(positive, regression, 0.0)) / divisor,
        }

    def box_losses(self, outputs, targets):
        """Losses of the second stage."""
        names = ("class_logits", "box_deltas", "proposals", "matched")
        losses = self.of_proposals(*(outputs[name] for name in names), targets, self.box_coder)
        return dict(zip(self.convention.losses[2:], losses))

    def of_proposals(self, logits, deltas, proposals, matched, targets, coder):
        """Losses of classes and of boxes, from what a stage returns."""
        used, positive = matched != IGNORED, matched >= 0
        labels = take_rows(targets["labels"], matched)
        background = 0 if self.convention.background_first else logits.shape[-1] - 1
        entropy = class_entropy(logits, tf.where(positive, labels, background))
        if deltas.shape[-1] > 4:
            deltas = of_class(tf.reshape(deltas, (-1, deltas.shape[1], deltas.shape[2] // 4, 4)), labels)
        somewhere = tf.constant([0.0, 0.0, 1.0, 1.0], proposals.dtype)
        proposals = tf.where(used[..., None], proposals, somewhere)  # log(0 / 0) of an empty slot
        wanted = tf.where(positive[..., None], take_rows(targets["boxes"], matched), proposals)
        regression = self._regression(deltas, coder.encode(wanted, proposals), self.box_beta)
        divisor = tf.maximum(tf.reduce_sum(tf.cast(used, logits.dtype)), 1.0) + self.convention.eps
        entropy, regression = tf.where(used, entropy, 0.0), tf.where(positive, regression, 0.0)
        return tf.reduce_sum(entropy) / divisor, tf.reduce_sum(regression) / divisor

    def _divisor(self, positive, negative):
        """Number of sampled anchors."""
        counts = tf.stack([tf.reduce_sum(tf.cast(kind, tf.int64), 1) for kind in (positive, negative)])  # (2, N)
        if self.convention.count_empty:
            return tf.reduce_sum(tf.maximum(counts, 1))
        return tf.maximum(tf.reduce_sum(counts), 1)

    @staticmethod
    def _regression(deltas, wanted, beta):
        return smooth_l1_loss(deltas, wanted, beta) if beta else l1_loss(deltas, wanted)


@keras.saving.register_keras_serializable("diptych")
class TwoStagePostProcess(keras.layers.Layer):
    """The best boxes of every image: threshold, best pairs of proposal and class, decoding, NMS by class.

    Args:
        convention: "torchvision" or "mmdet".
        score_threshold: pairs of at most this probability are dropped.
        candidates: pairs kept per image before suppression; the references keep all above the threshold.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.

    Inputs: ``outputs`` of the model; ``"image_size"`` may also be (N, 2), for images that were padded on the right and
        at the bottom.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        convention: str = "torchvision",
        score_threshold: float = 0.05,
        candidates: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.convention, self.score_threshold, self.candidates = convention_of(convention), score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections
        self.coder = DeltaCoder(ROI_STDS, self.convention.clamp)

    def call(self, outputs):
        probabilities = tf.nn.softmax(outputs["class_logits"], -1)
        return self.detect(probabilities, outputs["box_deltas"], outputs["proposals"], outputs["image_size"])

    def detect(self, probabilities, deltas, proposals, image_size):
        """The results, from probabilities (N, P, K) and deltas (N, P, 4) or (N, P, 4 * classes) of proposals."""
        first = self.convention.background_first
        scores = probabilities[..., 1:] if first else probabilities[..., :-1]
        classes = scores.shape[-1]
        scores = tf.where(has_area(proposals)[..., None], scores, -1.0)
        scores = tf.reshape(scores, (-1, scores.shape[1] * classes))
        scores, pairs = top_k(scores, min(self.candidates, scores.shape[1]))
        index = pairs // classes
        labels = pairs - index * classes
        if deltas.shape[-1] == 4:
            deltas = take_rows(deltas, index)
        else:
            deltas = deltas[..., 4:] if first else deltas
            deltas = take_rows(tf.reshape(deltas, (-1, deltas.shape[1] * classes, 4)), pairs)
        boxes = clip_boxes(self.coder.decode(deltas, take_rows(proposals, index)), image_size)
        valid = scores > self.score_threshold
        if self.convention.least_detection:
            size = boxes[..., 2:] - boxes[..., :2]
            valid = valid & tf.reduce_all(size >= self.convention.least_detection, -1)
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        labels = labels + 1 if first else labels
        return results(boxes, scores, labels, index, valid)
