"""Faster R-CNN: a network that proposes boxes, and one that classifies them and moves their sides.

"Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015, arXiv:1506.01497; on a feature
pyramid: "Feature Pyramid Networks for Object Detection", 2016, arXiv:1612.03144.
Parameter names: torchvision ``detection/faster_rcnn.py`` (BSD-3); the others: mmdet ``faster_rcnn`` (Apache-2.0). The
two differ in many constants besides names, see :class:`Convention`.

Mirror notes:
- NHWC here, NCHW in PyTorch. Keras infers the widths of the maps.
"""

import functools

import keras

from tf_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from tf_impl.detection._proposals import RegionProposalNetwork, RPNHead
from tf_impl.detection._two_stage import RoIHead, TwoStageCriterion, TwoStagePostProcess, two_stages
from tf_impl.detection.retinanet import BackboneWithFPN
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import choose_norm
from tf_impl.necks.fpn import FPN, FeaturePyramidNetwork
from tf_impl.rois.box_heads import ConvFCBBoxHead, FastRCNNPredictor, TwoMLPHead
from tf_impl.rois.extractors import RoIExtractor

__all__ = [
    "FasterRCNN",
    "RoIHeads",
    "StandardRoIHead",
    "TwoStageCriterion",
    "TwoStageDetector",
    "TwoStagePostProcess",
    "faster_rcnn_r18_fpn",
    "faster_rcnn_r50_fpn",
    "faster_rcnn_r101_fpn",
    "faster_rcnn_x101_32x4d_fpn",
    "faster_rcnn_x101_64x4d_fpn",
    "fasterrcnn_resnet50_fpn",
    "mmdet_criterion",
    "mmdet_postprocess",
    "pyramid_backbone",
    "pyramid_detector",
]


@keras.saving.register_keras_serializable("diptych")
class RoIHeads(RoIHead):
    """The second stage under torchvision's names.

    Args:
        num_classes: classes K, including the background (0).
        units: width of the two linear layers.
        samples: see :class:`RoIHead`.
    """

    def __init__(self, num_classes: int, units: int = 1024, samples: int = 512, **kwargs):
        super().__init__("torchvision", samples, **kwargs)
        self.box_roi_pool = RoIExtractor("torchvision", 7)
        self.box_head = TwoMLPHead(units)
        self.box_predictor = FastRCNNPredictor(num_classes)

    def classify(self, maps, boxes):
        return self.box_predictor(self.box_head(self.box_roi_pool(maps, boxes)))


@keras.saving.register_keras_serializable("diptych")
class StandardRoIHead(RoIHead):
    """The second stage under mmdet's names.

    Args:
        num_classes: classes K, without a background.
        units: width of the linear layers.
        num_convs, conv_filters, num_fcs, norm, norm_groups: of the head, see :class:`ConvFCBBoxHead`.
        samples, low_quality: see :class:`RoIHead`.
        levels: of the boxes' features, see :class:`RoIExtractor`.
    """

    def __init__(
        self,
        num_classes: int,
        units: int = 1024,
        num_convs: int = 0,
        conv_filters: int = 256,
        num_fcs: int = 2,
        norm=None,
        norm_groups: int = 32,
        samples: int = 512,
        low_quality: str | None = None,
        levels: tuple[str, ...] = ("p2", "p3", "p4", "p5"),
        **kwargs,
    ):
        super().__init__("mmdet", samples, low_quality=low_quality, **kwargs)
        self.bbox_roi_extractor = RoIExtractor("mmdet", 7, levels)
        self.bbox_head = ConvFCBBoxHead(
            num_classes, num_convs, conv_filters, num_fcs, units, norm=norm, norm_groups=norm_groups
        )

    def classify(self, maps, boxes):
        return self.bbox_head(self.bbox_roi_extractor(maps, boxes))


@keras.saving.register_keras_serializable("diptych")
class FasterRCNN(Model):
    """Residual network, pyramid P2 to P6, two stages (torchvision's names and constants).

    Args:
        block, layers, planes: of the residual network, see :class:`ResNet`.
        norm, norm_eps, norm_eval, frozen_stages: of its normalisation, see :class:`ResNet`. The published weights need
            ``norm="frozen", norm_eps=0.0``.
        num_classes: classes K, including the background (0).
        out_channels: channels of the levels.
        units: width of the second stage's linear layers.
        candidates, proposals: of the first stage, in training and in evaluation, see :class:`ProposalNetwork`.
        samples: proposals per image that the losses are computed from, S.

    Inputs: images (N, H, W, 3) float, normalised, which are assumed to fill the batch; ``proposals`` instead of the
        network's own, see :func:`two_stages`; ``targets`` of the criterion, which are needed here too.
    Returns: dict: ``"objectness"`` (N, A) logits, ``"anchor_deltas"`` (N, A, 4), ``"anchors"`` (A, 4) xyxy in pixels;
        ``"image_size"`` (2,) int64, H and W; ``"proposals"`` (N, P, 4) xyxy in pixels, padded with rows of 0;
        ``"class_logits"`` (N, P, K), ``"box_deltas"`` (N, P, 4 * K). With targets there are S proposals instead,
        and ``"matched"`` (N, S), see :func:`sample_rois`.
    """

    def __init__(
        self,
        block=Bottleneck,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        norm: str = "batch",
        norm_eps: float = 1e-5,
        norm_eval: bool = False,
        frozen_stages: int = -1,
        num_classes: int = 91,
        out_channels: int = 256,
        units: int = 1024,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (2000, 1000),
        samples: int = 512,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        body = ResNet(
            block,
            layers,
            planes=planes,
            norm=functools.partial(choose_norm(norm), epsilon=norm_eps),
            norm_eval=norm_eval,
            frozen_stages=frozen_stages,
            features_only=True,
        )
        self.backbone = BackboneWithFPN(body, FeaturePyramidNetwork(body.channels, out_channels, "pool"))
        self.rpn = RegionProposalNetwork(out_channels, candidates, proposals)
        self.roi_heads = self.make_roi_heads(num_classes, units, samples)

    def make_roi_heads(self, *options):
        """The second stage."""
        return RoIHeads(*options)

    def call(self, images, proposals=None, targets=None, training=False):
        maps = self.backbone(images, training=training)
        return two_stages(self.rpn, self.roi_heads, maps, images, proposals, targets)


@keras.saving.register_keras_serializable("diptych")
class TwoStageDetector(Model):
    """Backbone, neck, two stages (mmdet's names).

    Args:
        backbone: returns its maps by name.
        neck: makes named levels from them.
        rpn_head: the first stage, see :class:`ProposalNetwork`.
        roi_head: the second, see :class:`RoIHead`.

    Inputs: as for :class:`FasterRCNN`.
    Returns: as for :class:`FasterRCNN`; the background is the last class logit, and has no deltas.
    """

    def __init__(self, backbone, neck, rpn_head, roi_head, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone, self.neck, self.rpn_head, self.roi_head = backbone, neck, rpn_head, roi_head

    def call(self, images, proposals=None, targets=None, training=False):
        maps = self.neck(self.backbone(images, training=training), training=training)
        return two_stages(self.rpn_head, self.roi_head, maps, images, proposals, targets)


def pyramid_backbone(block=Bottleneck, layers=(3, 4, 6, 3), norm_eval=True, frozen_stages=1, **options) -> ResNet:
    """A residual network's maps C2 to C5, frozen as in mmdet; options of :class:`ResNet`."""
    return ResNet(block, layers, norm_eval=norm_eval, frozen_stages=frozen_stages, features_only=True, **options)


def pyramid_detector(head, layers, out_channels, candidates, proposals, **options) -> TwoStageDetector:
    """A residual network, a pyramid P2 to P6 and two stages, with ``head`` as the second.

    Args:
        head: see :class:`RoIHead`.
        layers, options: of :func:`pyramid_backbone`.
        out_channels: channels of the levels.
        candidates, proposals: of the first stage, see :class:`ProposalNetwork`.
    """
    backbone = pyramid_backbone(layers=layers, **options)
    neck = FPN(backbone.channels, out_channels, 5)
    return TwoStageDetector(backbone, neck, RPNHead(out_channels, candidates, proposals), head)


def mmdet_criterion(**options) -> TwoStageCriterion:
    """mmdet's losses."""
    return TwoStageCriterion(**{"convention": "mmdet", **options})


def mmdet_postprocess(**options) -> TwoStagePostProcess:
    """mmdet's results."""
    return TwoStagePostProcess(**{"convention": "mmdet", **options})


def fasterrcnn_resnet50_fpn(layers=(3, 4, 6, 3), **options) -> FasterRCNN:
    """torchvision's results."""
    return FasterRCNN(layers=layers, **options)


def faster_rcnn_r50_fpn(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    **options,
) -> TwoStageDetector:
    head = StandardRoIHead(num_classes, units, samples=samples)
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)


def faster_rcnn_r18_fpn(block=BasicBlock, layers=(2, 2, 2, 2), **options) -> TwoStageDetector:
    return faster_rcnn_r50_fpn(block=block, layers=layers, **options)


def faster_rcnn_r101_fpn(layers=(3, 4, 23, 3), **options) -> TwoStageDetector:
    return faster_rcnn_r50_fpn(layers=layers, **options)


def faster_rcnn_x101_32x4d_fpn(layers=(3, 4, 23, 3), groups=32, base_width=4, **options) -> TwoStageDetector:
    return faster_rcnn_r50_fpn(layers=layers, groups=groups, base_width=base_width, **options)


def faster_rcnn_x101_64x4d_fpn(layers=(3, 4, 23, 3), groups=64, base_width=4, **options) -> TwoStageDetector:
    return faster_rcnn_r50_fpn(layers=layers, groups=groups, base_width=base_width, **options)
