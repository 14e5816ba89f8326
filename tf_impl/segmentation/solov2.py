"""SOLOv2: every cell of a grid predicts a kernel, whose convolution with shared maps is its mask.

"SOLOv2: Dynamic and Fast Instance Segmentation", 2020, arXiv:2003.10152. Parameter names: mmdet
``dense_heads/solov2_head.py`` (Apache-2.0). What to look at: a convolution whose kernels are outputs is one matrix
product.

Mirror notes:
- NHWC here, NCHW in PyTorch; the shared maps are transposed before the product.
"""

import keras
import tensorflow as tf

from tf_impl.classification.resnet import CONV, DEFORM, BasicBlock
from tf_impl.detection.faster_rcnn import pyramid_backbone
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.layers.rows import map_rows, take_rows
from tf_impl.losses.dice import squared_dice
from tf_impl.necks.fpn import FPN
from tf_impl.segmentation._instances import LEVELS, MaskDetector, coordinates, strided_masks
from tf_impl.segmentation.solo import (
    GRIDS,
    PRIOR_BIAS,
    SOLOCriterion,
    SOLOPostProcess,
    even_levels,
    flat,
    upper_left_peaks,
)

__all__ = [
    "MaskFeatures",
    "SOLOv2Criterion",
    "SOLOv2Head",
    "SOLOv2PostProcess",
    "solov2_light_criterion",
    "solov2_light_r18_fpn",
    "solov2_light_r34_fpn",
    "solov2_light_r50_dcn_fpn",
    "solov2_light_r50_fpn",
    "solov2_r50_fpn",
    "solov2_r101_dcn_fpn",
    "solov2_r101_fpn",
    "solov2_x101_dcn_fpn",
]

LIGHT_RANGES = ((1, 56), (28, 112), (56, 224), (112, 448), (224, 896))
STRIDE = 4  # of the masks


def _deformable(filters: int, kernel_size: int, bias_initializer, **options):
    return DEFORM["v2"](filters, kernel_size, **options)  # its bias always starts as zero


def norm_conv(filters: int, kernel_size: int, norm_groups: int, deform: bool) -> ConvModule:
    """A convolution that keeps the size, optionally deformable, and group normalisation."""
    options = {"conv": _deformable} if deform else {"kernel_initializer": SmallNormal}
    return ConvModule(filters, kernel_size, padding=kernel_size // 2, norm="group", norm_groups=norm_groups, **options)


@keras.saving.register_keras_serializable("diptych")
class Enlarged(keras.layers.Layer):
    """Convolutions ``conv0`` ... of a level, each except the finest level's followed by an upsampling by two.

    Args:
        filters: channels of the convolutions.
        doublings: how often the size is doubled.
        norm_groups: groups of the normalisation.
        deform: whether the convolutions are deformable.
    """

    def __init__(self, filters: int, doublings: int, norm_groups: int, deform: bool, **kwargs):
        super().__init__(**kwargs)
        self.doublings = doublings
        for i in range(max(doublings, 1)):
            setattr(self, f"conv{i}", norm_conv(filters, 3, norm_groups, deform))

    def call(self, x, training=False):
        for i in range(max(self.doublings, 1)):
            x = getattr(self, f"conv{i}")(x, training=training)
            if self.doublings:
                height, width = map_size(x)
                x = resize_bilinear(x, (2 * height, 2 * width))
        return x


@keras.saving.register_keras_serializable("diptych")
class MaskFeatures(keras.layers.Layer):
    """The sum of P2 to P5 at the size of P2, P5 with its coordinates, and a 1x1 convolution.

    Args:
        mid_filters: channels of the convolutions before the sum.
        filters: channels of the result.
        norm_groups: groups of the normalisations.
        deform: whether the convolutions are deformable.

    x: list of levels (N, H_i, W_i, C) -> (N, H_0, W_0, filters).
    """

    def __init__(self, mid_filters: int, filters: int, norm_groups: int = 32, deform: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.convs_all_levels = [Enlarged(mid_filters, i, norm_groups, deform) for i in range(4)]
        self.conv_pred = norm_conv(filters, 1, norm_groups, deform)

    def call(self, levels, training=False):
        *levels, last = levels
        levels = [*levels, tf.concat([last, coordinates(last)], -1)]
        total = sum(convs(x, training=training) for convs, x in zip(self.convs_all_levels, levels))
        return self.conv_pred(total, training=training)


@keras.saving.register_keras_serializable("diptych")
class SOLOv2Head(keras.layers.Layer):
    """Towers for the kernels and the classes of the grid's cells, and the maps that the kernels are applied to.

    Args:
        num_classes: classes K.
        channels: channels of the towers.
        num_convs: convolutions of each tower.
        num_grids: cells S per axis of the grid of every level.
        mask_channels: channels of the maps before their sum.
        mask_out_channels: channels E of the shared maps and length of the kernels.
        norm_groups: groups of the normalisation after each convolution.
        deform: which convolutions are deformable: "none", "last", of the towers, or "all".

    Inputs: dict of levels P2 to P6, (N, H, W, C).
    Returns: dict: ``"kernel_p2"`` ... (N, S, S, E), ``"cls_p2"`` ... (N, S, S, K) logits, ``"mask_features"``
        (N, H / 4, W / 4, E). The mask of a cell is the sigmoid of the product of its kernel with every position.
    Raises: ValueError if ``deform`` is unknown.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 512,
        num_convs: int = 4,
        num_grids: tuple[int, ...] = GRIDS,
        mask_channels: int = 128,
        mask_out_channels: int = 256,
        norm_groups: int = 32,
        deform: str = "none",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if deform not in ("none", "last", "all"):
            raise ValueError(f"deform={deform!r} must be 'none', 'last' or 'all'")
        self.num_grids = tuple(num_grids)
        for name in ("cls_convs", "kernel_convs"):
            chosen = [deform == "all" or (deform == "last" and i == num_convs - 1) for i in range(num_convs)]
            convs = [norm_conv(channels, 3, norm_groups, each) for each in chosen]
            setattr(self, name, convs)
        bias = keras.initializers.Constant(PRIOR_BIAS)
        self.conv_cls = Conv2D(num_classes, 3, padding=1, kernel_initializer=SmallNormal(), bias_initializer=bias)
        self.conv_kernel = Conv2D(
            mask_out_channels, 3, padding=1, kernel_initializer=SmallNormal(), bias_initializer="zeros"
        )
        self.mask_feature_head = MaskFeatures(mask_channels, mask_out_channels, norm_groups, deform == "all")

    def call(self, maps, training=False):
        found = {}
        for name, x, grid in zip(maps, even_levels(maps), self.num_grids):
            x = resize_bilinear(tf.concat([x, coordinates(x)], -1), (grid, grid))
            y = x[..., :-2]
            for conv in self.kernel_convs:
                x = conv(x, training=training)
            for conv in self.cls_convs:
                y = conv(y, training=training)
            found |= {f"kernel_{name}": self.conv_kernel(x), f"cls_{name}": self.conv_cls(y)}
        return {**found, "mask_features": self.mask_feature_head(list(maps.values())[:4], training=training)}


def masks_of_kernels(outputs, levels, cells):
    """Masks of cells (N, Q), counted through all levels, flat: (N, Q, h w)."""
    kernels = tf.concat([map_rows(outputs[f"kernel_{level}"]) for level in levels], 1)
    return tf.sigmoid(take_rows(kernels, cells) @ flat(outputs["mask_features"]))


@keras.saving.register_keras_serializable("diptych")
class SOLOv2Criterion(SOLOCriterion):
    """The losses of :class:`SOLOCriterion`; a cell that several objects claim learns the masks of all of them.

    Args, inputs, returns: as there.
    """

    def counted(self, owner, row, column, slots):
        return tf.ones_like(tf.reshape(row, (-1, slots.shape[0], 9)), tf.bool)

    def dice(self, outputs, level, row, column, masks, factor):
        grid = outputs[f"cls_{level}"].shape[1]
        found = masks_of_kernels(outputs, [level], row * grid + column)
        slots, places = masks.shape[1], found.shape[2]
        wanted = tf.reshape(strided_masks(masks, STRIDE), (-1, slots, 1, places))
        return squared_dice(tf.reshape(found, (-1, slots, 9, places)), wanted)


def solov2_light_criterion(**options) -> SOLOv2Criterion:
    """The losses with the ranges of the light variant."""
    return SOLOv2Criterion(**{"ranges": LIGHT_RANGES, **options})


@keras.saving.register_keras_serializable("diptych")
class SOLOv2PostProcess(SOLOPostProcess):
    """See :class:`SOLOPostProcess`.

    Args, inputs, returns: as there.
    """

    def judged(self, outputs):
        found = {key: upper_left_peaks(tf.sigmoid(x)) if key.startswith("cls") else x for key, x in outputs.items()}
        return found, map_size(outputs["mask_features"])

    def masks_of(self, found, cells, grids):
        return masks_of_kernels(found, LEVELS, cells)


def solov2_r50_fpn(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    channels: int = 512,
    num_convs: int = 4,
    num_grids: tuple[int, ...] = GRIDS,
    mask_channels: int = 128,
    mask_out_channels: int = 256,
    norm_groups: int = 32,
    deform: str = "none",
    **options,
) -> MaskDetector:
    conv = CONV if deform == "none" else (CONV, *(DEFORM["v2"],) * 3)
    backbone = pyramid_backbone(layers=layers, conv=conv, **options)
    masks = mask_channels, mask_out_channels
    head = SOLOv2Head(num_classes, channels, num_convs, num_grids, *masks, norm_groups, deform)
    return MaskDetector(backbone, FPN(backbone.channels, out_channels), head)


def solov2_r101_fpn(layers=(3, 4, 23, 3), **options) -> MaskDetector:
    return solov2_r50_fpn(layers=layers, **options)


def solov2_r101_dcn_fpn(deform: str = "all", **options) -> MaskDetector:
    return solov2_r101_fpn(deform=deform, **options)


def solov2_x101_dcn_fpn(groups: int = 64, base_width: int = 4, **options) -> MaskDetector:
    return solov2_r101_dcn_fpn(groups=groups, base_width=base_width, **options)


def solov2_light_r50_fpn(
    channels: int = 256, num_convs: int = 2, mask_out_channels: int = 128, **options
) -> MaskDetector:
    return solov2_r50_fpn(channels=channels, num_convs=num_convs, mask_out_channels=mask_out_channels, **options)


def solov2_light_r50_dcn_fpn(num_convs: int = 3, deform: str = "last", **options) -> MaskDetector:
    return solov2_light_r50_fpn(num_convs=num_convs, deform=deform, **options)


def solov2_light_r18_fpn(block=BasicBlock, layers=(2, 2, 2, 2), **options) -> MaskDetector:
    return solov2_light_r50_fpn(block=block, layers=layers, **options)


def solov2_light_r34_fpn(block=BasicBlock, layers=(3, 4, 6, 3), **options) -> MaskDetector:
    return solov2_light_r50_fpn(block=block, layers=layers, **options)
