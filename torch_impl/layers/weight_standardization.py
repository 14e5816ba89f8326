"""Convolutions whose kernels are standardised per output channel, as in mmcv.

"Micro-Batch Training with Batch-Channel Normalization and Weight Standardization", 2019, arXiv:1903.10520; with an
affine map of constants: "DetectoRS", 2020, arXiv:2006.02334. Names: mmcv ``cnn/bricks/conv_ws.py`` (Apache-2.0).

Mirror notes:
- Kernels are stored (out, in / groups, kh, kw), in TensorFlow (kh, kw, in / groups, out).
- Constants are buffers in PyTorch, non-trainable variables in Keras.
"""

import torch
from torch import nn

__all__ = ["ConvAWS2d", "ConvWS2d"]


class ConvWS2d(nn.Conv2d):
    """Convolution with the kernel (w - mean) / (deviation + eps), of the unbiased deviation.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: of the convolution.
        eps: added to the deviation; :class:`StdConv2d` adds it to the biased variance.

    Inputs: (N, in_channels, H, W).  Returns: (N, out_channels, H', W').
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
        eps: float = 1e-5,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.eps = eps

    def forward(self, x):
        kernel = self.weight.flatten(1)  # mirror: are stored
        kernel = kernel - kernel.mean(1, keepdim=True)
        deviation = (kernel.square().sum(1, keepdim=True) / (kernel.shape[1] - 1)).sqrt()
        return self._conv_forward(x, (kernel / (deviation + self.eps)).view_as(self.weight), self.bias)


class ConvAWS2d(nn.Conv2d):
    """Convolution with the kernel gamma (w - mean) / sqrt(unbiased variance + eps) + beta.

    Gamma and beta are constants per output channel, initially 1 and 0; a checkpoint sets them.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: of the convolution.
        eps: added to the variance inside the root.

    Inputs: (N, in_channels, H, W).  Returns: (N, out_channels, H', W').
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
        eps: float = 1e-5,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.eps = eps
        self.register_buffer("weight_gamma", torch.ones(out_channels, 1, 1, 1))  # mirror: are buffers
        self.register_buffer("weight_beta", torch.zeros(out_channels, 1, 1, 1))

    def standardized(self):
        """The kernel."""
        kernel = self.weight.flatten(1)
        kernel = kernel - kernel.mean(1, keepdim=True)
        variance = kernel.square().sum(1, keepdim=True) / (kernel.shape[1] - 1)
        kernel = (kernel * (variance + self.eps).rsqrt()).view_as(self.weight)
        return self.weight_gamma * kernel + self.weight_beta

    def forward(self, x):
        return self._conv_forward(x, self.standardized(), self.bias)
