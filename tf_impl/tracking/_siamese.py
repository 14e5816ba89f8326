"""Common parts of pysot's trackers: a residual network with large maps, correlation heads, losses.

Names: STVIR/pysot ``models/backbone/resnet_atrous.py``, ``models/head/rpn.py``, ``models/model_builder.py``
(Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.cross_correlation import depthwise_cross_correlation
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import MaxPooling2D

__all__ = ["ANCHORS", "VALUES", "AtrousResNet", "DepthwiseXCorr", "SiamRPNCriterion"]

ANCHORS = 5  # per cell: ratios 0.33, 0.5, 1, 2, 3
VALUES = (2, 4)  # per anchor: background and object, and the box

CONV = functools.partial(Conv2D, use_bias=False, kernel_initializer=KaimingNormal)


@keras.saving.register_keras_serializable("diptych", "siamese.Bottleneck")
class Bottleneck(keras.layers.Layer):
    """1x1 reduction, 3x3, 1x1 expansion by four, and a shortcut; without padding where the stride is 2.

    Args:
        planes: nominal width of the block; the output has ``4 * planes``.
        strides: of the 3x3 convolution.
        dilation_rate: of the 3x3 convolution.
        shortcut: size and dilation of the convolution of the shortcut, or None.

    x: (N, H, W, C) -> (N, H', W', 4 * planes).
    """

    def __init__(self, planes: int, strides: int = 1, dilation_rate: int = 1, shortcut=None, **kwargs):
        super().__init__(**kwargs)
        padding = 0 if strides == 2 else dilation_rate
        self.conv1, self.bn1 = CONV(planes, 1), BatchNormalization()
        self.conv2 = CONV(planes, 3, strides=strides, padding=padding, dilation_rate=dilation_rate)
        self.bn2 = BatchNormalization()
        self.conv3, self.bn3 = CONV(4 * planes, 1), BatchNormalization()
        self.downsample = None
        if shortcut is not None:
            size, dilation = shortcut
            pads = 0 if size == 1 or strides == 2 else dilation
            convolution = CONV(4 * planes, size, strides=strides, padding=pads, dilation_rate=dilation)
            self.downsample = keras.Sequential([convolution, BatchNormalization()])

    def call(self, x, training=False):
        y = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        y = tf.nn.relu(self.bn2(self.conv2(y), training=training))
        y = self.bn3(self.conv3(y), training=training)
        return tf.nn.relu(y + (x if self.downsample is None else self.downsample(x, training=training)))


@keras.saving.register_keras_serializable("diptych", "siamese.AtrousResNet")
class AtrousResNet(keras.layers.Layer):
    """A residual network with stride 8 from its second stage on.

    Args:
        layers: blocks of the stages, three or four.
        planes: nominal widths of the stages.
        used: which maps are returned: 1 the stem before its pooling, 2 to 5 the stages.

    x: (N, H, W, 3); dict of maps ``"c1"`` to ``"c5"``.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        used: tuple[int, ...] = (3, 4, 5),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.used, self.count = tuple(used), len(layers)
        self.conv1, self.bn1 = CONV(planes[0], 7, strides=2), BatchNormalization()
        self.maxpool = MaxPooling2D(3, 2, padding=1)
        for i, (count, width) in enumerate(zip(layers, planes, strict=True)):
            dilation, strides = (1, 1, 2, 4)[i], 2 if i == 1 else 1
            first = max(dilation // 2, 1)
            blocks = [Bottleneck(width, strides, first, (3 if i else 1, first))]
            blocks += [Bottleneck(width, 1, dilation) for _ in range(count - 1)]
            setattr(self, f"layer{i + 1}", keras.Sequential(blocks))

    def call(self, x, training=False):
        x = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        maps = {"c1": x}
        x = self.maxpool(x)
        for i in range(1, self.count + 1):
            x = maps[f"c{i + 1}"] = getattr(self, f"layer{i}")(x, training=training)
        return {name: maps[name] for name in (f"c{i}" for i in self.used)}


def conv_bn_relu(filters: int, kernel_size: int) -> list:
    return [CONV(filters, kernel_size), BatchNormalization(), keras.layers.ReLU()]


@keras.saving.register_keras_serializable("diptych")
class DepthwiseXCorr(keras.layers.Layer):
    """Depthwise correlation of the template's map with the frame's, and a head.

    Args:
        filters: of the maps that are correlated.
        outputs: channels of the result.

    kernel: (N, h, w, C), search: (N, H, W, C) -> (N, H - h + 1, W - w + 1, outputs).
    """

    def __init__(self, filters: int, outputs: int, **kwargs):
        super().__init__(**kwargs)
        self.conv_kernel = keras.Sequential(conv_bn_relu(filters, 3))
        self.conv_search = keras.Sequential(conv_bn_relu(filters, 3))
        last = Conv2D(outputs, 1, kernel_initializer=KaimingNormal)
        self.head = keras.Sequential([*conv_bn_relu(filters, 1), last])

    def correlate(self, kernel, search, training=False):
        """The correlation itself, before the head."""
        search = self.conv_search(search, training=training)
        return depthwise_cross_correlation(search, self.conv_kernel(kernel, training=training))

    def call(self, kernel, search, training=False):
        return self.head(self.correlate(kernel, search, training), training=training)


@keras.saving.register_keras_serializable("diptych")
class SiamRPNCriterion(keras.layers.Layer):
    """Cross-entropy of the anchors that count, L1 of the boxes.

    Args:
        cls_weight, loc_weight: of the two.

    Inputs: ``outputs``: ``"cls"`` (N, H, W, 2 A), ``"loc"`` (N, H, W, 4 A); ``targets``: ``"label_cls"`` (N, H, W, A)
        int, 1 object, 0 none, -1 does not count; ``"label_loc"`` (N, 4, H, W, A);
        ``"label_loc_weight"`` (N, H, W, A); see ``weights/processing/tracking/anchors.py``.
    Returns: dict of scalars, weighted: ``"cls"``, ``"loc"``, ``"total"``, their sum.
    """

    def __init__(self, cls_weight: float = 1.0, loc_weight: float = 1.2, **kwargs):
        super().__init__(**kwargs)
        self.cls_weight, self.loc_weight = cls_weight, loc_weight

    def call(self, outputs, targets):
        cls, loc, labels = outputs["cls"], outputs["loc"], targets["label_cls"]
        shape = (-1, *cls.shape[1:3])
        anchors = cls.shape[3] // 2
        log_p = tf.nn.log_softmax(tf.reshape(cls, (*shape, 2, anchors)), 3)  # classes first, then anchors
        losses = 0.0
        for kind in (1, 0):
            counted = tf.cast(labels == kind, cls.dtype)
            total = -tf.reduce_sum(log_p[..., kind, :] * counted)
            losses = losses + 0.5 * total / tf.maximum(tf.reduce_sum(counted), 1.0)
        loc = tf.transpose(tf.reshape(loc, (*shape, 4, anchors)), (0, 3, 1, 2, 4))  # mirror: NHWC
        difference = tf.reduce_sum(tf.abs(loc - tf.cast(targets["label_loc"], loc.dtype)), 1)
        boxes = tf.reduce_sum(difference * tf.cast(targets["label_loc_weight"], loc.dtype), (1, 2, 3))
        found = {"cls": self.cls_weight * losses, "loc": self.loc_weight * tf.reduce_mean(boxes)}
        return {**found, "total": found["cls"] + found["loc"]}
