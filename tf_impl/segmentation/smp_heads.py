"""U-Net, PSPNet, DeepLabv3 and DeepLabv3+ as in segmentation-models-pytorch: a classifier's trunk as the encoder.

"U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, arXiv:1505.04597; "Pyramid Scene Parsing
Network", 2016, arXiv:1612.01105; "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017,
arXiv:1706.05587; "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", 2018,
arXiv:1802.02611.
Parameter names: segmentation-models-pytorch 0.6 ``decoders`` (MIT).
What to look at: a dilated stage is dilated from its first block on, and logits are resized with aligned corners;
PSPNet reads the map of stride 8; the later stages stay unused.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
- Dropout of whole channels is a noise shape in Keras.
- Stages that are never called have variables in Keras only if they are built by hand.
"""

import keras
import tensorflow as tf

from tf_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from tf_impl.layers.convolution import Conv2D, DepthwiseConv2D
from tf_impl.layers.initialization import KaimingUniform
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import AdaptiveAveragePooling2D
from tf_impl.layers.resize import map_size, resize_bilinear, resize_nearest
from tf_impl.losses.segmentation import SegmentationPostProcess
from tf_impl.segmentation.gcn import GCNCriterion

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


def convolution(filters: int, kernel: int, dilation_rate: int = 1, use_bias: bool = False) -> Conv2D:
    """Of the same size."""
    return Conv2D(
        filters,
        kernel,
        padding=dilation_rate * (kernel // 2),
        dilation_rate=dilation_rate,
        use_bias=use_bias,
        kernel_initializer=KaimingUniform(),
        bias_initializer="zeros",
    )


def separable(filters: int, dilation_rate: int = 1) -> keras.Sequential:
    """Depthwise 3x3 and 1x1 convolution, with nothing in between."""
    depthwise = DepthwiseConv2D(
        3,
        padding=dilation_rate,
        dilation_rate=dilation_rate,
        use_bias=False,
        kernel_initializer=KaimingUniform(),
    )
    return keras.Sequential([depthwise, convolution(filters, 1)])


def conv_bn_relu(filters: int, kernel: int) -> list[keras.layers.Layer]:
    """Convolution without bias, normalisation, ReLU."""
    return [convolution(filters, kernel), BatchNormalization(), keras.layers.ReLU()]


@keras.saving.register_keras_serializable("diptych")
class StemResNet(ResNet):
    """A ResNet that also returns the image as ``"c0"`` and the map of stride 2 as ``"c1"``."""

    def __init__(self, *args, **options):
        super().__init__(*args, features_only=True, **options)
        self.known_channels = {"c1": self.conv1.filters, **self.known_channels}
        self.known_strides = {"c1": 2, **self.known_strides}

    def forward_features(self, images, training=False) -> dict:
        x = tf.nn.relu(self.bn1(self.conv1(images), training=training))
        maps = {"c0": images, "c1": x}
        x = self.maxpool(x)
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=2):
            maps[f"c{i}"] = x = stage(x, training=training)
        return maps


@keras.saving.register_keras_serializable("diptych")
class EarlyResNet(ResNet):
    """A ResNet of which only the map of stride 8, ``"c3"``, is computed; checkpoints also have the later stages."""

    def __init__(self, *args, **options):
        super().__init__(*args, features_only=True, out_indices=(2,), **options)
        x = keras.KerasTensor((None, None, None, self.channels["c3"]))
        self.layer4(self.layer3(x))  # mirror: by hand


@keras.saving.register_keras_serializable("diptych")
class UnetDecoderBlock(keras.layers.Layer):
    """Two 3x3 convolutions.  x: (N, H, W, C) -> (N, H, W, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = keras.Sequential(conv_bn_relu(filters, 3))
        self.conv2 = keras.Sequential(conv_bn_relu(filters, 3))

    def call(self, x, training=False):
        return self.conv2(self.conv1(x, training=training), training=training)


@keras.saving.register_keras_serializable("diptych")
class UnetDecoder(keras.layers.Layer):
    """The coarsest map, upsampled step by step and joined with all finer maps except the image.

    Args:
        filters: of the five blocks.

    Inputs: the maps ``"c0"`` to ``"c5"``.
    Returns: (N, H, W, filters[-1]).
    """

    def __init__(self, filters: tuple[int, ...], **kwargs):
        super().__init__(**kwargs)
        self.blocks = [UnetDecoderBlock(width) for width in filters]

    def call(self, maps, training=False):
        x = maps["c5"]
        for block, name in zip(self.blocks, SKIPS, strict=True):
            x = resize_nearest(x, map_size(maps[name]))
            x = block(x if name == "c0" else tf.concat((x, maps[name]), -1), training=training)
        return x


@keras.saving.register_keras_serializable("diptych")
class PSPBlock(keras.layers.Layer):
    """The means of bins x bins parts of a map, a 1x1 convolution, and back to the size of the map.

    Args:
        filters: of the result.
        bins: per axis; a single one is not normalised.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(self, filters: int, bins: int, **kwargs):
        super().__init__(**kwargs)
        if bins == 1:
            conv = [convolution(filters, 1, use_bias=True), keras.layers.ReLU()]
        else:
            conv = conv_bn_relu(filters, 1)
        self.pool = keras.Sequential([AdaptiveAveragePooling2D(bins), keras.Sequential(conv)])

    def call(self, x, training=False):
        return resize_bilinear(self.pool(x, training=training), map_size(x), align_corners=True)


@keras.saving.register_keras_serializable("diptych")
class PSPModule(keras.layers.Layer):
    """Blocks of 1, 2, 3 and 6 bins per axis, a quarter of the channels each, and the map itself.

    x: (N, H, W, C) -> (N, H, W, 2 C).
    """

    def __init__(self, in_filters: int, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [PSPBlock(in_filters // 4, bins) for bins in (1, 2, 3, 6)]

    def call(self, x, training=False):
        return tf.concat((*(block(x, training=training) for block in self.blocks), x), -1)


@keras.saving.register_keras_serializable("diptych")
class PSPDecoder(keras.layers.Layer):
    """Pyramid pooling of the map ``"c3"``.

    Args:
        in_filters: of the maps, by name.
        filters: of the result.
        dropout: rate, of whole channels.

    Inputs: the maps.  Returns: (N, H / 8, W / 8, filters).
    """

    def __init__(self, in_filters: dict[str, int], filters: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.psp = PSPModule(in_filters["c3"])
        self.conv = keras.Sequential(conv_bn_relu(filters, 1))
        self.dropout = keras.layers.Dropout(dropout, noise_shape=(None, 1, 1, None))  # mirror: whole channels

    def call(self, maps, training=False):
        x = self.conv(self.psp(maps["c3"], training=training), training=training)
        return self.dropout(x, training=training)


@keras.saving.register_keras_serializable("diptych", "smp_heads.ASPP")
class ASPP(keras.layers.Layer):
    """Atrous spatial pyramid pooling.

    Args:
        filters: of every convolution.
        rates: dilations.
        dropout: rate at the end.
        split: whether the dilated convolutions are separable.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(self, filters: int, rates: tuple[int, ...], dropout: float, split: bool, **kwargs):
        super().__init__(**kwargs)
        branches = [keras.Sequential(conv_bn_relu(filters, 1))]
        for rate in rates:
            conv = separable(filters, rate) if split else convolution(filters, 3, rate)
            branches.append(keras.Sequential([conv, BatchNormalization(), keras.layers.ReLU()]))
        branches.append(keras.Sequential([AdaptiveAveragePooling2D(1), *conv_bn_relu(filters, 1)]))
        self.convs = branches
        self.project = keras.Sequential([*conv_bn_relu(filters, 1), keras.layers.Dropout(dropout)])

    def call(self, x, training=False):
        maps = [conv(x, training=training) for conv in self.convs]
        maps[-1] = resize_bilinear(maps[-1], map_size(x))
        return self.project(tf.concat(maps, -1), training=training)


@keras.saving.register_keras_serializable("diptych")
class DeepLabV3Decoder(keras.layers.Layer):
    """The pyramid on the map ``"c5"``, and a 3x3 convolution.

    Args:
        filters: of every convolution.
        rates, dropout: see :class:`ASPP`.

    Inputs: the maps.  Returns: (N, H / 8, W / 8, filters).
    """

    def __init__(self, filters: int, rates: tuple[int, ...], dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.aspp = ASPP(filters, rates, dropout, split=False)
        self.conv = convolution(filters, 3)
        self.bn = BatchNormalization()

    def call(self, maps, training=False):
        return tf.nn.relu(self.bn(self.conv(self.aspp(maps["c5"], training=training)), training=training))


@keras.saving.register_keras_serializable("diptych")
class DeepLabV3PlusDecoder(keras.layers.Layer):
    """The pyramid on the map ``"c5"``, at the size of ``"c2"`` and joined with it; its convolutions are separable.

    Args:
        filters: of the pyramid and of the result.
        rates, dropout: see :class:`ASPP`.
        early_filters: of ``"c2"`` after its 1x1 convolution.

    Inputs: the maps.  Returns: (N, H / 4, W / 4, filters).
    """

    def __init__(self, filters: int, rates: tuple[int, ...], dropout: float, early_filters: int, **kwargs):
        super().__init__(**kwargs)
        aspp = ASPP(filters, rates, dropout, split=True)
        self.aspp = keras.Sequential([aspp, separable(filters), BatchNormalization(), keras.layers.ReLU()])
        self.block1 = keras.Sequential(conv_bn_relu(early_filters, 1))
        self.block2 = keras.Sequential([separable(filters), BatchNormalization(), keras.layers.ReLU()])

    def call(self, maps, training=False):
        early = self.block1(maps["c2"], training=training)
        x = resize_bilinear(self.aspp(maps["c5"], training=training), map_size(early), align_corners=True)
        return self.block2(tf.concat((x, early), -1), training=training)


def segmentation_head(num_classes: int, kernel: int) -> keras.Sequential:
    """The convolution to the classes."""
    conv = Conv2D(
        num_classes,
        kernel,
        padding=kernel // 2,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
    )
    return keras.Sequential([conv])


@keras.saving.register_keras_serializable("diptych")
class SMPSegmenter(Model):
    """Encoder, decoder, head.

    Args:
        encoder: returns maps by name.
        decoder: makes one map from them.
        head: makes logits from that map.
        upsampling: factor of the logits' size over that map's.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: ``"logits"`` (N, H', W', K), H' = H and W' = W if the decoder's stride divides them.
    """

    def __init__(self, encoder, decoder, head, upsampling: int, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.encoder, self.decoder, self.segmentation_head = encoder, decoder, head
        self.upsampling = upsampling

    def call(self, images, training=False):
        maps = self.encoder(images, training=training)
        logits = self.segmentation_head(self.decoder(maps, training=training))
        size = tuple(self.upsampling * n for n in map_size(logits))
        return {"logits": resize_bilinear(logits, size, align_corners=True)}


def smp_unet_resnet34(
    layers=(3, 4, 6, 3), planes=PLANES, num_classes: int = 21, channels=(256, 128, 64, 32, 16)
) -> SMPSegmenter:
    encoder = StemResNet(BasicBlock, layers, planes=planes)
    return SMPSegmenter(encoder, UnetDecoder(channels), segmentation_head(num_classes, 3), 1)


def smp_pspnet_resnet18(
    layers=(2, 2, 2, 2), planes=PLANES, num_classes: int = 21, channels: int = 512, dropout: float = 0.2
) -> SMPSegmenter:
    encoder = EarlyResNet(BasicBlock, layers, planes=planes)
    decoder = PSPDecoder(encoder.channels, channels, dropout)
    return SMPSegmenter(encoder, decoder, segmentation_head(num_classes, 3), 8)


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
    decoder = DeepLabV3Decoder(channels, rates, aspp_dropout)
    return SMPSegmenter(encoder, decoder, segmentation_head(num_classes, 1), 8)


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
    decoder = DeepLabV3PlusDecoder(channels, rates, aspp_dropout, early_channels)
    return SMPSegmenter(encoder, decoder, segmentation_head(num_classes, 1), 4)
