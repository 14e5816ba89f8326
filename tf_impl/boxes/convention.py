"""Where torchvision's and mmdet's two-stage detectors differ, in one place.

Mirror notes:
- Plain numbers, the same in both panels.
"""

from dataclasses import dataclass

__all__ = ["CONVENTIONS", "Convention", "convention_of"]


@dataclass(frozen=True)
class Convention:
    """The constants of one of the two libraries.

    Args:
        losses: names of the four losses: objectness, proposal boxes, classes, boxes.
        background_first: the background is class 0, and has numbers in the box regression; otherwise it is the last
            class, and has none.
        rounded_anchors: the anchors of a cell are rounded to whole pixels.
        nominal_stride: anchors are as far apart as the level's stride; otherwise as the size of the image divided by
            that of the map, rounded down.
        clamp: of the coder, see :class:`DeltaCoder`.
        low_quality, low_quality_iou: of the anchors' assignment, see :func:`assign_max_iou`.
        iou_eps: lower bound of the divisor of the overlaps used in assignment.
        objects_first: the objects precede the proposals that they are added to; otherwise they follow.
        rank_logits: the best anchors of a level are found by their logits, not by their probabilities.
        least_proposal: smallest width and height of a proposal, in pixels; 0 drops only those without area.
        least_detection: the same for a detection; 0 keeps all.
        sampling_ratio, aligned: of RoIAlign.
        level_bounds: square roots of areas, in pixels; from each on, boxes belong to the next coarser level.
        beta: of the smooth L1 loss; 0 for the L1 loss.
        count_empty: in the divisor, an image without positive or without negative anchors counts as having one of each.
        eps: added to the divisors of the losses.
    """

    losses: tuple[str, str, str, str]
    background_first: bool
    rounded_anchors: bool
    nominal_stride: bool
    clamp: str
    low_quality: str
    low_quality_iou: float
    iou_eps: float
    objects_first: bool
    rank_logits: bool
    least_proposal: float
    least_detection: float
    sampling_ratio: int
    aligned: bool
    level_bounds: tuple[float, ...]
    beta: float
    count_empty: bool
    eps: float


CONVENTIONS = {
    "torchvision": Convention(
        losses=("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"),
        background_first=True,
        rounded_anchors=True,
        nominal_stride=False,
        clamp="upper",
        low_quality="own",
        low_quality_iou=0.0,
        iou_eps=0.0,
        objects_first=False,
        rank_logits=True,
        least_proposal=1e-3,
        least_detection=1e-2,
        sampling_ratio=2,
        aligned=False,
        # floor(4 + log2(size / 224) + 1e-6) is at least 3, 4, 5
        level_bounds=tuple(224 * 2 ** (level - 4 - 1e-6) for level in (3, 4, 5)),
        beta=1 / 9,
        count_empty=False,
        eps=0.0,
    ),
    "mmdet": Convention(
        losses=("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"),
        background_first=False,
        rounded_anchors=False,
        nominal_stride=True,
        clamp="both",
        low_quality="forced",
        low_quality_iou=0.3,
        iou_eps=1e-6,
        objects_first=True,
        rank_logits=False,
        least_proposal=0.0,
        least_detection=0.0,
        sampling_ratio=0,
        aligned=True,
        # floor(log2(size / 56 + 1e-6)) is at least 1, 2, 3
        level_bounds=tuple(56 * (2**level - 1e-6) for level in (1, 2, 3)),
        beta=0.0,
        count_empty=True,
        eps=1.1920929e-07,  # of float32
    ),
}


def convention_of(name: str) -> Convention:
    """The convention with a given name.

    Raises:
        ValueError: if there is none.
    """
    if name not in CONVENTIONS:
        raise ValueError(f"convention={name!r} must be 'torchvision' or 'mmdet'")
    return CONVENTIONS[name]
