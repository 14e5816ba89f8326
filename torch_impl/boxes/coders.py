"""Box coders: boxes as numbers that a network can predict, and back.

Mirror notes:
- The same formulas in both panels.
"""

import math

import torch

__all__ = ["DeltaCoder", "clip_boxes"]

MAX_LOG_RATIO = math.log(1000 / 16)  # both references: no box grows more than 62.5-fold


class DeltaCoder:
    """Shift of the centre relative to the anchor's size, and logarithm of the ratio of the sizes (arXiv:1311.2524).

    Args:
        stds: the numbers are divided by these, in the order x, y, w, h (torchvision multiplies by its ``weights``,
            the inverse).
        clamp: which log ratios are clipped when decoding: "upper", those above log(1000/16) (torchvision), or "both",
            also those below its negative (mmdet).

    Raises:
        ValueError: if ``clamp`` is unknown.
    """

    def __init__(self, stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0), clamp: str = "upper"):
        if clamp not in ("upper", "both"):
            raise ValueError(f"clamp={clamp!r} must be 'upper' or 'both'")
        self.stds, self.clamp = tuple(stds), clamp

    def encode(self, boxes_xyxy, anchors_xyxy):
        """Encode boxes relative to anchors.

        Args:
            boxes_xyxy, anchors_xyxy: (..., 4), same unit, widths and heights above 0.

        Returns:
            (..., 4): dx, dy, dw, dh.
        """
        (size, centre), (box_size, box_centre) = _size_and_centre(anchors_xyxy), _size_and_centre(boxes_xyxy)
        deltas = torch.cat(((box_centre - centre) / size, torch.log(box_size / size)), -1)
        return deltas / torch.tensor(self.stds, dtype=deltas.dtype, device=deltas.device)

    def decode(self, deltas, anchors_xyxy):
        """Decode boxes.

        Args:
            deltas: (..., 4): dx, dy, dw, dh.
            anchors_xyxy: (..., 4).

        Returns:
            (..., 4) xyxy in the anchors' unit.
        """
        size, centre = _size_and_centre(anchors_xyxy)
        deltas = deltas * torch.tensor(self.stds, dtype=deltas.dtype, device=deltas.device)
        log_ratio = torch.clamp(deltas[..., 2:], max=MAX_LOG_RATIO)
        if self.clamp == "both":
            log_ratio = torch.clamp(log_ratio, min=-MAX_LOG_RATIO)
        centre, half = centre + deltas[..., :2] * size, 0.5 * torch.exp(log_ratio) * size  # mirror: same formulas
        return torch.cat((centre - half, centre + half), -1)


def clip_boxes(boxes_xyxy, image_size):
    """Clip boxes to the image.

    Args:
        boxes_xyxy: (N, B, 4) in pixels.
        image_size: (2,) or (N, 2) integer: height and width.

    Returns:
        (N, B, 4).
    """
    size = image_size.to(boxes_xyxy.dtype).reshape(-1, 1, 2)
    limit = size[..., [1, 0, 1, 0]]  # width, height, width, height
    return torch.minimum(torch.clamp(boxes_xyxy, min=0.0), limit)


def _size_and_centre(boxes_xyxy):
    """(..., 4) -> (..., 2) width and height, (..., 2) x and y."""
    size = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return size, boxes_xyxy[..., :2] + 0.5 * size
