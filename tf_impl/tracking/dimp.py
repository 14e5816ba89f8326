"""DiMP: the filter that finds an object is learnt for each object, by descent steps that are layers of the network.

"Learning Discriminative Model Prediction for Tracking", 2019, arXiv:1904.07220; the boxes' regressor: "ATOM: Accurate
Tracking by Overlap Maximization", 2018, arXiv:1811.07628. Parameter names and numbers: visionml/pytracking
``ltr/models/tracking/dimpnet.py``, ``target_classifier``, ``bbreg/atom_iou_net.py`` (GPL-3.0; only names and formulas
are taken). What to look at: the length of every descent step is computed, not chosen; labels, mask and weights are
learnt functions of the distance from the object.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths, and builds layers that are never called by hand.
- PyTorch fills the kernels of finished layers, Keras gives each layer its initial values.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_impl.classification.resnet import BasicBlock, Bottleneck, ResNet, expansion
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.precise_roi_pool import precise_roi_pool
from tf_impl.layers.precision import single

__all__ = [
    "AtomIoUNet",
    "DiMP",
    "DiMPCriterion",
    "DiMPSteepestDescentGN",
    "LinearFilter",
    "dimp18",
    "dimp50",
]

STRIDES = (8, 16)  # of the maps that are used, pixels
FILTER = 4  # size of the filter, cells
PAD = FILTER // 2  # zeros around a map that is filtered
EPS = 1e-5  # added to the square of a map's length


def images_first(x):
    """(N, T, ...) -> (T N, ...): in the order of the reference, whose first axis is the images of a sequence."""
    x = swap(x)
    return tf.reshape(x, (-1, *x.shape[2:]))


def swap(x):
    """Swap the first two axes."""
    return tf.transpose(x, (1, 0, *range(2, x.shape.rank)))


def to_xyxy(boxes):
    """Corner and size -> both corners.  (..., 4)."""
    return tf.concat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), -1)


def apply_filter(features, kernel):
    """Apply each sequence's filter to all of its images.

    Args:
        features: (T, N, H, W, C).
        kernel: (N, K, K, C).

    Returns:
        (T, N, H + 1, W + 1) for an even K.
    """
    images, _, height, width, channels = features.shape
    size = kernel.shape[1]
    cells = tf.reshape(swap(features), (-1, images * height * width, channels))
    taps = tf.matmul(cells, tf.reshape(kernel, (-1, size * size, channels)), transpose_b=True)
    taps = tf.reshape(taps, (-1, images, height, width, size * size))
    taps = tf.pad(taps, ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))  # (N, T, H + 4, W + 4, K K)
    rows, columns = (n + 2 * PAD - size + 1 for n in (height, width))
    places = [(i, j) for i in range(size) for j in range(size)]
    return swap(sum(taps[:, :, i : i + rows, j : j + columns, k] for k, (i, j) in enumerate(places)))


def apply_transpose(features, residuals, size: int):
    """The gradient of a sum of filtered maps times ``residuals`` with respect to the filter.

    Args:
        features: (T, N, H, W, C).
        residuals: (T, N, H + 1, W + 1).
        size: of the filter, K.

    Returns:
        (N, K, K, C).
    """
    images, _, height, width, channels = features.shape
    pad = size - 1 - PAD
    around = tf.pad(swap(residuals), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    ends = range(size - 1, -1, -1)
    windows = tf.stack([around[:, :, i : i + height, j : j + width] for i in ends for j in ends], 1)
    cells = tf.reshape(swap(features), (-1, images * height * width, channels))
    found = tf.matmul(tf.reshape(windows, (-1, size * size, images * height * width)), cells)
    return tf.reshape(found, (-1, size, size, channels))


@keras.saving.register_keras_serializable("diptych", "dimp.InstanceL2Norm")
class InstanceL2Norm(keras.layers.Layer):
    """Scale the map of every image to the same norm.  x: (N, H, W, C).

    Args:
        scale: root mean square of the result.
    """

    def __init__(self, scale: float, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, x):
        count = x.shape[1] * x.shape[2] * x.shape[3]
        squares = tf.reduce_sum(tf.square(x), (1, 2, 3), keepdims=True)
        return x * (self.scale * tf.sqrt(count / (squares + EPS)))

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("diptych", "dimp.FilterInitializer")
class FilterInitializer(keras.layers.Layer):
    """The initial filter: the mean content of the boxes in the training images.

    Args:
        channels: C.

    features: (T, N, H, W, C), boxes: (T, N, 4) xywh -> (N, K, K, C).
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        kernel = KaimingNormal()  # mirror: initial values
        self.filter_conv = Conv2D(channels, 3, padding=1, kernel_initializer=kernel, bias_initializer="zeros")

    def call(self, features, boxes):
        images, shape = features.shape[0], features.shape[2:]
        x = self.filter_conv(tf.reshape(features, (-1, *shape)))
        found = precise_roi_pool(x, tf.reshape(to_xyxy(boxes), (-1, 1, 4)), FILTER, 1 / STRIDES[1])
        return tf.reduce_mean(tf.reshape(found, (images, -1, *found.shape[2:])), 0)


@keras.saving.register_keras_serializable("diptych")
class DiMPSteepestDescentGN(keras.layers.Layer):
    """Steps of steepest descent, whose length follows from a Gauss-Newton model of the loss.

    Args:
        iterations: steps.
        num_bins: values of the functions of the distance, B.
        bin_displacement: cells between neighbouring values.

    kernel: (N, K, K, C), features: (T, N, H, W, C), boxes: (T, N, 4) xywh -> list of filters, the first one included.
    """

    def __init__(self, iterations: int = 5, num_bins: int = 100, bin_displacement: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.iterations, self.num_bins, self.bin_displacement = iterations, num_bins, bin_displacement
        distance = np.arange(num_bins) * bin_displacement
        hill = np.exp(-0.5 * np.square(distance / 0.9))  # a quarter of the object's size, in cells
        for name, value in (("log_step_length", math.log(0.9)), ("filter_reg", 0.1)):
            setattr(self, name, self.add_weight(name=name, shape=(1,), initializer=keras.initializers.Constant(value)))
        self.label_map_predictor = self.function(hill - hill.min())
        mask = self.function(3 * np.tanh(2 - distance))
        self.target_mask_predictor = keras.Sequential([mask, keras.layers.Activation("sigmoid")])
        self.spatial_weight_predictor = self.function(np.ones(num_bins))

    def function(self, values):
        """A function of the distance, with its initial values."""
        initial = keras.initializers.Constant(values[:, None])
        return Conv2D(1, 1, use_bias=False, kernel_initializer=initial)

    def distances(self, boxes, height: int, width: int):
        """Interpolation weights of every cell's distance from its object.  (T N, height, width, B)."""
        y, x = (tf.range(n, dtype=boxes.dtype) for n in (height, width))
        centre = tf.reshape((boxes[..., :2] + boxes[..., 2:] / 2) / STRIDES[1], (-1, 2))
        centre = centre - FILTER % 2 / 2
        squares = tf.square(y[:, None] - centre[:, 1, None, None]) + tf.square(x - centre[:, 0, None, None])
        bins = tf.sqrt(squares)[..., None] / self.bin_displacement
        bins = bins - tf.range(self.num_bins, dtype=boxes.dtype)
        return tf.concat((tf.nn.relu(1 - tf.abs(bins[..., :-1])), tf.clip_by_value(1 + bins[..., -1:], 0, 1)), -1)

    def call(self, kernel, features, boxes):
        given, (kernel, features, boxes) = features.dtype, map(single, (kernel, features, boxes))
        images, size = features.shape[0], kernel.shape[1]
        height, width = (n + 2 * PAD - size + 1 for n in features.shape[2:4])
        bins = self.distances(boxes, height, width)
        shape = (images, -1, height, width)
        label = single(tf.reshape(self.label_map_predictor(bins), shape))
        mask = single(tf.reshape(self.target_mask_predictor(bins), shape))
        weight = images**-0.5 * single(tf.reshape(self.spatial_weight_predictor(bins), shape))
        step, reg = (single(tf.convert_to_tensor(value)) for value in (self.log_step_length, self.filter_reg))
        step, reg = tf.exp(step), tf.square(reg)
        reg = tf.where(reg > 1e-6, reg, tf.constant(1e-6, reg.dtype))
        found = [kernel]
        for _ in range(self.iterations):
            scores = apply_filter(features, kernel)
            # in the background (mask 0) only values above 0 are errors
            slope = (1 - mask) / 2 * tf.sign(tf.stop_gradient(scores)) + (1 + mask) / 2
            acted = (1 - mask) / 2 * tf.abs(scores) + (1 + mask) / 2 * scores
            residuals = weight * (acted - label)
            gradient = apply_transpose(features, slope * weight * residuals, size) + reg * kernel
            change = weight * slope * apply_filter(features, gradient)
            squared = tf.reduce_sum(tf.square(gradient), (1, 2, 3))
            bend = tf.reduce_sum(tf.square(change), (0, 2, 3)) + reg * squared
            length = squared / tf.where(bend > 1e-8, bend, tf.constant(1e-8, bend.dtype))
            kernel = kernel - (step * length)[:, None, None, None] * gradient
            found.append(kernel)
        return [tf.cast(kernel, given) for kernel in found]


@keras.saving.register_keras_serializable("diptych", "dimp.LinearFilter")
class LinearFilter(keras.layers.Layer):
    """Localisation of the object: separate features, a filter from the training images, scores of the test images.

    Args:
        block: of the features, or None.
        in_channels: of the trunk's map.
        channels: C.
        iterations, num_bins, bin_displacement: see :class:`DiMPSteepestDescentGN`.

    train: (T N, H, W, in_channels), test: (S N, H, W, in_channels), boxes: (T, N, 4) -> list of scores, those of every
    step, (S, N, H + 1, W + 1).
    """

    def __init__(
        self,
        block,
        in_channels: int,
        channels: int,
        iterations: int = 5,
        num_bins: int = 100,
        bin_displacement: float = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        blocks = [] if block is None else [block(in_channels // expansion(block))]
        last = Conv2D(channels, 3, padding=1, use_bias=False, kernel_initializer=KaimingNormal())
        self.feature_extractor = keras.Sequential([*blocks, last, InstanceL2Norm((channels * FILTER * FILTER) ** -0.5)])
        self.filter_initializer = FilterInitializer(channels)
        self.filter_optimizer = DiMPSteepestDescentGN(iterations, num_bins, bin_displacement)

    def features(self, x, images: int, training=False):
        """(T N, H, W, in_channels) -> (T, N, H, W, C)."""
        x = self.feature_extractor(x, training=training)
        return tf.reshape(x, (images, -1, *x.shape[1:]))

    def call(self, train, test, boxes, images: int, training=False):
        train, test = self.features(train, boxes.shape[0], training), self.features(test, images, training)
        kernel = self.filter_initializer(train, boxes)
        return [apply_filter(test, kernel) for kernel in self.filter_optimizer(kernel, train, boxes)]


def he_normal():
    """Normal with variance 2 / fan_in (arXiv:1502.01852)."""
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")


def conv(filters: int, kernel_size: int = 3, padding: int = 1) -> keras.Sequential:
    """Convolution, normalisation, ReLU."""
    layer = Conv2D(filters, kernel_size, padding=padding, kernel_initializer=he_normal(), bias_initializer="zeros")
    norm = BatchNormalization(gamma_initializer=keras.initializers.RandomUniform(0, 1))
    return keras.Sequential([layer, norm, keras.layers.ReLU()])


@keras.saving.register_keras_serializable("diptych", "dimp.LinearBlock")
class LinearBlock(keras.layers.Layer):
    """Linear layer over a pooled map, normalisation, ReLU.

    Args:
        units: width of the result.

    x: (R, P, K, K, C) -> (R P, units).
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.linear = Dense(units, kernel_initializer=he_normal(), bias_initializer="zeros")
        self.bn = BatchNormalization(gamma_initializer=keras.initializers.RandomUniform(0, 1))

    def call(self, x, training=False):
        size = x.shape[2] * x.shape[3] * x.shape[4]
        x = tf.reshape(tf.transpose(x, (0, 1, 4, 2, 3)), (-1, size))  # mirror: NHWC
        return tf.nn.relu(self.bn(self.linear(x), training=training))


@keras.saving.register_keras_serializable("diptych")
class AtomIoUNet(keras.layers.Layer):
    """Predicted overlap of a box with the object, whose appearance in the first image modulates the features.

    Args:
        width: of the hidden maps.

    train, test: two maps each; (N, H, W, C), (S N, H, W, C); boxes: (N, 4), proposals: (S, N, P, 4), xywh -> (S, N, P).
    """

    def __init__(self, width: int = 256, **kwargs):  # mirror: infers
        super().__init__(**kwargs)
        self.conv3_1r, self.conv3_1t, self.conv3_2t = conv(width // 2), conv(width), conv(width)
        self.fc3_1r = conv(width, padding=0)
        self.conv4_1r, self.conv4_1t, self.conv4_2t = conv(width), conv(width), conv(width)
        self.fc34_3r, self.fc34_4r = (conv(width, 1, 0) for _ in range(2))
        self.fc3_rt, self.fc4_rt = LinearBlock(width), LinearBlock(width)
        self.iou_predictor = Dense(1, kernel_initializer=he_normal(), bias_initializer="zeros")

    def modulation(self, maps, boxes, training=False):
        """Two vectors (N, 1, 1, width) of the object in the first image."""
        boxes = to_xyxy(boxes)[:, None]
        third = self.conv3_1r(maps[0], training=training)
        third = precise_roi_pool(third, boxes, 3, 1 / STRIDES[0])[:, 0]
        fourth = self.conv4_1r(maps[1], training=training)
        fourth = precise_roi_pool(fourth, boxes, 1, 1 / STRIDES[1])[:, 0]
        x = tf.concat((self.fc3_1r(third, training=training), fourth), -1)
        return self.fc34_3r(x, training=training), self.fc34_4r(x, training=training)

    def overlaps(self, vectors, maps, proposals, training=False):
        """What :meth:`call` returns, from the vectors and the maps of the test images before their convolutions."""
        images, count = proposals.shape[0], proposals.shape[2]
        boxes = tf.reshape(to_xyxy(proposals), (-1, count, 4))
        third = self.conv3_2t(self.conv3_1t(maps[0], training=training), training=training)
        fourth = self.conv4_2t(self.conv4_1t(maps[1], training=training), training=training)
        third, fourth = (
            x * tf.tile(vector, (images, 1, 1, 1)) for x, vector in zip((third, fourth), vectors, strict=True)
        )
        third = self.fc3_rt(precise_roi_pool(third, boxes, 5, 1 / STRIDES[0]), training=training)
        fourth = self.fc4_rt(precise_roi_pool(fourth, boxes, 3, 1 / STRIDES[1]), training=training)
        return tf.reshape(self.iou_predictor(tf.concat((third, fourth), 1)), (images, -1, count))

    def call(self, train, test, boxes, proposals, training=False):
        return self.overlaps(self.modulation(train, boxes, training), test, proposals, training)


@keras.saving.register_keras_serializable("diptych")
class DiMP(Model):
    """The tracker's network.

    Args:
        block, layers, planes: of the trunk, see :class:`ResNet`; its last stage and its classifier are unused.
        feature_block: of the classification's separate features, or None.
        channels: of these features.
        width: of the regressor of overlaps.
        iterations, num_bins, bin_displacement: see :class:`DiMPSteepestDescentGN`.
        num_classes: of the unused classifier.

    Inputs: ``train_images`` (N, T, H, W, 3), ``test_images`` (N, S, H, W, 3) float, normalised, multiples of 16;
        ``train_boxes`` (N, T, 4), ``proposals`` (N, S, P, 4) xywh in pixels.
    Returns: dict: ``"scores"`` (N, S, steps + 1, H / 16 + 1, W / 16 + 1), of the filter after every step;
        ``"iou"`` (N, S, P), in [-1, 1] for overlaps of 0 to 1.
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        feature_block=None,
        channels: int = 512,
        width: int = 256,
        iterations: int = 5,
        num_bins: int = 100,
        bin_displacement: float = 0.1,
        num_classes: int = 1000,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.feature_extractor = ResNet(block, layers, num_classes, planes=planes, out_indices=(2, 3))
        widths = tuple(self.feature_extractor.channels.values())
        steps = (iterations, num_bins, bin_displacement)
        self.classifier = LinearFilter(feature_block, widths[1], channels, *steps)
        self.bb_regressor = AtomIoUNet(width)
        unused = self.feature_extractor.layer4(keras.KerasTensor((None, None, None, widths[1])))  # mirror: by hand
        self.feature_extractor.fc.build((None, unused.shape[-1]))

    def call(self, train_images, test_images, train_boxes, proposals, training=False):
        images = test_images.shape[1]
        train, test = (
            list(self.feature_extractor.forward_features(images_first(x), training).values())
            for x in (train_images, test_images)
        )
        boxes = swap(train_boxes)
        scores = self.classifier(train[1], test[1], boxes, images=images, training=training)
        count = tf.shape(train_images)[0]
        first = [x[:count] for x in train]
        iou = self.bb_regressor(first, test, boxes[0], swap(proposals), training=training)
        return {"scores": swap(tf.stack(scores, 2)), "iou": swap(iou)}


@keras.saving.register_keras_serializable("diptych")
class DiMPCriterion(keras.layers.Layer):
    """Squared difference of the scores, in the background only where they are above 0, and of the overlaps.

    Args:
        threshold: of the labels; lower ones are background.
        iou_weight, clf_weight: of the overlaps, and of the scores by the last filter, by the first, and by all others
            together.

    Inputs: ``outputs`` of :class:`DiMP`; ``targets``: ``"labels"`` (N, S, H, W), hills of the objects at the scores'
        cells; ``"ious"`` (N, S, P), overlaps of the proposals.
    Returns: dict of scalars, weighted: ``"iou"``, ``"test_clf"``, ``"test_init_clf"``, ``"test_iter_clf"``,
        ``"total"``, their sum.
    """

    def __init__(self, threshold: float = 0.05, iou_weight: float = 1.0, clf_weight: float = 100.0, **kwargs):
        super().__init__(**kwargs)
        self.threshold, self.iou_weight, self.clf_weight = threshold, iou_weight, clf_weight

    def call(self, outputs, targets):
        scores = outputs["scores"]
        labels = tf.cast(targets["labels"], scores.dtype)[:, :, None]
        background = labels < self.threshold
        wanted = tf.where(background, tf.zeros_like(labels), labels)
        difference = tf.where(background, tf.nn.relu(scores), scores) - wanted
        by_step = self.clf_weight * tf.reduce_mean(tf.square(difference), (0, 1, 3, 4))
        overlaps = tf.reduce_mean(tf.square(outputs["iou"] - (2 * tf.cast(targets["ious"], scores.dtype) - 1)))
        losses = {
            "iou": self.iou_weight * overlaps,
            "test_clf": by_step[-1],
            "test_init_clf": by_step[0],
            "test_iter_clf": tf.reduce_sum(by_step[1:-1]),
        }
        return {**losses, "total": sum(losses.values())}


def dimp18(
    block=BasicBlock, layers: tuple[int, ...] = (2, 2, 2, 2), feature_block=BasicBlock, channels: int = 256, **options
) -> DiMP:
    return DiMP(block, layers, feature_block=feature_block, channels=channels, **options)


def dimp50(block=Bottleneck, layers: tuple[int, ...] = (3, 4, 6, 3), **options) -> DiMP:
    return DiMP(block, layers, **options)
