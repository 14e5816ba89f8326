"""The loop over frames of SiamMask: that of SiamRPN, and the mask of the best cell, laid over the frame.

Numbers: foolwood/SiamMask ``tools/test.py``, ``experiments/siammask_sharp/config_vot.json`` (MIT).
"""

from collections.abc import Callable

import numpy as np

from weights.processing.tracking.siamrpn import TEMPLATE, SiamRPNTracker

__all__ = ["SETTINGS", "WINDOWS", "SiamMaskTracker", "paste", "window"]

STRIDE = 8  # pixels of the crop, from cell to cell
THRESHOLD = 0.3  # probability of the object, from which a pixel belongs to it
OUTSIDE = -1.0  # of the mask
# what the refinement sees of each map of a crop: size, stride from cell to cell, zeros around the map
WINDOWS = {"c1": (61, 4, 16), "c2": (31, 2, 8), "c3": (15, 1, 4)}
# arguments of the tracker, by the model's name
SETTINGS = {
    "siammask_sharp": {"penalty": 0.04, "window": 0.42, "rate": 0.25},
    "siammask_base": {"penalty": 0.09, "window": 0.39, "rate": 0.38},
}


def paste(mask: np.ndarray, corner, side: float, size: tuple[int, int]) -> np.ndarray:
    """Paste a square into a whole frame, bilinear.

    Args:
        mask: (S, S).
        corner: x and y of the square, pixels of the frame.
        side: of the square, pixels.
        size: height and width of the frame.

    Returns:
        (height, width), -1 outside.
    """
    scale = len(mask) / side
    padded = np.pad(mask, 1, constant_values=OUTSIDE)
    # the last pixel of the frame is the last of the square that is cut back, as in the reference
    rows, columns = (
        np.clip(np.arange(n) * n * scale / max(n - 1, 1) - first * scale + 1, 0, len(mask) + 1)
        for n, first in zip(size, corner[::-1])
    )
    (y, dy), (x, dx) = ((low.astype(int), place - low) for place in (rows, columns) for low in (np.floor(place),))
    below, right = (np.minimum(low + 1, len(mask) + 1) for low in (y, x))
    upper = padded[y] * (1 - dy[:, None]) + padded[below] * dy[:, None]
    return upper[:, x] * (1 - dx) + upper[:, right] * dx


def window(maps: np.ndarray, cell: tuple[int, int], size: int, stride: int, pad: int) -> np.ndarray:
    """What belongs to a cell (row and column) of maps (..., H, W) with zeros around them: (..., size, size)."""
    padded = np.pad(maps, [(0, 0)] * (maps.ndim - 2) + [(pad, pad)] * 2)
    rows, columns = (slice(stride * place, stride * place + size) for place in cell)
    return padded[..., rows, columns]


class SiamMaskTracker(SiamRPNTracker):
    """Follows one object and draws it.

    Args:
        template, track: see :class:`SiamRPNTracker`; ``track`` also returns ``"mask"`` (1, 63 * 63, K, K), logits, or
            for ``refine`` ``"correlated"`` (1, C, K, K) and the maps of ``WINDOWS``.
        refine: takes the cell's ``"column"`` (1, C) and windows, returns its finer mask (1, 127 * 127), logits; None
            for the mask of the network itself.
        options: see :class:`SiamRPNTracker`.
    """

    def __init__(self, template: Callable, track: Callable, refine: Callable | None = None, **options):
        super().__init__(template, track, **options)
        self.refine = refine

    def track(self, image: np.ndarray) -> dict:
        """A later frame: ``"box"``, ``"score"``, and ``"mask"`` (H, W) bool."""
        found = super().track(image)
        answer, cell = self.seen["answer"], self.seen["cell"]
        if self.refine is None:
            logits = answer["mask"][0, :, *cell]
        else:
            windows = {name: window(answer[name], cell, *numbers) for name, numbers in WINDOWS.items()}
            logits = self.refine({"column": answer["correlated"][:, :, *cell], **windows})[0]
        length = round(np.sqrt(logits.size))
        p = 1 / (1 + np.exp(-logits.reshape(length, length).astype(np.float64)))
        pixel = self.seen["side"] / self.instance  # of the crop, in pixels of the frame
        corner = self.seen["corner"] + (np.array(cell[::-1]) - self.base / 2) * STRIDE * pixel
        return {**found, "mask": paste(p, corner, TEMPLATE * pixel, image.shape[:2]) > THRESHOLD}
