"""Xception: depthwise separable convolutions in residual blocks.

"Xception: Deep Learning with Depthwise Separable Convolutions", 2016, arXiv:1610.02357.
Function: ``keras.applications.Xception`` (Apache-2.0); parameter names: timm ``models/xception.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.backbone import Backbone
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import max_pool2d
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "SeparableConv2d",
    "Xception",
    "XceptionBlock",
    "xception",
]

CONV = functools.partial(Conv2D, use_bias=False, kernel_initializer=KaimingNormal)

CHANNELS = (32, 64, 128, 256, 728, 1024, 1536, 2048)


def shrink(x, pad_mode: str):
    """Max pool 3x3 with stride 2, ceil(size / 2) long; "same" pads an even size at the end only."""
    if pad_mode == "torch":
        return max_pool2d(x, 3, 2, 1)
    _, height, width, _ = x.shape
    if height is None or width is None:
        return tf.nn.max_pool2d(x, 3, 2, "SAME")
    return max_pool2d(x, 3, 2, (height % 2, width % 2), ceil_mode=True)


@keras.saving.register_keras_serializable("diptych")
class SeparableConv2d(keras.layers.Layer):
    """3x3 depthwise convolution and 1x1 convolution with nothing in between.

    Args:
        in_channels, filters: widths.

    x: (N, H, W, in_channels) -> (N, H, W, filters).
    """

    def __init__(self, in_channels: int, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = CONV(in_channels, 3, padding=1, groups=in_channels)
        self.pointwise = CONV(filters, 1)

    def call(self, x):
        return self.pointwise(self.conv1(x))


@keras.saving.register_keras_serializable("diptych")
class XceptionBlock(keras.layers.Layer):
    """ReLU, separable convolution, normalisation, several times; a pool where the map shrinks; a shortcut.

    Args:
        widths: of the input and after every separable convolution.
        strides: 1 or 2.
        norm: makes a normalisation.
        pad_mode: of the pool, see :class:`Xception`.
        start_with_relu: whether there is a first ReLU.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), widths[-1]).
    """

    def __init__(
        self, widths: tuple[int, ...], strides: int, norm, pad_mode: str, start_with_relu: bool = True, **kwargs
    ):
        super().__init__(**kwargs)
        self.shrinks, self.pad_mode = strides == 2, pad_mode
        rep = []
        for i in range(len(widths) - 1):
            rep += [keras.layers.ReLU(), SeparableConv2d(widths[i], widths[i + 1]), norm()]
        self.skip = self.skipbn = None
        if strides != 1 or widths[0] != widths[-1]:
            self.skip = CONV(widths[-1], 1, strides=strides)
            self.skipbn = norm()
        self.rep = keras.Sequential(rep if start_with_relu else rep[1:])

    def call(self, x, training=False):
        y = self.rep(x, training=training)
        if self.shrinks:
            y = shrink(y, self.pad_mode)
        return y + (x if self.skip is None else self.skipbn(self.skip(x), training=training))


@keras.saving.register_keras_serializable("diptych")
class Xception(Backbone):
    """The classifier.

    Args:
        channels: widths of the first two convolutions, of the entry flow's blocks, after the last block, and of the
            last two convolutions.
        middle: blocks of the middle flow.
        num_classes: classes K.
        in_chans: channels of the image.
        bn_eps, bn_momentum: of the normalisations (weight of the new batch); 1e-3 and 0.01 as in Keras, 1e-5 and 0.1 in
            timm.
        pad_mode: zeros of the pools, "same" as in Keras, or "torch" (the same on both sides) as in timm.
        dropout: rate before the last layer.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no last convolutions and classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, .... The
        first convolutions do not pad, so the maps are a little smaller than the image divided by the stride.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = CHANNELS,
        middle: int = 8,
        num_classes: int = 1000,
        in_chans: int = 3,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.01,
        pad_mode: str = "same",
        dropout: float = 0.0,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if pad_mode not in ("same", "torch"):
            raise ValueError(f"pad_mode={pad_mode!r}; 'same' or 'torch' is allowed")
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        make_norm = functools.partial(BatchNormalization, epsilon=bn_eps, momentum=1 - bn_momentum)
        c1, c2, entry1, entry2, wide, c12, c3, c4 = channels
        self.conv1 = CONV(c1, 3, strides=2)
        self.bn1 = make_norm()
        self.conv2 = CONV(c2, 3)
        self.bn2 = make_norm()
        self.block1 = XceptionBlock((c2, entry1, entry1), 2, make_norm, pad_mode, start_with_relu=False)
        self.block2 = XceptionBlock((entry1, entry2, entry2), 2, make_norm, pad_mode)
        self.block3 = XceptionBlock((entry2, wide, wide), 2, make_norm, pad_mode)
        for i in range(middle):
            setattr(self, f"block{i + 4}", XceptionBlock((wide, wide, wide, wide), 1, make_norm, pad_mode))
        self.blocks = middle + 4
        setattr(self, f"block{self.blocks}", XceptionBlock((wide, wide, c12), 2, make_norm, pad_mode))
        if not features_only:
            self.conv3 = SeparableConv2d(c12, c3)
            self.bn3 = make_norm()
            self.conv4 = SeparableConv2d(c3, c4)
            self.bn4 = make_norm()
            self.dropout = keras.layers.Dropout(dropout)
            self.fc = Dense(num_classes)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        blocks = [getattr(self, f"block{i}") for i in range(1, self.blocks + 1)]
        stem = [self.conv1, self.bn1, self.conv2, self.bn2]
        return [stem, blocks[:1], blocks[1:2], blocks[2:-1], blocks[-1:]]

    def _maps(self, images, training=False) -> list:
        """The last map at each stride, 2 to 32."""
        x = tf.nn.relu(self.bn1(self.conv1(images), training=training))
        x = tf.nn.relu(self.bn2(self.conv2(x), training=training))
        maps = [x]
        for i in range(1, self.blocks + 1):
            x = getattr(self, f"block{i}")(x, training=training)
            if i in (1, 2, self.blocks - 1, self.blocks):
                maps.append(x)
        return maps

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        return {f"c{i + 1}": x for i, x in enumerate(self._maps(images, training)) if i in self.out_indices}

    def call(self, images, training=False):
        if self.features_only:
            return self.forward_features(images, training)
        x = self._maps(images, training)[-1]
        x = tf.nn.relu(self.bn3(self.conv3(x), training=training))
        x = tf.nn.relu(self.bn4(self.conv4(x), training=training))
        return self.fc(self.dropout(tf.reduce_mean(x, (1, 2)), training=training))  # mirror: NHWC


def xception(**options) -> Xception:
    return Xception(**options)
