"""Faster and Mask R-CNN on one map of stride 16: C4, whose second stage is the residual network's last stage, and DC5.

"Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015, arXiv:1506.01497; C4: "Deep
Residual Learning for Image Recognition", 2015, arXiv:1512.03385, appendix A; "Mask R-CNN", 2017, arXiv:1703.06870; DC5:
"Deformable Convolutional Networks", 2017, arXiv:1703.06211.
Parameter names: mmdet ``faster_rcnn``, ``mask_rcnn``, ``roi_heads/shared_heads/res_layer.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow. Keras infers the widths of the maps.
"""

from torch import nn

from torch_impl.classification.resnet import Bottleneck, ResNet
from torch_impl.detection._masks import MaskCriterion, MaskPostProcess, with_masks
from torch_impl.detection._proposals import RPNHead
from torch_impl.detection._two_stage import RoIHead, TwoStageCriterion, TwoStagePostProcess, two_stages
from torch_impl.detection.faster_rcnn import StandardRoIHead, mmdet_criterion, mmdet_postprocess
from torch_impl.layers.backbone import Backbone
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.rois.extractors import RoIExtractor
from torch_impl.rois.mask_heads import FCNMaskHead

__all__ = [
    "C4MaskRoIHead",
    "C4RoIHead",
    "C4Trunk",
    "MaskCriterion",
    "MaskPostProcess",
    "SharedHead",
    "SingleMapDetector",
    "faster_rcnn_r50_caffe_c4",
    "faster_rcnn_r50_caffe_dc5",
    "inside_criterion",
    "inside_mask_criterion",
    "mask_rcnn_r50_caffe_c4",
    "mmdet_criterion",
    "mmdet_postprocess",
]

MAP = "p4"  # both maps have stride 16
SIZES = (2.0, 4.0, 8.0, 16.0, 32.0)  # of anchors, in strides


class C4Trunk(ResNet):
    """A residual network that ends with its third stage, frozen as in mmdet.

    Args:
        layers, planes: of the three stages, see :class:`ResNet`.

    Inputs: (N, 3, H, W) float.
    Returns: dict: ``"c4"`` (N, C, ceil(H / 16), ceil(W / 16)).
    """

    def __init__(self, layers: tuple[int, ...], planes: tuple[int, ...]):
        super().__init__(
            Bottleneck,
            layers,
            planes=planes,
            stride_in_1x1=True,
            norm_eval=True,
            frozen_stages=1,
            features_only=True,
            out_indices=(3,),
        )

    def levels(self) -> list:
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3]]

    def forward_features(self, images) -> dict:
        x = self.forward_stem(images)
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        return {"c4": x}


class SharedHead(Backbone):
    """The last stage of a residual network, applied to the features of boxes; its normalisation uses the running
    statistics.

    Args:
        depth, planes: blocks, and their nominal width, see :class:`Bottleneck`.

    Inputs: (R, 2 * planes, 14, 14).  Returns: (R, 4 * planes, 7, 7).
    """

    def __init__(self, depth: int, planes: int):
        super().__init__()
        blocks = [Bottleneck(2 * planes, planes, 2, stride_in_1x1=True)]
        self.layer4 = nn.Sequential(*blocks, *(Bottleneck(4 * planes, planes) for _ in range(depth - 1)))
        kaiming_normal(self)
        self.freeze(norm_eval=True, frozen_stages=-1)

    def levels(self) -> list:
        return [[self.layer4]]

    def forward(self, x):
        return self.layer4(x)


class PooledBBoxHead(nn.Module):
    """Class logits and box deltas of averaged features (mmdet's ``BBoxHead``).

    Args:
        in_channels: of the features.
        num_classes: classes K; the background is one more logit, the last.

    Inputs: (R, C, B, B).  Returns: (R, K + 1), (R, 4 * K).
    """

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.fc_cls = nn.Linear(in_channels, num_classes + 1)
        self.fc_reg = nn.Linear(in_channels, 4 * num_classes)
        for layer, std in ((self.fc_cls, 0.01), (self.fc_reg, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = x.mean((2, 3))
        return self.fc_cls(x), self.fc_reg(x)


class C4RoIHead(RoIHead):
    """The second stage: the last stage of the residual network on the features of each box.

    Args:
        shared_head: the stage applied to the pooled features.
        in_channels: of the shared head's output.
        num_classes: classes K, without a background.
        samples: see :class:`RoIHead`.
    """

    def __init__(self, shared_head, in_channels: int, num_classes: int, samples: int = 512):
        super().__init__("mmdet", samples)
        self.bbox_roi_extractor = RoIExtractor("mmdet", 14, (MAP,))
        self.shared_head = shared_head
        self.bbox_head = PooledBBoxHead(in_channels, num_classes)

    def features(self, maps, boxes):
        """(N * R, C, 7, 7) of boxes (N, R, 4)."""
        return self.shared_head(self.bbox_roi_extractor(maps, boxes))

    def classify(self, maps, boxes):
        return self.bbox_head(self.features(maps, boxes))


class C4MaskRoIHead(C4RoIHead):
    """The second stage with masks from the same features.

    Args:
        shared_head, in_channels, num_classes, samples: see :class:`C4RoIHead`.
        mask_channels: width of the enlarged features.
        score_threshold, pairs, iou_threshold, detections: of the best boxes, see :class:`TwoStagePostProcess`.
    """

    def __init__(
        self,
        shared_head,
        in_channels: int,
        num_classes: int,
        samples: int = 512,
        mask_channels: int = 256,
        score_threshold: float = 0.05,
        pairs: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
    ):
        super().__init__(shared_head, in_channels, num_classes, samples)
        self.postprocess = TwoStagePostProcess("mmdet", score_threshold, pairs, iou_threshold, detections)
        self.mask_head = FCNMaskHead(in_channels, mask_channels, num_classes, 0)

    def segment(self, maps, boxes):
        """Mask logits (N * R, K, 14, 14) of boxes (N, R, 4)."""
        return self.mask_head(self.features(maps, boxes))

    def forward(self, maps, proposals, image_size, targets=None, given: bool = False):
        found = super().forward(maps, proposals, image_size, targets, given)
        return with_masks(self, found, maps, image_size, targets, given)


class SingleMapDetector(nn.Module):
    """Backbone, and two stages on its map of stride 16 (mmdet's names).

    Args:
        backbone: returns one map by name.
        rpn_head: the first stage, see :class:`ProposalNetwork`.
        roi_head: the second, see :class:`RoIHead`.

    Inputs: as for :class:`FasterRCNN`.
    Returns: as for :class:`TwoStageDetector`, or with masks of :class:`MaskRCNN`.
    """

    def __init__(self, backbone, rpn_head, roi_head):
        super().__init__()
        self.backbone, self.rpn_head, self.roi_head = backbone, rpn_head, roi_head

    def forward(self, images, proposals=None, targets=None):
        (x,) = self.backbone(images).values()
        return two_stages(self.rpn_head, self.roi_head, {MAP: x}, images, proposals, targets)


def inside_criterion(**options) -> TwoStageCriterion:
    """mmdet's losses; anchors that cross the border of the image take no part."""
    return mmdet_criterion(**{"inside": True, **options})


def inside_mask_criterion(**options) -> MaskCriterion:
    """The same with masks."""
    return MaskCriterion(**{"convention": "mmdet", "inside": True, **options})


def faster_rcnn_r50_caffe_c4(
    layers=(3, 4, 6, 3),
    planes=(64, 128, 256, 512),
    num_classes: int = 80,
    candidates: tuple[int, int] = (12000, 6000),
    proposals: tuple[int, int] = (2000, 1000),
    samples: int = 512,
) -> SingleMapDetector:
    backbone = C4Trunk(layers[:3], planes[:3])
    rpn_head = RPNHead(backbone.channels["c4"], candidates, proposals, SIZES)
    shared_head = SharedHead(layers[3], planes[3])
    return SingleMapDetector(backbone, rpn_head, C4RoIHead(shared_head, 4 * planes[3], num_classes, samples))


def mask_rcnn_r50_caffe_c4(
    layers=(3, 4, 6, 3),
    planes=(64, 128, 256, 512),
    num_classes: int = 80,
    candidates: tuple[int, int] = (12000, 6000),
    proposals: tuple[int, int] = (2000, 1000),
    samples: int = 512,
    mask_channels: int = 256,
    pairs: int = 4096,
    detections: int = 100,
) -> SingleMapDetector:
    backbone = C4Trunk(layers[:3], planes[:3])
    rpn_head = RPNHead(backbone.channels["c4"], candidates, proposals, SIZES)
    shared_head = SharedHead(layers[3], planes[3])
    head = C4MaskRoIHead(
        shared_head, 4 * planes[3], num_classes, samples, mask_channels, pairs=pairs, detections=detections
    )
    return SingleMapDetector(backbone, rpn_head, head)


def faster_rcnn_r50_caffe_dc5(
    layers=(3, 4, 6, 3),
    planes=(64, 128, 256, 512),
    num_classes: int = 80,
    units: int = 1024,
    candidates: tuple[int, int] = (12000, 6000),
    proposals: tuple[int, int] = (2000, 1000),
    samples: int = 512,
) -> SingleMapDetector:
    backbone = ResNet(
        Bottleneck,
        layers,
        planes=planes,
        stride_in_1x1=True,
        dilations=(1, 1, 1, 2),
        contract_dilation=False,
        norm_eval=True,
        frozen_stages=1,
        features_only=True,
        out_indices=(4,),
    )
    rpn_head = RPNHead(backbone.channels["c5"], candidates, proposals, SIZES)
    head = StandardRoIHead(backbone.channels["c5"], num_classes, units, samples=samples, levels=(MAP,))
    return SingleMapDetector(backbone, rpn_head, head)
