"""CenterNet: an object is a peak in its class's heat map, with its size and the offset of its centre in the cell.

"Objects as Points", 2019, arXiv:1904.07850.
Parameter names: xingyizhou/CenterNet ``networks/resnet_dcn.py``, ``networks/msra_resnet.py``,
``networks/pose_dla_dcn.py`` (MIT).
What to look at: no anchors and no suppression; a peak is a local maximum, found by one max pooling.

Mirror notes:
- PyTorch fills the kernels of finished layers, Keras gives each layer its initial values; in the residual networks some
  upsampling is initially bilinear.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.heatmaps import gaussian_radius, heat_maps, peaks
from torch_impl.classification.dla import dla34
from torch_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from torch_impl.layers.initialization import normal
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import map_rows, take_rows
from torch_impl.losses.box import l1_loss
from torch_impl.losses.heatmap import clamped_sigmoid, heatmap_focal_loss
from torch_impl.necks.dla_up import DCNv2, DLAUp, IDAUp, bilinear_kernel

__all__ = [
    "CenterNetCriterion",
    "CenterNetDLA",
    "CenterNetPostProcess",
    "CenterNetResNet",
    "centernet_dla34",
    "centernet_res18",
    "centernet_res101",
    "centernet_resdcn18",
    "centernet_resdcn101",
]

STRIDE = 4  # pixels per cell of the maps
PRIOR_BIAS = -2.19  # logit of a heat map before training: probability 0.1


def prediction(in_channels: int, hidden: int, out_channels: int, bias: float = 0.0, std: float | None = None):
    """3x3 and 1x1 convolution; ``bias`` and ``std`` set initial values, None for PyTorch's."""
    head = nn.Sequential(nn.Conv2d(in_channels, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, out_channels, 1))
    if std is not None:
        normal(head, std)
    nn.init.constant_(head[2].bias, bias)
    return head


def bilinear_first(conv: nn.ConvTranspose2d) -> nn.ConvTranspose2d:
    """Set bilinear kernels for all inputs of a transposed convolution's first output channel, as in the reference."""
    with torch.no_grad():
        conv.weight[:, 0] = torch.from_numpy(bilinear_kernel(conv.kernel_size[0]))  # mirror: fills the kernels
    return conv


class CenterNetResNet(ResNet):
    """Residual network, three upsamplings, three maps.

    Args:
        block, layers, planes: of the residual network, see :class:`ResNet`.
        widths: of the upsamplings, each of which doubles the map.
        deformable: whether a deformable convolution comes before each.
        num_classes: classes K.
        hidden: width of the predictions' first convolutions.

    Inputs: (N, 3, H, W) float, normalised; H and W multiples of 32.
    Returns: dict: ``"hm"`` (N, K, H / 4, W / 4) logits, ``"wh"`` (N, 2, H / 4, W / 4) width and height of the box in
        cells, ``"reg"`` (N, 2, H / 4, W / 4) the centre's x and y offsets, in cells.
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        widths: tuple[int, ...] = (256, 128, 64),
        deformable: bool = True,
        num_classes: int = 80,
        hidden: int = 64,
    ):
        super().__init__(block, layers, planes=planes, features_only=True, out_indices=(4,))
        channels, parts = self.channels["c5"], []
        for width in widths:
            if deformable:
                parts += [DCNv2(channels, width), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            up = nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False)
            if deformable:
                bilinear_first(up)
            else:
                nn.init.normal_(up.weight, std=0.001)
            parts += [up, nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.deconv_layers = nn.Sequential(*parts)
        self.hm = prediction(channels, hidden, num_classes, PRIOR_BIAS)
        self.wh = prediction(channels, hidden, 2, std=0.001)
        self.reg = prediction(channels, hidden, 2, std=0.001)

    def forward(self, images):
        x = self.deconv_layers(self.forward_features(images)["c5"])
        return {"hm": self.hm(x), "wh": self.wh(x), "reg": self.reg(x)}


class CenterNetDLA(nn.Module):
    """Deep layer aggregation, its upsampling, three maps.

    Args:
        depths, widths: of the aggregation, see :class:`DLA`; its classifier exists but is unused.
        num_classes: classes K.
        hidden: width of the predictions' first convolutions.
        classifier: classes of the unused classifier.

    Inputs: (N, 3, H, W) float, normalised; H and W multiples of 32.
    Returns: see :class:`CenterNetResNet`.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (1, 1, 1, 2, 2, 1),
        widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512),
        num_classes: int = 80,
        hidden: int = 256,
        classifier: int = 1000,
    ):
        super().__init__()
        self.base = dla34(depths, widths, num_classes=classifier, features_only=True, out_indices=(1, 2, 3, 4))
        self.dla_up = DLAUp(widths[2:])
        self.ida_up = IDAUp(widths[2:5], widths[2], (1, 2, 4))
        self.hm = prediction(widths[2], hidden, num_classes, PRIOR_BIAS)
        self.wh = prediction(widths[2], hidden, 2)
        self.reg = prediction(widths[2], hidden, 2)

    def forward(self, images):
        maps = self.dla_up(list(self.base(images).values()))
        x = self.ida_up(maps[:3])[-1]
        return {"hm": self.hm(x), "wh": self.wh(x), "reg": self.reg(x)}


class CenterNetCriterion(nn.Module):
    """Focal loss of the heat maps, L1 losses of size and offset at the objects' centres.

    Args:
        overlap: IoU with itself that a box keeps when its corners move within the peak.
        wh_weight, off_weight: of the two L1 losses in the total.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Boxes without area inside the map take no part.
    Returns: dict of scalars: ``"hm_loss"``, ``"wh_loss"``, ``"off_loss"``, ``"total"``.
    """

    def __init__(self, overlap: float = 0.7, wh_weight: float = 0.1, off_weight: float = 1.0):
        super().__init__()
        self.overlap, self.wh_weight, self.off_weight = overlap, wh_weight, off_weight

    def forward(self, outputs, targets):
        heat, dtype = clamped_sigmoid(outputs["hm"]), outputs["hm"].dtype
        height, width = map_size(outputs["hm"])
        limit = torch.tensor([width - 1, height - 1] * 2, dtype=dtype, device=heat.device)
        boxes = torch.minimum(torch.clamp(targets["boxes"].to(dtype) / STRIDE, min=0.0), limit)
        size = boxes[..., 2:] - boxes[..., :2]  # (N, M, 2)
        valid = targets["valid"] & (size > 0).all(-1)
        size = torch.where(valid[..., None], size, 1.0)
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2
        cell = torch.floor(centre)

        whole = torch.ceil(size)
        radius = gaussian_radius(whole[..., 1], whole[..., 0], self.overlap, corrected=False)
        radius = torch.floor(torch.clamp(radius, min=0.0))
        wanted = heat_maps(cell, radius, targets["labels"], valid, heat.shape[1], (height, width))
        peak = heatmap_focal_loss(heat, wanted)

        index = (cell[..., 1] * width + cell[..., 0]).long()
        count = 2 * valid.to(dtype).sum() + 1e-4  # number of values, two per object
        found = l1_loss(take_rows(map_rows(outputs["wh"]), index), size)
        extent = torch.where(valid, found, 0.0).sum() / count
        found = l1_loss(take_rows(map_rows(outputs["reg"]), index), centre - cell)
        rest = torch.where(valid, found, 0.0).sum() / count
        return {
            "hm_loss": peak,
            "wh_loss": extent,
            "off_loss": rest,
            "total": peak + self.wh_weight * extent + self.off_weight * rest,
        }


class CenterNetPostProcess(nn.Module):
    """The highest peaks of every image.

    Args:
        detections: results per image, D.
        kernel_size: size of the window in which a peak is the highest.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(self, detections: int = 100, kernel_size: int = 3):
        super().__init__()
        self.detections, self.kernel_size = detections, kernel_size

    def forward(self, outputs):
        heat = torch.sigmoid(outputs["hm"])
        cells = heat.shape[1] * heat.shape[2] * heat.shape[3]
        scores, labels, row, column = peaks(heat, self.kernel_size, min(self.detections, cells))
        index = row * heat.shape[3] + column
        place = torch.stack((column, row), -1).to(heat.dtype)
        centre = place + take_rows(map_rows(outputs["reg"]), index)
        half = take_rows(map_rows(outputs["wh"]), index) / 2
        boxes, valid = STRIDE * torch.cat((centre - half, centre + half), -1), scores > 0
        padding = (0, self.detections - scores.shape[1])
        return {
            "boxes": F.pad(torch.where(valid[..., None], boxes, 0.0), (0, 0, *padding)),
            "scores": F.pad(scores, padding),
            "labels": F.pad(torch.where(valid, labels, 0), padding),
            "valid": F.pad(valid, padding),
        }


def centernet_resdcn18(block=BasicBlock, layers=(2, 2, 2, 2), **options) -> CenterNetResNet:
    return CenterNetResNet(block, layers, **options)


def centernet_resdcn101(block=Bottleneck, layers=(3, 4, 23, 3), **options) -> CenterNetResNet:
    return CenterNetResNet(block, layers, **options)


def centernet_res18(
    block=BasicBlock, layers=(2, 2, 2, 2), widths=(256, 256, 256), deformable=False, **options
) -> CenterNetResNet:
    return CenterNetResNet(block, layers, widths=widths, deformable=deformable, **options)


def centernet_res101(
    block=Bottleneck, layers=(3, 4, 23, 3), widths=(256, 256, 256), deformable=False, **options
) -> CenterNetResNet:
    return CenterNetResNet(block, layers, widths=widths, deformable=deformable, **options)


def centernet_dla34(**options) -> CenterNetDLA:
    return CenterNetDLA(**options)
