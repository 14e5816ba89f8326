"""SiamFC++: every cell of the correlated map predicts whether it is the object, how central it is, and where the
borders are.

"SiamFC++: Towards Robust and Accurate Visual Tracking with Target Estimation Guidelines", 2019, arXiv:1911.06188.
Parameter names: MegviiDetection/video_analyst ``task_model``, ``backbone_impl``, ``task_head_impl`` (MIT). What to look
at: there are no anchors, the last convolutions are normalised too, and two numbers scale and shift all distances before
the exponential.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths.
"""

import functools
import math

import torch
from torch import nn
from torch.nn import functional as F

from torch_impl.layers.cross_correlation import depthwise_cross_correlation

__all__ = [
    "AlexNet",
    "DenseboxHead",
    "SiamFCPP",
    "SiamFCPPCriterion",
    "SiamFCPPPostProcess",
    "TinyConv",
    "siamfcpp_alexnet",
    "siamfcpp_tinyconv",
]

STRIDE = 8  # pixels from cell to cell
PRIOR = -math.log(99)  # logit of the class before training: probability 0.01
TINY = 1.1754944e-38  # of float32, smallest overlap whose logarithm is taken
EPS = 1e-5  # added to the longer sides

POOL = functools.partial(nn.MaxPool2d, 3, 2, ceil_mode=True)


class Conv(nn.Module):
    """Convolution with a bias, and optionally normalisation and ReLU.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, groups: of the convolution.
        norm, relu: whether they follow.
        std: deviation of the kernel before training, None for PyTorch's values.
        bias: the bias before training, None for PyTorch's values.

    x: (N, C, H, W) -> (N, out_channels, H', W').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        norm: bool = True,
        relu: bool = True,
        std: float | None = None,
        bias: float | None = None,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups)
        if std is not None:
            nn.init.normal_(self.conv.weight, std=std)
        if bias is not None:
            nn.init.constant_(self.conv.bias, bias)
        self.bn = nn.BatchNorm2d(out_channels) if norm else None
        self.relu = relu

    def forward(self, x):
        x = self.conv(x)
        x = x if self.bn is None else self.bn(x)
        return x.relu() if self.relu else x


class AlexNet(nn.Module):
    """Five convolutions without padding.

    Args:
        channels: of the convolutions.

    x: (N, 3, H, W) -> (N, channels[-1], H', W').
    """

    def __init__(self, channels: tuple[int, ...] = (96, 256, 384, 384, 256)):
        super().__init__()
        self.channels = channels[-1]
        width = 3
        for i, filters in enumerate(channels, start=1):
            size, stride = {1: (11, 2), 2: (5, 1)}.get(i, (3, 1))
            setattr(self, f"conv{i}", Conv(width, filters, size, stride, relu=i < 5))
            width = filters
        self.pool1, self.pool2 = POOL(), POOL()

    def forward(self, x):
        x = self.pool1(self.conv1(x))
        x = self.pool2(self.conv2(x))
        for conv in (self.conv3, self.conv4, self.conv5):
            x = conv(x)
        return x


class TinyConv(nn.Module):
    """Five small convolutions, one of them depthwise.

    Args:
        width: of the result.

    x: (N, 3, H, W) -> (N, width, H', W').
    """

    def __init__(self, width: int = 64):
        super().__init__()
        self.channels = width
        self.conv1, self.pool1 = Conv(3, 32, 3, 2), POOL()
        self.conv2a, self.conv2b = Conv(32, 64, 1), Conv(64, 64, 7, 2, groups=64)
        self.conv3a, self.conv3b = Conv(64, 64, 3), Conv(64, width, 1, relu=False)

    def forward(self, x):
        x = self.pool1(self.conv1(x))
        for conv in (self.conv2a, self.conv2b, self.conv3a, self.conv3b):
            x = conv(x)
        return x


class DenseboxHead(nn.Module):
    """Two towers over the correlated maps, and their predictions.

    Args:
        channels: of the maps and of the towers.
        norms: which of the towers' convolutions are normalised.

    cls, reg: (N, C, H, W) -> dict: ``"cls_pred"``, ``"ctr_pred"`` (N, 1, H', W') logits, ``"distances"``
        (N, 4, H', W') pixels.
    """

    def __init__(self, channels: int, norms: tuple[bool, ...] = (False, False, True)):
        super().__init__()
        self.depth = len(norms)
        self.bi = nn.Parameter(torch.zeros(()))
        self.si = nn.Parameter(torch.ones(()))
        for i, norm in enumerate(norms, start=1):
            for branch in ("cls", "bbox"):
                setattr(self, f"{branch}_p5_conv{i}", Conv(channels, channels, 3, norm=norm, std=1e-4))
        self.cls_score_p5 = Conv(channels, 1, 1, relu=False, std=1e-4, bias=PRIOR)
        self.ctr_score_p5 = Conv(channels, 1, 1, relu=False, std=1e-4)
        self.bbox_offsets_p5 = Conv(channels, 4, 1, relu=False, std=1e-4)

    def forward(self, cls, reg):
        for i in range(1, self.depth + 1):
            cls = getattr(self, f"cls_p5_conv{i}")(cls)
            reg = getattr(self, f"bbox_p5_conv{i}")(reg)
        offsets = self.bbox_offsets_p5(reg)
        return {
            "cls_pred": self.cls_score_p5(cls),
            "ctr_pred": self.ctr_score_p5(cls),
            "distances": STRIDE * (self.si * offsets + self.bi).exp(),
        }


class SiamFCPP(nn.Module):
    """The tracker's network.

    Args:
        basemodel: the trunk, which has ``channels``.
        norms: see :class:`DenseboxHead`.

    Inputs: ``template`` (N, 3, 127, 127), ``search`` (N, 3, H, W) float, BGR in 0 to 255.
    Returns: dict: ``"cls_pred"``, ``"ctr_pred"`` (N, P, 1) logits, ``"box_pred"`` (N, P, 4) xyxy in pixels of the
        search window, row by row; ``"points"`` (P, 2), x and y of the cells.
    """

    def __init__(self, basemodel, norms: tuple[bool, ...] = (False, False, True)):
        super().__init__()
        self.basemodel = basemodel
        channels = basemodel.channels
        self.head = DenseboxHead(channels, norms)
        adjust = functools.partial(Conv, channels, channels, 3, relu=False, std=0.01)
        self.r_z_k, self.c_z_k, self.r_x, self.c_x = adjust(), adjust(), adjust(), adjust()

    def template(self, template):
        """The kernels of the object in the first frame, for class and box."""
        x = self.basemodel(template)
        return self.c_z_k(x), self.r_z_k(x)

    def track(self, kernels, search):
        """The head's predictions for a later frame."""
        x = self.basemodel(search)
        cls = depthwise_cross_correlation(self.c_x(x), kernels[0])
        reg = depthwise_cross_correlation(self.r_x(x), kernels[1])
        found = self.head(cls, reg)
        sizes = found["cls_pred"].shape[2:]
        starts = [(pixels - 1 - (cells - 1) * STRIDE) // 2 for pixels, cells in zip(search.shape[2:], sizes)]
        y, x = (
            torch.arange(cells, device=search.device).to(search.dtype) * STRIDE + start
            for cells, start in zip(sizes, starts)
        )
        x, y = torch.meshgrid(x, y, indexing="xy")
        points = torch.stack((x.flatten(), y.flatten()), -1)
        # not flatten and transpose: batch norm (PyTorch 2.14) misreads the gradient that they give a single sample
        rows = {name: value.permute(0, 2, 3, 1).flatten(1, 2) for name, value in found.items()}
        distances = rows.pop("distances")  # mirror: NCHW
        rows["box_pred"] = torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)
        return {**rows, "points": points}

    def forward(self, template, search):
        return self.track(self.template(template), search)


def overlap(boxes, others):
    """IoU of boxes pair by pair, both borders included.  (..., 4) -> (...)."""
    size = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2]) + 1
    shared = torch.where(size > 0, size, torch.zeros_like(size)).prod(-1)
    areas = [(b[..., 2:] - b[..., :2] + 1).prod(-1) for b in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared)


class SiamFCPPCriterion(nn.Module):
    """Focal loss of the class, cross-entropy of the centredness, logarithm of the boxes' overlap.

    Args:
        alpha, gamma: of the focal loss.
        weights: of class, centredness and box.

    Inputs: ``outputs`` of :class:`SiamFCPP`; ``targets["boxes"]`` (N, 4) xyxy in pixels, ``targets["same"]`` (N,) bool:
        whether the box is the template's object; if not, its cells are background and the others are ignored.
    Returns: dict of scalars, weighted: ``"cls"``, ``"ctr"``, ``"reg"``, ``"total"``, their sum.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, weights: tuple[float, float, float] = (1.0, 1.0, 3.0)):
        super().__init__()
        self.alpha, self.gamma, self.parts = alpha, gamma, tuple(weights)

    def forward(self, outputs, targets):
        cls, ctr, points = outputs["cls_pred"][..., 0], outputs["ctr_pred"][..., 0], outputs["points"]
        dtype = cls.dtype
        boxes, same = targets["boxes"].to(dtype)[:, None], targets["same"][:, None]  # (N, 1, 4), (N, 1)
        distances = torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), -1)  # (N, P, 4)
        inside = (distances > 0).all(-1)
        positive = inside & same
        counted, inside = (same | inside).to(dtype), positive.to(dtype)
        total = inside.sum().clamp(min=1.0)

        log_p, log_q = (-(-x).relu() - F.softplus(-x.abs()) for x in (cls, -cls))
        p = cls.sigmoid()
        hit = self.alpha * inside * (1 - p).pow(self.gamma) * log_p
        miss = (1 - self.alpha) * (1 - inside) * p.pow(self.gamma) * log_q
        losses = {"cls": -((hit + miss) * counted).sum() / total}

        safe = torch.where(positive[..., None], distances, torch.ones_like(distances))
        near = torch.minimum(safe[..., :2], safe[..., 2:])
        far = torch.maximum(safe[..., :2], safe[..., 2:])
        centred = (near.prod(-1) / (far.prod(-1) + EPS)).abs().sqrt()
        log_p, log_q = (-(-x).relu() - F.softplus(-x.abs()) for x in (ctr, -ctr))
        rest = centred * centred.clamp(min=1e-12).log()
        rest = rest + (1 - centred) * (1 - centred).clamp(min=1e-12).log()
        crossed = centred * log_p + (1 - centred) * log_q
        losses["ctr"] = ((rest - crossed) * inside).sum() / total

        zero = torch.zeros([], dtype=dtype, device=cls.device)
        found = torch.where(positive[..., None], outputs["box_pred"], zero)
        shared = overlap(found, torch.where(positive[..., None], boxes, zero))
        shared = torch.where(shared > TINY, shared, zero + TINY)
        losses["reg"] = -(shared.log() * inside).sum() / total
        losses = {key: weight * loss for weight, (key, loss) in zip(self.parts, losses.items(), strict=True)}
        return {**losses, "total": sum(losses.values())}


class SiamFCPPPostProcess(nn.Module):
    """Boxes and their scores.

    Inputs: ``outputs`` of :class:`SiamFCPP`.
    Returns: dict: ``"scores"`` (N, P, 1), class times centredness, ``"boxes"`` (N, P, 4) xyxy in pixels.
    """

    def forward(self, outputs):
        scores = outputs["cls_pred"].sigmoid() * outputs["ctr_pred"].sigmoid()
        return {"scores": scores, "boxes": outputs["box_pred"]}


def siamfcpp_alexnet(
    channels: tuple[int, ...] = (96, 256, 384, 384, 256), norms: tuple[bool, ...] = (False, False, True)
) -> SiamFCPP:
    return SiamFCPP(AlexNet(channels), norms)


def siamfcpp_tinyconv(width: int = 64, norms: tuple[bool, ...] = (False, False, True)) -> SiamFCPP:
    return SiamFCPP(TinyConv(width), norms)
