"""CenterNet: an object is a peak in its class's heat map, with its size and the offset of its centre in the cell.

"Objects as Points", 2019, arXiv:1904.07850.
Parameter names: xingyizhou/CenterNet ``networks/resnet_dcn.py``, ``networks/msra_resnet.py``,
``networks/pose_dla_dcn.py`` (MIT).
What to look at: no anchors and no suppression; a peak is a local maximum, found by one max pooling.

Mirror notes:
- PyTorch fills the kernels of finished layers, Keras gives each layer its initial values; in the residual networks some
  upsampling is initially bilinear.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.heatmaps import gaussian_radius, heat_maps, peaks
from tf_impl.classification.dla import dla34
from tf_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from tf_impl.layers.convolution import Conv2D, Conv2DTranspose
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import map_rows, take_rows
from tf_impl.losses.box import l1_loss
from tf_impl.losses.heatmap import clamped_sigmoid, heatmap_focal_loss
from tf_impl.necks.dla_up import DCNv2, DLAUp, IDAUp, bilinear_kernel

__all__ = [
    "CenterNetCriterion",
    "CenterNetDLA",
    "CenterNetPostProcess",
    "CenterNetResNet",
    "centernet_dla34",
    "centernet_res18",
    "centernet_res101",
    "centernet_resdcn18",
    "centernet_resdcn101",
]

STRIDE = 4  # pixels per cell of the maps
PRIOR_BIAS = -2.19  # logit of a heat map before training: probability 0.1


def prediction(hidden: int, filters: int, bias: float = 0.0, std: float | None = None):
    """3x3 and 1x1 convolution; ``bias`` and ``std`` set initial values, None for PyTorch's."""
    if std is None:
        kernel_initializer = bias_initializer = None
    else:
        kernel_initializer, bias_initializer = keras.initializers.RandomNormal(stddev=std), "zeros"
    last = keras.initializers.Constant(bias)
    return keras.Sequential(
        [
            Conv2D(hidden, 3, padding=1, kernel_initializer=kernel_initializer, bias_initializer=bias_initializer),
            keras.layers.ReLU(),
            Conv2D(
                filters, 1, kernel_initializer=kernel_initializer and kernel_initializer.clone(), bias_initializer=last
            ),
        ]
    )


@keras.saving.register_keras_serializable("diptych")
class _BilinearFirst(keras.initializers.Initializer):
    """Bilinear kernels for all inputs of a transposed convolution's first output channel, as in the reference."""

    def __call__(self, shape, dtype=None):
        height, width, filters, _ = shape
        bound = (filters * height * width) ** -0.5
        values = keras.initializers.RandomUniform(-bound, bound)(shape, dtype)
        first = tf.cast(bilinear_kernel(height)[:, :, None, None], values.dtype)  # mirror: fills the kernels
        return tf.where(tf.range(filters)[:, None] == 0, first, values)


@keras.saving.register_keras_serializable("diptych")
class CenterNetResNet(ResNet):
    """Residual network, three upsamplings, three maps.

    Args:
        block, layers, planes: of the residual network, see :class:`ResNet`.
        widths: of the upsamplings, each of which doubles the map.
        deformable: whether a deformable convolution comes before each.
        num_classes: classes K.
        hidden: width of the predictions' first convolutions.

    Inputs: (N, H, W, 3) float, normalised; H and W multiples of 32.
    Returns: dict: ``"hm"`` (N, H / 4, W / 4, K) logits, ``"wh"`` (N, H / 4, W / 4, 2) width and height of the box in
        cells, ``"reg"`` (N, H / 4, W / 4, 2) the centre's x and y offsets, in cells.
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        widths: tuple[int, ...] = (256, 128, 64),
        deformable: bool = True,
        num_classes: int = 80,
        hidden: int = 64,
        **kwargs,
    ):
        super().__init__(block, layers, planes=planes, features_only=True, out_indices=(4,), **kwargs)
        parts = []
        for width in widths:
            if deformable:
                parts += [DCNv2(width), BatchNormalization(), keras.layers.ReLU()]
            initial = _BilinearFirst() if deformable else keras.initializers.RandomNormal(stddev=0.001)
            up = Conv2DTranspose(width, 4, 2, padding=1, use_bias=False, kernel_initializer=initial)
            parts += [up, BatchNormalization(), keras.layers.ReLU()]
        self.deconv_layers = keras.Sequential(parts)
        self.hm = prediction(hidden, num_classes, PRIOR_BIAS)
        self.wh = prediction(hidden, 2, std=0.001)
        self.reg = prediction(hidden, 2, std=0.001)

    def call(self, images, training=False):
        x = self.deconv_layers(self.forward_features(images, training)["c5"], training=training)
        return {"hm": self.hm(x), "wh": self.wh(x), "reg": self.reg(x)}


@keras.saving.register_keras_serializable("diptych")
class CenterNetDLA(Model):
    """Deep layer aggregation, its upsampling, three maps.

    Args:
        depths, widths: of the aggregation, see :class:`DLA`; its classifier exists but is unused.
        num_classes: classes K.
        hidden: width of the predictions' first convolutions.
        classifier: classes of the unused classifier.

    Inputs: (N, H, W, 3) float, normalised; H and W multiples of 32.
    Returns: see :class:`CenterNetResNet`.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (1, 1, 1, 2, 2, 1),
        widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512),
        num_classes: int = 80,
        hidden: int = 256,
        classifier: int = 1000,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.base = dla34(depths, widths, num_classes=classifier, features_only=True, out_indices=(1, 2, 3, 4))
        self.dla_up = DLAUp(widths[2:])
        self.ida_up = IDAUp(widths[2], (1, 2, 4))
        self.hm = prediction(hidden, num_classes, PRIOR_BIAS)
        self.wh = prediction(hidden, 2)
        self.reg = prediction(hidden, 2)

    def call(self, images, training=False):
        maps = self.dla_up(list(self.base(images, training=training).values()), training=training)
        x = self.ida_up(maps[:3], training=training)[-1]
        return {"hm": self.hm(x), "wh": self.wh(x), "reg": self.reg(x)}


@keras.saving.register_keras_serializable("diptych")
class CenterNetCriterion(keras.layers.Layer):
    """Focal loss of the heat maps, L1 losses of size and offset at the objects' centres.

    Args:
        overlap: IoU with itself that a box keeps when its corners move within the peak.
        wh_weight, off_weight: of the two L1 losses in the total.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Boxes without area inside the map take no part.
    Returns: dict of scalars: ``"hm_loss"``, ``"wh_loss"``, ``"off_loss"``, ``"total"``.
    """

    def __init__(self, overlap: float = 0.7, wh_weight: float = 0.1, off_weight: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.overlap, self.wh_weight, self.off_weight = overlap, wh_weight, off_weight

    def call(self, outputs, targets):
        heat, dtype = clamped_sigmoid(outputs["hm"]), outputs["hm"].dtype
        height, width = map_size(outputs["hm"])
        zero, limit = tf.zeros([], dtype), tf.constant([width - 1, height - 1] * 2, dtype)
        boxes = tf.minimum(tf.maximum(tf.cast(targets["boxes"], dtype) / STRIDE, 0.0), limit)
        size = boxes[..., 2:] - boxes[..., :2]  # (N, M, 2)
        valid = targets["valid"] & tf.reduce_all(size > 0, -1)
        size = tf.where(valid[..., None], size, tf.ones([], dtype))
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2
        cell = tf.floor(centre)

        whole = tf.math.ceil(size)
        radius = gaussian_radius(whole[..., 1], whole[..., 0], self.overlap, corrected=False)
        radius = tf.floor(tf.maximum(radius, 0.0))
        wanted = heat_maps(cell, radius, targets["labels"], valid, heat.shape[-1], (height, width))
        peak = heatmap_focal_loss(heat, wanted)

        index = tf.cast(cell[..., 1] * width + cell[..., 0], tf.int64)
        count = 2 * tf.reduce_sum(tf.cast(valid, dtype)) + 1e-4  # number of values, two per object
        found = l1_loss(take_rows(map_rows(outputs["wh"]), index), size)
        extent = tf.reduce_sum(tf.where(valid, found, zero)) / count
        found = l1_loss(take_rows(map_rows(outputs["reg"]), index), centre - cell)
        rest = tf.reduce_sum(tf.where(valid, found, zero)) / count
        return {
            "hm_loss": peak,
            "wh_loss": extent,
            "off_loss": rest,
            "total": peak + self.wh_weight * extent + self.off_weight * rest,
        }


@keras.saving.register_keras_serializable("diptych")
class CenterNetPostProcess(keras.layers.Layer):
    """The highest peaks of every image.

    Args:
        detections: results per image, D.
        kernel_size: size of the window in which a peak is the highest.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(self, detections: int = 100, kernel_size: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.detections, self.kernel_size = detections, kernel_size

    def call(self, outputs):
        heat = tf.sigmoid(outputs["hm"])
        cells = heat.shape[1] * heat.shape[2] * heat.shape[3]
        scores, labels, row, column = peaks(heat, self.kernel_size, min(self.detections, cells))
        index = row * heat.shape[2] + column
        place = tf.cast(tf.stack((column, row), -1), heat.dtype)
        centre = place + take_rows(map_rows(outputs["reg"]), index)
        half = take_rows(map_rows(outputs["wh"]), index) / 2
        boxes, valid = STRIDE * tf.concat((centre - half, centre + half), -1), scores > 0
        padding = ((0, 0), (0, self.detections - scores.shape[1]))
        return {
            "boxes": tf.pad(tf.where(valid[..., None], boxes, tf.zeros([], boxes.dtype)), (*padding, (0, 0))),
            "scores": tf.pad(scores, padding),
            "labels": tf.pad(tf.where(valid, labels, tf.zeros([], labels.dtype)), padding),
            "valid": tf.pad(valid, padding),
        }


def centernet_resdcn18(block=BasicBlock, layers=(2, 2, 2, 2), **options) -> CenterNetResNet:
    return CenterNetResNet(block, layers, **options)


def centernet_resdcn101(block=Bottleneck, layers=(3, 4, 23, 3), **options) -> CenterNetResNet:
    return CenterNetResNet(block, layers, **options)


def centernet_res18(
    block=BasicBlock, layers=(2, 2, 2, 2), widths=(256, 256, 256), deformable=False, **options
) -> CenterNetResNet:
    return CenterNetResNet(block, layers, widths=widths, deformable=deformable, **options)


def centernet_res101(
    block=Bottleneck, layers=(3, 4, 23, 3), widths=(256, 256, 256), deformable=False, **options
) -> CenterNetResNet:
    return CenterNetResNet(block, layers, widths=widths, deformable=deformable, **options)


def centernet_dla34(**options) -> CenterNetDLA:
    return CenterNetDLA(**options)
