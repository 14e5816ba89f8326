"""SiamRPN++: SiamRPN with a deep network and a head for each of three depths.

"SiamRPN++: Evolution of Siamese Visual Tracking with Very Deep Networks", 2018, arXiv:1812.11703. Parameter names and
numbers: STVIR/pysot ``models/backbone/resnet_atrous.py``, ``mobile_v2.py``, ``models/neck/neck.py``,
``models/head/rpn.py`` (Apache-2.0). What to look at: only the middle of the template's map is kept, so that padding
does not reveal where the object is.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths.
"""

import torch
from torch import nn

from torch_impl.tracking._siamese import CONV, AtrousResNet, SiamRPNCriterion
from torch_impl.tracking.siamrpn import DepthwiseRPN

__all__ = [
    "AtrousMobileNetV2",
    "InvertedResidual",
    "MobileSiamRPNPP",
    "MultiRPN",
    "SiamRPNCriterion",
    "SiamRPNPP",
    "siamrpn_mobilev2_l234_dwxcorr",
    "siamrpn_r50_l234_dwxcorr",
    "siamrpn_r50_l234_dwxcorr_lt",
    "siamrpn_r50_l234_dwxcorr_otb",
]

SMALL, KEPT = 20, 7  # a map narrower than the first is cut to the second, around its middle
# expansion, channels, blocks, stride and dilation of the stages of MobileNetV2, and those whose maps are used
MOBILE = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 1),
    (6, 64, 4, 1, 2),
    (6, 96, 3, 1, 2),
    (6, 160, 3, 1, 4),
    (6, 320, 1, 1, 4),
)
USED = (3, 5, 7)


class AdjustLayer(nn.Module):
    """A 1x1 convolution with normalisation; small maps are cropped to their middle.

    Args:
        in_channels: C.
        out_channels: of the result.

    x: (N, C, H, W) -> (N, out_channels, H, W), or (N, out_channels, 7, 7).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        convolution = CONV(in_channels, out_channels, 1)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def forward(self, x):
        x = self.downsample(x)
        if x.shape[3] < SMALL:
            first = (x.shape[3] - KEPT) // 2
            x = x[:, :, first : first + KEPT, first : first + KEPT]
        return x


class AdjustAllLayer(nn.Module):
    """One :class:`AdjustLayer` for every map.

    Args:
        in_channels: of the maps.
        channels: of the results.

    maps: dict of maps -> the same, coarser ones last.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: tuple[int, ...]):
        super().__init__()
        for i, (width, filters) in enumerate(zip(in_channels, channels, strict=True), start=2):
            setattr(self, f"downsample{i}", AdjustLayer(width, filters))  # mirror: infers

    def forward(self, maps):
        pairs = enumerate(maps.items(), start=2)
        return {name: getattr(self, f"downsample{i}")(x) for i, (name, x) in pairs}


class MultiRPN(nn.Module):
    """A head for every map, and the mean of their outputs.

    Args:
        channels: of the maps.
        weighted: whether the mean has learnt weights.

    templates, searches: dicts of maps -> dict: ``"cls"``, ``"loc"``.
    """

    def __init__(self, channels: tuple[int, ...], weighted: bool = True):
        super().__init__()
        self.weighted = weighted
        if weighted:
            for name in ("cls_weight", "loc_weight"):
                setattr(self, name, nn.Parameter(torch.ones(len(channels))))
        for i, width in enumerate(channels, start=2):
            setattr(self, f"rpn{i}", DepthwiseRPN(width, width))

    def mean(self, answers, weight):
        """Mean of the heads' outputs."""
        if weight is None:
            return sum(answers) / len(answers)
        shares = weight.softmax(0).unbind()
        return sum(share * answer for share, answer in zip(shares, answers, strict=True))

    def forward(self, templates, searches):
        pairs = zip(templates.values(), searches.values(), strict=True)
        answers = [getattr(self, f"rpn{i}")(*pair) for i, pair in enumerate(pairs, start=2)]
        weights = {key: getattr(self, f"{key}_weight") if self.weighted else None for key in ("cls", "loc")}
        return {key: self.mean([answer[key] for answer in answers], weight) for key, weight in weights.items()}


class SiamRPNPP(nn.Module):
    """The tracker's network.

    Args:
        layers, planes: of the trunk.
        channels: of the three maps that are correlated.
        weighted: whether the heads' mean has learnt weights.

    Inputs: ``template`` (N, 3, 127, 127), ``search`` (N, 3, H, W) float, BGR in 0 to 255.
    Returns: dict: ``"cls"`` (N, 2 A, H', W'), logits, classes (none, object) first, then anchors; ``"loc"``
        (N, 4 A, H', W'), coordinates of the box first, then anchors.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        channels: tuple[int, ...] = (256, 256, 256),
        weighted: bool = True,
    ):
        super().__init__()
        self.backbone = AtrousResNet(layers, planes)
        self.neck = AdjustAllLayer(tuple(4 * width for width in planes[1:]), channels)
        self.rpn_head = MultiRPN(channels, weighted)

    def template(self, template):
        """The maps of the object in the first frame."""
        return self.neck(self.backbone(template))

    def track(self, template, search):
        """The heads' predictions for a later frame."""
        return self.rpn_head(template, self.template(search))

    def forward(self, template, search):
        return self.track(self.template(template), search)


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a depthwise 3x3 convolution, a linear 1x1, and a shortcut if sizes agree.

    Args:
        in_channels, out_channels, stride: of the block; a strided convolution does not pad.
        expansion: width of the middle divided by that of the input.
        dilation: of the middle.

    x: (N, C, H, W) -> (N, out_channels, H', W').
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int, dilation: int):
        super().__init__()
        hidden = in_channels * expansion
        options = {"stride": stride, "padding": dilation if dilation > 1 else 2 - stride, "dilation": dilation}
        self.shortcut = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, groups=hidden, bias=False, **options),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x):
        return x + self.conv(x) if self.shortcut else self.conv(x)


class AtrousMobileNetV2(nn.Module):
    """MobileNetV2 of stride 8, whose strided convolutions do not pad.

    Args:
        width: multiplier of the channels.

    x: (N, 3, H, W) -> dict of maps ``"c3"``, ``"c4"``, ``"c5"``, after three, five and seven stages.
    """

    def __init__(self, width: float = 1.4):
        super().__init__()
        channels, before, widths = int(32 * width), 1, {}
        stem = nn.Conv2d(3, channels, 3, 2, bias=False)
        self.layer0 = nn.Sequential(stem, nn.BatchNorm2d(channels), nn.ReLU6())
        for i, (expansion, filters, depth, stride, dilation) in enumerate(MOBILE, start=1):
            blocks, filters = [], int(filters * width)
            for j in range(depth):
                first = j == 0 and dilation != before
                rate = max(dilation // 2, 1) if first else dilation
                blocks.append(InvertedResidual(channels, filters, stride if j == 0 else 1, expansion, rate))
                channels = filters
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
            before, widths[i] = dilation, channels
        self.channels = tuple(widths[i] for i in USED)

    def forward(self, x):
        x, maps = self.layer0(x), {}
        for i in range(1, len(MOBILE) + 1):
            x = getattr(self, f"layer{i}")(x)
            if i in USED:
                maps[f"c{3 + len(maps)}"] = x
        return maps


class MobileSiamRPNPP(nn.Module):
    """The tracker's network on :class:`AtrousMobileNetV2`, with a plain mean of the heads.

    Args:
        width: of the trunk.
        channels: of the three maps that are correlated.

    Inputs, returns: of :class:`SiamRPNPP`.
    """

    def __init__(self, width: float = 1.4, channels: tuple[int, ...] = (256, 256, 256)):
        super().__init__()
        self.backbone = AtrousMobileNetV2(width)
        self.neck = AdjustAllLayer(self.backbone.channels, channels)
        self.rpn_head = MultiRPN(channels, weighted=False)

    def template(self, template):
        """The maps of the object in the first frame."""
        return self.neck(self.backbone(template))

    def track(self, template, search):
        """The heads' predictions for a later frame."""
        return self.rpn_head(template, self.template(search))

    def forward(self, template, search):
        return self.track(self.template(template), search)


def siamrpn_r50_l234_dwxcorr(**options) -> SiamRPNPP:
    return SiamRPNPP(**options)


def siamrpn_r50_l234_dwxcorr_otb(weighted=False, **options) -> SiamRPNPP:
    return SiamRPNPP(weighted=weighted, **options)


def siamrpn_r50_l234_dwxcorr_lt(channels=(128, 256, 512), **options) -> SiamRPNPP:
    return SiamRPNPP(channels=channels, **options)


def siamrpn_mobilev2_l234_dwxcorr(**options) -> MobileSiamRPNPP:
    return MobileSiamRPNPP(**options)
