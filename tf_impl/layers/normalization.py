"""Normalisation layers with PyTorch's constants on NHWC maps.

Mirror notes:
- PyTorch stores the unbiased batch variance, Keras the biased one; the TensorFlow panel stores PyTorch's.
- PyTorch's momentum is the weight of the new value, Keras' that of the old one.
- ``freeze_norm`` replaces modules in PyTorch; Keras builds lazily, so its layers are told before they build.
"""

import keras
import tensorflow as tf

from .names import named_layers
from .native import exporting, onnx_node

__all__ = [
    "BatchNormalization",
    "FrozenBatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "StdLayerNorm",
    "choose_norm",
    "freeze_norm",
]


def moments(x, axes, keepdims: bool = False):
    """Mean and biased variance, differentiable any number of times; ``tf.nn.moments`` is only once."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=True)
    return (mean, variance) if keepdims else (tf.squeeze(mean, axes), tf.squeeze(variance, axes))


@keras.saving.register_keras_serializable("diptych")
class BatchNormalization(keras.layers.BatchNormalization):
    """keras.layers.BatchNormalization that stores what PyTorch stores, with PyTorch's constants (arXiv:1502.03167).

    Args:
        momentum: weight of the old value in the running statistics; 1 - 0.1.
        epsilon: added to the variance inside the root.
        kwargs: for keras.layers.BatchNormalization.

    ``norm_eval = True`` makes it use the running statistics in training, too.

    Inputs: (..., C).  Returns: the same shape.
    Raises: ValueError in training on one value per channel, as PyTorch does; if the size is only known when the graph
        runs, the variance of one value counts as 0.
    """

    torch_names = {
        "gamma": ("weight", None),
        "beta": ("bias", None),
        "moving_mean": ("running_mean", None),
        "moving_variance": ("running_var", None),
        "num_batches_tracked": ("num_batches_tracked", None),
    }
    fixed = False  # all tensors are constants

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs):  # mirror: momentum is
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        self.norm_eval = False

    def build(self, input_shape):
        super().build(input_shape)
        if self.fixed:
            for variable in (self.gamma, self.beta):
                if variable is not None:
                    variable.trainable = False
            return
        self.num_batches_tracked = self.add_weight(
            name="num_batches_tracked", shape=(), dtype="int64", initializer="zeros", trainable=False
        )

    def call(self, inputs, training=False):
        dtype = self.moving_mean.dtype
        gamma = tf.ones(inputs.shape[-1:], dtype) if self.gamma is None else tf.convert_to_tensor(self.gamma)
        beta = tf.zeros(inputs.shape[-1:], dtype) if self.beta is None else tf.convert_to_tensor(self.beta)
        mean, variance = (tf.convert_to_tensor(v) for v in (self.moving_mean, self.moving_variance))
        if training and self.trainable and not (self.norm_eval or self.fixed):
            mean, variance = self._update(tf.cast(inputs, dtype))
        elif inputs.dtype == tf.float32 and inputs.shape.rank == 4:
            # one operation, which tf.function fuses with the convolution
            return tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=gamma,
                offset=beta,
                mean=mean,
                variance=variance,
                epsilon=self.epsilon,
                is_training=False,
            ).y
        scale = tf.cast(gamma, dtype) * tf.math.rsqrt(variance + self.epsilon)
        y = tf.cast(inputs, dtype) * scale + (tf.cast(beta, dtype) - mean * scale)
        return tf.cast(y, inputs.dtype)

    def _update(self, x):
        """Mean and biased variance of the batch; updates the running statistics."""
        size = x.shape[:-1].num_elements()
        if size == 1:
            raise ValueError(f"more than 1 value per channel is expected in training; the input is {tuple(x.shape)}")
        mean, variance = moments(x, list(range(x.shape.rank - 1)))
        count = tf.cast(tf.size(x) // x.shape[-1], x.dtype)
        # mirror: unbiased batch
        unbiased = variance * (
            count / tf.maximum(count - 1, 1)
        )  # PyTorch stores it, and normalises with the biased one
        for running, new in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            running.assign(self.momentum * tf.convert_to_tensor(running) + (1 - self.momentum) * new)
        self.num_batches_tracked.assign_add(1)
        return mean, variance


@keras.saving.register_keras_serializable("diptych")
class FrozenBatchNormalization(BatchNormalization):
    """Batch normalisation as a fixed scale and shift: all four tensors are constants.

    Args:
        epsilon: added to the variance inside the root.

    Inputs: (..., C).  Returns: the same shape.
    Source: torchvision ``ops/misc.py``.
    """

    fixed = True


@keras.saving.register_keras_serializable("diptych")
class GroupNormalization(keras.layers.GroupNormalization):
    """keras.layers.GroupNormalization with PyTorch's epsilon, as one operator in ONNX (arXiv:1803.08494).

    Args:
        groups: number of groups of consecutive channels.
        epsilon: added to the variance inside the root.
        kwargs: for keras.layers.GroupNormalization.

    Inputs: (N, ..., C).  Returns: the same shape.
    """

    def __init__(self, groups: int = 32, epsilon: float = 1e-5, **kwargs):
        super().__init__(groups=groups, epsilon=epsilon, **kwargs)

    def call(self, inputs):
        x = tf.cast(inputs, self.variable_dtype)
        channels, rank, size = x.shape[-1], x.shape.rank, x.shape[-1] // self.groups
        gamma, beta = (None if v is None else tf.convert_to_tensor(v) for v in (self.gamma, self.beta))
        if exporting():  # the groups as channels of a one-dimensional map
            y = tf.transpose(x, (0, rank - 1, *range(1, rank - 1)))
            ones, zeros = tf.ones(self.groups, x.dtype), tf.zeros(self.groups, x.dtype)
            cells = x.shape[1:].num_elements()
            batch = -1 if cells else tf.shape(x)[0]
            line = tf.reshape(y, (batch, self.groups, cells // self.groups if cells else -1))
            line = onnx_node(
                "InstanceNormalization", [line, ones, zeros], {"epsilon": self.epsilon}, x.dtype, line.shape
            )
            y = tf.reshape(line, (-1, *y.shape[1:]) if cells else tf.shape(y))
            y = tf.transpose(tf.ensure_shape(y, (None, channels, *x.shape[1:-1])), (0, *range(2, rank), 1))
        else:

            def means(values):  # axis by axis, because sums of few numbers round less
                for axis in range(rank - 2, 0, -1):
                    values = tf.reduce_mean(values, axis)
                return tf.reduce_mean(tf.reshape(values, (-1, self.groups, size)), 2, keepdims=True)

            def over_channels(values):  # (N, groups, size or 1) -> (N, 1, ..., C)
                values = values if values.shape[-1] == size else tf.repeat(values, size, 2)
                return tf.reshape(values, (-1, *(1,) * (rank - 2), channels))

            y = x - over_channels(means(x))
            scale = tf.math.rsqrt(means(tf.square(y)) + self.epsilon)
            if gamma is not None:
                scale, gamma = scale * tf.reshape(gamma, (self.groups, size)), None
            y = y * over_channels(scale)
        y = y if gamma is None else y * gamma
        return tf.cast(y if beta is None else y + beta, inputs.dtype)


@keras.saving.register_keras_serializable("diptych")
class InstanceNormalization(keras.layers.Layer):
    """Instance normalisation: mean and biased variance of every channel of every image (arXiv:1607.08022).

    Args:
        epsilon: added to the variance inside the root.
        center, scale: whether a shift and a scale are learnt.

    Inputs: (N, H, W, C).  Returns: the same shape.
    """

    torch_names = {"gamma": ("weight", None), "beta": ("bias", None)}

    def __init__(self, epsilon: float = 1e-5, center: bool = False, scale: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.epsilon, self.center, self.scale = epsilon, center, scale

    def build(self, input_shape):
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(name="gamma", shape=input_shape[-1:], initializer="ones")
        if self.center:
            self.beta = self.add_weight(name="beta", shape=input_shape[-1:], initializer="zeros")

    def call(self, inputs):
        x = tf.cast(inputs, self.variable_dtype)
        scale = tf.ones(x.shape[-1], x.dtype) if self.gamma is None else tf.cast(self.gamma, x.dtype)
        shift = tf.zeros(x.shape[-1], x.dtype) if self.beta is None else tf.cast(self.beta, x.dtype)
        if exporting():
            y = tf.transpose(x, (0, 3, 1, 2))
            y = onnx_node("InstanceNormalization", [y, scale, shift], {"epsilon": self.epsilon}, y.dtype, y.shape)
            return tf.transpose(y, (0, 2, 3, 1))
        mean, variance = moments(x, [1, 2], keepdims=True)
        scale = scale * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast(x * scale + (shift - mean * scale), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("diptych")
class LayerNormalization(keras.layers.LayerNormalization):
    """keras.layers.LayerNormalization with PyTorch's epsilon, as one operator in ONNX (arXiv:1607.06450).

    Args:
        epsilon: added to the variance inside the root.
        kwargs: for keras.layers.LayerNormalization; the axis is the last one.

    Inputs: (..., D).  Returns: the same shape.
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs):
        x = tf.cast(inputs, self.variable_dtype)
        gamma = tf.ones(x.shape[-1], x.dtype) if self.gamma is None else tf.convert_to_tensor(self.gamma)
        beta = tf.zeros(x.shape[-1], x.dtype) if self.beta is None else tf.convert_to_tensor(self.beta)
        if exporting():
            attributes = {"axis": -1, "epsilon": self.epsilon}
            return onnx_node("LayerNormalization", [x, gamma, beta], attributes, x.dtype, x.shape)
        mean, variance = moments(x, [-1], keepdims=True)
        return tf.cast((x - mean) * tf.math.rsqrt(variance + self.epsilon) * gamma + beta, inputs.dtype)


@keras.saving.register_keras_serializable("diptych")
class StdLayerNorm(keras.layers.Layer):
    """Layer normalisation by the unbiased deviation, to which epsilon is added outside the root.

    Its parameters are called ``gamma`` and ``beta``.

    Args:
        epsilon: added to the deviation.

    Inputs: (..., D).  Returns: the same shape.

    Source: dbiir/UER-py ``uer/layers/layer_norm.py``.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=input_shape[-1:], initializer="ones")
        self.beta = self.add_weight(name="beta", shape=input_shape[-1:], initializer="zeros")

    def call(self, x):
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_sum(tf.square(centred), -1, keepdims=True) / (x.shape[-1] - 1)
        positive = variance > 0  # the root has no gradient at 0, where all values of a row are equal
        std = tf.where(positive, tf.sqrt(tf.where(positive, variance, tf.ones_like(variance))), variance)
        return tf.convert_to_tensor(self.gamma) * centred / (std + self.epsilon) + tf.convert_to_tensor(self.beta)


def freeze_norm(model) -> None:
    """Replace every batch normalisation of a model by a fixed scale and shift.

    Args:
        model: a layer that is not built.
    """
    for _, layer in named_layers(model):
        if isinstance(layer, BatchNormalization):
            layer.fixed = True  # mirror: told before they build


def choose_norm(norm):
    """The class of a normalisation by its name, "batch", "frozen" (fixed scale and shift) or "group" (32 groups);
    anything else is returned as it is.

    Raises:
        ValueError: if there is no such name.
    """
    known = {"batch": BatchNormalization, "frozen": FrozenBatchNormalization, "group": GroupNormalization}
    if isinstance(norm, str) and norm not in known:
        raise ValueError(f"norm={norm!r} must be one of {sorted(known)}, or make a normalisation")
    return known[norm] if isinstance(norm, str) else norm
