"""SiamRPN++: SiamRPN with a deep network and a head for each of three depths.

"SiamRPN++: Evolution of Siamese Visual Tracking with Very Deep Networks", 2018, arXiv:1812.11703. Parameter names and
numbers: STVIR/pysot ``models/backbone/resnet_atrous.py``, ``mobile_v2.py``, ``models/neck/neck.py``,
``models/head/rpn.py`` (Apache-2.0). What to look at: only the middle of the template's map is kept, so that padding
does not reveal where the object is.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D, DepthwiseConv2D
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.tracking._siamese import CONV, AtrousResNet, SiamRPNCriterion
from tf_impl.tracking.siamrpn import DepthwiseRPN

__all__ = [
    "AtrousMobileNetV2",
    "InvertedResidual",
    "MobileSiamRPNPP",
    "MultiRPN",
    "SiamRPNCriterion",
    "SiamRPNPP",
    "siamrpn_mobilev2_l234_dwxcorr",
    "siamrpn_r50_l234_dwxcorr",
    "siamrpn_r50_l234_dwxcorr_lt",
    "siamrpn_r50_l234_dwxcorr_otb",
]

SMALL, KEPT = 20, 7  # a map narrower than the first is cut to the second, around its middle
# expansion, channels, blocks, stride and dilation of the stages of MobileNetV2, and those whose maps are used
MOBILE = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 1),
    (6, 64, 4, 1, 2),
    (6, 96, 3, 1, 2),
    (6, 160, 3, 1, 4),
    (6, 320, 1, 1, 4),
)
USED = (3, 5, 7)


@keras.saving.register_keras_serializable("diptych")
class AdjustLayer(keras.layers.Layer):
    """A 1x1 convolution with normalisation; small maps are cropped to their middle.

    Args:
        filters: of the result.

    x: (N, H, W, C) -> (N, H, W, filters), or (N, 7, 7, filters).
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.downsample = keras.Sequential([CONV(filters, 1), BatchNormalization()])

    def call(self, x, training=False):
        x = self.downsample(x, training=training)
        if x.shape[2] < SMALL:
            first = (x.shape[2] - KEPT) // 2
            x = x[:, first : first + KEPT, first : first + KEPT]
        return x


@keras.saving.register_keras_serializable("diptych")
class AdjustAllLayer(keras.layers.Layer):
    """One :class:`AdjustLayer` for every map.

    Args:
        channels: of the results.

    maps: dict of maps -> the same, coarser ones last.
    """

    def __init__(self, channels: tuple[int, ...], **kwargs):
        super().__init__(**kwargs)
        for i, filters in enumerate(channels, start=2):
            setattr(self, f"downsample{i}", AdjustLayer(filters))  # mirror: infers

    def call(self, maps, training=False):
        pairs = enumerate(maps.items(), start=2)
        return {name: getattr(self, f"downsample{i}")(x, training=training) for i, (name, x) in pairs}


@keras.saving.register_keras_serializable("diptych")
class MultiRPN(keras.layers.Layer):
    """A head for every map, and the mean of their outputs.

    Args:
        channels: of the maps.
        weighted: whether the mean has learnt weights.

    templates, searches: dicts of maps -> dict: ``"cls"``, ``"loc"``.
    """

    def __init__(self, channels: tuple[int, ...], weighted: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.weighted = weighted
        if weighted:
            for name in ("cls_weight", "loc_weight"):
                setattr(self, name, self.add_weight(name=name, shape=(len(channels),), initializer="ones"))
        for i, width in enumerate(channels, start=2):
            setattr(self, f"rpn{i}", DepthwiseRPN(width))

    def mean(self, answers, weight):
        """Mean of the heads' outputs."""
        if weight is None:
            return sum(answers) / len(answers)
        shares = tf.unstack(tf.nn.softmax(tf.convert_to_tensor(weight)))
        return sum(share * answer for share, answer in zip(shares, answers, strict=True))

    def call(self, templates, searches, training=False):
        pairs = zip(templates.values(), searches.values(), strict=True)
        answers = [getattr(self, f"rpn{i}")(*pair, training=training) for i, pair in enumerate(pairs, start=2)]
        weights = {key: getattr(self, f"{key}_weight") if self.weighted else None for key in ("cls", "loc")}
        return {key: self.mean([answer[key] for answer in answers], weight) for key, weight in weights.items()}


@keras.saving.register_keras_serializable("diptych")
class SiamRPNPP(Model):
    """The tracker's network.

    Args:
        layers, planes: of the trunk.
        channels: of the three maps that are correlated.
        weighted: whether the heads' mean has learnt weights.

    Inputs: ``template`` (N, 127, 127, 3), ``search`` (N, H, W, 3) float, BGR in 0 to 255.
    Returns: dict: ``"cls"`` (N, H', W', 2 A), logits, classes (none, object) first, then anchors; ``"loc"``
        (N, H', W', 4 A), coordinates of the box first, then anchors.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        channels: tuple[int, ...] = (256, 256, 256),
        weighted: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.backbone = AtrousResNet(layers, planes)
        self.neck = AdjustAllLayer(channels)
        self.rpn_head = MultiRPN(channels, weighted)

    def template(self, template, training=False):
        """The maps of the object in the first frame."""
        return self.neck(self.backbone(template, training=training), training=training)

    def track(self, template, search, training=False):
        """The heads' predictions for a later frame."""
        return self.rpn_head(template, self.template(search, training), training=training)

    def call(self, template, search, training=False):
        return self.track(self.template(template, training), search, training)


@keras.saving.register_keras_serializable("diptych", "siamrpnpp.InvertedResidual")
class InvertedResidual(keras.layers.Layer):
    """A 1x1 expansion, a depthwise 3x3 convolution, a linear 1x1, and a shortcut if sizes agree.

    Args:
        in_filters, filters, strides: of the block; a strided convolution does not pad.
        expansion: width of the middle divided by that of the input.
        dilation_rate: of the middle.

    x: (N, H, W, C) -> (N, H', W', filters).
    """

    def __init__(self, in_filters: int, filters: int, strides: int, expansion: int, dilation_rate: int, **kwargs):
        super().__init__(**kwargs)
        padding = dilation_rate if dilation_rate > 1 else 2 - strides
        self.shortcut = strides == 1 and in_filters == filters
        self.conv = keras.Sequential(
            [
                Conv2D(in_filters * expansion, 1, use_bias=False),
                BatchNormalization(),
                keras.layers.ReLU(6.0),
                DepthwiseConv2D(3, strides=strides, padding=padding, dilation_rate=dilation_rate, use_bias=False),
                BatchNormalization(),
                keras.layers.ReLU(6.0),
                Conv2D(filters, 1, use_bias=False),
                BatchNormalization(),
            ]
        )

    def call(self, x, training=False):
        y = self.conv(x, training=training)
        return x + y if self.shortcut else y


@keras.saving.register_keras_serializable("diptych")
class AtrousMobileNetV2(keras.layers.Layer):
    """MobileNetV2 of stride 8, whose strided convolutions do not pad.

    Args:
        width: multiplier of the channels.

    x: (N, H, W, 3) -> dict of maps ``"c3"``, ``"c4"``, ``"c5"``, after three, five and seven stages.
    """

    def __init__(self, width: float = 1.4, **kwargs):
        super().__init__(**kwargs)
        channels, before = int(32 * width), 1
        stem = Conv2D(channels, 3, strides=2, use_bias=False)
        self.layer0 = keras.Sequential([stem, BatchNormalization(), keras.layers.ReLU(6.0)])
        for i, (expansion, filters, depth, strides, dilation) in enumerate(MOBILE, start=1):
            blocks, filters = [], int(filters * width)
            for j in range(depth):
                first = j == 0 and dilation != before
                rate = max(dilation // 2, 1) if first else dilation
                blocks.append(InvertedResidual(channels, filters, strides if j == 0 else 1, expansion, rate))
                channels = filters
            setattr(self, f"layer{i}", keras.Sequential(blocks))
            before = dilation

    def call(self, x, training=False):
        x, maps = self.layer0(x, training=training), {}
        for i in range(1, len(MOBILE) + 1):
            x = getattr(self, f"layer{i}")(x, training=training)
            if i in USED:
                maps[f"c{3 + len(maps)}"] = x
        return maps


@keras.saving.register_keras_serializable("diptych")
class MobileSiamRPNPP(Model):
    """The tracker's network on :class:`AtrousMobileNetV2`, with a plain mean of the heads.

    Args:
        width: of the trunk.
        channels: of the three maps that are correlated.

    Inputs, returns: of :class:`SiamRPNPP`.
    """

    def __init__(self, width: float = 1.4, channels: tuple[int, ...] = (256, 256, 256), **kwargs):
        super().__init__(**kwargs)
        self.backbone = AtrousMobileNetV2(width)
        self.neck = AdjustAllLayer(channels)
        self.rpn_head = MultiRPN(channels, weighted=False)

    def template(self, template, training=False):
        """The maps of the object in the first frame."""
        return self.neck(self.backbone(template, training=training), training=training)

    def track(self, template, search, training=False):
        """The heads' predictions for a later frame."""
        return self.rpn_head(template, self.template(search, training), training=training)

    def call(self, template, search, training=False):
        return self.track(self.template(template, training), search, training)


def siamrpn_r50_l234_dwxcorr(**options) -> SiamRPNPP:
    return SiamRPNPP(**options)


def siamrpn_r50_l234_dwxcorr_otb(weighted=False, **options) -> SiamRPNPP:
    return SiamRPNPP(weighted=weighted, **options)


def siamrpn_r50_l234_dwxcorr_lt(channels=(128, 256, 512), **options) -> SiamRPNPP:
    return SiamRPNPP(channels=channels, **options)


def siamrpn_mobilev2_l234_dwxcorr(**options) -> MobileSiamRPNPP:
    return MobileSiamRPNPP(**options)
