"""HRNet: parallel branches of high to low resolution that exchange their maps repeatedly; the classifier.

"Deep High-Resolution Representation Learning for Visual Recognition", 2019, arXiv:1908.07919; pose estimation:
arXiv:1902.09212.
Parameter names: the authors' ``lib/models/cls_hrnet.py`` (MIT), the same as in timm ``hrnet.py`` (Apache-2.0); heads:
``pose_hrnet.py`` and ``seg_hrnet.py`` (MIT).

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit, because "same" would pad one side only at stride 2.
- Keras infers the input width, so a block is told whether its shortcut needs a projection.
- Dropout follows the framework's own generator.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.classification.resnet import BasicBlock, Bottleneck
from tf_impl.layers.backbone import Backbone
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.normalization import choose_norm
from tf_impl.layers.resize import map_size, resize_bilinear, resize_nearest
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "HRNet",
    "HRNetModule",
    "hrnet_w18",
    "hrnet_w18_small_v2",
    "hrnet_w30",
    "hrnet_w32",
    "hrnet_w40",
    "hrnet_w44",
    "hrnet_w48",
    "hrnet_w64",
]

CONV = functools.partial(Conv2D, use_bias=False, kernel_initializer=KaimingNormal, bias_initializer="zeros")

UPSAMPLE = {
    "nearest": resize_nearest,
    "bilinear": resize_bilinear,
    "bilinear_corners": functools.partial(resize_bilinear, align_corners=True),
}
HEADS = ("classification", "pose", "segmentation")


def conv_bn(filters: int, norm, kernel_size=3, strides=2, use_bias=False, relu=True):
    """Convolution that keeps the size at stride 1, normalisation, and optionally ReLU."""
    conv = CONV(filters, kernel_size, strides=strides, padding=kernel_size // 2, use_bias=use_bias)
    return keras.Sequential([conv, norm(), *([keras.layers.ReLU()] if relu else [])])


def blocks(block, depth: int, planes: int, norm, project: bool = False):
    """A sequence of residual blocks at stride 1; the first may have a projection."""
    return keras.Sequential([block(planes, project=project and i == 0, norm=norm) for i in range(depth)])


@keras.saving.register_keras_serializable("diptych")
class HRNetModule(keras.layers.Layer):
    """Residual blocks in every branch, then every output is the sum of all branches at its resolution (figure 4).

    Args:
        channels: widths of the branches, from the highest resolution to the lowest.
        depth: blocks of each branch.
        norm: makes a normalisation.
        upsample: resizes a map to a given size.
        outputs: number of branches that are returned, from the highest resolution.

    Inputs: list of (N, H / 2^i, W / 2^i, channels[i]).  Returns: the first ``outputs`` of the same shapes.
    """

    def __init__(self, channels: tuple[int, ...], depth: int, norm, upsample, outputs: int, **kwargs):
        super().__init__(**kwargs)
        self.upsample = upsample
        self.branches = [blocks(BasicBlock, depth, width, norm) for width in channels]
        rows = []
        for i in range(outputs):
            row = []
            for j, width in enumerate(channels):
                if j > i:
                    row.append(conv_bn(channels[i], norm, 1, 1, relu=False))
                elif j == i:
                    row.append(keras.layers.Identity())
                else:
                    steps = [conv_bn(width, norm) for _ in range(i - j - 1)]
                    row.append(keras.Sequential([*steps, conv_bn(channels[i], norm, relu=False)]))
            rows.append(row)
        self.fuse_layers = rows

    def call(self, maps, training=False):
        maps = [branch(x, training=training) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for i, row in enumerate(self.fuse_layers):
            total = None
            for j, layer in enumerate(row):
                x = layer(maps[j], training=training)
                if j > i:
                    x = self.upsample(x, map_size(maps[i]))
                total = x if total is None else total + x
            fused.append(tf.nn.relu(total))
        return fused


@keras.saving.register_keras_serializable("diptych")
class HRNet(Backbone):
    """Stem, a stage of bottlenecks, three stages of parallel branches, and a head.

    Args:
        channels: width C of the branch with the highest resolution; the others have 2 C, 4 C and 8 C.
        modules: exchanges in the stages 2 to 4.
        depth: blocks in each branch of each exchange.
        stage1: number and nominal width of the bottlenecks of stage 1.
        num_classes: classes, or joints, K.
        in_chans: channels of the image.
        head: "classification": the branches are widened, added from high to low resolution, and averaged; "pose": a 1x1
            convolution of the highest resolution; "segmentation": two of all branches at the highest resolution.
        head_planes: nominal widths of the bottlenecks of the classification head.
        fuse_upsample: "nearest" (classification, pose), "bilinear", or "bilinear_corners", with aligned corner centres.
        dropout: rate before the classifier.
        norm: a callable that makes a normalisation, or "batch", "frozen" (fixed scale and shift) or "group" (32
            groups).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; 0 freezes the stem, k also stages 1 to k: no gradient, running statistics.
        features_only: no head; return the branches.
        out_indices: which of the branches (1 to 4) ``forward_features`` returns.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K), or maps (N, H / 4, W / 4, K) of the other two heads; with ``features_only`` a dict of the
        maps ``"c2"`` to ``"c5"`` (strides 4 to 32).
    """

    def __init__(
        self,
        channels: int,
        modules: tuple[int, int, int] = (1, 4, 3),
        depth: int = 4,
        stage1: tuple[int, int] = (4, 64),
        num_classes: int = 1000,
        in_chans: int = 3,
        head: str = "classification",
        head_planes: tuple[int, int, int, int] = (32, 64, 128, 256),
        fuse_upsample: str = "nearest",
        dropout: float = 0.0,
        norm="batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if head not in HEADS:
            raise ValueError(f"head={head!r} must be one of {HEADS}")
        if fuse_upsample not in UPSAMPLE:
            raise ValueError(f"fuse_upsample={fuse_upsample!r} must be one of {sorted(UPSAMPLE)}")
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        self.out_indices, self.upsample = tuple(out_indices), UPSAMPLE[fuse_upsample]
        self.head = None if features_only else head
        norm = choose_norm(norm)
        self.conv1 = CONV(64, 3, strides=2, padding=1)  # mirror: padding is explicit
        self.bn1 = norm()
        self.conv2 = CONV(64, 3, strides=2, padding=1)
        self.bn2 = norm()
        self.layer1 = blocks(Bottleneck, stage1[0], stage1[1], norm, project=stage1[1] * Bottleneck.expansion != 64)
        widths = (stage1[1] * Bottleneck.expansion,)
        for i, count in enumerate(modules, start=1):
            before, widths = widths, tuple(channels * 2**j for j in range(i + 1))
            transition = []
            for j, width in enumerate(widths):
                if j == len(before):
                    transition.append(keras.Sequential([conv_bn(width, norm)]))
                else:
                    unchanged = width == before[j]
                    transition.append(keras.layers.Identity() if unchanged else conv_bn(width, norm, strides=1))
            setattr(self, f"transition{i}", transition)
            stage = []
            for j in range(count):
                last = i == 3 and j == count - 1 and self.head == "pose"
                stage.append(HRNetModule(widths, depth, norm, self.upsample, 1 if last else len(widths)))
            setattr(self, f"stage{i + 1}", stage)
        if self.head == "classification":
            self.incre_modules = [
                blocks(
                    Bottleneck, 1, planes, norm, project=planes * Bottleneck.expansion != width
                )  # mirror: told whether
                for width, planes in zip(widths, head_planes, strict=True)
            ]
            ends = [planes * Bottleneck.expansion for planes in head_planes]
            self.downsamp_modules = [conv_bn(ends[i + 1], norm, use_bias=True) for i in range(3)]
            self.final_layer = conv_bn(2 * ends[-1], norm, 1, 1, use_bias=True)
            self.dropout = keras.layers.Dropout(dropout)  # mirror: Dropout follows
            self.classifier = Dense(num_classes)
        elif self.head == "pose":
            self.final_layer = CONV(num_classes, 1, use_bias=True)
        elif self.head == "segmentation":
            joined = conv_bn(sum(widths), norm, 1, 1, use_bias=True)
            self.last_layer = keras.Sequential([*joined.layers, CONV(num_classes, 1, use_bias=True)])
        self.known_channels = {f"c{i + 1}": widths[i - 1] for i in self.out_indices}
        self.freeze(norm_eval, frozen_stages)

    def levels(self) -> list:
        levels = [[self.conv1, self.bn1, self.conv2, self.bn2], [self.layer1]]
        for i in (1, 2, 3):
            levels.append([*getattr(self, f"transition{i}"), *getattr(self, f"stage{i + 1}")])
        return levels

    def branches(self, images, training=False) -> list:
        """The maps of all branches after the last exchange, from an image batch."""
        x = tf.nn.relu(self.bn1(self.conv1(images), training=training))
        x = tf.nn.relu(self.bn2(self.conv2(x), training=training))
        maps = [self.layer1(x, training=training)]
        for i in (1, 2, 3):
            before = maps
            # a new branch starts from the lowest resolution
            maps = [
                layer(before[min(j, len(before) - 1)], training=training)
                for j, layer in enumerate(getattr(self, f"transition{i}"))
            ]
            for module in getattr(self, f"stage{i + 1}"):
                maps = module(maps, training=training)
        return maps

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        maps = self.branches(images, training)
        return {f"c{i + 1}": maps[i - 1] for i in self.out_indices}

    def call(self, images, training=False):
        if self.head is None:
            return self.forward_features(images, training)
        maps = self.branches(images, training)
        if self.head == "pose":
            return self.final_layer(maps[0])
        if self.head == "segmentation":
            size = map_size(maps[0])
            joined = tf.concat([maps[0], *(self.upsample(x, size) for x in maps[1:])], -1)
            return self.last_layer(joined, training=training)
        x = self.incre_modules[0](maps[0], training=training)
        for i, down in enumerate(self.downsamp_modules, start=1):
            x = self.incre_modules[i](maps[i], training=training) + down(x, training=training)
        x = tf.reduce_mean(self.final_layer(x, training=training), (1, 2))  # mirror: NHWC
        return self.classifier(self.dropout(x, training=training))


def hrnet_w18(channels=18, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w18_small_v2(channels=18, modules=(1, 3, 2), depth=2, stage1=(2, 64), **options) -> HRNet:
    return HRNet(channels=channels, modules=modules, depth=depth, stage1=stage1, **options)


def hrnet_w30(channels=30, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w32(channels=32, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w40(channels=40, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w44(channels=44, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w48(channels=48, **options) -> HRNet:
    return HRNet(channels=channels, **options)


def hrnet_w64(channels=64, **options) -> HRNet:
    return HRNet(channels=channels, **options)
