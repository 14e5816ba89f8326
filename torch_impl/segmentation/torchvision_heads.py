"""torchvision's FCN and DeepLabv3: other names, other widths, another order of branches, another loss.

"Fully Convolutional Networks for Semantic Segmentation", 2014, arXiv:1411.4038; "Rethinking Atrous Convolution for
Semantic Image Segmentation", 2017, arXiv:1706.05587.
Parameter names: torchvision ``models/segmentation`` (BSD-3).
What to look at: the branches are joined with the 1x1 convolution first and the mean of the map last; mmsegmentation
begins with the mean.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import torch
from torch import nn

from torch_impl.classification.resnet import resnet50, resnet101
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess

__all__ = [
    "ASPP",
    "SegmentationPostProcess",
    "TorchvisionCriterion",
    "TorchvisionSegmenter",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "fcn_resnet50",
    "fcn_resnet101",
]


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> list[nn.Module]:
    """Convolution without bias, normalisation, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


def fcn_head(in_channels: int, num_classes: int, dropout: float = 0.1) -> nn.Sequential:
    """A 3x3 convolution to a quarter of the channels, and the classifier."""
    width = in_channels // 4
    return nn.Sequential(*conv_bn_relu(in_channels, width, 3), nn.Dropout(dropout), nn.Conv2d(width, num_classes, 1))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling.

    Args:
        in_channels, channels: of the map, and of every convolution.
        rates: dilations.
        dropout: rate at the end.

    x: (N, C, H, W) -> (N, channels, H, W).
    """

    def __init__(self, in_channels: int, channels: int, rates: tuple[int, ...], dropout: float):
        super().__init__()
        branches = [nn.Sequential(*conv_bn_relu(in_channels, channels, 1))]
        branches += [nn.Sequential(*conv_bn_relu(in_channels, channels, 3, rate)) for rate in rates]
        branches += [nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(in_channels, channels, 1))]
        self.convs = nn.ModuleList(branches)
        self.project = nn.Sequential(*conv_bn_relu(len(branches) * channels, channels, 1), nn.Dropout(dropout))

    def forward(self, x):
        maps = [conv(x) for conv in self.convs]
        maps[-1] = resize_bilinear(maps[-1], map_size(x))
        return self.project(torch.cat(maps, 1))


class TorchvisionSegmenter(nn.Module):
    """Dilated ResNet, head on its last map, and an auxiliary head on the one before.

    Args:
        backbone: returns the maps ``"c4"`` and ``"c5"``.
        classifier, aux_classifier: the heads; the second may be None.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict of logits (N, K, H, W): ``"logits"``, ``"aux_logits"``.
    """

    def __init__(self, backbone, classifier, aux_classifier=None):
        super().__init__()
        self.backbone, self.classifier = backbone, classifier
        self.aux_classifier = aux_classifier

    def forward(self, images):
        maps, size = self.backbone(images), map_size(images)
        outputs = {"logits": resize_bilinear(self.classifier(maps["c5"]), size)}
        if self.aux_classifier is not None:
            outputs["aux_logits"] = resize_bilinear(self.aux_classifier(maps["c4"]), size)
        return outputs


class TorchvisionCriterion(SegmentationCriterion):
    """Mean cross-entropy of the pixels that count, and half of that of the auxiliary head.

    Args:
        ignore_index: label of pixels that do not count.

    Inputs and returns: as for :class:`SegmentationCriterion`; the terms are ``"out"`` and ``"aux"``, the latter halved.
    """

    def __init__(self, ignore_index: int = 255):
        terms = (("out", "logits", 1.0), ("aux", "aux_logits", 0.5))
        super().__init__(terms, ignore_index, avg_non_ignore=True)


def dilated(builder, **options):
    """The backbone: strides of the last two stages become dilations."""
    return builder(output_stride=8, features_only=True, out_indices=(3, 4), **options)


def fcn_resnet50(
    builder=resnet50, num_classes: int = 21, aux_loss: bool = True, dropout: float = 0.1, **options
) -> TorchvisionSegmenter:
    backbone = dilated(builder, **options)
    aux = fcn_head(backbone.channels["c4"], num_classes, dropout) if aux_loss else None
    return TorchvisionSegmenter(backbone, fcn_head(backbone.channels["c5"], num_classes, dropout), aux)


def fcn_resnet101(builder=resnet101, **options) -> TorchvisionSegmenter:
    return fcn_resnet50(builder=builder, **options)


def deeplabv3_resnet50(
    builder=resnet50,
    num_classes: int = 21,
    aux_loss: bool = True,
    channels: int = 256,
    dropout: float = 0.1,
    aspp_dropout: float = 0.5,
    rates: tuple[int, ...] = (12, 24, 36),
    **options,
) -> TorchvisionSegmenter:
    backbone = dilated(builder, **options)
    aspp = ASPP(backbone.channels["c5"], channels, rates, aspp_dropout)
    head = nn.Sequential(aspp, *conv_bn_relu(channels, channels, 3), nn.Conv2d(channels, num_classes, 1))
    aux = fcn_head(backbone.channels["c4"], num_classes, dropout) if aux_loss else None
    return TorchvisionSegmenter(backbone, head, aux)


def deeplabv3_resnet101(builder=resnet101, **options) -> TorchvisionSegmenter:
    return deeplabv3_resnet50(builder=builder, **options)
