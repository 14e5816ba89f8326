"""TensorMask: every position of a pyramid predicts the mask of a window around it, whose size grows with the stride.

"TensorMask: A Foundation for Dense Object Segmentation", 2019, arXiv:1903.12174. Parameter names: detectron2
``projects/TensorMask`` (Apache-2.0). What to look at: the network predicts which windows a position belongs to, and
``swap_align_to_nat`` converts that to masks of windows, with more pixels where there are fewer positions.

Mirror notes:
- NHWC here, NCHW in PyTorch: the pixels of a place's mask follow each other here, there those of a pixel do.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.coders import DeltaCoder, clip_boxes
from tf_impl.boxes.results import results
from tf_impl.boxes.sampling import first_positives
from tf_impl.detection._dense import PRIOR_BIAS, DenseHead
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.model import Model
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.layers.rows import map_rows, take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.box import l1_loss
from tf_impl.rois.masks import paste_masks
from tf_impl.segmentation._detectron2 import ResNetFPN

__all__ = [
    "TensorMask",
    "TensorMaskCriterion",
    "TensorMaskHead",
    "TensorMaskPostProcess",
    "focal_star",
    "swap_align_to_nat",
    "tensormask_r50_fpn",
    "window_masks",
]

LEVELS = ("p2", "p3", "p4", "p5", "p6", "p7")
STRIDE = 4  # of P2, and pixels of the image per pixel of every mask
WINDOWS = (11, 15)  # sizes of the windows, in cells
MISSING = -6.0  # logit where there is no prediction
STDS = (2 / 3, 2 / 3, 4 / 3, 4 / 3)


def neighbours(side: int, length: int, scale: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What :func:`swap_align_to_nat` reads in one direction: at most four pairs of indices and weights.

    Args:
        side: pixels V of a mask.
        length: cells of the map.
        scale: as there.

    Returns:
        (scale * V * ceil(length / scale),) index of pixel and place, pixel by pixel, and weight, 0 beyond the border.
    """
    pixel = np.arange(scale * side)[:, None]
    place = np.arange(-(-length // scale)) * scale + pixel - scale * side / 2 + 0.5  # (scale V, ceil(length / scale))
    pixel = np.broadcast_to((pixel + 0.5) / scale - 0.5, place.shape)
    found = []
    for i in (0, 1):
        for j in (0, 1):
            v, y = np.floor(pixel) + i, np.floor(place) + j
            weight = (1 - np.abs(pixel - v)) * (1 - np.abs(place - y))
            weight = weight * ((v >= 0) & (v < side) & (y >= 0) & (y < length))
            index = np.clip(v, 0, side - 1) * length + np.clip(y, 0, length - 1)
            if weight.any():
                found.append((index.reshape(-1).astype(np.int64), weight.reshape(-1)))
    return found


def swap_align_to_nat(x, scale: int, missing: float = MISSING):
    """Masks of windows from the predictions of cells, ``scale`` times finer and for fewer windows.

    Args:
        x: (N, H, W, V^2): a cell's predictions for the V x V windows that contain it.
        scale: factor between the sides of the masks, and between the distances of the windows.
        missing: the prediction of cells beyond the border.

    Returns:
        (N, ceil(H / scale), ceil(W / scale), (scale V)^2), interpolated linearly between cells and between pixels.

    Source: equations 4 and 5; detectron2 ``projects/TensorMask/tensor_mask/layers/csrc/SwapAlign2Nat``.
    """
    height, width = map_size(x)
    side = math.isqrt(x.shape[3])
    x = tf.transpose(tf.reshape(x - missing, (-1, height, width, side, side)), (0, 3, 1, 4, 2))
    x = tf.reshape(x, (-1, side * height, side * width))  # (N, V H, V W)
    for axis, length in ((1, height), (2, width)):
        total = 0.0
        for index, weight in neighbours(side, length, scale):
            weight = tf.constant(weight, x.dtype)
            total = total + tf.gather(x, index, axis=axis) * (weight[:, None] if axis == 1 else weight)
        x = total
    fine, height, width = scale * side, -(-height // scale), -(-width // scale)
    x = tf.transpose(tf.reshape(x, (-1, fine, height, fine, width)), (0, 2, 4, 1, 3))  # (N, h, w, S, S)
    return tf.reshape(x, (-1, height, width, fine * fine)) + missing


@keras.saving.register_keras_serializable("diptych")
class TensorMaskHead(keras.layers.Layer):
    """Classes, boxes and masks of every cell's windows.

    Args:
        channels: channels of the levels and of the classes' convolutions.
        num_classes: classes K.
        mask_channels: channels of the convolutions of boxes and masks.
        num_convs: convolutions of each of the three.
        windows: sizes V of the A windows, in cells.
        aligned: whether a cell predicts its part in the windows around it, not its surroundings (section 4).
        bipyramid: whether masks are finer on coarser levels; otherwise all have V x V pixels.

    Inputs: dict of levels P2 to P7 (N, H_l, W_l, C).
    Returns: dict: ``"cls_p2"`` ... (N, H_l, W_l, A K) logits, ``"reg_p2"`` ... (N, H_l, W_l, 4 A) deltas,
        ``"mask_p2_0"`` ... (N, H_l, W_l, S^2) logits, S = 2^l V, l counted from P2, or V.
    Raises: ValueError if ``bipyramid`` is set without ``aligned``.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        mask_channels: int = 128,
        num_convs: int = 4,
        windows: tuple[int, ...] = WINDOWS,
        aligned: bool = True,
        bipyramid: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if bipyramid and not aligned:
            raise ValueError("bipyramid=True needs aligned=True")
        self.windows, self.aligned, self.bipyramid = tuple(windows), aligned, bipyramid
        for name, width in (("cls_subnet", channels), ("bbox_subnet", mask_channels), ("mask_subnet", mask_channels)):
            layers = []
            for _ in range(num_convs):
                layers += [DenseHead.last(width), keras.layers.ReLU()]
            setattr(self, name, keras.Sequential(layers))
        self.cls_score = DenseHead.last(len(windows) * num_classes, PRIOR_BIAS)
        self.bbox_pred = DenseHead.last(len(windows) * 4)
        for side in windows:
            predict = Conv2D(side**2, 1, kernel_initializer=SmallNormal, bias_initializer="zeros")
            setattr(self, f"mask_pred_{side:02d}", predict)
        if bipyramid:
            self.mask_fuse = keras.Sequential([DenseHead.last(mask_channels), keras.layers.ReLU()])

    def call(self, maps):
        found, first = {}, self.mask_subnet(maps["p2"])
        height, width = map_size(first)
        for i, (level, x) in enumerate(maps.items()):
            found[f"cls_{level}"] = self.cls_score(self.cls_subnet(x))
            found[f"reg_{level}"] = self.bbox_pred(self.bbox_subnet(x))
            y = first if i == 0 else self.mask_subnet(x)
            if self.bipyramid and i > 0:
                rows, columns = map_size(x)
                y = resize_bilinear(y, (rows * 2**i, columns * 2**i))[:, :height, :width]
            y = self.mask_fuse(y + first) if self.bipyramid else y
            for a, side in enumerate(self.windows):
                logits = getattr(self, f"mask_pred_{side:02d}")(y)
                if self.aligned:
                    logits = swap_align_to_nat(logits, 2**i if self.bipyramid else 1)
                found[f"mask_{level}_{a}"] = logits
        return found


@keras.saving.register_keras_serializable("diptych")
class TensorMask(Model):
    """Pyramid and head.

    Args:
        layers, planes: of the residual network.
        num_classes: classes K.
        out_channels: channels of the levels.
        mask_channels, num_convs, windows, aligned, bipyramid: of :class:`TensorMaskHead`.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: the head's result.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        num_classes: int = 80,
        out_channels: int = 256,
        mask_channels: int = 128,
        num_convs: int = 4,
        windows: tuple[int, ...] = WINDOWS,
        aligned: bool = True,
        bipyramid: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = ResNetFPN(layers, planes, out_channels, first=2, average=True, top_of_map=True)
        self.head = TensorMaskHead(out_channels, num_classes, mask_channels, num_convs, windows, aligned, bipyramid)

    def call(self, images, training=False):
        return self.head(self.backbone(images))


def rows(outputs, key: str, windows: int):
    """All maps ``key_p2`` ... as rows of windows, cell by cell: (N, sum of H W A, C)."""
    found = [outputs[f"{key}_{level}"] for level in LEVELS]
    found = [tf.reshape(x, (-1, math.prod(x.shape[1:3]) * windows, x.shape[3] // windows)) for x in found]
    return tf.concat(found, 1)


def window_places(outputs, windows: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Of every row of :func:`rows`: ``"level"``, ``"window"``, ``"row"``, ``"column"``, and the box ``"anchor"``."""
    found = {key: [] for key in ("level", "window", "row", "column", "anchor")}
    for level, name in enumerate(LEVELS):
        height, width = map_size(outputs[f"cls_{name}"])
        row, column, window = np.meshgrid(*map(np.arange, (height, width, len(windows))), indexing="ij")
        stride, half = STRIDE * 2**level, np.array(windows)[window] * STRIDE * 2**level / 2
        x, y = column * stride, row * stride
        anchor = np.stack([x - half, y - half, x + half, y + half], -1)
        for key, value in (("window", window), ("row", row), ("column", column)):
            found[key].append(value.reshape(-1))
        found["level"].append(np.full(row.size, level))
        found["anchor"].append(anchor.reshape(-1, 4))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def focal_star(logits, targets, alpha: float = 0.3, gamma: float = 3.0):
    """Focal loss FL* of every element (arXiv:1708.02002, appendix A).  Any shape, targets 0 or 1 -> the same."""
    shifted = gamma * logits * (1 - 2 * targets)
    losses = (tf.nn.relu(shifted) + tf.math.softplus(-tf.abs(shifted))) / gamma
    return losses * (alpha * targets + (1 - alpha) * (1 - targets))


def window_masks(masks, owner, row, column, level: int, side: int, bipyramid: bool = True):
    """Objects' masks inside windows: 1 where at least half of a square of pixels are the object.

    Args:
        masks: (N, M, H, W) 0 or 1.
        owner: (N, Q) int64, the object of a window.
        row, column: (N, Q) int64, the window's cell on its level.
        level: counted from P2.
        side: of the window, in cells.
        bipyramid: whether squares are as large as P2's cells, otherwise as the level's.

    Returns:
        (N, Q, S^2), S = 2^level * side or side.
    """
    scale = 2**level if bipyramid else 1
    fine, square = side * scale, STRIDE * 2**level // scale
    shift = fine * square // 2 % square  # windows of an odd number of squares begin in the middle of one
    height, width = masks.shape[2:]
    count = [-(-(size + square + 1 - shift) // square) for size in (height, width)]
    before = square - shift
    after = [square * n - size - before for n, size in zip(count, (height, width))]
    # pixels just outside repeat the border, as in RoIAlign; beyond them everything is 0
    padded = tf.pad(masks, ((0, 0), (0, 0), (1, 1), (1, 1)), "SYMMETRIC")
    padded = tf.pad(padded, ((0, 0), (0, 0), *((before - 1, n - 1) for n in after)))
    cells = tf.reshape(padded, (-1, masks.shape[1], count[0], square, count[1], square))
    cells = tf.reshape(tf.reduce_mean(cells, (3, 5)), (-1, masks.shape[1], count[0] * count[1]))
    pixel = tf.range(fine, dtype=row.dtype)
    first = (fine * square // 2 - shift) // square  # squares between the middle of a window and its beginning
    lines = []
    for place, n in ((row, count[0]), (column, count[1])):
        line = (place * scale - first)[..., None] + pixel + (0 if shift else 1)  # (N, Q, S)
        lines.append((tf.clip_by_value(line, 0, n - 1), (line >= 0) & (line < n)))
    (y, y_inside), (x, x_inside) = lines
    index = tf.reshape(y[..., None] * count[1] + x[:, :, None], (-1, row.shape[1], fine * fine))
    inside = tf.reshape(y_inside[..., None] & x_inside[:, :, None], (-1, row.shape[1], fine * fine))
    found = tf.gather(take_rows(cells, owner), index, batch_dims=2)
    return tf.cast((found >= 0.5) & inside, masks.dtype)


@keras.saving.register_keras_serializable("diptych")
class TensorMaskCriterion(keras.layers.Layer):
    """Focal loss of the classes, L1 loss of the deltas, cross-entropy of the masks.

    A window belongs to an object if it contains it, is at most about twice as large, and has its centre within one cell
    of its own; a window that several objects claim belongs to none.

    Args:
        windows: see :class:`TensorMaskHead`.
        max_masks: windows per image, level and size whose masks count, the first ones.
        alpha, gamma: of :func:`focal_star`.
        mask_weight, positive_weight: of the masks, and of their pixels inside the object.
        bipyramid: see :class:`TensorMaskHead`.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"masks"`` (N, M, H, W) 0 or 1, of the images' height and width, ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_box_reg"``, ``"loss_mask"``, ``"total"``.
    """

    def __init__(
        self,
        windows: tuple[int, ...] = WINDOWS,
        max_masks: int = 64,
        alpha: float = 0.3,
        gamma: float = 3.0,
        mask_weight: float = 2.0,
        positive_weight: float = 1.5,
        bipyramid: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.windows, self.max_masks, self.alpha, self.gamma = tuple(windows), max_masks, alpha, gamma
        self.mask_weight, self.positive_weight, self.coder = mask_weight, positive_weight, DeltaCoder(STDS)
        self.bipyramid = bipyramid

    def call(self, outputs, targets):
        logits, deltas = (rows(outputs, key, len(self.windows)) for key in ("cls", "reg"))
        places = window_places(outputs, self.windows)
        anchors = tf.constant(places["anchor"], logits.dtype)
        boxes = tf.cast(targets["boxes"], logits.dtype)
        owner, positive = self.assign(boxes, targets["valid"], anchors, places["level"])
        count = tf.maximum(tf.reduce_sum(tf.cast(positive, logits.dtype)), 1)

        labels = take_rows(targets["labels"], owner)
        every = tf.range(logits.shape[2], dtype=labels.dtype)
        wanted = tf.cast((labels[..., None] == every) & positive[..., None], logits.dtype)
        classification = tf.reduce_sum(focal_star(logits, wanted, self.alpha, self.gamma)) / count
        # a window without an object is its own target: finite, and masked
        wanted = self.coder.encode(tf.where(positive[..., None], take_rows(boxes, owner), anchors), anchors)
        regression = tf.reduce_sum(tf.where(positive, l1_loss(deltas, wanted), 0.0)) / count

        masks, total, step = tf.cast(targets["masks"], logits.dtype), 0.0, len(self.windows)
        for level in range(len(LEVELS)):
            first, last = np.searchsorted(places["level"], [level, level + 1])
            for window, side in enumerate(self.windows):
                mine = slice(first + window, last, step)
                losses = self.of_masks(outputs, masks, owner[:, mine], positive[:, mine], level, window, side)
                total = total + losses
        mask = self.mask_weight * total / count
        return {
            "loss_cls": classification,
            "loss_box_reg": regression,
            "loss_mask": mask,
            "total": classification + regression + mask,
        }

    def assign(self, boxes, valid, anchors, level):
        """The object of every window, (N, P) int64, and whether it has exactly one, (N, P) bool."""
        stride = tf.constant(STRIDE * 2.0**level, anchors.dtype)
        boxes, valid = boxes[:, :, None], valid[..., None]
        contained = tf.reduce_all(anchors[:, :2] <= boxes[..., :2], -1) & tf.reduce_all(
            anchors[:, 2:] >= boxes[..., 2:], -1
        )
        largest = tf.reduce_max(boxes[..., 2:] - boxes[..., :2], -1)  # (N, M, 1)
        least = STRIDE * (min(self.windows) - 1.0)
        similar = anchors[:, 2] - anchors[:, 0] - stride <= tf.maximum(2 * largest, least)
        offset = (boxes[..., :2] + boxes[..., 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
        near = tf.reduce_sum(tf.square(offset), -1) <= tf.square(stride)
        claimed = tf.cast(contained & similar & near & valid, anchors.dtype)  # (N, M, P)
        return argmax(claimed, 1), tf.reduce_sum(claimed, 1) == 1

    def of_masks(self, outputs, masks, owner, positive, level: int, window: int, side: int):
        """Sum of the mean cross-entropies of the first masks of a level and a size of windows."""
        logits = outputs[f"mask_{LEVELS[level]}_{window}"]
        width, (cells, drawn) = logits.shape[2], first_positives(positive, self.max_masks)
        found = take_rows(tf.reshape(logits, (-1, positive.shape[1], logits.shape[3])), cells)  # (N, Q, S^2)
        row = cells // width
        wanted = window_masks(masks, take_rows(owner, cells), row, cells - row * width, level, side, self.bipyramid)
        tail = tf.math.softplus(-tf.abs(found))
        losses = self.positive_weight * wanted * (tf.nn.relu(-found) + tail)
        losses += (1 - wanted) * (tf.nn.relu(found) + tail)
        return tf.reduce_sum(tf.where(drawn, tf.reduce_mean(losses, 2), 0.0))


@keras.saving.register_keras_serializable("diptych")
class TensorMaskPostProcess(keras.layers.Layer):
    """The best windows of every image; a mask fills its window, whatever the box.

    Args:
        windows: see :class:`TensorMaskHead`.
        score_threshold: pairs of window and class of at most this probability are dropped.
        candidates: pairs considered.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        mask_threshold: a pixel belongs to a mask if its probability is at least this.
        bipyramid: see :class:`TensorMaskHead`.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: dict: ``"masks"`` (N, D, H, W) bool, ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending,
        ``"labels"`` (N, D) int64, ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        windows: tuple[int, ...] = WINDOWS,
        score_threshold: float = 0.05,
        candidates: int = 6000,
        iou_threshold: float = 0.5,
        detections: int = 100,
        mask_threshold: float = 0.5,
        bipyramid: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.windows, self.score_threshold, self.candidates = tuple(windows), score_threshold, candidates
        self.iou_threshold, self.detections, self.mask_threshold = iou_threshold, detections, mask_threshold
        self.coder, self.bipyramid = DeltaCoder(STDS), bipyramid

    def call(self, outputs, input_size):
        scores = tf.sigmoid(rows(outputs, "cls", len(self.windows)))
        places = window_places(outputs, self.windows)
        anchors = tf.constant(places["anchor"], scores.dtype)
        boxes = self.coder.decode(rows(outputs, "reg", len(self.windows)), anchors)
        boxes = clip_boxes(boxes, tf.convert_to_tensor(input_size))
        count, classes = scores.shape[1:]
        scores, pairs = top_k(tf.reshape(scores, (-1, count * classes)), min(self.candidates, count * classes))
        index = pairs // classes
        labels, boxes = pairs - index * classes, take_rows(boxes, index)
        valid = scores > self.score_threshold
        kept, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        draw = self.drawn if self.bipyramid else self.pasted
        masks = draw(outputs, places, take_rows(index, kept), tuple(int(n) for n in input_size))
        return {
            "masks": (masks >= self.mask_threshold) & valid[..., None, None],
            **results(boxes, scores, labels, kept, valid),
        }

    def drawn(self, outputs, places, index, size: tuple[int, int]):
        """Probabilities of the pixels of images, (N, D, H, W), of windows ``index`` (N, D); 0 outside."""
        maps = [outputs[f"mask_{level}_{a}"] for level in LEVELS for a in range(len(self.windows))]
        flat = tf.concat([tf.reshape(x, (-1, math.prod(x.shape[1:]))) for x in maps], 1)
        start = np.cumsum([0] + [math.prod(x.shape[1:]) for x in maps])
        start = start[places["level"] * len(self.windows) + places["window"]]
        scale = 2 ** places["level"]
        fine = np.array(self.windows)[places["window"]] * scale
        width = np.array([outputs[f"cls_{level}"].shape[2] for level in LEVELS])[places["level"]]
        shift = 2 * fine % STRIDE
        first = [places[key] * scale - (2 * fine - shift) // STRIDE + (shift == 0) for key in ("row", "column")]
        cell = places["row"] * width + places["column"]
        known = np.stack([start + cell * fine**2, fine, shift, *first], -1)
        known = tf.gather(tf.constant(known, tf.int64), index)[..., None, None]
        start, fine, shift, top, left = tf.unstack(known, axis=2)  # (N, D, 1, 1) each

        count = [-(-(n + 5) // STRIDE) for n in size]
        y, x = (tf.range(n, dtype=tf.int64) for n in count)
        y, x = y[:, None] - top, x - left  # (N, D, h, 1), (N, D, 1, w)
        inside = (y >= 0) & (y < fine) & (x >= 0) & (x < fine)
        place = tf.where(inside, start + y * fine + x, 0)  # mirror: follow each other
        cells = tf.gather(flat, tf.reshape(place, (-1, index.shape[1] * count[0] * count[1])), batch_dims=1)
        cells = tf.sigmoid(tf.reshape(cells, (-1, index.shape[1], *count)))
        cells = tf.transpose(tf.where(inside, cells, 0.0), (0, 2, 3, 1))
        fine = tf.transpose(resize_bilinear(cells, (STRIDE * count[0], STRIDE * count[1])), (0, 3, 1, 2))
        whole = fine[:, :, STRIDE : STRIDE + size[0], STRIDE : STRIDE + size[1]]
        halved = fine[:, :, STRIDE // 2 : STRIDE // 2 + size[0], STRIDE // 2 : STRIDE // 2 + size[1]]
        return tf.where(shift > 0, halved, whole)

    def pasted(self, outputs, places, index, size: tuple[int, int]):
        """The same as :meth:`drawn` of masks that have as many pixels on all levels."""
        anchors = tf.gather(tf.constant(places["anchor"], outputs["cls_p2"].dtype), index)
        window, total = tf.gather(tf.constant(places["window"], index.dtype), index), 0.0
        place = index // len(self.windows)
        for a, side in enumerate(self.windows):
            logits = take_rows(tf.concat([map_rows(outputs[f"mask_{level}_{a}"]) for level in LEVELS], 1), place)
            masks = tf.sigmoid(tf.reshape(logits, (-1, index.shape[1], side, side)))
            masks = paste_masks(masks, anchors, size, "mmdet")
            total = total + tf.where((window == a)[..., None, None], masks, 0.0)
        return total


def tensormask_r50_fpn(layers=(3, 4, 6, 3), **options) -> TensorMask:
    return TensorMask(layers, **options)
