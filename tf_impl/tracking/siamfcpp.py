"""SiamFC++: every cell of the correlated map predicts whether it is the object, how central it is, and where the
borders are.

"SiamFC++: Towards Robust and Accurate Visual Tracking with Target Estimation Guidelines", 2019, arXiv:1911.06188.
Parameter names: MegviiDetection/video_analyst ``task_model``, ``backbone_impl``, ``task_head_impl`` (MIT). What to look
at: there are no anchors, the last convolutions are normalised too, and two numbers scale and shift all distances before
the exponential.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths.
"""

import functools
import math

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.cross_correlation import depthwise_cross_correlation
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import MaxPooling2D

__all__ = [
    "AlexNet",
    "DenseboxHead",
    "SiamFCPP",
    "SiamFCPPCriterion",
    "SiamFCPPPostProcess",
    "TinyConv",
    "siamfcpp_alexnet",
    "siamfcpp_tinyconv",
]

STRIDE = 8  # pixels from cell to cell
PRIOR = -math.log(99)  # logit of the class before training: probability 0.01
TINY = 1.1754944e-38  # of float32, smallest overlap whose logarithm is taken
EPS = 1e-5  # added to the longer sides

POOL = functools.partial(MaxPooling2D, 3, 2, ceil_mode=True)


@keras.saving.register_keras_serializable("diptych", "siamfcpp.Conv")
class Conv(keras.layers.Layer):
    """Convolution with a bias, and optionally normalisation and ReLU.

    Args:
        filters, kernel_size, strides, padding, groups: of the convolution.
        norm, relu: whether they follow.
        std: deviation of the kernel before training, None for PyTorch's values.
        bias: the bias before training, None for PyTorch's values.

    x: (N, H, W, C) -> (N, H', W', filters).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        padding: int = 0,
        groups: int = 1,
        norm: bool = True,
        relu: bool = True,
        std: float | None = None,
        bias: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        kernel = None if std is None else keras.initializers.RandomNormal(stddev=std)
        bias = None if bias is None else keras.initializers.Constant(bias)
        options = {"strides": strides, "padding": padding, "groups": groups}
        self.conv = Conv2D(filters, kernel_size, **options, kernel_initializer=kernel, bias_initializer=bias)
        self.bn = BatchNormalization() if norm else None
        self.relu = relu

    def call(self, x, training=False):
        x = self.conv(x)
        x = x if self.bn is None else self.bn(x, training=training)
        return tf.nn.relu(x) if self.relu else x


@keras.saving.register_keras_serializable("diptych", "siamfcpp.AlexNet")
class AlexNet(keras.layers.Layer):
    """Five convolutions without padding.

    Args:
        channels: of the convolutions.

    x: (N, H, W, 3) -> (N, H', W', channels[-1]).
    """

    def __init__(self, channels: tuple[int, ...] = (96, 256, 384, 384, 256), **kwargs):
        super().__init__(**kwargs)
        self.channels = channels[-1]
        for i, filters in enumerate(channels, start=1):
            size, strides = {1: (11, 2), 2: (5, 1)}.get(i, (3, 1))
            setattr(self, f"conv{i}", Conv(filters, size, strides, relu=i < 5))
        self.pool1, self.pool2 = POOL(), POOL()

    def call(self, x, training=False):
        x = self.pool1(self.conv1(x, training=training))
        x = self.pool2(self.conv2(x, training=training))
        for conv in (self.conv3, self.conv4, self.conv5):
            x = conv(x, training=training)
        return x


@keras.saving.register_keras_serializable("diptych")
class TinyConv(keras.layers.Layer):
    """Five small convolutions, one of them depthwise.

    Args:
        width: of the result.

    x: (N, H, W, 3) -> (N, H', W', width).
    """

    def __init__(self, width: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.channels = width
        self.conv1, self.pool1 = Conv(32, 3, 2), POOL()
        self.conv2a, self.conv2b = Conv(64, 1), Conv(64, 7, 2, groups=64)
        self.conv3a, self.conv3b = Conv(64, 3), Conv(width, 1, relu=False)

    def call(self, x, training=False):
        x = self.pool1(self.conv1(x, training=training))
        for conv in (self.conv2a, self.conv2b, self.conv3a, self.conv3b):
            x = conv(x, training=training)
        return x


@keras.saving.register_keras_serializable("diptych")
class DenseboxHead(keras.layers.Layer):
    """Two towers over the correlated maps, and their predictions.

    Args:
        channels: of the maps and of the towers.
        norms: which of the towers' convolutions are normalised.

    cls, reg: (N, H, W, C) -> dict: ``"cls_pred"``, ``"ctr_pred"`` (N, H', W', 1) logits, ``"distances"``
        (N, H', W', 4) pixels.
    """

    def __init__(self, channels: int, norms: tuple[bool, ...] = (False, False, True), **kwargs):
        super().__init__(**kwargs)
        self.depth = len(norms)
        self.bi = self.add_weight(name="bi", shape=(), initializer="zeros")
        self.si = self.add_weight(name="si", shape=(), initializer="ones")
        for i, norm in enumerate(norms, start=1):
            for branch in ("cls", "bbox"):
                setattr(self, f"{branch}_p5_conv{i}", Conv(channels, 3, norm=norm, std=1e-4))
        self.cls_score_p5 = Conv(1, 1, relu=False, std=1e-4, bias=PRIOR)
        self.ctr_score_p5 = Conv(1, 1, relu=False, std=1e-4)
        self.bbox_offsets_p5 = Conv(4, 1, relu=False, std=1e-4)

    def call(self, cls, reg, training=False):
        for i in range(1, self.depth + 1):
            cls = getattr(self, f"cls_p5_conv{i}")(cls, training=training)
            reg = getattr(self, f"bbox_p5_conv{i}")(reg, training=training)
        offsets = self.bbox_offsets_p5(reg, training=training)
        return {
            "cls_pred": self.cls_score_p5(cls, training=training),
            "ctr_pred": self.ctr_score_p5(cls, training=training),
            "distances": STRIDE * tf.exp(self.si * offsets + self.bi),
        }


@keras.saving.register_keras_serializable("diptych")
class SiamFCPP(Model):
    """The tracker's network.

    Args:
        basemodel: the trunk, which has ``channels``.
        norms: see :class:`DenseboxHead`.

    Inputs: ``template`` (N, 127, 127, 3), ``search`` (N, H, W, 3) float, BGR in 0 to 255.
    Returns: dict: ``"cls_pred"``, ``"ctr_pred"`` (N, P, 1) logits, ``"box_pred"`` (N, P, 4) xyxy in pixels of the
        search window, row by row; ``"points"`` (P, 2), x and y of the cells.
    """

    def __init__(self, basemodel, norms: tuple[bool, ...] = (False, False, True), **kwargs):
        super().__init__(**kwargs)
        self.basemodel = basemodel
        channels = basemodel.channels
        self.head = DenseboxHead(channels, norms)
        adjust = functools.partial(Conv, channels, 3, relu=False, std=0.01)
        self.r_z_k, self.c_z_k, self.r_x, self.c_x = adjust(), adjust(), adjust(), adjust()

    def template(self, template, training=False):
        """The kernels of the object in the first frame, for class and box."""
        x = self.basemodel(template, training=training)
        return self.c_z_k(x, training=training), self.r_z_k(x, training=training)

    def track(self, kernels, search, training=False):
        """The head's predictions for a later frame."""
        x = self.basemodel(search, training=training)
        cls = depthwise_cross_correlation(self.c_x(x, training=training), kernels[0])
        reg = depthwise_cross_correlation(self.r_x(x, training=training), kernels[1])
        found = self.head(cls, reg, training=training)
        sizes = found["cls_pred"].shape[1:3]
        starts = [(pixels - 1 - (cells - 1) * STRIDE) // 2 for pixels, cells in zip(search.shape[1:3], sizes)]
        y, x = (tf.cast(tf.range(cells) * STRIDE + start, search.dtype) for cells, start in zip(sizes, starts))
        x, y = tf.meshgrid(x, y)
        points = tf.stack((tf.reshape(x, (-1,)), tf.reshape(y, (-1,))), -1)
        rows = {name: tf.reshape(value, (-1, sizes[0] * sizes[1], value.shape[3])) for name, value in found.items()}
        distances = rows.pop("distances")  # mirror: NHWC
        rows["box_pred"] = tf.concat((points - distances[..., :2], points + distances[..., 2:]), -1)
        return {**rows, "points": points}

    def call(self, template, search, training=False):
        return self.track(self.template(template, training), search, training)


def overlap(boxes, others):
    """IoU of boxes pair by pair, both borders included.  (..., 4) -> (...)."""
    size = tf.minimum(boxes[..., 2:], others[..., 2:]) - tf.maximum(boxes[..., :2], others[..., :2]) + 1
    shared = tf.reduce_prod(tf.where(size > 0, size, tf.zeros_like(size)), -1)
    areas = [tf.reduce_prod(b[..., 2:] - b[..., :2] + 1, -1) for b in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared)


@keras.saving.register_keras_serializable("diptych")
class SiamFCPPCriterion(keras.layers.Layer):
    """Focal loss of the class, cross-entropy of the centredness, logarithm of the boxes' overlap.

    Args:
        alpha, gamma: of the focal loss.
        weights: of class, centredness and box.

    Inputs: ``outputs`` of :class:`SiamFCPP`; ``targets["boxes"]`` (N, 4) xyxy in pixels, ``targets["same"]`` (N,) bool:
        whether the box is the template's object; if not, its cells are background and the others are ignored.
    Returns: dict of scalars, weighted: ``"cls"``, ``"ctr"``, ``"reg"``, ``"total"``, their sum.
    """

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        weights: tuple[float, float, float] = (1.0, 1.0, 3.0),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.alpha, self.gamma, self.parts = alpha, gamma, tuple(weights)

    def call(self, outputs, targets):
        cls, ctr, points = outputs["cls_pred"][..., 0], outputs["ctr_pred"][..., 0], outputs["points"]
        dtype = cls.dtype
        boxes, same = tf.cast(targets["boxes"], dtype)[:, None], targets["same"][:, None]  # (N, 1, 4), (N, 1)
        distances = tf.concat((points - boxes[..., :2], boxes[..., 2:] - points), -1)  # (N, P, 4)
        inside = tf.reduce_all(distances > 0, -1)
        positive = inside & same
        counted, inside = tf.cast(same | inside, dtype), tf.cast(positive, dtype)
        total = tf.maximum(tf.reduce_sum(inside), 1.0)

        log_p, log_q = (-tf.nn.relu(-x) - tf.nn.softplus(-tf.abs(x)) for x in (cls, -cls))
        p = tf.sigmoid(cls)
        hit = self.alpha * inside * tf.pow(1 - p, self.gamma) * log_p
        miss = (1 - self.alpha) * (1 - inside) * tf.pow(p, self.gamma) * log_q
        losses = {"cls": -tf.reduce_sum((hit + miss) * counted) / total}

        safe = tf.where(positive[..., None], distances, tf.ones_like(distances))
        near = tf.minimum(safe[..., :2], safe[..., 2:])
        far = tf.maximum(safe[..., :2], safe[..., 2:])
        centred = tf.sqrt(tf.abs(tf.reduce_prod(near, -1) / (tf.reduce_prod(far, -1) + EPS)))
        log_p, log_q = (-tf.nn.relu(-x) - tf.nn.softplus(-tf.abs(x)) for x in (ctr, -ctr))
        least = tf.constant(1e-12, dtype)
        rest = centred * tf.math.log(tf.maximum(centred, least))
        rest = rest + (1 - centred) * tf.math.log(tf.maximum(1 - centred, least))
        crossed = centred * log_p + (1 - centred) * log_q
        losses["ctr"] = tf.reduce_sum((rest - crossed) * inside) / total

        found = tf.where(positive[..., None], outputs["box_pred"], tf.zeros([], dtype))
        shared = overlap(found, tf.where(positive[..., None], boxes, tf.zeros([], dtype)))
        shared = tf.where(shared > TINY, shared, tf.constant(TINY, dtype))
        losses["reg"] = -tf.reduce_sum(tf.math.log(shared) * inside) / total
        losses = {key: weight * loss for weight, (key, loss) in zip(self.parts, losses.items(), strict=True)}
        return {**losses, "total": sum(losses.values())}


@keras.saving.register_keras_serializable("diptych")
class SiamFCPPPostProcess(keras.layers.Layer):
    """Boxes and their scores.

    Inputs: ``outputs`` of :class:`SiamFCPP`.
    Returns: dict: ``"scores"`` (N, P, 1), class times centredness, ``"boxes"`` (N, P, 4) xyxy in pixels.
    """

    def call(self, outputs):
        scores = tf.sigmoid(outputs["cls_pred"]) * tf.sigmoid(outputs["ctr_pred"])
        return {"scores": scores, "boxes": outputs["box_pred"]}


def siamfcpp_alexnet(
    channels: tuple[int, ...] = (96, 256, 384, 384, 256), norms: tuple[bool, ...] = (False, False, True)
) -> SiamFCPP:
    return SiamFCPP(AlexNet(channels), norms)


def siamfcpp_tinyconv(width: int = 64, norms: tuple[bool, ...] = (False, False, True)) -> SiamFCPP:
    return SiamFCPP(TinyConv(width), norms)
