"""Deformable convolution v1 and v2: every tap of the kernel samples its own position; one ``DeformConv`` in ONNX.

Papers: arXiv 1703.06211 (v1), 1811.11168 (v2: a mask scales every tap). Names: mmcv ``DeformConv2dPack`` and
``ModulatedDeformConv2dPack`` (Apache-2.0); numbers: ``torchvision.ops.deform_conv2d`` (BSD-3).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow, there with the same order of the offset and mask channels on the last axis.
- Weights are (out, in / groups, kh, kw) in PyTorch, (kh, kw, in / groups, out) in TensorFlow.
- The weighted sum of the four corners is ``F.embedding_bag`` in PyTorch, a gather and a product in TensorFlow.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .native import exporting, onnx_node

__all__ = ["DeformConv2dPack", "ModulatedDeformConv2dPack", "deform_conv2d"]


def deform_conv2d(
    x,
    offset,
    weight,
    bias=None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask=None,
    groups: int = 1,
    deform_groups: int = 1,
    border_grad: str = "torchvision",
):
    """Convolution whose tap k of output pixel (i, j) samples the input bilinearly at its regular position plus an
    offset.

    Args:
        x: (N, C, H, W); all but N are static.
        offset: (N, 2 G K, h, w) in pixels, with G ``deform_groups`` and K = kh kw: for each group and tap dy, then dx.
        weight: (out, C / groups, kh, kw).
        bias: (out,) or ``None``.
        stride, padding, dilation: one number or (height, width). Everything outside the input is zero.
        mask: (N, G K, h, w), factor of each tap; ``None`` for 1 (v1).
        groups: channel groups of the convolution.
        deform_groups: channel groups, each with its own offset and mask.
        border_grad: gradient where a sample lies exactly one pixel outside the upper or left border, as every border
            tap does while offsets are zero: ``"torchvision"``, the right-hand derivative; ``"mmcv"``, zero. Values
            are the same.

    Returns:
        (N, out, h, w).

    Raises:
        ValueError: if ``border_grad`` is neither, or ``offset`` or ``mask`` has a wrong number of channels.
    """
    (sh, sw), (ph, pw), (dh, dw) = _pair(stride), _pair(padding), _pair(dilation)
    batch, channels, height, width = x.shape
    out_channels, _, kh, kw = weight.shape
    taps = kh * kw
    _check(border_grad, offset.shape[1], None if mask is None else mask.shape[1], deform_groups, taps)
    h, w = offset.shape[2:]
    if exporting():
        attributes = {"kernel_shape": [kh, kw], "strides": [sh, sw], "pads": [ph, pw, ph, pw], "dilations": [dh, dw]}
        attributes |= {"group": groups, "offset_group": deform_groups}
        inputs = [x, weight, offset, bias, mask]  # mirror: order of the offset and mask
        while inputs[-1] is None:
            inputs.pop()
        return onnx_node("DeformConv", inputs, attributes, x.dtype, [batch, out_channels, h, w])

    offset = offset.reshape(batch, deform_groups, taps, 2, h, w)
    row, column = torch.arange(h, device=x.device)[:, None], torch.arange(w, device=x.device)
    tap = torch.arange(taps, device=x.device)[:, None, None]
    y = row * sh - ph + tap // kw * dh + offset[:, :, :, 0]  # (N, G, K, h, w)
    x_ = column * sw - pw + tap % kw * dw + offset[:, :, :, 1]
    y_index, y_weight = _corners(y, height)  # (N, G, K, h, w, 2)
    x_index, x_weight = _corners(x_, width)
    corner_weight = y_weight[..., :, None] * x_weight[..., None, :]
    if border_grad == "mmcv":
        corner_weight = corner_weight * ((y > -1) & (x_ > -1)).to(x.dtype)[..., None, None]
    if mask is not None:
        corner_weight = corner_weight * mask.reshape(batch, deform_groups, taps, h, w, 1, 1)

    image, group = torch.arange(batch, device=x.device), torch.arange(deform_groups, device=x.device)
    image, group = image.reshape(-1, 1, 1, 1, 1, 1, 1), group.reshape(-1, 1, 1, 1, 1, 1)
    index = ((image * height + y_index[..., :, None]) * width + x_index[..., None, :]) * deform_groups + group
    table = x.permute(0, 2, 3, 1).reshape(-1, channels // deform_groups)  # (N H W G, C / G)
    sampled = _weighted_rows(table, index.flatten(-2), corner_weight.flatten(-2))  # (N, G, K, h, w, C / G)
    columns = sampled.permute(0, 1, 5, 2, 3, 4).reshape(batch, groups, channels // groups * taps, h * w)
    # mirror: Weights are
    out = torch.matmul(weight.reshape(groups, out_channels // groups, -1), columns).reshape(batch, out_channels, h, w)
    return out if bias is None else out + bias[:, None, None]


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _check(border_grad, offset_channels, mask_channels, deform_groups, taps):
    if border_grad not in ("torchvision", "mmcv"):
        raise ValueError(f"border_grad must be 'torchvision' or 'mmcv', got {border_grad!r}")
    if offset_channels != 2 * deform_groups * taps:
        raise ValueError(
            f"offset must have 2 * deform_groups * kh * kw = {2 * deform_groups * taps} channels, got {offset_channels}"
        )
    if mask_channels not in (None, deform_groups * taps):
        raise ValueError(
            f"mask must have deform_groups * kh * kw = {deform_groups * taps} channels, got {mask_channels}"
        )


def _corners(position, size):
    """The two pixels around each position and their weights, 0 outside.  (...) -> (..., 2) twice."""
    low = torch.floor(position.detach())
    fraction = position - low
    corner = torch.stack([low, low + 1.0], dim=-1)
    inside = ((corner >= 0) & (corner <= size - 1)).to(position.dtype)
    index = torch.clamp(corner, 0, size - 1).to(torch.int64)
    return index, torch.stack([1.0 - fraction, fraction], dim=-1) * inside


def _weighted_rows(table, index, weight):
    """Sum of table rows.  table: (P, C), index, weight: (..., J) -> (..., C)."""
    shape = index.shape
    index, weight = index.reshape(-1, shape[-1]), weight.to(table.dtype).reshape(-1, shape[-1])
    # mirror: four corners
    return F.embedding_bag(index, table, per_sample_weights=weight, mode="sum").reshape(*shape[:-1], table.shape[-1])


class DeformConv2dPack(nn.Module):
    """Deformable convolution v1 that computes its own offsets, by a convolution that starts as zero.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as of a convolution.
        deform_groups, border_grad: see :func:`deform_conv2d`.

    Inputs: (N, in_channels, H, W).  Returns: (N, out_channels, h, w).
    """

    offset_channels_per_tap = 2
    keeps_initial_values = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        border_grad: str = "torchvision",
    ):
        super().__init__()
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.groups, self.deform_groups, self.border_grad = groups, deform_groups, border_grad
        kh, kw = _pair(kernel_size)
        bound = (in_channels * kh * kw) ** -0.5
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kh, kw).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.conv_offset = nn.Conv2d(
            in_channels, self.offset_channels_per_tap * deform_groups * kh * kw, (kh, kw), stride, padding, dilation
        )
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x):
        return self.deform(x, self.conv_offset(x), None)

    def deform(self, x, offset, mask):
        """The convolution with given offsets and mask."""
        return deform_conv2d(
            x,
            offset,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            mask,
            self.groups,
            self.deform_groups,
            self.border_grad,
        )


class ModulatedDeformConv2dPack(DeformConv2dPack):
    """Deformable convolution v2 that computes its own offsets and mask; the mask starts as one half everywhere.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as of a convolution.
        deform_groups, border_grad: see :func:`deform_conv2d`.

    Inputs: (N, in_channels, H, W).  Returns: (N, out_channels, h, w).
    """

    offset_channels_per_tap = 3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
        border_grad: str = "torchvision",
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deform_groups,
            bias,
            border_grad,
        )

    def forward(self, x):
        found = self.conv_offset(x)
        split = found.shape[1] // 3 * 2  # two thirds are offsets, one third is the mask
        return self.deform(x, found[:, :split], torch.sigmoid(found[:, split:]))
