"""Inception v3: large kernels factorised into small and asymmetric ones, and an auxiliary classifier.

"Rethinking the Inception Architecture for Computer Vision", 2015, arXiv:1512.00567.
Parameter names: torchvision ``models/inception.py`` (BSD-3).

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit here. The average pools count the zeros of the padding.
- Dropout follows the framework's own generator.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.classification.googlenet import BasicConv2d, first_blocks, scaled, to_inception_range
from tf_impl.layers.backbone import Backbone
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.pooling import avg_pool2d, max_pool2d
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "AuxiliaryHead",
    "ClassificationPostProcess",
    "InceptionA",
    "InceptionB",
    "InceptionC",
    "InceptionD",
    "InceptionE",
    "InceptionV3",
    "InceptionV3Criterion",
    "inception_v3",
]

AUXILIARY = {"aux": 0.4}  # of torchvision's training script
LABEL_SMOOTHING = 0.1  # section 7


@keras.saving.register_keras_serializable("diptych")
class WideNormal(keras.initializers.RandomNormal):
    """Normal with deviation 0.1."""

    def __init__(self, seed=None):
        super().__init__(stddev=0.1, seed=seed)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


CONV = functools.partial(BasicConv2d, kernel_initializer=WideNormal)


@keras.saving.register_keras_serializable("diptych", "inception_v3.InceptionA")
class InceptionA(keras.layers.Layer):
    """1x1, 5x5, twice 3x3, average pool side by side (figure 5).

    Args:
        pool_features: width after the pool.
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, H, W, C').
    """

    def __init__(self, pool_features: int, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c48, c64, c96, pooled = scaled(width, 48, 64, 96, pool_features)
        self.branch1x1 = CONV(c64, 1)
        self.branch5x5_1 = CONV(c48, 1)
        self.branch5x5_2 = CONV(c64, 5, padding=2)  # mirror: padding is explicit
        self.branch3x3dbl_1 = CONV(c64, 1)
        self.branch3x3dbl_2 = CONV(c96, 3, padding=1)
        self.branch3x3dbl_3 = CONV(c96, 3, padding=1)
        self.branch_pool = CONV(pooled, 1)

    def call(self, x, training=False):
        one = self.branch1x1(x, training=training)
        five = self.branch5x5_2(self.branch5x5_1(x, training=training), training=training)
        three = self.branch3x3dbl_2(self.branch3x3dbl_1(x, training=training), training=training)
        three = self.branch3x3dbl_3(three, training=training)
        pooled = self.branch_pool(avg_pool2d(x, 3, 1, 1), training=training)  # mirror: count the zeros
        return tf.concat((one, five, three, pooled), -1)


@keras.saving.register_keras_serializable("diptych", "inception_v3.InceptionB")
class InceptionB(keras.layers.Layer):
    """3x3, twice 3x3, max pool, all with stride 2 (figure 10).

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, (H - 1) // 2, (W - 1) // 2, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c64, c96, c384 = scaled(width, 64, 96, 384)
        self.branch3x3 = CONV(c384, 3, 2)
        self.branch3x3dbl_1 = CONV(c64, 1)
        self.branch3x3dbl_2 = CONV(c96, 3, padding=1)
        self.branch3x3dbl_3 = CONV(c96, 3, 2)

    def call(self, x, training=False):
        three = self.branch3x3dbl_2(self.branch3x3dbl_1(x, training=training), training=training)
        three = self.branch3x3dbl_3(three, training=training)
        return tf.concat((self.branch3x3(x, training=training), three, max_pool2d(x, 3, 2)), -1)


@keras.saving.register_keras_serializable("diptych", "inception_v3.InceptionC")
class InceptionC(keras.layers.Layer):
    """1x1, 7x7, twice 7x7, average pool side by side; 7x7 as 1x7 and 7x1 (figure 6).

    Args:
        channels_7x7: width between the factors of the 7x7 kernels.
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, H, W, C').
    """

    def __init__(self, channels_7x7: int, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c7, c192 = scaled(width, channels_7x7, 192)
        self.branch1x1 = CONV(c192, 1)
        self.branch7x7_1 = CONV(c7, 1)
        self.branch7x7_2 = CONV(c7, (1, 7), padding=(0, 3))
        self.branch7x7_3 = CONV(c192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = CONV(c7, 1)
        self.branch7x7dbl_2 = CONV(c7, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = CONV(c7, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = CONV(c7, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = CONV(c192, (1, 7), padding=(0, 3))
        self.branch_pool = CONV(c192, 1)

    def call(self, x, training=False):
        one = self.branch1x1(x, training=training)
        seven = self.branch7x7_2(self.branch7x7_1(x, training=training), training=training)
        seven = self.branch7x7_3(seven, training=training)
        twice = self.branch7x7dbl_2(self.branch7x7dbl_1(x, training=training), training=training)
        twice = self.branch7x7dbl_4(self.branch7x7dbl_3(twice, training=training), training=training)
        twice = self.branch7x7dbl_5(twice, training=training)
        pooled = self.branch_pool(avg_pool2d(x, 3, 1, 1), training=training)
        return tf.concat((one, seven, twice, pooled), -1)


@keras.saving.register_keras_serializable("diptych")
class InceptionD(keras.layers.Layer):
    """3x3, 7x7 and 3x3, max pool, all with stride 2.

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, (H - 1) // 2, (W - 1) // 2, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c192, c320 = scaled(width, 192, 320)
        self.branch3x3_1 = CONV(c192, 1)
        self.branch3x3_2 = CONV(c320, 3, 2)
        self.branch7x7x3_1 = CONV(c192, 1)
        self.branch7x7x3_2 = CONV(c192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = CONV(c192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = CONV(c192, 3, 2)

    def call(self, x, training=False):
        three = self.branch3x3_2(self.branch3x3_1(x, training=training), training=training)
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x, training=training), training=training)
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven, training=training), training=training)
        return tf.concat((three, seven, max_pool2d(x, 3, 2)), -1)


@keras.saving.register_keras_serializable("diptych")
class InceptionE(keras.layers.Layer):
    """1x1, 3x3, twice 3x3, average pool side by side; the last 3x3 is 1x3 next to 3x1 (figure 7).

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, H, W, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c192, c320, c384, c448 = scaled(width, 192, 320, 384, 448)
        self.branch1x1 = CONV(c320, 1)
        self.branch3x3_1 = CONV(c384, 1)
        self.branch3x3_2a = CONV(c384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = CONV(c384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = CONV(c448, 1)
        self.branch3x3dbl_2 = CONV(c384, 3, padding=1)
        self.branch3x3dbl_3a = CONV(c384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = CONV(c384, (3, 1), padding=(1, 0))
        self.branch_pool = CONV(c192, 1)

    def call(self, x, training=False):
        one = self.branch1x1(x, training=training)
        three = self.branch3x3_1(x, training=training)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x, training=training), training=training)
        wide, high = self.branch3x3_2a(three, training=training), self.branch3x3_2b(three, training=training)
        wide2, high2 = self.branch3x3dbl_3a(twice, training=training), self.branch3x3dbl_3b(twice, training=training)
        pooled = self.branch_pool(avg_pool2d(x, 3, 1, 1), training=training)
        return tf.concat((one, wide, high, wide2, high2, pooled), -1)


STAGES = (  # the first block of the second and of the third halves the map
    {"Mixed_5b": (InceptionA, 32), "Mixed_5c": (InceptionA, 64), "Mixed_5d": (InceptionA, 64)},
    {
        "Mixed_6a": (InceptionB,),
        "Mixed_6b": (InceptionC, 128),
        "Mixed_6c": (InceptionC, 160),
        "Mixed_6d": (InceptionC, 160),
        "Mixed_6e": (InceptionC, 192),
    },
    {"Mixed_7a": (InceptionD,), "Mixed_7b": (InceptionE,), "Mixed_7c": (InceptionE,)},
)


@keras.saving.register_keras_serializable("diptych", "inception_v3.AuxiliaryHead")
class AuxiliaryHead(keras.layers.Layer):
    """Classifier of an inner map (figure 8).

    Args:
        num_classes: classes K.
        width: multiplier of all channels.

    x: (N, H, W, C), H and W at least 17 -> logits (N, K).
    """

    def __init__(self, num_classes: int, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c128, c768 = scaled(width, 128, 768)
        self.conv0 = CONV(c128, 1)
        self.conv1 = CONV(c768, 5, kernel_initializer=SmallNormal)
        self.fc = Dense(num_classes, kernel_initializer=keras.initializers.RandomNormal(stddev=0.001))

    def call(self, x, training=False):
        x = self.conv1(self.conv0(avg_pool2d(x, 5, 3), training=training), training=training)
        return self.fc(tf.reduce_mean(x, (1, 2)))  # mirror: NHWC


@keras.saving.register_keras_serializable("diptych")
class InceptionV3(Backbone):
    """The classifier.

    Args:
        layers: blocks of the three stages, at most those of the default.
        width: multiplier of all channels.
        num_classes: classes K.
        in_chans: channels of the image.
        aux_logits: whether there is an auxiliary head after the second stage. It also runs in evaluation mode, so that
            the loss is the same function in both, and needs images of 299 pixels or more a side; build the model
            without it if only its logits are needed.
        transform_input: whether images normalised by ImageNet's mean and deviation are converted to 2 x - 1, which the
            weights expect.
        dropout: rate before the last layer.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifiers; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, H, W, in_chans) float.
    Returns: dict of logits (N, K): ``"logits"``, ``"aux"``; without the auxiliary head only the tensor; with
        ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, .... The convolutions of the stem and
        those with stride 2 do not pad, so the maps are a little smaller than the image divided by the stride.
    """

    def __init__(
        self,
        layers: tuple[int, int, int] = (3, 5, 3),
        width: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        aux_logits: bool = True,
        transform_input: bool = False,
        dropout: float = 0.5,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if transform_input and in_chans != 3:
            raise ValueError(f"transform_input needs in_chans=3; in_chans={in_chans}")
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        self.transform_input, self.features_only, self.out_indices = transform_input, features_only, tuple(out_indices)
        c32, c64, c80, channels = scaled(width, 32, 64, 80, 192)
        self.Conv2d_1a_3x3 = CONV(c32, 3, 2)
        self.Conv2d_2a_3x3 = CONV(c32, 3)
        self.Conv2d_2b_3x3 = CONV(c64, 3, padding=1)
        self.Conv2d_3b_1x1 = CONV(c80, 1)
        self.Conv2d_4a_3x3 = CONV(channels, 3)
        self.stages = first_blocks(STAGES, layers)
        for i, (blocks, names) in enumerate(zip(STAGES, self.stages, strict=True)):
            for name in names:
                block, *widths = blocks[name]
                setattr(self, name, block(*widths, width=width))
            if i == 1:
                has_head = aux_logits and not features_only
                self.AuxLogits = AuxiliaryHead(num_classes, width) if has_head else None
        if not features_only:
            self.dropout = keras.layers.Dropout(dropout)  # mirror: Dropout follows
            self.fc = Dense(num_classes, kernel_initializer=WideNormal)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        stem = [self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3], [self.Conv2d_3b_1x1, self.Conv2d_4a_3x3]
        return [*stem, *([getattr(self, name) for name in names] for names in self.stages)]

    def _maps(self, images, training=False) -> list:
        """The last map at each stride, 2 to 32."""
        x = to_inception_range(images) if self.transform_input else images
        x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x, training=training), training=training)
        maps = [self.Conv2d_2b_3x3(x, training=training)]
        x = self.Conv2d_3b_1x1(max_pool2d(maps[0], 3, 2), training=training)
        maps.append(self.Conv2d_4a_3x3(x, training=training))
        x = max_pool2d(maps[1], 3, 2)
        for names in self.stages:
            for name in names:
                x = getattr(self, name)(x, training=training)
            maps.append(x)
        return maps

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        return {f"c{i + 1}": x for i, x in enumerate(self._maps(images, training)) if i in self.out_indices}

    def call(self, images, training=False):
        if self.features_only:
            return self.forward_features(images, training)
        maps = self._maps(images, training)
        logits = self.fc(self.dropout(tf.reduce_mean(maps[4], (1, 2)), training=training))  # mirror: NHWC
        if self.AuxLogits is None:
            return logits
        return {"logits": logits, "aux": self.AuxLogits(maps[3], training=training)}


@keras.saving.register_keras_serializable("diptych")
class InceptionV3Criterion(ClassificationCriterion):
    """Cross-entropy of the logits, plus 0.4 of that of the auxiliary head; labels smoothed by 0.1.

    Args:
        label_smoothing, weight: see :class:`ClassificationCriterion`.
        auxiliary: weight of each auxiliary output by its key; ``{}`` for a model without the auxiliary head.
    """

    def __init__(self, label_smoothing: float = LABEL_SMOOTHING, weight=None, auxiliary=AUXILIARY, **kwargs):
        super().__init__(label_smoothing, weight, auxiliary, **kwargs)


def inception_v3(**options) -> InceptionV3:
    return InceptionV3(**options)
