"""Guided anchoring: the positions and shapes of anchors are predicted; features are adapted to the shapes.

"Region Proposal by Guided Anchoring", 2019, arXiv:1901.03278.
Parameter names: mmdet ``dense_heads/guided_anchor_head.py``, ``dense_heads/ga_rpn_head.py``,
``dense_heads/ga_retina_head.py`` (Apache-2.0). Every cell has one anchor, which starts from a square. In evaluation,
cells that are unlikely to contain an object have none.

Mirror notes:
- NHWC here, NCHW in PyTorch: there the maps are transposed before they become rows of cells, here not.
- Gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.assignment import BACKGROUND, IGNORED, assign_max_iou
from tf_impl.boxes.coders import DeltaCoder, clip_boxes
from tf_impl.boxes.guided import approximate_iou, guide_squares, location_targets
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.sampling import has_area, sample
from tf_impl.classification.resnet import Bottleneck
from tf_impl.detection._dense import (
    EPS,
    LEVELS,
    PRIOR_BIAS,
    STRIDES,
    DenseDetector,
    DenseHead,
    DensePostProcess,
    dense_backbone,
    dense_neck,
    one_hot,
    rows,
)
from tf_impl.detection._proposals import ProposalNetwork
from tf_impl.detection._two_stage import TwoStageCriterion, TwoStagePostProcess
from tf_impl.detection.atss import square_anchors
from tf_impl.detection.faster_rcnn import StandardRoIHead, TwoStageDetector, pyramid_backbone
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.deform_conv import deform_conv2d
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.model import Model
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.precision import single
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import anchor_rows, take_rows
from tf_impl.layers.top_k import top_k
from tf_impl.losses.bounded_iou import bounded_iou_loss
from tf_impl.losses.box import smooth_l1_loss
from tf_impl.losses.dense import binary_cross_entropy
from tf_impl.losses.focal import sigmoid_focal_loss
from tf_impl.necks.fpn import FPN

__all__ = [
    "GARPN",
    "FeatureAdaption",
    "GARPNCriterion",
    "GARPNHead",
    "GARetinaCriterion",
    "GARetinaHead",
    "GARetinaPostProcess",
    "GARoIHead",
    "GuidedCriterion",
    "GuidedPostProcess",
    "ga_faster_rcnn_r50_caffe_fpn",
    "ga_faster_rcnn_r101_caffe_fpn",
    "ga_faster_rcnn_x101_32x4d_fpn",
    "ga_retinanet_r50_caffe_fpn",
    "ga_retinanet_r101_caffe_fpn",
    "ga_rpn_r50_caffe_fpn",
    "ga_rpn_r101_caffe_fpn",
]

DEFORM_GROUPS = 4
LEAST_LOCATION = 0.01  # probability of a location from which on there is an anchor
RPN_SIZE, RPN_STRIDES = 8, (4, 8, 16, 32, 64)  # of the squares, in strides
RETINA_SIZE = 4
SHAPE_STD, RPN_STDS = 0.14, (0.07, 0.07, 0.11, 0.11)  # of shapes, and of the deltas of guided anchors
ROI_STDS, ROI_POSITIVE = (0.05, 0.05, 0.1, 0.1), 0.6
CELLS = 200  # the loss of the locations is divided by the number of cells divided by this


@keras.saving.register_keras_serializable("diptych")
class FeatureAdaption(keras.layers.Layer):
    """A deformable convolution, whose offsets come from the shapes of the anchors, and ReLU.

    Args:
        filters: of the features.

    Inputs: features (N, H, W, filters), shapes (N, H, W, 2), to which no gradient flows.
    Returns: (N, H, W, filters).
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        wide = keras.initializers.RandomNormal(stddev=0.1)
        self.conv_offset = Conv2D(DEFORM_GROUPS * 18, 1, use_bias=False, kernel_initializer=wide)
        # only its kernel is used
        self.conv_adaption = Conv2D(filters, 3, use_bias=False, kernel_initializer=SmallNormal)

    def build(self, x_shape, shapes_shape):
        self.conv_offset.build(shapes_shape)
        self.conv_adaption.build(x_shape)

    def call(self, x, shapes):
        offset = self.conv_offset(tf.stop_gradient(shapes))
        kernel = tf.convert_to_tensor(self.conv_adaption.kernel)
        return tf.nn.relu(deform_conv2d(x, offset, kernel, padding=1, deform_groups=DEFORM_GROUPS))


def plain(outputs: int, bias: float = 0.0) -> Conv2D:
    """A 1x1 convolution with the given initial bias."""
    constant = keras.initializers.Constant(bias)
    return Conv2D(outputs, 1, kernel_initializer=SmallNormal, bias_initializer=constant)


@keras.saving.register_keras_serializable("diptych")
class GARPNHead(ProposalNetwork):
    """The first stage with guided anchors.

    Args:
        filters: of the levels and of the 3x3 convolution.
        candidates, proposals: see :class:`ProposalNetwork`.

    Inputs: as for :class:`ProposalNetwork`.
    Returns: as for :class:`ProposalNetwork`, whose ``"anchors"`` (A, 4) are the squares; ``"shapes"`` (N, A, 2) and
        ``"locations"`` (N, A) logits.
    """

    def __init__(
        self,
        filters: int,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (300, 300),
        **kwargs,
    ):
        super().__init__("mmdet", candidates, proposals, **kwargs)
        self.coder = DeltaCoder(RPN_STDS, self.convention.clamp)
        self.rpn_conv = Conv2D(filters, 3, padding=1, kernel_initializer=SmallNormal, bias_initializer="zeros")
        self.conv_loc = plain(1, PRIOR_BIAS)
        self.conv_shape = plain(2)
        self.feature_adaption = FeatureAdaption(filters)
        self.conv_cls = plain(1)
        self.conv_reg = plain(4)

    def maps(self, x):
        """One level -> logits, deltas, shapes and locations of its cells."""
        x = tf.nn.relu(self.rpn_conv(x))
        shapes = self.conv_shape(x)
        adapted = self.feature_adaption(x, shapes)
        return self.conv_cls(adapted), self.conv_reg(adapted), shapes, self.conv_loc(x)

    def call(self, maps, image_size, learning: bool = False):
        levels = []
        for level, x in maps.items():
            stride = 2 ** int(level[1:])
            half = RPN_SIZE * stride / 2
            y, column = (np.arange(n) * stride for n in map_size(x))
            y, column = np.meshgrid(y, column, indexing="ij")
            squares = np.stack([column - half, y - half, column + half, y + half], -1).reshape(-1, 4)
            found = [anchor_rows(single(values), width) for values, width in zip(self.maps(x), (1, 4, 2, 1))]
            levels.append((*found, tf.constant(squares, found[0].dtype)))
        proposals = self.best(levels, image_size, learning)
        logits, deltas, shapes, locations = (tf.concat(parts, 1) for parts in list(zip(*levels))[:4])
        return {
            "objectness": logits[..., 0],
            "anchor_deltas": deltas,
            "anchors": tf.concat([level[4] for level in levels], 0),
            "shapes": shapes,
            "locations": locations[..., 0],
            "proposals": proposals,
        }

    def best(self, levels, image_size, learning: bool):
        """The best boxes (N, P, 4), of all cells while learning, otherwise of those that may contain an object."""
        found = []
        for level, (*values, squares) in enumerate(levels):
            logits, deltas, shapes, locations = (tf.stop_gradient(x) for x in values)
            scores, anchors = tf.sigmoid(logits[..., 0]), guide_squares(squares, shapes, SHAPE_STD)
            if not learning:
                scores = tf.where(tf.sigmoid(locations[..., 0]) >= LEAST_LOCATION, scores, -1.0)
            scores, index = top_k(scores, min(self.candidates[not learning], scores.shape[1]))
            boxes = self.coder.decode(take_rows(deltas, index), take_rows(anchors, index))
            found.append((scores, boxes, tf.fill(tf.shape(index), tf.constant(level, index.dtype))))
        scores, boxes, of_level = (tf.concat(parts, 1) for parts in zip(*found))
        boxes = clip_boxes(boxes, tf.constant(image_size, tf.int64))
        valid = tf.reduce_all(boxes[..., 2:] > boxes[..., :2], -1) & (scores >= 0)
        index, valid = batched_nms(boxes, scores, of_level, valid, self.iou_threshold, self.proposals[not learning])
        return tf.where(valid[..., None], take_rows(boxes, index), 0.0)


@keras.saving.register_keras_serializable("diptych")
class GARetinaHead(DenseHead):
    """Two towers; guided anchors, and predictions from the adapted features.

    Args:
        filters: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs: of the towers, see :class:`DenseHead`.

    Inputs: dict of five levels (N, H, W, C).
    Returns: dict: ``"cls_p3"`` ... (N, H, W, K) logits, ``"reg_p3"`` ... (N, H, W, 4) deltas, ``"shape_p3"`` ...
        (N, H, W, 2), ``"loc_p3"`` ... (N, H, W, 1) logits.
    """

    def __init__(self, filters: int, num_classes: int, num_convs: int = 4, **kwargs):
        super().__init__(filters, num_convs, None, **kwargs)
        self.conv_loc = plain(1, PRIOR_BIAS)
        self.conv_shape = plain(2)
        self.feature_adaption_cls = FeatureAdaption(filters)
        self.feature_adaption_reg = FeatureAdaption(filters)
        self.retina_cls = self.last(num_classes, PRIOR_BIAS)
        self.retina_reg = self.last(4)

    def call(self, maps):
        found = {"cls": [], "reg": [], "shape": [], "loc": []}
        for x in maps.values():
            of_classes, of_boxes = self.towers(x)
            shapes = self.conv_shape(of_boxes)
            found["cls"].append(self.retina_cls(self.feature_adaption_cls(of_classes, shapes)))
            found["reg"].append(self.retina_reg(self.feature_adaption_reg(of_boxes, shapes)))
            found["shape"].append(shapes)
            found["loc"].append(self.conv_loc(of_classes))
        return self.named(found)


def guided_losses(locations, shapes, squares, boxes, present, rules: dict):
    """The losses of the anchors' positions and shapes.

    Args:
        locations: (N, A) logits.
        shapes: (N, A, 2).
        squares: (A, 4).
        boxes, present: (N, M, 4), (N, M) of the objects.
        rules: ``"size"`` and ``"strides"`` of the squares, ``"std"`` of the shapes, ``"positive"``, ``"negative"`` and
            ``"least"`` overlap of the assignment, ``"samples"`` per image, ``"inverted"``, see
            :class:`GARPNCriterion`.

    Returns:
        Scalars: of the positions, of the shapes.
    """
    wanted, weights = location_targets(boxes, present, squares, rules["size"], rules["strides"])
    wanted = ~wanted if rules["inverted"] else wanted
    focal = sigmoid_focal_loss(locations, tf.cast(wanted, locations.dtype))
    cells = tf.cast(tf.size(locations), locations.dtype) / CELLS
    of_places = tf.reduce_sum(focal * weights) / (cells + EPS)
    overlaps = (rules["positive"], rules["negative"], "forced", rules["least"])
    matched = assign_max_iou(approximate_iou(boxes, squares, 1e-6), present, *overlaps)
    positive, negative = sample(matched >= 0, matched == BACKGROUND, rules["samples"], 0.5)
    # a square without an object is its own target: finite, and masked
    wanted = tf.where(positive[..., None], take_rows(boxes, matched), squares)
    losses = tf.reduce_sum(bounded_iou_loss(guide_squares(squares, shapes, rules["std"]), wanted), -1)
    of_shapes = tf.reduce_sum(tf.where(positive, losses, 0.0)) / (sampled(positive, negative, locations.dtype) + EPS)
    return of_places, of_shapes


def sampled(positive, negative, dtype):
    """Number of sampled anchors; every image counts at least one of each kind."""
    counts = (tf.reduce_sum(tf.maximum(tf.reduce_sum(tf.cast(kind, dtype), 1), 1.0)) for kind in (positive, negative))
    return sum(counts)


@keras.saving.register_keras_serializable("diptych")
class GARPNCriterion(keras.layers.Layer):
    """Losses of guided anchors' positions and shapes, and of the objectness and boxes of a sample.

    Args:
        samples: anchors per image that the losses are computed from.
        inverted: whether a location means that no object is near, as in mmdet 3, whose focal loss takes the label 0 for
            an object.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"valid"`` (N, M) bool, False
        for padding; boxes without area take no part.
    Returns: dict of scalars: ``"loss_rpn_cls"``, ``"loss_rpn_bbox"``, ``"loss_anchor_shape"``, ``"loss_anchor_loc"``,
        ``"total"``.
    """

    def __init__(self, samples: int = 256, inverted: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.samples, self.inverted = samples, inverted

    def call(self, outputs, targets):
        losses = proposal_losses(outputs, targets, self.samples, self.inverted)
        return {**losses, "total": sum(losses.values())}


def proposal_losses(outputs, targets, samples: int, inverted: bool) -> dict:
    """The losses of :class:`GARPNCriterion` without their sum."""
    logits, deltas, squares = (outputs[key] for key in ("objectness", "anchor_deltas", "anchors"))
    boxes = tf.cast(targets["boxes"], logits.dtype)
    present = targets["valid"] & has_area(boxes)
    rules = {"size": RPN_SIZE, "strides": RPN_STRIDES, "std": SHAPE_STD, "samples": samples}
    rules |= {"positive": 0.7, "negative": 0.3, "least": 0.3, "inverted": inverted}
    of_places, of_shapes = guided_losses(outputs["locations"], outputs["shapes"], squares, boxes, present, rules)
    anchors = guide_squares(squares, tf.stop_gradient(outputs["shapes"]), SHAPE_STD)  # mirror: are cut
    matched = assign_max_iou(pairwise_iou(boxes, anchors, 1e-6), present, 0.7, 0.3, "forced", 0.3)
    positive, negative = sample(matched >= 0, matched == BACKGROUND, samples, 0.5)
    divisor = sampled(positive, negative, logits.dtype) + EPS
    entropy = binary_cross_entropy(logits, tf.cast(positive, logits.dtype))
    wanted = tf.where(positive[..., None], take_rows(boxes, matched), anchors)
    coder = DeltaCoder(RPN_STDS, "both")
    regression = smooth_l1_loss(deltas, coder.encode(wanted, anchors), 1.0)
    return {
        "loss_rpn_cls": tf.reduce_sum(tf.where(positive | negative, entropy, 0.0)) / divisor,
        "loss_rpn_bbox": tf.reduce_sum(tf.where(positive, regression, 0.0)) / divisor,
        "loss_anchor_shape": of_shapes,
        "loss_anchor_loc": of_places,
    }


@keras.saving.register_keras_serializable("diptych")
class GuidedCriterion(TwoStageCriterion):
    """The losses of guided anchors, and those of the second stage.

    Args:
        samples, inverted: see :class:`GARPNCriterion`.

    Inputs: as for :class:`TwoStageCriterion`.
    Returns: as for :class:`GARPNCriterion`, and ``"loss_cls"``, ``"loss_bbox"``.
    """

    def __init__(self, samples: int = 256, inverted: bool = False, **kwargs):
        super().__init__("mmdet", samples=samples, **kwargs)
        self.inverted, self.box_coder = inverted, DeltaCoder(ROI_STDS, self.convention.clamp)

    def anchor_losses(self, outputs, targets):
        return proposal_losses(outputs, targets, self.samples, self.inverted)


@keras.saving.register_keras_serializable("diptych")
class GuidedPostProcess(TwoStagePostProcess):
    """The best boxes of every image.

    Args:
        score_threshold, candidates, iou_threshold, detections: see :class:`TwoStagePostProcess`.

    Inputs and returns: as for :class:`TwoStagePostProcess`.
    """

    def __init__(
        self,
        score_threshold: float = 0.001,
        candidates: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
        **kwargs,
    ):
        super().__init__("mmdet", score_threshold, candidates, iou_threshold, detections, **kwargs)
        self.coder = DeltaCoder(ROI_STDS, self.convention.clamp)


@keras.saving.register_keras_serializable("diptych")
class GARoIHead(StandardRoIHead):
    """The second stage for better proposals: objects require more overlap.

    Args:
        num_classes, units, samples: see :class:`StandardRoIHead`.
    """

    def __init__(self, num_classes: int, units: int = 1024, samples: int = 256, **kwargs):
        super().__init__(num_classes, units, samples=samples, **kwargs)
        self.positive = ROI_POSITIVE


@keras.saving.register_keras_serializable("diptych")
class GARPN(Model):
    """Backbone, neck, and the first stage alone.

    Args:
        backbone: returns its maps by name.
        neck: makes named levels from them.
        bbox_head: a :class:`GARPNHead`.

    Inputs: images (N, H, W, 3) float, normalised, which are assumed to fill the batch.
    Returns: as for :class:`GARPNHead`.
    """

    def __init__(self, backbone, neck, bbox_head, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone, self.neck, self.bbox_head = backbone, neck, bbox_head

    def call(self, images, training=False):
        maps = self.neck(self.backbone(images, training=training), training=training)
        return self.bbox_head(maps, image_size=map_size(images))


@keras.saving.register_keras_serializable("diptych")
class GARetinaCriterion(keras.layers.Layer):
    """Losses of guided anchors' positions and shapes, focal loss of their classes, smooth L1 loss of their boxes.

    Args:
        samples: anchors per image that the loss of the shapes is computed from.
        alpha, gamma: of the focal loss.
        beta: of the smooth L1 loss.
        strides: of the levels.
        inverted: see :class:`GARPNCriterion`.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_shape"``, ``"loss_loc"``, ``"total"``.
    """

    def __init__(
        self,
        samples: int = 256,
        alpha: float = 0.25,
        gamma: float = 2.0,
        beta: float = 0.04,
        strides: tuple[int, ...] = STRIDES,
        inverted: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.samples, self.alpha, self.gamma, self.beta = samples, alpha, gamma, beta
        self.inverted, self.strides, self.coder = inverted, tuple(strides), DeltaCoder(clamp="both")

    def call(self, outputs, targets):
        logits, deltas, shapes = (rows(outputs, key) for key in ("cls", "reg", "shape"))
        squares = tf.constant(np.concatenate(square_anchors(outputs, self.strides, RETINA_SIZE)), logits.dtype)
        boxes = tf.cast(targets["boxes"], logits.dtype)
        present = targets["valid"] & has_area(boxes)
        rules = {"size": RETINA_SIZE, "strides": self.strides, "std": 1.0, "samples": self.samples}
        rules |= {"positive": 0.5, "negative": 0.4, "least": 0.4, "inverted": self.inverted}
        locations = rows(outputs, "loc")[..., 0]
        of_places, of_shapes = guided_losses(locations, shapes, squares, boxes, present, rules)
        anchors = guide_squares(squares, tf.stop_gradient(shapes), 1.0)
        matched = assign_max_iou(pairwise_iou(boxes, anchors, 1e-6), present, 0.5, 0.5, "forced", 0.0)
        positive, counted = matched >= 0, matched != IGNORED
        divisor = tf.reduce_sum(tf.maximum(tf.reduce_sum(tf.cast(positive, logits.dtype), 1), 1.0)) + EPS
        wanted = one_hot(take_rows(targets["labels"], matched), positive, logits.shape[-1], logits.dtype)
        focal = tf.reduce_sum(sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma), -1)
        wanted = tf.where(positive[..., None], take_rows(boxes, matched), anchors)
        regression = smooth_l1_loss(deltas, self.coder.encode(wanted, anchors), self.beta)
        losses = {
            "loss_cls": tf.reduce_sum(tf.where(counted, focal, 0.0)) / divisor,
            "loss_bbox": tf.reduce_sum(tf.where(positive, regression, 0.0)) / divisor,
            "loss_shape": of_shapes,
            "loss_loc": of_places,
        }
        return {**losses, "total": sum(losses.values())}


@keras.saving.register_keras_serializable("diptych")
class GARetinaPostProcess(DensePostProcess):
    """The best boxes of the cells that may contain an object, see :class:`DensePostProcess`.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: as there.

    Inputs and returns: as there.
    """

    def decode(self, outputs):
        deltas = rows(outputs, "reg")
        squares = tf.constant(np.concatenate(square_anchors(outputs, self.strides, RETINA_SIZE)), deltas.dtype)
        return DeltaCoder(clamp="both").decode(deltas, guide_squares(squares, rows(outputs, "shape"), 1.0))

    def call(self, outputs, input_size):
        found = dict(outputs)
        for level in LEVELS:
            there = tf.sigmoid(outputs[f"loc_{level}"]) >= LEAST_LOCATION
            found[f"cls_{level}"] = tf.where(there, outputs[f"cls_{level}"], -1e4)
        return super().call(found, input_size)


def ga_faster_rcnn_r50_caffe_fpn(
    layers=(3, 4, 6, 3),
    stride_in_1x1: bool = True,
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (300, 300),
    samples: int = 256,
    **options,
) -> TwoStageDetector:
    backbone = pyramid_backbone(Bottleneck, layers, stride_in_1x1=stride_in_1x1, **options)
    head = GARoIHead(num_classes, units, samples)
    first = GARPNHead(out_channels, candidates, proposals)
    return TwoStageDetector(backbone, FPN(backbone.channels, out_channels, 5), first, head)


def ga_faster_rcnn_r101_caffe_fpn(layers=(3, 4, 23, 3), **options) -> TwoStageDetector:
    return ga_faster_rcnn_r50_caffe_fpn(layers=layers, **options)


def ga_faster_rcnn_x101_32x4d_fpn(
    layers=(3, 4, 23, 3), stride_in_1x1=False, groups=32, base_width=4, **options
) -> TwoStageDetector:
    return ga_faster_rcnn_r50_caffe_fpn(
        layers=layers, stride_in_1x1=stride_in_1x1, groups=groups, base_width=base_width, **options
    )


def ga_rpn_r50_caffe_fpn(
    layers=(3, 4, 6, 3),
    stride_in_1x1: bool = True,
    out_channels: int = 256,
    candidates: tuple[int, int] = (2000, 2000),
    proposals: tuple[int, int] = (1000, 1000),
    **options,
) -> GARPN:
    backbone = pyramid_backbone(Bottleneck, layers, stride_in_1x1=stride_in_1x1, **options)
    return GARPN(backbone, FPN(backbone.channels, out_channels, 5), GARPNHead(out_channels, candidates, proposals))


def ga_rpn_r101_caffe_fpn(layers=(3, 4, 23, 3), **options) -> GARPN:
    return ga_rpn_r50_caffe_fpn(layers=layers, **options)


def ga_retinanet_r50_caffe_fpn(
    depth: int = 50,
    stride_in_1x1: bool = True,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, stride_in_1x1=stride_in_1x1, **options)
    head = GARetinaHead(out_channels, num_classes, num_convs)
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_input"), head)


def ga_retinanet_r101_caffe_fpn(depth: int = 101, **options) -> DenseDetector:
    return ga_retinanet_r50_caffe_fpn(depth=depth, **options)
