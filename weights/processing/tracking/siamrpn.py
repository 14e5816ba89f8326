"""The loop over frames of SiamRPN and its relatives: crop around the last position, run the network, move a little.

Numbers: STVIR/pysot ``tracker/base_tracker.py``, ``tracker/siamrpn_tracker.py``, ``tracker/siamrpnlt_tracker.py``
(Apache-2.0).
"""

from collections.abc import Callable, Mapping

import numpy as np

from weights.processing.tracking.anchors import tracking_anchors

__all__ = ["SETTINGS", "SiamRPNTracker", "crop", "resize"]

CONTEXT = 0.5  # context around the object, relative to its size
TEMPLATE = 127  # size of the template, pixels
LEAST_SIDE = 10
LOST, FOUND = 0.8, 0.998  # scores of the long-term tracker: below the first it widens its search, above the second not
# of the published experiments, by the model's name; arguments of the tracker
ALEX = {"penalty": 0.16, "window": 0.4, "rate": 0.3, "instance": 287, "base": 0}
SETTINGS = {
    "siamrpn_alex_dwxcorr": ALEX,
    "siamrpn_alex_up": ALEX,
    "siamrpn_r50_l234_dwxcorr": {},
    "siamrpn_r50_l234_dwxcorr_otb": {"penalty": 0.24, "window": 0.5, "rate": 0.25},
    "siamrpn_r50_l234_dwxcorr_lt": {"window": 0.28, "rate": 0.22, "wide": 831},
}


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """A square image (S, S, C) as (size, size, C), bilinear, half-pixel centres."""
    length = len(image)
    place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    low = np.floor(place).astype(int)
    high, part = np.minimum(low + 1, length - 1), place - low
    image = image[low] * (1 - part)[:, None, None] + image[high] * part[:, None, None]
    return image[:, low] * (1 - part)[:, None] + image[:, high] * part[:, None]


def crop(image: np.ndarray, centre, size: int, model_size: int, fill) -> np.ndarray:
    """A square of the frame as the network's input.

    Args:
        image: (H, W, 3) uint8.
        centre: x and y, pixels.
        size: side of the square, whole pixels.
        model_size: side of the result.
        fill: (3,) colour outside of the frame.

    Returns:
        (1, 3, model_size, model_size) float32, 0 to 255.
    """
    height, width = image.shape[:2]
    left, top = (int(np.floor(n - (size + 1) / 2 + 0.5)) for n in centre)
    square = np.tile(np.asarray(fill).astype(np.uint8), (size, size, 1))
    rows = slice(max(top, 0), max(min(top + size, height), 0))
    columns = slice(max(left, 0), max(min(left + size, width), 0))
    inside = image[rows, columns]
    if inside.size:
        y, x = rows.start - top, columns.start - left
        square[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return resize(square.astype(np.float64), model_size).transpose(2, 0, 1)[None].astype(np.float32)


class SiamRPNTracker:
    """Follows one object.

    Args:
        template: takes a crop (1, 3, 127, 127), returns what ``track`` needs.
        track: takes that and a crop (1, 3, S, S), returns ``"cls"`` (1, 10, K, K) and ``"loc"`` (1, 20, K, K).
        penalty, window, rate: of changes in size and shape, of distant positions, of the new size relative to the old
            one; those of ``siamrpn_r50_l234_dwxcorr``.
        instance: size of the crop, pixels.
        base: cells of the score map beyond (instance - 127) / 8 + 1.
        wide: size of the crop when the object is lost; None for a tracker without this state.
    """

    def __init__(
        self,
        template: Callable,
        track: Callable[..., Mapping[str, np.ndarray]],
        penalty: float = 0.05,
        window: float = 0.42,
        rate: float = 0.38,
        instance: int = 255,
        base: int = 8,
        wide: int | None = None,
    ):
        self.template, self.network = template, track
        self.penalty, self.window, self.rate = penalty, window, rate
        self.instance, self.base, self.wide = instance, base, wide

    def initialise(self, image: np.ndarray, box) -> None:
        """The first frame (H, W, 3) uint8 BGR, and the object in it: x, y, width, height in pixels."""
        x, y, width, height = box
        self.centre = np.array([x + (width - 1) / 2, y + (height - 1) / 2])
        self.size = np.array([width, height], float)
        self.fill = image.mean((0, 1))
        self.lost = False
        side = round(float(self._side(self.size)))
        self.memory = self.template(crop(image, self.centre, side, TEMPLATE, self.fill))

    @staticmethod
    def _side(size) -> np.ndarray:
        """Side of the square around an object (..., 2), its surroundings included."""
        around = CONTEXT * size.sum(-1, keepdims=True)
        return np.sqrt((size + around).prod(-1))

    def track(self, image: np.ndarray) -> dict:
        """A later frame: ``"box"`` (4,) x, y, width, height in pixels, and ``"score"``."""
        lost = self.lost
        instance = self.wide if lost and self.wide else self.instance
        cells = (instance - TEMPLATE) // 8 + 1 + self.base
        scale = TEMPLATE / float(self._side(self.size))
        side = round(instance / scale)
        answer = self.network(self.memory, crop(image, self.centre, side, instance, self.fill))
        corner = self.centre - side / 2
        logits = answer["cls"].reshape(2, -1)
        score = 1 / (1 + np.exp(logits[0] - logits[1]))
        anchors = tracking_anchors(cells)
        deltas = answer["loc"].reshape(4, -1).T
        centres = deltas[:, :2] * anchors[:, 2:] + anchors[:, :2]
        sizes = np.exp(deltas[:, 2:]) * anchors[:, 2:]
        hann = np.hanning(cells)
        hann = np.tile(np.outer(hann, hann).ravel(), 5)

        def change(ratio):
            return np.maximum(ratio, 1 / ratio)

        resized = change(self._side(sizes) / self._side(self.size * scale))
        reformed = change((self.size[0] / self.size[1]) / (sizes[:, 0] / sizes[:, 1]))
        penalty = np.exp(-(resized * reformed - 1) * self.penalty)
        window = 0.001 if lost and self.wide else self.window
        best = int(np.argmax(penalty * score * (1 - window) + hann * window))
        self.seen = {"answer": answer, "cell": divmod(best % cells**2, cells), "corner": corner, "side": side}
        rate = penalty[best] * score[best] * self.rate
        if not self.wide or score[best] >= LOST:
            self.centre = self.centre + centres[best] / scale
            self.size = self.size * (1 - rate) + sizes[best] / scale * rate
        limit = np.array(image.shape[1::-1], float)
        centre, size = np.clip(self.centre, 0, limit), np.clip(self.size, LEAST_SIDE, limit)
        if self.wide:  # the long-term tracker keeps what it found outside the frame
            self.lost = bool(score[best] < LOST or (lost and score[best] <= FOUND))
        else:
            self.centre, self.size = centre, size
        return {"box": np.concatenate([centre - size / 2, size]), "score": float(score[best])}
