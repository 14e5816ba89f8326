"""U-Net: halve the map four times, double it again, and join the maps of equal size.

"U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, arXiv:1505.04597.
Parameter names: mmsegmentation ``backbones/unet.py`` (Apache-2.0); the widespread small network without a head is in
``unet_plain.py``.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import torch
from torch import nn

from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import EncoderDecoder, FCNHead, conv_bn
from torch_impl.segmentation.deeplabv3 import ASPPHead
from torch_impl.segmentation.pspnet import PSPHead

__all__ = [
    "BasicConvBlock",
    "DeconvModule",
    "InterpConv",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "UNet",
    "UpConvBlock",
    "unet_s5_d16",
    "unet_s5_d16_deconv",
    "unet_s5_d16_deeplabv3",
    "unet_s5_d16_pspnet",
]


class BasicConvBlock(nn.Module):
    """Two 3x3 convolutions with normalisation and ReLU.  x: (N, C, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.convs = nn.Sequential(
            conv_bn(in_channels, out_channels, 3, padding=1), conv_bn(out_channels, out_channels, 3, padding=1)
        )

    def forward(self, x):
        return self.convs(x)


class Upsample(nn.Module):
    """Bilinear upsampling by 2.  x: (N, C, H, W) -> (N, C, 2 H, 2 W)."""

    def forward(self, x):
        return resize_bilinear(x, tuple(2 * n for n in map_size(x)))


class InterpConv(nn.Module):
    """Bilinear upsampling by 2, then a 1x1 convolution.  x: (N, C, H, W) -> (N, out_channels, 2 H, 2 W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.interp_upsample = nn.Sequential(Upsample(), conv_bn(in_channels, out_channels, 1))

    def forward(self, x):
        return self.interp_upsample(x)


class DeconvModule(nn.Module):
    """A transposed convolution of stride 2 with normalisation.  x: (N, C, H, W) -> (N, out_channels, 2 H, 2 W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.deconv_upsamping = nn.Sequential(  # NOTE: the name is the checkpoint's
            nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1), nn.BatchNorm2d(out_channels), nn.ReLU()
        )

    def forward(self, x):
        return self.deconv_upsamping(x)


class UpConvBlock(nn.Module):
    """Double a map, join it with the map of that size, and two convolutions.

    Args:
        in_channels, out_channels: of the small map, and of the other one and the result.
        upsample: :class:`InterpConv` or :class:`DeconvModule`.

    Inputs: the other map (N, out_channels, 2 H, 2 W), the small map (N, in_channels, H, W).
    Returns: (N, out_channels, 2 H, 2 W).
    """

    def __init__(self, in_channels: int, out_channels: int, upsample=InterpConv):
        super().__init__()
        self.conv_block = BasicConvBlock(2 * out_channels, out_channels)
        self.upsample = upsample(in_channels, out_channels)

    def forward(self, skip, x):
        return self.conv_block(torch.cat((skip, self.upsample(x)), 1))


class UNet(nn.Module):
    """The network without a head, of five stages.

    Args:
        base_channels: of the first stage; doubled from stage to stage.
        in_chans: channels of the image.
        upsample: :class:`InterpConv` or :class:`DeconvModule`.

    Inputs: (N, in_chans, H, W) float; H and W multiples of 16.
    Returns: dict of the decoder's maps: ``"d16"`` (the bottom), ``"d8"``, ``"d4"``, ``"d2"``, ``"d1"``, by stride.
    """

    def __init__(self, base_channels: int = 64, in_chans: int = 3, upsample=InterpConv):
        super().__init__()
        widths = [base_channels * 2**i for i in range(5)]
        first = nn.Sequential(BasicConvBlock(in_chans, widths[0]))
        others = [nn.Sequential(nn.MaxPool2d(2), BasicConvBlock(a, 2 * a)) for a in widths[:-1]]
        self.encoder = nn.ModuleList([first, *others])
        self.decoder = nn.ModuleList(UpConvBlock(2 * width, width, upsample) for width in widths[:-1])
        self.channels = {f"d{2**i}": widths[i] for i in range(4, -1, -1)}

    def forward(self, images):
        if any(size % 16 for size in map_size(images)):
            raise ValueError(f"images of {map_size(images)}: height and width must be multiples of 16")
        skips = []
        x = images
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        maps = {"d16": x}
        for i in range(3, -1, -1):
            x = self.decoder[i](skips[i], x)
            maps[f"d{2**i}"] = x
        return maps


def unet_s5_d16(
    base_channels: int = 64, num_classes: int = 19, channels: int = 64, dropout: float = 0.1, upsample=InterpConv
) -> EncoderDecoder:
    backbone = UNet(base_channels, upsample=upsample)
    head = FCNHead(backbone.channels["d1"], channels, num_classes, dropout, "d1", 1, concat_input=False)
    second = FCNHead(backbone.channels["d2"], channels, num_classes, dropout, "d2", 1, concat_input=False)
    return EncoderDecoder(backbone, head, second)


def unet_s5_d16_deconv(upsample=DeconvModule, **options) -> EncoderDecoder:
    return unet_s5_d16(upsample=upsample, **options)


def unet_s5_d16_pspnet(
    base_channels: int = 64,
    num_classes: int = 19,
    channels: int = 16,
    aux_channels: int = 64,
    dropout: float = 0.1,
    pool_scales: tuple[int, ...] = (1, 2, 3, 6),
) -> EncoderDecoder:
    backbone = UNet(base_channels)
    head = PSPHead(backbone.channels["d1"], channels, num_classes, dropout, pool_scales, "d1")
    second = FCNHead(backbone.channels["d2"], aux_channels, num_classes, dropout, "d2", 1, concat_input=False)
    return EncoderDecoder(backbone, head, second)


def unet_s5_d16_deeplabv3(
    base_channels: int = 64,
    num_classes: int = 19,
    channels: int = 16,
    aux_channels: int = 64,
    dropout: float = 0.1,
    rates: tuple[int, ...] = (1, 12, 24, 36),
) -> EncoderDecoder:
    backbone = UNet(base_channels)
    head = ASPPHead(backbone.channels["d1"], channels, num_classes, dropout, rates, in_map="d1")
    second = FCNHead(backbone.channels["d2"], aux_channels, num_classes, dropout, "d2", 1, concat_input=False)
    return EncoderDecoder(backbone, head, second)
