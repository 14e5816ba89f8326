"""SiamFC: one correlation of two maps finds where in a frame the object of the first frame is.

"Fully-Convolutional Siamese Networks for Object Tracking", 2016, arXiv:1606.09549. Parameter names and numbers:
huanglianghua/siamfc-pytorch ``siamfc`` (MIT). What to look at: nothing is padded, so every cell of the response
corresponds to the same offset everywhere; the loop over frames, which needs no tensors, is
``weights/processing/tracking/siamfc.py``.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Normalisation has epsilon 1e-6 and momentum 0.05 (0.95 in TensorFlow).
"""

import functools

from torch import nn
from torch.nn import functional as F

from torch_impl.layers.cross_correlation import cross_correlation

__all__ = [
    "AlexNet",
    "SiamFC",
    "SiamFCCriterion",
    "siamfc_alexnet_v1",
    "siamfc_alexnet_v2",
    "siamfc_alexnet_v3",
]

NORM = functools.partial(nn.BatchNorm2d, eps=1e-6, momentum=0.05)  # mirror: epsilon 1e-6


class AlexNet(nn.Module):
    """The trunk: five convolutions without padding.

    Args:
        channels: of the convolutions.
        groups: of the convolutions.
        pool_strides: of the two poolings.
        last_norm: whether the last convolution is normalised, too.

    x: (N, 3, H, W) -> (N, channels[-1], H', W').
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (96, 256, 384, 384, 256),
        groups: tuple[int, ...] = (1, 2, 1, 2, 2),
        pool_strides: tuple[int, int] = (2, 2),
        last_norm: bool = False,
    ):
        super().__init__()
        width = 3
        for i, (filters, count) in enumerate(zip(channels, groups, strict=True), start=1):
            size, stride = {1: (11, 2), 2: (5, 1)}.get(i, (3, 1))
            layers = [nn.Conv2d(width, filters, size, stride, groups=count)]
            if i < 5:
                layers += [NORM(filters), nn.ReLU()]
            elif last_norm:
                layers.append(NORM(filters))
            if i < 3:
                layers.append(nn.MaxPool2d(3, pool_strides[i - 1]))
            setattr(self, f"conv{i}", nn.Sequential(*layers))
            nn.init.xavier_uniform_(layers[0].weight)
            nn.init.zeros_(layers[0].bias)
            width = filters

    def forward(self, x):
        for i in range(1, 6):
            x = getattr(self, f"conv{i}")(x)
        return x


class SiamFC(nn.Module):
    """The tracker's network.

    Args:
        channels, groups, pool_strides, last_norm: of the trunk.
        out_scale: of the response.

    Inputs: ``exemplar`` (N, 3, 127, 127), ``search`` (N, 3, 255, 255) float, RGB in 0 to 255.
    Returns: (N, 1, 17, 17), the response.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (96, 256, 384, 384, 256),
        groups: tuple[int, ...] = (1, 2, 1, 2, 2),
        pool_strides: tuple[int, int] = (2, 2),
        last_norm: bool = False,
        out_scale: float = 0.001,
    ):
        super().__init__()
        self.out_scale = out_scale
        self.backbone = AlexNet(channels, groups, pool_strides, last_norm)

    def template(self, exemplar):
        """The features of the object in the first frame: (N, C, h, w)."""
        return self.backbone(exemplar)

    def track(self, template, search):
        """The response (N, 1, H', W') of a later frame."""
        x = self.backbone(search)
        return cross_correlation(x, template[:, None]) * self.out_scale

    def forward(self, exemplar, search):
        return self.track(self.template(exemplar), search)


class SiamFCCriterion(nn.Module):
    """Cross-entropy of the response, where both kinds of cells have the same total weight.

    Args:
        neg_weight: of all cells without the object relative to all with it.

    Inputs: ``outputs`` (N, 1, H, W); ``targets["labels"]`` (N, 1, H, W): 1 the object, 0 background, others are
        ignored; see ``weights/processing/tracking/targets.py``.
    Returns: dict of scalars: ``"balanced"``, ``"total"`` (the same).
    """

    def __init__(self, neg_weight: float = 1.0):
        super().__init__()
        self.neg_weight = neg_weight

    def forward(self, outputs, targets):
        labels = targets["labels"].to(outputs.dtype)
        positive, negative = ((labels == value).to(outputs.dtype) for value in (1, 0))
        weight = positive / positive.sum().clamp(min=1.0)
        weight = weight + self.neg_weight * negative / negative.sum().clamp(min=1.0)
        losses = outputs.relu() - outputs * positive + F.softplus(-outputs.abs())
        loss = (losses * weight).sum() / weight.sum()
        return {"balanced": loss, "total": loss}


def siamfc_alexnet_v1(**options) -> SiamFC:
    return SiamFC(**options)


def siamfc_alexnet_v2(channels=(96, 256, 384, 384, 32), pool_strides=(2, 1), **options) -> SiamFC:
    return SiamFC(channels, pool_strides=pool_strides, **options)


def siamfc_alexnet_v3(channels=(192, 512, 768, 768, 512), groups=(1, 1, 1, 1, 1), last_norm=True, **options) -> SiamFC:
    return SiamFC(channels, groups, last_norm=last_norm, **options)
