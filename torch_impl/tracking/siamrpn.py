"""SiamRPN: a region proposal network for one object, whose features are the network's last kernel.

"High Performance Visual Tracking with Siamese Region Proposal Network", 2018, 10.1109/CVPR.2018.00935. Parameter names
and numbers: STVIR/pysot ``models/backbone/alexnet.py``, ``models/head/rpn.py`` (Apache-2.0). What to look at: in the
published head the template's kernel has the channels of all outputs, in the later, lighter one those of a single
output.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths.
"""

from torch import nn

from torch_impl.layers.cross_correlation import cross_correlation
from torch_impl.tracking._siamese import ANCHORS, VALUES, DepthwiseXCorr, SiamRPNCriterion

__all__ = [
    "AlexNetLegacy",
    "DepthwiseRPN",
    "SiamRPN",
    "SiamRPNCriterion",
    "UPChannelRPN",
    "siamrpn_alex_dwxcorr",
    "siamrpn_alex_up",
]


class AlexNetLegacy(nn.Module):
    """The trunk: five convolutions with normalisation, without padding.

    Args:
        channels: of the convolutions.

    x: (N, 3, H, W) -> (N, channels[-1], H', W').
    """

    def __init__(self, channels: tuple[int, ...] = (96, 256, 384, 384, 256)):
        super().__init__()
        self.features = nn.Sequential()
        width = 3
        for i, filters in enumerate(channels):
            size, stride = {0: (11, 2), 1: (5, 1)}.get(i, (3, 1))
            self.features.append(nn.Conv2d(width, filters, size, stride))
            self.features.append(nn.BatchNorm2d(filters))
            if i < 2:
                self.features.append(nn.MaxPool2d(3, 2))
            if i < 4:
                self.features.append(nn.ReLU())
            width = filters

    def forward(self, x):
        return self.features(x)


class UPChannelRPN(nn.Module):
    """The published head: every output has its own kernel, computed from the template's map.

    Args:
        feature_in: channels of the search map.

    template: (N, C, h, w), search: (N, C, H, W) -> dict: ``"cls"`` (N, 2 A, H', W'), ``"loc"`` (N, 4 A, H', W').
    """

    def __init__(self, feature_in: int = 256):
        super().__init__()
        self.feature_in = feature_in
        cls, loc = (n * ANCHORS for n in VALUES)
        self.template_cls_conv = nn.Conv2d(feature_in, feature_in * cls, 3)
        self.template_loc_conv = nn.Conv2d(feature_in, feature_in * loc, 3)
        self.search_cls_conv = nn.Conv2d(feature_in, feature_in, 3)
        self.search_loc_conv = nn.Conv2d(feature_in, feature_in, 3)
        self.loc_adjust = nn.Conv2d(loc, loc, 1)

    def kernel(self, x):
        """A map of all kernels, (N, O C, h, w), as (N, O, C, h, w); the outputs are the outer index."""
        return x.unflatten(1, (-1, self.feature_in))  # mirror: NCHW

    def forward(self, template, search):
        cls = cross_correlation(self.search_cls_conv(search), self.kernel(self.template_cls_conv(template)))
        loc = cross_correlation(self.search_loc_conv(search), self.kernel(self.template_loc_conv(template)))
        return {"cls": cls, "loc": self.loc_adjust(loc)}


class DepthwiseRPN(nn.Module):
    """The lighter head: depthwise correlation.

    Args:
        in_channels: C.
        out_channels: of the maps that are correlated.

    template: (N, C, h, w), search: (N, C, H, W) -> dict: ``"cls"`` (N, 2 A, H', W'), ``"loc"`` (N, 4 A, H', W').
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.cls, self.loc = (DepthwiseXCorr(in_channels, out_channels, n * ANCHORS) for n in VALUES)

    def forward(self, template, search):
        return {name: getattr(self, name)(template, search) for name in ("cls", "loc")}


class SiamRPN(nn.Module):
    """The tracker's network.

    Args:
        head: "up" or "depthwise".
        channels: of the trunk.

    Inputs: ``template`` (N, 3, 127, 127), ``search`` (N, 3, H, W) float, BGR in 0 to 255.
    Returns: dict: ``"cls"`` (N, 2 A, H', W'), logits, classes (none, object) first, then anchors; ``"loc"``
        (N, 4 A, H', W'), coordinates of the box first, then anchors.
    Raises: ValueError if ``head`` is unknown.
    """

    def __init__(self, head: str = "depthwise", channels: tuple[int, ...] = (96, 256, 384, 384, 256)):
        super().__init__()
        heads = {"up": UPChannelRPN, "depthwise": DepthwiseRPN}
        if head not in heads:
            raise ValueError(f"head={head!r} must be one of {sorted(heads)}")
        self.backbone = AlexNetLegacy(channels)
        widths = (channels[-1],) if head == "up" else (channels[-1],) * 2
        self.rpn_head = heads[head](*widths)

    def template(self, template):
        """The map of the object in the first frame."""
        return self.backbone(template)

    def track(self, template, search):
        """The head's predictions for a later frame."""
        return self.rpn_head(template, self.backbone(search))

    def forward(self, template, search):
        return self.track(self.template(template), search)


def siamrpn_alex_up(**options) -> SiamRPN:
    return SiamRPN("up", **options)


def siamrpn_alex_dwxcorr(**options) -> SiamRPN:
    return SiamRPN("depthwise", **options)
