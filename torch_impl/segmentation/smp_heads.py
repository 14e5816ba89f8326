"""U-Net, PSPNet, DeepLabv3 and DeepLabv3+ as in segmentation-models-pytorch: a classifier's trunk as the encoder.

"U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, arXiv:1505.04597; "Pyramid Scene Parsing
Network", 2016, arXiv:1612.01105; "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017,
arXiv:1706.05587; "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", 2018,
arXiv:1802.02611.
Parameter names: segmentation-models-pytorch 0.6 ``decoders`` (MIT).
What to look at: a dilated stage is dilated from its first block on, and logits are resized with aligned corners;
PSPNet reads the map of stride 8; the later stages stay unused.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
- Dropout of whole channels is a noise shape in Keras.
- Stages that are never called have variables in Keras only if they are built by hand.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from torch_impl.layers.initialization import kaiming_uniform
from torch_impl.layers.resize import map_size, resize_bilinear, resize_nearest
from torch_impl.losses.segmentation import SegmentationPostProcess
from torch_impl.segmentation.gcn import GCNCriterion

__all__ = [
    "ASPP",
    "DeepLabV3Decoder",
    "DeepLabV3PlusDecoder",
    "EarlyResNet",
    "GCNCriterion",
    "PSPBlock",
    "PSPDecoder",
    "PSPModule",
    "SMPSegmenter",
    "SegmentationPostProcess",
    "StemResNet",
    "UnetDecoder",
    "UnetDecoderBlock",
    "smp_deeplabv3_resnet18",
    "smp_deeplabv3plus_resnet50",
    "smp_pspnet_resnet18",
    "smp_unet_resnet34",
]

PLANES = (64, 128, 256, 512)
SKIPS = ("c4", "c3", "c2", "c1", "c0")


def convolution(in_channels: int, out_channels: int, kernel: int, dilation: int = 1, bias: bool = False) -> nn.Conv2d:
    """Of the same size."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=bias)


def separable(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3 and 1x1 convolution, with nothing in between."""
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
    )
    return nn.Sequential(depthwise, convolution(in_channels, out_channels, 1))


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Convolution without bias, normalisation, ReLU."""
    return nn.Sequential(convolution(in_channels, out_channels, kernel), nn.BatchNorm2d(out_channels), nn.ReLU())


class StemResNet(ResNet):
    """A ResNet that also returns the image as ``"c0"`` and the map of stride 2 as ``"c1"``."""

    def __init__(self, *args, **options):
        super().__init__(*args, features_only=True, **options)
        self.known_channels = {"c1": self.bn1.num_features, **self.known_channels}
        self.known_strides = {"c1": 2, **self.known_strides}

    def forward_features(self, images) -> dict:
        x = F.relu(self.bn1(self.conv1(images)))
        maps = {"c0": images, "c1": x}
        x = self.maxpool(x)
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=2):
            maps[f"c{i}"] = x = stage(x)
        return maps


class EarlyResNet(ResNet):
    """A ResNet of which only the map of stride 8, ``"c3"``, is computed; checkpoints also have the later stages."""

    def __init__(self, *args, **options):
        super().__init__(*args, features_only=True, out_indices=(2,), **options)  # mirror: never called


class UnetDecoderBlock(nn.Module):
    """Two 3x3 convolutions.  x: (N, C, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = conv_bn_relu(in_channels, out_channels, 3)
        self.conv2 = conv_bn_relu(out_channels, out_channels, 3)

    def forward(self, x):
        return self.conv2(self.conv1(x))


class UnetDecoder(nn.Module):
    """The coarsest map, upsampled step by step and joined with all finer maps except the image.

    Args:
        in_channels: of the maps ``"c1"`` to ``"c5"``, by name.
        channels: of the five blocks.

    Inputs: the maps ``"c0"`` to ``"c5"``.
    Returns: (N, channels[-1], H, W).
    """

    def __init__(self, in_channels: dict[str, int], channels: tuple[int, ...]):
        super().__init__()
        coarse, fine = (in_channels["c5"], *channels), (*(in_channels[name] for name in SKIPS[:-1]), 0)
        self.blocks = nn.ModuleList(UnetDecoderBlock(a + b, c) for a, b, c in zip(coarse, fine, channels))

    def forward(self, maps):
        x = maps["c5"]
        for block, name in zip(self.blocks, SKIPS, strict=True):
            x = resize_nearest(x, map_size(maps[name]))
            x = block(x if name == "c0" else torch.cat((x, maps[name]), 1))
        return x


class PSPBlock(nn.Module):
    """The means of bins x bins parts of a map, a 1x1 convolution, and back to the size of the map.

    Args:
        in_channels, out_channels: of the map, and of the result.
        bins: per axis; a single one is not normalised.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, bins: int):
        super().__init__()
        if bins == 1:
            conv = nn.Sequential(convolution(in_channels, out_channels, 1, bias=True), nn.ReLU())
        else:
            conv = conv_bn_relu(in_channels, out_channels, 1)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(bins), conv)

    def forward(self, x):
        return resize_bilinear(self.pool(x), map_size(x), align_corners=True)


class PSPModule(nn.Module):
    """Blocks of 1, 2, 3 and 6 bins per axis, a quarter of the channels each, and the map itself.

    x: (N, C, H, W) -> (N, 2 C, H, W).
    """

    def __init__(self, in_channels: int):
        super().__init__()
        self.blocks = nn.ModuleList(PSPBlock(in_channels, in_channels // 4, bins) for bins in (1, 2, 3, 6))

    def forward(self, x):
        return torch.cat((*(block(x) for block in self.blocks), x), 1)


class PSPDecoder(nn.Module):
    """Pyramid pooling of the map ``"c3"``.

    Args:
        in_channels: of the maps, by name.
        channels: of the result.
        dropout: rate, of whole channels.

    Inputs: the maps.  Returns: (N, channels, H / 8, W / 8).
    """

    def __init__(self, in_channels: dict[str, int], channels: int, dropout: float):
        super().__init__()
        self.psp = PSPModule(in_channels["c3"])
        self.conv = conv_bn_relu(2 * in_channels["c3"], channels, 1)
        self.dropout = nn.Dropout2d(dropout)  # mirror: whole channels

    def forward(self, maps):
        return self.dropout(self.conv(self.psp(maps["c3"])))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling.

    Args:
        in_channels, out_channels: of the map, and of every convolution.
        rates: dilations.
        dropout: rate at the end.
        split: whether the dilated convolutions are separable.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, ...], dropout: float, split: bool):
        super().__init__()
        branches = [conv_bn_relu(in_channels, out_channels, 1)]
        for rate in rates:
            conv = (
                separable(in_channels, out_channels, rate) if split else convolution(in_channels, out_channels, 3, rate)
            )
            branches.append(nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU()))
        branches.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(in_channels, out_channels, 1)))
        self.convs = nn.ModuleList(branches)
        self.project = nn.Sequential(*conv_bn_relu(len(branches) * out_channels, out_channels, 1), nn.Dropout(dropout))

    def forward(self, x):
        maps = [conv(x) for conv in self.convs]
        maps[-1] = resize_bilinear(maps[-1], map_size(x))
        return self.project(torch.cat(maps, 1))


class DeepLabV3Decoder(nn.Module):
    """The pyramid on the map ``"c5"``, and a 3x3 convolution.

    Args:
        in_channels: of the maps, by name.
        channels: of every convolution.
        rates, dropout: see :class:`ASPP`.

    Inputs: the maps.  Returns: (N, channels, H / 8, W / 8).
    """

    def __init__(self, in_channels: dict[str, int], channels: int, rates: tuple[int, ...], dropout: float):
        super().__init__()
        self.aspp = ASPP(in_channels["c5"], channels, rates, dropout, split=False)
        self.conv = convolution(channels, channels, 3)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, maps):
        return F.relu(self.bn(self.conv(self.aspp(maps["c5"]))))


class DeepLabV3PlusDecoder(nn.Module):
    """The pyramid on the map ``"c5"``, at the size of ``"c2"`` and joined with it; its convolutions are separable.

    Args:
        in_channels: of the maps, by name.
        channels: of the pyramid and of the result.
        rates, dropout: see :class:`ASPP`.
        early_channels: of ``"c2"`` after its 1x1 convolution.

    Inputs: the maps.  Returns: (N, channels, H / 4, W / 4).
    """

    def __init__(
        self, in_channels: dict[str, int], channels: int, rates: tuple[int, ...], dropout: float, early_channels: int
    ):
        super().__init__()
        aspp = ASPP(in_channels["c5"], channels, rates, dropout, split=True)
        self.aspp = nn.Sequential(aspp, separable(channels, channels), nn.BatchNorm2d(channels), nn.ReLU())
        self.block1 = conv_bn_relu(in_channels["c2"], early_channels, 1)
        self.block2 = nn.Sequential(separable(early_channels + channels, channels), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, maps):
        early = self.block1(maps["c2"])
        x = resize_bilinear(self.aspp(maps["c5"]), map_size(early), align_corners=True)
        return self.block2(torch.cat((x, early), 1))


def segmentation_head(in_channels: int, num_classes: int, kernel: int) -> nn.Sequential:
    """The convolution to the classes."""
    conv = convolution(in_channels, num_classes, kernel, bias=True)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv)


class SMPSegmenter(nn.Module):
    """Encoder, decoder, head.

    Args:
        encoder: returns maps by name.
        decoder: makes one map from them.
        head: makes logits from that map.
        upsampling: factor of the logits' size over that map's.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"logits"`` (N, K, H', W'), H' = H and W' = W if the decoder's stride divides them.
    """

    def __init__(self, encoder, decoder, head, upsampling: int):
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = encoder, decoder, head
        self.upsampling = upsampling
        kaiming_uniform(decoder)

    def forward(self, images):
        logits = self.segmentation_head(self.decoder(self.encoder(images)))
        size = tuple(self.upsampling * n for n in map_size(logits))
        return {"logits": resize_bilinear(logits, size, align_corners=True)}


def smp_unet_resnet34(
    layers=(3, 4, 6, 3), planes=PLANES, num_classes: int = 21, channels=(256, 128, 64, 32, 16)
) -> SMPSegmenter:
    encoder = StemResNet(BasicBlock, layers, planes=planes)
    return SMPSegmenter(
        encoder, UnetDecoder(encoder.channels, channels), segmentation_head(channels[-1], num_classes, 3), 1
    )


def smp_pspnet_resnet18(
    layers=(2, 2, 2, 2), planes=PLANES, num_classes: int = 21, channels: int = 512, dropout: float = 0.2
) -> SMPSegmenter:
    encoder = EarlyResNet(BasicBlock, layers, planes=planes)
    decoder = PSPDecoder(encoder.channels, channels, dropout)
    return SMPSegmenter(encoder, decoder, segmentation_head(channels, num_classes, 3), 8)


def smp_deeplabv3_resnet18(
    layers=(2, 2, 2, 2),
    planes=PLANES,
    num_classes: int = 21,
    channels: int = 256,
    rates: tuple[int, ...] = (12, 24, 36),
    aspp_dropout: float = 0.5,
) -> SMPSegmenter:
    encoder = ResNet(
        BasicBlock,
        layers,
        planes=planes,
        output_stride=8,
        contract_dilation=False,
        features_only=True,
        out_indices=(4,),
    )
    decoder = DeepLabV3Decoder(encoder.channels, channels, rates, aspp_dropout)
    return SMPSegmenter(encoder, decoder, segmentation_head(channels, num_classes, 1), 8)


def smp_deeplabv3plus_resnet50(
    layers=(3, 4, 6, 3),
    planes=PLANES,
    num_classes: int = 21,
    channels: int = 256,
    early_channels: int = 48,
    rates: tuple[int, ...] = (12, 24, 36),
    aspp_dropout: float = 0.5,
) -> SMPSegmenter:
    encoder = ResNet(
        Bottleneck,
        layers,
        planes=planes,
        output_stride=16,
        contract_dilation=False,
        features_only=True,
        out_indices=(1, 4),
    )
    decoder = DeepLabV3PlusDecoder(encoder.channels, channels, rates, aspp_dropout, early_channels)
    return SMPSegmenter(encoder, decoder, segmentation_head(channels, num_classes, 1), 4)
