"""InstaBoost: instances of an image are cut out, slightly moved, rotated and scaled, and pasted onto the filled image.

"InstaBoost: Boosting Instance Segmentation via Probability Map Guided Copy-Pasting", 2019, arXiv:1908.07801. Reference:
mmdet ``datasets/transforms/instaboost.py`` (Apache-2.0) with the authors' package.

Two steps of the reference, global sampling matting and Navier-Stokes inpainting, are hooks; by default the outlines are
found by a guided filter, and the background by diffusion.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

__all__ = ["InstaBoost", "consistency_map", "diffuse", "guided_matting"]

BAND = 5  # pixels around a mask whose share of the instance is unknown
BORDER = 10  # pixels from the border of the image that make a box touch it
RADIUS, EPS = 10, 1e-5  # of the guided filter
COLOURS = ((ImageEnhance.Color, 0, 30), (ImageEnhance.Brightness, 10, 20), (ImageEnhance.Contrast, 10, 20))
COLOURS += ((ImageEnhance.Sharpness, 0, 30),)  # each with its smallest and largest factor, in tenths
GREY = (0.299, 0.587, 0.114)
RINGS = ((6, 0.25), (4, 0.35), (2, 0.4))  # dilations by SQUARE where a ring around an instance ends, and its weight
SQUARE = np.ones((5, 5))
SHRINK = 10  # appearances are compared at a tenth of the size
LIKELY, POSSIBLE = 200 / 255, 150 / 255  # of the largest consistency; the second bound in 4 of 10 cases


def diffuse(image: np.ndarray, hole: np.ndarray, steps: int = 500, tolerance: float = 0.05) -> np.ndarray:
    """Fill an image's hole from its border, until every pixel is the mean of its four neighbours.

    Args:
        image: (H, W, 3) uint8.
        hole: (H, W) bool.
        steps, tolerance: at most this many steps, or until no pixel changes by more.

    Returns:
        (H, W, 3) uint8.
    """
    if not hole.any() or hole.all():
        return image.copy()
    nearest = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
    found = image[tuple(nearest)].astype(np.float64)
    for _ in range(steps):
        around = np.pad(found, ((1, 1), (1, 1), (0, 0)), mode="edge")
        mean = (around[2:, 1:-1] + around[:-2, 1:-1] + around[1:-1, 2:] + around[1:-1, :-2]) / 4
        change = np.abs(mean - found)[hole].max()
        found[hole] = mean[hole]
        if change < tolerance:
            break
    return np.rint(found).astype(np.uint8)


def guided_matting(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """How much of every pixel belongs to an instance: the mask, smoothed along the edges of the grey image.

    Args:
        image: (H, W, 3) uint8.
        trimap: (H, W) uint8: 255 inside, 0 outside, 127 where it is unknown.

    Returns:
        (H, W) float, 0 to 255; known pixels stay.
    """

    def mean(x):
        return ndimage.uniform_filter(x, 2 * RADIUS + 1, mode="nearest")

    guide, mask = image @ np.array(GREY) / 255, (trimap == 255).astype(np.float64)
    middle, share = mean(guide), mean(mask)
    slope = (mean(guide * mask) - middle * share) / (mean(guide**2) - middle**2 + EPS)
    smooth = mean(slope) * guide + mean(share - slope * middle)
    return np.where(trimap == 127, np.clip(smooth * 255, 0, 255), trimap)


def resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map (H, W, ...) by bilinear samples at pixel centres."""
    rows, columns = (np.clip((np.arange(n) + 0.5) * old / n - 0.5, 0, old - 1) for n, old in zip(size, x.shape))
    x = x.astype(np.float64)
    for axis, places in enumerate((rows, columns)):
        low = np.floor(places).astype(int)
        share = (places - low).reshape(-1, *[1] * (x.ndim - axis - 1))
        following = np.minimum(low + 1, x.shape[axis] - 1)
        x = np.take(x, low, axis) * (1 - share) + np.take(x, following, axis) * share
    return x


def consistency_map(image: np.ndarray, background: np.ndarray, mask: np.ndarray, middle: tuple) -> np.ndarray:
    """How well every position suits an instance's middle: whether its surroundings look alike.

    Three rings around the mask are compared with the background at every shift that leaves them inside the image.

    Args:
        image, background: (H, W, 3) uint8, with the instances and without.
        mask: (H, W) bool, of the instance.
        middle: its row and column.

    Returns:
        (H, W) float, 0 for the least consistent place, about 1 for the best.
    """
    rings = np.zeros(mask.shape)
    for ring, (dilations, _) in enumerate(RINGS, 1):
        rings[ndimage.binary_dilation(mask, SQUARE, dilations)] = ring
    rings[mask] = 0
    size = image.shape[0] // SHRINK, image.shape[1] // SHRINK
    image, background, rings = (np.rint(resized(x, size)) for x in (image, background, rings))
    rows, columns = np.nonzero(rings)
    weights = np.array([weight for _, weight in RINGS])[rings[rows, columns].astype(int) - 1]
    y = np.arange(size[0])[:, None] + rows - int(middle[0] / SHRINK)  # (H, P)
    x = np.arange(size[1])[:, None] + columns - int(middle[1] / SHRINK)
    fits = [((places >= 0) & (places < n)).all(1) for places, n in zip((y, x), size)]
    there = background[y[fits[0]][:, None], x[fits[1]]]  # (H', W', P, 3)
    cost = np.linalg.norm(there - image[rows, columns], axis=-1) @ weights
    found = np.full(size, cost.max())
    found[np.ix_(*fits)] = cost
    if found.min() == found.max():
        return np.ones(mask.shape)
    found = (1 - found / found.max()) ** 3
    return resized(found / found.max(), mask.shape)


@dataclass(frozen=True)
class InstaBoost:
    """Moves the instances of an image.

    Args:
        actions, shares: possible actions for an instance, and their probabilities: "normal", "horizontal" or
            "vertical", which mirror it first, and "skip", which leaves it where it is.
        scale: smallest and largest factor of its size.
        dx, dy: it moves by at most its width / ``dx`` and its height / ``dy``, in whole pixels.
        theta: smallest and largest angle, in whole degrees.
        colour_probability: of a change of colours.
        probability: of any change of an image.
        guided: whether instances move to positions from :func:`consistency_map`, not around their own.
        inpaint, matting: see :func:`diffuse`, :func:`guided_matting`.
    """

    actions: tuple[str, ...] = ("normal", "horizontal", "skip")
    shares: tuple[float, ...] = (1.0, 0.0, 0.0)
    scale: tuple[float, float] = (0.8, 1.2)
    dx: int = 15
    dy: int = 15
    theta: tuple[int, int] = (-1, 1)
    colour_probability: float = 0.5
    probability: float = 0.5
    guided: bool = False
    inpaint: Callable[[np.ndarray, np.ndarray], np.ndarray] = diffuse
    matting: Callable[[np.ndarray, np.ndarray], np.ndarray] = guided_matting

    def __post_init__(self):
        unknown = set(self.actions) - {"normal", "horizontal", "vertical", "skip"}
        if unknown or len(self.actions) != len(self.shares):
            raise ValueError(
                f"actions={self.actions} must be 'normal', 'horizontal', 'vertical' or 'skip', each with one of "
                f"shares={self.shares}"
            )

    def __call__(self, rng: np.random.Generator, image, boxes, labels, masks):
        """Change an image and its instances.

        Args:
            rng: source of all randomness, used in a fixed order.
            image: (H, W, 3) uint8, RGB.
            boxes: (M, 4) xyxy in pixels.
            labels: (M,).
            masks: (M, H, W) bool.

        Returns:
            image, boxes, labels, masks: of the same types; boxes are the smallest around their masks.
        """
        if len(boxes) == 0 or rng.random() >= self.probability:
            return image, boxes, labels, masks
        found = self.moved(rng, image, boxes, masks)
        if found is not None:
            image, masks = found
            kept = masks.any((1, 2))
            masks, labels = masks[kept], labels[kept]
            boxes = np.array([tight_box(mask) for mask in masks], boxes.dtype).reshape(-1, 4)
        if rng.random() < self.colour_probability:
            image = recoloured(rng, image)
        return image, boxes, labels, masks

    def moved(self, rng, image, boxes, masks):
        """Image and masks (M, H, W), some of which may be empty; None if an outline cannot be found."""
        groups = overlapping(boxes)
        alphas = []
        for group in groups:
            whole = masks[group].any(0)
            trimap = np.where(ndimage.binary_dilation(whole, np.ones((2 * BAND + 1,) * 2)), 127, 0).astype(np.uint8)
            trimap[whole] = 255
            if not {0, 255} <= set(np.unique(trimap)):
                return None
            alphas.append(self.matting(image, trimap))
        canvas, changed = self.inpaint(image, masks.any(0)), np.zeros_like(masks)
        if self.guided:
            surroundings = self.inpaint(image, ndimage.binary_dilation(masks.any(0), SQUARE, 2))
        for group, alpha in zip(groups, alphas):
            box = [*np.floor(boxes[group, :2].min(0) + 0.5), *np.floor(boxes[group, 2:].max(0) + 0.5)]
            left, top, right, bottom = np.clip(np.array(box, int), 0, [image.shape[1], image.shape[0]] * 2)
            cut = np.s_[top:bottom, left:right]
            action, place = self.drawn(rng, (left, top, right, bottom), image.shape[:2])
            if self.guided:
                middle = (top + bottom) / 2, (left + right) / 2
                suited = consistency_map(image, surroundings, masks[group].any(0), middle)
                place = (*self.chosen(rng, suited), *place[2:])
            flip = {"horizontal": np.s_[:, ::-1], "vertical": np.s_[::-1]}.get(action, np.s_[:])
            layers = np.concatenate([image[cut], alpha[cut][..., None]], -1)[flip].astype(np.float64)
            layers = np.stack([warped(x, place, image.shape[:2], 3) for x in np.moveaxis(layers, -1, 0)], -1)
            layers = np.rint(np.clip(layers, 0, 255))
            share = layers[..., 3:] / 255
            canvas = (canvas * (1 - share) + layers[..., :3] * share).astype(np.uint8)
            for i in group:
                changed[i] = warped(masks[i][cut][flip].astype(np.uint8), place, image.shape[:2], 0) > 0
        return canvas, changed

    def drawn(self, rng, box, size):
        """An action, and the position: middle (x, y), angle in radians, factor of the size."""
        left, top, right, bottom = box
        width, height = right - left, bottom - top
        factor = rng.uniform(*self.scale)
        x = rng.integers(-(width // self.dx), width // self.dx + 1)
        y = rng.integers(-(height // self.dy), height // self.dy + 1)
        angle = rng.integers(self.theta[0], self.theta[1] + 1)
        touches = left < BORDER, size[1] - right < BORDER, top < BORDER, size[0] - bottom < BORDER
        shares = np.array(self.shares, float)
        if any(touches):
            factor, angle = max(factor, 1.0), 0
            x = max(x, 0) if touches[1] else x
            x = min(x, 0) if touches[0] else x
            y = max(y, 0) if touches[3] else y
            y = min(y, 0) if touches[2] else y
            shares[[action in ("horizontal", "vertical") for action in self.actions]] = 0
        chance = rng.random()
        action = "normal"
        if shares.sum() > 0:
            action = self.actions[int(np.searchsorted(np.cumsum(shares) / shares.sum(), chance, side="right"))]
        if action == "skip":
            x = y = angle = 0
            factor = 1.0
        return action, (left + width / 2 + x, top + height / 2 + y, np.deg2rad(angle), factor)

    @staticmethod
    def chosen(rng, suited):
        """A place (x, y) of a consistency map (H, W)."""
        places = np.argwhere(suited > LIKELY)
        if rng.random() < 0.4 or len(places) == 0:
            places = np.argwhere(suited > POSSIBLE)
        return rng.choice(places)[::-1]


def overlapping(boxes: np.ndarray) -> list[np.ndarray]:
    """Indices of boxes (M, 4) that overlap, directly or through others, group by group."""
    first = np.maximum(boxes[:, None, :2], boxes[:, :2])
    last = np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    count, group = connected_components((last > first).all(-1), directed=False)
    return [np.flatnonzero(group == i) for i in range(count)]


def warped(patch: np.ndarray, place, size: tuple[int, int], order: int) -> np.ndarray:
    """A patch (h, w) centred at a position of an empty canvas, rotated and scaled, by splines of an order."""
    x, y, angle, factor = place
    rows, columns = np.mgrid[: size[0], : size[1]]
    columns, rows = (columns - x) / factor, (rows - y) / factor
    across = np.cos(angle) * columns + np.sin(angle) * rows + patch.shape[1] / 2
    down = np.cos(angle) * rows - np.sin(angle) * columns + patch.shape[0] / 2
    return ndimage.map_coordinates(patch, [down, across], order=order, mode="constant")


def tight_box(mask: np.ndarray) -> list[int]:
    """The smallest box xyxy around a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def recoloured(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Change an image's saturation, brightness, contrast and sharpness."""
    picture = Image.fromarray(image)
    for enhance, least, most in COLOURS:
        picture = enhance(picture).enhance(rng.integers(least, most + 1) / 10)
    return np.asarray(picture)
