"""U-Net: halve the map four times, double it again, and join the maps of equal size.

"U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, arXiv:1505.04597.
Parameter names: mmsegmentation ``backbones/unet.py`` (Apache-2.0); the widespread small network without a head is in
``unet_plain.py``.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2DTranspose
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import EncoderDecoder, FCNHead, conv_bn
from tf_impl.segmentation.deeplabv3 import ASPPHead
from tf_impl.segmentation.pspnet import PSPHead

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


@keras.saving.register_keras_serializable("diptych")
class BasicConvBlock(keras.layers.Layer):
    """Two 3x3 convolutions with normalisation and ReLU.  x: (N, H, W, C) -> (N, H, W, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.convs = keras.Sequential([conv_bn(filters, 3, padding=1), conv_bn(filters, 3, padding=1)])

    def call(self, x, training=False):
        return self.convs(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class Upsample(keras.layers.Layer):
    """Bilinear upsampling by 2.  x: (N, H, W, C) -> (N, 2 H, 2 W, C)."""

    def call(self, x):
        return resize_bilinear(x, tuple(2 * n for n in map_size(x)))


@keras.saving.register_keras_serializable("diptych")
class InterpConv(keras.layers.Layer):
    """Bilinear upsampling by 2, then a 1x1 convolution.  x: (N, H, W, C) -> (N, 2 H, 2 W, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.interp_upsample = keras.Sequential([Upsample(), conv_bn(filters, 1)])

    def call(self, x, training=False):
        return self.interp_upsample(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class DeconvModule(keras.layers.Layer):
    """A transposed convolution of strides 2 with normalisation.  x: (N, H, W, C) -> (N, 2 H, 2 W, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.deconv_upsamping = keras.Sequential(  # NOTE: the name is the checkpoint's
            [Conv2DTranspose(filters, 4, strides=2, padding=1), BatchNormalization(), keras.layers.ReLU()]
        )

    def call(self, x, training=False):
        return self.deconv_upsamping(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class UpConvBlock(keras.layers.Layer):
    """Double a map, join it with the map of that size, and two convolutions.

    Args:
        filters: of the other map and of the result.
        upsample: :class:`InterpConv` or :class:`DeconvModule`.

    Inputs: the other map (N, 2 H, 2 W, filters), the small map (N, H, W, C).
    Returns: (N, 2 H, 2 W, filters).
    """

    def __init__(self, filters: int, upsample=InterpConv, **kwargs):
        super().__init__(**kwargs)
        self.conv_block = BasicConvBlock(filters)
        self.upsample = upsample(filters)

    def call(self, skip, x, training=False):
        return self.conv_block(tf.concat((skip, self.upsample(x, training=training)), -1), training=training)


@keras.saving.register_keras_serializable("diptych")
class UNet(Model):
    """The network without a head, of five stages.

    Args:
        base_channels: of the first stage; doubled from stage to stage.
        in_chans: channels of the image.
        upsample: :class:`InterpConv` or :class:`DeconvModule`.

    Inputs: (N, H, W, in_chans) float; H and W multiples of 16.
    Returns: dict of the decoder's maps: ``"d16"`` (the bottom), ``"d8"``, ``"d4"``, ``"d2"``, ``"d1"``, by stride.
    """

    def __init__(self, base_channels: int = 64, in_chans: int = 3, upsample=InterpConv, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        widths = [base_channels * 2**i for i in range(5)]
        first = keras.Sequential([BasicConvBlock(widths[0])])
        self.encoder = [first, *(keras.Sequential([MaxPooling2D(2), BasicConvBlock(a)]) for a in widths[1:])]
        self.decoder = [UpConvBlock(width, upsample) for width in widths[:-1]]
        self.channels = {f"d{2**i}": widths[i] for i in range(4, -1, -1)}

    def call(self, images, training=False):
        if any(isinstance(size, int) and size % 16 for size in map_size(images)):
            raise ValueError(f"images of {map_size(images)}: height and width must be multiples of 16")
        skips = []
        x = images
        for stage in self.encoder:
            x = stage(x, training=training)
            skips.append(x)
        maps = {"d16": x}
        for i in range(3, -1, -1):
            x = self.decoder[i](skips[i], x, training=training)
            maps[f"d{2**i}"] = x
        return maps


def unet_s5_d16(
    base_channels: int = 64, num_classes: int = 19, channels: int = 64, dropout: float = 0.1, upsample=InterpConv
) -> EncoderDecoder:
    backbone = UNet(base_channels, upsample=upsample)
    head = FCNHead(channels, num_classes, dropout, "d1", 1, concat_input=False)
    second = FCNHead(channels, num_classes, dropout, "d2", 1, concat_input=False)
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
    head = PSPHead(channels, num_classes, dropout, pool_scales, "d1")
    second = FCNHead(aux_channels, num_classes, dropout, "d2", 1, concat_input=False)
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
    head = ASPPHead(channels, num_classes, dropout, rates, in_map="d1")
    second = FCNHead(aux_channels, num_classes, dropout, "d2", 1, concat_input=False)
    return EncoderDecoder(backbone, head, second)
