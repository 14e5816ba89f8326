"""The loop over frames of SiamMask: that of SiamRPN, and the mask of the best cell, laid over the frame.

Numbers: foolwood/SiamMask ``tools/test.py``, ``experiments/siammask_sharp/config_vot.json`` (MIT).
"""

import numpy as np

from weights.processing.tracking.siamrpn import TEMPLATE, SiamRPNTracker

__all__ = ["SETTINGS", "SiamMaskTracker", "paste"]

STRIDE = 8  # pixels of the crop, from cell to cell
THRESHOLD = 0.3  # probability of the object, from which a pixel belongs to it
OUTSIDE = -1.0  # of the mask
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


class SiamMaskTracker(SiamRPNTracker):
    """Follows one object and draws it.

    Args:
        template, track: see :class:`SiamRPNTracker`; ``track`` also returns ``"mask"`` (1, 63 * 63, K, K), logits, or
            the finer ``"refine"`` (1, K K, 127 * 127).
        options: see :class:`SiamRPNTracker`.
    """

    def track(self, image: np.ndarray) -> dict:
        """A later frame: ``"box"``, ``"score"``, and ``"mask"`` (H, W) bool."""
        found = super().track(image)
        answer, (row, column) = self.seen["answer"], self.seen["cell"]
        if "refine" in answer:
            logits = answer["refine"][0, row * answer["cls"].shape[3] + column]
        else:
            logits = answer["mask"][0, :, row, column]
        length = round(np.sqrt(logits.size))
        p = 1 / (1 + np.exp(-logits.reshape(length, length).astype(np.float64)))
        pixel = self.seen["side"] / self.instance  # of the crop, in pixels of the frame
        corner = self.seen["corner"] + (np.array([column, row]) - self.base / 2) * STRIDE * pixel
        return {**found, "mask": paste(p, corner, TEMPLATE * pixel, image.shape[:2]) > THRESHOLD}
