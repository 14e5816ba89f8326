"""Convolutions with any padding, stride, dilation and groups, in every float type.

Mirror notes:
- PyTorch ships ``Conv2d`` and ``ConvTranspose2d``; Keras pads on one side only ("same" at stride 2) and its grouped
  convolution does not export, so the TensorFlow panel has its own layers.
- Kernels are stored (out, in / groups, kh, kw), in TensorFlow (kh, kw, in / groups, out).
"""

import torch.nn.functional as F
from torch import nn
from torch.nn import Conv2d, ConvTranspose2d  # mirror: ships Conv2d

__all__ = ["Conv2d", "Conv2dSame", "ConvTranspose2d", "StdConv2d", "same_padding"]


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after an axis such that the output has length ceil(size / stride)."""
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


class Conv2dSame(nn.Conv2d):
    """Convolution whose output is as long as the input divided by the stride, rounded up: TensorFlow's "SAME".

    The zeros depend on the size of the map; an odd one goes to the bottom or to the right.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: of the convolution.

    Inputs: (N, in_channels, H, W).  Returns: (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, 0, dilation, groups, bias)

    def forward(self, x):
        sizes = zip(x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True)
        (top, bottom), (left, right) = (same_padding(*size) for size in sizes)
        if top != bottom or left != right:
            x = F.pad(x, (left, right, top, bottom))
            top = left = 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)


class StdConv2d(nn.Conv2d):  # mirror: Kernels are stored
    """Convolution whose kernel is standardised per output channel: (w - mean) / sqrt(biased variance + eps).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: of the convolution.
        eps: added to the variance inside the root.

    Source: arXiv:1903.10520, in the variant of arXiv:1912.11370 (timm ``StdConv2d``).
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
        bias: bool = True,
        eps: float = 1e-6,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.eps = eps

    def forward(self, x):
        kernel = self.weight.flatten(1)
        kernel = kernel - kernel.mean(1, keepdim=True)
        variance = kernel.square().mean(1, keepdim=True)  # three times as fast as torch.var_mean
        return self._conv_forward(x, (kernel * (variance + self.eps).rsqrt()).view_as(self.weight), self.bias)
