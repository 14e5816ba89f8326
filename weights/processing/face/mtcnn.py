"""The cascade of MTCNN: an image pyramid, three networks, suppression between them, alignment.

"Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", 2016, arXiv:1604.02878;
"Improving Object Detection With One Line of Code" (soft suppression), 2017, arXiv:1704.04503. Numbers:
timesler/facenet-pytorch ``models/utils/detect_face.py`` (MIT), whose conventions differ from stage to stage: P-Net's
windows are as wide as the difference of their corners, those of the later stages one pixel wider; only the last
suppression compares with the smaller box. The template of the alignment is that of deepinsight/insightface.
"""

from collections.abc import Callable, Mapping

import numpy as np

__all__ = [
    "align_face",
    "area_resize",
    "detect_faces",
    "integral",
    "pyramid",
    "select_face",
    "similarity_transform",
    "soft_suppress",
    "suppress",
]

CELL, STRIDE = 12, 2  # of P-Net: receptive field and stride of a cell, pixels
# eyes, nose, corners of the mouth in a crop of 112 x 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

Network = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def integral(image: np.ndarray) -> np.ndarray:
    """Sums of all pixels above and to the left, float64.  (H, W, C) -> (H + 1, W + 1, C)."""
    total = np.zeros((image.shape[0] + 1, image.shape[1] + 1, image.shape[2]))
    total[1:, 1:] = image.cumsum(0, dtype=np.float64).cumsum(1)
    return total


def area_resize(total: np.ndarray, windows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mean over every bin of pixels, whole pixels only, also where a window grows.

    Args:
        total: (H + 1, W + 1, C) of :func:`integral`.
        windows: (B, 4) int, xyxy of pixels that are resized; x2 and y2 are exclusive.
        size: (h, w); of a window's H rows, bin i of h covers floor(i H / h) to ceil((i + 1) H / h).

    Returns:
        (B, h, w, C) float32.
    """
    bounds = []
    for axis, count in ((1, size[0]), (0, size[1])):
        first, length = windows[:, axis, None], (windows[:, 2 + axis] - windows[:, axis])[:, None]
        i = np.arange(count)
        bounds.append((first + i * length // count, first - (-(i + 1) * length // count)))
    (top, bottom), (left, right) = bounds
    sums = total[bottom[:, :, None], right[:, None]] - total[bottom[:, :, None], left[:, None]]
    sums -= total[top[:, :, None], right[:, None]] - total[top[:, :, None], left[:, None]]
    pixels = (bottom - top)[:, :, None] * (right - left)[:, None]
    return (sums / pixels[..., None]).astype(np.float32)


def pyramid(height: int, width: int, min_face_size: int = 20, factor: float = 0.709) -> list[float]:
    """Scales of the image pyramid, from the one that makes the smallest face as large as a cell's field."""
    scale, scales = CELL / min_face_size, []
    while min(height, width) * scale >= CELL:
        scales.append(scale)
        scale *= factor
    return scales


def normalised(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) in 0 to 255 -> (N, 3, H, W) as the networks expect it."""
    return np.ascontiguousarray(((images - 127.5) * 0.0078125).transpose(0, 3, 1, 2), np.float32)


def overlaps(boxes: np.ndarray, extra: float = 0.0, mode: str = "union") -> np.ndarray:
    """(B, B) overlap of two boxes, relative to their union or to the smaller one; ``extra`` pixels wider."""
    first, last = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared = np.maximum(last - first + extra, 0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2] + extra).prod(1)
    whole = np.minimum(area[:, None], area) if mode == "min" else area[:, None] + area - shared
    return shared / np.where(whole > 0, whole, 1)


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float, extra: float = 0.0, mode: str = "union"):
    """Indices of the boxes that no better kept one overlaps by more than the threshold, best first.

    Args:
        boxes: (B, 4) xyxy.
        scores: (B,); of equal ones the first is better.
        threshold: of the overlap.
        extra, mode: see :func:`overlaps`; "union" or "min".
    """
    order = np.argsort(-scores, kind="stable")
    better = np.triu(overlaps(boxes[order], extra, mode) > threshold, 1)
    keep, before = np.ones(len(order), bool), None
    while before is None or (keep != before).any():
        keep, before = ~(better & keep[:, None]).any(0), keep
    return order[keep]


def soft_suppress(boxes: np.ndarray, scores: np.ndarray, mode: str = "linear", threshold: float = 0.3) -> tuple:
    """Lower the scores of boxes by their overlap with better ones.

    Args:
        boxes, scores: as in :func:`suppress`.
        mode: "linear", times 1 - overlap where that is above the threshold; "gaussian", times exp(-overlap^2 / 0.5).
        threshold: of the linear mode.

    Returns:
        Indices of the boxes whose score is still at least 0.001, in their new order, and their new scores.

    Raises:
        ValueError: if ``mode`` is unknown.
    """
    if mode not in ("linear", "gaussian"):
        raise ValueError(f"mode={mode!r} must be 'linear' or 'gaussian'")
    shared = overlaps(boxes)
    factors = np.exp(-(shared**2) / 0.5) if mode == "gaussian" else np.where(shared > threshold, 1 - shared, 1)
    left, scores, order, found = np.ones(len(boxes), bool), scores.astype(np.float64), [], []
    while (left & (scores >= 0.001)).any():
        best = int(np.argmax(np.where(left, scores, -1)))
        order.append(best)
        found.append(scores[best])
        left[best] = False
        scores = np.where(left, scores * factors[best], scores)
    return np.array(order, np.int64), np.array(found)


def moved(boxes: np.ndarray, shifts: np.ndarray, extra: float) -> np.ndarray:
    """Boxes (B, 4) whose corners are shifted (B, 4) by shares of their sizes, which are ``extra`` pixels larger."""
    side = boxes[:, 2:4] - boxes[:, :2] + extra
    return boxes + shifts * np.tile(side, 2)


def squared(boxes: np.ndarray) -> np.ndarray:
    """Boxes around the same centres, as high and as wide as their longer side."""
    side = boxes[:, 2:] - boxes[:, :2]
    longer = side.max(1, keepdims=True)
    first = boxes[:, :2] + 0.5 * side - 0.5 * longer
    return np.concatenate([first, first + longer], 1)


def crops(total: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """What is inside the boxes (B, 4), cut at the border, as (B, 3, size, size); zeros where nothing is inside.

    ``total`` is the image's :func:`integral`.
    """
    height, width = np.array(total.shape[:2]) - 1
    cut = boxes.astype(np.int64)
    first, last = np.maximum(cut[:, :2], 1) - 1, np.minimum(cut[:, 2:], [width, height])
    inside = (last > first).all(1)
    found = np.full((len(cut), size, size, 3), 127.5, np.float32)
    found[inside] = area_resize(total, np.concatenate([first, last], 1)[inside], (size, size))
    return normalised(found)


def proposals(total: np.ndarray, network: Network, scale: float, threshold: float) -> np.ndarray:
    """P-Net's windows of one scale: (B, 9), box, probability, shifts; row by row.

    ``total`` is the image's :func:`integral`.
    """
    height, width = np.array(total.shape[:2]) - 1
    size = int(height * scale + 1), int(width * scale + 1)
    found = network(normalised(area_resize(total, np.array([[0, 0, width, height]]), size)))
    y, x = np.nonzero(found["prob"][0, 1] >= threshold)
    corner = (STRIDE * np.stack([x, y], 1)).astype(np.float32)
    scale = np.float32(scale)  # the reference divides in single precision, which decides some of the floors
    boxes = np.concatenate([np.floor((corner + 1) / scale), np.floor((corner + CELL) / scale)], 1)
    return np.concatenate([boxes, found["prob"][0, 1, y, x][:, None], found["box"][0, :, y, x]], 1).astype(np.float32)


def detect_faces(
    image: np.ndarray,
    pnet: Network,
    rnet: Network,
    onet: Network,
    min_face_size: int = 20,
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
    factor: float = 0.709,
    nms: str = "hard",
    max_faces: int = 64,
    stages: dict | None = None,
) -> dict[str, np.ndarray]:
    """The faces in an image.

    Args:
        image: (H, W, 3) RGB, 0 to 255.
        pnet, rnet, onet: take (N, 3, h, w) float32 and return the networks' arrays by name.
        min_face_size: size of the smallest face, pixels.
        thresholds: smallest probability after each network.
        factor: ratio of successive scales.
        nms: "hard", or "soft_linear", "soft_gaussian" for the last suppression.
        max_faces: results F.
        stages: receives the results of the stages, by name.

    Returns:
        ``"boxes"`` (F, 4) xyxy in pixels, ``"scores"`` (F,) descending, ``"landmarks"`` (F, 5, 2) x and y of eyes, nose
        and corners of the mouth, ``"valid"`` (F,) bool; where False, the others are 0.

    Raises:
        ValueError: if the image has another shape, or ``nms`` is unknown.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image has shape {image.shape}; (H, W, 3) was expected")
    if nms not in ("hard", "soft_linear", "soft_gaussian"):
        raise ValueError(f"nms={nms!r} must be 'hard', 'soft_linear' or 'soft_gaussian'")
    total = integral(image)
    stages = {} if stages is None else stages
    found = [np.zeros((0, 9), np.float32)]
    kept = [np.zeros((0, 9), np.float32)]
    for scale in pyramid(*image.shape[:2], min_face_size, factor):
        windows = proposals(total, pnet, scale, thresholds[0])
        found.append(windows)
        kept.append(windows[suppress(windows[:, :4], windows[:, 4], 0.5)])
    stages["candidates"] = np.concatenate(found)
    windows = np.concatenate(kept)
    windows = windows[suppress(windows[:, :4], windows[:, 4], 0.7)]
    boxes = squared(moved(windows[:, :4], windows[:, 5:], 0.0))
    stages["proposals"] = np.concatenate([boxes, windows[:, 4:5]], 1)
    scores, landmarks = windows[:, 4], np.zeros((0, 5, 2), np.float32)
    if len(boxes):
        refined = rnet(crops(total, boxes, 24))
        passed = refined["prob"][:, 1] > thresholds[1]
        boxes, scores, shifts = boxes[passed], refined["prob"][passed, 1], refined["box"][passed]
        best = suppress(boxes, scores, 0.7)
        boxes, scores = squared(moved(boxes[best], shifts[best], 1.0)), scores[best]
    stages["refined"] = np.concatenate([boxes, scores[:, None]], 1)
    if len(boxes):
        last = onet(crops(total, boxes, 48))
        passed = last["prob"][:, 1] > thresholds[2]
        boxes, scores, points = boxes[passed], last["prob"][passed, 1], last["landmarks"][passed]
        side = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = points.reshape(-1, 2, 5).transpose(0, 2, 1) * side[:, None] + boxes[:, None, :2] - 1
        boxes = moved(boxes, last["box"][passed], 1.0)
        if nms == "hard":
            best = suppress(boxes, scores, 0.7, 1.0, "min")
            scores = scores[best]
        else:
            best, scores = soft_suppress(boxes, scores, nms.removeprefix("soft_"))
        boxes, landmarks = boxes[best], landmarks[best]
    count = min(len(boxes), max_faces)
    result = {
        "boxes": np.zeros((max_faces, 4), np.float32),
        "scores": np.zeros(max_faces, np.float32),
        "landmarks": np.zeros((max_faces, 5, 2), np.float32),
        "valid": np.arange(max_faces) < count,
    }
    for key, value in (("boxes", boxes), ("scores", scores), ("landmarks", landmarks)):
        result[key][:count] = value[:count]
    return result


def select_face(found: Mapping[str, np.ndarray], image_size: tuple[int, int], by: str = "probability") -> int:
    """Choose one of the faces of :func:`detect_faces`; its index.

    Args:
        found: the result of that, with at least one valid face.
        image_size: height and width of the image.
        by: "probability", "largest", or "center_weighted_size" (area minus twice the squared distance from the middle).

    Raises:
        ValueError: without a face, or if ``by`` is unknown.
    """
    if not found["valid"].any():
        raise ValueError("found holds no face; one was expected")
    boxes = found["boxes"][found["valid"]]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    off = (boxes[:, :2] + boxes[:, 2:]) / 2 - np.array(image_size[::-1]) / 2
    rules = {
        "probability": found["scores"][found["valid"]],
        "largest": area,
        "center_weighted_size": area - 2 * (off**2).sum(1),
    }
    if by not in rules:
        raise ValueError(f"by={by!r} must be one of {sorted(rules)}")
    return int(np.argmax(rules[by]))


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity transform that best maps points to others (Umeyama 1991, without a reflection).

    Args:
        source, target: (P, 2).

    Returns:
        (2, 3): target = matrix[:, :2] source + matrix[:, 2].
    """
    centre, goal = source.mean(0), target.mean(0)
    a, b = source - centre, target - goal
    u, s, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (s * sign).sum() / a.var(0).sum()
    return np.concatenate([scale * rotation, (goal - scale * rotation @ centre)[:, None]], 1)


def align_face(image: np.ndarray, landmarks: np.ndarray, size: int = 112) -> np.ndarray:
    """The face rotated and scaled so that its five landmarks best match the recognisers' template.

    Args:
        image: (H, W, C), 0 to 255.
        landmarks: (5, 2), as :func:`detect_faces` finds them.
        size: of the result; the template is for 112.

    Returns:
        (size, size, C) float32, bilinear; 0 outside the image.
    """
    matrix = similarity_transform(np.asarray(landmarks, np.float64), TEMPLATE * (size / 112))
    back = np.linalg.inv(matrix[:, :2])
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    place = (np.stack([x, y], -1) - matrix[:, 2]) @ back.T  # (size, size, 2), x and y in the image
    low = np.floor(place).astype(np.int64)
    part = place - low
    result = np.zeros((size, size, image.shape[2]))
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = low[..., 0] + dx, low[..., 1] + dy
            inside = (column >= 0) & (column < image.shape[1]) & (row >= 0) & (row < image.shape[0])
            weight = np.abs(1 - dx - part[..., 0]) * np.abs(1 - dy - part[..., 1]) * inside
            pixel = image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)]
            result += weight[..., None] * pixel
    return result.astype(np.float32)
