"""DetectoRS: features looked at twice, through a recursive pyramid and through convolutions of switchable dilation.

"DetectoRS: Detecting Objects with Recursive Feature Pyramid and Switchable Atrous Convolution", 2020, arXiv:2006.02334.
Parameter names: mmdet ``detectors``, ``backbones/detectors_resnet.py``, ``necks/rfp.py`` (Apache-2.0). All kernels of
the trunks are standardised. The pyramid's levels are fed into a second trunk, which sees the image again; the levels of
both are blended.

Mirror notes:
- NHWC here, NCHW in PyTorch. Keras infers the widths of the maps.
"""

from collections.abc import Mapping

import keras
import tensorflow as tf

from tf_impl.detection._proposals import RPNHead
from tf_impl.detection._trunk import ConvBottleneck, ConvResNet
from tf_impl.detection.cascade_rcnn import CascadeCriterion, CascadePostProcess, CascadeRoIHead
from tf_impl.detection.faster_rcnn import TwoStageDetector
from tf_impl.detection.htc import CascadeMaskPostProcess, HTCCriterion, HTCRoIHead
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.switchable_conv import SAConv2d
from tf_impl.layers.weight_standardization import ConvAWS2d
from tf_impl.necks.fpn import FPN

__all__ = [
    "CascadeCriterion",
    "CascadeMaskPostProcess",
    "CascadePostProcess",
    "FeedbackASPP",
    "HTCCriterion",
    "RecursiveBottleneck",
    "RecursiveFPN",
    "RecursiveResNet",
    "cascade_rcnn_r50_rfp",
    "cascade_rcnn_r50_sac",
    "detectors_cascade_rcnn_r50",
    "detectors_htc_r50",
    "htc_r50_rfp",
    "htc_r50_sac",
]

ASPP_DILATIONS = (1, 3, 6, 1)  # of the four branches; the second and the third have 3x3 kernels
FED_BACK = ("p3", "p4", "p5")  # into the first blocks of stages 2 to 4
ZEROS = {"kernel_initializer": "zeros", "bias_initializer": "zeros"}


@keras.saving.register_keras_serializable("diptych")
class RecursiveBottleneck(ConvBottleneck):
    """:class:`ConvBottleneck` to whose sum a fed-back level may be added, through a 1x1 convolution ``rfp_conv``.

    Args: of :class:`ConvBottleneck`.

    x: (N, H, W, C), fed back: (N, H', W', D) or None -> (N, H', W', 4 * planes).
    """

    def call(self, x, feedback=None, training=False):
        y = self.residual(x, training)
        return tf.nn.relu(y if feedback is None else y + self.rfp_conv(feedback))


@keras.saving.register_keras_serializable("diptych")
class RecursiveResNet(ConvResNet):
    """:class:`ConvResNet` with standardised kernels, to which levels of a pyramid may be fed back.

    Args:
        switchable: whether the 3x3 convolutions of stages 2 to 4 are switchable.
        feedback_channels: of the levels; None if there are none.
        layers, planes, groups, base_width: see :class:`ConvResNet`.

    Inputs: images (N, H, W, 3); ``feedback``, levels of the sizes of "c3" to "c5", or None.
    Returns: dict of the maps ``"c2"`` to ``"c5"``; without feedback also the ``"image"``.
    """

    block = RecursiveBottleneck

    def __init__(
        self,
        switchable: bool = False,
        feedback_channels: int | None = None,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        groups: int = 1,
        base_width: int = 64,
        **kwargs,
    ):
        super().__init__(layers, planes, groups, base_width, ConvAWS2d, SAConv2d if switchable else None, **kwargs)
        if feedback_channels is not None:
            for stage, width in zip((self.layer2, self.layer3, self.layer4), planes[1:]):
                stage.layers[0].rfp_conv = Conv2D(4 * width, 1, **ZEROS)

    def call(self, images, feedback=None, training=False):
        if feedback is None:
            return {"image": images, **self.forward_features(images, training)}
        x = self.layer1(self.forward_stem(images, training), training=training)
        maps = {"c2": x}
        for i, (stage, level) in enumerate(zip((self.layer2, self.layer3, self.layer4), feedback), start=3):
            first, *others = stage.layers
            x = first(x, level, training=training)
            for block in others:
                x = block(x, training=training)
            maps[f"c{i}"] = x
        return maps


@keras.saving.register_keras_serializable("diptych")
class FeedbackASPP(keras.layers.Layer):
    """Four parallel branches with ReLU: 1x1, two dilated 3x3 ones, and the mean of the whole map.

    Args:
        filters: of the map, a multiple of 4.

    x: (N, H, W, filters), the same shape out.
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        branches = []
        for i, dilation in enumerate(ASPP_DILATIONS):
            kernel, padding = (3, dilation) if i in (1, 2) else (1, 0)
            branches.append(Conv2D(filters // 4, kernel, padding=padding, dilation_rate=dilation))
        self.aspp = branches

    def call(self, x):
        *local, last = self.aspp
        found = [tf.nn.relu(branch(x)) for branch in local]
        whole = tf.nn.relu(last(tf.reduce_mean(x, (1, 2), keepdims=True)))  # mirror: NHWC
        return tf.concat([*found, tf.broadcast_to(whole, tf.shape(found[0]))], -1)


@keras.saving.register_keras_serializable("diptych")
class RecursiveFPN(FPN):
    """:class:`FPN` of two trunks, the second of which receives the levels of the first; a gate blends both.

    Args:
        in_channels, out_channels: see :class:`FPN`.
        trunk: the second trunk, a :class:`RecursiveResNet`.

    Inputs: dict of maps of the first trunk, and the ``"image"``.
    Returns: dict of levels (N, H_i, W_i, out_channels), "p2" to "p6".
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int, trunk, **kwargs):
        super().__init__(in_channels, out_channels, **kwargs)
        self.rfp_modules = [trunk]
        self.rfp_aspp = FeedbackASPP(out_channels)
        self.rfp_weight = Conv2D(1, 1, **ZEROS)

    def call(self, maps, training=False):
        first = super().call(maps, training)
        feedback = [self.rfp_aspp(first[name]) for name in FED_BACK]
        second = super().call(self.rfp_modules[0](maps["image"], feedback, training=training), training)
        mixed = {}
        for name, x in second.items():
            gate = tf.sigmoid(self.rfp_weight(x))
            mixed[name] = gate * x + (1 - gate) * first[name]
        return mixed


def detector(head, out_channels, candidates, proposals, recursive: bool, switchable: bool, **options):
    """A two-stage detector with ``head`` as its second stage; options: those of :class:`RecursiveResNet`."""
    backbone = RecursiveResNet(switchable, **options)
    if recursive:
        trunk = RecursiveResNet(switchable, out_channels, **options)
        neck = RecursiveFPN(backbone.channels, out_channels, trunk)
    else:
        neck = FPN(backbone.channels, out_channels, 5)
    return TwoStageDetector(backbone, neck, RPNHead(out_channels, candidates, proposals), head)


def detectors_cascade_rcnn_r50(
    layers=(3, 4, 6, 3),
    recursive: bool = True,
    switchable: bool = True,
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (2000, 1000),
    samples: int = 512,
    **options,
) -> TwoStageDetector:
    head = CascadeRoIHead(num_classes, units, samples)
    return detector(head, out_channels, candidates, proposals, recursive, switchable, layers=layers, **options)


def cascade_rcnn_r50_rfp(switchable: bool = False, **options) -> TwoStageDetector:
    return detectors_cascade_rcnn_r50(switchable=switchable, **options)


def cascade_rcnn_r50_sac(recursive: bool = False, **options) -> TwoStageDetector:
    return detectors_cascade_rcnn_r50(recursive=recursive, **options)


def detectors_htc_r50(
    layers=(3, 4, 6, 3),
    recursive: bool = True,
    switchable: bool = True,
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    mask_channels: int = 256,
    semantic_channels: int = 256,
    semantic_classes: int = 183,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (2000, 1000),
    samples: int = 512,
    pairs: int = 4096,
    detections: int = 100,
    **options,
) -> TwoStageDetector:
    widths = mask_channels, semantic_channels, semantic_classes
    head = HTCRoIHead(out_channels, num_classes, units, samples, *widths, pairs=pairs, detections=detections)
    return detector(head, out_channels, candidates, proposals, recursive, switchable, layers=layers, **options)


def htc_r50_rfp(switchable: bool = False, **options) -> TwoStageDetector:
    return detectors_htc_r50(switchable=switchable, **options)


def htc_r50_sac(recursive: bool = False, **options) -> TwoStageDetector:
    return detectors_htc_r50(recursive=recursive, **options)
