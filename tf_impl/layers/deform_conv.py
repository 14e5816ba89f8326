"""Deformable convolution v1 and v2: every tap of the kernel samples its own position; one ``DeformConv`` in ONNX.

Papers: arXiv 1703.06211 (v1), 1811.11168 (v2: a mask scales every tap). Names: mmcv ``DeformConv2dPack`` and
``ModulatedDeformConv2dPack`` (Apache-2.0); numbers: ``torchvision.ops.deform_conv2d`` (BSD-3).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow, there with the same order of the offset and mask channels on the last axis.
- Weights are (out, in / groups, kh, kw) in PyTorch, (kh, kw, in / groups, out) in TensorFlow.
- The weighted sum of the four corners is ``F.embedding_bag`` in PyTorch, a gather and a product in TensorFlow.
"""

import keras
import tensorflow as tf

from .convolution import Conv2D
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
        x: (N, H, W, C).
        offset: (N, h, w, 2 G K) in pixels, with G ``deform_groups`` and K = kh kw: for each group and tap dy, then dx.
        weight: (kh, kw, C / groups, out).
        bias: (out,) or ``None``.
        stride, padding, dilation: one number or (height, width). Everything outside the input is zero.
        mask: (N, h, w, G K), factor of each tap; ``None`` for 1 (v1).
        groups: channel groups of the convolution.
        deform_groups: channel groups, each with its own offset and mask.
        border_grad: gradient where a sample lies exactly one pixel outside the upper or left border, as every border
            tap does while offsets are zero: ``"torchvision"``, the right-hand derivative; ``"mmcv"``, zero. Values
            are the same.

    Returns:
        (N, h, w, out).

    Raises:
        ValueError: if ``border_grad`` is neither, or ``offset`` or ``mask`` has a wrong number of channels.
    """
    (sh, sw), (ph, pw), (dh, dw) = _pair(stride), _pair(padding), _pair(dilation)
    (height, width), channels = _sizes(x), x.shape[-1]
    kh, kw, _, out_channels = weight.shape
    taps = kh * kw
    _check(border_grad, offset.shape[-1], None if mask is None else mask.shape[-1], deform_groups, taps)
    h, w = _sizes(offset)
    if exporting():
        attributes = {"kernel_shape": [kh, kw], "strides": [sh, sw], "pads": [ph, pw, ph, pw], "dilations": [dh, dw]}
        attributes |= {"group": groups, "offset_group": deform_groups}
        # mirror: order of the offset and mask
        x, offset = tf.transpose(x, [0, 3, 1, 2]), tf.transpose(offset, [0, 3, 1, 2])
        mask = None if mask is None else tf.transpose(mask, [0, 3, 1, 2])
        inputs = [x, tf.transpose(weight, [3, 2, 0, 1]), offset, bias, mask]  # mirror: Weights are
        while inputs[-1] is None:
            inputs.pop()
        out = onnx_node("DeformConv", inputs, attributes, x.dtype, [x.shape[0], out_channels, *offset.shape[2:]])
        return tf.transpose(out, [0, 2, 3, 1])

    offset = tf.reshape(offset, [-1, h, w, deform_groups, taps, 2])
    tap = tf.range(taps)
    y = tf.cast((tf.range(h) * sh - ph)[:, None, None, None] + tap // kw * dh, x.dtype) + offset[..., 0]
    x_ = tf.cast((tf.range(w) * sw - pw)[:, None, None] + tap % kw * dw, x.dtype) + offset[..., 1]  # (N, h, w, G, K)
    y_index, y_weight = _corners(y, height)  # (N, h, w, G, K, 2)
    x_index, x_weight = _corners(x_, width)
    corner_weight = y_weight[..., :, None] * x_weight[..., None, :]
    if border_grad == "mmcv":
        corner_weight = corner_weight * tf.cast((y > -1) & (x_ > -1), x.dtype)[..., None, None]
    if mask is not None:
        corner_weight = corner_weight * tf.reshape(mask, [-1, h, w, deform_groups, taps, 1, 1])

    height, width = (tf.cast(n, tf.int64) for n in (height, width))
    image, group = tf.range(tf.shape(x, tf.int64)[0]), tf.range(deform_groups, dtype=tf.int64)
    image, group = tf.reshape(image, [-1, 1, 1, 1, 1, 1, 1]), tf.reshape(group, [-1, 1, 1, 1])
    index = ((image * height + y_index[..., :, None]) * width + x_index[..., None, :]) * deform_groups + group
    table = tf.reshape(x, [-1, channels // deform_groups])  # (N H W G, C / G)
    corners = [-1, h, w, deform_groups, taps, 4]
    sampled = _weighted_rows(table, tf.reshape(index, corners), tf.reshape(corner_weight, corners))
    columns = tf.transpose(sampled, [0, 1, 2, 4, 3, 5])  # (N, h, w, K, G, C / G)
    columns = tf.transpose(tf.reshape(columns, [-1, taps, groups, channels // groups]), [2, 0, 1, 3])
    columns = tf.reshape(columns, [groups, -1, taps * (channels // groups)])
    weight = tf.transpose(tf.reshape(weight, [-1, groups, out_channels // groups]), [1, 0, 2])
    out = tf.transpose(tf.matmul(columns, weight), [1, 0, 2])  # (N h w, groups, out / groups)
    out = tf.reshape(out, [-1, h, w, out_channels])
    return out if bias is None else out + bias


def _sizes(x) -> list:
    """Height and width: numbers where they are known, else integer tensors."""
    return [n or tf.shape(x)[axis] for axis, n in enumerate(x.shape[1:3], start=1)]


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
    low = tf.floor(tf.stop_gradient(position))
    fraction = position - low
    corner = tf.stack([low, low + 1.0], axis=-1)
    last = tf.cast(size - 1, position.dtype)
    inside = tf.cast((corner >= 0) & (corner <= last), position.dtype)
    index = tf.cast(tf.clip_by_value(corner, 0, last), tf.int64)
    return index, tf.stack([1.0 - fraction, fraction], axis=-1) * inside


def _weighted_rows(table, index, weight):
    """Sum of table rows.  table: (P, C), index, weight: (..., J) -> (..., C)."""
    return tf.squeeze(tf.matmul(weight[..., None, :], tf.gather(table, index)), axis=-2)  # mirror: four corners


@keras.saving.register_keras_serializable("diptych")
class DeformConv2dPack(keras.layers.Layer):
    """Deformable convolution v1 that computes its own offsets, by a convolution that starts as zero.

    Args:
        filters, kernel_size, strides, padding, dilation_rate, groups, use_bias: as of a convolution.
        deform_groups, border_grad: see :func:`deform_conv2d`.
        kernel_initializer: by default uniform with 1 / sqrt(C kh kw); the bias starts as zero.

    Inputs: (N, H, W, C).  Returns: (N, h, w, filters).
    """

    torch_names = {"kernel": ("weight", (3, 2, 0, 1)), "bias": ("bias", None)}
    offset_channels_per_tap = 2

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation_rate: int | tuple[int, int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        use_bias: bool = False,
        border_grad: str = "torchvision",
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters, self.kernel_size = filters, _pair(kernel_size)
        self.strides, self.padding, self.dilation_rate = _pair(strides), _pair(padding), _pair(dilation_rate)
        self.groups, self.deform_groups, self.border_grad = groups, deform_groups, border_grad
        self.use_bias, self.kernel_initializer = use_bias, keras.initializers.get(kernel_initializer)
        kh, kw = self.kernel_size
        self.conv_offset = Conv2D(
            self.offset_channels_per_tap * deform_groups * kh * kw,
            self.kernel_size,
            strides=strides,
            padding=padding,
            dilation_rate=dilation_rate,
            kernel_initializer="zeros",
            bias_initializer="zeros",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape):
        (kh, kw), channels = self.kernel_size, input_shape[-1]
        bound = (channels * kh * kw) ** -0.5
        self.kernel = self.add_weight(
            name="kernel",
            shape=(kh, kw, channels // self.groups, self.filters),
            initializer=self.kernel_initializer or keras.initializers.RandomUniform(-bound, bound),
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        if not self.conv_offset.built:
            self.conv_offset.build(input_shape)

    def call(self, x):
        return self.deform(x, self.conv_offset(x), None)

    def deform(self, x, offset, mask):
        """The convolution with given offsets and mask."""
        return deform_conv2d(
            x,
            offset,
            tf.convert_to_tensor(self.kernel),
            None if self.bias is None else tf.convert_to_tensor(self.bias),
            self.strides,
            self.padding,
            self.dilation_rate,
            mask,
            self.groups,
            self.deform_groups,
            self.border_grad,
        )

    def compute_output_shape(self, input_shape):
        return (*self.conv_offset.compute_output_shape(input_shape)[:-1], self.filters)


@keras.saving.register_keras_serializable("diptych")
class ModulatedDeformConv2dPack(DeformConv2dPack):
    """Deformable convolution v2 that computes its own offsets and mask; the mask starts as one half everywhere.

    Args:
        filters, kernel_size, strides, padding, dilation_rate, groups, use_bias: as of a convolution.
        deform_groups, border_grad: see :func:`deform_conv2d`.
        kernel_initializer: by default uniform with 1 / sqrt(C kh kw); the bias starts as zero.

    Inputs: (N, H, W, C).  Returns: (N, h, w, filters).
    """

    offset_channels_per_tap = 3

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation_rate: int | tuple[int, int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        use_bias: bool = True,
        border_grad: str = "torchvision",
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            dilation_rate,
            groups,
            deform_groups,
            use_bias,
            border_grad,
            kernel_initializer,
            **kwargs,
        )

    def call(self, x):
        found = self.conv_offset(x)
        split = found.shape[-1] // 3 * 2  # two thirds are offsets, one third is the mask
        return self.deform(x, found[..., :split], tf.sigmoid(found[..., split:]))
