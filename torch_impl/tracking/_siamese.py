"""Common parts of pysot's trackers: a residual network with large maps, correlation heads, losses.

Names: STVIR/pysot ``models/backbone/resnet_atrous.py``, ``models/head/rpn.py``, ``models/model_builder.py``
(Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths.
"""

import functools

from torch import nn

from torch_impl.layers.cross_correlation import depthwise_cross_correlation

__all__ = ["ANCHORS", "VALUES", "AtrousResNet", "DepthwiseXCorr", "SiamRPNCriterion"]

ANCHORS = 5  # per cell: ratios 0.33, 0.5, 1, 2, 3
VALUES = (2, 4)  # per anchor: background and object, and the box

CONV = functools.partial(nn.Conv2d, bias=False)


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3, 1x1 expansion by four, and a shortcut; without padding where the stride is 2.

    Args:
        in_channels: C.
        planes: nominal width of the block; the output has ``4 * planes``.
        stride: of the 3x3 convolution.
        dilation: of the 3x3 convolution.
        shortcut: size and dilation of the convolution of the shortcut, or None.

    x: (N, C, H, W) -> (N, 4 * planes, H', W').
    """

    def __init__(self, in_channels: int, planes: int, stride: int = 1, dilation: int = 1, shortcut=None):
        super().__init__()
        padding = 0 if stride == 2 else dilation
        self.conv1, self.bn1 = CONV(in_channels, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = CONV(planes, planes, 3, stride, padding, dilation), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = CONV(planes, 4 * planes, 1), nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if shortcut is not None:
            size, rate = shortcut
            pads = 0 if size == 1 or stride == 2 else rate
            convolution = CONV(in_channels, 4 * planes, size, stride, pads, rate)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(4 * planes))

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class AtrousResNet(nn.Module):
    """A residual network with stride 8 from its second stage on.

    Args:
        layers: blocks of the stages, three or four.
        planes: nominal widths of the stages.
        used: which maps are returned: 1 the stem before its pooling, 2 to 5 the stages.

    x: (N, 3, H, W); dict of maps ``"c1"`` to ``"c5"``.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        used: tuple[int, ...] = (3, 4, 5),
    ):
        super().__init__()
        self.used, self.count = tuple(used), len(layers)
        self.conv1, self.bn1 = CONV(3, planes[0], 7, 2), nn.BatchNorm2d(planes[0])
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = planes[0]
        for i, (count, width) in enumerate(zip(layers, planes, strict=True)):
            dilation, stride = (1, 1, 2, 4)[i], 2 if i == 1 else 1
            first = max(dilation // 2, 1)
            blocks = [Bottleneck(channels, width, stride, first, (3 if i else 1, first))]
            blocks += [Bottleneck(4 * width, width, 1, dilation) for _ in range(count - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            channels = 4 * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        maps = {"c1": x}
        x = self.maxpool(x)
        for i in range(1, self.count + 1):
            x = maps[f"c{i + 1}"] = getattr(self, f"layer{i}")(x)
        return {name: maps[name] for name in (f"c{i}" for i in self.used)}


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int) -> list:
    return [CONV(in_channels, out_channels, kernel_size), nn.BatchNorm2d(out_channels), nn.ReLU()]


class DepthwiseXCorr(nn.Module):
    """Depthwise correlation of the template's map with the frame's, and a head.

    Args:
        in_channels: C.
        out_channels: of the maps that are correlated.
        outputs: channels of the result.

    kernel: (N, C, h, w), search: (N, C, H, W) -> (N, outputs, H - h + 1, W - w + 1).
    """

    def __init__(self, in_channels: int, out_channels: int, outputs: int):
        super().__init__()
        self.conv_kernel = nn.Sequential(*conv_bn_relu(in_channels, out_channels, 3))
        self.conv_search = nn.Sequential(*conv_bn_relu(in_channels, out_channels, 3))
        last = nn.Conv2d(out_channels, outputs, 1)
        self.head = nn.Sequential(*conv_bn_relu(out_channels, out_channels, 1), last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def correlate(self, kernel, search):
        """The correlation itself, before the head."""
        search = self.conv_search(search)
        return depthwise_cross_correlation(search, self.conv_kernel(kernel))

    def forward(self, kernel, search):
        return self.head(self.correlate(kernel, search))


class SiamRPNCriterion(nn.Module):
    """Cross-entropy of the anchors that count, L1 of the boxes.

    Args:
        cls_weight, loc_weight: of the two.

    Inputs: ``outputs``: ``"cls"`` (N, 2 A, H, W), ``"loc"`` (N, 4 A, H, W); ``targets``: ``"label_cls"`` (N, A, H, W)
        int, 1 object, 0 none, -1 does not count; ``"label_loc"`` (N, 4, A, H, W);
        ``"label_loc_weight"`` (N, A, H, W); see ``weights/processing/tracking/anchors.py``.
    Returns: dict of scalars, weighted: ``"cls"``, ``"loc"``, ``"total"``, their sum.
    """

    def __init__(self, cls_weight: float = 1.0, loc_weight: float = 1.2):
        super().__init__()
        self.cls_weight, self.loc_weight = cls_weight, loc_weight

    def forward(self, outputs, targets):
        cls, loc, labels = outputs["cls"], outputs["loc"], targets["label_cls"]
        log_p = cls.unflatten(1, (2, -1)).log_softmax(1)  # classes first, then anchors
        losses = 0.0
        for kind in (1, 0):
            counted = (labels == kind).to(cls.dtype)
            total = -(log_p[:, kind] * counted).sum()
            losses = losses + 0.5 * total / counted.sum().clamp(min=1.0)
        loc = loc.unflatten(1, (4, -1))  # mirror: NCHW
        difference = (loc - targets["label_loc"].to(loc.dtype)).abs().sum(1)
        boxes = (difference * targets["label_loc_weight"].to(loc.dtype)).sum((1, 2, 3))
        found = {"cls": self.cls_weight * losses, "loc": self.loc_weight * boxes.mean()}
        return {**found, "total": found["cls"] + found["loc"]}
