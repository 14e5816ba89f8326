"""RetinaNet on the pyramid NAS-FPN, with batch normalisation in its towers.

"NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection", 2019, arXiv:1904.07392.
Parameter names: mmdet ``dense_heads/retina_sepbn_head.py``, ``configs/nas_fpn`` (Apache-2.0).
What to look at: the towers' convolutions are shared by all levels, their normalisations are not.

Mirror notes:
- NCHW here, NHWC in TensorFlow: the heads' maps are transposed before they become rows of anchors, there not.
"""

import torch
from torch import nn

from torch_impl.boxes.anchors import cell_anchors, grid_anchors
from torch_impl.detection._dense import LEVELS, PRIOR_BIAS, STRIDES, DenseHead, dense_backbone
from torch_impl.detection.retinanet import (
    BASE_SIZE,
    OCTAVES,
    RATIOS,
    RetinaNetCriterion,
    retinanet_mmdet_criterion,
    retinanet_mmdet_postprocess,
)
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.initialization import normal
from torch_impl.layers.rows import anchor_rows
from torch_impl.necks.nas_fpn import NASFPN

__all__ = [
    "NASFPNRetinaNet",
    "RetinaSepBNHead",
    "nas_fpn_criterion",
    "retinanet_mmdet_postprocess",
    "retinanet_r50_nasfpn",
]


def separate_towers(channels: int, num_convs: int) -> nn.ModuleList:
    """A tower of convolutions per level, with shared kernels and separate normalisations."""
    first = [ConvModule(channels, channels, 3, 1, 1, norm="batch") for _ in range(num_convs)]
    towers = [nn.ModuleList(first)]
    for _ in LEVELS[1:]:
        convs = [ConvModule(channels, channels, 3, norm="batch", conv=lambda *a, x=x.conv, **k: x) for x in first]
        towers.append(nn.ModuleList(convs))
    return nn.ModuleList(towers)


class RetinaSepBNHead(nn.Module):
    """Classes and boxes of every anchor; the levels share everything except their batch normalisations.

    Args:
        channels: channels of the levels and of the convolutions.
        num_anchors: anchors A of a cell.
        num_classes: classes K.
        num_convs: convolutions of each tower.

    Inputs: dict of levels (N, C, H, W).
    Returns: class logits (N, sum of H * W * A, K), box deltas (N, sum of H * W * A, 4).
    """

    def __init__(self, channels: int, num_anchors: int, num_classes: int, num_convs: int = 4):
        super().__init__()
        self.num_classes = num_classes
        self.cls_convs = separate_towers(channels, num_convs)
        self.reg_convs = separate_towers(channels, num_convs)
        normal(self, 0.01)
        self.retina_cls = DenseHead.last(channels, num_anchors * num_classes, PRIOR_BIAS)
        self.retina_reg = DenseHead.last(channels, num_anchors * 4)

    def forward(self, maps):
        logits, deltas = [], []
        for x, of_classes, of_boxes in zip(maps.values(), self.cls_convs, self.reg_convs):
            y = x
            for conv in of_classes:
                y = conv(y)
            logits.append(anchor_rows(self.retina_cls(y), self.num_classes))  # mirror: rows of anchors
            for conv in of_boxes:
                x = conv(x)
            deltas.append(anchor_rows(self.retina_reg(x), 4))
        return torch.cat(logits, 1), torch.cat(deltas, 1)


class NASFPNRetinaNet(nn.Module):
    """Residual network, pyramid, head.

    Args:
        backbone: returns its maps by name.
        out_channels: channels of the levels.
        stack_times: stages of the pyramid.
        num_classes: classes K, without a background.
        num_convs: convolutions of each tower of the head.

    Inputs: (N, 3, H, W) float, normalised; H and W multiples of 128.
    Returns: dict: ``"cls_logits"`` (N, A, K), ``"bbox_regression"`` (N, A, 4) deltas; ``"anchors_p3"`` to
        ``"anchors_p7"`` (A_l, 4) xyxy in pixels, the anchors of each level, A together; ``"image_size"`` (2,) int64,
        H and W.
    """

    def __init__(
        self, backbone, out_channels: int = 256, stack_times: int = 7, num_classes: int = 80, num_convs: int = 4
    ):
        super().__init__()
        self.backbone = backbone
        self.neck = NASFPN(backbone.channels, out_channels, stack_times)
        self.cells = [cell_anchors([BASE_SIZE * stride * octave for octave in OCTAVES], RATIOS) for stride in STRIDES]
        self.bbox_head = RetinaSepBNHead(out_channels, len(self.cells[0]), num_classes, num_convs)

    def forward(self, images):
        maps = self.neck(self.backbone(images))
        logits, deltas = self.bbox_head(maps)
        outputs = {"cls_logits": logits, "bbox_regression": deltas}
        for (level, x), cell, stride in zip(maps.items(), self.cells, STRIDES):
            anchors = grid_anchors(cell, x.shape[2:], (stride, stride))
            outputs[f"anchors_{level}"] = torch.from_numpy(anchors).to(x)
        return {**outputs, "image_size": torch.tensor(images.shape[2:], device=images.device)}


def nas_fpn_criterion(negative: float = 0.5, **options) -> RetinaNetCriterion:
    """RetinaNet's losses as in mmdet, without ignored anchors."""
    return retinanet_mmdet_criterion(negative=negative, **options)


def retinanet_r50_nasfpn(
    depth: int = 50,
    out_channels: int = 256,
    stack_times: int = 7,
    num_classes: int = 80,
    num_convs: int = 4,
    norm_eval: bool = False,
    **options,
) -> NASFPNRetinaNet:
    backbone = dense_backbone(depth, norm_eval=norm_eval, **options)
    return NASFPNRetinaNet(backbone, out_channels, stack_times, num_classes, num_convs)
