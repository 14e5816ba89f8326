"""Common parts of two-stage detectors: the heads of the second stage, the losses of both, the best boxes.

Names: torchvision ``detection/generalized_rcnn.py``, ``detection/roi_heads.py`` (BSD-3); mmdet
``detectors/two_stage.py``, ``roi_heads/standard_roi_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Values of one class are picked by ``gather``, in TensorFlow by ``tf.gather(batch_dims=2)``.
"""

import torch
from torch import nn

from torch_impl.boxes.assignment import BACKGROUND, IGNORED, assign_max_iou
from torch_impl.boxes.coders import DeltaCoder, clip_boxes
from torch_impl.boxes.convention import convention_of
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.results import results
from torch_impl.boxes.sampling import has_area, sample
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.precision import single
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import top_k
from torch_impl.losses.box import l1_loss, smooth_l1_loss
from torch_impl.losses.dense import binary_cross_entropy
from torch_impl.rois.sampling import sample_rois

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
    shape = values.shape[3:]
    index = torch.clamp(labels, min=0).reshape(*labels.shape, 1, *(1 for _ in shape)).expand(-1, -1, 1, *shape)
    return values.gather(2, index)[:, :, 0]  # mirror: gather


def class_entropy(logits, labels):
    """Cross-entropy of every box.  (N, S, K), (N, S) int64 -> (N, S)."""
    return -of_class(torch.log_softmax(logits, -1), labels)


def two_stages(first, second, maps, images, proposals=None, targets=None) -> dict:
    """A detector's outputs, from its maps.

    Args:
        first: a :class:`ProposalNetwork`.
        second: a :class:`RoIHead`.
        maps: dict of levels, p2 and coarser.
        images: (N, 3, H, W), of which only the size is used.
        proposals: (N, P, 4) or (N * P, 4) xyxy in pixels instead of the network's own; rows without area are ignored.
        targets: those of the losses; any ``"proposals"`` in them replace the network's own.
    """
    found = first(maps, image_size=map_size(images), learning=targets is not None)
    own = found.pop("proposals")
    if targets is not None:
        proposals = targets.get("proposals")
    given = proposals is not None
    proposals = proposals if given else own
    if proposals.dim() == 2:
        proposals = proposals.reshape(images.shape[0], -1, 4)
    size = torch.tensor(map_size(images), device=images.device)
    found |= {"image_size": size}
    return found | second(maps, proposals, image_size=size, targets=targets, given=given)


class RoIHead(nn.Module):
    """The second stage: samples proposals in training, and predicts their classes and boxes.

    Args:
        convention: "torchvision" or "mmdet".
        samples: proposals per image that the losses are computed from, S.
        positive, low_quality: of the assignment, see :func:`sample_rois`.

    Inputs: dict of maps (N, C, H, W); ``proposals`` (N, P, 4); ``image_size`` (2,); ``targets``, see
        :func:`sample_rois`, or None; ``given``: whether the proposals are not the network's own.
    Returns: dict: ``"proposals"`` (N, P or S, 4), ``"class_logits"`` (N, P or S, K), ``"box_deltas"`` the same with
        four values per box, or four for each of its classes; with targets also ``"matched"`` (N, S).
    """

    def __init__(self, convention: str, samples: int = 512, positive: float = 0.5, low_quality: str | None = None):
        super().__init__()
        self.convention, self.samples = convention_of(convention), samples
        self.positive, self.low_quality = positive, low_quality

    def classify(self, maps, boxes):
        """Class logits (N * R, K) and deltas (N * R, ...) of boxes (N, R, 4)."""
        raise NotImplementedError

    def forward(self, maps, proposals, image_size, targets=None, given: bool = False):
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
        rows = (-1, proposals.shape[1])
        return {
            **found,
            "proposals": proposals,
            "class_logits": logits.reshape(*rows, logits.shape[-1]),
            "box_deltas": deltas.reshape(*rows, deltas.shape[-1]),
        }


class TwoStageCriterion(nn.Module):
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
    ):
        super().__init__()
        self.convention, self.inside, self.samples = convention_of(convention), inside, samples
        self.anchor_beta = self.convention.beta if anchor_beta is None else anchor_beta
        self.box_beta = self.convention.beta if box_beta is None else box_beta
        self.anchor_coder = DeltaCoder(clamp=self.convention.clamp)
        self.box_coder = DeltaCoder(ROI_STDS, self.convention.clamp)

    def forward(self, outputs, targets):
        losses = {**self.anchor_losses(outputs, targets), **self.box_losses(outputs, targets)}
        return {**losses, "total": sum(losses.values())}

    def anchor_losses(self, outputs, targets):
        """Losses of the first stage."""
        logits, deltas, anchors = outputs["objectness"], outputs["anchor_deltas"], outputs["anchors"]
        boxes = targets["boxes"]
        present = targets["valid"] & has_area(boxes)
        iou = pairwise_iou(boxes, anchors, self.convention.iou_eps)  # (N, M, A)
        inside = torch.ones_like(anchors[:, 0], dtype=torch.bool)
        if self.inside:
            limit = outputs["image_size"].flip(0)
            inside = (anchors[:, :2] >= 0).all(-1) & (anchors[:, 2:] < limit).all(-1)
            iou = torch.where(inside, iou, -1.0)
        low_quality = self.convention.low_quality, self.convention.low_quality_iou
        matched = torch.where(inside, assign_max_iou(iou, present, 0.7, 0.3, *low_quality), IGNORED)  # (N, A)
        positive, negative = sample(
            matched >= 0, matched == BACKGROUND, self.samples, 0.5, targets.get("anchor_priorities")
        )
        divisor = self._divisor(positive, negative).to(logits.dtype) + self.convention.eps
        entropy = binary_cross_entropy(logits, positive.to(logits.dtype))
        # an anchor without an object is its own target: finite, and masked
        wanted = torch.where(positive[..., None], take_rows(boxes, matched), anchors)
        regression = self._regression(deltas, self.anchor_coder.encode(wanted, anchors), self.anchor_beta)
        return {
            self.convention.losses[0]: torch.where(positive | negative, entropy, 0.0).sum() / divisor,
            self.convention.losses[1]: torch.where(positive, regression, 0.0).sum() / divisor,
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
        entropy = class_entropy(logits, torch.where(positive, labels, background))
        if deltas.shape[-1] > 4:
            deltas = of_class(deltas.unflatten(-1, (-1, 4)), labels)
        somewhere = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=proposals.dtype, device=proposals.device)
        proposals = torch.where(used[..., None], proposals, somewhere)  # log(0 / 0) of an empty slot
        wanted = torch.where(positive[..., None], take_rows(targets["boxes"], matched), proposals)
        regression = self._regression(deltas, coder.encode(wanted, proposals), self.box_beta)
        divisor = torch.clamp(used.to(logits.dtype).sum(), min=1.0) + self.convention.eps
        entropy, regression = torch.where(used, entropy, 0.0), torch.where(positive, regression, 0.0)
        return entropy.sum() / divisor, regression.sum() / divisor

    def _divisor(self, positive, negative):
        """Number of sampled anchors."""
        counts = torch.stack([kind.to(torch.int64).sum(1) for kind in (positive, negative)])  # (2, N)
        if self.convention.count_empty:
            return torch.clamp(counts, min=1).sum()
        return torch.clamp(counts.sum(), min=1)

    @staticmethod
    def _regression(deltas, wanted, beta):
        return smooth_l1_loss(deltas, wanted, beta) if beta else l1_loss(deltas, wanted)


class TwoStagePostProcess(nn.Module):
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
    ):
        super().__init__()
        self.convention, self.score_threshold, self.candidates = convention_of(convention), score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections
        self.coder = DeltaCoder(ROI_STDS, self.convention.clamp)

    def forward(self, outputs):
        probabilities = torch.softmax(outputs["class_logits"], -1)
        return self.detect(probabilities, outputs["box_deltas"], outputs["proposals"], outputs["image_size"])

    def detect(self, probabilities, deltas, proposals, image_size):
        """The results, from probabilities (N, P, K) and deltas (N, P, 4) or (N, P, 4 * classes) of proposals."""
        first = self.convention.background_first
        scores = probabilities[..., 1:] if first else probabilities[..., :-1]
        classes = scores.shape[-1]
        scores = torch.where(has_area(proposals)[..., None], scores, -1.0)
        scores = scores.flatten(1)
        scores, pairs = top_k(scores, min(self.candidates, scores.shape[1]))
        index = pairs // classes
        labels = pairs - index * classes
        if deltas.shape[-1] == 4:
            deltas = take_rows(deltas, index)
        else:
            deltas = deltas[..., 4:] if first else deltas
            deltas = take_rows(deltas.reshape(deltas.shape[0], -1, 4), pairs)
        boxes = clip_boxes(self.coder.decode(deltas, take_rows(proposals, index)), image_size)
        valid = scores > self.score_threshold
        if self.convention.least_detection:
            size = boxes[..., 2:] - boxes[..., :2]
            valid = valid & (size >= self.convention.least_detection).all(-1)
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        labels = labels + 1 if first else labels
        return results(boxes, scores, labels, index, valid)
