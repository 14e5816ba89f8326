"""3DDFA: a face's pose, shape and expression parameters from a small crop.

"Face Alignment in Full Pose Range: A 3D Total Solution", 2017, arXiv:1804.01005. Parameter names and numbers:
cleardusk/3DDFA ``mobilenet_v1.py``, ``wpdc_loss.py``, ``vdc_loss.py`` (MIT). What to look at: 62 parameters are a whole
face (12 of the pose, 40 of the shape, 10 of the expression), and the weighted loss depends on how much each of them
moves the vertices. The face model is Basel's, which cannot be redistributed: the losses hold its arrays as buffers.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- The arrays of the face model are buffers in PyTorch, non-trainable variables in Keras.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization

__all__ = [
    "TDDFA",
    "DepthwiseBlock",
    "PDCCriterion",
    "VDCCriterion",
    "WPDCCriterion",
    "tddfa_mobilenet_025",
    "tddfa_mobilenet_05",
    "tddfa_mobilenet_075",
    "tddfa_mobilenet_1",
    "tddfa_mobilenet_2",
    "vertices_of",
]

POSE, SHAPE, EXPRESSION = 12, 40, 10  # parameters of each; the pose is a 3x4 matrix, row by row
SHAPE_WEIGHT = 0.00057339936  # of a shape or expression parameter relative to one of the pose
EPS = 1e-6
# name, width / 32, stride of the blocks after the first convolution
BLOCKS = (
    ("dw2_1", 2, 1),
    ("dw2_2", 4, 2),
    ("dw3_1", 4, 1),
    ("dw3_2", 8, 2),
    ("dw4_1", 8, 1),
    ("dw4_2", 16, 2),
    *((f"dw5_{i}", 16, 1) for i in range(1, 6)),
    ("dw5_6", 32, 2),
    ("dw6", 32, 1),
)

CONV = functools.partial(Conv2D, use_bias=False)


@keras.saving.register_keras_serializable("diptych", "tddfa.DepthwiseBlock")
class DepthwiseBlock(keras.layers.Layer):
    """A depthwise 3x3 convolution, then a 1x1 convolution, each with normalisation and ReLU.

    Args:
        in_channels, filters: widths.
        strides: of the first.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, in_channels: int, filters: int, strides: int = 1, **kwargs):
        super().__init__(**kwargs)
        own = keras.initializers.RandomNormal(stddev=(2 / (9 * in_channels)) ** 0.5)
        self.conv_dw = CONV(in_channels, 3, strides=strides, padding=1, groups=in_channels, kernel_initializer=own)
        self.bn_dw = BatchNormalization()
        self.conv_sep, self.bn_sep = CONV(filters, 1, kernel_initializer=KaimingNormal), BatchNormalization()

    def call(self, x, training=False):
        x = tf.nn.relu(self.bn_dw(self.conv_dw(x), training=training))
        return tf.nn.relu(self.bn_sep(self.conv_sep(x), training=training))


@keras.saving.register_keras_serializable("diptych")
class TDDFA(Model):
    """The network of the paper.

    Args:
        width: multiplier of all channels.
        numbers: parameters of a face.

    Inputs: (N, H, W, 3) float, (BGR - 127.5) / 128, 120 x 120 as published.
    Returns: (N, numbers), normalised by mean and deviation.
    """

    def __init__(self, width: float = 1.0, numbers: int = POSE + SHAPE + EXPRESSION, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        channels = int(32 * width)
        self.conv1 = CONV(channels, 3, strides=2, padding=1, kernel_initializer=KaimingNormal)
        self.bn1 = BatchNormalization()
        for name, factor, strides in BLOCKS:
            filters = int(32 * factor * width)
            setattr(self, name, DepthwiseBlock(channels, filters, strides))
            channels = filters
        self.fc = Dense(numbers)

    def call(self, images, training=False):
        x = tf.nn.relu(self.bn1(self.conv1(images), training=training))
        for name, _, _ in BLOCKS:
            x = getattr(self, name)(x, training=training)
        return self.fc(tf.reduce_mean(x, (1, 2)))  # mirror: NHWC


def parts(numbers):
    """(N, 62) -> rotation and scale (N, 3, 3), shift (N, 3, 1), shape and expression (N, 50, 1)."""
    pose = tf.reshape(numbers[:, :POSE], (-1, 3, 4))
    return pose[:, :, :3], pose[:, :, 3:], numbers[:, POSE:, None]


def vertices_of(coefficients, mean, bases):
    """Vertices in the face's own frame.

    Args:
        coefficients: (N, 50, 1) of shape and expression.
        mean: (V, 3).
        bases: (V, 3, 50).

    Returns:
        (N, 3, V).
    """
    moved = tf.matmul(tf.reshape(bases, (1, -1, bases.shape[2])), coefficients)  # (N, 3 V, 1)
    return tf.transpose(tf.reshape(moved, (-1, tf.shape(mean)[0], 3)) + mean, (0, 2, 1))


@keras.saving.register_keras_serializable("diptych", "tddfa.FaceCriterion")
class FaceCriterion(keras.layers.Layer):
    """Base of the losses below: the face model.

    Args:
        num_vertices: V.
    """

    def __init__(self, num_vertices: int = 53215, **kwargs):
        super().__init__(**kwargs)
        make = functools.partial(self.add_weight, initializer="zeros", trainable=False)  # mirror: buffers
        self.u = make(name="u", shape=(3 * num_vertices, 1))
        self.w_shp = make(name="w_shp", shape=(3 * num_vertices, SHAPE))
        self.w_exp = make(name="w_exp", shape=(3 * num_vertices, EXPRESSION))
        numbers = POSE + SHAPE + EXPRESSION
        self.param_mean = make(name="param_mean", shape=(numbers,))
        self.param_std = make(name="param_std", shape=(numbers,), initializer="ones")

    def numbers(self, whitened):
        """Undo the normalisation of the network's outputs."""
        return whitened * self.param_std + self.param_mean

    def model(self, vertices):
        """Mean (S, 3) and bases (S, 3, 50) of some vertices."""
        bases = tf.concat((tf.convert_to_tensor(self.w_shp), tf.convert_to_tensor(self.w_exp)), 1)
        bases = tf.reshape(bases, (-1, 3, SHAPE + EXPRESSION))
        return tf.gather(tf.reshape(self.u, (-1, 3)), vertices), tf.gather(bases, vertices)


@keras.saving.register_keras_serializable("diptych")
class PDCCriterion(keras.layers.Layer):
    """Mean squared difference of the parameters.

    Inputs: ``outputs`` (N, 62); ``targets["wanted"]`` (N, 62), both whitened.
    Returns: dict of scalars: ``"mse"``, ``"total"`` (the same).
    """

    def call(self, outputs, targets):
        loss = tf.reduce_mean(tf.square(outputs - tf.cast(targets["wanted"], outputs.dtype)))
        return {"mse": loss, "total": loss}


@keras.saving.register_keras_serializable("diptych")
class WPDCCriterion(FaceCriterion):
    """Squared differences of the parameters, each weighted by how far it moves the vertices (equations 11 to 13).

    Args:
        num_vertices: of the face model, V.

    Inputs: ``outputs`` (N, 62), or a dict with ``"parameters"``; ``targets["wanted"]`` (N, 62), both whitened;
        ``targets["vertices"]`` (S,) int, the vertices that count: in the reference the 68 key points and 132 random
        ones.
    Returns: dict of scalars: ``"wpdc"``, ``"total"`` (the same).
    """

    def weights_of(self, found, wanted, vertices):
        """The weights of the parameters, (N, 62) in [0, 1]; without a gradient."""
        mean, bases = self.model(vertices)
        difference = tf.abs(found - wanted)
        size = tf.norm(vertices_of(wanted[:, POSE:, None], mean, bases), axis=2)  # (N, 3)
        count = tf.cast(tf.shape(mean)[0], size.dtype)
        shift = tf.fill(tf.shape(size[:, :1]), tf.sqrt(count))
        pose = difference[:, :POSE] * tf.tile(tf.concat((size, shift), 1), (1, 3))
        of_base = tf.norm(tf.reshape(bases, (-1, SHAPE + EXPRESSION)), axis=0)
        weights = tf.concat((pose, SHAPE_WEIGHT * difference[:, POSE:] * of_base), 1) + EPS
        counted = tf.cast(tf.range(weights.shape[1]) != POSE - 1, weights.dtype)  # the depth of the face does not
        weights = weights * counted
        return tf.stop_gradient(weights / tf.reduce_max(weights, 1, keepdims=True))

    def call(self, outputs, targets):
        found = outputs["parameters"] if isinstance(outputs, dict) else outputs
        wanted = tf.cast(targets["wanted"], found.dtype)
        weights = self.weights_of(self.numbers(found), self.numbers(wanted), targets["vertices"])
        loss = tf.reduce_mean(weights * tf.square(found - wanted))
        return {"wpdc": loss, "total": loss}


@keras.saving.register_keras_serializable("diptych")
class VDCCriterion(FaceCriterion):
    """Mean squared difference of the vertices; the depth of the face is ignored.

    Args:
        num_vertices: of the face model, V.

    Inputs: see :class:`WPDCCriterion`.
    Returns: dict of scalars: ``"vdc"``, ``"total"`` (the same).
    """

    def call(self, outputs, targets):
        found = outputs["parameters"] if isinstance(outputs, dict) else outputs
        mean, bases = self.model(targets["vertices"])
        (turn, shift, face), (wanted_turn, wanted_shift, wanted_face) = (
            parts(self.numbers(tf.cast(x, found.dtype))) for x in (found, targets["wanted"])
        )
        shift = tf.concat((shift[:, :2], wanted_shift[:, 2:]), 1)
        ours = tf.matmul(turn, vertices_of(face, mean, bases)) + shift
        wanted = tf.matmul(wanted_turn, vertices_of(wanted_face, mean, bases)) + wanted_shift
        loss = tf.reduce_mean(tf.square(wanted - ours))
        return {"vdc": loss, "total": loss}


def tddfa_mobilenet_2(width=2.0, **options) -> TDDFA:
    return TDDFA(width, **options)


def tddfa_mobilenet_1(width=1.0, **options) -> TDDFA:
    return TDDFA(width, **options)


def tddfa_mobilenet_075(width=0.75, **options) -> TDDFA:
    return TDDFA(width, **options)


def tddfa_mobilenet_05(width=0.5, **options) -> TDDFA:
    return TDDFA(width, **options)


def tddfa_mobilenet_025(width=0.25, **options) -> TDDFA:
    return TDDFA(width, **options)
