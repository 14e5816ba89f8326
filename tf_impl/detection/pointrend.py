"""PointRend: masks that are coarse at first, and recomputed at the points where they are least certain.

"PointRend: Image Segmentation as Rendering", 2019, arXiv:1912.08193.
Parameter names: mmdet ``roi_heads/point_rend_roi_head.py``, ``mask_heads/coarse_mask_head.py``,
``mask_heads/mask_point_head.py`` (Apache-2.0). A point's features are the finest level and the coarse mask there. Masks
are upsampled by two, and after each step some of their cells are replaced.

Mirror notes:
- NHWC here, NCHW in PyTorch; points precede the channels here, follow them there.
- Keras infers the widths of the maps.
"""

import keras
import tensorflow as tf

from tf_impl.detection._masks import SHARE, MaskCriterion, MaskPostProcess
from tf_impl.detection._two_stage import of_class
from tf_impl.detection.faster_rcnn import StandardRoIHead, TwoStageDetector, TwoStagePostProcess, pyramid_detector
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv1D
from tf_impl.layers.linear import Dense
from tf_impl.layers.precision import single
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.dense import binary_cross_entropy
from tf_impl.rois.box_heads import box_rows
from tf_impl.rois.extractors import image_index
from tf_impl.rois.points import box_points, cell_points, halton, point_sample, replace_points

__all__ = [
    "CoarseMaskHead",
    "MaskPointHead",
    "MaskPostProcess",
    "PointRendCriterion",
    "PointRendRoIHead",
    "SimpleRoIExtractor",
    "point_rend_r50_caffe_fpn",
]

FINE, STRIDE = "p2", 4  # the level that points sample
IMPORTANT = 0.75  # of the points in training are the least certain ones


def flat(x, axis: int):
    """Merge an axis with the next one; ``axis`` is 0 or 1."""
    return tf.reshape(x, (-1, *x.shape[2:]) if axis == 0 else (-1, x.shape[1] * x.shape[2], *x.shape[3:]))


@keras.saving.register_keras_serializable("diptych")
class SimpleRoIExtractor(keras.layers.Layer):
    """The value of the finest level in the middle of every bin.

    Args:
        output_size: bins of a box in each direction, B.

    Inputs: dict of maps (N, H, W, C); boxes (N, R, 4) xyxy in pixels.
    Returns: (N * R, B, B, C).
    """

    def __init__(self, output_size: int, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.output_size = output_size

    def call(self, maps, boxes):
        size = self.output_size
        index = tf.broadcast_to(tf.range(size**2, dtype=tf.int64), (*tf.unstack(tf.shape(boxes))[:2], size**2))
        found = fine_features(maps, boxes, cell_points(index, (size, size), boxes.dtype))
        return tf.reshape(found, (-1, size, size, found.shape[-1]))


def fine_features(maps, boxes, points):
    """The finest level's features at points of boxes.

    Args:
        maps: dict of levels (N, H, W, C).
        boxes: (N, R, 4) xyxy in pixels.
        points: (N, R, P, 2) shares of the boxes.

    Returns:
        (N * R, P, C).
    """
    x = tf.cast(maps[FINE], boxes.dtype)
    height, width = map_size(x)
    size = tf.cast(tf.stack([STRIDE * width, STRIDE * height]), x.dtype)
    places = box_points(tf.stop_gradient(boxes), points) / size
    if points.shape[1] is None:  # in a graph for any number of given boxes, each has its own map
        return point_sample(tf.gather(x, image_index(boxes)), flat(places, 0))
    found = point_sample(x, flat(places, 1))  # (N, R * P, C)
    return tf.reshape(found, (-1, points.shape[2], x.shape[-1]))


@keras.saving.register_keras_serializable("diptych")
class CoarseMaskHead(keras.layers.Layer):
    """A convolution that halves the size, two linear layers, logits of every cell and class.

    Args:
        filters: of the convolution.
        num_classes: classes K.
        units: width of the linear layers.
        size: height and width B of the features.

    x: (R, B, B, C) -> (R, B / 2, B / 2, K).
    """

    def __init__(self, filters: int, num_classes: int, units: int = 1024, size: int = 14, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.size = num_classes, size // 2
        self.downsample_conv = ConvModule(filters, 2, strides=2)
        # mirror: infers the widths
        options = {"activation": "relu", "kernel_initializer": "glorot_uniform", "bias_initializer": "zeros"}
        self.fcs = [Dense(units, **options) for _ in range(2)]
        constant = keras.initializers.Constant(0.001)
        self.fc_logits = Dense(num_classes * self.size**2, kernel_initializer=constant, bias_initializer="zeros")

    def call(self, x):
        x = box_rows(self.downsample_conv(x))
        for layer in self.fcs:
            x = layer(x)
        logits = tf.reshape(self.fc_logits(x), (-1, self.num_classes, self.size, self.size))
        return tf.transpose(logits, (0, 2, 3, 1))


@keras.saving.register_keras_serializable("diptych")
class MaskPointHead(keras.layers.Layer):
    """Pointwise linear layers, each of which sees the coarse logits again.

    Args:
        num_classes: classes K.
        filters, num_fcs: width and number of the layers.

    Inputs: fine features (R, P, C), coarse logits (R, P, K).
    Returns: logits (R, P, K).
    """

    def __init__(self, num_classes: int, filters: int = 256, num_fcs: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.fcs = [ConvModule(filters, 1, conv=Conv1D) for _ in range(num_fcs)]
        normal = keras.initializers.RandomNormal(stddev=0.001)
        self.fc_logits = Conv1D(num_classes, 1, kernel_initializer=normal, bias_initializer="zeros")

    def call(self, fine, coarse):
        x = fine
        for layer in self.fcs:
            x = layer(tf.concat([x, coarse], -1))
        return self.fc_logits(tf.concat([x, coarse], -1))


@keras.saving.register_keras_serializable("diptych")
class PointRendRoIHead(StandardRoIHead):
    """The second stage with refined masks.

    Args:
        num_classes, units, samples: see :class:`StandardRoIHead`.
        mask_filters: width of the convolution and of the points' layers.
        points, oversampling: points per box that the losses are computed at, and the factor of the candidates.
        subdivisions, subdivision_points: how often masks are doubled, and how many cells are replaced each time, at
            most.
        pairs, detections: of the best boxes, see :class:`TwoStagePostProcess`.

    Inputs: as for :class:`RoIHead`; ``targets`` may hold ``"point_candidates"`` (N, P, oversampling * points, 2) and
        ``"point_choices"`` (N, P, points - 3 / 4 points, 2), shares of the boxes, instead of fixed ones.
    Returns: as for :class:`RoIHead`; with targets ``"mask_logits"`` (N, P, 7, 7) and ``"point_logits"`` (N, P, points)
        of the objects' classes for the first P proposals, all positive ones among them, and ``"points"``
        (N, P, points, 2) in pixels; for given proposals ``"mask_logits"`` (N, P, K, 7, 7), which are coarse, and
        ``"refined_logits"`` (N, P, S, S) of the most probable classes, with S = 7 * 2 ** subdivisions; otherwise the
        best boxes, ``"boxes"``, ``"scores"``, ``"labels"``, ``"valid"``, ``"mask_logits"`` (N, D, S, S) of their
        classes.
    """

    def __init__(
        self,
        num_classes: int,
        units: int = 1024,
        samples: int = 512,
        mask_filters: int = 256,
        points: int = 196,
        oversampling: int = 3,
        subdivisions: int = 5,
        subdivision_points: int = 784,
        pairs: int = 4096,
        detections: int = 100,
        **kwargs,
    ):
        super().__init__(num_classes, units, samples=samples, low_quality="forced", **kwargs)
        self.points, self.important, self.oversampling = points, int(IMPORTANT * points), oversampling
        self.subdivisions, self.subdivision_points = subdivisions, subdivision_points
        self.postprocess = TwoStagePostProcess("mmdet", candidates=pairs, detections=detections)
        self.mask_roi_extractor = SimpleRoIExtractor(14)
        self.mask_head = CoarseMaskHead(mask_filters, num_classes, units)
        self.point_head = MaskPointHead(num_classes, mask_filters)

    def segment(self, maps, boxes):
        """Coarse logits (N, R, K, 7, 7) of boxes (N, R, 4)."""
        logits = self.mask_head(self.mask_roi_extractor(maps, boxes))
        logits = tf.transpose(logits, (0, 3, 1, 2))
        return tf.reshape(logits, (-1, boxes.shape[1] or tf.shape(boxes)[1], *logits.shape[1:]))

    def call(self, maps, proposals, image_size, targets=None, given: bool = False):
        found = super().call(maps, proposals, image_size, targets, given)
        if targets is not None:
            return {**found, **self.learn(maps, found, targets)}
        if given:
            coarse = single(self.segment(maps, proposals))
            labels = argmax(found["class_logits"][..., :-1])
            return {**found, "mask_logits": coarse, "refined_logits": self.refine(maps, proposals, coarse, labels)}
        found |= self.postprocess({**found, "image_size": image_size})
        logits = single(self.segment(maps, found["boxes"]))
        return {**found, "mask_logits": self.refine(maps, found["boxes"], logits, found["labels"])}

    def point_logits(self, maps, boxes, coarse, labels, points):
        """Logits (N, R, P) of one class at points (N, R, P, 2) of boxes, given the coarse ones (N, R, K, 7, 7)."""
        fine, rows = fine_features(maps, boxes, points), flat(points, 0)
        coarse = tf.transpose(flat(coarse, 0), (0, 2, 3, 1))
        logits = single(tf.transpose(self.point_head(fine, point_sample(coarse, rows)), (0, 2, 1)))  # (N * R, K, P)
        logits = tf.reshape(logits, (-1, points.shape[1] or tf.shape(points)[1], *logits.shape[1:]))
        return of_class(logits, labels)

    def learn(self, maps, found, targets):
        """What the losses of masks are computed from."""
        boxes = found["proposals"][:, : int(self.samples * SHARE)]
        labels = take_rows(targets["labels"], found["matched"][:, : boxes.shape[1]])
        coarse = single(self.segment(maps, boxes))
        logits = of_class(coarse, labels)  # (N, P, 7, 7)
        points = self.choose(tf.stop_gradient(logits), targets)
        return {
            "mask_logits": logits,
            "point_logits": self.point_logits(maps, boxes, coarse, labels, points),
            "points": box_points(boxes, points),
        }

    def choose(self, logits, targets):
        """The least certain of many points, and some others.  Logits (N, P, 7, 7) -> (N, P, points, 2)."""
        shape = (*tf.unstack(tf.shape(logits))[:2],)
        count, others = self.oversampling * self.points, self.points - self.important
        both = tf.constant(halton(count + others), logits.dtype)
        candidates, choices = (tf.broadcast_to(part, (*shape, *part.shape)) for part in (both[:count], both[count:]))
        candidates = targets.get("point_candidates", candidates)
        choices = targets.get("point_choices", choices)
        rows = flat(candidates, 0)
        certainty = tf.abs(point_sample(flat(logits, 0)[..., None], rows)[..., 0])
        index = top_k(-certainty, self.important)[1]
        return tf.concat([tf.reshape(take_rows(rows, index), (*shape, self.important, 2)), choices], 2)

    def refine(self, maps, boxes, coarse, labels):
        """Logits (N, R, S, S) of one class, from coarse ones (N, R, K, 7, 7) of all."""
        count = boxes.shape[1] or tf.shape(boxes)[1]
        x = flat(of_class(coarse, labels), 0)  # (N * R, 7, 7)
        for step in range(self.subdivisions):
            size = 2 * x.shape[1], 2 * x.shape[2]
            x = resize_bilinear(x[..., None], size)[..., 0]
            cells = size[0] * size[1]
            if self.subdivision_points >= 4 * cells and step < self.subdivisions - 1:
                continue
            index = top_k(-tf.abs(tf.reshape(x, (-1, cells))), min(self.subdivision_points, cells))[1]
            points = tf.reshape(cell_points(index, size, x.dtype), (-1, count, index.shape[1], 2))
            logits = self.point_logits(maps, boxes, coarse, labels, points)
            x = replace_points(x, index, flat(logits, 0))
        return tf.reshape(x, (-1, count, *x.shape[1:]))


@keras.saving.register_keras_serializable("diptych")
class PointRendCriterion(MaskCriterion):
    """The losses of boxes, classes and coarse masks, and the cross-entropy of the points of positive proposals.

    Args:
        samples: see :class:`TwoStageCriterion`.

    Inputs: as for :class:`MaskCriterion`. A point's target is its object's mask there, interpolated bilinearly.
    Returns: as for :class:`MaskCriterion`, and ``"loss_point"``.
    """

    def __init__(self, samples: int = 256, **kwargs):
        super().__init__("mmdet", samples=samples, **kwargs)

    def call(self, outputs, targets):
        losses = super().call(outputs, targets)
        logits, points, masks = outputs["point_logits"], outputs["points"], targets["masks"]
        matched = outputs["matched"][:, : logits.shape[1]]
        height, width = masks.shape[2:]
        places = flat(tf.stop_gradient(points), 1) / tf.constant([width, height], points.dtype)
        wanted = point_sample(tf.transpose(tf.cast(masks, logits.dtype), (0, 2, 3, 1)), places)  # (N, P * points, M)
        wanted = tf.reshape(wanted, (-1, *logits.shape[1:], wanted.shape[-1]))
        wanted = tf.transpose(wanted, (0, 1, 3, 2))
        positive = matched >= 0
        entropy = tf.reduce_mean(binary_cross_entropy(logits, of_class(wanted, matched)), -1)
        count = tf.maximum(tf.reduce_sum(tf.cast(positive, logits.dtype)), 1.0)
        loss = tf.reduce_sum(tf.where(positive, entropy, 0.0)) / count
        return {**losses, "loss_point": loss, "total": losses["total"] + loss}


def point_rend_r50_caffe_fpn(
    layers=(3, 4, 6, 3),
    stride_in_1x1: bool = True,
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    mask_channels: int = 256,
    points: int = 196,
    subdivisions: int = 5,
    subdivision_points: int = 784,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    pairs: int = 4096,
    detections: int = 100,
    **options,
) -> TwoStageDetector:
    head = PointRendRoIHead(
        num_classes,
        units,
        samples,
        mask_channels,
        points,
        subdivisions=subdivisions,
        subdivision_points=subdivision_points,
        pairs=pairs,
        detections=detections,
    )
    options["stride_in_1x1"] = stride_in_1x1
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)
