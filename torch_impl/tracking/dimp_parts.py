"""DiMP in the parts that its loop over frames calls: maps, initial filter, modulation, and overlaps with their
gradients.

Papers, names of parameters: see ``dimp.py``. What to look at: boxes are refined by gradient ascent on the overlap, so a
tracker needs the gradient of the network with respect to its input. It is written out here, so that it exports like
    everything else: precise pooling is differentiable in the ends of a box, because they are the bounds of its
        integrals. A part holds the parameters that it uses, under their names in the whole model.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths, and builds layers that are never called by hand.
- Normalisations have their running statistics in ``running_var`` here, in ``moving_variance`` in TensorFlow.
"""

import torch
from torch import nn

from torch_impl.classification.resnet import BasicBlock, Bottleneck, ResNet, expansion
from torch_impl.tracking.dimp import (
    STRIDES,
    AtomIoUNet,
    FilterInitializer,
    LinearBlock,
    LinearFilter,
    conv,
    fill_he_normal,
    to_xyxy,
)

__all__ = [
    "DiMPExtract",
    "DiMPFilter",
    "DiMPModulation",
    "DiMPOverlaps",
    "dimp18_extract",
    "dimp18_filter",
    "dimp18_modulation",
    "dimp50_extract",
    "dimp50_filter",
    "dimp50_modulation",
    "dimp_overlaps",
]


def bin_weights(first, last, bins: int, size: int):
    """Weight of every pixel of a line in the mean of every bin, and its derivatives by the ends.

    Args:
        first, last: (N, P) ends of the boxes, in pixels.

    Returns:
        Three of (N, P, bins, size): the weights, their derivatives by ``first`` and by ``last``; 0 without length.
    """
    length = (last - first).clamp(min=0) / bins
    share = torch.arange(bins + 1).to(first) / bins
    edges = first[..., None] + (length * bins)[..., None] * share
    t = (edges[..., None] - torch.arange(size).to(first)).clamp(-1, 1)  # (N, P, bins + 1, size)
    reached, moved = 0.5 + t - t * t.abs() / 2, 1 - t.abs()
    inverse = torch.where(length > 0, 1 / torch.where(length > 0, length, 1.0), 0.0)[..., None, None]
    weights = (reached[:, :, 1:] - reached[:, :, :-1]) * inverse
    longer = weights * inverse / bins
    ends = [moved * x[:, None] for x in (1 - share, share)]
    by_first, by_last = ((x[:, :, 1:] - x[:, :, :-1]) * inverse for x in ends)
    return weights, by_first + longer, by_last - longer


class PooledBoxes:
    """Precise pooling of boxes with its derivative by them; see ``layers/precise_roi_pool.py``.

    Args:
        features: (N, C, H, W).
        boxes_xyxy: (N, P, 4) in the image's pixels.
        bins: per box and direction, K.
        stride: of the features, pixels.
    """

    def __init__(self, features, boxes_xyxy, bins: int, stride: int):
        height, width = features.shape[2:]
        x_first, y_first, x_last, y_last = (boxes_xyxy / stride).unbind(-1)
        rows, *self.rows_change = (x[:, :, None] for x in bin_weights(y_first, y_last, bins, height))
        columns, *self.columns_change = (x[:, :, None] for x in bin_weights(x_first, x_last, bins, width))
        self.stride = stride
        self.down = torch.matmul(rows, features[:, None])  # (N, P, C, K, W)
        self.across = torch.matmul(features[:, None], columns.transpose(3, 4))  # (N, P, C, H, K)
        self.means = torch.matmul(self.down, columns.transpose(3, 4))  # (N, P, C, K, K)

    def slopes(self, gradient):
        """The gradient (N, P, 4) of the boxes, from that of the means (N, P, C, K, K)."""
        of_rows = torch.matmul(gradient, self.across.transpose(3, 4)).sum(2, keepdim=True)  # (N, P, 1, K, H)
        of_columns = torch.matmul(gradient.transpose(3, 4), self.down).sum(2, keepdim=True)  # (N, P, 1, K, W)
        y, x = (
            [(weight * change).sum((2, 3, 4)) for change in changes]
            for weight, changes in ((of_rows, self.rows_change), (of_columns, self.columns_change))
        )
        return torch.stack((x[0], y[0], x[1], y[1]), -1) / self.stride


class Features(nn.Module):
    """The classification's separate features.  x: (N, in_channels, H, W) -> (N, channels, H, W).

    Args:
        block, in_channels, channels: see :class:`LinearFilter`.
    """

    def __init__(self, block, in_channels: int, channels: int):
        super().__init__()
        self.feature_extractor = LinearFilter(block, in_channels, channels).feature_extractor

    def forward(self, x):
        return self.feature_extractor(x)


class Initial(nn.Module):
    """The first filter.

    Args:
        channels: see :class:`FilterInitializer`.

    features: (N, channels, H, W), boxes: (N, 4) -> (N, channels, K, K), one filter per image.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.filter_initializer = FilterInitializer(channels)

    def forward(self, features, boxes):
        return self.filter_initializer(features[None], boxes[None])


class Searched(nn.Module):
    """The maps of an image that boxes are pooled from.  Maps (N, C, H, W) of both strides -> (N, width, H, W) each.

    Args:
        in_channels, width: see :class:`AtomIoUNet`.
    """

    def __init__(self, in_channels: tuple[int, int], width: int):  # mirror: infers
        super().__init__()
        third, fourth = in_channels
        self.conv3_1t, self.conv3_2t = conv(third, width), conv(width, width)
        self.conv4_1t, self.conv4_2t = conv(fourth, width), conv(width, width)

    def forward(self, fine, coarse):
        return self.conv3_2t(self.conv3_1t(fine)), self.conv4_2t(self.conv4_1t(coarse))


class Modulation(nn.Module):
    """The modulation vectors of the object.

    Args:
        in_channels, width: see :class:`AtomIoUNet`, whose method this wraps.
    """

    def __init__(self, in_channels: tuple[int, int], width: int):  # mirror: infers
        super().__init__()
        third, fourth = in_channels
        self.conv3_1r, self.conv4_1r = conv(third, width // 2), conv(fourth, width)
        self.fc3_1r = conv(width // 2, width, padding=0)
        self.fc34_3r, self.fc34_4r = (conv(2 * width, width, 1, 0) for _ in range(2))

    forward = AtomIoUNet.modulation


class Judgement(nn.Module):
    """Overlaps from the pooled features of both maps, and their gradients, in evaluation mode.

    Args:
        width: of the maps.

    third: (N, P, width, 5, 5), fourth: (N, P, width, 3, 3) -> (N, P), and two tensors of the inputs' shapes.
    """

    def __init__(self, width: int):
        super().__init__()
        self.fc3_rt, self.fc4_rt = LinearBlock(width * 25, width), LinearBlock(width * 9, width)
        self.iou_predictor = nn.Linear(2 * width, 1)
        fill_he_normal(self.iou_predictor)

    def forward(self, third, fourth):
        pairs = [(self.fc3_rt, third), (self.fc4_rt, fourth)]
        hidden = [layer(x) for layer, x in pairs]
        overlaps = self.iou_predictor(torch.cat(hidden, 1)).reshape(third.shape[:2])
        gradients = []
        for (layer, x), y, weight in zip(pairs, hidden, self.iou_predictor.weight.chunk(2, 1), strict=True):
            scale = layer.bn.weight / (layer.bn.running_var + layer.bn.eps).sqrt()  # mirror: running statistics
            slope = torch.where(y > 0, weight * scale, 0.0)
            gradients.append(torch.matmul(slope, layer.linear.weight).reshape(x.shape))
        return overlaps, gradients


class DiMPExtract(nn.Module):
    """All maps of an image.

    Args:
        block, layers, planes, feature_block, channels, width, num_classes: see :class:`DiMP`.

    Inputs: ``images`` (N, 3, H, W), normalised, multiples of 16.
    Returns: dict of maps: ``"classification"`` (N, channels, H / 16, W / 16), the map that is filtered; ``"fine"``
        and ``"coarse"``, the trunk's of strides 8 and 16, for the modulation; ``"third"`` and ``"fourth"``
        (N, width, ...), of the same strides, for the overlaps.
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        feature_block=None,
        channels: int = 512,
        width: int = 256,
        num_classes: int = 1000,
    ):
        super().__init__()
        self.feature_extractor = ResNet(block, layers, num_classes, planes=planes, out_indices=(2, 3))
        widths = tuple(self.feature_extractor.channels.values())
        self.classifier = Features(feature_block, widths[1], channels)
        self.bb_regressor = Searched(widths, width)

    def forward(self, images):
        fine, coarse = self.feature_extractor.forward_features(images).values()
        third, fourth = self.bb_regressor(fine, coarse)
        found = {"classification": self.classifier(coarse), "fine": fine, "coarse": coarse}
        return {**found, "third": third, "fourth": fourth}


class DiMPFilter(nn.Module):
    """The content of a box, as a filter.

    Args:
        channels: see :class:`DiMP`.

    Inputs: ``classification`` (N, channels, H, W) of :class:`DiMPExtract`, ``boxes`` (N, 4) xywh in pixels.
    Returns: (N, channels, 4, 4); the first filter of a sequence is their mean.
    """

    def __init__(self, channels: int = 512):
        super().__init__()
        self.classifier = Initial(channels)

    def forward(self, classification, boxes):
        return self.classifier(classification, boxes)


class DiMPModulation(nn.Module):
    """The modulation vectors of the object in the first image.

    Args:
        in_channels: of the two maps.
        width: see :class:`DiMP`.

    Inputs: ``fine``, ``coarse`` of :class:`DiMPExtract`, ``boxes`` (N, 4) xywh in pixels.
    Returns: dict of two vectors ``"of_third"``, ``"of_fourth"`` (N, width, 1, 1).
    """

    def __init__(self, in_channels: tuple[int, int], width: int = 256):
        super().__init__()
        self.bb_regressor = Modulation(in_channels, width)

    def forward(self, fine, coarse, boxes):
        third, fourth = self.bb_regressor((fine, coarse), boxes)
        return {"of_third": third, "of_fourth": fourth}


class DiMPOverlaps(nn.Module):
    """The overlap of boxes with the object, and its gradient.

    Args:
        width: see :class:`DiMP`.

    Inputs: ``third``, ``fourth`` of :class:`DiMPExtract`, ``of_third``, ``of_fourth`` of :class:`DiMPModulation`,
        ``boxes`` (N, P, 4) xywh in pixels.
    Returns: dict: ``"overlaps"`` (N, P), in [-1, 1] for overlaps of 0 to 1; ``"slopes"`` (N, P, 4), the gradient of
        each with respect to its box, with the statistics of evaluation mode.
    """

    def __init__(self, width: int = 256):
        super().__init__()
        self.bb_regressor = Judgement(width)

    def forward(self, third, fourth, of_third, of_fourth, boxes):
        corners = to_xyxy(boxes)
        pooled = [
            PooledBoxes(x * vector, corners, bins, stride)
            for x, vector, bins, stride in zip((third, fourth), (of_third, of_fourth), (5, 3), STRIDES, strict=True)
        ]
        overlaps, gradients = self.bb_regressor(*(x.means for x in pooled))
        first, last = sum(x.slopes(g) for x, g in zip(pooled, gradients, strict=True)).chunk(2, -1)
        return {"overlaps": overlaps, "slopes": torch.cat((first + last, last), -1)}


def dimp18_extract(
    block=BasicBlock, layers: tuple[int, ...] = (2, 2, 2, 2), feature_block=BasicBlock, channels: int = 256, **options
) -> DiMPExtract:
    return DiMPExtract(block, layers, feature_block=feature_block, channels=channels, **options)


def dimp50_extract(block=Bottleneck, layers: tuple[int, ...] = (3, 4, 6, 3), **options) -> DiMPExtract:
    return DiMPExtract(block, layers, **options)


def dimp18_filter(channels: int = 256) -> DiMPFilter:
    return DiMPFilter(channels)


def dimp50_filter(channels: int = 512) -> DiMPFilter:
    return DiMPFilter(channels)


def dimp18_modulation(
    block=BasicBlock, planes: tuple[int, ...] = (64, 128, 256, 512), width: int = 256
) -> DiMPModulation:
    return DiMPModulation(tuple(expansion(block) * n for n in planes[1:3]), width)


def dimp50_modulation(
    block=Bottleneck, planes: tuple[int, ...] = (64, 128, 256, 512), width: int = 256
) -> DiMPModulation:
    return DiMPModulation(tuple(expansion(block) * n for n in planes[1:3]), width)


def dimp_overlaps(width: int = 256) -> DiMPOverlaps:
    return DiMPOverlaps(width)
