"""PAN: a small pyramid weights the last map, and every finer map is gated by the mean of the coarser one.

"Pyramid Attention Network for Semantic Segmentation", 2018, arXiv:1805.10180.
Parameter names: segmentation-models-pytorch ``decoders/pan`` (MIT).
What to look at: convolutions keep their bias before a normalisation; everything is resized with aligned corners.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import functools

import keras

from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.pooling import AdaptiveAveragePooling2D, MaxPooling2D
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationPostProcess
from tf_impl.segmentation.gcn import GCNCriterion

__all__ = [
    "PAN",
    "FPABlock",
    "GAUBlock",
    "GCNCriterion",
    "PANDecoder",
    "SegmentationPostProcess",
    "pan_resnet50",
    "pan_resnet101",
]


conv_bn = functools.partial(ConvModule, norm="batch", use_bias=True)
SMALLEST = 128  # pixels: three halvings of a map of stride 16


def resize(x, size: tuple[int, int]):
    """Bilinear, corners aligned."""
    return resize_bilinear(x, size, align_corners=True)


@keras.saving.register_keras_serializable("diptych")
class FPABlock(keras.layers.Layer):
    """Feature pyramid attention: a map, weighted by a pyramid of itself (section 3.1).

    Args:
        filters: of the result.

    x: (N, H, W, C) -> (N, H, W, filters); H and W 8 or more.
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.branch1 = keras.Sequential([AdaptiveAveragePooling2D(1), conv_bn(filters, 1)])
        self.mid = keras.Sequential([conv_bn(filters, 1)])
        self.down1 = keras.Sequential([MaxPooling2D(2), conv_bn(1, 7, padding=3)])
        self.down2 = keras.Sequential([MaxPooling2D(2), conv_bn(1, 5, padding=2)])
        self.down3 = keras.Sequential([MaxPooling2D(2), conv_bn(1, 3, padding=1), conv_bn(1, 3, padding=1)])
        self.conv2 = conv_bn(1, 5, padding=2)
        self.conv1 = conv_bn(1, 7, padding=3)

    def call(self, x, training=False):
        height, width = map_size(x)
        x1 = self.down1(x, training=training)
        x2 = self.down2(x1, training=training)
        y = resize(self.down3(x2, training=training), (height // 4, width // 4)) + self.conv2(x2, training=training)
        y = resize(y, (height // 2, width // 2)) + self.conv1(x1, training=training)
        y = resize(y, (height, width)) * self.mid(x, training=training)
        return y + resize(self.branch1(x, training=training), (height, width))


@keras.saving.register_keras_serializable("diptych")
class GAUBlock(keras.layers.Layer):
    """Global attention upsample: a fine map, gated by the mean of a coarse one, and the coarse one (section 3.2).

    Args:
        filters: of the coarse map and of the result.

    Inputs: the fine map (N, H, W, C), the coarse one (N, h, w, filters).
    Returns: (N, H, W, filters).
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        gate = conv_bn(filters, 1, activation=None)
        self.conv1 = keras.Sequential([AdaptiveAveragePooling2D(1), gate, keras.layers.Activation("sigmoid")])
        self.conv2 = conv_bn(filters, 3, padding=1)

    def call(self, x, y, training=False):
        gated = self.conv1(y, training=training) * self.conv2(x, training=training)
        return resize(y, map_size(x)) + gated


@keras.saving.register_keras_serializable("diptych")
class PANDecoder(keras.layers.Layer):
    """Maps ``"c2"`` to ``"c5"`` of the encoder -> (N, H / 4, W / 4, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.fpa = FPABlock(filters)
        self.gau3, self.gau2, self.gau1 = GAUBlock(filters), GAUBlock(filters), GAUBlock(filters)

    def call(self, maps, training=False):
        x = self.fpa(maps["c5"], training=training)
        for gau, name in ((self.gau3, "c4"), (self.gau2, "c3"), (self.gau1, "c2")):
            x = gau(maps[name], x, training=training)
        return x


@keras.saving.register_keras_serializable("diptych")
class PAN(Model):
    """The network (figure 2).

    Args:
        layers: blocks of the stages of the residual network.
        num_classes: classes K.
        channels: of the decoder.
        planes: nominal widths of the stages.

    Inputs: (N, H, W, 3) float, normalised, H and W 128 or more.
    Returns: dict: ``"logits"`` (N, H', W', K) of four times the size of the map ``"c2"``.
    Raises: ValueError if the images are smaller.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        num_classes: int = 21,
        channels: int = 32,
        planes: tuple[int, ...] = (64, 128, 256, 512),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        options = {"planes": planes, "output_stride": 16, "contract_dilation": False, "features_only": True}
        self.encoder = ResNet(Bottleneck, layers, **options)
        self.decoder = PANDecoder(channels)
        self.segmentation_head = keras.Sequential([Conv2D(num_classes, 3, padding=1)])

    def call(self, images, training=False):
        if any(isinstance(size, int) and size < SMALLEST for size in map_size(images)):
            raise ValueError(f"images of {map_size(images)}: height and width must be {SMALLEST} or more")
        maps = self.encoder(images, training=training)
        logits = self.segmentation_head(self.decoder(maps, training=training))
        return {"logits": resize(logits, tuple(4 * n for n in map_size(logits)))}


def pan_resnet50(layers=(3, 4, 6, 3), **options) -> PAN:
    return PAN(layers, **options)


def pan_resnet101(layers=(3, 4, 23, 3), **options) -> PAN:
    return PAN(layers, **options)
