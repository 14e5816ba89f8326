"""RetinaNet on EfficientNet, with batch normalisation in pyramid and towers.

"Focal Loss for Dense Object Detection", 2017, arXiv:1708.02002; "EfficientNet: Rethinking Model Scaling for
Convolutional Neural Networks", 2019, arXiv:1905.11946.
Parameter names: mmdet ``configs/efficientnet`` (Apache-2.0), those of the backbone as in timm.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.anchors import cell_anchors, grid_anchors
from torch_impl.classification.efficientnet import tf_efficientnet_b3
from torch_impl.detection._dense import STRIDES
from torch_impl.detection.nas_fpn import RetinaSepBNHead, nas_fpn_criterion
from torch_impl.detection.retinanet import BASE_SIZE, OCTAVES, RATIOS, retinanet_mmdet_postprocess
from torch_impl.layers.conv_module import ConvModule
from torch_impl.necks.fpn import level_names, top_down

__all__ = [
    "EfficientNetRetinaNet",
    "NormalisedFPN",
    "nas_fpn_criterion",
    "retinanet_effb3_fpn",
    "retinanet_mmdet_postprocess",
]


class NormalisedFPN(nn.Module):
    """A feature pyramid whose 3x3 convolutions have batch normalisations, and the 1x1 ones biases.

    Args:
        in_channels: channels of every map that is used, by name, fine to coarse.
        out_channels: channels of the levels.
        num_outs: number of levels; those beyond the maps are a chain of stride-2 convolutions after the last map, with
            a ReLU in between.

    Inputs: dict of maps (N, C_i, H_i, W_i).
    Returns: dict of levels (N, out_channels, H_i, W_i), fine to coarse, "p3" for "c3" and so on.
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 256, num_outs: int = 5):
        super().__init__()
        self.num_outs, self.used = num_outs, tuple(in_channels)
        widths, options = list(in_channels.values()), {"norm": "batch", "activation": None}
        self.lateral_convs = nn.ModuleList(ConvModule(c, out_channels, 1, activation=None) for c in widths)
        convs = [ConvModule(out_channels, out_channels, 3, 1, 1, **options) for _ in widths]
        for i in range(num_outs - len(widths)):
            convs.append(ConvModule(widths[-1] if i == 0 else out_channels, out_channels, 3, 2, 1, **options))
        self.fpn_convs = nn.ModuleList(convs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, maps):
        maps = [maps[name] for name in self.used]
        laterals = top_down([conv(x) for conv, x in zip(self.lateral_convs, maps)])
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        x = maps[-1]
        for i in range(len(laterals), self.num_outs):
            x = F.relu(x) if i > len(laterals) else x
            x = self.fpn_convs[i](x)
            levels.append(x)
        return dict(zip(level_names(self.used, len(levels)), levels))


class EfficientNetRetinaNet(nn.Module):
    """EfficientNet, pyramid, head.

    Args:
        backbone: returns its maps by name.
        out_channels: channels of the levels.
        num_classes: classes K, without a background.
        num_convs: convolutions of each tower of the head.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"cls_logits"`` (N, A, K), ``"bbox_regression"`` (N, A, 4) deltas; ``"anchors_p3"`` to
        ``"anchors_p7"`` (A_l, 4) xyxy in pixels, the anchors of each level, A together; ``"image_size"`` (2,) int64,
        H and W.
    """

    def __init__(self, backbone, out_channels: int = 256, num_classes: int = 80, num_convs: int = 4):
        super().__init__()
        self.backbone = backbone
        self.neck = NormalisedFPN(backbone.channels, out_channels)
        self.cells = [cell_anchors([BASE_SIZE * stride * octave for octave in OCTAVES], RATIOS) for stride in STRIDES]
        self.bbox_head = RetinaSepBNHead(out_channels, len(self.cells[0]), num_classes, num_convs)

    def forward(self, images):
        maps = self.neck(self.backbone(images))
        logits, deltas = self.bbox_head(maps)
        outputs = {"cls_logits": logits, "bbox_regression": deltas}
        for (level, x), cell, stride in zip(maps.items(), self.cells, STRIDES):
            anchors = grid_anchors(cell, x.shape[2:], (stride, stride))  # mirror: NCHW
            outputs[f"anchors_{level}"] = torch.from_numpy(anchors).to(x)
        return {**outputs, "image_size": torch.tensor(images.shape[2:], device=images.device)}


def retinanet_effb3_fpn(
    out_channels: int = 256, num_classes: int = 80, num_convs: int = 4, **options
) -> EfficientNetRetinaNet:
    backbone = tf_efficientnet_b3(features_only=True, out_indices=(2, 3, 4), **options)
    return EfficientNetRetinaNet(backbone, out_channels, num_classes, num_convs)
