"""The loop over frames of SiamFC++: boxes of the cells, some of them less likely, the best one a little at a time.

Numbers: MegviiDetection/video_analyst ``pipeline/tracker_impl/siamfcpp_track.py``, ``pipeline/utils/crop.py``,
``experiments/siamfcpp/test/got10k/siamfcpp_alexnet-got.yaml`` (MIT).
"""

from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["SiamFCPPTracker", "crop"]

TEMPLATE, SEARCH = 127, 303  # sizes of the crops, pixels
CONTEXT, LEAST_SIDE = 0.5, 10
PENALTY, WINDOW, RATE = 0.04, 0.21, 0.52


def crop(image: np.ndarray, centre, size: int, model_size: int, fill) -> np.ndarray:
    """A square of the frame as the network's input, whose outer pixels lie on the square's outer pixels.

    Args:
        image: (H, W, 3) uint8.
        centre: x and y, pixels.
        size: side of the square, whole pixels.
        model_size: side of the result.
        fill: (3,) colour outside of the frame; only its whole part counts.

    Returns:
        (1, 3, model_size, model_size) float32, 0 to 255.
    """
    steps = np.arange(model_size) * (size - 1) / (model_size - 1) - (size - 1) / 2
    places = [n + steps for n in (centre[1], centre[0])]
    first = [int(np.floor(place[0])) for place in places]
    taken = [n + np.arange(size + 2) for n in first]
    inside, taken = zip(*(((n >= 0) & (n < limit), np.clip(n, 0, limit - 1)) for n, limit in zip(taken, image.shape)))
    square = image[taken[0][:, None], taken[1]].astype(np.float64)
    square[~(inside[0][:, None] & inside[1])] = np.asarray(fill).astype(int)
    y, x = (np.floor(place).astype(int) - n for place, n in zip(places, first))
    dy, dx = (place - n - low for place, n, low in zip(places, first, (y, x)))
    upper = square[y] * (1 - dy)[:, None, None] + square[y + 1] * dy[:, None, None]
    found = upper[:, x] * (1 - dx)[:, None] + upper[:, x + 1] * dx[:, None]
    return found.transpose(2, 0, 1)[None].astype(np.float32)


def padded_side(size: np.ndarray) -> np.ndarray:
    """Side of the square around objects (..., 2), their surroundings included."""
    return np.sqrt((size + CONTEXT * size.sum(-1, keepdims=True)).prod(-1))


def change(ratio):
    return np.maximum(ratio, 1 / ratio)


class SiamFCPPTracker:
    """Follows one object.

    Args:
        template: takes a crop (1, 3, 127, 127), returns what ``track`` needs.
        track: takes that and a crop (1, 3, 303, 303), returns ``"cls_pred"``, ``"ctr_pred"`` (1, P, 1) logits and
            ``"box_pred"`` (1, P, 4) xyxy in pixels of the crop.
    """

    def __init__(self, template: Callable, track: Callable[..., Mapping[str, np.ndarray]]):
        self.template, self.network = template, track

    def initialise(self, image: np.ndarray, box) -> None:
        """The first frame (H, W, 3) uint8 BGR, and the object in it: x, y, width, height in pixels."""
        x, y, width, height = box
        self.centre = np.array([x + (width - 1) / 2, y + (height - 1) / 2])
        self.size = np.array([width, height], float)
        self.fill = image.mean((0, 1))
        side = round(float(padded_side(self.size)))
        self.memory = self.template(crop(image, self.centre, side, TEMPLATE, self.fill))

    def track(self, image: np.ndarray) -> dict:
        """A later frame: ``"box"`` (4,) x, y, width, height in pixels, and ``"score"``."""
        scale = TEMPLATE / float(padded_side(self.size))
        answer = self.network(self.memory, crop(image, self.centre, round(SEARCH / scale), SEARCH, self.fill))
        logits = np.stack([answer[name][0, :, 0] for name in ("cls_pred", "ctr_pred")]).astype(np.float64)
        score = (1 / (1 + np.exp(-logits))).prod(0)
        boxes = answer["box_pred"][0].astype(np.float64)
        sizes = boxes[:, 2:] - boxes[:, :2] + 1
        size = self.size * scale
        penalty = change(padded_side(sizes) / padded_side(size))
        penalty = penalty * change((size[0] / size[1]) / (sizes[:, 0] / sizes[:, 1]))
        penalty = np.exp(-(penalty - 1) * PENALTY)
        hann = np.hanning(round(np.sqrt(len(score))))
        best = int(np.argmax(penalty * score * (1 - WINDOW) + np.outer(hann, hann).ravel() * WINDOW))
        rate = penalty[best] * score[best] * RATE
        limit = np.array(image.shape[1::-1], float)
        moved = ((boxes[best, :2] + boxes[best, 2:]) / 2 - SEARCH // 2) / scale
        self.centre = np.clip(self.centre + moved, 0, limit)
        self.size = np.clip(self.size * (1 - rate) + sizes[best] / scale * rate, LEAST_SIDE, limit)
        box = np.concatenate([self.centre - (self.size - 1) / 2, self.size])
        return {"box": box, "score": float(score[best])}
