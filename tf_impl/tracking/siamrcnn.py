"""Siam R-CNN: tracking by re-detection: a cascade of second stages compares every proposal with the first frame.

"Siam R-CNN: Visual Tracking by Re-Detection", 2019, arXiv:1911.12836. Parameter names:
VisualComputingInstitute/SiamR-CNN ``model_cascade.py``, ``model_fpn.py`` (MIT), tensorpack's with dots, ``weight`` and
``bias``, and ``cls`` for ``class``, a keyword of Python. What to look at: the same classifiers, without the boxes,
measure the similarity of any two boxes, which joins detections to tracklets; these are chosen in
``weights/processing/tracking/tracklets.py``.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths; a block is told whether its shortcut needs the convolution.
- Gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import dataclasses

import keras
import tensorflow as tf

from tf_impl.boxes.assignment import assign_max_iou
from tf_impl.boxes.coders import DeltaCoder, clip_boxes
from tf_impl.boxes.convention import convention_of
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.sampling import has_area
from tf_impl.detection._proposals import RATIOS, ProposalNetwork
from tf_impl.detection._two_stage import TwoStageCriterion, TwoStagePostProcess, class_entropy
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal, SmallNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import GroupNormalization
from tf_impl.layers.pooling import max_pool2d
from tf_impl.layers.precision import single
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import take_rows
from tf_impl.losses.box import smooth_l1_loss
from tf_impl.necks.fpn import top_down
from tf_impl.rois.extractors import RoIExtractor
from tf_impl.rois.sampling import sample_rois

__all__ = [
    "SiamRCNN",
    "SiamRCNNCriterion",
    "SiamRCNNPostProcess",
    "SiamRCNNSimilarity",
    "siamrcnn_r50",
    "siamrcnn_r101",
    "siamrcnn_similarity",
]

OVERLAPS = (0.5, 0.6, 0.7)  # of the stages, from which on a box is the object
STDS = tuple((1 / n, 1 / n, 2 / n, 2 / n) for n in (10, 20, 30))  # of the stages' deltas
BINS = 7  # of the features of a box in each direction
NEAR = 0.06  # the most that a box moves between frames, as a share of the image
FOREGROUND = 3.0  # weight of the object in the cross-entropy
HARD_WEIGHTS = {"negative": 0.12, "positive": 0.1}  # of the losses of hard examples
# RoIAlign with four samples per bin; boxes on tensorpack's levels
CONVENTION = dataclasses.replace(
    convention_of("mmdet"), sampling_ratio=2, level_bounds=tuple(224 * (2.0**i - 1e-6) for i in (-1, 0, 1))
)


@keras.saving.register_keras_serializable("diptych", "siamrcnn.ConvGN")
class ConvGN(Conv2D):
    """Convolution, group normalisation.

    Args:
        filters, kernel_size, strides: of the convolution, which keeps the size at stride 1.
        groups_of_norm: of the normalisation.
        zero: whether the normalisation's scale starts as 0.

    x: (N, H, W, C) -> (N, H', W', filters).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        groups_of_norm: int = 32,
        zero: bool = False,
        **kwargs,
    ):
        options = {"strides": strides, "padding": kernel_size // 2, "use_bias": False}
        super().__init__(filters, kernel_size, **options, kernel_initializer=KaimingNormal(), **kwargs)
        self.gn = GroupNormalization(groups_of_norm, gamma_initializer="zeros" if zero else "ones")

    def call(self, x):
        return self.gn(super().call(x))


@keras.saving.register_keras_serializable("diptych", "siamrcnn.Bottleneck")
class Bottleneck(keras.layers.Layer):
    """1x1 reduction, 3x3 with the stride, 1x1 expansion by four, and a shortcut.

    Args:
        planes, strides: a quarter of the output's width; stride of the 3x3 convolution.
        groups_of_norm: of the normalisations.
        project: whether the shortcut has a convolution.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), 4 planes).
    """

    def __init__(self, planes: int, strides: int = 1, groups_of_norm: int = 32, project: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = ConvGN(planes, 1, 1, groups_of_norm)
        self.conv2 = ConvGN(planes, 3, strides, groups_of_norm)
        self.conv3 = ConvGN(4 * planes, 1, 1, groups_of_norm, zero=True)
        self.convshortcut = None
        if project:  # mirror: is told
            self.convshortcut = ConvGN(4 * planes, 1, strides, groups_of_norm)

    def call(self, x):
        y = tf.nn.relu(self.conv2(tf.nn.relu(self.conv1(x))))
        return tf.nn.relu(self.conv3(y) + (x if self.convshortcut is None else self.convshortcut(x)))


@keras.saving.register_keras_serializable("diptych", "siamrcnn.Group")
class Group(keras.layers.Layer):
    """Blocks of one width, the first of which may have a stride.  x: (N, H, W, C) -> (N, H', W', 4 planes).

    Args:
        planes, strides, groups_of_norm: of the first block.
        count: blocks.
    """

    def __init__(self, planes: int, count: int, strides: int, groups_of_norm: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        for i in range(count):
            block = Bottleneck(planes, 1 if i else strides, groups_of_norm, project=i == 0)
            setattr(self, f"block{i}", block)

    def call(self, x):
        for i in range(self.count):
            x = getattr(self, f"block{i}")(x)
        return x


@keras.saving.register_keras_serializable("diptych", "siamrcnn.Pyramid")
class Pyramid(keras.layers.Layer):
    """Lateral 1x1 and posthoc 3x3 convolutions, each with group normalisation.

    Args:
        filters: of the levels.
        groups_of_norm: of the normalisations.

    maps: list of four -> dict of levels "p2" to "p6", the last every second cell of the one before.
    """

    def __init__(self, filters: int, groups_of_norm: int = 32, **kwargs):  # mirror: infers
        super().__init__(**kwargs)
        for i in range(2, 6):
            setattr(self, f"lateral_1x1_c{i}", Conv2D(filters, 1))
            setattr(self, f"gn_c{i}", GroupNormalization(groups_of_norm))
            setattr(self, f"posthoc_3x3_p{i}", Conv2D(filters, 3, padding=1))
            setattr(self, f"gn_p{i}", GroupNormalization(groups_of_norm))

    def call(self, maps):
        pairs = enumerate(maps, start=2)
        sums = top_down([getattr(self, f"gn_c{i}")(getattr(self, f"lateral_1x1_c{i}")(x)) for i, x in pairs])
        pairs = enumerate(sums, start=2)
        levels = {f"p{i}": getattr(self, f"gn_p{i}")(getattr(self, f"posthoc_3x3_p{i}")(x)) for i, x in pairs}
        return {**levels, "p6": levels["p5"][:, ::2, ::2]}


@keras.saving.register_keras_serializable("diptych", "siamrcnn.RPN")
class RPN(ProposalNetwork):
    """The first stage, without classes.

    Args:
        filters: channels of the levels.
        candidates, proposals: see :class:`ProposalNetwork`.
    """

    def __init__(
        self,
        filters: int,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (2000, 1000),
        **kwargs,
    ):
        super().__init__("mmdet", candidates, proposals, **kwargs)
        options = {"kernel_initializer": SmallNormal, "bias_initializer": "zeros"}
        self.conv0 = Conv2D(filters, 3, padding=1, **options)
        self.cls = Conv2D(len(RATIOS), 1, **options)
        self.box = Conv2D(4 * len(RATIOS), 1, **options)

    def maps(self, x):
        x = tf.nn.relu(self.conv0(x))
        return self.cls(x), self.box(x)


@keras.saving.register_keras_serializable("diptych", "siamrcnn.Comparison")
class Comparison(keras.layers.Layer):
    """Convolutions, ReLU before their normalisation, and a linear layer.  x: (R, 7, 7, filters) -> (R, units).

    Args:
        filters, units: widths.
        groups_of_norm: of the normalisations.
    """

    def __init__(self, filters: int, units: int, groups_of_norm: int = 32, **kwargs):
        super().__init__(**kwargs)
        for i in range(4):
            conv = Conv2D(filters, 3, padding=1, kernel_initializer=KaimingNormal(), bias_initializer="zeros")
            setattr(self, f"conv{i}", conv)
            setattr(self, f"gn{i}", GroupNormalization(groups_of_norm))
        self.fc = Dense(units)

    def call(self, x):
        for i in range(4):
            x = getattr(self, f"gn{i}")(tf.nn.relu(getattr(self, f"conv{i}")(x)))
        x = tf.transpose(x, (0, 3, 1, 2))  # mirror: NHWC
        return tf.nn.relu(self.fc(tf.reshape(x, (-1, x.shape[1] * BINS * BINS))))


@keras.saving.register_keras_serializable("diptych", "siamrcnn.Answers")
class Answers(keras.layers.Layer):
    """Logits of background and object, deltas.  x: (R, D) -> (R, 2), (R, 4)."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for name, count, std in (("cls", 2, 0.01), ("box", 4, 0.001)):
            kernel = keras.initializers.RandomNormal(stddev=std)
            setattr(self, name, Dense(count, kernel_initializer=kernel, bias_initializer="zeros"))

    def call(self, x):
        return self.cls(x), self.box(x)


@keras.saving.register_keras_serializable("diptych", "siamrcnn.Stage")
class Stage(keras.layers.Layer):
    """One second stage.

    Args:
        filters, units: widths.
        groups_of_norm: of the normalisations.

    reference, features: (R, 7, 7, filters) in pairs -> (R, 2) logits, (R, 4) deltas.
    """

    def __init__(self, filters: int, units: int, groups_of_norm: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.conv_reduce = Conv2D(filters, 1)
        self.head = Comparison(filters, units, groups_of_norm)
        self.outputs_new = Answers()

    def call(self, reference, features):
        return self.outputs_new(self.head(self.conv_reduce(tf.concat((reference, features), -1))))


@keras.saving.register_keras_serializable("diptych")
class SiamRCNNSimilarity(Model):
    """The second stages alone, which measure the similarity of the boxes of two frames.

    Args:
        channels: of the features and of the second stages.
        units: width of the second stages' linear layer.
        groups_of_norm: of the normalisations.

    Inputs and returns: of :meth:`similarity`.
    """

    def __init__(self, channels: int = 256, units: int = 1024, groups_of_norm: int = 32, **kwargs):
        super().__init__(autocast=False, **kwargs)
        for i in range(1, len(STDS) + 1):
            setattr(self, f"cascade_rcnn_stage{i}", Stage(channels, units, groups_of_norm))

    def similarity(self, references, features, reference_boxes, boxes, image_size):
        """Similarity of the boxes of two frames.

        Args:
            references, features: (R, 7, 7, C) and (D, 7, 7, C) of the boxes.
            reference_boxes, boxes: (R, 4) and (D, 4) xyxy in pixels.
            image_size: (2,), H and W.

        Returns:
            (R, D) mean probability of all stages, 0 where a centre or a size differs by more than 0.06 of the image's.
        """
        rows, columns = tf.shape(references)[0], tf.shape(features)[0]
        pairs = tf.repeat(references, columns, 0), tf.tile(features, (rows, 1, 1, 1))
        stages = [getattr(self, f"cascade_rcnn_stage{i + 1}") for i in range(len(STDS))]
        alike = sum(tf.nn.softmax(stage(*pairs)[0], 1)[:, 1] for stage in stages) / len(STDS)
        ends = [tf.concat(((b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]), 1) for b in (reference_boxes, boxes)]
        limit = NEAR * tf.tile(tf.cast(image_size[::-1], boxes.dtype), (2,))
        near = tf.reduce_all(tf.abs(ends[0][:, None] - ends[1]) < limit, -1)
        alike = tf.reshape(alike, (rows, columns))
        return tf.where(near, alike, tf.zeros_like(alike))

    def call(self, references, features, reference_boxes, boxes, image_size):
        return self.similarity(references, features, reference_boxes, boxes, image_size)


@keras.saving.register_keras_serializable("diptych")
class SiamRCNN(SiamRCNNSimilarity):
    """The tracker's network. Everything before the second stages is frozen: it comes from a trained detector.

    Args:
        layers, planes: of the residual network.
        channels: of the levels and of the second stages.
        units: width of the second stages' linear layer.
        groups_of_norm: of the normalisations.
        candidates, proposals: of the first stage, see :class:`ProposalNetwork`.
        samples: proposals per image that the losses are computed from, S.

    Inputs: ``template`` (N, h, w, 3), the first frame, and ``template_box`` (N, 4) xyxy in its pixels; ``images``
        (N, H, W, 3), multiples of 32; float BGR, normalised; ``active`` (N, T, 4), boxes of the previous frame, which
        are proposals too, rows of 0 for none; ``targets`` of the criterion, which are needed here too.
    Returns: dict of the first stage as of :class:`FasterRCNN`; ``"proposals"`` (N, P + T, 4), the boxes that enter the
        last stage, ``"scores"`` (N, P + T), mean probability of all stages, ``"box_deltas"`` (N, P + T, 4) of the
        last. With targets, of every stage, ``"proposals_0"`` to ``"proposals_2"`` (N, S, 4), ``"matched_..."`` (N, S),
        ``"class_logits_..."`` (N, S, 2), background first, ``"box_deltas_..."``; with ``"hard_features"`` among them,
        (N, E, 3, 7, 7, C), of E boxes of other videos as each stage saw them, ``"hard_logits_..."`` (N, E, 2).
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        channels: int = 256,
        units: int = 1024,
        groups_of_norm: int = 32,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (2000, 1000),
        samples: int = 512,
        **kwargs,
    ):
        super().__init__(channels, units, groups_of_norm, **kwargs)
        self.samples, self.coders = samples, [DeltaCoder(stds) for stds in STDS]
        self.conv0 = ConvGN(planes[0], 7, 2, groups_of_norm)
        for i, (count, width) in enumerate(zip(layers, planes, strict=True)):
            setattr(self, f"group{i}", Group(width, count, 2 if i else 1, groups_of_norm))
        self.fpn = Pyramid(channels, groups_of_norm)
        self.rpn = RPN(channels, candidates, proposals)
        self.roi_extractor = RoIExtractor("mmdet", BINS)
        self.roi_extractor.convention = CONVENTION

    def maps(self, images):
        """Levels "p2" to "p6", which are not trained."""
        x, found = max_pool2d(tf.nn.relu(self.conv0(images)), 3, 2, 1), []
        for i in range(4):
            x = getattr(self, f"group{i}")(x)
            found.append(x)
        return {name: tf.stop_gradient(x) for name, x in self.fpn(found).items()}  # mirror: are cut

    def classify(self, stage: int, reference, maps, boxes):
        """Logits (N, R, 2) and deltas (N, R, 4) of boxes (N, R, 4), given reference features (N, 7, 7, C)."""
        count = boxes.shape[1]
        features = self.roi_extractor(maps, boxes)
        reference = tf.repeat(reference, count, 0)
        answers = getattr(self, f"cascade_rcnn_stage{stage + 1}")(reference, features)
        logits, deltas = (single(values) for values in answers)
        return tf.reshape(logits, (-1, count, 2)), tf.reshape(deltas, (-1, count, 4))

    def refine(self, stage: int, boxes, deltas, image_size):
        """A stage's refined boxes; rows of 0 stay 0."""
        return tf.stop_gradient(clip_boxes(self.coders[stage].decode(deltas, boxes), image_size))

    def learn(self, reference, maps, proposals, image_size, targets):
        """What the losses of all stages are computed from: the boxes of a sample, refined and classified again."""
        found = {}
        boxes, matched = sample_rois(proposals, targets, CONVENTION, self.samples)
        deltas = None
        for stage, overlap in enumerate(OVERLAPS):
            if deltas is not None:
                boxes = self.refine(stage - 1, boxes, deltas, image_size)
                present = targets["valid"] & has_area(targets["boxes"])
                iou = pairwise_iou(targets["boxes"], boxes, CONVENTION.iou_eps)
                own = assign_max_iou(iou, present, overlap, overlap, None, overlap)
                matched = tf.where(has_area(boxes), own, tf.constant(-2, own.dtype))
            logits, deltas = self.classify(stage, reference, maps, boxes)
            of_stage = {"proposals": boxes, "matched": matched, "class_logits": logits, "box_deltas": deltas}
            found |= {f"{key}_{stage}": value for key, value in of_stage.items()}
        return found

    def learn_hard(self, reference, features):
        """What the losses of examples from other videos are computed from, given their features (N, E, 3, 7, 7, C)."""
        found, count = {}, features.shape[1]
        for stage, boxes in enumerate(tf.unstack(tf.cast(features, reference.dtype), axis=2)):
            pairs = tf.repeat(reference, count, 0), tf.reshape(boxes, (-1, *boxes.shape[2:]))
            logits, _ = getattr(self, f"cascade_rcnn_stage{stage + 1}")(*pairs)
            found[f"hard_logits_{stage}"] = tf.reshape(logits, (-1, count, 2))
        return found

    def call(self, template, template_box, images, active, targets=None, training=False):
        reference = self.roi_extractor(self.maps(template), template_box[:, None])
        maps, size = self.maps(images), tf.constant(map_size(images), tf.int64)
        found = self.rpn(maps, image_size=map_size(images), learning=targets is not None)
        found = {name: tf.stop_gradient(x) for name, x in found.items()}
        proposals = tf.concat((found.pop("proposals"), active), 1)
        found["image_size"] = size
        if targets is not None:
            found |= self.learn(reference, maps, proposals, size, targets)
            return found | (self.learn_hard(reference, targets["hard_features"]) if "hard_features" in targets else {})
        scores, deltas = 0.0, None
        for stage in range(len(STDS)):
            if deltas is not None:
                proposals = self.refine(stage - 1, proposals, deltas, size)
            logits, deltas = self.classify(stage, reference, maps, proposals)
            scores = scores + tf.nn.softmax(logits, 2)[..., 1] / len(STDS)
        return {**found, "proposals": proposals, "scores": scores, "box_deltas": deltas}


@keras.saving.register_keras_serializable("diptych")
class SiamRCNNCriterion(TwoStageCriterion):
    """Losses of the sampled proposals' classes and boxes, stage by stage; those of the anchors are reported, not
    trained.

    Args:
        samples: anchors per image that the first stage's losses are computed from.

    Inputs: ``outputs`` of :class:`SiamRCNN`, which was given the targets; ``targets``: ``"boxes"`` (N, M, 4) xyxy in
        pixels of the template's object, ``"valid"`` (N, M) bool; with hard examples ``"hard_overlaps"`` (N, E, 3) of
        each stage's box with the object, ``"hard_negative"`` (N, E) bool, of another object, ``"hard_valid"`` (N, E).
    Returns: dict of scalars: ``"loss_rpn_cls"``, ``"loss_rpn_bbox"``; ``"stage1.label_loss"``, ``"stage1.box_loss"``,
        with hard examples ``"stage1.hard_negative"``, ``"stage1.hard_positive"``, and so on to stage 3; ``"total"``,
        the sum of these.
    """

    def __init__(self, samples: int = 256, **kwargs):
        super().__init__("mmdet", 1 / 9, 1.0, False, samples, **kwargs)
        self.coders = [DeltaCoder(stds) for stds in STDS]

    def call(self, outputs, targets):
        losses = self.box_losses(outputs, targets)
        losses |= self.hard_losses(outputs, targets) if "hard_logits_0" in outputs else {}
        total = sum(losses.values())
        return {**self.anchor_losses(outputs, targets), **losses, "total": total}

    def box_losses(self, outputs, targets):
        losses = {}
        for stage, coder in enumerate(self.coders):
            names = ("class_logits", "box_deltas", "proposals", "matched")
            logits, deltas, boxes, matched = (outputs[f"{name}_{stage}"] for name in names)
            used, positive = matched != -2, matched >= 0
            entropy, zero = class_entropy(logits, tf.cast(positive, tf.int64)), tf.zeros([], logits.dtype)
            entropy = tf.where(positive, FOREGROUND * entropy, tf.where(used, entropy, zero))
            somewhere = tf.constant([0.0, 0.0, 1.0, 1.0], boxes.dtype)
            boxes = tf.where(positive[..., None], boxes, somewhere)
            wanted = take_rows(tf.cast(targets["boxes"], boxes.dtype), matched)
            wanted = tf.where(positive[..., None], wanted, boxes)
            regression = smooth_l1_loss(deltas, coder.encode(wanted, boxes), 1.0)
            count = tf.maximum(tf.reduce_sum(tf.cast(used, logits.dtype)), 1.0)
            losses[f"stage{stage + 1}.label_loss"] = tf.reduce_sum(entropy) / count
            losses[f"stage{stage + 1}.box_loss"] = tf.reduce_sum(tf.where(positive, regression, zero)) / count
        return losses

    def hard_losses(self, outputs, targets):
        losses, negative, valid = {}, targets["hard_negative"], targets["hard_valid"]
        for stage, overlap in enumerate(OVERLAPS):
            positive = (targets["hard_overlaps"][..., stage] >= overlap) & ~negative
            entropy = class_entropy(outputs[f"hard_logits_{stage}"], tf.cast(positive, tf.int64))
            for name, kind in (("negative", negative & valid), ("positive", ~negative & valid)):
                loss = tf.reduce_sum(tf.where(kind, entropy, tf.zeros([], entropy.dtype)))
                loss = loss / tf.maximum(tf.reduce_sum(tf.cast(kind, entropy.dtype)), 1.0)
                losses[f"stage{stage + 1}.hard_{name}"] = HARD_WEIGHTS[name] * loss
        return losses


@keras.saving.register_keras_serializable("diptych")
class SiamRCNNPostProcess(TwoStagePostProcess):
    """The best boxes of the last stage.

    Args:
        score_threshold, candidates, iou_threshold, detections: see :class:`TwoStagePostProcess`.

    Inputs and returns: as of :class:`TwoStagePostProcess`; there is one class.
    """

    def __init__(
        self,
        score_threshold: float = 0.005,
        candidates: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
        **kwargs,
    ):
        super().__init__("mmdet", score_threshold, candidates, iou_threshold, detections, **kwargs)
        self.coder = DeltaCoder(STDS[-1])

    def call(self, outputs):
        probabilities = tf.stack((outputs["scores"], 1 - outputs["scores"]), -1)
        return self.detect(probabilities, outputs["box_deltas"], outputs["proposals"], outputs["image_size"])


def siamrcnn_r50(layers: tuple[int, ...] = (3, 4, 6, 3), **options) -> SiamRCNN:
    return SiamRCNN(layers, **options)


def siamrcnn_r101(layers: tuple[int, ...] = (3, 4, 23, 3), **options) -> SiamRCNN:
    return SiamRCNN(layers, **options)


def siamrcnn_similarity(**options) -> SiamRCNNSimilarity:
    return SiamRCNNSimilarity(**options)
