"""Mask Scoring R-CNN: Mask R-CNN that predicts the IoU of each of its masks.

"Mask Scoring R-CNN", 2019, arXiv:1903.00241.
Parameter names: mmdet ``mask_heads/maskiou_head.py``, ``roi_heads/mask_scoring_roi_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch: the input of the first linear layer is transposed, because its weights are for NCHW.
- Initial values are given to the layers in Keras, filled in afterwards in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.detection._masks import SHARE, MaskCriterion, MaskPostProcess
from tf_impl.detection._two_stage import of_class
from tf_impl.detection.faster_rcnn import TwoStageDetector, pyramid_detector
from tf_impl.detection.mask_rcnn import StandardMaskRoIHead
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax
from tf_impl.rois.box_heads import box_rows
from tf_impl.rois.masks import mask_targets

__all__ = [
    "MaskIoUHead",
    "MaskScoringCriterion",
    "MaskScoringPostProcess",
    "MaskScoringRoIHead",
    "mask_iou_targets",
    "ms_rcnn_r50_caffe_fpn",
    "ms_rcnn_r50_fpn",
    "ms_rcnn_r101_caffe_fpn",
    "ms_rcnn_x101_32x4d_fpn",
]

EPS = 1e-7  # of an object's area, as in the reference
LOGIT = 0.5  # NOTE: the reference compares logits with its threshold of probabilities
WEIGHT = 0.5  # of the loss


@keras.saving.register_keras_serializable("diptych")
class MaskIoUHead(keras.layers.Layer):
    """The IoU of a mask with its object, for every class.

    Args:
        filters: of the convolutions.
        num_classes: classes K.
        units: width of the linear layers.

    Inputs: features (R, 14, 14, C), probabilities (R, 28, 28, 1).
    Returns: (R, K).
    """

    def __init__(self, filters: int, num_classes: int, units: int = 1024, **kwargs):
        super().__init__(**kwargs)
        # mirror: given to the layers
        initial = {"kernel_initializer": KaimingNormal, "bias_initializer": "zeros"}
        self.convs = [Conv2D(filters, 3, strides=1 + (i == 3), padding=1, **initial) for i in range(4)]
        initial = {"kernel_initializer": "lecun_uniform", "bias_initializer": "zeros"}
        self.fcs = [Dense(units, activation="relu", **initial) for _ in range(2)]
        normal = keras.initializers.RandomNormal(stddev=0.01)
        self.fc_mask_iou = Dense(num_classes, kernel_initializer=normal, bias_initializer="zeros")
        self.pool = MaxPooling2D(2, 2)

    def call(self, features, masks):
        x = tf.concat([features, self.pool(masks)], -1)
        for conv in self.convs:
            x = tf.nn.relu(conv(x))
        x = box_rows(x)  # mirror: transposed
        for layer in self.fcs:
            x = layer(x)
        return self.fc_mask_iou(x)


def mask_iou_targets(logits, proposals, matched, masks):
    """The IoU of every mask with its whole object, of which the proposal may contain only a part.

    Args:
        logits: (N, P, S, S) of the masks inside the proposals.
        proposals: (N, P, 4) xyxy in pixels.
        matched: (N, P), see :func:`sample_rois`.
        masks: (N, M, H, W), 0 or 1.

    Returns:
        (N, P) in [0, 1]; 0 where there is no object.
    """
    height, width = masks.shape[2:]
    wanted = mask_targets(proposals, matched, masks, logits.shape[3], True)
    masks = tf.cast(masks, logits.dtype)
    corners = tf.cast(tf.cast(tf.stop_gradient(proposals), tf.int64), logits.dtype)  # rounded down to whole pixels
    limit = tf.constant([width, height, width, height], corners.dtype)
    x1, y1, x2, y2 = tf.unstack(tf.minimum(tf.maximum(corners, 0.0), limit), num=4, axis=-1)
    rows, columns = _inside(y1, y2, height), _inside(x1, x2, width)  # (N, P, H), (N, P, W)
    areas = tf.reduce_sum(tf.matmul(rows[:, None], masks) * columns[:, None], -1)  # (N, M, P)
    areas = of_class(tf.transpose(areas, (0, 2, 1)), matched)
    share = areas / (take_rows(tf.reduce_sum(masks, (2, 3)), matched) + EPS)
    whole = tf.reduce_sum(wanted, (2, 3)) / (share + EPS)
    found = tf.cast(tf.stop_gradient(logits) > LOGIT, logits.dtype)
    overlap = tf.reduce_sum(found * wanted, (2, 3))
    union = tf.reduce_sum(found, (2, 3)) + whole - overlap
    iou = tf.where(union > 0, overlap, 0.0) / tf.where(union > 0, union, 1.0)
    return tf.where(matched >= 0, iou, 0.0)


def _inside(start, end, length):
    """1 for the pixels of a side, at least one.  (N, P) -> (N, P, length)."""
    pixel = tf.range(length, dtype=start.dtype)
    start, extent = start[..., None], tf.maximum(end - start, 1.0)[..., None]
    return tf.cast((pixel >= start) & (pixel < start + extent), start.dtype)


@keras.saving.register_keras_serializable("diptych")
class MaskScoringRoIHead(StandardMaskRoIHead):
    """The second stage with masks and their scores.

    Args:
        num_classes, units, samples, mask_filters, pairs, detections: see :class:`StandardMaskRoIHead`.

    Returns: as for :class:`StandardMaskRoIHead`, and ``"mask_ious"``, (N, P) for the masks of the first proposals, with
        targets, (N, P) for those of the most probable class of given proposals, or (N, D) for those of the best boxes.
    """

    def __init__(
        self,
        num_classes: int,
        units: int = 1024,
        samples: int = 512,
        mask_filters: int = 256,
        pairs: int = 4096,
        detections: int = 100,
        **kwargs,
    ):
        few = {"samples": samples, "pairs": pairs, "detections": detections}
        super().__init__(num_classes, units, mask_filters=mask_filters, **few, **kwargs)
        self.mask_iou_head = MaskIoUHead(mask_filters, num_classes, units)

    def call(self, maps, proposals, image_size, targets=None, given: bool = False):
        found = super().call(maps, proposals, image_size, targets, given)
        logits = found["mask_logits"]
        if targets is not None:
            boxes = found["proposals"][:, : int(self.samples * SHARE)]
            labels = take_rows(targets["labels"], found["matched"][:, : boxes.shape[1]])
        elif given:
            boxes, labels = found["proposals"], argmax(found["class_logits"][..., :-1])
            logits = of_class(logits, labels)
        else:
            boxes, labels = found["boxes"], found["labels"]
        masks = tf.sigmoid(logits)
        masks = tf.reshape(masks, (-1, *masks.shape[2:], 1))
        ious = self.mask_iou_head(self.mask_roi_extractor(maps, boxes), masks)
        ious = tf.reshape(ious, (-1, boxes.shape[1] or tf.shape(boxes)[1], ious.shape[-1]))
        return {**found, "mask_ious": of_class(ious, labels)}


@keras.saving.register_keras_serializable("diptych")
class MaskScoringCriterion(MaskCriterion):
    """The losses of Mask R-CNN, and the squared error of the masks' IoU where it is above 0.

    Args:
        samples: anchors per image that the losses are computed from.

    Inputs: as for :class:`MaskCriterion`.
    Returns: as for :class:`MaskCriterion`, and ``"loss_mask_iou"``.
    """

    def __init__(self, samples: int = 256, **kwargs):
        super().__init__("mmdet", samples=samples, **kwargs)

    def box_losses(self, outputs, targets):
        losses = super().box_losses(outputs, targets)
        count = outputs["mask_ious"].shape[1]
        rows = outputs["proposals"][:, :count], outputs["matched"][:, :count], targets["masks"]
        wanted = mask_iou_targets(outputs["mask_logits"], *rows)
        counted = tf.cast(wanted > 0, wanted.dtype)
        errors = tf.reduce_sum(counted * tf.square(outputs["mask_ious"] - wanted))
        return {**losses, "loss_mask_iou": WEIGHT * errors / tf.maximum(tf.reduce_sum(counted), 1.0)}


@keras.saving.register_keras_serializable("diptych")
class MaskScoringPostProcess(MaskPostProcess):
    """The best boxes with their masks, and the scores of these.

    Inputs: ``outputs`` of the model.
    Returns: as for :class:`MaskPostProcess`, and ``"mask_scores"`` (N, D): score of the box times IoU of the mask.
    """

    def call(self, outputs):
        scores = tf.where(outputs["valid"], outputs["scores"] * outputs["mask_ious"], 0.0)
        return {**super().call(outputs), "mask_scores": scores}


def ms_rcnn_r50_fpn(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    mask_channels: int = 256,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    pairs: int = 4096,
    detections: int = 100,
    **options,
) -> TwoStageDetector:
    head = MaskScoringRoIHead(num_classes, units, samples, mask_channels, pairs, detections)
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)


def ms_rcnn_r50_caffe_fpn(stride_in_1x1: bool = True, **options) -> TwoStageDetector:
    return ms_rcnn_r50_fpn(stride_in_1x1=stride_in_1x1, **options)


def ms_rcnn_r101_caffe_fpn(layers=(3, 4, 23, 3), **options) -> TwoStageDetector:
    return ms_rcnn_r50_caffe_fpn(layers=layers, **options)


def ms_rcnn_x101_32x4d_fpn(layers=(3, 4, 23, 3), groups=32, base_width=4, **options) -> TwoStageDetector:
    return ms_rcnn_r50_fpn(layers=layers, groups=groups, base_width=base_width, **options)
