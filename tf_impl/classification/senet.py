"""SENet: residual stages whose blocks end with squeeze and excitation; SE-ResNet, SE-ResNeXt and SENet-154.

"Squeeze-and-Excitation Networks", 2017, arXiv:1709.01507.
Parameter names: timm ``senet.py`` (Apache-2.0), as in the port of the authors' Caffe models.

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit, because "same" would pad one side only at stride 2.
- Keras infers the input width, so a block is told whether its shortcut needs a projection.
- Dropout follows the framework's own generator.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.backbone import Backbone
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.normalization import BatchNormalization, choose_norm
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.layers.squeeze_excite import SqueezeExcite
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "SEBasicBlock",
    "SEBottleneck",
    "SENet",
    "se_resnet18",
    "se_resnet34",
    "se_resnet50",
    "se_resnet101",
    "se_resnet152",
    "se_resnext26_32x4d",
    "se_resnext50_32x4d",
    "se_resnext101_32x4d",
    "senet154",
]

CONV = functools.partial(Conv2D, use_bias=False, kernel_initializer=KaimingNormal)

REDUCTION = 16  # width of the map divided by the inner width of its gate


@keras.saving.register_keras_serializable("diptych", "senet.Stem")
class Stem(keras.layers.Layer):
    """Convolutions with normalisation and ReLU: one 7x7, or several 3x3, the first with stride 2.

    Args:
        widths: of the convolutions.
        norm: makes a normalisation.
    """

    def __init__(self, widths: tuple[int, ...], norm, **kwargs):
        super().__init__(**kwargs)
        self.depth = len(widths)
        kernel = 7 if self.depth == 1 else 3
        for i, width in enumerate(widths, start=1):
            # mirror: padding is explicit
            setattr(self, f"conv{i}", CONV(width, kernel, strides=2 if i == 1 else 1, padding=kernel // 2))
            setattr(self, f"bn{i}", norm())

    def call(self, x, training=False):
        for i in range(1, self.depth + 1):
            x = tf.nn.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x), training=training))
        return x


def shortcut(filters: int, kernel_size: int, strides: int, norm):
    """Projection of the shortcut; a 3x3 one pads."""
    return keras.Sequential([CONV(filters, kernel_size, strides=strides, padding=kernel_size // 2), norm()])


@keras.saving.register_keras_serializable("diptych")
class SEBasicBlock(keras.layers.Layer):
    """Two 3x3 convolutions, each with ReLU, squeeze and excitation, and a shortcut.

    Args:
        planes: width of the convolutions.
        strides: of the first convolution.
        project: whether the shortcut has a projection.
        groups, base_width, doubled: only 1, 64 and False, see :class:`SENet`.
        stride_in_1x1: ignored here.
        norm: makes a normalisation.
        downsample_kernel: kernel size of the shortcut's projection.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), planes).
    """

    expansion = 1

    def __init__(
        self,
        planes: int,
        strides: int = 1,
        project: bool = False,
        groups: int = 1,
        base_width: int = 64,
        doubled: bool = False,
        stride_in_1x1: bool = False,
        norm=BatchNormalization,
        downsample_kernel: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if (groups, base_width, doubled) != (1, 64, False):
            raise ValueError(
                f"SEBasicBlock has groups=1, base_width=64 and doubled=False only; "
                f"groups={groups}, base_width={base_width}, doubled={doubled}"
            )
        self.conv1 = CONV(planes, 3, strides=strides, padding=1)
        self.bn1 = norm()
        self.conv2 = CONV(planes, 3, padding=1)
        self.bn2 = norm()
        self.se_module = SqueezeExcite(planes, planes // REDUCTION)
        self.downsample = shortcut(planes, downsample_kernel, strides, norm) if project else None

    def call(self, x, training=False):
        identity = x if self.downsample is None else self.downsample(x, training=training)
        y = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        y = tf.nn.relu(self.bn2(self.conv2(y), training=training))
        return tf.nn.relu(self.se_module(y) + identity)


@keras.saving.register_keras_serializable("diptych")
class SEBottleneck(keras.layers.Layer):
    """1x1 reduction, 3x3 (grouped), 1x1 expansion, squeeze and excitation, and a shortcut.

    Args:
        planes: nominal width of the block; the output has ``4 * planes``.
        strides: of the 3x3 convolution, or of the first 1x1.
        project: whether the shortcut has a projection.
        groups, base_width, doubled, stride_in_1x1: see :class:`SENet`.
        norm: makes a normalisation.
        downsample_kernel: kernel size of the shortcut's projection.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), 4 * planes).
    """

    expansion = 4

    def __init__(
        self,
        planes: int,
        strides: int = 1,
        project: bool = False,
        groups: int = 1,
        base_width: int = 64,
        doubled: bool = False,
        stride_in_1x1: bool = False,
        norm=BatchNormalization,
        downsample_kernel: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        filters = planes * self.expansion
        width1 = width2 = planes * base_width // 64 * groups
        if doubled:
            width1, width2 = 2 * planes, 4 * planes
        strides1, strides2 = (strides, 1) if stride_in_1x1 else (1, strides)
        self.conv1 = CONV(width1, 1, strides=strides1)
        self.bn1 = norm()
        self.conv2 = CONV(width2, 3, strides=strides2, padding=1, groups=groups)
        self.bn2 = norm()
        self.conv3 = CONV(filters, 1)
        self.bn3 = norm()
        self.se_module = SqueezeExcite(filters, filters // REDUCTION)
        self.downsample = shortcut(filters, downsample_kernel, strides, norm) if project else None

    def call(self, x, training=False):
        identity = x if self.downsample is None else self.downsample(x, training=training)
        y = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        y = tf.nn.relu(self.bn2(self.conv2(y), training=training))
        y = self.bn3(self.conv3(y), training=training)
        return tf.nn.relu(self.se_module(y) + identity)


@keras.saving.register_keras_serializable("diptych")
class SENet(Backbone):
    """Stem, four stages, linear classifier.

    Args:
        block: :class:`SEBasicBlock` or :class:`SEBottleneck`.
        layers: blocks of each stage.
        num_classes: classes K.
        in_chans: channels of the image.
        planes: nominal width of each stage.
        stem: width of the 7x7 convolution, or widths of several 3x3 ones.
        groups, base_width: the 3x3 convolution has ``planes * base_width // 64`` channels in each group.
        doubled: twice the nominal width before the grouped convolution, four times after it (SENet-154).
        stride_in_1x1: stride on the first 1x1 convolution (SE-ResNet) instead of the 3x3 one.
        downsample_kernel: kernel size of the shortcut's projection in the stages 2 to 4.
        dropout: rate before the classifier.
        norm: a callable that makes a normalisation, or "batch", "frozen" (fixed scale and shift) or "group" (32
            groups).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; 0 freezes the stem, k also stages 1 to k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the stages (1 to 4) ``forward_features`` returns.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K); with ``features_only`` a dict of the maps ``"c2"`` to ``"c5"`` (strides 4 to 32).
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        planes: tuple[int, ...] = (64, 128, 256, 512),
        stem: tuple[int, ...] = (64,),
        groups: int = 1,
        base_width: int = 64,
        doubled: bool = False,
        stride_in_1x1: bool = False,
        downsample_kernel: int = 1,
        dropout: float = 0.0,
        norm="batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        norm = choose_norm(norm)
        self.layer0 = Stem(tuple(stem), norm)
        # the windows start at the first pixel, and a last partial one counts, as in Caffe
        self.pool = MaxPooling2D(3, 2, ceil_mode=True)
        channels, widths = stem[-1], {}
        for i, (depth, width) in enumerate(zip(layers, planes, strict=True)):
            stride, kernel = (1, 1) if i == 0 else (2, downsample_kernel)
            blocks = []
            for _ in range(depth):
                project = stride != 1 or channels != width * block.expansion  # mirror: told whether
                blocks.append(block(width, stride, project, groups, base_width, doubled, stride_in_1x1, norm, kernel))
                channels, stride = width * block.expansion, 1
            setattr(self, f"layer{i + 1}", keras.Sequential(blocks))
            widths[f"c{i + 2}"] = channels
        self.known_channels = {f"c{i + 1}": widths[f"c{i + 1}"] for i in self.out_indices}
        if not features_only:
            self.dropout = keras.layers.Dropout(dropout)  # mirror: Dropout follows
            self.last_linear = Dense(num_classes)
        self.freeze(norm_eval, frozen_stages)

    def levels(self) -> list:
        return [[self.layer0], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x = self.layer0(images, training=training)
        x = self.pool(x)
        maps = {}
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=1):
            if i > max(self.out_indices):
                break
            x = stage(x, training=training)
            if i in self.out_indices:
                maps[f"c{i + 1}"] = x
        return maps

    def call(self, images, training=False):
        maps = self.forward_features(images, training)
        if self.features_only:
            return maps
        return self.last_linear(self.dropout(tf.reduce_mean(maps["c5"], (1, 2)), training=training))  # mirror: NHWC


def se_resnet18(layers=(2, 2, 2, 2), **options) -> SENet:
    return SENet(SEBasicBlock, layers=layers, **options)


def se_resnet34(layers=(3, 4, 6, 3), **options) -> SENet:
    return SENet(SEBasicBlock, layers=layers, **options)


def se_resnet50(layers=(3, 4, 6, 3), stride_in_1x1=True, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, stride_in_1x1=stride_in_1x1, **options)


def se_resnet101(layers=(3, 4, 23, 3), stride_in_1x1=True, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, stride_in_1x1=stride_in_1x1, **options)


def se_resnet152(layers=(3, 8, 36, 3), stride_in_1x1=True, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, stride_in_1x1=stride_in_1x1, **options)


def se_resnext26_32x4d(layers=(2, 2, 2, 2), groups=32, base_width=4, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, groups=groups, base_width=base_width, **options)


def se_resnext50_32x4d(layers=(3, 4, 6, 3), groups=32, base_width=4, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, groups=groups, base_width=base_width, **options)


def se_resnext101_32x4d(layers=(3, 4, 23, 3), groups=32, base_width=4, **options) -> SENet:
    return SENet(SEBottleneck, layers=layers, groups=groups, base_width=base_width, **options)


def senet154(**options) -> SENet:
    senet = {"stem": (64, 64, 128), "groups": 64, "doubled": True, "downsample_kernel": 3, "dropout": 0.2}
    return SENet(SEBottleneck, **{"layers": (3, 8, 36, 3), **senet, **options})
