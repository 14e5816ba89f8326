"""DiMP in the parts that its loop over frames calls: maps, initial filter, modulation, and overlaps with their
gradients.

Papers, names of parameters: see ``dimp.py``. What to look at: boxes are refined by gradient ascent on the overlap, so a
tracker needs the gradient of the network with respect to its input. It is written out here, so that it exports like
    everything else: precise pooling is differentiable in the ends of a box, because they are the bounds of its
        integrals. A part holds the parameters that it uses, under their names in the whole model.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths, and builds layers that are never called by hand.
- Normalisations have their running statistics in ``moving_variance`` here, in ``running_var`` in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.classification.resnet import BasicBlock, Bottleneck, ResNet, expansion
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.tracking.dimp import (
    STRIDES,
    AtomIoUNet,
    FilterInitializer,
    LinearBlock,
    LinearFilter,
    conv,
    he_normal,
    to_xyxy,
)

__all__ = [
    "DiMPExtract",
    "DiMPFilter",
    "DiMPModulation",
    "DiMPOverlaps",
    "dimp18_extract",
    "dimp18_filter",
    "dimp18_modulation",
    "dimp50_extract",
    "dimp50_filter",
    "dimp50_modulation",
    "dimp_overlaps",
]


def bin_weights(first, last, bins: int, size: int):
    """Weight of every pixel of a line in the mean of every bin, and its derivatives by the ends.

    Args:
        first, last: (N, P) ends of the boxes, in pixels.

    Returns:
        Three of (N, P, bins, size): the weights, their derivatives by ``first`` and by ``last``; 0 without length.
    """
    length = tf.nn.relu(last - first) / bins
    share = tf.range(bins + 1, dtype=first.dtype) / bins
    edges = first[..., None] + (length * bins)[..., None] * share
    t = tf.clip_by_value(edges[..., None] - tf.range(size, dtype=first.dtype), -1, 1)  # (N, P, bins + 1, size)
    reached, moved = 0.5 + t - t * tf.abs(t) / 2, 1 - tf.abs(t)
    inverse = tf.where(length > 0, 1 / tf.where(length > 0, length, tf.ones_like(length)), tf.zeros_like(length))
    inverse = inverse[..., None, None]
    weights = (reached[:, :, 1:] - reached[:, :, :-1]) * inverse
    longer = weights * inverse / bins
    ends = [moved * x[:, None] for x in (1 - share, share)]
    by_first, by_last = ((x[:, :, 1:] - x[:, :, :-1]) * inverse for x in ends)
    return weights, by_first + longer, by_last - longer


class PooledBoxes:
    """Precise pooling of boxes with its derivative by them; see ``layers/precise_roi_pool.py``.

    Args:
        features: (N, H, W, C).
        boxes_xyxy: (N, P, 4) in the image's pixels.
        bins: per box and direction, K.
        stride: of the features, pixels.
    """

    def __init__(self, features, boxes_xyxy, bins: int, stride: int):
        height, width, channels = features.shape[1:]
        count = boxes_xyxy.shape[1]
        x_first, y_first, x_last, y_last = tf.unstack(boxes_xyxy / stride, axis=-1)
        rows, *self.rows_change = bin_weights(y_first, y_last, bins, height)
        columns, *self.columns_change = bin_weights(x_first, x_last, bins, width)
        self.stride, self.flat = stride, (-1, count, bins, bins * channels)
        lines = tf.reshape(features, (-1, height, width * channels))
        down = tf.matmul(tf.reshape(rows, (-1, count * bins, height)), lines)
        self.down = tf.reshape(down, (-1, count, bins, width, channels))
        across = tf.matmul(columns[:, :, None], features[:, None])  # (N, P, H, K, C)
        self.across = tf.reshape(across, (-1, count, height, bins * channels))
        self.means = tf.matmul(columns[:, :, None], self.down)  # (N, P, K, K, C)

    def slopes(self, gradient):
        """The gradient (N, P, 4) of the boxes, from that of the means (N, P, K, K, C)."""
        of_rows = tf.matmul(tf.reshape(gradient, self.flat), self.across, transpose_b=True)  # (N, P, K, H)
        of_columns = tf.reduce_sum(tf.matmul(gradient, self.down, transpose_b=True), 2)  # (N, P, K, W)
        y, x = (
            [tf.reduce_sum(weight * change, (2, 3)) for change in changes]
            for weight, changes in ((of_rows, self.rows_change), (of_columns, self.columns_change))
        )
        return tf.stack((x[0], y[0], x[1], y[1]), -1) / self.stride


@keras.saving.register_keras_serializable("diptych", "dimp_parts.Features")
class Features(keras.layers.Layer):
    """The classification's separate features.  x: (N, H, W, in_channels) -> (N, H, W, channels).

    Args:
        block, in_channels, channels: see :class:`LinearFilter`.
    """

    def __init__(self, block, in_channels: int, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.feature_extractor = LinearFilter(block, in_channels, channels).feature_extractor

    def call(self, x, training=False):
        return self.feature_extractor(x, training=training)


@keras.saving.register_keras_serializable("diptych", "dimp_parts.Initial")
class Initial(keras.layers.Layer):
    """The first filter.

    Args:
        channels: see :class:`FilterInitializer`.

    features: (N, H, W, channels), boxes: (N, 4) -> (N, K, K, channels), one filter per image.
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.filter_initializer = FilterInitializer(channels)

    def call(self, features, boxes):
        return self.filter_initializer(features[None], boxes[None])


@keras.saving.register_keras_serializable("diptych", "dimp_parts.Searched")
class Searched(keras.layers.Layer):
    """The maps of an image that boxes are pooled from.  Maps (N, H, W, C) of both strides -> (N, H, W, width) each.

    Args:
        width: see :class:`AtomIoUNet`.
    """

    def __init__(self, width: int, **kwargs):  # mirror: infers
        super().__init__(**kwargs)
        self.conv3_1t, self.conv3_2t = conv(width), conv(width)
        self.conv4_1t, self.conv4_2t = conv(width), conv(width)

    def call(self, fine, coarse, training=False):
        third = self.conv3_2t(self.conv3_1t(fine, training=training), training=training)
        return third, self.conv4_2t(self.conv4_1t(coarse, training=training), training=training)


@keras.saving.register_keras_serializable("diptych", "dimp_parts.Modulation")
class Modulation(keras.layers.Layer):
    """The modulation vectors of the object.

    Args:
        width: see :class:`AtomIoUNet`, whose method this wraps.
    """

    def __init__(self, width: int, **kwargs):  # mirror: infers
        super().__init__(**kwargs)
        self.conv3_1r, self.conv4_1r = conv(width // 2), conv(width)
        self.fc3_1r = conv(width, padding=0)
        self.fc34_3r, self.fc34_4r = (conv(width, 1, 0) for _ in range(2))

    call = AtomIoUNet.modulation


@keras.saving.register_keras_serializable("diptych", "dimp_parts.Judgement")
class Judgement(keras.layers.Layer):
    """Overlaps from the pooled features of both maps, and their gradients, in evaluation mode.

    Args:
        width: of the maps.

    third: (N, P, 5, 5, width), fourth: (N, P, 3, 3, width) -> (N, P), and two tensors of the inputs' shapes.
    """

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.fc3_rt, self.fc4_rt = LinearBlock(width), LinearBlock(width)
        self.iou_predictor = Dense(1, kernel_initializer=he_normal(), bias_initializer="zeros")

    def call(self, third, fourth, training=False):
        pairs = [(self.fc3_rt, third), (self.fc4_rt, fourth)]
        hidden = [layer(x, training=training) for layer, x in pairs]
        overlaps = tf.reshape(self.iou_predictor(tf.concat(hidden, 1)), (-1, third.shape[1]))
        gradients = []
        weights = tf.split(tf.transpose(self.iou_predictor.kernel), 2, 1)
        for (layer, x), y, weight in zip(pairs, hidden, weights, strict=True):
            scale = layer.bn.gamma / tf.sqrt(layer.bn.moving_variance + layer.bn.epsilon)  # mirror: running statistics
            slope = tf.where(y > 0, weight * scale, tf.zeros_like(y))
            count, height, width, channels = x.shape[1:]
            gradient = tf.matmul(slope, tf.convert_to_tensor(layer.linear.kernel), transpose_b=True)
            gradient = tf.reshape(gradient, (-1, count, channels, height, width))
            gradients.append(tf.transpose(gradient, (0, 1, 3, 4, 2)))
        return overlaps, gradients


@keras.saving.register_keras_serializable("diptych")
class DiMPExtract(Model):
    """All maps of an image.

    Args:
        block, layers, planes, feature_block, channels, width, num_classes: see :class:`DiMP`.

    Inputs: ``images`` (N, H, W, 3), normalised, multiples of 16.
    Returns: dict of maps: ``"classification"`` (N, H / 16, W / 16, channels), the map that is filtered; ``"fine"``
        and ``"coarse"``, the trunk's of strides 8 and 16, for the modulation; ``"third"`` and ``"fourth"``
        (N, ..., width), of the same strides, for the overlaps.
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        feature_block=None,
        channels: int = 512,
        width: int = 256,
        num_classes: int = 1000,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.feature_extractor = ResNet(block, layers, num_classes, planes=planes, out_indices=(2, 3))
        widths = tuple(self.feature_extractor.channels.values())
        self.classifier = Features(feature_block, widths[1], channels)
        self.bb_regressor = Searched(width)
        unused = self.feature_extractor.layer4(keras.KerasTensor((None, None, None, widths[1])))  # mirror: by hand
        self.feature_extractor.fc.build((None, unused.shape[-1]))

    def call(self, images, training=False):
        fine, coarse = self.feature_extractor.forward_features(images, training).values()
        third, fourth = self.bb_regressor(fine, coarse, training=training)
        found = {"classification": self.classifier(coarse, training=training), "fine": fine, "coarse": coarse}
        return {**found, "third": third, "fourth": fourth}


@keras.saving.register_keras_serializable("diptych")
class DiMPFilter(Model):
    """The content of a box, as a filter.

    Args:
        channels: see :class:`DiMP`.

    Inputs: ``classification`` (N, H, W, channels) of :class:`DiMPExtract`, ``boxes`` (N, 4) xywh in pixels.
    Returns: (N, 4, 4, channels); the first filter of a sequence is their mean.
    """

    def __init__(self, channels: int = 512, **kwargs):
        super().__init__(**kwargs)
        self.classifier = Initial(channels)

    def call(self, classification, boxes, training=False):
        return self.classifier(classification, boxes)


@keras.saving.register_keras_serializable("diptych")
class DiMPModulation(Model):
    """The modulation vectors of the object in the first image.

    Args:
        in_channels: of the two maps.
        width: see :class:`DiMP`.

    Inputs: ``fine``, ``coarse`` of :class:`DiMPExtract`, ``boxes`` (N, 4) xywh in pixels.
    Returns: dict of two vectors ``"of_third"``, ``"of_fourth"`` (N, 1, 1, width).
    """

    def __init__(self, in_channels: tuple[int, int], width: int = 256, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_channels[0]})
        self.bb_regressor = Modulation(width)

    def call(self, fine, coarse, boxes, training=False):
        third, fourth = self.bb_regressor((fine, coarse), boxes, training=training)
        return {"of_third": third, "of_fourth": fourth}


@keras.saving.register_keras_serializable("diptych")
class DiMPOverlaps(Model):
    """The overlap of boxes with the object, and its gradient.

    Args:
        width: see :class:`DiMP`.

    Inputs: ``third``, ``fourth`` of :class:`DiMPExtract`, ``of_third``, ``of_fourth`` of :class:`DiMPModulation`,
        ``boxes`` (N, P, 4) xywh in pixels.
    Returns: dict: ``"overlaps"`` (N, P), in [-1, 1] for overlaps of 0 to 1; ``"slopes"`` (N, P, 4), the gradient of
        each with respect to its box, with the statistics of evaluation mode.
    """

    def __init__(self, width: int = 256, **kwargs):
        super().__init__(**kwargs)
        self.bb_regressor = Judgement(width)

    def call(self, third, fourth, of_third, of_fourth, boxes, training=False):
        corners = to_xyxy(boxes)
        pooled = [
            PooledBoxes(x * vector, corners, bins, stride)
            for x, vector, bins, stride in zip((third, fourth), (of_third, of_fourth), (5, 3), STRIDES, strict=True)
        ]
        overlaps, gradients = self.bb_regressor(*(x.means for x in pooled), training=training)
        first, last = tf.split(sum(x.slopes(g) for x, g in zip(pooled, gradients, strict=True)), 2, -1)
        return {"overlaps": overlaps, "slopes": tf.concat((first + last, last), -1)}


def dimp18_extract(
    block=BasicBlock, layers: tuple[int, ...] = (2, 2, 2, 2), feature_block=BasicBlock, channels: int = 256, **options
) -> DiMPExtract:
    return DiMPExtract(block, layers, feature_block=feature_block, channels=channels, **options)


def dimp50_extract(block=Bottleneck, layers: tuple[int, ...] = (3, 4, 6, 3), **options) -> DiMPExtract:
    return DiMPExtract(block, layers, **options)


def dimp18_filter(channels: int = 256) -> DiMPFilter:
    return DiMPFilter(channels)


def dimp50_filter(channels: int = 512) -> DiMPFilter:
    return DiMPFilter(channels)


def dimp18_modulation(
    block=BasicBlock, planes: tuple[int, ...] = (64, 128, 256, 512), width: int = 256
) -> DiMPModulation:
    return DiMPModulation(tuple(expansion(block) * n for n in planes[1:3]), width)


def dimp50_modulation(
    block=Bottleneck, planes: tuple[int, ...] = (64, 128, 256, 512), width: int = 256
) -> DiMPModulation:
    return DiMPModulation(tuple(expansion(block) * n for n in planes[1:3]), width)


def dimp_overlaps(width: int = 256) -> DiMPOverlaps:
    return DiMPOverlaps(width)
