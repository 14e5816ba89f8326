"""torchvision's FCOS: distances in strides from the corners of the cells, and boxes with equal weights.

"FCOS: Fully Convolutional One-Stage Object Detection", 2019, arXiv:1904.01355.
Parameter names: torchvision ``detection/fcos.py`` (BSD-3). Class 0 is the background and never a target.
What to look at: ``fcos.py`` has the paper's variant and its later one; this one differs in points, ranges, divisors and
scores.

Mirror notes:
- NHWC here, NCHW in PyTorch: there the heads' maps are transposed before they become rows of cells, here not.
"""

import functools
import math

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.anchors import grid_anchors
from tf_impl.boxes.coders import clip_boxes
from tf_impl.boxes.iou import box_area
from tf_impl.boxes.points import boxes_of_distances, distances_to_sides
from tf_impl.boxes.results import results
from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.detection.fcos import centerness
from tf_impl.detection.retinanet import BackboneWithFPN
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.model import Model
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.normalization import GroupNormalization
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import map_rows, take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.box import giou_loss
from tf_impl.losses.dense import binary_cross_entropy
from tf_impl.losses.focal import sigmoid_focal_loss
from tf_impl.necks.fpn import FeaturePyramidNetwork

__all__ = [
    "TorchvisionFCOS",
    "TorchvisionFCOSCriterion",
    "TorchvisionFCOSHead",
    "TorchvisionFCOSPostProcess",
    "fcos_resnet50_fpn",
]

LEVELS = ("p3", "p4", "p5", "p6", "p7")
STRIDES = (8, 16, 32, 64, 128)
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)  # logit of every class before training: probability 0.01
RADIUS = 1.5  # radius of the cells around an object's centre that belong to it, in anchor sizes
LARGE = 1e8  # from which areas are subtracted, in single precision


CONV = functools.partial(Conv2D, padding=1, kernel_initializer=SmallNormal, bias_initializer="zeros")


def tower(channels: int, num_convs: int, norm_groups: int) -> keras.Sequential:
    """3x3 convolutions with group normalisation and ReLU, one after the other."""
    layers = []
    for _ in range(num_convs):
        layers += [CONV(channels, 3), GroupNormalization(norm_groups), keras.layers.ReLU()]
    return keras.Sequential(layers)


@keras.saving.register_keras_serializable("diptych")
class FCOSClassificationHead(keras.layers.Layer):
    """Class logits of every cell.  Dict of (N, H, W, C) -> (N, sum of H * W, K)."""

    def __init__(self, channels: int, num_classes: int, num_convs: int, norm_groups: int, **kwargs):
        super().__init__(**kwargs)
        self.conv = tower(channels, num_convs, norm_groups)
        self.cls_logits = CONV(num_classes, 3, bias_initializer=keras.initializers.Constant(PRIOR_BIAS))

    def call(self, maps):
        return tf.concat([map_rows(self.cls_logits(self.conv(x))) for x in maps.values()], 1)


@keras.saving.register_keras_serializable("diptych")
class FCOSRegressionHead(keras.layers.Layer):
    """Distances and centredness of every cell.  Dict of (N, H, W, C) -> (N, sum of H * W, 4), (N, sum of H * W, 1)."""

    def __init__(self, channels: int, num_convs: int, norm_groups: int, **kwargs):
        super().__init__(**kwargs)
        self.conv = tower(channels, num_convs, norm_groups)
        self.bbox_reg = CONV(4, 3)
        self.bbox_ctrness = CONV(1, 3)

    def call(self, maps):
        maps = [self.conv(x) for x in maps.values()]
        distances = tf.concat([map_rows(tf.nn.relu(self.bbox_reg(x))) for x in maps], 1)
        return distances, tf.concat([map_rows(self.bbox_ctrness(x)) for x in maps], 1)


@keras.saving.register_keras_serializable("diptych")
class TorchvisionFCOSHead(keras.layers.Layer):
    """Two towers, shared by all levels.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs: convolutions of each tower.
        norm_groups: groups of their normalisation.

    Inputs: dict of levels (N, H, W, C).
    Returns: class logits (N, sum of H * W, K), distances (N, sum of H * W, 4), centredness (N, sum of H * W, 1).
    """

    def __init__(self, channels: int, num_classes: int, num_convs: int = 4, norm_groups: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.classification_head = FCOSClassificationHead(channels, num_classes, num_convs, norm_groups)
        self.regression_head = FCOSRegressionHead(channels, num_convs, norm_groups)

    def call(self, maps):
        return self.classification_head(maps), *self.regression_head(maps)


@keras.saving.register_keras_serializable("diptych")
class TorchvisionFCOS(Model):
    """Residual network, pyramid P3 to P7, head.

    Args:
        layers, planes, norm, frozen_stages: of the residual network, see :class:`ResNet`. The published weights need
            ``norm="frozen"``.
        num_classes: classes K, including the background (0).
        out_channels: channels of the levels.
        num_convs, norm_groups: of the head, see :class:`TorchvisionFCOSHead`.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: ``"cls_logits"`` (N, P, K), ``"bbox_regression"`` (N, P, 4) left, top, right, bottom, in sizes of the
        anchors, ``"bbox_ctrness"`` (N, P, 1) logits; ``"anchors_p3"`` to ``"anchors_p7"`` (P_l, 4) xyxy in pixels, a
        square around the corner of each cell; ``"image_size"`` (2,) int64, H and W.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        norm: str = "batch",
        frozen_stages: int = -1,
        num_classes: int = 91,
        out_channels: int = 256,
        num_convs: int = 4,
        norm_groups: int = 32,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        body = ResNet(
            Bottleneck,
            layers,
            planes=planes,
            norm=norm,
            frozen_stages=frozen_stages,
            features_only=True,
            out_indices=(2, 3, 4),
        )
        self.backbone = BackboneWithFPN(body, FeaturePyramidNetwork(body.channels, out_channels, "on_output"))
        self.head = TorchvisionFCOSHead(out_channels, num_classes, num_convs, norm_groups)

    def call(self, images, training=False):
        maps = self.backbone(images, training=training)
        logits, distances, central = self.head(maps)
        outputs = {"cls_logits": logits, "bbox_regression": distances, "bbox_ctrness": central}
        height, width = map_size(images)
        for (level, x), stride in zip(maps.items(), STRIDES):
            rows, columns = map_size(x)
            half = stride / 2
            cell = np.array([[-half, -half, half, half]])
            # NOTE: not the nominal stride if the image is not a multiple of it
            anchors = grid_anchors(cell, (rows, columns), (height // rows, width // columns))
            outputs[f"anchors_{level}"] = tf.constant(anchors, x.dtype)
        return {**outputs, "image_size": tf.constant([height, width], tf.int64)}


def middles(anchors):
    """Centres (P, 2) and sizes (P,) of square anchors (P, 4)."""
    return (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]


@keras.saving.register_keras_serializable("diptych")
class TorchvisionFCOSCriterion(keras.layers.Layer):
    """Focal loss of the classes, GIoU of the boxes, cross-entropy of the centredness, divided by the number of matched
    cells.

    A cell belongs to the smallest object that contains it, whose centre is near, and whose largest distance is between
    four and eight sizes of its anchor; the first level has no lower limit, the last no upper one.

    Args:
        alpha, gamma: of the focal loss.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"classification"``, ``"bbox_regression"``, ``"bbox_ctrness"``, ``"total"``.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        self.alpha, self.gamma = alpha, gamma

    def call(self, outputs, targets):
        logits, distances, central = (outputs[key] for key in ("cls_logits", "bbox_regression", "bbox_ctrness"))
        levels = [outputs[f"anchors_{level}"] for level in LEVELS]
        points, sizes = middles(tf.concat(levels, 0))
        first, last = levels[0].shape[0], levels[-1].shape[0]
        zero, dtype = tf.zeros([], logits.dtype), logits.dtype
        least = tf.concat((tf.zeros(first, dtype), 4 * sizes[first:]), 0)
        most = tf.concat((8 * sizes[: sizes.shape[0] - last], tf.fill([last], tf.constant(dtype.max, dtype))), 0)

        boxes = tf.cast(targets["boxes"], dtype)
        sides = distances_to_sides(points, boxes[:, :, None])  # (N, M, P, 4)
        away = points - ((boxes[..., :2] + boxes[..., 2:]) / 2)[:, :, None]
        away, largest = tf.reduce_max(tf.abs(away), -1), tf.reduce_max(sides, -1)
        mine = (away < RADIUS * sizes) & (tf.reduce_min(sides, -1) > 0) & (largest > least) & (largest < most)
        # NOTE: in single precision, where areas that differ by less than 8 are equal, and the first object wins
        rank = LARGE - tf.cast(box_area(boxes), tf.float32)
        rank = tf.where(mine & targets["valid"][..., None], rank[..., None], tf.zeros([], tf.float32))
        index, positive = argmax(rank, 1), tf.reduce_max(rank, 1) >= 1e-5  # (N, P)

        labels = take_rows(targets["labels"], index)
        kinds = tf.range(logits.shape[-1], dtype=labels.dtype)
        wanted = tf.cast((labels[..., None] == kinds) & positive[..., None], dtype)
        count = tf.maximum(tf.reduce_sum(tf.cast(positive, dtype)), 1.0)
        classification = tf.reduce_sum(sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma)) / count

        # a cell without an object has its anchor for prediction and target: finite, and masked
        wanted = distances_to_sides(points, take_rows(boxes, index)) / sizes[:, None]
        wanted = tf.where(positive[..., None], wanted, tf.constant(0.5, dtype))
        distances = tf.where(positive[..., None], distances, tf.constant(0.5, dtype))
        found, goal = (boxes_of_distances(points, x * sizes[:, None]) for x in (distances, wanted))
        regression = tf.reduce_sum(tf.where(positive, giou_loss(found, goal), zero)) / count
        centre = binary_cross_entropy(central[..., 0], centerness(wanted))
        centre = tf.reduce_sum(tf.where(positive, centre, zero)) / count
        return {
            "classification": classification,
            "bbox_regression": regression,
            "bbox_ctrness": centre,
            "total": classification + regression + centre,
        }


@keras.saving.register_keras_serializable("diptych")
class TorchvisionFCOSPostProcess(keras.layers.Layer):
    """The best boxes of every image, scored by the root of the class's probability times the centredness.

    Args:
        score_threshold: pairs of cell and class of at most this score are dropped.
        candidates: pairs kept per level.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.

    Inputs: ``outputs`` of the model; ``"image_size"`` may also be (N, 2), for images that were padded on the right and
        at the bottom.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.2,
        candidates: int = 1000,
        iou_threshold: float = 0.6,
        detections: int = 100,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections

    def call(self, outputs):
        anchors = [outputs[f"anchors_{level}"] for level in LEVELS]
        classes = outputs["cls_logits"].shape[-1]
        counts = [of_level.shape[0] * classes for of_level in anchors]
        scores = tf.sqrt(tf.sigmoid(outputs["cls_logits"]) * tf.sigmoid(outputs["bbox_ctrness"]))
        found, start = [], 0
        for level in tf.split(tf.reshape(scores, (-1, sum(counts))), counts, 1):
            best, pairs = top_k(level, min(self.candidates, level.shape[1]))
            found.append((best, pairs + start))
            start += level.shape[1]
        scores, pairs = (tf.concat(parts, 1) for parts in zip(*found))
        index = pairs // classes
        labels, valid = pairs - index * classes, scores > self.score_threshold
        points, sizes = middles(tf.concat(anchors, 0))
        boxes = boxes_of_distances(points, outputs["bbox_regression"] * sizes[:, None])
        boxes = clip_boxes(take_rows(boxes, index), outputs["image_size"])
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def fcos_resnet50_fpn(layers=(3, 4, 6, 3), **options) -> TorchvisionFCOS:
    return TorchvisionFCOS(layers=layers, **options)
