"""BlendMask: bases that all instances share, blended inside a box by the attention that a point of a pyramid predicts.

"BlendMask: Top-Down Meets Bottom-Up for Instance Segmentation", 2020, arXiv:2001.00309. Parameter names:
aim-uofa/AdelaiDet ``modeling/blendmask`` (non-commercial licence: names and formulas only). What to look at: YOLACT's
coefficients vary within the box.

Mirror notes:
- NHWC here, NCHW in PyTorch; attention is transposed before it is enlarged.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.iou import box_area
from tf_impl.boxes.points import boxes_of_distances, distances_to_sides
from tf_impl.boxes.sampling import first_positives
from tf_impl.detection._dense import PRIOR_BIAS, STRIDES, DenseHead, level_points, level_rows
from tf_impl.detection.fcos import FCOSCriterion, FCOSPostProcess, centerness
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal, SmallNormal
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization, GroupNormalization
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.layers.roi_align import roi_align
from tf_impl.layers.rows import take_rows
from tf_impl.losses.cross_entropy import cross_entropy
from tf_impl.losses.dense import binary_cross_entropy
from tf_impl.rois.masks import mask_targets, paste_masks
from tf_impl.segmentation._detectron2 import ResNetFPN
from tf_impl.segmentation.unet import Upsample

__all__ = [
    "BasisModule",
    "BlendMask",
    "BlendMaskCriterion",
    "BlendMaskPostProcess",
    "FCOSTowers",
    "ProposalGenerator",
    "blend",
    "blendmask_550_criterion",
    "blendmask_550_postprocess",
    "blendmask_550_r50",
    "blendmask_r50",
    "blendmask_r101",
    "blendmask_rt_criterion",
    "blendmask_rt_postprocess",
    "blendmask_rt_r50",
]

BASES_SCALE = 0.25  # of the bases to the image
SEMANTIC_STRIDE = 8


@keras.saving.register_keras_serializable("diptych")
class FCOSTowers(keras.layers.Layer):
    """AdelaiDet's head of FCOS: two towers and three convolutions.

    Args:
        channels: channels of the levels and of the towers.
        num_classes: classes K.
        num_convs: convolutions of each tower.
        norm_groups: groups of the normalisation after each of them.
        shared_convs: convolutions before the towers, for both.

    Inputs: dict of levels (N, H, W, C).
    Returns: dict: ``"cls_p3"`` ... (N, H, W, K) logits, ``"reg_p3"`` ... (N, H, W, 4) left, top, right, bottom in
        strides, ``"ctr_p3"`` ... (N, H, W, 1) logits; and the list of the box tower's outputs.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int = 32,
        shared_convs: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, count in (("share_tower", shared_convs), ("cls_tower", num_convs), ("bbox_tower", num_convs)):
            layers = []
            for _ in range(count):
                conv = Conv2D(channels, 3, padding=1, kernel_initializer=SmallNormal, bias_initializer="zeros")
                layers += [conv, GroupNormalization(norm_groups), keras.layers.ReLU()]
            setattr(self, name, keras.Sequential(layers) if count else keras.layers.Identity())
        self.cls_logits = DenseHead.last(num_classes, PRIOR_BIAS)
        self.bbox_pred = DenseHead.last(4)
        self.ctrness = DenseHead.last(1)

    def call(self, maps):
        found, towers = {"cls": [], "reg": [], "ctr": []}, []
        for x in maps.values():
            x = self.share_tower(x)
            of_boxes = self.bbox_tower(x)
            towers.append(of_boxes)
            found["cls"].append(self.cls_logits(self.cls_tower(x)))
            found["reg"].append(tf.nn.relu(self.bbox_pred(of_boxes)))
            found["ctr"].append(self.ctrness(of_boxes))
        return DenseHead.named(found), towers


@keras.saving.register_keras_serializable("diptych")
class ProposalGenerator(keras.layers.Layer):
    """Holds :class:`FCOSTowers` under its name, ``fcos_head``.

    Args, inputs, returns: as there.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int = 32,
        shared_convs: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.fcos_head = FCOSTowers(channels, num_classes, num_convs, norm_groups, shared_convs)

    def call(self, maps):
        return self.fcos_head(maps)


def conv_norm(filters: int) -> list[keras.layers.Layer]:
    """A 3x3 convolution without bias, batch normalisation, ReLU."""
    conv = Conv2D(filters, 3, padding=1, use_bias=False, kernel_initializer=KaimingNormal)
    return [conv, BatchNormalization(), keras.layers.ReLU()]


@keras.saving.register_keras_serializable("diptych")
class BasisModule(keras.layers.Layer):
    """The bases, and for training the classes of pixels.

    Args:
        channels: channels of the convolutions.
        num_bases: bases B.
        num_classes: classes K, without background.
        num_convs: convolutions before the enlargement.

    Inputs: list of P3 to P5 (N, H_i, W_i, C).
    Returns: bases (N, 2 H, 2 W, B) and pixel logits (N, H, W, K + 1), 0 is background; H and W of P3.
    """

    def __init__(self, channels: int, num_bases: int, num_classes: int, num_convs: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.refine = [keras.Sequential(conv_norm(channels)) for _ in range(3)]
        towers = [keras.Sequential(conv_norm(channels)) for _ in range(num_convs)]
        towers += [Upsample(), keras.Sequential(conv_norm(channels)), Conv2D(num_bases, 1)]
        self.tower = keras.Sequential(towers)
        head = [*conv_norm(channels), *conv_norm(channels)]
        self.seg_head = keras.Sequential([*head, Conv2D(num_classes + 1, 1)])

    def call(self, levels, training=False):
        x = self.refine[0](levels[0], training=training)
        for refine, level in zip(self.refine[1:], levels[1:]):
            x = x + resize_bilinear(refine(level, training=training), map_size(x))
        return self.tower(x, training=training), self.seg_head(levels[0], training=training)


@keras.saving.register_keras_serializable("diptych")
class BlendMask(Model):
    """Pyramid, points, bases.

    Args:
        layers, planes: of the residual network.
        num_classes: classes K.
        out_channels: channels of the levels.
        num_convs, norm_groups, shared_convs: of the towers, see :class:`FCOSTowers`.
        basis_channels, num_bases, basis_convs: see :class:`BasisModule`.
        attention: height and width A of an instance's attention.
        last: index of the coarsest level, 5, 6 or 7.
        norm: of the residual network, see :func:`choose_norm`.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: the maps of :class:`FCOSTowers`, ``"top_p3"`` ... (N, H, W, B A^2), ``"bases"`` (N, H / 4, W / 4, B),
        ``"sem"`` (N, H / 8, W / 8, K + 1).
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        num_classes: int = 80,
        out_channels: int = 256,
        num_convs: int = 4,
        norm_groups: int = 32,
        basis_channels: int = 128,
        num_bases: int = 4,
        attention: int = 14,
        shared_convs: int = 0,
        basis_convs: int = 3,
        last: int = 7,
        norm: str = "frozen",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = ResNetFPN(layers, planes, out_channels, last=last, norm=norm)
        self.proposal_generator = ProposalGenerator(out_channels, num_classes, num_convs, norm_groups, shared_convs)
        self.basis_module = BasisModule(basis_channels, num_bases, num_classes, basis_convs)
        self.top_layer = DenseHead.last(num_bases * attention**2)

    def call(self, images, training=False):
        maps = self.backbone(images, training=training)
        bases, places = self.basis_module(list(maps.values())[:3], training=training)
        found, towers = self.proposal_generator(maps)
        attention = DenseHead.named({"top": [self.top_layer(x) for x in towers]})
        return {**found, **attention, "bases": bases, "sem": places}


def pool_bases(bases, boxes, size: int):
    """Bases inside boxes: (N, h, w, B), (N, Q, 4) in pixels of the image -> (N, Q, size, size, B)."""
    count = boxes.shape[1]
    image = tf.repeat(tf.range(tf.shape(boxes)[0]), count)
    boxes = tf.reshape(tf.stop_gradient(boxes), (-1, 4))
    found = roi_align(bases, boxes, image, size, BASES_SCALE, 1, True)
    return tf.reshape(found, (-1, count, size, size, bases.shape[3]))


def blend(pooled, attention):
    """Sum of the bases, weighted at every position.

    Args:
        pooled: (N, Q, R, R, B) bases inside boxes.
        attention: (N, Q, B A^2), base by base, each row by row.

    Returns:
        (N, Q, R, R) logits.
    """
    count, size, _, bases = pooled.shape[1:]
    side = int((attention.shape[2] // bases) ** 0.5)
    attention = tf.transpose(tf.reshape(attention, (-1, bases, side, side)), (0, 2, 3, 1))  # mirror: transposed
    weight = tf.nn.softmax(resize_bilinear(attention, (size, size)))
    return tf.reduce_sum(pooled * tf.reshape(weight, (-1, count, size, size, bases)), -1)


@keras.saving.register_keras_serializable("diptych")
class BlendMaskCriterion(FCOSCriterion):
    """FCOS's losses, a cross-entropy of the blended masks, and one of the classes of pixels.

    Args:
        max_masks: points per image whose masks count, the first ones.
        size: height and width R of a mask.
        semantic_weight: of the classes of pixels.
        alpha, gamma, strides: see :class:`FCOSCriterion`.

    Inputs: ``outputs`` of the model; ``targets``: those of :class:`FCOSCriterion`, and ``"masks"`` (N, M, H, W) 0 or 1,
        of the images' height and width.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_centerness"``, ``"loss_mask"``,
        ``"loss_basis_sem"``, ``"total"``.
    """

    def __init__(
        self,
        max_masks: int = 500,
        size: int = 56,
        semantic_weight: float = 0.3,
        alpha: float = 0.25,
        gamma: float = 2.0,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__("giou", True, 1.5, True, alpha, gamma, strides, **kwargs)
        self.max_masks, self.size, self.semantic_weight = max_masks, size, semantic_weight

    def box_losses(self, distances, wanted):
        origin = tf.zeros_like(distances[..., :2])
        area, wanted_area = (box_area(boxes_of_distances(origin, x)) for x in (distances, wanted))
        nearer = distances < wanted
        smaller, larger = tf.where(nearer, distances, wanted), tf.where(nearer, wanted, distances)
        shared, hull = (box_area(boxes_of_distances(origin, x)) for x in (smaller, larger))
        union = area + wanted_area - shared
        return 1 - (shared + 1) / (union + 1) + (hull - union) / hull  # NOTE: plus one square stride, as there

    def terms(self, outputs, targets, index, positive):
        found = super().terms(outputs, targets, index, positive)
        masks = tf.cast(targets["masks"], outputs["bases"].dtype)
        cells, drawn = first_positives(positive, self.max_masks)
        owner, slots = take_rows(index, cells), masks.shape[1]

        boxes = tf.where(targets["valid"][..., None], tf.cast(targets["boxes"], masks.dtype), 1.0)
        pooled = pool_bases(outputs["bases"], boxes, self.size)
        logits = blend(take_rows(pooled, owner), take_rows(level_rows(outputs, "top", self.strides), cells))
        slot = tf.tile(tf.range(slots, dtype=tf.int64)[None], (tf.shape(masks)[0], 1))
        wanted = take_rows(mask_targets(boxes, slot, masks, self.size, True), owner)
        points = tf.constant(np.concatenate(level_points(outputs, self.strides)), masks.dtype)
        sides = distances_to_sides(tf.gather(points, cells), take_rows(boxes, owner))
        weight = centerness(tf.where(drawn[..., None], sides, 1.0))
        losses = tf.reduce_mean(binary_cross_entropy(logits, wanted), (2, 3))
        mask = tf.reduce_sum(tf.where(drawn, losses * weight, 0.0))
        mask = mask / tf.maximum(tf.reduce_sum(tf.where(drawn, weight, 0.0)), 1e-6)

        inside = masks * tf.cast(targets["valid"], masks.dtype)[..., None, None]
        number = tf.range(1, slots + 1, dtype=masks.dtype)[:, None, None]
        last = tf.reduce_max(inside[:, :, ::SEMANTIC_STRIDE, ::SEMANTIC_STRIDE] * number, 1)
        height, width, classes = outputs["sem"].shape[1:]
        last = tf.cast(tf.reshape(last, (-1, height * width)), tf.int64)  # the last of several objects; 0 for none
        labels = tf.where(last > 0, take_rows(targets["labels"], last - 1) + 1, 0)
        logits = tf.reshape(outputs["sem"], (-1, height * width, classes))
        places = self.semantic_weight * cross_entropy(logits, labels)
        return {**found, "loss_mask": mask, "loss_basis_sem": places}


@keras.saving.register_keras_serializable("diptych")
class BlendMaskPostProcess(FCOSPostProcess):
    """FCOS's results, chosen by the geometric mean of class and centredness, and their blended masks.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: see :class:`FCOSPostProcess`.
        size: height and width R of a mask.
        mask_threshold: a pixel belongs to a mask if its probability is at least this.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: what :class:`FCOSPostProcess` returns and ``"masks"`` (N, D, H, W) bool.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.6,
        detections: int = 100,
        strides: tuple[int, ...] = STRIDES,
        size: int = 56,
        mask_threshold: float = 0.5,
        **kwargs,
    ):
        super().__init__(score_threshold, candidates, iou_threshold, detections, strides, True, **kwargs)
        self.size, self.mask_threshold = size, mask_threshold

    def ranked(self, outputs):
        classes, central = (tf.sigmoid(level_rows(outputs, key, self.strides)) for key in ("cls", "ctr"))
        return classes * central

    def final(self, outputs, scores, index):
        return tf.sqrt(scores)

    def call(self, outputs, input_size):
        cells, found = self.detect(outputs, input_size)
        pooled = pool_bases(outputs["bases"], found["boxes"], self.size)
        masks = tf.sigmoid(blend(pooled, take_rows(level_rows(outputs, "top", self.strides), cells)))
        masks = paste_masks(masks, found["boxes"], tuple(int(n) for n in input_size), "mmdet")
        return {**found, "masks": (masks >= self.mask_threshold) & found["valid"][..., None, None]}


def blendmask_550_criterion(**options) -> BlendMaskCriterion:
    """The losses of four levels."""
    return BlendMaskCriterion(**{"strides": STRIDES[:4], **options})


def blendmask_550_postprocess(**options) -> BlendMaskPostProcess:
    """The results of four levels."""
    return BlendMaskPostProcess(**{"strides": STRIDES[:4], **options})


def blendmask_rt_criterion(**options) -> BlendMaskCriterion:
    """The losses of three levels."""
    return BlendMaskCriterion(**{"strides": STRIDES[:3], **options})


def blendmask_rt_postprocess(**options) -> BlendMaskPostProcess:
    """The results of three levels."""
    return BlendMaskPostProcess(**{"strides": STRIDES[:3], **options})


def blendmask_r50(layers=(3, 4, 6, 3), **options) -> BlendMask:
    return BlendMask(layers, **options)


def blendmask_r101(layers=(3, 4, 23, 3), **options) -> BlendMask:
    return BlendMask(layers, **options)


def blendmask_550_r50(
    num_convs: int = 0, shared_convs: int = 3, basis_convs: int = 2, last: int = 6, **options
) -> BlendMask:
    return blendmask_r50(num_convs=num_convs, shared_convs=shared_convs, basis_convs=basis_convs, last=last, **options)


def blendmask_rt_r50(last: int = 5, norm: str = "batch", **options) -> BlendMask:
    return blendmask_550_r50(last=last, norm=norm, **options)
