"""mmdet's YOLACT: other coarse levels, priors that are not square, and background as the last class.

"YOLACT: Real-time Instance Segmentation", 2019, arXiv:1904.02689.
Parameter names: mmdet ``dense_heads/yolact_head.py``, ``necks/fpn.py`` (Apache-2.0).
What to look at: the levels have no ReLU, and P6 comes from C5; of several objects with one best prior the last gets it.
The classes of pixels are one less than the objects', an error of the reference that its weights rely on.

Mirror notes:
- NHWC here, NCHW in PyTorch, where maps are transposed before they become rows of priors.
"""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.anchors import cell_anchors, grid_anchors
from tf_impl.boxes.assignment import IGNORED, assign_max_iou
from tf_impl.boxes.coders import DeltaCoder
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.sampling import first_positives
from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.model import Model
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.layers.rows import anchor_rows, take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.box import smooth_l1_loss
from tf_impl.losses.dense import binary_cross_entropy
from tf_impl.necks.fpn import FPN, level_names
from tf_impl.segmentation.unet import Upsample
from tf_impl.segmentation.yolact import (
    STDS,
    XAVIER,
    assembled,
    cut_log,
    cut_masks,
    drawn_detections,
    fast_nms,
    resized_masks,
)

__all__ = [
    "BilinearFPN",
    "MMDetYOLACT",
    "MMDetYOLACTCriterion",
    "MMDetYOLACTPostProcess",
    "YOLACTHead",
    "YOLACTMaskHead",
    "yolact_r50_mmdet",
]

SIZES = (24, 48, 96, 192, 384)  # of the priors of P3 to P7, in pixels
STRIDES = tuple(550 / cells for cells in (69, 35, 18, 9, 5))
RATIOS = (0.5, 1.0, 2.0)  # height / width


@keras.saving.register_keras_serializable("diptych")
class BilinearFPN(FPN):
    """:class:`FPN` of five levels that enlarges by bilinear interpolation; P6 and P7 from the last map, without ReLU.

    Args:
        in_channels, out_channels: as there.

    Inputs, returns: as for :class:`FPN`.
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 256, **kwargs):
        super().__init__(in_channels, out_channels, extra="on_input", **kwargs)

    def call(self, maps, training=False):
        maps = [maps[name] for name in self.used]
        sums = [conv(x, training=training) for conv, x in zip(self.lateral_convs, maps)]
        for i in range(len(sums) - 1, 0, -1):
            sums[i - 1] = sums[i - 1] + resize_bilinear(sums[i], map_size(sums[i - 1]))
        levels, x = [conv(x, training=training) for conv, x in zip(self.fpn_convs, sums)], maps[-1]
        for conv in self.fpn_convs[len(sums) :]:
            x = conv(x, training=training)
            levels.append(x)
        return dict(zip(level_names(self.used, len(levels)), levels))


@keras.saving.register_keras_serializable("diptych")
class YOLACTHead(keras.layers.Layer):
    """Classes, boxes and coefficients of all priors, by convolutions that the levels share.

    Args:
        filters: channels of the levels.
        num_classes: classes K, without background.
        prototypes: coefficients E per prior.

    Inputs: dict of levels (N, H, W, C).
    Returns: (N, P, 4), (N, P, K + 1), (N, P, E).
    """

    def __init__(self, filters: int, num_classes: int, prototypes: int, **kwargs):
        super().__init__(**kwargs)
        self.columns = (num_classes + 1, prototypes)
        self.head_convs = [ConvModule(filters, 3, padding=1, kernel_initializer="glorot_uniform")]
        self.conv_cls = XAVIER(len(RATIOS) * (num_classes + 1), 3, padding=1)
        self.conv_reg = XAVIER(len(RATIOS) * 4, 3, padding=1)
        self.conv_coeff = XAVIER(len(RATIOS) * prototypes, 3, padding=1)

    def call(self, maps, training=False):
        boxes, classes, coefficients = [], [], []
        for x in maps.values():
            x = self.head_convs[0](x, training=training)
            boxes.append(anchor_rows(self.conv_reg(x), 4))  # mirror: transposed
            classes.append(anchor_rows(self.conv_cls(x), self.columns[0]))
            coefficients.append(anchor_rows(tf.tanh(self.conv_coeff(x)), self.columns[1]))
        return [tf.concat(parts, 1) for parts in (boxes, classes, coefficients)]


@keras.saving.register_keras_serializable("diptych")
class SegmentationModule(keras.layers.Layer):
    """Classes of pixels, by a 1x1 convolution.  (N, H, W, C) -> (N, H, W, K) logits."""

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        self.segm_conv = XAVIER(num_classes, 1)

    def call(self, x):
        return self.segm_conv(x)


@keras.saving.register_keras_serializable("diptych")
class YOLACTMaskHead(keras.layers.Layer):
    """Prototypes, and classes of pixels for training.

    Args:
        filters: channels of the level.
        num_classes: classes K, without background.
        prototypes: prototypes E.

    Inputs: (N, H, W, C).
    Returns: (N, 2 H, 2 W, E) prototypes, (N, H, W, K) logits.
    """

    def __init__(self, filters: int, num_classes: int, prototypes: int, **kwargs):
        super().__init__(**kwargs)
        self.segm_branch = SegmentationModule(num_classes)
        self.protonet = keras.Sequential(
            [
                XAVIER(filters, 3, padding=1),
                keras.layers.ReLU(),
                XAVIER(filters, 3, padding=1),
                keras.layers.ReLU(),
                XAVIER(filters, 3, padding=1),
                keras.layers.ReLU(),
                Upsample(),
                keras.layers.ReLU(),
                XAVIER(filters, 3, padding=1),
                keras.layers.ReLU(),
                XAVIER(prototypes, 1),
                keras.layers.ReLU(),
            ]
        )

    def call(self, x):
        return self.protonet(x), self.segm_branch(x)


@keras.saving.register_keras_serializable("diptych")
class MMDetYOLACT(Model):
    """Residual network, pyramid, head, prototypes.

    Args:
        layers, planes: of the residual network, see :class:`ResNet`.
        num_classes: classes K, without background.
        out_channels: channels of the levels.
        prototypes: prototypes E.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: ``"loc"`` (N, P, 4) deltas, ``"conf"`` (N, P, K + 1) logits, the last is background, ``"mask"``
        (N, P, E) coefficients, of all priors, see :func:`level_priors`; ``"proto"`` (N, 2 h, 2 w, E) prototypes;
        ``"segm"`` (N, h, w, K) pixel logits, for training.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        num_classes: int = 80,
        out_channels: int = 256,
        prototypes: int = 32,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = ResNet(Bottleneck, layers, planes=planes, features_only=True, out_indices=(2, 3, 4))
        self.neck = BilinearFPN(self.backbone.channels, out_channels)
        self.bbox_head = YOLACTHead(out_channels, num_classes, prototypes)
        self.mask_head = YOLACTMaskHead(out_channels, num_classes, prototypes)

    def call(self, images, training=False):
        levels = self.neck(self.backbone(images, training=training), training=training)
        boxes, classes, coefficients = self.bbox_head(levels, training=training)
        proto, places = self.mask_head(levels["p3"])
        return {"loc": boxes, "conf": classes, "mask": coefficients, "proto": proto, "segm": places}


def level_priors(size: tuple[int, int]) -> list[np.ndarray]:
    """The priors of every level, (P_l, 4) xyxy in pixels: their distance does not depend on the image's size.

    Args:
        size: height and width of P3; every further level is half as large, rounded up.
    """
    found = []
    for side, stride in zip(SIZES, STRIDES):
        found.append(grid_anchors(cell_anchors((side,), RATIOS), size, (stride, stride), 0.5))
        size = tuple(-(-n // 2) for n in size)
    return found


@keras.saving.register_keras_serializable("diptych")
class MMDetYOLACTCriterion(keras.layers.Layer):
    """Losses of boxes, of classes with the hardest negatives, of masks inside their boxes, of the classes of pixels.

    Args:
        max_masks: priors per image whose masks count, the first ones.
        positive, negative: of the assignment, see :func:`assign_max_iou`; also, every object gets the prior that it
            overlaps most, the last of several objects.
        negatives: background priors that count per matched prior of an image; all if there are none.
        box_weight, mask_weight: of the losses.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64 from
        0 on, ``"masks"`` (N, M, H, W) 0 or 1, of the images' height and width, ``"valid"`` (N, M) bool, False for
        padding. Boxes without area take no part.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_mask"``, ``"loss_segm"``, ``"total"``.
    """

    def __init__(
        self,
        max_masks: int = 100,
        positive: float = 0.5,
        negative: float = 0.4,
        negatives: int = 3,
        box_weight: float = 1.5,
        mask_weight: float = 6.125,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.max_masks, self.positive, self.negative, self.negatives = max_masks, positive, negative, negatives
        self.box_weight, self.mask_weight, self.coder = box_weight, mask_weight, DeltaCoder(STDS)

    def call(self, outputs, targets):
        logits, masks = outputs["conf"], tf.cast(targets["masks"], outputs["conf"].dtype)
        boxes, labels = tf.cast(targets["boxes"], logits.dtype), targets["labels"]
        valid = targets["valid"] & tf.reduce_all(boxes[..., 2:] > boxes[..., :2], -1)
        anchors = tf.constant(np.concatenate(level_priors(map_size(outputs["segm"]))), logits.dtype)
        matched = self.assign(pairwise_iou(boxes, anchors), valid)  # (N, P)
        foreground = matched >= 0
        number = tf.reduce_sum(tf.cast(foreground, tf.int32), 1)  # (N,)
        count = tf.cast(tf.reduce_sum(tf.maximum(number, 1)), logits.dtype)

        # a prior without an object is its own target: finite, and masked
        wanted = tf.where(foreground[..., None], take_rows(boxes, matched), anchors)
        losses = smooth_l1_loss(outputs["loc"], self.coder.encode(wanted, anchors))
        regression = self.box_weight * tf.reduce_sum(tf.where(foreground, losses, 0.0)) / count

        wanted = tf.where(foreground, take_rows(labels, matched), logits.shape[2] - 1)
        losses = -tf.gather(tf.nn.log_softmax(logits), wanted, batch_dims=2)
        hardest, _ = top_k(tf.where(foreground | (matched == IGNORED), -1.0, losses), losses.shape[1])
        rank = tf.range(losses.shape[1])
        allowed = tf.where(number > 0, self.negatives * number, losses.shape[1])[:, None]
        hardest = tf.reduce_sum(tf.where((rank < allowed) & (hardest >= 0), hardest, 0.0))
        classification = (tf.reduce_sum(tf.where(foreground, losses, 0.0)) + hardest) / count

        found = {
            "loss_cls": classification,
            "loss_bbox": regression,
            "loss_mask": self.mask_weight * self.of_masks(outputs, masks, boxes, matched),
            "loss_segm": self.of_places(outputs["segm"], masks, labels, valid),
        }
        return {**found, "total": sum(found.values())}

    def assign(self, iou, valid):
        """(N, P) int64: the object of every prior, or see :func:`assign_max_iou`.  iou: (N, M, P)."""
        slots, place = (tf.range(n, dtype=tf.int64) for n in iou.shape[1:])
        best = place == argmax(iou, 2)[..., None]  # (N, M, P)
        forced = tf.reduce_max(tf.where(best & valid[..., None], slots[:, None], -1), 1)
        return tf.where(forced >= 0, forced, assign_max_iou(iou, valid, self.positive, self.negative, None))

    def of_masks(self, outputs, masks, boxes, matched):
        """Mean of the cross-entropies of the first matched priors' masks, each over the area of its object's box."""
        cells, present = first_positives(matched >= 0, self.max_masks)
        height, width = map_size(outputs["proto"])
        owner = take_rows(matched, cells)
        small = tf.cast(resized_masks(masks, (height, width)) > 0.5, masks.dtype)
        wanted = take_rows(small, owner)  # (N, Q, h, w)
        boxes = take_rows(boxes, owner) / tf.constant([masks.shape[3], masks.shape[2]] * 2, boxes.dtype)
        found = cut_masks(assembled(outputs["proto"], take_rows(outputs["mask"], cells)), boxes)
        losses = -tf.reduce_mean(wanted * cut_log(found) + (1 - wanted) * cut_log(1 - found), (2, 3))
        area = tf.reduce_prod(boxes[..., 2:] - boxes[..., :2], -1)
        losses = tf.where(present, losses / tf.where(present, area, 1.0), 0.0)
        return tf.reduce_sum(losses) / tf.maximum(tf.reduce_sum(tf.cast(present, losses.dtype)), 1)

    @staticmethod
    def of_places(logits, masks, labels, valid):
        """Cross-entropy of the classes of pixels, one less than the objects', over the pixels of all images.

        Images without objects take no part.
        """
        height, width, classes = logits.shape[1:]
        small = (resized_masks(masks, (height, width)) > 0.5) & valid[..., None, None]  # (N, M, h, w)
        small = tf.reshape(tf.cast(small, masks.dtype), (-1, small.shape[1], height * width))
        present = tf.one_hot((labels + classes - 1) % classes, classes, axis=1, dtype=masks.dtype)  # (N, K, M)
        wanted = tf.transpose(tf.cast(present @ small > 0, logits.dtype), (0, 2, 1))
        losses = binary_cross_entropy(tf.reshape(logits, (-1, height * width, classes)), wanted)
        losses = tf.reduce_sum(losses, (1, 2)) / (height * width)
        return tf.reduce_mean(tf.where(tf.reduce_any(valid, 1), losses, 0.0))


@keras.saving.register_keras_serializable("diptych")
class MMDetYOLACTPostProcess(keras.layers.Layer):
    """The best boxes after fast suppression, and their masks.

    Args:
        score_threshold: boxes of at most this probability are dropped.
        level_candidates: priors considered per level, those with the best classes.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        candidates: boxes considered per class.
        detections: results per image, D.
        mask_threshold: a pixel belongs to a mask if its probability is larger.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: dict: ``"masks"`` (N, D, H, W) bool, ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending,
        ``"labels"`` (N, D) int64 from 0 on, ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        level_candidates: int = 1000,
        iou_threshold: float = 0.5,
        candidates: int = 200,
        detections: int = 100,
        mask_threshold: float = 0.5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.level_candidates = score_threshold, level_candidates
        self.iou_threshold, self.candidates = iou_threshold, candidates
        self.detections, self.mask_threshold, self.coder = detections, mask_threshold, DeltaCoder(STDS, "both")

    def call(self, outputs, input_size):
        levels, start, chosen = level_priors(map_size(outputs["segm"])), 0, []
        scores = tf.nn.softmax(outputs["conf"])[..., :-1]  # (N, P, K)
        for of_level in levels:
            best = tf.reduce_max(scores[:, start : start + len(of_level)], -1)
            chosen.append(top_k(best, min(self.level_candidates, len(of_level)))[1] + start)
            start += len(of_level)
        chosen = tf.concat(chosen, 1)
        anchors = tf.gather(tf.constant(np.concatenate(levels), scores.dtype), chosen)
        height, width = (int(n) for n in input_size)
        size = tf.constant([width, height] * 2, scores.dtype)
        boxes = tf.clip_by_value(self.coder.decode(take_rows(outputs["loc"], chosen), anchors) / size, 0.0, 1.0)
        scores = tf.transpose(take_rows(scores, chosen), (0, 2, 1))
        scores, index = fast_nms(boxes, scores, self.iou_threshold, self.candidates)
        classes, each = scores.shape[1:]
        scores = tf.where(scores > self.score_threshold, scores, -1.0)
        scores, order = top_k(tf.reshape(scores, (-1, classes * each)), min(self.detections, classes * each))
        labels, index = order // each, take_rows(tf.reshape(index, (-1, classes * each)), order)
        boxes, coefficients = take_rows(boxes, index), take_rows(outputs["mask"], take_rows(chosen, index))
        masks = cut_masks(assembled(outputs["proto"], coefficients), boxes)
        found = {"masks": masks, "boxes": boxes, "scores": scores, "labels": labels, "valid": scores > 0}
        return drawn_detections(found, input_size, self.mask_threshold)


def yolact_r50_mmdet(layers=(3, 4, 6, 3), **options) -> MMDetYOLACT:
    return MMDetYOLACT(layers, **options)
