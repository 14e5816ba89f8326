"""U-Net in its most common variant: without separate backbone and head, with padding and batch normalisation.

"U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, arXiv:1505.04597.
Parameter names: those of the widespread PyTorch implementation milesial/Pytorch-UNet (GPL-3.0; names and shapes alone).
What to look at: images of any size; the doubled map is padded to the size of the one that it is joined with.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D, Conv2DTranspose
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationPostProcess, pixel_cross_entropy

__all__ = [
    "DiceCriterion",
    "DoubleConv",
    "Down",
    "OutConv",
    "PlainUNet",
    "SegmentationPostProcess",
    "Up",
    "dice_loss",
    "unet_bilinear",
    "unet_deconv",
]


@keras.saving.register_keras_serializable("diptych")
class DoubleConv(keras.layers.Layer):
    """Two 3x3 convolutions with normalisation and ReLU.

    Args:
        filters, mid_filters: of the result, and between.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(self, filters: int, mid_filters: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.double_conv = keras.Sequential(
            [
                Conv2D(mid_filters or filters, 3, padding=1, use_bias=False),
                BatchNormalization(),
                keras.layers.ReLU(),
                Conv2D(filters, 3, padding=1, use_bias=False),
                BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    def call(self, x, training=False):
        return self.double_conv(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class Down(keras.layers.Layer):
    """Max pooling by 2, then two convolutions.  x: (N, H, W, C) -> (N, H // 2, W // 2, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.maxpool_conv = keras.Sequential([MaxPooling2D(2), DoubleConv(filters)])

    def call(self, x, training=False):
        return self.maxpool_conv(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class Up(keras.layers.Layer):
    """Double a map, pad it to the size of another, join both, and two convolutions.

    Args:
        in_channels: of both maps, concatenated.
        filters: of the result.
        bilinear: whether to upsample by interpolation, or by a transposed convolution that halves the channels.

    Inputs: the small map, the other map (N, H, W, C).
    Returns: (N, H, W, filters) of the other map.
    """

    def __init__(self, in_channels: int, filters: int, bilinear: bool, **kwargs):
        super().__init__(**kwargs)
        self.up = None if bilinear else Conv2DTranspose(in_channels // 2, 2, strides=2)
        self.conv = DoubleConv(filters, in_channels // 2 if bilinear else None)

    def call(self, x, skip, training=False):
        x = resize_bilinear(x, tuple(2 * n for n in map_size(x)), True) if self.up is None else self.up(x)
        dy, dx = (there - here for there, here in zip(map_size(skip), map_size(x)))
        x = tf.pad(x, [[0, 0], [dy // 2, dy - dy // 2], [dx // 2, dx - dx // 2], [0, 0]])
        return self.conv(tf.concat((skip, x), -1), training=training)


@keras.saving.register_keras_serializable("diptych")
class OutConv(keras.layers.Layer):
    """The classifier of the pixels.  x: (N, H, W, C) -> (N, H, W, K)."""

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        self.conv = Conv2D(num_classes, 1)

    def call(self, x):
        return self.conv(x)


@keras.saving.register_keras_serializable("diptych")
class PlainUNet(Model):
    """The network.

    Args:
        num_classes: classes K.
        in_chans: channels of the image.
        bilinear: see :class:`Up`; if set, the bottom has half as many channels.
        width: channels of the first stage; doubled from stage to stage.

    Inputs: (N, H, W, in_chans) float, 16 pixels or more on each side.
    Returns: dict: ``"logits"`` (N, H, W, K).
    """

    def __init__(self, num_classes: int = 2, in_chans: int = 3, bilinear: bool = False, width: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        factor = 2 if bilinear else 1
        self.inc = DoubleConv(width)
        self.down1, self.down2 = Down(2 * width), Down(4 * width)
        self.down3, self.down4 = Down(8 * width), Down(16 * width // factor)
        self.up1 = Up(16 * width, 8 * width // factor, bilinear)
        self.up2 = Up(8 * width, 4 * width // factor, bilinear)
        self.up3 = Up(4 * width, 2 * width // factor, bilinear)
        self.up4 = Up(2 * width, width, bilinear)
        self.outc = OutConv(num_classes)

    def call(self, images, training=False):
        x1 = self.inc(images, training=training)
        x2 = self.down1(x1, training=training)
        x3 = self.down2(x2, training=training)
        x4 = self.down3(x3, training=training)
        x = self.up1(self.down4(x4, training=training), x4, training=training)
        for up, skip in ((self.up2, x3), (self.up3, x2), (self.up4, x1)):
            x = up(x, skip, training=training)
        return {"logits": self.outc(x)}


def dice_loss(probabilities, wanted, eps: float = 1e-6):
    """Dice loss of two sets of maps over a whole batch.

    Args:
        probabilities, wanted: (N, H, W, K), the latter 0 or 1.
        eps: added to both sides of the fraction.

    Returns:
        Scalar.
    """
    overlap = 2 * tf.reduce_sum(probabilities * wanted)
    return 1 - (overlap + eps) / (tf.reduce_sum(probabilities) + tf.reduce_sum(wanted) + eps)


@keras.saving.register_keras_serializable("diptych")
class DiceCriterion(keras.layers.Layer):
    """Cross-entropy and the overlap of every class.

    Inputs: ``outputs["logits"]`` (N, H, W, K); ``targets["labels"]`` (N, H, W) int, none ignored.
    Returns: dict of scalars: ``"ce"``, ``"dice"``, ``"total"``.
    """

    def call(self, outputs, targets):
        logits, labels = outputs["logits"], targets["labels"]
        wanted = tf.cast(labels[..., None] == tf.range(logits.shape[-1], dtype=labels.dtype), logits.dtype)
        losses = {"ce": pixel_cross_entropy(logits, labels), "dice": dice_loss(tf.nn.softmax(logits, -1), wanted)}
        return {**losses, "total": losses["ce"] + losses["dice"]}


def unet_deconv(bilinear: bool = False, **options) -> PlainUNet:
    return PlainUNet(bilinear=bilinear, **options)


def unet_bilinear(bilinear: bool = True, **options) -> PlainUNet:
    return PlainUNet(bilinear=bilinear, **options)
