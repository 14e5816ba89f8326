"""TensorMask: every position of a pyramid predicts the mask of a window around it, whose size grows with the stride.

"TensorMask: A Foundation for Dense Object Segmentation", 2019, arXiv:1903.12174. Parameter names: detectron2
``projects/TensorMask`` (Apache-2.0). What to look at: the network predicts which windows a position belongs to, and
``swap_align_to_nat`` converts that to masks of windows, with more pixels where there are fewer positions.

Mirror notes:
- NCHW here, NHWC in TensorFlow: the pixels of a place's mask follow each other there, here those of a pixel do.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.coders import DeltaCoder, clip_boxes
from torch_impl.boxes.results import results
from torch_impl.boxes.sampling import first_positives
from torch_impl.detection._dense import PRIOR_BIAS, DenseHead
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.layers.rows import map_rows, take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.box import l1_loss
from torch_impl.rois.masks import paste_masks
from torch_impl.segmentation._detectron2 import ResNetFPN

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
        x: (N, V^2, H, W): a cell's predictions for the V x V windows that contain it.
        scale: factor between the sides of the masks, and between the distances of the windows.
        missing: the prediction of cells beyond the border.

    Returns:
        (N, (scale V)^2, ceil(H / scale), ceil(W / scale)), interpolated linearly between cells and between pixels.

    Source: equations 4 and 5; detectron2 ``projects/TensorMask/tensor_mask/layers/csrc/SwapAlign2Nat``.
    """
    height, width = map_size(x)
    side = math.isqrt(x.shape[1])
    x = (x - missing).unflatten(1, (side, side)).transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (N, V H, V W)
    for axis, length in ((1, height), (2, width)):
        total = 0.0
        for index, weight in neighbours(side, length, scale):
            weight = torch.from_numpy(weight).to(x)
            index = torch.from_numpy(index).to(x.device)
            total = total + x.index_select(axis, index) * (weight[:, None] if axis == 1 else weight)
        x = total
    fine = scale * side
    x = x.unflatten(1, (fine, -1)).unflatten(3, (fine, -1)).transpose(2, 3)  # (N, S, S, h, w)
    return x.flatten(1, 2) + missing


class TensorMaskHead(nn.Module):
    """Classes, boxes and masks of every cell's windows.

    Args:
        channels: channels of the levels and of the classes' convolutions.
        num_classes: classes K.
        mask_channels: channels of the convolutions of boxes and masks.
        num_convs: convolutions of each of the three.
        windows: sizes V of the A windows, in cells.
        aligned: whether a cell predicts its part in the windows around it, not its surroundings (section 4).
        bipyramid: whether masks are finer on coarser levels; otherwise all have V x V pixels.

    Inputs: dict of levels P2 to P7 (N, C, H_l, W_l).
    Returns: dict: ``"cls_p2"`` ... (N, A K, H_l, W_l) logits, ``"reg_p2"`` ... (N, 4 A, H_l, W_l) deltas,
        ``"mask_p2_0"`` ... (N, S^2, H_l, W_l) logits, S = 2^l V, l counted from P2, or V.
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
    ):
        super().__init__()
        if bipyramid and not aligned:
            raise ValueError("bipyramid=True needs aligned=True")
        self.windows, self.aligned, self.bipyramid = tuple(windows), aligned, bipyramid
        for name, width in (("cls_subnet", channels), ("bbox_subnet", mask_channels), ("mask_subnet", mask_channels)):
            layers = []
            for i in range(num_convs):
                layers += [DenseHead.last(channels if i == 0 else width, width), nn.ReLU()]
            setattr(self, name, nn.Sequential(*layers))
        self.cls_score = DenseHead.last(channels, len(windows) * num_classes, PRIOR_BIAS)
        self.bbox_pred = DenseHead.last(mask_channels, len(windows) * 4)
        for side in windows:
            predict = nn.Conv2d(mask_channels, side**2, 1)
            nn.init.normal_(predict.weight, std=0.01)
            nn.init.zeros_(predict.bias)
            setattr(self, f"mask_pred_{side:02d}", predict)
        if bipyramid:
            self.mask_fuse = nn.Sequential(DenseHead.last(mask_channels, mask_channels), nn.ReLU())

    def forward(self, maps):
        found, first = {}, self.mask_subnet(maps["p2"])
        height, width = map_size(first)
        for i, (level, x) in enumerate(maps.items()):
            found[f"cls_{level}"] = self.cls_score(self.cls_subnet(x))
            found[f"reg_{level}"] = self.bbox_pred(self.bbox_subnet(x))
            y = first if i == 0 else self.mask_subnet(x)
            if self.bipyramid and i > 0:
                rows, columns = map_size(x)
                y = resize_bilinear(y, (rows * 2**i, columns * 2**i))[:, :, :height, :width]
            y = self.mask_fuse(y + first) if self.bipyramid else y
            for a, side in enumerate(self.windows):
                logits = getattr(self, f"mask_pred_{side:02d}")(y)
                if self.aligned:
                    logits = swap_align_to_nat(logits, 2**i if self.bipyramid else 1)
                found[f"mask_{level}_{a}"] = logits
        return found


class TensorMask(nn.Module):
    """Pyramid and head.

    Args:
        layers, planes: of the residual network.
        num_classes: classes K.
        out_channels: channels of the levels.
        mask_channels, num_convs, windows, aligned, bipyramid: of :class:`TensorMaskHead`.

    Inputs: (N, 3, H, W) float, normalised.
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
    ):
        super().__init__()
        self.backbone = ResNetFPN(layers, planes, out_channels, first=2, average=True, top_of_map=True)
        self.head = TensorMaskHead(out_channels, num_classes, mask_channels, num_convs, windows, aligned, bipyramid)

    def forward(self, images):
        return self.head(self.backbone(images))


def rows(outputs, key: str, windows: int):
    """All maps ``key_p2`` ... as rows of windows, cell by cell: (N, sum of H W A, C)."""
    found = [outputs[f"{key}_{level}"] for level in LEVELS]
    found = [x.unflatten(1, (windows, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in found]
    return torch.cat(found, 1)


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
    losses = (F.relu(shifted) + F.softplus(-shifted.abs())) / gamma
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
    padded = F.pad(F.pad(masks, (1, 1, 1, 1), mode="replicate"), (before - 1, after[1] - 1, before - 1, after[0] - 1))
    cells = F.avg_pool2d(padded, square)
    pixel = torch.arange(fine, device=masks.device)
    first = (fine * square // 2 - shift) // square  # squares between the middle of a window and its beginning
    lines = []
    for place, n in ((row, count[0]), (column, count[1])):
        line = (place * scale - first)[..., None] + pixel + (0 if shift else 1)  # (N, Q, S)
        lines.append((line.clamp(0, n - 1), (line >= 0) & (line < n)))
    (y, y_inside), (x, x_inside) = lines
    index = (y[..., None] * count[1] + x[:, :, None]).flatten(2)
    inside = (y_inside[..., None] & x_inside[:, :, None]).flatten(2)
    found = take_rows(cells.flatten(2), owner).gather(2, index)
    return ((found >= 0.5) & inside).to(masks.dtype)


class TensorMaskCriterion(nn.Module):
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
    ):
        super().__init__()
        self.windows, self.max_masks, self.alpha, self.gamma = tuple(windows), max_masks, alpha, gamma
        self.mask_weight, self.positive_weight, self.coder = mask_weight, positive_weight, DeltaCoder(STDS)
        self.bipyramid = bipyramid

    def forward(self, outputs, targets):
        logits, deltas = (rows(outputs, key, len(self.windows)) for key in ("cls", "reg"))
        places = window_places(outputs, self.windows)
        anchors = torch.from_numpy(places["anchor"]).to(logits)
        boxes = targets["boxes"].to(logits.dtype)
        owner, positive = self.assign(boxes, targets["valid"], anchors, places["level"])
        count = torch.clamp(positive.sum(), min=1).to(logits.dtype)

        every = torch.arange(logits.shape[2], device=logits.device)
        labels = take_rows(targets["labels"], owner)
        wanted = ((labels[..., None] == every) & positive[..., None]).to(logits.dtype)
        classification = focal_star(logits, wanted, self.alpha, self.gamma).sum() / count
        # a window without an object is its own target: finite, and masked
        wanted = self.coder.encode(torch.where(positive[..., None], take_rows(boxes, owner), anchors), anchors)
        regression = torch.where(positive, l1_loss(deltas, wanted), 0.0).sum() / count

        masks, total, step = targets["masks"].to(logits.dtype), 0.0, len(self.windows)
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
        stride = torch.from_numpy(STRIDE * 2.0**level).to(anchors)
        boxes, valid = boxes[:, :, None], valid[..., None]
        contained = (anchors[:, :2] <= boxes[..., :2]).all(-1) & (anchors[:, 2:] >= boxes[..., 2:]).all(-1)
        largest = (boxes[..., 2:] - boxes[..., :2]).amax(-1)  # (N, M, 1)
        least = STRIDE * (min(self.windows) - 1.0)
        similar = anchors[:, 2] - anchors[:, 0] - stride <= torch.clamp(2 * largest, min=least)
        offset = (boxes[..., :2] + boxes[..., 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
        near = offset.square().sum(-1) <= stride.square()
        claimed = contained & similar & near & valid  # (N, M, P)
        return argmax(claimed.to(anchors.dtype), 1), claimed.sum(1) == 1

    def of_masks(self, outputs, masks, owner, positive, level: int, window: int, side: int):
        """Sum of the mean cross-entropies of the first masks of a level and a size of windows."""
        logits = outputs[f"mask_{LEVELS[level]}_{window}"]
        width, (cells, drawn) = logits.shape[3], first_positives(positive, self.max_masks)
        found = take_rows(logits.flatten(2).transpose(1, 2), cells)  # (N, Q, S^2)
        row = torch.div(cells, width, rounding_mode="floor")
        wanted = window_masks(masks, take_rows(owner, cells), row, cells - row * width, level, side, self.bipyramid)
        tail = F.softplus(-found.abs())
        losses = self.positive_weight * wanted * (F.relu(-found) + tail) + (1 - wanted) * (F.relu(found) + tail)
        return torch.where(drawn, losses.mean(2), 0.0).sum()


class TensorMaskPostProcess(nn.Module):
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
    ):
        super().__init__()
        self.windows, self.score_threshold, self.candidates = tuple(windows), score_threshold, candidates
        self.iou_threshold, self.detections, self.mask_threshold = iou_threshold, detections, mask_threshold
        self.coder, self.bipyramid = DeltaCoder(STDS), bipyramid

    def forward(self, outputs, input_size):
        scores = torch.sigmoid(rows(outputs, "cls", len(self.windows)))
        places = window_places(outputs, self.windows)
        anchors = torch.from_numpy(places["anchor"]).to(scores)
        boxes = self.coder.decode(rows(outputs, "reg", len(self.windows)), anchors)
        boxes = clip_boxes(boxes, torch.as_tensor(input_size, device=boxes.device))
        classes = scores.shape[2]
        scores, pairs = top_k(scores.flatten(1), min(self.candidates, scores.shape[1] * classes))
        index = torch.div(pairs, classes, rounding_mode="floor")
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
        flat = torch.cat([x.flatten(1) for x in maps], 1)
        start = np.cumsum([0] + [math.prod(x.shape[1:]) for x in maps])
        start = start[places["level"] * len(self.windows) + places["window"]]
        scale = 2 ** places["level"]
        fine = np.array(self.windows)[places["window"]] * scale
        height, width = (
            np.array([outputs[f"cls_{level}"].shape[axis] for level in LEVELS])[places["level"]] for axis in (2, 3)
        )
        shift = 2 * fine % STRIDE
        first = [places[key] * scale - (2 * fine - shift) // STRIDE + (shift == 0) for key in ("row", "column")]
        known = np.stack([start, fine, height * width, places["row"] * width + places["column"], shift, *first], -1)
        known = torch.from_numpy(known).to(index.device)[index][..., None, None]
        start, fine, pitch, cell, shift, top, left = known.unbind(2)  # (N, D, 1, 1) each

        count = [-(-(n + 5) // STRIDE) for n in size]
        y, x = (torch.arange(n, device=index.device) for n in count)
        y, x = y[:, None] - top, x - left  # (N, D, h, 1), (N, D, 1, w)
        inside = (y >= 0) & (y < fine) & (x >= 0) & (x < fine)
        place = torch.where(inside, start + (y * fine + x) * pitch + cell, 0)  # mirror: those of a pixel
        cells = torch.where(inside, torch.sigmoid(take_rows(flat, place.flatten(1)).view(place.shape)), 0.0)
        fine = resize_bilinear(cells, (STRIDE * count[0], STRIDE * count[1]))
        whole = fine[:, :, STRIDE : STRIDE + size[0], STRIDE : STRIDE + size[1]]
        halved = fine[:, :, STRIDE // 2 : STRIDE // 2 + size[0], STRIDE // 2 : STRIDE // 2 + size[1]]
        return torch.where(shift > 0, halved, whole)

    def pasted(self, outputs, places, index, size: tuple[int, int]):
        """The same as :meth:`drawn` of masks that have as many pixels on all levels."""
        anchors = torch.from_numpy(places["anchor"]).to(outputs["cls_p2"])[index]
        window, total = torch.from_numpy(places["window"]).to(index.device)[index], 0.0
        place = torch.div(index, len(self.windows), rounding_mode="floor")
        for a, side in enumerate(self.windows):
            logits = take_rows(torch.cat([map_rows(outputs[f"mask_{level}_{a}"]) for level in LEVELS], 1), place)
            masks = paste_masks(torch.sigmoid(logits).unflatten(2, (side, side)), anchors, size, "mmdet")
            total = total + torch.where((window == a)[..., None, None], masks, 0.0)
        return total


def tensormask_r50_fpn(layers=(3, 4, 6, 3), **options) -> TensorMask:
    return TensorMask(layers, **options)
