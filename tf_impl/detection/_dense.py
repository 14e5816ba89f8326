"""Common parts of mmdet's one-stage detectors: backbone, pyramid and towers, points of the levels, the best boxes.

Names: mmdet ``detectors/single_stage.py``, ``dense_heads/anchor_free_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch: there the heads' maps are transposed before they become rows of cells, here not.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.coders import clip_boxes
from tf_impl.boxes.points import grid_points
from tf_impl.boxes.results import results
from tf_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.model import Model
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import map_rows, take_rows
from tf_impl.layers.top_k import top_k
from tf_impl.necks.fpn import FPN

__all__ = [
    "EPS",
    "LEVELS",
    "PRIOR_BIAS",
    "STRIDES",
    "DenseDetector",
    "DenseHead",
    "DensePostProcess",
    "dense_backbone",
    "dense_neck",
    "level_points",
    "level_rows",
    "one_hot",
    "rows",
]

LEVELS = ("p3", "p4", "p5", "p6", "p7")
STRIDES = (8, 16, 32, 64, 128)
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)  # logit of every class before training: probability 0.01
EPS = 1.1920929e-07  # of float32; mmdet adds it to its divisors
BLOCKS = {18: (BasicBlock, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3)), 101: (Bottleneck, (3, 4, 23, 3))}


def rows(outputs, key: str):
    """All maps ``key_p3`` ... of a model, (N, H, W, C), as (N, sum of H * W, C)."""
    return tf.concat([map_rows(outputs[f"{key}_{level}"]) for level in LEVELS], 1)


def level_rows(outputs, key: str, strides: tuple[int, ...]):
    """The same as :func:`rows` for a pyramid that ends earlier, with as many levels as there are strides."""
    return tf.concat([map_rows(outputs[f"{key}_{level}"]) for level, _ in zip(LEVELS, strides)], 1)


def level_points(outputs, strides: tuple[int, ...], offset: float = 0.5) -> list[np.ndarray]:
    """The points (H * W, 2) of every level, x and y in pixels."""
    return [grid_points(map_size(outputs[f"cls_{level}"]), stride, offset) for level, stride in zip(LEVELS, strides)]


def one_hot(labels, present, classes: int, dtype):
    """1 for the class of every row that is present.  (N, P) -> (N, P, classes)."""
    every = tf.range(classes, dtype=labels.dtype)
    return tf.cast((labels[..., None] == every) & present[..., None], dtype)


def dense_backbone(
    depth: int = 50,
    layers: tuple[int, ...] | None = None,
    planes: tuple[int, ...] = (64, 128, 256, 512),
    norm_eval: bool = True,
    frozen_stages: int = 1,
    stride_in_1x1: bool = False,
) -> ResNet:
    """A residual network's maps C3 to C5; 18, 50 or 101 layers deep, unless ``layers`` says otherwise.

    Raises:
        ValueError: if there is no such depth.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth={depth} must be one of {sorted(BLOCKS)}")
    block, blocks = BLOCKS[depth]
    return ResNet(
        block,
        blocks if layers is None else layers,
        planes=planes,
        stride_in_1x1=stride_in_1x1,
        norm_eval=norm_eval,
        frozen_stages=frozen_stages,
        features_only=True,
        out_indices=(2, 3, 4),
    )


def dense_neck(backbone, out_channels: int, extra: str, relu_before_extra: bool = False) -> FPN:
    """The pyramid P3 to P7 of a backbone's maps."""
    return FPN(backbone.channels, out_channels, len(LEVELS), extra, relu_before_extra)


@keras.saving.register_keras_serializable("diptych")
class DenseDetector(Model):
    """Backbone, pyramid, head.

    Args:
        backbone: returns its maps by name.
        neck: makes named levels from them.
        bbox_head: makes the maps of every level.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: the head's result, a dict of maps of every level.
    """

    def __init__(self, backbone, neck, bbox_head, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone, self.neck, self.bbox_head = backbone, neck, bbox_head

    def call(self, images, training=False):
        maps = self.backbone(images, training=training)
        return self.bbox_head(self.neck(maps, training=training), training=training)


@keras.saving.register_keras_serializable("diptych")
class DenseHead(keras.layers.Layer):
    """Two towers of 3x3 convolutions over every level, one for classes and one for boxes.

    Args:
        channels: channels of the levels and of the convolutions.
        num_convs: convolutions of each tower.
        norm_groups: groups of a group normalisation after each of them, or None.
        conv_bias: whether they have a bias; None: only if there is no normalisation.
    """

    def __init__(
        self,
        channels: int,
        num_convs: int = 4,
        norm_groups: int | None = 32,
        conv_bias: bool | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        norm = None if norm_groups is None else "group"
        for name in ("cls_convs", "reg_convs"):
            convs = [
                ConvModule(
                    channels,
                    3,
                    padding=1,
                    use_bias=conv_bias,
                    norm=norm,
                    norm_groups=norm_groups,
                    kernel_initializer=SmallNormal,
                )
                for _ in range(num_convs)
            ]
            setattr(self, name, convs)

    def towers(self, x, training=False):
        """One level (N, H, W, C) -> two maps of the same shape, for classes and for boxes."""
        y = x
        for conv in self.cls_convs:
            y = conv(y, training=training)
        for conv in self.reg_convs:
            x = conv(x, training=training)
        return y, x

    @staticmethod
    def last(filters: int, bias: float = 0.0) -> Conv2D:
        """A 3x3 output convolution with the given initial bias."""
        bias = keras.initializers.Constant(bias)
        return Conv2D(filters, 3, padding=1, kernel_initializer=SmallNormal, bias_initializer=bias)

    @staticmethod
    def named(found: dict) -> dict:
        """Lists of the levels' maps by key -> the maps by ``key_p3`` and so on."""
        return {f"{key}_{level}": x for key, maps in found.items() for level, x in zip(LEVELS, maps)}


@keras.saving.register_keras_serializable("diptych")
class DensePostProcess(keras.layers.Layer):
    """The best boxes of every image, as in mmdet.

    Of each level the best pairs of cell and class are kept, by the class alone; only then are scores multiplied by the
    centredness. Boxes without area inside the image are dropped, the others suppressed by class.

    Args:
        score_threshold: pairs of at most this probability of the class are dropped.
        candidates: pairs kept per level.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images, a pair or (N, 2)
        integer for images that were padded on the right and at the bottom.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.5,
        detections: int = 100,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections, self.strides = iou_threshold, detections, tuple(strides)

    def decode(self, outputs):
        """The boxes of all cells, (N, P, 4) in pixels."""
        raise NotImplementedError

    def ranked(self, outputs):
        """The scores of all pairs of cell and class, (N, P, K), by which candidates are chosen."""
        return tf.sigmoid(rows(outputs, "cls"))

    def final(self, outputs, scores, index):
        """The final scores of candidates (N, B), given their cells ``index``."""
        if f"ctr_{LEVELS[0]}" not in outputs:
            return scores
        return scores * tf.sigmoid(take_rows(rows(outputs, "ctr")[..., 0], index))

    def limit(self, boxes, size):
        """Clip boxes to the image.  (N, B, 4), (2,) or (N, 2) -> (N, B, 4)."""
        return clip_boxes(boxes, size)

    def call(self, outputs, input_size):
        return self.detect(outputs, input_size)[1]

    def detect(self, outputs, input_size):
        """The cells (N, D) that the results come from, and the results."""
        every, boxes = self.ranked(outputs), self.decode(outputs)
        classes = every.shape[-1]
        found, start = [], 0
        for points in level_points(outputs, self.strides):
            of_level = tf.reshape(every[:, start : start + len(points)], (-1, len(points) * classes))
            scores, pairs = top_k(of_level, min(self.candidates, len(points) * classes))
            found.append((scores, pairs + start * classes))
            start += len(points)
        scores, pairs = (tf.concat(parts, 1) for parts in zip(*found))
        index = pairs // classes
        labels = pairs - index * classes
        boxes = self.limit(take_rows(boxes, index), tf.convert_to_tensor(input_size))
        valid = scores > self.score_threshold
        scores = self.final(outputs, scores, index)
        valid = valid & tf.reduce_all(boxes[..., 2:] > boxes[..., :2], -1)
        kept, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return take_rows(index, kept), results(boxes, scores, labels, kept, valid)
