"""Siam R-CNN: tracking by re-detection: a cascade of second stages compares every proposal with the first frame.

"Siam R-CNN: Visual Tracking by Re-Detection", 2019, arXiv:1911.12836. Parameter names:
VisualComputingInstitute/SiamR-CNN ``model_cascade.py``, ``model_fpn.py`` (MIT), tensorpack's with dots, ``weight`` and
``bias``, and ``cls`` for ``class``, a keyword of Python. What to look at: the same classifiers, without the boxes,
measure the similarity of any two boxes, which joins detections to tracklets; these are chosen in
``weights/processing/tracking/tracklets.py``.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths; a block is told whether its shortcut needs the convolution.
- Gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.assignment import assign_max_iou
from torch_impl.boxes.coders import DeltaCoder, clip_boxes
from torch_impl.boxes.convention import convention_of
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.sampling import has_area
from torch_impl.detection._proposals import RATIOS, ProposalNetwork
from torch_impl.detection._two_stage import TwoStageCriterion, TwoStagePostProcess, class_entropy
from torch_impl.layers.initialization import normal
from torch_impl.layers.precision import single
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import take_rows
from torch_impl.losses.box import smooth_l1_loss
from torch_impl.necks.fpn import top_down
from torch_impl.rois.extractors import RoIExtractor
from torch_impl.rois.sampling import sample_rois

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


class ConvGN(nn.Conv2d):
    """Convolution, group normalisation.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution, which keeps the size at stride 1.
        groups_of_norm: of the normalisation.
        zero: whether the normalisation's scale starts as 0.

    x: (N, in_channels, H, W) -> (N, out_channels, H', W').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups_of_norm: int = 32,
        zero: bool = False,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.gn = nn.GroupNorm(groups_of_norm, out_channels)
        if zero:
            nn.init.zeros_(self.gn.weight)

    def forward(self, x):
        return self.gn(super().forward(x))


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3 with the stride, 1x1 expansion by four, and a shortcut.

    Args:
        in_channels, planes, stride: widths of the input and, times four, of the output; stride of the 3x3 convolution.
        groups_of_norm: of the normalisations.

    x: (N, in_channels, H, W) -> (N, 4 planes, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, planes: int, stride: int = 1, groups_of_norm: int = 32):
        super().__init__()
        self.conv1 = ConvGN(in_channels, planes, 1, 1, groups_of_norm)
        self.conv2 = ConvGN(planes, planes, 3, stride, groups_of_norm)
        self.conv3 = ConvGN(planes, 4 * planes, 1, 1, groups_of_norm, zero=True)
        self.convshortcut = None
        if in_channels != 4 * planes:  # mirror: is told
            self.convshortcut = ConvGN(in_channels, 4 * planes, 1, stride, groups_of_norm)

    def forward(self, x):
        y = F.relu(self.conv2(F.relu(self.conv1(x))))
        return F.relu(self.conv3(y) + (x if self.convshortcut is None else self.convshortcut(x)))


class Group(nn.Module):
    """Blocks of one width, the first of which may have a stride.  x: (N, C, H, W) -> (N, 4 planes, H', W').

    Args:
        in_channels, planes, stride, groups_of_norm: of the first block.
        count: blocks.
    """

    def __init__(self, in_channels: int, planes: int, count: int, stride: int, groups_of_norm: int = 32):
        super().__init__()
        self.count = count
        for i in range(count):
            block = Bottleneck(in_channels if i == 0 else 4 * planes, planes, 1 if i else stride, groups_of_norm)
            setattr(self, f"block{i}", block)

    def forward(self, x):
        for i in range(self.count):
            x = getattr(self, f"block{i}")(x)
        return x


class Pyramid(nn.Module):
    """Lateral 1x1 and posthoc 3x3 convolutions, each with group normalisation.

    Args:
        in_channels: of the maps C2 to C5.
        out_channels: of the levels.
        groups_of_norm: of the normalisations.

    maps: list of four -> dict of levels "p2" to "p6", the last every second cell of the one before.
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: int, groups_of_norm: int = 32):
        super().__init__()
        for i, channels in enumerate(in_channels, start=2):
            setattr(self, f"lateral_1x1_c{i}", nn.Conv2d(channels, out_channels, 1))
            setattr(self, f"gn_c{i}", nn.GroupNorm(groups_of_norm, out_channels))
            setattr(self, f"posthoc_3x3_p{i}", nn.Conv2d(out_channels, out_channels, 3, padding=1))
            setattr(self, f"gn_p{i}", nn.GroupNorm(groups_of_norm, out_channels))

    def forward(self, maps):
        pairs = enumerate(maps, start=2)
        sums = top_down([getattr(self, f"gn_c{i}")(getattr(self, f"lateral_1x1_c{i}")(x)) for i, x in pairs])
        pairs = enumerate(sums, start=2)
        levels = {f"p{i}": getattr(self, f"gn_p{i}")(getattr(self, f"posthoc_3x3_p{i}")(x)) for i, x in pairs}
        return {**levels, "p6": levels["p5"][:, :, ::2, ::2]}


class RPN(ProposalNetwork):
    """The first stage, without classes.

    Args:
        channels: channels of the levels.
        candidates, proposals: see :class:`ProposalNetwork`.
    """

    def __init__(
        self, channels: int, candidates: tuple[int, int] = (2000, 1000), proposals: tuple[int, int] = (2000, 1000)
    ):
        super().__init__("mmdet", candidates, proposals)
        self.conv0 = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls = nn.Conv2d(channels, len(RATIOS), 1)
        self.box = nn.Conv2d(channels, 4 * len(RATIOS), 1)
        normal(self, 0.01)

    def maps(self, x):
        x = F.relu(self.conv0(x))
        return self.cls(x), self.box(x)


class Comparison(nn.Module):
    """Convolutions, ReLU before their normalisation, and a linear layer.  x: (R, channels, 7, 7) -> (R, units).

    Args:
        channels, units: widths.
        groups_of_norm: of the normalisations.
    """

    def __init__(self, channels: int, units: int, groups_of_norm: int = 32):
        super().__init__()
        for i in range(4):
            conv = nn.Conv2d(channels, channels, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"gn{i}", nn.GroupNorm(groups_of_norm, channels))
        self.fc = nn.Linear(channels * BINS * BINS, units)

    def forward(self, x):
        for i in range(4):
            x = getattr(self, f"gn{i}")(F.relu(getattr(self, f"conv{i}")(x)))
        return F.relu(self.fc(x.flatten(1)))


class Answers(nn.Module):
    """Logits of background and object, deltas.  x: (R, in_features) -> (R, 2), (R, 4).

    Args:
        in_features: width of the input.
    """

    def __init__(self, in_features: int):
        super().__init__()
        for name, count, std in (("cls", 2, 0.01), ("box", 4, 0.001)):
            layer = nn.Linear(in_features, count)
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
            setattr(self, name, layer)

    def forward(self, x):
        return self.cls(x), self.box(x)


class Stage(nn.Module):
    """One second stage.

    Args:
        channels, units: widths.
        groups_of_norm: of the normalisations.

    reference, features: (R, channels, 7, 7) in pairs -> (R, 2) logits, (R, 4) deltas.
    """

    def __init__(self, channels: int, units: int, groups_of_norm: int = 32):
        super().__init__()
        self.conv_reduce = nn.Conv2d(2 * channels, channels, 1)
        self.head = Comparison(channels, units, groups_of_norm)
        self.outputs_new = Answers(units)

    def forward(self, reference, features):
        return self.outputs_new(self.head(self.conv_reduce(torch.cat((reference, features), 1))))


class SiamRCNNSimilarity(nn.Module):
    """The second stages alone, which measure the similarity of the boxes of two frames.

    Args:
        channels: of the features and of the second stages.
        units: width of the second stages' linear layer.
        groups_of_norm: of the normalisations.

    Inputs and returns: of :meth:`similarity`.
    """

    def __init__(self, channels: int = 256, units: int = 1024, groups_of_norm: int = 32):
        super().__init__()
        for i in range(1, len(STDS) + 1):
            setattr(self, f"cascade_rcnn_stage{i}", Stage(channels, units, groups_of_norm))

    def similarity(self, references, features, reference_boxes, boxes, image_size):
        """Similarity of the boxes of two frames.

        Args:
            references, features: (R, C, 7, 7) and (D, C, 7, 7) of the boxes.
            reference_boxes, boxes: (R, 4) and (D, 4) xyxy in pixels.
            image_size: (2,), H and W.

        Returns:
            (R, D) mean probability of all stages, 0 where a centre or a size differs by more than 0.06 of the image's.
        """
        rows, columns = references.shape[0], features.shape[0]
        every = references[:, None].expand(-1, columns, -1, -1, -1), features[None].expand(rows, -1, -1, -1, -1)
        pairs = [x.flatten(0, 1) for x in every]
        stages = [getattr(self, f"cascade_rcnn_stage{i + 1}") for i in range(len(STDS))]
        alike = sum(stage(*pairs)[0].softmax(1)[:, 1] for stage in stages) / len(STDS)
        ends = [torch.cat(((b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]), 1) for b in (reference_boxes, boxes)]
        limit = NEAR * image_size.flip(0).to(boxes).repeat(2)
        near = ((ends[0][:, None] - ends[1]).abs() < limit).all(-1)
        return torch.where(near, alike.reshape(rows, columns), 0.0)

    def forward(self, references, features, reference_boxes, boxes, image_size):
        return self.similarity(references, features, reference_boxes, boxes, image_size)


class SiamRCNN(SiamRCNNSimilarity):
    """The tracker's network. Everything before the second stages is frozen: it comes from a trained detector.

    Args:
        layers, planes: of the residual network.
        channels: of the levels and of the second stages.
        units: width of the second stages' linear layer.
        groups_of_norm: of the normalisations.
        candidates, proposals: of the first stage, see :class:`ProposalNetwork`.
        samples: proposals per image that the losses are computed from, S.

    Inputs: ``template`` (N, 3, h, w), the first frame, and ``template_box`` (N, 4) xyxy in its pixels; ``images``
        (N, 3, H, W), multiples of 32; float BGR, normalised; ``active`` (N, T, 4), boxes of the previous frame, which
        are proposals too, rows of 0 for none; ``targets`` of the criterion, which are needed here too.
    Returns: dict of the first stage as of :class:`FasterRCNN`; ``"proposals"`` (N, P + T, 4), the boxes that enter the
        last stage, ``"scores"`` (N, P + T), mean probability of all stages, ``"box_deltas"`` (N, P + T, 4) of the
        last. With targets, of every stage, ``"proposals_0"`` to ``"proposals_2"`` (N, S, 4), ``"matched_..."`` (N, S),
        ``"class_logits_..."`` (N, S, 2), background first, ``"box_deltas_..."``; with ``"hard_features"`` among them,
        (N, E, 3, C, 7, 7), of E boxes of other videos as each stage saw them, ``"hard_logits_..."`` (N, E, 2).
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
    ):
        super().__init__(channels, units, groups_of_norm)
        self.samples, self.coders = samples, [DeltaCoder(stds) for stds in STDS]
        self.conv0 = ConvGN(3, planes[0], 7, 2, groups_of_norm)
        inputs = planes[0]
        for i, (count, width) in enumerate(zip(layers, planes, strict=True)):
            setattr(self, f"group{i}", Group(inputs, width, count, 2 if i else 1, groups_of_norm))
            inputs = 4 * width
        self.fpn = Pyramid(tuple(4 * width for width in planes), channels, groups_of_norm)
        self.rpn = RPN(channels, candidates, proposals)
        self.roi_extractor = RoIExtractor("mmdet", BINS)
        self.roi_extractor.convention = CONVENTION

    def maps(self, images):
        """Levels "p2" to "p6", which are not trained."""
        x, found = F.max_pool2d(F.relu(self.conv0(images)), 3, 2, 1), []
        for i in range(4):
            x = getattr(self, f"group{i}")(x)
            found.append(x)
        return {name: x.detach() for name, x in self.fpn(found).items()}  # mirror: are cut

    def classify(self, stage: int, reference, maps, boxes):
        """Logits (N, R, 2) and deltas (N, R, 4) of boxes (N, R, 4), given reference features (N, C, 7, 7)."""
        count = boxes.shape[1]
        features = self.roi_extractor(maps, boxes)
        reference = reference[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        answers = getattr(self, f"cascade_rcnn_stage{stage + 1}")(reference, features)
        logits, deltas = (single(values) for values in answers)
        return logits.reshape(-1, count, 2), deltas.reshape(-1, count, 4)

    def refine(self, stage: int, boxes, deltas, image_size):
        """A stage's refined boxes; rows of 0 stay 0."""
        return clip_boxes(self.coders[stage].decode(deltas.detach(), boxes), image_size).detach()

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
                matched = torch.where(has_area(boxes), own, -2)
            logits, deltas = self.classify(stage, reference, maps, boxes)
            of_stage = {"proposals": boxes, "matched": matched, "class_logits": logits, "box_deltas": deltas}
            found |= {f"{key}_{stage}": value for key, value in of_stage.items()}
        return found

    def learn_hard(self, reference, features):
        """What the losses of examples from other videos are computed from, given their features (N, E, 3, C, 7, 7)."""
        found = {}
        for stage, boxes in enumerate(features.to(reference).unbind(2)):
            pairs = reference[:, None].expand_as(boxes).flatten(0, 1), boxes.flatten(0, 1)
            logits, _ = getattr(self, f"cascade_rcnn_stage{stage + 1}")(*pairs)
            found[f"hard_logits_{stage}"] = logits.unflatten(0, boxes.shape[:2])
        return found

    def forward(self, template, template_box, images, active, targets=None):
        reference = self.roi_extractor(self.maps(template), template_box[:, None])
        maps, size = self.maps(images), torch.tensor(map_size(images), device=images.device)
        found = {name: x.detach() for name, x in self.rpn(maps, map_size(images), targets is not None).items()}
        proposals = torch.cat((found.pop("proposals"), active), 1)
        found["image_size"] = size
        if targets is not None:
            found |= self.learn(reference, maps, proposals, size, targets)
            return found | (self.learn_hard(reference, targets["hard_features"]) if "hard_features" in targets else {})
        scores, deltas = 0.0, None
        for stage in range(len(STDS)):
            if deltas is not None:
                proposals = self.refine(stage - 1, proposals, deltas, size)
            logits, deltas = self.classify(stage, reference, maps, proposals)
            scores = scores + logits.softmax(2)[..., 1] / len(STDS)
        return {**found, "proposals": proposals, "scores": scores, "box_deltas": deltas}


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

    def __init__(self, samples: int = 256):
        super().__init__("mmdet", 1 / 9, 1.0, False, samples)
        self.coders = [DeltaCoder(stds) for stds in STDS]

    def forward(self, outputs, targets):
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
            entropy = class_entropy(logits, positive.to(torch.int64))
            entropy = torch.where(positive, FOREGROUND * entropy, torch.where(used, entropy, 0.0))
            somewhere = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=boxes.dtype, device=boxes.device)
            boxes = torch.where(positive[..., None], boxes, somewhere)
            wanted = torch.where(positive[..., None], take_rows(targets["boxes"].to(boxes), matched), boxes)
            regression = smooth_l1_loss(deltas, coder.encode(wanted, boxes), 1.0)
            count = used.to(logits.dtype).sum().clamp(min=1)
            losses[f"stage{stage + 1}.label_loss"] = entropy.sum() / count
            losses[f"stage{stage + 1}.box_loss"] = torch.where(positive, regression, 0.0).sum() / count
        return losses

    def hard_losses(self, outputs, targets):
        losses, negative, valid = {}, targets["hard_negative"], targets["hard_valid"]
        for stage, overlap in enumerate(OVERLAPS):
            positive = (targets["hard_overlaps"][..., stage] >= overlap) & ~negative
            entropy = class_entropy(outputs[f"hard_logits_{stage}"], positive.to(torch.int64))
            for name, kind in (("negative", negative & valid), ("positive", ~negative & valid)):
                loss = torch.where(kind, entropy, 0.0).sum() / kind.to(entropy.dtype).sum().clamp(min=1)
                losses[f"stage{stage + 1}.hard_{name}"] = HARD_WEIGHTS[name] * loss
        return losses


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
    ):
        super().__init__("mmdet", score_threshold, candidates, iou_threshold, detections)
        self.coder = DeltaCoder(STDS[-1])

    def forward(self, outputs):
        probabilities = torch.stack((outputs["scores"], 1 - outputs["scores"]), -1)
        return self.detect(probabilities, outputs["box_deltas"], outputs["proposals"], outputs["image_size"])


def siamrcnn_r50(layers: tuple[int, ...] = (3, 4, 6, 3), **options) -> SiamRCNN:
    return SiamRCNN(layers, **options)


def siamrcnn_r101(layers: tuple[int, ...] = (3, 4, 23, 3), **options) -> SiamRCNN:
    return SiamRCNN(layers, **options)


def siamrcnn_similarity(**options) -> SiamRCNNSimilarity:
    return SiamRCNNSimilarity(**options)
