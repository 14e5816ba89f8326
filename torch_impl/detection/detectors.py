"""DetectoRS: features looked at twice, through a recursive pyramid and through convolutions of switchable dilation.

"DetectoRS: Detecting Objects with Recursive Feature Pyramid and Switchable Atrous Convolution", 2020, arXiv:2006.02334.
Parameter names: mmdet ``detectors``, ``backbones/detectors_resnet.py``, ``necks/rfp.py`` (Apache-2.0). All kernels of
the trunks are standardised. The pyramid's levels are fed into a second trunk, which sees the image again; the levels of
both are blended.

Mirror notes:
- NCHW here, NHWC in TensorFlow. Keras infers the widths of the maps.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.detection._proposals import RPNHead
from torch_impl.detection._trunk import ConvBottleneck, ConvResNet
from torch_impl.detection.cascade_rcnn import CascadeCriterion, CascadePostProcess, CascadeRoIHead
from torch_impl.detection.faster_rcnn import TwoStageDetector
from torch_impl.detection.htc import CascadeMaskPostProcess, HTCCriterion, HTCRoIHead
from torch_impl.layers.switchable_conv import SAConv2d
from torch_impl.layers.weight_standardization import ConvAWS2d
from torch_impl.necks.fpn import FPN

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


class RecursiveBottleneck(ConvBottleneck):
    """:class:`ConvBottleneck` to whose sum a fed-back level may be added, through a 1x1 convolution ``rfp_conv``.

    Args: of :class:`ConvBottleneck`.

    x: (N, C, H, W), fed back: (N, D, H', W') or None -> (N, 4 * planes, H', W').
    """

    def forward(self, x, feedback=None):
        y = self.residual(x)
        return F.relu(y if feedback is None else y + self.rfp_conv(feedback))


class RecursiveResNet(ConvResNet):
    """:class:`ConvResNet` with standardised kernels, to which levels of a pyramid may be fed back.

    Args:
        switchable: whether the 3x3 convolutions of stages 2 to 4 are switchable.
        feedback_channels: of the levels; None if there are none.
        layers, planes, groups, base_width: see :class:`ConvResNet`.

    Inputs: images (N, 3, H, W); ``feedback``, levels of the sizes of "c3" to "c5", or None.
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
    ):
        super().__init__(layers, planes, groups, base_width, ConvAWS2d, SAConv2d if switchable else None)
        if feedback_channels is not None:
            for stage, width in zip((self.layer2, self.layer3, self.layer4), planes[1:]):
                stage[0].rfp_conv = nn.Conv2d(feedback_channels, 4 * width, 1)
                nn.init.zeros_(stage[0].rfp_conv.weight)
                nn.init.zeros_(stage[0].rfp_conv.bias)

    def forward(self, images, feedback=None):
        if feedback is None:
            return {"image": images, **self.forward_features(images)}
        x = self.layer1(self.forward_stem(images))
        maps = {"c2": x}
        for i, (stage, level) in enumerate(zip((self.layer2, self.layer3, self.layer4), feedback), start=3):
            x = stage[0](x, level)
            for block in stage[1:]:
                x = block(x)
            maps[f"c{i}"] = x
        return maps


class FeedbackASPP(nn.Module):
    """Four parallel branches with ReLU: 1x1, two dilated 3x3 ones, and the mean of the whole map.

    Args:
        channels: of the map, a multiple of 4.

    x: (N, channels, H, W), the same shape out.
    """

    def __init__(self, channels: int):
        super().__init__()
        branches = []
        for i, dilation in enumerate(ASPP_DILATIONS):
            kernel, padding = (3, dilation) if i in (1, 2) else (1, 0)
            branches.append(nn.Conv2d(channels, channels // 4, kernel, padding=padding, dilation=dilation))
        self.aspp = nn.ModuleList(branches)

    def forward(self, x):
        *local, last = self.aspp
        found = [F.relu(branch(x)) for branch in local]
        whole = F.relu(last(x.mean((2, 3), keepdim=True)))  # mirror: NCHW
        return torch.cat([*found, whole.expand_as(found[0])], 1)


class RecursiveFPN(FPN):
    """:class:`FPN` of two trunks, the second of which receives the levels of the first; a gate blends both.

    Args:
        in_channels, out_channels: see :class:`FPN`.
        trunk: the second trunk, a :class:`RecursiveResNet`.

    Inputs: dict of maps of the first trunk, and the ``"image"``.
    Returns: dict of levels (N, out_channels, H_i, W_i), "p2" to "p6".
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int, trunk):
        super().__init__(in_channels, out_channels)
        self.rfp_modules = nn.ModuleList([trunk])
        self.rfp_aspp = FeedbackASPP(out_channels)
        self.rfp_weight = nn.Conv2d(out_channels, 1, 1)
        nn.init.zeros_(self.rfp_weight.weight)
        nn.init.zeros_(self.rfp_weight.bias)

    def forward(self, maps):
        first = super().forward(maps)
        feedback = [self.rfp_aspp(first[name]) for name in FED_BACK]
        second = super().forward(self.rfp_modules[0](maps["image"], feedback))
        mixed = {}
        for name, x in second.items():
            gate = torch.sigmoid(self.rfp_weight(x))
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
    head = CascadeRoIHead(out_channels, num_classes, units, samples)
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
