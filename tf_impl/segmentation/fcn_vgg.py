"""FCN on VGG-16, as in the paper: fully connected layers become convolutions, and transposed ones upsample the scores.

"Fully Convolutional Networks for Semantic Segmentation", 2014, arXiv:1411.4038.
Parameter names: wkentaro/pytorch-fcn ``torchfcn/models`` (MIT), after the authors' Caffe networks.
What to look at: the first convolution pads by 100, and every map is cropped at a fixed offset to align it with the one
it is added to.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
- Kernels of transposed convolutions are stored (in, out, kh, kw) in PyTorch, here (kh, kw, out, in).
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D, Conv2DTranspose
from tf_impl.layers.model import Model
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.layers.resize import map_size
from tf_impl.losses.segmentation import SegmentationPostProcess, pixel_losses

__all__ = [
    "FCN",
    "FCNCriterion",
    "SegmentationPostProcess",
    "fcn8s_atonce_vgg16",
    "fcn8s_vgg16",
    "fcn16s_vgg16",
    "fcn32s_vgg16",
]


DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each stage of VGG-16
ONCE = (0.01, 0.0001)  # factors of the maps of pool4 and pool3 when everything is trained at once


@keras.saving.register_keras_serializable("diptych")
class Bilinear(keras.initializers.Initializer):
    """Kernel (k, k, C, C) of depthwise bilinear interpolation."""

    def __call__(self, shape, dtype=None):
        kernel, factor = shape[0], (shape[0] + 1) // 2
        place = np.arange(kernel) - (factor - 0.5 if kernel % 2 == 0 else factor - 1)
        line = 1 - np.abs(place) / factor
        return tf.constant((line[:, None] * line)[:, :, None, None] * np.eye(shape[2]), dtype)


@keras.saving.register_keras_serializable("diptych")
class FCN(Model):
    """The network.

    Args:
        stride: 32, 16 or 8: of the finest map that scores are taken from.
        num_classes: classes K.
        widths: channels of the five stages.
        fc_width: channels of the convolutions that were fully connected.
        at_once: whether pool4's and pool3's maps are scaled down, to train everything at once.
        dropout: rate after these.

    Inputs: (N, H, W, 3) float, BGR, the mean (104.00699, 116.66877, 122.67892) subtracted.
    Returns: dict: ``"logits"`` (N, H, W, K).
    Raises: ValueError if ``stride`` is unknown.
    """

    def __init__(
        self,
        stride: int = 8,
        num_classes: int = 21,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        fc_width: int = 4096,
        at_once: bool = False,
        dropout: float = 0.5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        if stride not in (8, 16, 32):
            raise ValueError(f"stride={stride} must be 8, 16 or 32")
        self.stride, self.scales = stride, ONCE if at_once else (1.0, 1.0)
        zeros = {"kernel_initializer": "zeros", "bias_initializer": "zeros"}  # the paper starts from VGG-16
        for stage, (width, depth) in enumerate(zip(widths, DEPTHS, strict=True), start=1):
            for i in range(1, depth + 1):
                padding = 100 if stage == i == 1 else 1
                setattr(self, f"conv{stage}_{i}", Conv2D(width, 3, padding=padding, **zeros))
        self.pool = MaxPooling2D(2, ceil_mode=True)
        self.fc6, self.fc7 = Conv2D(fc_width, 7, **zeros), Conv2D(fc_width, 1, **zeros)
        self.dropout = keras.layers.Dropout(dropout, noise_shape=(None, 1, 1, None))
        self.score_fr = Conv2D(num_classes, 1, **zeros)

        def up(strides):  # mirror: transposed convolutions
            return Conv2DTranspose(
                num_classes, 2 * strides, strides=strides, use_bias=False, kernel_initializer=Bilinear()
            )

        if stride == 32:
            self.upscore = up(32)
        if stride == 8:
            self.score_pool3 = Conv2D(num_classes, 1, **zeros)
        if stride <= 16:
            self.score_pool4 = Conv2D(num_classes, 1, **zeros)
            self.upscore2 = up(2)
        if stride == 16:
            self.upscore16 = up(16)
        if stride == 8:
            self.upscore8, self.upscore_pool4 = up(8), up(2)

    def call(self, images, training=False):
        x, pools = images, {}
        for stage, depth in enumerate(DEPTHS, start=1):
            for i in range(1, depth + 1):
                x = tf.nn.relu(getattr(self, f"conv{stage}_{i}")(x))
            x = pools[stage] = self.pool(x)
        x = self.dropout(tf.nn.relu(self.fc6(x)), training=training)
        x = self.score_fr(self.dropout(tf.nn.relu(self.fc7(x)), training=training))
        size = map_size(images)
        if self.stride == 32:
            return {"logits": cropped(self.upscore(x), 19, size)}
        x = self.upscore2(x)
        x = x + cropped(self.score_pool4(pools[4] * self.scales[0]), 5, map_size(x))
        if self.stride == 16:
            return {"logits": cropped(self.upscore16(x), 27, size)}
        x = self.upscore_pool4(x)
        x = x + cropped(self.score_pool3(pools[3] * self.scales[1]), 9, map_size(x))
        return {"logits": cropped(self.upscore8(x), 31, size)}


def cropped(x, start: int, size: tuple[int, int]):
    """(N, H, W, C) -> (N, h, w, C) from row and column ``start`` on."""
    return x[:, start : start + size[0], start : start + size[1]]


@keras.saving.register_keras_serializable("diptych")
class FCNCriterion(keras.layers.Layer):
    """Cross-entropy of the pixels (section 4.3).

    Args:
        reduction: "sum" over all pixels that count, or "mean_valid", their mean.
        weight: factor; the paper's learning rate is 1e-10 for the sum.

    Inputs: ``outputs["logits"]`` (N, H, W, K); ``targets["labels"]`` (N, H, W) int, -1 does not count.
    Returns: dict of scalars: ``"nll"``, ``"total"``.
    Raises: ValueError if ``reduction`` is unknown.
    """

    def __init__(self, reduction: str = "sum", weight: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        if reduction not in ("sum", "mean_valid"):
            raise ValueError(f"reduction={reduction!r} must be 'sum' or 'mean_valid'")
        self.reduction, self.weight = reduction, weight

    def call(self, outputs, targets):
        losses, valid = pixel_losses(outputs["logits"], targets["labels"], -1)
        loss = self.weight * tf.reduce_sum(losses)
        if self.reduction == "mean_valid":
            loss = loss / tf.maximum(tf.reduce_sum(tf.cast(valid, losses.dtype)), 1)
        return {"nll": loss, "total": loss}


def fcn32s_vgg16(stride: int = 32, **options) -> FCN:
    return FCN(stride=stride, **options)


def fcn16s_vgg16(stride: int = 16, **options) -> FCN:
    return FCN(stride=stride, **options)


def fcn8s_vgg16(stride: int = 8, **options) -> FCN:
    return FCN(stride=stride, **options)


def fcn8s_atonce_vgg16(at_once: bool = True, **options) -> FCN:
    return fcn8s_vgg16(at_once=at_once, **options)
