"""Switchable atrous convolution: at every position a mixture of two dilations of one kernel.

"DetectoRS: Detecting Objects with Recursive Feature Pyramid and Switchable Atrous Convolution", 2020, arXiv:2006.02334,
section 4. Names: mmcv ``ops/saconv.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input width, and makes the layers that depend on it when it sees one.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .deform_conv import deform_conv2d
from .weight_standardization import ConvAWS2d

__all__ = ["SAConv2d"]


class SAConv2d(ConvAWS2d):
    """s * conv(x, w, d) + (1 - s) * conv(x, w + dw, 3 d), both deformable, between two additions of global context.

    The switch s, which is not bounded, and the offsets are convolutions of a smoothed x. Initially s is 1; dw, the
    offsets and the context are zero.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: of the convolution.

    Inputs: (N, in_channels, H, W), H and W of at least 3.  Returns: (N, out_channels, H', W').
    """

    keeps_initial_values = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.weight_diff = nn.Parameter(torch.zeros_like(self.weight))
        self.switch = nn.Conv2d(in_channels, 1, 1, stride)  # mirror: infers the input width
        self.pre_context = nn.Conv2d(in_channels, in_channels, 1)
        self.post_context = nn.Conv2d(out_channels, out_channels, 1)
        taps = 2 * kernel_size**2
        self.offset_s = nn.Conv2d(in_channels, taps, 3, stride, 1)
        self.offset_l = nn.Conv2d(in_channels, taps, 3, stride, 1)
        for module in self.children():
            nn.init.zeros_(module.weight)
            nn.init.constant_(module.bias, 1.0 if module is self.switch else 0.0)

    def forward(self, x):
        x = x + self.pre_context(x.mean((2, 3), keepdim=True))  # mirror: NCHW
        smooth = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 1)
        switch, kernel = self.switch(smooth), self.standardized()
        small = self.deformed(x, self.offset_s(smooth), kernel, 1)
        large = self.deformed(x, self.offset_l(smooth), kernel + self.weight_diff, 3)
        y = switch * small + (1 - switch) * large
        return y + self.post_context(y.mean((2, 3), keepdim=True))

    def deformed(self, x, offset, kernel, factor: int):
        """The convolution with a multiple of the dilation."""
        padding, dilation = (tuple(factor * n for n in pair) for pair in (self.padding, self.dilation))
        return deform_conv2d(x, offset, kernel, self.bias, self.stride, padding, dilation, groups=self.groups)
