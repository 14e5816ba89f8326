"""Faster and Mask R-CNN on one map of stride 16: C4, whose second stage is the residual network's last stage, and DC5.

"Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015, arXiv:1506.01497; C4: "Deep
Residual Learning for Image Recognition", 2015, arXiv:1512.03385, appendix A; "Mask R-CNN", 2017, arXiv:1703.06870; DC5:
"Deformable Convolutional Networks", 2017, arXiv:1703.06211.
Parameter names: mmdet ``faster_rcnn``, ``mask_rcnn``, ``roi_heads/shared_heads/res_layer.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch. Keras infers the widths of the maps.
"""

import keras
import tensorflow as tf

from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.detection._masks import MaskCriterion, MaskPostProcess, with_masks
from tf_impl.detection._proposals import RPNHead
from tf_impl.detection._two_stage import RoIHead, TwoStageCriterion, TwoStagePostProcess, two_stages
from tf_impl.detection.faster_rcnn import StandardRoIHead, mmdet_criterion, mmdet_postprocess
from tf_impl.layers.backbone import Backbone
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.rois.extractors import RoIExtractor
from tf_impl.rois.mask_heads import FCNMaskHead

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


@keras.saving.register_keras_serializable("diptych")
class C4Trunk(ResNet):
    """A residual network that ends with its third stage, frozen as in mmdet.

    Args:
        layers, planes: of the three stages, see :class:`ResNet`.

    Inputs: (N, H, W, 3) float.
    Returns: dict: ``"c4"`` (N, ceil(H / 16), ceil(W / 16), C).
    """

    def __init__(self, layers: tuple[int, ...], planes: tuple[int, ...], **kwargs):
        super().__init__(
            Bottleneck,
            layers,
            planes=planes,
            stride_in_1x1=True,
            norm_eval=True,
            frozen_stages=1,
            features_only=True,
            out_indices=(3,),
            **kwargs,
        )

    def levels(self) -> list:
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3]]

    def forward_features(self, images, training=False) -> dict:
        x = self.forward_stem(images, training)
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x, training=training)
        return {"c4": x}


@keras.saving.register_keras_serializable("diptych")
class SharedHead(Backbone):
    """The last stage of a residual network, applied to the features of boxes; its normalisation uses the running
    statistics.

    Args:
        depth, planes: blocks, and their nominal width, see :class:`Bottleneck`.

    Inputs: (R, 14, 14, 2 * planes).  Returns: (R, 7, 7, 4 * planes).
    """

    def __init__(self, depth: int, planes: int, **kwargs):
        super().__init__(**kwargs)
        blocks = [Bottleneck(planes, 2, project=True, stride_in_1x1=True)]
        self.layer4 = keras.Sequential([*blocks, *(Bottleneck(planes) for _ in range(depth - 1))])
        self.freeze(norm_eval=True, frozen_stages=-1)

    def levels(self) -> list:
        return [[self.layer4]]

    def call(self, x, training=False):
        return self.layer4(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class PooledBBoxHead(keras.layers.Layer):
    """Class logits and box deltas of averaged features (mmdet's ``BBoxHead``).

    Args:
        num_classes: classes K; the background is one more logit, the last.

    Inputs: (R, B, B, C).  Returns: (R, K + 1), (R, 4 * K).
    """

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        initial = [keras.initializers.RandomNormal(stddev=std) for std in (0.01, 0.001)]
        self.fc_cls = Dense(num_classes + 1, kernel_initializer=initial[0], bias_initializer="zeros")
        self.fc_reg = Dense(4 * num_classes, kernel_initializer=initial[1], bias_initializer="zeros")

    def call(self, x):
        x = tf.reduce_mean(x, (1, 2))
        return self.fc_cls(x), self.fc_reg(x)


@keras.saving.register_keras_serializable("diptych")
class C4RoIHead(RoIHead):
    """The second stage: the last stage of the residual network on the features of each box.

    Args:
        shared_head: the stage applied to the pooled features.
        num_classes: classes K, without a background.
        samples: see :class:`RoIHead`.
    """

    def __init__(self, shared_head, num_classes: int, samples: int = 512, **kwargs):
        super().__init__("mmdet", samples, **kwargs)
        self.bbox_roi_extractor = RoIExtractor("mmdet", 14, (MAP,))
        self.shared_head = shared_head
        self.bbox_head = PooledBBoxHead(num_classes)

    def features(self, maps, boxes):
        """(N * R, 7, 7, C) of boxes (N, R, 4)."""
        return self.shared_head(self.bbox_roi_extractor(maps, boxes))

    def classify(self, maps, boxes):
        return self.bbox_head(self.features(maps, boxes))


@keras.saving.register_keras_serializable("diptych")
class C4MaskRoIHead(C4RoIHead):
    """The second stage with masks from the same features.

    Args:
        shared_head, num_classes, samples: see :class:`C4RoIHead`.
        mask_filters: width of the enlarged features.
        score_threshold, pairs, iou_threshold, detections: of the best boxes, see :class:`TwoStagePostProcess`.
    """

    def __init__(
        self,
        shared_head,
        num_classes: int,
        samples: int = 512,
        mask_filters: int = 256,
        score_threshold: float = 0.05,
        pairs: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
        **kwargs,
    ):
        super().__init__(shared_head, num_classes, samples, **kwargs)
        self.postprocess = TwoStagePostProcess("mmdet", score_threshold, pairs, iou_threshold, detections)
        self.mask_head = FCNMaskHead(mask_filters, num_classes, 0)

    def segment(self, maps, boxes):
        """Mask logits (N * R, 14, 14, K) of boxes (N, R, 4)."""
        return self.mask_head(self.features(maps, boxes))

    def call(self, maps, proposals, image_size, targets=None, given: bool = False):
        found = super().call(maps, proposals, image_size, targets, given)
        return with_masks(self, found, maps, image_size, targets, given)


@keras.saving.register_keras_serializable("diptych")
class SingleMapDetector(Model):
    """Backbone, and two stages on its map of stride 16 (mmdet's names).

    Args:
        backbone: returns one map by name.
        rpn_head: the first stage, see :class:`ProposalNetwork`.
        roi_head: the second, see :class:`RoIHead`.

    Inputs: as for :class:`FasterRCNN`.
    Returns: as for :class:`TwoStageDetector`, or with masks of :class:`MaskRCNN`.
    """

    def __init__(self, backbone, rpn_head, roi_head, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone, self.rpn_head, self.roi_head = backbone, rpn_head, roi_head

    def call(self, images, proposals=None, targets=None, training=False):
        (x,) = self.backbone(images, training=training).values()
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
    return SingleMapDetector(backbone, rpn_head, C4RoIHead(shared_head, num_classes, samples))


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
    head = C4MaskRoIHead(shared_head, num_classes, samples, mask_channels, pairs=pairs, detections=detections)
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
    head = StandardRoIHead(num_classes, units, samples=samples, levels=(MAP,))
    return SingleMapDetector(backbone, rpn_head, head)
