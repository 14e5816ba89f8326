"""mmdet's CenterNet: with convolutions before the upsamplings, other peaks, and losses over dense maps.

"Objects as Points", 2019, arXiv:1904.07850.
Parameter names: mmdet ``necks/ct_resnet_neck.py``, ``dense_heads/centernet_head.py`` (Apache-2.0).
What to look at: the heat maps are returned as probabilities, and the radius of a peak is the corrected one.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.heatmaps import gaussian_radius, heat_maps, peaks
from torch_impl.classification.resnet import BasicBlock, ResNet
from torch_impl.detection.centernet import STRIDE, bilinear_first, prediction
from torch_impl.layers.deform_conv import ModulatedDeformConv2dPack
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import map_rows, take_rows
from torch_impl.losses.box import l1_loss

__all__ = [
    "CenterNetHead",
    "CenterNetNeck",
    "MMDetCenterNet",
    "MMDetCenterNetCriterion",
    "MMDetCenterNetPostProcess",
    "centernet_r18",
    "centernet_r18_dcnv2",
]

PRIOR_BIAS = -2.1972245773362196  # logit of a heat map before training: probability 0.1
EPS = 1e-12  # in the logarithms
SINGLE = 1.1920928955078125e-07  # added to the divisors


class ConvUnit(nn.Module):
    """A convolution, batch normalisation and ReLU.

    Args:
        in_channels, out_channels: widths.
        kind: "plain" or "deformable" convolution of 3x3, or "up", a transposed one of 4x4 that doubles the map.

    x: (N, C, H, W) -> (N, out_channels, H', W').
    """

    def __init__(self, in_channels: int, out_channels: int, kind: str):
        super().__init__()
        if kind == "up":
            self.conv = bilinear_first(nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1, bias=False))
        elif kind == "deformable":
            options = {"padding": 1, "bias": False, "border_grad": "mmcv"}
            self.conv = ModulatedDeformConv2dPack(in_channels, out_channels, 3, **options)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class CenterNetNeck(nn.Module):
    """Alternating convolutions and upsamplings.

    Args:
        in_channels: of the map.
        widths: of the upsamplings, each of which doubles the map.
        deformable: whether the convolutions are deformable.

    x: (N, C, H, W) -> (N, widths[-1], 8 H, 8 W) for three widths.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], deformable: bool):
        super().__init__()
        parts = []
        for width in widths:
            kind = "deformable" if deformable else "plain"
            parts += [ConvUnit(in_channels, width, kind), ConvUnit(width, width, "up")]
            in_channels = width
        self.deconv_layers = nn.Sequential(*parts)

    def forward(self, x):
        return self.deconv_layers(x)


class CenterNetHead(nn.Module):
    """Heat map, sizes and offsets, by two convolutions each.

    Args:
        in_channels: of the map.
        num_classes: classes K.
        hidden: width of the first convolutions.

    x: (N, C, H, W) -> dict, see :class:`MMDetCenterNet`.
    """

    def __init__(self, in_channels: int, num_classes: int, hidden: int):
        super().__init__()
        self.heatmap_head = prediction(in_channels, hidden, num_classes, PRIOR_BIAS)
        self.wh_head = prediction(in_channels, hidden, 2, std=0.001)
        self.offset_head = prediction(in_channels, hidden, 2, std=0.001)

    def forward(self, x):
        return {"heat": torch.sigmoid(self.heatmap_head(x)), "wh": self.wh_head(x), "offset": self.offset_head(x)}


class MMDetCenterNet(nn.Module):
    """Residual network, neck, head.

    Args:
        layers, planes: of the residual network of basic blocks, see :class:`ResNet`.
        widths, deformable: of the neck, see :class:`CenterNetNeck`.
        num_classes: classes K.
        hidden: width of the predictions' first convolutions.

    Inputs: (N, 3, H, W) float, normalised; H and W multiples of 32.
    Returns: dict: ``"heat"`` (N, K, H / 4, W / 4) in [0, 1], ``"wh"`` (N, 2, H / 4, W / 4) width and height of the box
        in cells, ``"offset"`` (N, 2, H / 4, W / 4) the centre's x and y offsets, in cells.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (2, 2, 2, 2),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        widths: tuple[int, ...] = (256, 128, 64),
        deformable: bool = True,
        num_classes: int = 80,
        hidden: int = 64,
    ):
        super().__init__()
        self.backbone = ResNet(BasicBlock, layers, planes=planes, features_only=True, out_indices=(4,))
        self.neck = CenterNetNeck(self.backbone.channels["c5"], widths, deformable)
        self.bbox_head = CenterNetHead(widths[-1], num_classes, hidden)

    def forward(self, images):
        return self.bbox_head(self.neck(self.backbone(images)["c5"]))


class MMDetCenterNetCriterion(nn.Module):
    """Focal loss of the heat maps, L1 losses of size and offset at the cells of the objects' centres.

    Args:
        overlap: IoU with itself that a box keeps when its corners move within the peak.
        wh_weight: of the loss of sizes.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part; of several objects in a cell the
        last one's size and offset count.
    Returns: dict of scalars: ``"loss_center_heatmap"``, ``"loss_wh"``, ``"loss_offset"``, ``"total"``.
    """

    def __init__(self, overlap: float = 0.3, wh_weight: float = 0.1):
        super().__init__()
        self.overlap, self.wh_weight = overlap, wh_weight

    def forward(self, outputs, targets):
        heat = outputs["heat"]
        dtype, (height, width) = heat.dtype, map_size(heat)
        boxes = targets["boxes"].to(dtype) / STRIDE
        size, centre = boxes[..., 2:] - boxes[..., :2], (boxes[..., :2] + boxes[..., 2:]) / 2  # (N, M, 2)
        limit = torch.tensor([width, height], dtype=dtype, device=heat.device)
        valid = targets["valid"] & ((size > 0) & (centre >= 0) & (centre < limit)).all(-1)
        size, centre = (torch.where(valid[..., None], x, 1.0) for x in (size, centre))
        cell = torch.floor(centre)
        radius = torch.floor(torch.clamp(gaussian_radius(size[..., 1], size[..., 0], self.overlap), min=0.0))
        wanted = heat_maps(cell, radius, targets["labels"], valid, heat.shape[1], (height, width))  # mirror: NCHW

        peak = wanted == 1
        count = torch.clamp(peak.to(dtype).sum(), min=1.0)
        at_peaks = torch.log(heat + EPS) * (1 - heat).square()
        elsewhere = torch.log(1 - heat + EPS) * heat.square() * (1 - wanted) ** 4
        peaks_loss = -torch.where(peak, at_peaks, elsewhere).sum() / (count + SINGLE)

        index = (cell[..., 1] * width + cell[..., 0]).long()
        slots = torch.arange(boxes.shape[1], device=heat.device)
        later = slots[:, None] < slots  # (M, M)
        again = (index[:, :, None] == index[:, None]) & later & valid[:, None]
        counted = valid & ~again.any(2)
        losses = {}
        for key, goal in (("wh", size), ("offset", centre - cell)):
            found = l1_loss(take_rows(map_rows(outputs[key]), index), goal)
            losses[key] = torch.where(counted, found, 0.0).sum() / (2 * count + SINGLE)
        extent, rest = self.wh_weight * losses["wh"], losses["offset"]
        return {
            "loss_center_heatmap": peaks_loss,
            "loss_wh": extent,
            "loss_offset": rest,
            "total": peaks_loss + extent + rest,
        }


class MMDetCenterNetPostProcess(nn.Module):
    """The highest peaks of every image.

    Args:
        detections: results per image, D.
        kernel_size: size of the window in which a peak is the highest.

    Inputs: ``outputs`` of the model, with at least D values in the heat maps.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(self, detections: int = 100, kernel_size: int = 3):
        super().__init__()
        self.detections, self.kernel_size = detections, kernel_size

    def forward(self, outputs):
        heat = outputs["heat"]
        scores, labels, row, column = peaks(heat, self.kernel_size, self.detections)
        index = row * map_size(heat)[1] + column
        centre = torch.stack((column, row), -1).to(heat.dtype) + take_rows(map_rows(outputs["offset"]), index)
        half = take_rows(map_rows(outputs["wh"]), index) / 2
        boxes, valid = STRIDE * torch.cat((centre - half, centre + half), -1), scores > 0
        return {
            "boxes": torch.where(valid[..., None], boxes, 0.0),
            "scores": scores,
            "labels": torch.where(valid, labels, 0),
            "valid": valid,
        }


def centernet_r18_dcnv2(layers=(2, 2, 2, 2), **options) -> MMDetCenterNet:
    return MMDetCenterNet(layers, **options)


def centernet_r18(layers=(2, 2, 2, 2), deformable: bool = False, **options) -> MMDetCenterNet:
    return MMDetCenterNet(layers, deformable=deformable, **options)
