"""ResNet: stages of residual blocks; also its wide, grouped (ResNeXt) and "bag of tricks" (-B, -C, -D) forms.

"Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385; "Wide Residual Networks", 2016,
arXiv:1605.07146; "Aggregated Residual Transformations for Deep Neural Networks", 2016, arXiv:1611.05431; "Bag of Tricks
for Image Classification with Convolutional Neural Networks", 2018, arXiv:1812.01187.
Parameter names: torchvision ``models/resnet.py`` (BSD-3); deep stem and average-pool shortcut: timm ``resnet.py``
(Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit, because "same" would pad one side only at stride 2.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.backbone import Backbone
from tf_impl.layers.context import ContextBlock
from tf_impl.layers.convolution import Conv2d
from tf_impl.layers.deform_conv import DeformConv2dPack, ModulatedDeformConv2dPack
from tf_impl.layers.generalized_attention import GeneralizedAttention
from tf_impl.layers.initialization import kaiming_normal
from tf_impl.layers.linear import Linear
from tf_impl.layers.normalization import BatchNorm2d, FrozenBatchNorm2d, GroupNorm
from tf_impl.layers.pooling import AvgPool2d, max_pool2d
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "ResNet",
    "resnet18",
    "resnet18d",
    "resnet34",
    "resnet34d",
    "resnet50",
    "resnet50_attention",
    "resnet50_dcn",
    "resnet50_gcb",
    "resnet50_gn",
    "resnet50c",
    "resnet50d",
    "resnet50s",
    "resnet101",
    "resnet101c",
    "resnet101d",
    "resnet101s",
    "resnet152",
    "resnet152c",
    "resnet152d",
    "resnet152s",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

NORMS = {
    "batch": BatchNorm2d,
    "frozen": FrozenBatchNorm2d,
    "group": functools.partial(GroupNorm, 32),
}
DEFORM = {"v1": DeformConv2dPack, "v2": ModulatedDeformConv2dPack}


def shortcut(in_channels: int, out_channels: int, stride: int, norm, avg_down: bool):
    """Projection of the shortcut: 1x1 convolution with the stride (-B), or an average pool before it (-D)."""
    if not avg_down:
        return keras.Sequential([Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels)])
    # a last odd row or column is kept, and averaged over what there is of it
    pool = keras.layers.Identity()
    if stride > 1:
        pool = AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    return keras.Sequential([pool, Conv2d(in_channels, out_channels, 1, bias=False), norm(out_channels)])


class BasicBlock(keras.layers.Layer):
    """Two 3x3 convolutions and a shortcut.

    Args:
        in_channels, planes: width of the input and of the convolutions; ``planes`` comes out.
        stride, first_dilation: of the first convolution.
        dilation: of the second convolution.
        groups, base_width: only 1 and 64, see :class:`Bottleneck`.
        norm: makes the normalisation of a number of channels.
        avg_down, stride_in_1x1: see :class:`ResNet`; the second means nothing here.

    x: (N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), planes).
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        first_dilation: int = 1,
        groups: int = 1,
        base_width: int = 64,
        norm=BatchNorm2d,
        avg_down: bool = False,
        stride_in_1x1: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if groups != 1 or base_width != 64:
            raise ValueError(
                f"BasicBlock has groups=1 and base_width=64 only; groups={groups}, base_width={base_width}"
            )
        self.conv1 = Conv2d(in_channels, planes, 3, stride, first_dilation, first_dilation, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = Conv2d(planes, planes, 3, 1, dilation, dilation, bias=False)
        self.bn2 = norm(planes)
        self.downsample = None
        if stride != 1 or in_channels != planes:
            self.downsample = shortcut(in_channels, planes, stride, norm, avg_down)

    def call(self, x, training=False):
        identity = x if self.downsample is None else self.downsample(x, training=training)
        y = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        y = self.bn2(self.conv2(y), training=training)
        return tf.nn.relu(y + identity)


class Bottleneck(keras.layers.Layer):
    """1x1 reduction, 3x3 (grouped), 1x1 expansion by four, and a shortcut.

    Args:
        in_channels, planes: width of the input and nominal width of the block; ``4 * planes`` comes out.
        stride, first_dilation: of the 3x3 convolution.
        dilation: not used; a :class:`BasicBlock` has a second 3x3 convolution.
        groups, base_width: the 3x3 convolution has ``planes * base_width // 64`` channels in each group.
        norm: makes the normalisation of a number of channels.
        avg_down, stride_in_1x1: see :class:`ResNet`.
        deform: makes a deformable convolution in place of the 3x3 one, or None.
        plugins: (name, position, layer of a number of channels); position is "after_conv1" or "after_conv2", behind the
            ReLU, or "after_conv3", before the shortcut is added. The layer becomes an attribute of that name.

    x: (N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), 4 * planes).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        first_dilation: int = 1,
        groups: int = 1,
        base_width: int = 64,
        norm=BatchNorm2d,
        avg_down: bool = False,
        stride_in_1x1: bool = False,
        deform=None,
        plugins: tuple[tuple, ...] = (),
        **kwargs,
    ):
        super().__init__(**kwargs)
        width, out_channels = int(planes * base_width / 64) * groups, planes * self.expansion
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)  # -A, Caffe; -B, torchvision
        self.conv1 = Conv2d(in_channels, width, 1, stride1, bias=False)
        self.bn1 = norm(width)
        conv3x3 = Conv2d if deform is None else deform
        self.conv2 = conv3x3(width, width, 3, stride2, first_dilation, first_dilation, groups, bias=False)
        self.bn2 = norm(width)
        self.conv3 = Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = shortcut(in_channels, out_channels, stride, norm, avg_down)
        self.plugins = [(name, position) for name, position, _ in plugins]
        for name, position, layer in plugins:
            setattr(self, name, layer(out_channels if position == "after_conv3" else width))

    def plugged(self, x, position: str):
        """The plugins of a position, one after the other."""
        for name, where in self.plugins:
            x = getattr(self, name)(x) if where == position else x
        return x

    def call(self, x, training=False):
        identity = x if self.downsample is None else self.downsample(x, training=training)
        y = self.plugged(tf.nn.relu(self.bn1(self.conv1(x), training=training)), "after_conv1")
        y = self.plugged(tf.nn.relu(self.bn2(self.conv2(y), training=training)), "after_conv2")
        y = self.plugged(self.bn3(self.conv3(y), training=training), "after_conv3")
        return tf.nn.relu(y + identity)


class ResNet(Backbone):
    """Stem, four stages, linear classifier.

    Args:
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        layers: blocks of each stage.
        num_classes: classes K.
        in_chans: channels of the image.
        planes: nominal width of each stage.
        groups, base_width: see :class:`Bottleneck`.
        deep_stem: widths of three 3x3 convolutions in place of the 7x7 one (-C); the last is also the pool's width.
        avg_down: average pool before the projection of the shortcut (-D).
        stride_in_1x1: stride on the first 1x1 convolution (-A) instead of the 3x3 one (-B).
        output_stride: 32, 16 or 8; strides beyond it become dilations.
        contract_dilation: a dilated stage's first block keeps the dilation of the stage before (torchvision, timm).
        norm: "batch", "frozen" (fixed scale and shift) or "group" (32 groups).
        norm_eps: added to the variance inside the root.
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; 0 freezes the stem, k also stages 1 to k: no gradient, running statistics.
        zero_init_residual: the last normalisation of each block starts with scale 0.
        deform: "v1" or "v2": deformable 3x3 convolutions, without and with a mask (arXiv:1703.06211, arXiv:1811.11168).
        deform_groups: groups of offsets of each.
        deform_stages: which of the four stages have them.
        plugins: dicts of ``"name"``, ``"position"``, ``"layer"``, see :class:`Bottleneck`, and ``"stages"``, which of
            the four have it (arXiv:1904.11492, for one).
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
        groups: int = 1,
        base_width: int = 64,
        deep_stem: tuple[int, int, int] | None = None,
        avg_down: bool = False,
        stride_in_1x1: bool = False,
        output_stride: int = 32,
        contract_dilation: bool = True,
        norm: str = "batch",
        norm_eps: float = 1e-5,
        norm_eval: bool = False,
        frozen_stages: int = -1,
        zero_init_residual: bool = False,
        deform: str | None = None,
        deform_groups: int = 1,
        deform_stages: tuple[bool, bool, bool, bool] = (False, True, True, True),
        plugins: tuple[dict, ...] = (),
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride={output_stride} must be 8, 16 or 32")
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} must be one of {sorted(NORMS)}")
        if deform not in (None, *DEFORM):
            raise ValueError(f"deform={deform!r} must be None or one of {sorted(DEFORM)}")
        if block is BasicBlock and (deform or plugins):
            raise ValueError("deform and plugins need a Bottleneck; BasicBlock has neither")
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        self.deep_stem = deep_stem is not None
        make_norm = functools.partial(NORMS[norm], eps=norm_eps)
        if deep_stem is None:
            channels = planes[0]
            self.conv1 = Conv2d(in_chans, channels, 7, 2, 3, bias=False)  # mirror: padding is explicit
        else:
            first, second, channels = deep_stem
            self.conv1 = keras.Sequential(
                [
                    Conv2d(in_chans, first, 3, 2, 1, bias=False),
                    make_norm(first),
                    keras.layers.ReLU(),
                    Conv2d(first, second, 3, 1, 1, bias=False),
                    make_norm(second),
                    keras.layers.ReLU(),
                    Conv2d(second, channels, 3, 1, 1, bias=False),
                ]
            )
        self.bn1 = make_norm(channels)
        reached, dilation = 4, 1
        for i, (depth, width) in enumerate(zip(layers, planes, strict=True)):
            stride, first_dilation = 1 if i == 0 else 2, dilation
            if reached * stride > output_stride:
                dilation, stride = dilation * stride, 1
            reached *= stride
            extras = {}
            if deform and deform_stages[i]:
                extras["deform"] = functools.partial(DEFORM[deform], deform_groups=deform_groups)
            chosen = [plugin for plugin in plugins if plugin["stages"][i]]
            if chosen:
                extras["plugins"] = tuple((plugin["name"], plugin["position"], plugin["layer"]) for plugin in chosen)
            blocks = []
            for j in range(depth):
                blocks.append(
                    block(
                        channels,
                        width,
                        stride if j == 0 else 1,
                        dilation,
                        first_dilation if j == 0 and contract_dilation else dilation,
                        groups,
                        base_width,
                        make_norm,
                        avg_down,
                        stride_in_1x1,
                        **extras,
                    )
                )
                channels = width * block.expansion
            setattr(self, f"layer{i + 1}", keras.Sequential(blocks))
        if not features_only:
            self.fc = Linear(channels, num_classes)
        kaiming_normal(self)
        if zero_init_residual:
            for layer in self._flatten_layers():
                if isinstance(layer, (BasicBlock, Bottleneck)):
                    (layer.bn2 if block is BasicBlock else layer.bn3).gamma_initializer = "zeros"
        self.freeze(norm_eval, frozen_stages)

    def levels(self) -> list:
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x = self.conv1(images, training=training) if self.deep_stem else self.conv1(images)
        x = tf.nn.relu(self.bn1(x, training=training))
        x = max_pool2d(x, 3, 2, 1)
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
        return maps if self.features_only else self.fc(tf.reduce_mean(maps["c5"], (1, 2)))  # mirror: NHWC


def resnet18(**options) -> ResNet:
    return ResNet(BasicBlock, **{"layers": (2, 2, 2, 2), **options})


def resnet34(**options) -> ResNet:
    return ResNet(BasicBlock, **{"layers": (3, 4, 6, 3), **options})


def resnet50(**options) -> ResNet:
    return ResNet(Bottleneck, **{"layers": (3, 4, 6, 3), **options})


def resnet101(**options) -> ResNet:
    return ResNet(Bottleneck, **{"layers": (3, 4, 23, 3), **options})


def resnet152(**options) -> ResNet:
    return ResNet(Bottleneck, **{"layers": (3, 8, 36, 3), **options})


def wide_resnet50_2(**options) -> ResNet:
    return resnet50(**{"base_width": 128, **options})


def wide_resnet101_2(**options) -> ResNet:
    return resnet101(**{"base_width": 128, **options})


def resnext50_32x4d(**options) -> ResNet:
    return resnet50(**{"groups": 32, "base_width": 4, **options})


def resnext101_32x8d(**options) -> ResNet:
    return resnet101(**{"groups": 32, "base_width": 8, **options})


def resnext101_64x4d(**options) -> ResNet:
    return resnet101(**{"groups": 64, "base_width": 4, **options})


def resnet18d(**options) -> ResNet:
    return resnet18(**{"deep_stem": (32, 32, 64), "avg_down": True, **options})


def resnet34d(**options) -> ResNet:
    return resnet34(**{"deep_stem": (32, 32, 64), "avg_down": True, **options})


def resnet50d(**options) -> ResNet:
    return resnet50(**{"deep_stem": (32, 32, 64), "avg_down": True, **options})


def resnet101d(**options) -> ResNet:
    return resnet101(**{"deep_stem": (32, 32, 64), "avg_down": True, **options})


def resnet152d(**options) -> ResNet:
    return resnet152(**{"deep_stem": (32, 32, 64), "avg_down": True, **options})


def resnet50c(**options) -> ResNet:
    return resnet50(**{"deep_stem": (32, 32, 64), **options})


def resnet101c(**options) -> ResNet:
    return resnet101(**{"deep_stem": (32, 32, 64), **options})


def resnet152c(**options) -> ResNet:
    return resnet152(**{"deep_stem": (32, 32, 64), **options})


def resnet50s(**options) -> ResNet:
    return resnet50(**{"deep_stem": (64, 64, 128), **options})


def resnet101s(**options) -> ResNet:
    return resnet101(**{"deep_stem": (64, 64, 128), **options})


def resnet152s(**options) -> ResNet:
    return resnet152(**{"deep_stem": (64, 64, 128), **options})


def resnet50_gn(**options) -> ResNet:
    return resnet50(**{"norm": "group", **options})


def resnet50_dcn(**options) -> ResNet:
    """With modulated deformable convolutions in stages 2 to 4 (arXiv:1811.11168, table 1)."""
    return resnet50(**{"deform": "v2", **options})


def resnet50_gcb(ratio: float = 1 / 16, **options) -> ResNet:
    """With global context blocks in stages 2 to 4, before the shortcut is added (arXiv:1904.11492, section 4.1)."""
    plugin = {
        "name": "context_block",
        "position": "after_conv3",
        "layer": functools.partial(ContextBlock, ratio=ratio),
        "stages": (False, True, True, True),
    }
    return resnet50(**{"plugins": (plugin,), **options})


def resnet50_attention(attention_type: str = "1111", num_heads: int = 8, **options) -> ResNet:
    """With generalised attention behind the 3x3 convolutions of stages 3 and 4 (arXiv:1904.05873, section 4.2)."""
    plugin = {
        "name": "gen_attention_block",
        "position": "after_conv2",
        "layer": functools.partial(GeneralizedAttention, num_heads=num_heads, attention_type=attention_type),
        "stages": (False, False, True, True),
    }
    return resnet50(**{"plugins": (plugin,), **options})
