"""Convolution, normalisation, activation: the basic unit of mmcv's models, under mmcv's names.

Names: mmcv ``cnn/bricks/conv_module.py`` (Apache-2.0): ``conv``, and ``bn``, ``gn`` or ``in`` for the normalisation.

Mirror notes:
- Keras infers the input width; its activation is a function by name, PyTorch's a module's class.
"""

import functools

from torch import nn

__all__ = ["ConvModule", "DepthwiseSeparableConvModule"]


class ConvModule(nn.Module):
    """Convolution, then normalisation and activation as asked.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: of the convolution.
        bias: whether the convolution has a bias; None: only if there is no normalisation.
        norm: None, "batch", "group", or a callable that makes a normalisation for a number of channels.
        norm_groups: groups of "group".
        activation: class of a module, or None.
        conv: makes the convolution, from its arguments in PyTorch.

    The kernel is normal with variance 2 / fan_out, the bias zero.

    x: (N, C, H, W) -> (N, out_channels, H', W').
    Raises: ValueError if there is no such ``norm``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool | None = None,
        norm=None,
        norm_groups: int = 32,
        activation=nn.ReLU,
        conv=nn.Conv2d,
    ):
        super().__init__()
        if isinstance(norm, str) and norm not in ("batch", "group"):
            raise ValueError(f"norm={norm!r} must be None, 'batch' or 'group', or make a normalisation")
        self.conv = conv(  # mirror: infers the input width
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=norm is None if bias is None else bias,
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.norm_name = None
        if norm is not None:
            known = {"batch": nn.BatchNorm2d, "group": functools.partial(nn.GroupNorm, norm_groups)}
            layer = (known[norm] if isinstance(norm, str) else norm)(out_channels)
            names = {nn.GroupNorm: "gn", nn.InstanceNorm2d: "in"}
            self.norm_name = next((name for cls, name in names.items() if isinstance(layer, cls)), "bn")
            self.add_module(self.norm_name, layer)
        self.activation = nn.Identity() if activation is None else activation()  # mirror: module's class

    def forward(self, x):
        y = self.conv(x)
        if self.norm_name is not None:
            y = getattr(self, self.norm_name)(y)
        return self.activation(y)


class DepthwiseSeparableConvModule(nn.Module):
    """A depthwise convolution, then a 1x1 convolution; both with normalisation and activation.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation: of the convolutions, the last three for the
            first one.
        norm, activation: of both, see :class:`ConvModule`.

    x: (N, C, H, W) -> (N, out_channels, H', W').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        norm="batch",
        activation=nn.ReLU,
    ):
        super().__init__()
        self.depthwise_conv = ConvModule(
            in_channels,
            in_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups=in_channels,
            norm=norm,
            activation=activation,
        )
        self.pointwise_conv = ConvModule(in_channels, out_channels, 1, norm=norm, activation=activation)

    def forward(self, x):
        return self.pointwise_conv(self.depthwise_conv(x))
