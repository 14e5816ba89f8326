"""A residual trunk whose convolutions are all of one kind, and whose normalisations have a special name.

Names: mmdet ``backbones/resnet.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input width, so a block is told whether its shortcut needs a projection.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.classification.resnet import CONV
from tf_impl.layers.backbone import Backbone
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.normalization import choose_norm
from tf_impl.layers.pooling import MaxPooling2D

__all__ = ["ConvBottleneck", "ConvResNet"]


@keras.saving.register_keras_serializable("diptych")
class ConvBottleneck(keras.layers.Layer):
    """1x1 reduction, 3x3 (grouped), 1x1 expansion by four, and a shortcut.

    Args:
        planes: nominal width of the block; the output has ``4 * planes``.
        strides: of the 3x3 convolution.
        project: whether the shortcut has a projection.
        groups, base_width: the 3x3 convolution has ``planes * base_width // 64`` channels in each group.
        conv, conv2: make all convolutions, and the 3x3 one.
        norm: makes a normalisation.
        norm_name: prefix of the normalisations' names, before their number.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), 4 * planes).
    """

    expansion = 4

    def __init__(
        self,
        planes: int,
        strides: int,
        project: bool,
        groups: int,
        base_width: int,
        conv,
        conv2,
        norm,
        norm_name: str,
        **kwargs,
    ):
        super().__init__(**kwargs)
        width, filters = int(planes * base_width / 64) * groups, planes * self.expansion
        conv, conv2 = (
            functools.partial(make, use_bias=False, kernel_initializer=KaimingNormal) for make in (conv, conv2)
        )
        self.norm_name = norm_name
        self.conv1 = conv(width, 1)
        setattr(self, f"{norm_name}1", norm())
        self.conv2 = conv2(width, 3, strides=strides, padding=1, groups=groups)
        setattr(self, f"{norm_name}2", norm())
        self.conv3 = conv(filters, 1)
        setattr(self, f"{norm_name}3", norm())
        self.downsample = None
        if project:  # mirror: told whether
            self.downsample = keras.Sequential([conv(filters, 1, strides=strides), norm()])

    def normalized(self, index: int, x, training=False):
        """The result of a convolution, normalised."""
        return getattr(self, f"{self.norm_name}{index}")(getattr(self, f"conv{index}")(x), training=training)

    def residual(self, x, training=False):
        """The input of the last ReLU."""
        identity = x if self.downsample is None else self.downsample(x, training=training)
        y = tf.nn.relu(self.normalized(1, x, training))
        y = tf.nn.relu(self.normalized(2, y, training))
        return self.normalized(3, y, training) + identity

    def call(self, x, training=False):
        return tf.nn.relu(self.residual(x, training))


@keras.saving.register_keras_serializable("diptych")
class ConvResNet(Backbone):
    """Stem and four stages of :class:`ConvBottleneck`.

    Args:
        layers: blocks of each stage.
        planes: nominal width of each stage.
        groups, base_width, conv, norm_name: of the blocks; ``conv`` also of the stem.
        norm: see :class:`ResNet`.
        conv2: makes the 3x3 convolutions of stages 2 to 4; None for ``conv``.
        norm_eval, frozen_stages: see :class:`ResNet`.

    Inputs: (N, H, W, 3) float.
    Returns: dict of the maps ``"c2"`` to ``"c5"`` (strides 4 to 32).
    """

    block = ConvBottleneck

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        groups: int = 1,
        base_width: int = 64,
        conv=CONV,
        conv2=None,
        norm="batch",
        norm_name: str = "bn",
        norm_eval: bool = True,
        frozen_stages: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.norm_name, norm = norm_name, choose_norm(norm)
        self.conv1 = conv(planes[0], 7, strides=2, padding=3, use_bias=False, kernel_initializer=KaimingNormal)
        setattr(self, f"{norm_name}1", norm())
        self.maxpool = MaxPooling2D(3, 2, padding=1)
        channels, self.known_channels = planes[0], {}
        for i, (depth, width) in enumerate(zip(layers, planes, strict=True)):
            options = groups, base_width, conv, conv if i == 0 or conv2 is None else conv2, norm, norm_name
            blocks = []
            for j in range(depth):
                strides = 2 if i > 0 and j == 0 else 1
                project = strides != 1 or channels != width * self.block.expansion
                blocks.append(self.block(width, strides, project, *options))
                channels = width * self.block.expansion
            setattr(self, f"layer{i + 1}", keras.Sequential(blocks))
            self.known_channels[f"c{i + 2}"] = channels
        self.freeze(norm_eval, frozen_stages)

    def levels(self) -> list:
        stem = [self.conv1, getattr(self, f"{self.norm_name}1")]
        return [stem, [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def forward_stem(self, images, training=False):
        """(N, H, W, 3) -> (N, ceil(H / 4), ceil(W / 4), C)."""
        x = getattr(self, f"{self.norm_name}1")(self.conv1(images), training=training)
        return self.maxpool(tf.nn.relu(x))

    def forward_features(self, images, training=False) -> dict:
        x, maps = self.forward_stem(images, training), {}
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=2):
            x = maps[f"c{i}"] = stage(x, training=training)
        return maps

    def call(self, images, training=False):
        return self.forward_features(images, training)
