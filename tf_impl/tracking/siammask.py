"""SiamMask: a tracker that also segments the object, by a mask for each position where it could be.

"Fast Online Object Tracking and Segmentation: A Unifying Approach", 2018, arXiv:1812.05050. Parameter names:
foolwood/SiamMask ``experiments/siammask_base``, ``siammask_sharp`` (MIT). What to look at: a feature vector of the
correlated map is a whole mask of 63 x 63 pixels; the refinement uses the finer maps of the frame around its cell to
enlarge it to 127 x 127.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths.
- Windows are taken with ``unfold`` in PyTorch, with gathers of rows and columns in TensorFlow.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D, Conv2DTranspose
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.resize import resize_bilinear, resize_nearest
from tf_impl.tracking._siamese import ANCHORS, CONV, VALUES, AtrousResNet, DepthwiseXCorr, SiamRPNCriterion
from weights.processing.tracking.siammask import WINDOWS

__all__ = [
    "Refine",
    "SiamMask",
    "SiamMaskCriterion",
    "siammask_base",
    "siammask_sharp",
]

STRIDE = 8  # pixels from cell to cell
PATCH = 127  # size of a cell's receptive field, pixels
COARSE = 63  # size of the mask in a feature vector
SMALL, CUT = 20, 4  # a map narrower than the first loses this many cells on each side


def windows(x, size: int, stride: int, pad: int):
    """All windows of a map.

    Args:
        x: (N, H, W, C).
        size, stride: of the windows.
        pad: zeros around the map.

    Returns:
        (N H' W', size, size, C), row by row of every image.
    """
    x = tf.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for axis in (1, 3):
        first = tf.range((x.shape[axis] - size) // stride + 1) * stride
        x = tf.gather(x, first[:, None] + tf.range(size), axis=axis)  # mirror: gathers
    return tf.reshape(tf.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, size, size, x.shape[5]))


def pair_of_convs(first: int, second: int):
    """Two 3x3 convolutions, each with ReLU."""
    return keras.Sequential([layer for n in (first, second) for layer in (conv3x3(n), keras.layers.ReLU())])


def conv3x3(filters: int) -> Conv2D:
    return Conv2D(filters, 3, padding=1, kernel_initializer="lecun_uniform")


@keras.saving.register_keras_serializable("diptych", "siammask.Refine")
class Refine(keras.layers.Layer):
    """Refine the mask of a feature vector of the correlated map by finer maps.

    Args:
        hidden: of the deconvolved vector and of the steps, coarse to fine.

    columns: (M, C); windows: dict of :data:`WINDOWS` of the maps -> (M, 127 * 127) logits.
    """

    def __init__(self, hidden: tuple[int, ...] = (32, 16, 4), **kwargs):
        super().__init__(**kwargs)
        third, second, first = hidden
        self.v0, self.v1, self.v2 = (pair_of_convs(4 * n, n) for n in (first, second, third))
        self.h2, self.h1, self.h0 = (pair_of_convs(n, n) for n in hidden)
        self.deconv = Conv2DTranspose(third, 15, strides=15)
        self.post0, self.post1, self.post2 = (conv3x3(n) for n in (second, first, 1))

    def call(self, columns, windows):
        x = self.deconv(columns[:, None, None])
        x = self.post0(resize_nearest(self.h2(x) + self.v2(windows["c3"]), (31, 31)))
        x = self.post1(resize_nearest(self.h1(x) + self.v1(windows["c2"]), (61, 61)))
        x = self.post2(resize_nearest(self.h0(x) + self.v0(windows["c1"]), (PATCH, PATCH)))
        return tf.reshape(x, (-1, PATCH * PATCH))


@keras.saving.register_keras_serializable("diptych", "siammask.ResDown")
class ResDown(keras.layers.Layer):
    """A 1x1 convolution with normalisation; small maps lose four cells on each side.

    Args:
        filters: of the result.

    x: (N, H, W, C) -> (N, H, W, filters), or (N, H - 8, W - 8, filters).
    """

    def __init__(self, filters: int, **kwargs):  # mirror: infers
        super().__init__(**kwargs)
        self.downsample = keras.Sequential([CONV(filters, 1), BatchNormalization()])

    def call(self, x, training=False):
        x = self.downsample(x, training=training)
        return x[:, CUT:-CUT, CUT:-CUT] if x.shape[2] < SMALL else x


@keras.saving.register_keras_serializable("diptych", "siammask.Features")
class Features(keras.layers.Layer):
    """The trunk, and a narrower map of its last stage.

    Args:
        layers, planes: of the trunk.
        channels: of the narrower map.

    x: (N, H, W, 3) -> dict of maps, and the narrower one.
    """

    def __init__(self, layers: tuple[int, ...], planes: tuple[int, ...], channels: int, **kwargs):
        super().__init__(**kwargs)
        self.features = AtrousResNet(layers, planes, used=(1, 2, 3, 4))
        self.downsample = ResDown(channels)

    def call(self, x, training=False):
        maps = self.features(x, training=training)
        return maps, self.downsample(maps["c4"], training=training)


@keras.saving.register_keras_serializable("diptych", "siammask.Heads")
class Heads(keras.layers.Layer):
    """Correlation heads by name.

    Args:
        channels: of the maps.
        outputs: name -> channels of the result.

    kernel, search: maps -> dict of maps.
    """

    def __init__(self, channels: int, outputs: dict[str, int], **kwargs):
        super().__init__(**kwargs)
        self.names = tuple(outputs)
        for name, count in outputs.items():
            setattr(self, name, DepthwiseXCorr(channels, count))

    def call(self, kernel, search, training=False):
        return {name: getattr(self, name)(kernel, search, training=training) for name in self.names}


@keras.saving.register_keras_serializable("diptych")
class SiamMask(Model):
    """The tracker's network.

    Args:
        layers, planes: of the trunk's three stages.
        channels: of the maps that are correlated.
        refine: whether there is a refinement.

    Inputs: ``template`` (N, 127, 127, 3), ``search`` (N, H, W, 3) float, BGR in 0 to 255.
    Returns: dict: ``"cls"`` (N, H', W', 10) and ``"loc"`` (N, H', W', 20) as of SiamRPN, ``"mask"``
        (N, H', W', 63 * 63) logits; with refinement ``"refine"`` (N, H' W', 127 * 127) logits.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6),
        planes: tuple[int, ...] = (64, 128, 256),
        channels: int = 256,
        refine: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.features = Features(layers, planes, channels)
        self.rpn_model = Heads(channels, {"cls": VALUES[0] * ANCHORS, "loc": VALUES[1] * ANCHORS})
        self.mask_model = Heads(channels, {"mask": COARSE * COARSE})
        self.refine_model = Refine() if refine else None

    def template(self, template, training=False):
        """The map of the object in the first frame."""
        return self.features(template, training=training)[1]

    def look(self, template, search, training=False):
        """The heads' predictions for a later frame, the correlated map, and the trunk's maps."""
        maps, search = self.features(search, training=training)
        head = self.mask_model.mask
        correlated = head.correlate(template, search, training)
        outputs = self.rpn_model(template, search, training=training)
        return {**outputs, "mask": head.head(correlated, training=training)}, correlated, maps

    def track(self, template, search, training=False):
        """The predictions for a later frame, the mask of every cell among them."""
        outputs, correlated, maps = self.look(template, search, training)
        if self.refine_model is not None:
            columns = tf.reshape(correlated, (-1, correlated.shape[3]))
            whole = maps["c4"].shape[2] >= SMALL
            cut = {name: windows(maps[name], size, step, pad * whole) for name, (size, step, pad) in WINDOWS.items()}
            drawn = self.refine_model(columns, cut)
            outputs["refine"] = tf.reshape(drawn, (-1, correlated.shape[1] * correlated.shape[2], PATCH * PATCH))
        return outputs

    def call(self, template, search, training=False):
        return self.track(self.template(template, training), search, training)


@keras.saving.register_keras_serializable("diptych")
class SiamMaskCriterion(SiamRPNCriterion):
    """The losses of SiamRPN, and that of the masks.

    Args:
        cls_weight, loc_weight, mask_weight: of the three.

    Inputs: ``outputs`` of :class:`SiamMask`; ``targets`` of ``SiamRPNCriterion``, and ``"label_mask"`` (N, H, W, 1), 1
        the object, -1 background, in the pixels of the frame; ``"label_mask_weight"`` (N, H', W'), 1 for the cells that
        count.
    Returns: dict of scalars, weighted: ``"cls"``, ``"loc"``, ``"mask"``, ``"total"``, their sum.
    """

    def __init__(self, cls_weight: float = 1.0, loc_weight: float = 1.2, mask_weight: float = 36.0, **kwargs):
        super().__init__(cls_weight, loc_weight, **kwargs)
        self.mask_weight = mask_weight

    def call(self, outputs, targets):
        losses = super().call(outputs, targets)
        refined = "refine" in outputs
        logits = outputs["refine" if refined else "mask"]
        if not refined:
            coarse = tf.reshape(logits, (-1, COARSE, COARSE, 1))
            logits = resize_bilinear(coarse, (PATCH, PATCH), align_corners=True)
        pixels, cells = targets["label_mask"].shape[2], outputs["cls"].shape[2]
        pad = 0 if (pixels - PATCH) // STRIDE + 1 == cells else CUT * STRIDE  # whether the map was cropped
        wanted = windows(tf.cast(targets["label_mask"], logits.dtype), PATCH, STRIDE, pad)
        product = tf.reshape(wanted, (-1, PATCH * PATCH)) * tf.reshape(logits, (-1, PATCH * PATCH))
        by_cell = tf.reduce_mean(tf.nn.relu(-product) + tf.nn.softplus(-tf.abs(product)), 1)
        weight = tf.reshape(tf.cast(targets["label_mask_weight"], logits.dtype), (-1,))
        mask = tf.reduce_sum(by_cell * weight) / tf.maximum(tf.reduce_sum(weight), 1.0)
        losses["mask"] = self.mask_weight * mask
        return {**losses, "total": losses["total"] + losses["mask"]}


def siammask_base(refine=False, **options) -> SiamMask:
    return SiamMask(refine=refine, **options)


def siammask_sharp(**options) -> SiamMask:
    return SiamMask(**options)
