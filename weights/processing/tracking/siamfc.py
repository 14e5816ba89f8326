"""The loop over frames of SiamFC: three sizes of the search window, the best place of the best one.

Numbers: huanglianghua/siamfc-pytorch ``siamfc/siamfc.py`` (MIT).
"""

from collections.abc import Callable

import numpy as np

from weights.processing.tracking.siamrpn import resize

__all__ = ["SiamFCTracker", "cubic_resize", "cut"]

EXEMPLAR, SEARCH = 127, 255
CONTEXT, SCALES, STEP, RATE, PENALTY, WINDOW = 0.5, 3, 1.0375, 0.59, 0.9745, 0.176
UP, STRIDE = 16, 8  # upsampling factor of the response, pixels per cell


def cubic_resize(maps: np.ndarray, size: int) -> np.ndarray:
    """Maps (N, S, S) as (N, size, size) by cubic convolution (a = -0.75), half-pixel centres, borders repeated."""
    length = maps.shape[1]
    place = (np.arange(size) + 0.5) * length / size - 0.5
    low = np.floor(place).astype(int)
    matrix = np.zeros((size, length))
    for tap in (-1, 0, 1, 2):
        d = np.abs(place - low - tap)
        near, far = (1.25 * d - 2.25) * d * d + 1, ((-0.75 * d + 3.75) * d - 6) * d + 3
        np.add.at(matrix, (np.arange(size), np.clip(low + tap, 0, length - 1)), np.where(d <= 1, near, far))
    return matrix @ maps @ matrix.T


def cut(image: np.ndarray, centre: np.ndarray, size: float, out: int, fill) -> np.ndarray:
    """A square around a centre (y, x), as (3, out, out) float32."""
    side = round(size)
    first = np.round(centre - (side - 1) / 2).astype(int)
    last = first + side
    pad = max(0, -first.min(), (last - image.shape[:2]).max())
    if pad:
        image = np.stack([np.pad(image[..., i], pad, constant_values=fill[i]) for i in range(image.shape[2])], -1)
        first, last = first + pad, last + pad
    square = image[first[0] : last[0], first[1] : last[1]].astype(np.float64)
    return resize(square, out).transpose(2, 0, 1).astype(np.float32)


class SiamFCTracker:
    """Follows one object.

    Args:
        template: takes a crop (1, 3, 127, 127), returns what ``track`` needs.
        track: takes that and crops (3, 3, 255, 255), returns responses (3, 1, K, K).
        cells: K.
        stride: pixels of a cell.
    """

    def __init__(self, template: Callable, track: Callable[..., np.ndarray], cells: int = 17, stride: int = STRIDE):
        self.template, self.network, self.up, self.stride = template, track, UP * cells, stride
        hann = np.outer(np.hanning(self.up), np.hanning(self.up))
        self.hann = hann / hann.sum()
        self.factors = STEP ** np.linspace(-(SCALES // 2), SCALES // 2, SCALES)

    def initialise(self, image: np.ndarray, box) -> None:
        """The first frame (H, W, 3) uint8 RGB, and the object in it: x, y, width, height in pixels, 1-based."""
        left, top, width, height = box
        self.centre = np.array([top - 1 + (height - 1) / 2, left - 1 + (width - 1) / 2])
        self.size = np.array([height, width], float)
        around = CONTEXT * self.size.sum()
        self.side = float(np.sqrt((self.size + around).prod()))
        self.search_side = self.side * SEARCH / EXEMPLAR
        self.fill = image.mean((0, 1))
        self.memory = self.template(cut(image, self.centre, self.side, EXEMPLAR, self.fill)[None])

    def track(self, image: np.ndarray) -> dict:
        """A later frame: ``"box"`` (4,) x, y, width, height in pixels, 1-based, and ``"score"``, a probability."""
        crops = [cut(image, self.centre, self.search_side * f, SEARCH, self.fill) for f in self.factors]
        responses = cubic_resize(np.asarray(self.network(self.memory, np.stack(crops)))[:, 0], self.up)
        responses[: SCALES // 2] *= PENALTY
        responses[SCALES // 2 + 1 :] *= PENALTY
        best = int(np.argmax(responses.max((1, 2))))
        logit = float(responses[best].max())
        response = responses[best] - responses[best].min()
        response = (1 - WINDOW) * response / (response.sum() + 1e-16) + WINDOW * self.hann
        place = np.array(np.unravel_index(response.argmax(), response.shape))
        moved = (place - (self.up - 1) / 2) * self.stride / UP
        self.centre = self.centre + moved * self.search_side * self.factors[best] / SEARCH
        scale = 1 - RATE + RATE * self.factors[best]
        self.size, self.side, self.search_side = self.size * scale, self.side * scale, self.search_side * scale
        (y, x), (height, width) = self.centre, self.size
        box = np.array([x + 1 - (width - 1) / 2, y + 1 - (height - 1) / 2, width, height])
        return {"box": box, "score": float(1 / (1 + np.exp(-logit)))}
