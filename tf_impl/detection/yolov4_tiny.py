"""YOLOv4-tiny: stages that send half of their channels through further convolutions, and two maps of anchors.

"YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020, arXiv:2004.10934; "Scaled-YOLOv4: Scaling Cross Stage
Partial Network", 2020, arXiv:2011.08036.
Parameter names: AlexeyAB/darknet ``cfg/yolov4-tiny.cfg`` (YOLO licence), see ``_darknet.py``; losses: its
``src/yolo_layer.c``, whose gradients of objects and classes are those of these losses; it computes those of boxes
differently.
What to look at: an object may belong to several anchors, and the middle anchor of the list belongs to both maps.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.centres import area, corners
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.results import results
from tf_impl.detection._darknet import DarknetConv
from tf_impl.detection.yolov3 import LEVELS, STRIDES, rows_of
from tf_impl.layers.model import Model
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.pooling import max_pool2d
from tf_impl.layers.resize import map_size, resize_nearest
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.box_iou import complete_iou
from tf_impl.losses.dense import binary_cross_entropy

__all__ = ["YOLOV4Tiny", "YOLOV4TinyCriterion", "YOLOV4TinyPostProcess", "yolov4_tiny"]

SHAPES = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))  # width and height of anchors in pixels
KINDS = ((3, 4, 5), (1, 2, 3))  # which of them the maps have, from coarse to fine
ANCHORS = tuple(tuple(SHAPES[kind] for kind in kinds) for kinds in KINDS)
SCALE = 1.05  # of the centres' sigmoids around the middle of the cell
STAGES = (2, 10, 18)  # indices of the first layers


@keras.saving.register_keras_serializable("diptych")
class YOLOV4Tiny(Model):
    """The network of the configuration file.

    Args:
        width: share of the published channels.
        num_classes: classes K.

    Inputs: (N, H, W, 3) float in [0, 1]; H and W multiples of 32.
    Returns: dict: ``"pred_p5"``, ``"pred_p4"`` (N, H', W', A (5 + K)): of every anchor x, y, w, h, object, classes.
    """

    def __init__(self, width: float = 1.0, num_classes: int = 80, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        layers = {0: (32, 3, 2), 1: (64, 3, 2)}
        for first, c in zip(STAGES, (64, 128, 256)):
            half = c // 2
            layers |= {first: (c, 3, 1), first + 2: (half, 3, 1), first + 3: (half, 3, 1), first + 5: (c, 1, 1)}
        layers |= {
            26: (512, 3, 1),
            27: (256, 1, 1),
            28: (512, 3, 1),
            29: None,
            32: (128, 1, 1),
            35: (256, 3, 1),
            36: None,
        }
        models, number = [], 0
        for i in range(max(layers) + 1):
            if i not in layers:
                models.append(keras.layers.Identity())
                continue
            number += 1
            if layers[i] is None:
                models.append(DarknetConv(3 * (5 + num_classes), 1, 1, number, plain=True))
            else:
                channels, *size = layers[i]
                models.append(DarknetConv(int(channels * width), *size, number))
        self.models = models

    def call(self, images, training=False):
        x = images
        for i in (0, 1):
            x = self.models[i](x, training=training)
        for first in STAGES:
            x, middle = self._stage(x, first, training)
        deep = self.models[27](self.models[26](x, training=training), training=training)
        coarse = self.models[29](self.models[28](deep, training=training), training=training)
        x = self.models[32](deep, training=training)
        x = tf.concat((resize_nearest(x, map_size(middle)), middle), -1)
        return {"pred_p5": coarse, "pred_p4": self.models[36](self.models[35](x, training=training), training=training)}

    def _stage(self, x, first: int, training):
        """A stage's map at half the size and twice the width, and the map before concatenation."""
        whole, one, two, last = (self.models[first + i] for i in (0, 2, 3, 5))
        x = whole(x, training=training)
        y = one(tf.split(x, 2, -1)[1], training=training)
        y = last(tf.concat((two(y, training=training), y), -1), training=training)
        return max_pool2d(tf.concat((x, y), -1), 2, 2), y


def boxes_of(rows, anchors, stride):
    """Boxes from rows (N, P, 5 + K), anchors (P, 4) and strides (P,) -> (N, P, 4) centre and size in pixels."""
    middle, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    centre = middle + (tf.sigmoid(rows[..., :2]) - 0.5) * SCALE * stride[:, None]
    return tf.concat((centre, tf.exp(rows[..., 2:4]) * size), -1)


@keras.saving.register_keras_serializable("diptych")
class YOLOV4TinyCriterion(keras.layers.Layer):
    """CIoU loss of boxes, cross-entropies of object and classes; sums divided by the batch's size.

    An object belongs to the anchor of the most similar shape in the cell of its centre, on every map that has this
    anchor, and to all others there that are similar enough. Where several objects share an anchor, all their boxes and
    classes count. Anchors whose prediction overlaps an object by more than ``threshold``, and that give some class more
    than 0.25, are not background.

    Args:
        threshold: as above.
        likeness: IoU of shapes from which on anchors other than the best belong to an object; 1 for none, 0.213 in
            the configuration of YOLOv4. If below 1, the losses of boxes are divided by the number of classes at their
            anchor.
        box_weight: of the CIoU loss.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_box"``, ``"loss_object"``, ``"loss_class"``, ``"total"``.
    """

    def __init__(self, threshold: float = 0.7, likeness: float = 1.0, box_weight: float = 0.07, **kwargs):
        super().__init__(**kwargs)
        self.threshold, self.likeness, self.box_weight = threshold, likeness, box_weight

    def call(self, outputs, targets):
        rows, anchors, stride = rows_of(outputs, ANCHORS)
        dtype, zero, count = rows.dtype, tf.zeros([], rows.dtype), rows.shape[1]
        boxes, labels = tf.cast(targets["boxes"], dtype), targets["labels"]
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]  # (N, M, 2)
        sizes = [map_size(outputs[f"pred_{level}"]) for level in LEVELS[:2]]
        height, width = (STRIDES[0] * n for n in sizes[0])
        image = tf.constant([width, height], dtype)
        valid = targets["valid"] & tf.reduce_all((size > 0) & (centre >= 0) & (centre < image), -1)
        size = tf.where(valid[..., None], size, tf.ones([], dtype))

        # (N, M, 6): which of the anchors in the cells of an object's centre are its own
        shapes, kinds = tf.constant(SHAPES, dtype), tf.constant(KINDS[0] + KINDS[1], tf.int64)
        shared = area(tf.minimum(size[:, :, None], shapes))  # one corner in common
        alike = shared / (area(size)[..., None] + area(shapes) - shared)
        mine = kinds == argmax(alike)[..., None]
        if self.likeness < 1:
            mine = mine | (tf.gather(alike, kinds, axis=-1) > self.likeness)
        mine, places, begin = mine & valid[..., None], [], 0
        for (h, w), step in zip(sizes, STRIDES):
            cell = tf.cast(tf.floor(tf.where(valid[..., None], centre, zero) / step), tf.int64)
            places.append(begin + 3 * (cell[..., 1:] * w + cell[..., :1]) + tf.range(3, dtype=tf.int64))
            begin += 3 * h * w
        most = 6 * boxes.shape[1]
        index, mine = tf.reshape(tf.concat(places, -1), (-1, most)), tf.reshape(mine, (-1, most))
        here = (tf.range(count, dtype=tf.int64) == index[..., None]) & mine[..., None]  # (N, 6 M, P)
        positive = tf.reduce_any(here, 1)

        found = boxes_of(rows, anchors, stride)
        predicted = tf.stop_gradient(corners(found))  # mirror: gradients are cut
        overlap = tf.reduce_max(tf.where(valid[..., None], pairwise_iou(boxes, predicted), zero), 1)
        confident = tf.reduce_max(tf.sigmoid(rows[..., 5:]), -1) > 0.25
        background = ~(positive | ((overlap > self.threshold) & confident))

        one_hot = tf.cast(tf.range(rows.shape[-1] - 5, dtype=labels.dtype) == labels[..., None], dtype)  # (N, M, K)
        classes = tf.matmul(tf.cast(here, dtype), tf.repeat(one_hot, 6, 1), transpose_a=True)
        classes = tf.minimum(classes, 1.0)
        relative = 1 / tf.tile(image, (2,))  # shapes are compared relative to the image, not in pixels
        wanted = tf.repeat(tf.concat((centre, size), -1), 6, 1) * relative
        losses = 1 - complete_iou(take_rows(found, index) * relative, tf.where(mine[..., None], wanted, 1.0))
        if self.likeness < 1:
            losses = losses / tf.maximum(take_rows(tf.reduce_sum(classes, -1), index), 1.0)
        present = binary_cross_entropy(rows[..., 4], tf.cast(positive, dtype))
        classes = binary_cross_entropy(rows[..., 5:], classes)
        losses = {
            "loss_box": self.box_weight * tf.reduce_sum(tf.where(mine, losses, zero)),
            "loss_object": tf.reduce_sum(tf.where(positive | background, present, zero)),
            "loss_class": tf.reduce_sum(tf.where(positive[..., None], classes, zero)),
        }
        batch = tf.cast(tf.shape(rows)[0], dtype)
        losses = {key: loss / batch for key, loss in losses.items()}
        return {**losses, "total": sum(losses.values())}


@keras.saving.register_keras_serializable("diptych")
class YOLOV4TinyPostProcess(keras.layers.Layer):
    """The best boxes of every image, scored by the probability of an object times that of its class, suppressed by
    class.

    Args:
        score_threshold: pairs of anchor and class of at most this score are dropped.
        candidates: pairs kept.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.25,
        candidates: int = 1000,
        iou_threshold: float = 0.45,
        detections: int = 100,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections

    def call(self, outputs):
        rows, anchors, stride = rows_of(outputs, ANCHORS)
        scores = tf.sigmoid(rows[..., 4:5]) * tf.sigmoid(rows[..., 5:])
        count, classes = scores.shape[1:]
        scores, pairs = top_k(tf.reshape(scores, (-1, count * classes)), min(self.candidates, count * classes))
        index = pairs // classes
        labels, valid = pairs - index * classes, scores > self.score_threshold
        boxes = take_rows(corners(boxes_of(rows, anchors, stride)), index)
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def yolov4_tiny(width: float = 1.0, num_classes: int = 80) -> YOLOV4Tiny:
    return YOLOV4Tiny(width, num_classes)
