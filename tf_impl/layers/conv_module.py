"""Convolution, normalisation, activation: the basic unit of mmcv's models, under mmcv's names.

Names: mmcv ``cnn/bricks/conv_module.py`` (Apache-2.0): ``conv``, and ``bn``, ``gn`` or ``in`` for the normalisation.

Mirror notes:
- Keras infers the input width; its activation is a function by name, PyTorch's a module's class.
"""

import functools

import keras

from .convolution import Conv2D, DepthwiseConv2D
from .initialization import KaimingNormal
from .normalization import BatchNormalization, GroupNormalization, InstanceNormalization

__all__ = ["ConvModule", "DepthwiseSeparableConvModule"]


@keras.saving.register_keras_serializable("diptych")
class ConvModule(keras.layers.Layer):
    """Convolution, then normalisation and activation as asked.

    Args:
        filters, kernel_size, strides, padding, dilation_rate, groups: of the convolution.
        use_bias: whether the convolution has a bias; None: only if there is no normalisation.
        norm: None, "batch", "group", or a callable that makes a normalisation.
        norm_groups: groups of "group".
        activation: function or its name in Keras, or None.
        conv: makes the convolution, from its arguments in Keras.
        kernel_initializer, bias_initializer: of the convolution; by default normal with variance 2 / fan_out, and zero.

    x: (N, H, W, C) -> (N, H', W', filters).
    Raises: ValueError if there is no such ``norm``.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation_rate: int | tuple[int, int] = 1,
        groups: int = 1,
        use_bias: bool | None = None,
        norm=None,
        norm_groups: int = 32,
        activation="relu",
        conv=Conv2D,
        kernel_initializer=KaimingNormal,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if isinstance(norm, str) and norm not in ("batch", "group"):
            raise ValueError(f"norm={norm!r} must be None, 'batch' or 'group', or make a normalisation")
        self.conv = conv(  # mirror: infers the input width
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            dilation_rate=dilation_rate,
            groups=groups,
            use_bias=norm is None if use_bias is None else use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
        )
        self.norm_name = None
        if norm is not None:
            known = {"batch": BatchNormalization, "group": functools.partial(GroupNormalization, norm_groups)}
            layer = known[norm]() if isinstance(norm, str) else norm()
            names = {GroupNormalization: "gn", InstanceNormalization: "in_"}
            self.norm_name = next((name for cls, name in names.items() if isinstance(layer, cls)), "bn")
            setattr(self, self.norm_name, layer)
        self.activation = keras.activations.get(activation)  # mirror: function by name

    def call(self, x, training=False):
        y = self.conv(x)
        if self.norm_name is not None:
            y = getattr(self, self.norm_name)(y, training=training)
        return self.activation(y)


def _depthwise(filters, kernel_size, groups, **options) -> DepthwiseConv2D:
    return DepthwiseConv2D(kernel_size, **options)  # mirror: infers the input width


@keras.saving.register_keras_serializable("diptych")
class DepthwiseSeparableConvModule(keras.layers.Layer):
    """A depthwise convolution, then a 1x1 convolution; both with normalisation and activation.

    Args:
        filters, kernel_size, strides, padding, dilation_rate: of the convolutions, the last three for the first one.
        norm, activation: of both, see :class:`ConvModule`.

    x: (N, H, W, C) -> (N, H', W', filters).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        padding: int = 0,
        dilation_rate: int = 1,
        norm="batch",
        activation="relu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.depthwise_conv = ConvModule(
            1,
            kernel_size,
            strides,
            padding,
            dilation_rate,
            norm=norm,
            activation=activation,
            conv=_depthwise,
        )
        self.pointwise_conv = ConvModule(filters, 1, norm=norm, activation=activation)

    def call(self, x, training=False):
        return self.pointwise_conv(self.depthwise_conv(x, training=training), training=training)
