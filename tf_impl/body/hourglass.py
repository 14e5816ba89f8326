"""Stacked Hourglass: down to a few cells and up again, several times, with a prediction of all joints after each.

"Stacked Hourglass Networks for Human Pose Estimation", 2016, arXiv:1603.06937. Parameter names and numbers:
princeton-vl/pytorch_stacked_hourglass ``models/posenet.py`` (BSD-3). What to look at: every hourglass has its own loss
and passes its predictions to the next; every block has a convolution for its shortcut, used or not, because the
checkpoints do.

Mirror notes:
- NHWC here, NCHW in PyTorch; heat maps are (N, S, H, W, J) here, (N, S, J, H, W) there.
- Keras infers the input widths; a block is told whether its shortcut needs the convolution.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import max_pool2d
from tf_impl.layers.resize import map_size, resize_nearest
from tf_impl.layers.top_k import argmax

__all__ = [
    "Hourglass",
    "HourglassCriterion",
    "HourglassPostProcess",
    "StackedHourglass",
    "average_flipped",
    "hourglass_1",
    "hourglass_2",
    "hourglass_4",
    "hourglass_8",
]

# the same joint on the other side of the body, in the order of MPII: right ankle, knee, hip, left hip, knee, ankle,
# pelvis, thorax, neck, head, right wrist, elbow, shoulder, left shoulder, elbow, wrist
MIRRORED = (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)
STRIDE = 4  # pixels of the image per cell of the heat maps


@keras.saving.register_keras_serializable("diptych", "hourglass.Conv")
class Conv(keras.layers.Layer):
    """Convolution that keeps the size at stride 1, optionally with normalisation and ReLU.

    Args:
        filters, kernel_size, strides: of the convolution.
        bn: whether normalisation and ReLU follow.

    x: (N, H, W, C) -> (N, H', W', filters).
    """

    def __init__(self, filters: int, kernel_size: int = 1, strides: int = 1, bn: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.conv = Conv2D(filters, kernel_size, strides=strides, padding=kernel_size // 2)
        self.bn = BatchNormalization() if bn else None

    def call(self, x, training=False):
        x = self.conv(x)
        return x if self.bn is None else tf.nn.relu(self.bn(x, training=training))


@keras.saving.register_keras_serializable("diptych", "hourglass.Residual")
class Residual(keras.layers.Layer):
    """Normalisation, ReLU and convolution three times: 1x1, 3x3, 1x1; and a shortcut.

    Args:
        filters: width of the result, twice that of the middle.
        project: whether the shortcut needs its convolution.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(self, filters: int, project: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.bn1, self.conv1 = BatchNormalization(), Conv(filters // 2)
        self.bn2, self.conv2 = BatchNormalization(), Conv(filters // 2, 3)
        self.bn3, self.conv3 = BatchNormalization(), Conv(filters)
        self.skip_layer = Conv(filters)
        self.project = project  # mirror: is told
        if not project:  # in the checkpoints, but never called
            self.skip_layer.conv.build((None, None, None, filters))

    def call(self, x, training=False):
        y = self.conv1(tf.nn.relu(self.bn1(x, training=training)))
        y = self.conv2(tf.nn.relu(self.bn2(y, training=training)))
        y = self.conv3(tf.nn.relu(self.bn3(y, training=training)))
        return y + (self.skip_layer(x) if self.project else x)


@keras.saving.register_keras_serializable("diptych")
class Hourglass(keras.layers.Layer):
    """Halving, the next smaller hourglass, doubling; and a branch at full size.

    Args:
        depth: halvings.
        channels: width.
        increase: extra channels at each halving.

    x: (N, H, W, channels) -> the same; H and W multiples of 2^depth.
    """

    def __init__(self, depth: int, channels: int, increase: int = 0, **kwargs):
        super().__init__(**kwargs)
        wider = channels + increase
        self.up1 = Residual(channels)
        self.low1 = Residual(wider, increase > 0)
        self.low2 = Hourglass(depth - 1, wider, increase) if depth > 1 else Residual(wider)
        self.low3 = Residual(channels, increase > 0)

    def call(self, x, training=False):
        around = self.up1(x, training=training)
        y = self.low1(max_pool2d(x, 2), training=training)
        y = self.low3(self.low2(y, training=training), training=training)
        return around + resize_nearest(y, map_size(around))


@keras.saving.register_keras_serializable("diptych")
class Merge(keras.layers.Layer):
    """The input that one stack adds for the next.

    Args:
        filters: width of the result.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv = Conv(filters)

    def call(self, x):
        return self.conv(x)


@keras.saving.register_keras_serializable("diptych")
class StackedHourglass(Model):
    """The network of the paper.

    Args:
        nstack: hourglasses S.
        inp_dim: their width.
        oup_dim: joints J.
        increase: see :class:`Hourglass`.
        depth: halvings of each hourglass.
        stem: widths of the first convolution and of the two blocks after it.

    Inputs: (N, H, W, 3) float, RGB in [0, 1]; H and W multiples of 64.
    Returns: (N, S, H / 4, W / 4, J), heat maps of every stack.
    """

    def __init__(
        self,
        nstack: int = 8,
        inp_dim: int = 256,
        oup_dim: int = 16,
        increase: int = 0,
        depth: int = 4,
        stem: tuple[int, int] = (64, 128),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        first, second = stem
        blocks = [Residual(second, first != second), keras.layers.MaxPooling2D(), Residual(second)]
        self.pre = keras.Sequential([Conv(first, 7, 2, True), *blocks, Residual(inp_dim, second != inp_dim)])
        self.hgs = [keras.Sequential([Hourglass(depth, inp_dim, increase)]) for _ in range(nstack)]
        self.features = [keras.Sequential([Residual(inp_dim), Conv(inp_dim, bn=True)]) for _ in range(nstack)]
        self.outs = [Conv(oup_dim) for _ in range(nstack)]
        self.merge_features = [Merge(inp_dim) for _ in range(nstack - 1)]
        self.merge_preds = [Merge(inp_dim) for _ in range(nstack - 1)]

    def call(self, images, training=False):
        x, heatmaps = self.pre(images, training=training), []
        for i, (hourglass, features, out) in enumerate(zip(self.hgs, self.features, self.outs, strict=True)):
            y = features(hourglass(x, training=training), training=training)
            heatmaps.append(out(y))
            if i < len(self.merge_preds):
                x = x + self.merge_preds[i](heatmaps[-1]) + self.merge_features[i](y)
        return tf.stack(heatmaps, 1)  # mirror: NHWC


def average_flipped(heatmaps, flipped):
    """The mean of the heat maps of the image and of its mirror image.

    Args:
        heatmaps, flipped: (N, S, H, W, 16), of the image and of its mirror image.

    Returns:
        (N, S, H, W, 16).
    """
    return (heatmaps + tf.gather(tf.reverse(flipped, (3,)), MIRRORED, axis=-1)) / 2


@keras.saving.register_keras_serializable("diptych")
class HourglassCriterion(keras.layers.Layer):
    """Mean squared difference of the heat maps of every stack.

    Args:
        weight: of the mean over the stacks.

    Inputs: ``outputs`` (N, S, H, W, J); ``targets["joints"]`` (N, H, W, J), see
        ``weights/processing/body/heatmaps.py``.
    Returns: dict of scalars: ``"stack0"``, ``"stack1"``, ...; ``"total"``.
    """

    def __init__(self, weight: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, outputs, targets):
        wanted = tf.cast(targets["joints"], outputs.dtype)
        losses = [tf.reduce_mean(tf.square(outputs[:, i] - wanted)) for i in range(outputs.shape[1])]
        total = self.weight * sum(losses) / len(losses)
        return {**{f"stack{i}": loss for i, loss in enumerate(losses)}, "total": total}


@keras.saving.register_keras_serializable("diptych")
class HourglassPostProcess(keras.layers.Layer):
    """The position of every joint of one person: the largest peak, moved a quarter of a cell towards its larger
    neighbours.

    Inputs: ``outputs`` (N, S, H, W, J), the last stack is used.
    Returns: dict: ``"keypoints"`` (N, J, 2), x and y in pixels of the image, ``"scores"`` (N, J), at most 1.
    """

    def call(self, outputs):
        maps = tf.minimum(outputs[:, -1], 1.0)
        height, width = maps.shape[1:3]
        maps = tf.transpose(maps, (0, 3, 1, 2))  # (N, J, H, W)
        peaks = max_pool2d(tf.transpose(maps, (0, 2, 3, 1)), 3, 1, 1)
        peaks = tf.where(tf.transpose(peaks, (0, 3, 1, 2)) == maps, maps, tf.zeros_like(maps))
        rows = tf.reshape(peaks, (-1, peaks.shape[1], height * width))
        place = argmax(rows, 2)  # (N, J)
        y = place // width
        x = place - y * width
        rows = tf.reshape(maps, (-1, peaks.shape[1], height * width))

        def at(row, column):
            return tf.gather(rows, row * width + column, batch_dims=2)

        def quarter(larger):
            return tf.where(larger, tf.constant(0.25, maps.dtype), tf.constant(-0.25, maps.dtype))

        right = quarter(at(y, tf.minimum(x + 1, width - 1)) > at(y, tf.maximum(x - 1, 0)))
        down = quarter(at(tf.minimum(y + 1, height - 1), x) > at(tf.maximum(y - 1, 0), x))
        found = tf.stack((tf.cast(x, maps.dtype) + right, tf.cast(y, maps.dtype) + down), -1) + 0.5
        return {"keypoints": STRIDE * found, "scores": at(y, x)}


def hourglass_1(nstack=1, **options) -> StackedHourglass:
    return StackedHourglass(nstack, **options)


def hourglass_2(nstack=2, **options) -> StackedHourglass:
    return StackedHourglass(nstack, **options)


def hourglass_4(nstack=4, **options) -> StackedHourglass:
    return StackedHourglass(nstack, **options)


def hourglass_8(nstack=8, **options) -> StackedHourglass:
    return StackedHourglass(nstack, **options)
