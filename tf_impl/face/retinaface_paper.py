"""RetinaFace as its paper has it: five levels, three anchors in a cell, deformable context modules, shared heads.

"RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019, arXiv:1905.00641, sections 3.1, 3.2 and 4.2. No
public code has this layout, so names follow ``retinaface.py``. What to look at: sizes grow by a third of an octave, so
102,300 anchors of an image of 640 pixels cover faces of 16 to 406; between face and background lies a gap.

Mirror notes:
- NHWC here, NCHW in PyTorch: there maps are transposed before they become rows of anchors.
- Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.anchors import cell_anchors, grid_anchors
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.face.retinaface import SSH, RetinaFaceCriterion, RetinaFacePostProcess, conv_bn
from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.deform_conv import DeformConv2dPack
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.resize import map_size, resize_nearest
from tf_impl.layers.top_k import argmax

__all__ = [
    "PaperRetinaFace",
    "PaperRetinaFaceCriterion",
    "RetinaFacePostProcess",
    "retinaface_resnet152_p2p6",
]

STEPS = (4, 8, 16, 32, 64)  # pixels from cell to cell in each level
SCALES = 3  # anchors of a cell
SMALLEST = 16  # size of the smallest anchor, pixels
NUMBERS = {"boxes": 4, "classes": 2, "landmarks": 10}  # values per anchor


def deform_bn(filters: int, kernel_size: int, slope: float | None):
    """A deformable convolution, normalisation, leaky ReLU unless the slope is None."""
    layers = [DeformConv2dPack(filters, kernel_size, padding=kernel_size // 2), BatchNormalization()]
    return keras.Sequential(layers if slope is None else [*layers, LeakyReLU(slope)])


@keras.saving.register_keras_serializable("diptych")
class DeformablePyramid(keras.layers.Layer):
    """Lateral 1x1 convolutions, addition from the top down, deformable convolutions of the finer sums; P6 from C5.

    Args:
        filters: channels of the levels.

    maps: four (N, H_i, W_i, C_i) -> five (N, H_i, W_i, filters), fine to coarse.
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.outputs = [conv_bn(filters, 1, 0.0) for _ in STEPS[:-1]]
        self.merges = [deform_bn(filters, 3, 0.0) for _ in STEPS[:-2]]
        self.coarsest = conv_bn(filters, 3, 0.0, 2)

    def call(self, maps, training=False):
        *laterals, level = (lateral(x, training=training) for lateral, x in zip(self.outputs, maps, strict=True))
        levels = [level, self.coarsest(maps[-1], training=training)]
        for merge, lateral in zip(reversed(self.merges), reversed(laterals), strict=True):
            level = merge(lateral + resize_nearest(level, map_size(lateral)), training=training)
            levels.insert(0, level)
        return levels


@keras.saving.register_keras_serializable("diptych")
class PaperRetinaFace(Model):
    """The detector.

    Args:
        layers, planes: of the residual network, see :class:`ResNet`.
        out_channels: channels of the levels.

    Inputs: (N, H, W, 3) float, BGR minus (104, 117, 123).
    Returns: dict: ``"boxes"`` (N, A, 4) and ``"landmarks"`` (N, A, 10) relative to the anchors, ``"classes"`` (N, A, 2)
        logits (none, face), ``"anchors"`` (A, 4) xyxy in pixels.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 8, 36, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        out_channels: int = 256,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.body = ResNet(Bottleneck, layers, planes=planes, features_only=True, out_indices=(1, 2, 3, 4))
        self.fpn = DeformablePyramid(out_channels)
        self.context = [SSH(out_channels, 0.0, deform_bn) for _ in STEPS]
        self.heads = {name: Conv2D(SCALES * k, 1) for name, k in NUMBERS.items()}

    def call(self, images, training=False):
        levels = self.fpn(list(self.body(images, training=training).values()), training=training)
        levels = [context(x, training=training) for context, x in zip(self.context, levels, strict=True)]
        outputs = {}
        for name, numbers in NUMBERS.items():
            rows = [self.heads[name](x) for x in levels]  # mirror: NHWC
            outputs[name] = tf.concat([tf.reshape(x, (-1, SCALES * x.shape[1] * x.shape[2], numbers)) for x in rows], 1)
        anchors = [
            grid_anchors(cell_anchors(sizes_of(i), (1.0,)), map_size(x), (step, step), 0.5)
            for i, (step, x) in enumerate(zip(STEPS, levels, strict=True))
        ]
        return {**outputs, "anchors": tf.concat([tf.constant(x, images.dtype) for x in anchors], 0)}


def sizes_of(level: int) -> tuple[float, ...]:
    """Sizes of the square anchors of a cell of a level, pixels."""
    return tuple(SMALLEST * 2 ** (level + k / SCALES) for k in range(SCALES))


@keras.saving.register_keras_serializable("diptych")
class PaperRetinaFaceCriterion(RetinaFaceCriterion):
    """The paper's losses: anchors that overlap a face a little are neither face nor background.

    Args:
        overlap: from which on an anchor is a face.
        background: below which it is background.
        negatives, box_weight, landmark_weight: see :class:`RetinaFaceCriterion`.

    Inputs and returns: those of :class:`RetinaFaceCriterion`.
    """

    def __init__(
        self,
        overlap: float = 0.5,
        background: float = 0.3,
        negatives: int = 3,
        box_weight: float = 0.25,
        landmark_weight: float = 0.1,
        **kwargs,
    ):
        super().__init__(overlap, negatives, box_weight, landmark_weight, **kwargs)
        self.background = background

    def assign(self, boxes, valid, anchors):
        """See :meth:`RetinaFaceCriterion.assign`; no face takes an anchor that overlaps it less."""
        iou = pairwise_iou(boxes, anchors)
        iou = tf.where(valid[..., None], iou, -tf.ones_like(iou))  # (N, M, A)
        highest = tf.reduce_max(iou, 1)
        return argmax(iou, 1), highest >= self.overlap, highest < self.background


def retinaface_resnet152_p2p6(**options) -> PaperRetinaFace:
    return PaperRetinaFace(**options)
