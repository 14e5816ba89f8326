"""Switchable atrous convolution: at every position a mixture of two dilations of one kernel.

"DetectoRS: Detecting Objects with Recursive Feature Pyramid and Switchable Atrous Convolution", 2020, arXiv:2006.02334,
section 4. Names: mmcv ``ops/saconv.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input width, and makes the layers that depend on it when it sees one.
"""

import keras
import tensorflow as tf

from .convolution import Conv2D
from .deform_conv import deform_conv2d
from .initialization import KaimingNormal
from .weight_standardization import ConvAWS2d

__all__ = ["SAConv2d"]


@keras.saving.register_keras_serializable("diptych")
class SAConv2d(ConvAWS2d):
    """s * conv(x, w, d) + (1 - s) * conv(x, w + dw, 3 d), both deformable, between two additions of global context.

    The switch s, which is not bounded, and the offsets are convolutions of a smoothed x. Initially s is 1; dw, the
    offsets and the context are zero.

    Args:
        filters, kernel_size, strides, padding, dilation_rate, groups, use_bias: of the convolution.
        kernel_initializer: by default normal with variance 2 / fan_out.

    Inputs: (N, H, W, C), H and W of at least 3.  Returns: (N, H', W', filters).
    """

    torch_names = {
        "kernel": ("weight", (3, 2, 0, 1)),
        "bias": ("bias", None),
        "weight_diff": ("weight_diff", (3, 2, 0, 1)),
        "weight_gamma": ("weight_gamma", (3, 2, 0, 1)),
        "weight_beta": ("weight_beta", (3, 2, 0, 1)),
    }

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        padding: int = 0,
        dilation_rate: int = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_initializer=KaimingNormal,
        **kwargs,
    ):
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            dilation_rate=dilation_rate,
            groups=groups,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            **kwargs,
        )

    def build(self, input_shape):
        super().build(input_shape)
        self.weight_diff = self.add_weight(name="weight_diff", shape=self.kernel.shape, initializer="zeros")
        options = {"kernel_initializer": "zeros", "bias_initializer": "zeros", "dtype": self.dtype_policy}
        taps = 2 * self.kernel_size[0] * self.kernel_size[1]
        # mirror: infers the input width
        self.switch = Conv2D(1, 1, strides=self.strides, **{**options, "bias_initializer": "ones"})
        self.pre_context = Conv2D(input_shape[-1], 1, **options)
        self.post_context = Conv2D(self.filters, 1, **options)
        self.offset_s = Conv2D(taps, 3, strides=self.strides, padding=1, **options)
        self.offset_l = Conv2D(taps, 3, strides=self.strides, padding=1, **options)
        for layer in (self.switch, self.pre_context, self.offset_s, self.offset_l):
            layer.build(input_shape)
        self.post_context.build((*input_shape[:-1], self.filters))

    def call(self, x):
        x = x + self.pre_context(tf.reduce_mean(x, (1, 2), keepdims=True))  # mirror: NHWC
        smooth = tf.nn.avg_pool2d(tf.pad(x, [[0, 0], [2, 2], [2, 2], [0, 0]], mode="REFLECT"), 5, 1, "VALID")
        switch, kernel = self.switch(smooth), self.standardized()
        small = self.deformed(x, self.offset_s(smooth), kernel, 1)
        large = self.deformed(x, self.offset_l(smooth), kernel + tf.convert_to_tensor(self.weight_diff), 3)
        y = switch * small + (1 - switch) * large
        return y + self.post_context(tf.reduce_mean(y, (1, 2), keepdims=True))

    def deformed(self, x, offset, kernel, factor: int):
        """The convolution with a multiple of the dilation."""
        padding, dilation = (tuple(factor * n for n in pair) for pair in (self.zeros, self.dilation_rate))
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias)
        return deform_conv2d(x, offset, kernel, bias, self.strides, padding, dilation, groups=self.groups)
