"""The loop over frames of Siam R-CNN: everything that looks like the object, and tracklets that decide which one it is.

Numbers: VisualComputingInstitute/SiamR-CNN ``config.py``, ``tracking/three_stage_tracker.py`` (MIT).
"""

from collections.abc import Callable, Mapping

import numpy as np

from weights.processing.tracking.tracklets import Tracklets

__all__ = ["SiamRCNNTracker", "fitted"]

SHORT, LONG, MULTIPLE = 800, 1333, 32  # sizes of the network's input, pixels
MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # of blue, green and red


def fitted(image: np.ndarray, short: int = SHORT, long: int = LONG) -> tuple[np.ndarray, float]:
    """A frame as the network's input: resized bilinearly, normalised, padded on the right and at the bottom.

    Args:
        image: (H, W, 3) uint8 BGR.
        short, long: the shorter side becomes ``short`` pixels, or less, so that the longer one has at most ``long``.

    Returns:
        (1, 3, h, w) float32, multiples of 32; its pixels per pixel of the frame.
    """
    scale = min(short / min(image.shape[:2]), long / max(image.shape[:2]))
    values = image.astype(np.float64)
    for axis, length in enumerate(image.shape[:2]):
        size = int(length * scale + 0.5)
        place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(place).astype(int)
        part = (place - low).reshape([-1 if i == axis else 1 for i in range(3)])
        next_ones = np.minimum(low + 1, length - 1)
        values = values.take(low, axis) * (1 - part) + values.take(next_ones, axis) * part
    height, width = values.shape[:2]
    pad = [(0, -n % MULTIPLE) for n in (height, width)]
    values = np.pad((values - MEAN) / STD, [*pad, (0, 0)])
    return values.transpose(2, 0, 1)[None].astype(np.float32), scale


class SiamRCNNTracker:
    """Follows one object.

    Args:
        template: takes a frame (1, 3, h, w) and a box (1, 4) xyxy in it, returns its features (1, C, 7, 7).
        track: takes these, a later frame and boxes (1, T, 4) of the previous frame, rows of 0 for none; returns
            ``"boxes"`` (1, D, 4), ``"scores"`` (1, D), ``"valid"`` (1, D), ``"features"`` (1, D, C, 7, 7).
        similarity: takes features (R, C, 7, 7) and (D, C, 7, 7), their boxes and the frame's height and width (2,);
            returns (R, D), 0 for boxes far apart.
        active: T, largest number of the previous frame's boxes that are used again.
        short, long: see :func:`fitted`.
    """

    def __init__(
        self,
        template: Callable[..., np.ndarray],
        track: Callable[..., Mapping[str, np.ndarray]],
        similarity: Callable[..., np.ndarray],
        active: int = 100,
        short: int = SHORT,
        long: int = LONG,
    ):
        self.template, self.network, self.similarity = template, track, similarity
        self.active, self.sides = active, (short, long)

    def initialise(self, image: np.ndarray, box) -> None:
        """The first frame (H, W, 3) uint8 BGR, and the object in it: x, y, width, height in pixels."""
        values, scale = fitted(image, *self.sides)
        x, y, width, height = box
        corners = np.array([x, y, x + width, y + height], np.float32) * scale
        self.reference = self.template(values, corners[None].astype(np.float32))
        self.size = np.array(values.shape[2:])
        self.tracklets = Tracklets(corners, self.reference[0], tuple(self.size))

    def track(self, image: np.ndarray) -> dict:
        """A later frame: ``"box"`` (4,) x, y, width, height in pixels, and ``"score"``, 0 if it is not seen now."""
        values, scale = fitted(image, *self.sides)
        before = self.tracklets.active()
        boxes = np.array([tracklet.last for tracklet in before], np.float32).reshape(-1, 4)
        given = np.zeros((1, self.active, 4), np.float32)
        given[0, : len(boxes)] = boxes[: self.active]
        found = self.network(self.reference, values, given)
        valid = found["valid"][0].astype(bool)
        features, seen, scores = (found[name][0][valid] for name in ("features", "boxes", "scores"))
        alike, to_tracklet = np.zeros((len(before), len(seen))), np.zeros(len(seen))
        if len(seen):
            if before:
                own = np.stack([tracklet.feature for tracklet in before])
                alike = self.similarity(own, features, boxes, seen, self.size)
            newest, anywhere = self.tracklets.all[0].feature[None], np.zeros_like(seen)
            to_tracklet = self.similarity(newest, features, anywhere[:1], anywhere, self.size)[0]  # however far
        box, sure = self.tracklets.update(seen, features, scores, alike, to_tracklet)
        first, last = np.asarray(box, float).reshape(2, 2) / scale
        return {"box": np.concatenate([first, last - first]), "score": max(float(sure), 0.0)}
