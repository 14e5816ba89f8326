"""mmdet's CenterNet: with convolutions before the upsamplings, other peaks, and losses over dense maps.

"Objects as Points", 2019, arXiv:1904.07850.
Parameter names: mmdet ``necks/ct_resnet_neck.py``, ``dense_heads/centernet_head.py`` (Apache-2.0).
What to look at: the heat maps are returned as probabilities, and the radius of a peak is the corrected one.

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.heatmaps import gaussian_radius, heat_maps, peaks
from tf_impl.classification.resnet import BasicBlock, ResNet
from tf_impl.detection.centernet import STRIDE, _BilinearFirst, prediction
from tf_impl.layers.convolution import Conv2D, Conv2DTranspose
from tf_impl.layers.deform_conv import ModulatedDeformConv2dPack
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import map_rows, take_rows
from tf_impl.losses.box import l1_loss

__all__ = [
    "CenterNetHead",
    "CenterNetNeck",
    "MMDetCenterNet",
    "MMDetCenterNetCriterion",
    "MMDetCenterNetPostProcess",
    "centernet_r18",
    "centernet_r18_dcnv2",
]

PRIOR_BIAS = -2.1972245773362196  # logit of a heat map before training: probability 0.1
EPS = 1e-12  # in the logarithms
SINGLE = 1.1920928955078125e-07  # added to the divisors


@keras.saving.register_keras_serializable("diptych")
class ConvUnit(keras.layers.Layer):
    """A convolution, batch normalisation and ReLU.

    Args:
        filters: width of the result.
        kind: "plain" or "deformable" convolution of 3x3, or "up", a transposed one of 4x4 that doubles the map.

    x: (N, H, W, C) -> (N, H', W', filters).
    """

    def __init__(self, filters: int, kind: str, **kwargs):
        super().__init__(**kwargs)
        if kind == "up":
            initial = _BilinearFirst()
            self.conv = Conv2DTranspose(filters, 4, 2, padding=1, use_bias=False, kernel_initializer=initial)
        elif kind == "deformable":
            self.conv = ModulatedDeformConv2dPack(filters, 3, padding=1, use_bias=False, border_grad="mmcv")
        else:
            self.conv = Conv2D(filters, 3, padding=1, use_bias=False)
        self.bn = BatchNormalization()

    def call(self, x, training=False):
        return tf.nn.relu(self.bn(self.conv(x), training=training))


@keras.saving.register_keras_serializable("diptych")
class CenterNetNeck(keras.layers.Layer):
    """Alternating convolutions and upsamplings.

    Args:
        widths: of the upsamplings, each of which doubles the map.
        deformable: whether the convolutions are deformable.

    x: (N, H, W, C) -> (N, 8 H, 8 W, widths[-1]) for three widths.
    """

    def __init__(self, widths: tuple[int, ...], deformable: bool, **kwargs):
        super().__init__(**kwargs)
        parts = []
        for width in widths:
            parts += [ConvUnit(width, "deformable" if deformable else "plain"), ConvUnit(width, "up")]
        self.deconv_layers = keras.Sequential(parts)

    def call(self, x, training=False):
        return self.deconv_layers(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class CenterNetHead(keras.layers.Layer):
    """Heat map, sizes and offsets, by two convolutions each.

    Args:
        num_classes: classes K.
        hidden: width of the first convolutions.

    x: (N, H, W, C) -> dict, see :class:`MMDetCenterNet`.
    """

    def __init__(self, num_classes: int, hidden: int, **kwargs):
        super().__init__(**kwargs)
        self.heatmap_head = prediction(hidden, num_classes, PRIOR_BIAS)
        self.wh_head = prediction(hidden, 2, std=0.001)
        self.offset_head = prediction(hidden, 2, std=0.001)

    def call(self, x):
        return {"heat": tf.sigmoid(self.heatmap_head(x)), "wh": self.wh_head(x), "offset": self.offset_head(x)}


@keras.saving.register_keras_serializable("diptych")
class MMDetCenterNet(Model):
    """Residual network, neck, head.

    Args:
        layers, planes: of the residual network of basic blocks, see :class:`ResNet`.
        widths, deformable: of the neck, see :class:`CenterNetNeck`.
        num_classes: classes K.
        hidden: width of the predictions' first convolutions.

    Inputs: (N, H, W, 3) float, normalised; H and W multiples of 32.
    Returns: dict: ``"heat"`` (N, H / 4, W / 4, K) in [0, 1], ``"wh"`` (N, H / 4, W / 4, 2) width and height of the box
        in cells, ``"offset"`` (N, H / 4, W / 4, 2) the centre's x and y offsets, in cells.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (2, 2, 2, 2),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        widths: tuple[int, ...] = (256, 128, 64),
        deformable: bool = True,
        num_classes: int = 80,
        hidden: int = 64,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = ResNet(BasicBlock, layers, planes=planes, features_only=True, out_indices=(4,))
        self.neck = CenterNetNeck(widths, deformable)
        self.bbox_head = CenterNetHead(num_classes, hidden)

    def call(self, images, training=False):
        x = self.backbone(images, training=training)["c5"]
        return self.bbox_head(self.neck(x, training=training))


@keras.saving.register_keras_serializable("diptych")
class MMDetCenterNetCriterion(keras.layers.Layer):
    """Focal loss of the heat maps, L1 losses of size and offset at the cells of the objects' centres.

    Args:
        overlap: IoU with itself that a box keeps when its corners move within the peak.
        wh_weight: of the loss of sizes.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part; of several objects in a cell the
        last one's size and offset count.
    Returns: dict of scalars: ``"loss_center_heatmap"``, ``"loss_wh"``, ``"loss_offset"``, ``"total"``.
    """

    def __init__(self, overlap: float = 0.3, wh_weight: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.overlap, self.wh_weight = overlap, wh_weight

    def call(self, outputs, targets):
        heat = outputs["heat"]
        dtype, (height, width) = heat.dtype, map_size(heat)
        boxes = tf.cast(targets["boxes"], dtype) / STRIDE
        size, centre = boxes[..., 2:] - boxes[..., :2], (boxes[..., :2] + boxes[..., 2:]) / 2  # (N, M, 2)
        limit = tf.constant([width, height], dtype)
        valid = targets["valid"] & tf.reduce_all((size > 0) & (centre >= 0) & (centre < limit), -1)
        size, centre = (tf.where(valid[..., None], x, tf.ones([], dtype)) for x in (size, centre))
        cell = tf.floor(centre)
        radius = tf.floor(tf.maximum(gaussian_radius(size[..., 1], size[..., 0], self.overlap), 0.0))
        wanted = heat_maps(cell, radius, targets["labels"], valid, heat.shape[-1], (height, width))  # mirror: NHWC

        peak = wanted == 1
        count = tf.maximum(tf.reduce_sum(tf.cast(peak, dtype)), 1.0)
        at_peaks = tf.math.log(heat + EPS) * tf.square(1 - heat)
        elsewhere = tf.math.log(1 - heat + EPS) * tf.square(heat) * (1 - wanted) ** 4
        peaks_loss = -tf.reduce_sum(tf.where(peak, at_peaks, elsewhere)) / (count + SINGLE)

        index = tf.cast(cell[..., 1] * width + cell[..., 0], tf.int64)
        slots = tf.range(boxes.shape[1])
        later = slots[:, None] < slots  # (M, M)
        again = (index[:, :, None] == index[:, None]) & later & valid[:, None]
        counted = valid & ~tf.reduce_any(again, 2)
        losses = {}
        for key, goal in (("wh", size), ("offset", centre - cell)):
            found = l1_loss(take_rows(map_rows(outputs[key]), index), goal)
            losses[key] = tf.reduce_sum(tf.where(counted, found, 0.0)) / (2 * count + SINGLE)
        extent, rest = self.wh_weight * losses["wh"], losses["offset"]
        return {
            "loss_center_heatmap": peaks_loss,
            "loss_wh": extent,
            "loss_offset": rest,
            "total": peaks_loss + extent + rest,
        }


@keras.saving.register_keras_serializable("diptych")
class MMDetCenterNetPostProcess(keras.layers.Layer):
    """The highest peaks of every image.

    Args:
        detections: results per image, D.
        kernel_size: size of the window in which a peak is the highest.

    Inputs: ``outputs`` of the model, with at least D values in the heat maps.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(self, detections: int = 100, kernel_size: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.detections, self.kernel_size = detections, kernel_size

    def call(self, outputs):
        heat = outputs["heat"]
        scores, labels, row, column = peaks(heat, self.kernel_size, self.detections)
        index = row * map_size(heat)[1] + column
        centre = tf.cast(tf.stack((column, row), -1), heat.dtype) + take_rows(map_rows(outputs["offset"]), index)
        half = take_rows(map_rows(outputs["wh"]), index) / 2
        boxes, valid = STRIDE * tf.concat((centre - half, centre + half), -1), scores > 0
        return {
            "boxes": tf.where(valid[..., None], boxes, tf.zeros([], boxes.dtype)),
            "scores": scores,
            "labels": tf.where(valid, labels, tf.zeros([], labels.dtype)),
            "valid": valid,
        }


def centernet_r18_dcnv2(layers=(2, 2, 2, 2), **options) -> MMDetCenterNet:
    return MMDetCenterNet(layers, **options)


def centernet_r18(layers=(2, 2, 2, 2), deformable: bool = False, **options) -> MMDetCenterNet:
    return MMDetCenterNet(layers, deformable=deformable, **options)
