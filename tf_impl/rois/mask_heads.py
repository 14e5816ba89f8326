"""Masks of every class from the features of boxes, under the names of torchvision and of mmdet.

Names: torchvision ``detection/mask_rcnn.py`` (BSD-3); mmdet ``mask_heads/fcn_mask_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch. Keras infers the widths of the maps.
"""

import keras
import tensorflow as tf

from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv2D, Conv2DTranspose
from tf_impl.layers.initialization import KaimingNormal

__all__ = ["FCNMaskHead", "MaskPredictor", "mask_convolutions"]


INITIAL = {"kernel_initializer": KaimingNormal, "bias_initializer": "zeros"}


def doubled(filters: int) -> Conv2DTranspose:
    """A transposed convolution that doubles height and width."""
    return Conv2DTranspose(filters, 2, strides=2, kernel_initializer=KaimingNormal(), bias_initializer="zeros")


def mask_convolutions(filters: int, num_convs: int = 4) -> keras.Sequential:
    """torchvision's 3x3 convolutions with ReLU.  (R, B, B, C) -> (R, B, B, filters)."""
    blocks = [[Conv2D(filters, 3, padding=1, **INITIAL), keras.layers.ReLU()] for _ in range(num_convs)]
    return keras.Sequential([keras.Sequential(block) for block in blocks])


@keras.saving.register_keras_serializable("diptych")
class MaskPredictor(keras.layers.Layer):
    """torchvision's logits at twice the size.

    Args:
        filters: width of the features.
        num_classes: classes K.

    x: (R, B, B, filters) -> (R, 2 B, 2 B, K).
    """

    def __init__(self, filters: int, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        self.conv5_mask = doubled(filters)
        self.mask_fcn_logits = Conv2D(num_classes, 1, **INITIAL)

    def call(self, x):
        return self.mask_fcn_logits(tf.nn.relu(self.conv5_mask(x)))


@keras.saving.register_keras_serializable("diptych")
class FCNMaskHead(keras.layers.Layer):
    """3x3 convolutions, twice the size, logits (mmdet).

    Args:
        filters: of the convolutions.
        num_classes: classes K.
        num_convs: convolutions before the enlargement.
        norm, norm_groups, conv: of the convolutions, see :class:`ConvModule`.
        upsample: makes the layer that doubles height and width, instead of a transposed convolution with a ReLU.

    x: (R, B, B, C) -> (R, 2 B, 2 B, K).
    """

    def __init__(
        self,
        filters: int,
        num_classes: int,
        num_convs: int = 4,
        norm=None,
        norm_groups: int = 32,
        conv=Conv2D,
        upsample=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.convs = [
            ConvModule(filters, 3, padding=1, norm=norm, norm_groups=norm_groups, conv=conv) for _ in range(num_convs)
        ]
        self.upsample = doubled(filters) if upsample is None else upsample()
        self.relu = keras.layers.ReLU() if upsample is None else keras.layers.Identity()
        self.conv_logits = Conv2D(num_classes, 1, **INITIAL)

    def call(self, x):
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(self.relu(self.upsample(x)))
