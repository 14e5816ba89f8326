"""The loop over frames of DiMP: a memory of samples, a filter that keeps learning, a box refined for more overlap.

"Learning Discriminative Model Prediction for Tracking", 2019, arXiv:1904.07220. Numbers: visionml/pytracking
``pytracking/tracker/dimp/dimp.py``, ``parameter/dimp/dimp18.py``, ``features/augmentation.py`` (GPL-3.0, only names and
formulas are taken). Positions and sizes are (y, x) as there; boxes are x, y, width, height.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

__all__ = ["DiMPTracker", "FilterOptimizer", "Memory", "first_samples", "localise", "sample_patch"]

SIDE, STRIDE, FILTER = 288, 16, 4  # pixels of a sample and of a cell, cells of the filter
AREA = 5.0  # size of a sample, relative to the object's
SHIFT = 0.6  # of the object in the shifted first samples, of half a sample
SIGMAS = ((3, 1), (1, 3), (2, 2))  # of the blurred ones, (y, x) pixels
ANGLES = (10, -10, 45, -45)  # of the rotated ones, degrees
EXPANSION = 2  # side of the crop that the first samples are cut from, of theirs
RANDOM = 1 / 3  # of a sample, that the object moves at random in the first samples
COPIES, DROPOUT = 2, 0.2  # of the first sample, and the rate of channels that they lack
SLOTS, RATE, HARD_RATE, SHARE = 50, 0.01, 0.02, 0.25  # of the memory; SHARE: least of the first samples
NOT_FOUND, DISTRACTOR, HARD = 0.25, 0.8, 0.5  # scores: of the object; of distractors, relative to the best
NEIGHBOURHOOD, DISPLACEMENT = 2.2, 0.8  # of the object's size; of half the map
FIRST_STEPS, STEPS, HARD_STEPS, EVERY = 10, 2, 1, 20  # steps of descent, and frames between those without a reason
BOXES, JITTER, CLIMBS, BEST = 9, (0.1, 0.5), 5, 3  # random boxes besides the current one, spread of positions and sizes
INSIDE = 0.2  # share of the object that stays in the frame


def bilinear(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values of an image (H, W, C) at positions, borders repeated.  y, x: (h, w) -> (h, w, C)."""
    height, width = image.shape[:2]
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    dy, dx = (y - top)[..., None], (x - left)[..., None]
    upper = image[top, left] * (1 - dx) + image[top, right] * dx
    return upper * (1 - dy) + (image[bottom, left] * (1 - dx) + image[bottom, right] * dx) * dy


def sample_patch(image: np.ndarray, place: np.ndarray, size: float, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A square of a frame, first subsampled, then resized.

    Args:
        image: (H, W, 3).
        place: (2,) centre y and x.
        size: side of the square, pixels.
        side: of the result.

    Returns:
        (side, side, 3), borders repeated; (4,) the rows and columns that it shows: first y, x, exclusive last y, x; for
        a subsampled frame as if its first pixel had been kept, as in the reference.
    """
    thinned = max(int(size / side - 0.1), 1)
    centre, start = place.astype(int), np.zeros(2, int)
    if thinned > 1:
        start = centre % thinned
        centre = (centre - start) // thinned
        image = image[start[0] :: thinned, start[1] :: thinned]
    length = max(int(np.round(size / thinned)), 2)
    first = centre - (length - 1) // 2
    rows, columns = (np.clip(np.arange(n, n + length), 0, limit - 1) for n, limit in zip(first, image.shape))
    square = image[rows[:, None], columns].astype(np.float64)
    if length != side:
        steps = (np.arange(side) + 0.5) * length / side - 0.5
        square = bilinear(square, *np.meshgrid(steps, steps, indexing="ij"))
    return square, thinned * np.concatenate([first, first + length])


def blur(image: np.ndarray, sigma: tuple[float, float]) -> np.ndarray:
    """An image (H, W, C), blurred along both axes, 0 outside."""
    for axis, deviation in enumerate(sigma):
        reach = int(np.ceil(2 * deviation))
        kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
        pad = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
        image = sliding_window_view(np.pad(image, pad), 2 * reach + 1, axis) @ (kernel / kernel.sum())
    return image


def turn(image: np.ndarray, degrees: float) -> np.ndarray:
    """A square image (S, S, C), rotated about its middle, borders repeated; clockwise for positive angles."""
    middle, angle = (len(image) - 1) / 2, np.deg2rad(degrees)
    y, x = np.mgrid[: len(image), : len(image)] - middle
    return bilinear(
        image, middle + np.cos(angle) * y - np.sin(angle) * x, middle + np.sin(angle) * y + np.cos(angle) * x
    )


def cut_middle(image: np.ndarray, side: int, shift) -> np.ndarray:
    """The middle of a square image, moved down and to the right by whole pixels; borders repeated."""
    first = (len(image) - side + 1) // 2 - np.asarray(shift)
    rows, columns = (np.clip(np.arange(n, n + side), 0, len(image) - 1) for n in first)
    return image[rows[:, None], columns]


def first_samples(crop: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first training samples of the filter: shifted, mirrored, blurred and rotated.

    Args:
        crop: (2 S, 2 S, 3) around the object.
        shifts: (8, 2) in [-0.5, 0.5), random, of the mirrored, the blurred and the rotated samples.

    Returns:
        (13, S, S, 3) the samples, the plain one first; (13, 2) how far the object moved in each, x and y in pixels.
    """
    side = len(crop) // EXPANSION
    moves = np.trunc(shifts * side * RANDOM).astype(int)
    far = int(SHIFT * side / 2)
    still = [(crop, (0, 0))] + [(crop, (a * far, b * far)) for a, b in ((1, 1), (-1, 1), (1, -1), (-1, -1))]
    changed = [crop[:, ::-1], *(blur(crop, sigma) for sigma in SIGMAS), *(turn(crop, angle) for angle in ANGLES)]
    pairs = still + list(zip(changed, moves, strict=True))
    samples = np.stack([cut_middle(image, side, move) for image, move in pairs])
    return samples, np.array([move for _, move in pairs])[:, ::-1]


class FilterOptimizer:
    """Steps of steepest descent of the network's ``classifier.filter_optimizer``, from weighted samples.

    Args:
        parameters: of the network by name, without ``classifier.filter_optimizer.``.
        bin_displacement: cells from value to value of the functions of the distance.
    """

    def __init__(self, parameters: Mapping[str, np.ndarray], bin_displacement: float = 0.1):
        self.bin_displacement = bin_displacement
        self.step = float(np.exp(parameters["log_step_length"].ravel()[0]))
        self.reg = max(float(parameters["filter_reg"].ravel()[0]) ** 2, 1e-6)
        names = ("label_map_predictor", "target_mask_predictor.0", "spatial_weight_predictor")
        self.functions = np.stack([parameters[f"{name}.weight"].ravel() for name in names]).astype(np.float64)

    def maps(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
        """Labels, masks and weights (3, T, height, width) of boxes (T, 4), from the distance of the object's centre."""
        x, y = ((boxes[:, :2] + boxes[:, 2:] / 2) / STRIDE).T[:, :, None, None]
        distance = np.hypot(np.arange(height)[:, None] - y, np.arange(width) - x) / self.bin_displacement
        values = self.functions.shape[1] - 1
        low = np.minimum(distance.astype(int), values - 1)
        part = np.clip(distance - low, 0, 1)
        found = self.functions[:, low] * (1 - part) + self.functions[:, low + 1] * part
        found[1] = 1 / (1 + np.exp(-found[1]))
        return found

    def __call__(
        self, kernel: np.ndarray, features: np.ndarray, boxes: np.ndarray, weights: np.ndarray, steps: int
    ) -> np.ndarray:
        """The filter after some steps.

        Args:
            kernel: (C, K, K).
            features: (T, C, H, W) of the samples.
            boxes: (T, 4) of the object in them, pixels.
            weights: (T,) of the samples.
            steps: how many.
        """
        size = kernel.shape[-1]
        pad = [(0, 0), (0, 0), (size // 2, size // 2), (size // 2, size // 2)]
        windows = sliding_window_view(np.pad(features, pad), (size, size), (2, 3))  # (T, C, H', W', K, K)
        label, mask, spatial = self.maps(boxes, *windows.shape[2:4])
        weight = np.sqrt(weights)[:, None, None] * spatial

        def scores(kernel):
            return np.einsum("tchwij,cij->thw", windows, kernel, optimize=True)

        for _ in range(steps):
            found = scores(kernel)
            # of the background (mask 0) only what is above 0 is a mistake
            slope = (1 - mask) / 2 * np.sign(found) + (1 + mask) / 2
            residuals = weight * ((1 - mask) / 2 * np.abs(found) + (1 + mask) / 2 * found - label)
            back = np.einsum("tchwij,thw->cij", windows, slope * weight * residuals, optimize=True)
            gradient = back + self.reg * kernel
            squared = (gradient**2).sum()
            bend = ((weight * slope * scores(gradient)) ** 2).sum() + self.reg * squared
            kernel = kernel - self.step * squared / max(bend, 1e-8) * gradient
        return kernel


class Memory:
    """Samples, their boxes and their weights; those of the first frame stay and never weigh less than a quarter.

    Args:
        features: (T, C, H, W) of the first samples.
        boxes: (T, 4).
        slots: samples that are kept at most.
    """

    def __init__(self, features: np.ndarray, boxes: np.ndarray, slots: int = SLOTS):
        self.first, self.count, self.last = len(features), len(features), None
        self.features = np.zeros((slots, *features.shape[1:]), features.dtype)
        self.boxes, self.weights = np.zeros((slots, 4)), np.zeros(slots)
        self.features[: self.first], self.boxes[: self.first] = features, boxes
        self.weights[: self.first] = 1 / self.first

    def add(self, features: np.ndarray, box: np.ndarray, rate: float = RATE) -> None:
        """Store a sample (C, H, W) in a free slot, or in that of the later sample with the least weight."""
        if self.count < len(self.weights):
            place = self.count
            self.count += 1
        else:
            place = self.first + int(np.argmin(self.weights[self.first :]))
        if self.last is None:
            self.weights /= 1 - rate
            self.weights[place] = rate
        else:
            self.weights[place] = self.weights[self.last] / (1 - rate)
        self.weights /= self.weights.sum()
        if self.weights[: self.first].sum() < SHARE:  # then their sum slightly exceeds 1, as in the reference
            self.weights /= SHARE + self.weights[self.first :].sum()
            self.weights[: self.first] = SHARE / self.first
        self.features[place], self.boxes[place], self.last = features, box, place

    def stored(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, boxes and weights of all samples."""
        return self.features[: self.count], self.boxes[: self.count], self.weights[: self.count]


def peak(scores: np.ndarray) -> tuple[float, np.ndarray]:
    """The largest score and its cell (y, x)."""
    cell = np.array(np.unravel_index(np.argmax(scores), scores.shape))
    return float(scores[tuple(cell)]), cell


def localise(scores: np.ndarray, size: np.ndarray, previous: np.ndarray) -> tuple[np.ndarray, str, float]:
    """Locate the object and its certainty.

    Args:
        scores: (h, w).
        size: (2,) of the object, cells.
        previous: (2,) its last place, cells from the middle.

    Returns:
        (2,) cells from the middle; "normal", "hard_negative" (there is a distractor), "uncertain" or "not_found";
        the largest score.
    """
    middle = (np.array(scores.shape) - 1) / 2
    best, cell = peak(scores)
    place = cell - middle
    if best < NOT_FOUND:
        return place, "not_found", best
    reach = NEIGHBOURHOOD * size
    low = np.maximum(np.round(cell - reach / 2), 0).astype(int)
    high = np.minimum(np.round(cell + reach / 2 + 1), scores.shape).astype(int)
    others = scores.copy()
    others[low[0] : high[0], low[1] : high[1]] = 0
    second, cell = peak(others)
    other = cell - middle
    if second > DISTRACTOR * best:
        limit = DISPLACEMENT * np.sqrt(np.prod(scores.shape)) / 2
        moved, other_moved = np.linalg.norm(place - previous), np.linalg.norm(other - previous)
        if other_moved > limit > moved:
            return place, "hard_negative", best
        if moved > limit > other_moved:
            return other, "hard_negative", best
        return place, "uncertain", best
    hard = second > HARD * best and second > NOT_FOUND
    return place, "hard_negative" if hard else "normal", best


class DiMPTracker:
    """Follows one object.

    Args:
        extract: takes samples (T, 3, 288, 288) in 0 to 255, returns ``"classification"`` (T, C, 18, 18) and whatever
            else ``modulate`` and ``overlaps`` need.
        initial_filter: takes features (T, C, 18, 18) and boxes (T, 4), returns the first filter (C, 4, 4).
        optimizer: improves it.
        modulate: takes what ``extract`` returned of the plain first sample and the box (4,), returns what ``overlaps``
            needs.
        overlaps: takes that, what ``extract`` returned of one sample, and boxes (P, 4); returns overlaps (P,) and the
            gradient (P, 4) of each for its box.
        rng: of the random shifts, the channels that are dropped and the boxes from which the climb starts.
    """

    def __init__(
        self,
        extract: Callable[[np.ndarray], Mapping],
        initial_filter: Callable[[np.ndarray, np.ndarray], np.ndarray],
        optimizer: FilterOptimizer,
        modulate: Callable,
        overlaps: Callable[..., tuple[np.ndarray, np.ndarray]],
        rng: np.random.Generator | None = None,
    ):
        self.extract, self.initial_filter, self.optimizer = extract, initial_filter, optimizer
        self.modulate, self.overlaps = modulate, overlaps
        self.rng = np.random.default_rng(0) if rng is None else rng

    def initialise(self, image: np.ndarray, box) -> None:
        """The first frame (H, W, 3) and the object in it: x, y, width, height in pixels."""
        x, y, width, height = box
        self.place, self.size = np.array([y + (height - 1) / 2, x + (width - 1) / 2]), np.array([height, width], float)
        self.scale = AREA * float(np.sqrt(self.size.prod())) / SIDE
        self.first, self.base, self.frame = self.scale, self.size.copy(), 1
        large = EXPANSION * SIDE
        crop, _ = sample_patch(image, np.round(self.place), self.scale * large, large)
        samples, moves = first_samples(crop, self.rng.uniform(-0.5, 0.5, (8, 2)))
        boxes = self.box_in_sample(np.round(self.place), self.scale) + np.pad(moves, ((0, 0), (0, 2)))
        found = self.extract(samples.transpose(0, 3, 1, 2).astype(np.float32))
        features = found["classification"]
        kept = self.rng.uniform(size=(COPIES, features.shape[1], 1, 1)) >= DROPOUT
        features = np.concatenate([features, features[:1] * kept / (1 - DROPOUT)])
        boxes = np.concatenate([boxes, boxes[:1].repeat(COPIES, 0)])
        self.memory = Memory(features, boxes)
        self.kernel = self.optimizer(self.initial_filter(features, boxes), *self.memory.stored(), FIRST_STEPS)
        self.modulation = self.modulate({name: x[:1] for name, x in found.items()}, boxes[0])

    def box_in_sample(self, place: np.ndarray, scale: float) -> np.ndarray:
        """The object in a sample around ``place``, of ``scale`` frame pixels for each of its own: (4,)."""
        size = self.size / scale
        centre = (self.place - place) / scale + (SIDE - 1) / 2
        return np.concatenate([(centre - (size - 1) / 2)[::-1], size[::-1]])

    def move(self, place: np.ndarray, image: np.ndarray) -> None:
        """Set the place, so that part of the object stays in the frame."""
        offset = (INSIDE - 0.5) * self.size
        self.place = np.maximum(np.minimum(place, image.shape[:2] - offset), offset)

    def refine(self, found: Mapping, place: np.ndarray, scale: float) -> None:
        """Refine several boxes for more overlap, and take the mean of the best."""
        box = self.box_in_sample(place, scale)
        side, least = np.sqrt(box[2:].prod()), box[2:].min() / 3
        random = (self.rng.uniform(size=(BOXES, 4)) - 0.5) * side * np.repeat(JITTER, 2)
        sizes = np.maximum(box[2:] + random[:, 2:], least)
        boxes = np.concatenate(
            [box[None], np.concatenate([box[:2] + box[2:] / 2 + random[:, :2] - sizes / 2, sizes], 1)]
        )
        for _ in range(CLIMBS):
            overlaps, slope = self.overlaps(self.modulation, found, boxes)
            boxes = boxes + slope * np.tile(boxes[:, 2:], 2)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
        form = boxes[:, 2] / boxes[:, 3]
        usual = (form < 6) & (form > 1 / 6)
        if not usual.any():
            return
        boxes, overlaps = boxes[usual], overlaps[usual]
        best = boxes[np.argsort(-overlaps, kind="stable")[:BEST]].mean(0)
        self.place = ((best[:2] + best[2:] / 2)[::-1] - (SIDE - 1) / 2) * scale + place
        self.size = best[2:][::-1] * scale
        self.scale = self.first * float(np.sqrt(self.size.prod() / self.base.prod()))

    def track(self, image: np.ndarray) -> dict:
        """A later frame: ``"box"`` (4,) in pixels, ``"score"``, and ``"state"`` as for :func:`localise`."""
        self.frame += 1
        sample, shown = sample_patch(image, self.place, self.scale * SIDE, SIDE)
        found = self.extract(sample.transpose(2, 0, 1)[None].astype(np.float32))
        place = (shown[:2] + shown[2:] - 1) / 2
        scale = float(np.sqrt((shown[2:] - shown[:2]).prod())) / SIDE
        cell = STRIDE * scale  # frame pixels
        pad = [(0, 0), (FILTER // 2, FILTER // 2), (FILTER // 2, FILTER // 2)]
        windows = sliding_window_view(np.pad(found["classification"][0], pad), (FILTER, FILTER), (1, 2))
        scores = np.einsum("chwij,cij->hw", windows, self.kernel, optimize=True)
        moved, state, score = localise(scores, self.size / cell, (self.place - place) / cell)
        if state != "not_found":
            self.move(place + moved * cell, image)
            self.refine(found, place, scale)
        hard = state == "hard_negative"
        if state in ("normal", "hard_negative"):
            box = self.box_in_sample(place, scale)
            self.memory.add(found["classification"][0], box, HARD_RATE if hard else RATE)
        steps = HARD_STEPS if hard else STEPS if (self.frame - 1) % EVERY == 0 else 0
        if steps and state in ("normal", "hard_negative"):
            self.kernel = self.optimizer(self.kernel, *self.memory.stored(), steps)
        box = np.concatenate([(self.place - (self.size - 1) / 2)[::-1], self.size[::-1]])
        return {"box": box, "score": score, "state": state}
