"""Region proposal networks: which anchors may contain an object, and the best boxes regressed from them.

"Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015, arXiv:1506.01497.
Names: torchvision ``detection/rpn.py`` (BSD-3); mmdet ``dense_heads/rpn_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch: there the maps are transposed before they become rows of anchors, here not.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.boxes.anchors import cell_anchors, grid_anchors
from tf_impl.boxes.coders import DeltaCoder, clip_boxes
from tf_impl.boxes.convention import convention_of
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.precision import single
from tf_impl.layers.rows import anchor_rows, take_rows
from tf_impl.layers.top_k import top_k

__all__ = ["ProposalNetwork", "RPNHead", "RegionProposalNetwork"]

RATIOS = (0.5, 1.0, 2.0)  # height / width
CONV = functools.partial(Conv2D, kernel_initializer=SmallNormal, bias_initializer="zeros")


@keras.saving.register_keras_serializable("diptych")
class ProposalNetwork(keras.layers.Layer):
    """Base of both networks below.

    Args:
        convention: "torchvision" or "mmdet".
        candidates: anchors kept per level, in training and in evaluation.
        proposals: boxes kept per image, in training and in evaluation, P.
        sizes: square roots of the anchors' areas, in strides.
        iou_threshold: boxes of one level overlap if their IoU is larger.

    Inputs: dict of levels (N, H, W, C), of stride 4 for "p2" and so on; ``image_size``: height and width in pixels;
        ``learning``: whether to keep as many as in training.
    Returns: dict: ``"objectness"`` (N, A) logits, ``"anchor_deltas"`` (N, A, 4), ``"anchors"`` (A, 4) xyxy in pixels,
        level by level; ``"proposals"`` (N, P, 4) xyxy in pixels, best first, then rows of 0.
    """

    def __init__(
        self,
        convention: str,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (2000, 1000),
        sizes: tuple[float, ...] = (8.0,),
        iou_threshold: float = 0.7,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.convention = convention_of(convention)
        self.candidates, self.proposals, self.sizes = tuple(candidates), tuple(proposals), tuple(sizes)
        self.iou_threshold, self.coder = iou_threshold, DeltaCoder(clamp=self.convention.clamp)

    def maps(self, x):
        """One level -> logits (N, H, W, A) and deltas (N, H, W, 4 * A) of its cells' anchors."""
        raise NotImplementedError

    def anchors_of(self, level: str, size, image_size):
        """The anchors of a level (A, 4)."""
        nominal = 2 ** int(level[1:])
        cell = cell_anchors([size * nominal for size in self.sizes], RATIOS, self.convention.rounded_anchors)
        stride = (nominal, nominal)
        if not self.convention.nominal_stride:
            stride = tuple(whole // cells for whole, cells in zip(image_size, size))
        return grid_anchors(cell, size, stride)

    def call(self, maps, image_size, learning: bool = False):
        logits, deltas, anchors = [], [], []
        for level, x in maps.items():
            of_objects, of_boxes = (single(values) for values in self.maps(x))
            logits.append(anchor_rows(of_objects, 1)[..., 0])
            deltas.append(anchor_rows(of_boxes, 4))
            anchors.append(tf.constant(self.anchors_of(level, x.shape[1:3], image_size), of_boxes.dtype))
        proposals = self.best(logits, deltas, anchors, image_size, learning)
        return {
            "objectness": tf.concat(logits, 1),
            "anchor_deltas": tf.concat(deltas, 1),
            "anchors": tf.concat(anchors, 0),
            "proposals": proposals,
        }

    def best(self, logits, deltas, anchors, image_size, learning: bool):
        """The best boxes (N, P, 4), from lists by level of logits (N, A), deltas (N, A, 4) and anchors (A, 4)."""
        found = []
        for level, (of_objects, of_boxes, boxes) in enumerate(zip(logits, deltas, anchors)):
            scores = tf.stop_gradient(of_objects)
            scores = scores if self.convention.rank_logits else tf.sigmoid(scores)
            scores, index = top_k(scores, min(self.candidates[not learning], scores.shape[1]))
            scores = tf.sigmoid(scores) if self.convention.rank_logits else scores
            boxes = self.coder.decode(take_rows(tf.stop_gradient(of_boxes), index), tf.gather(boxes, index))
            found.append((scores, boxes, tf.fill(tf.shape(index), tf.constant(level, index.dtype))))
        scores, boxes, levels = (tf.concat(parts, 1) for parts in zip(*found))
        boxes = clip_boxes(boxes, tf.constant(image_size, tf.int64))
        size, least = boxes[..., 2:] - boxes[..., :2], self.convention.least_proposal
        valid = tf.reduce_all((size >= least) if least else (size > 0), -1)
        index, valid = batched_nms(boxes, scores, levels, valid, self.iou_threshold, self.proposals[not learning])
        return tf.where(valid[..., None], take_rows(boxes, index), 0.0)


@keras.saving.register_keras_serializable("diptych")
class RPNConvolutions(keras.layers.Layer):
    """torchvision's convolutions: a 3x3 one with ReLU, then 1x1 ones for logits and deltas."""

    def __init__(self, filters: int, num_anchors: int, **kwargs):
        super().__init__(**kwargs)
        conv = CONV(filters, 3, padding=1)
        self.conv = keras.Sequential([keras.Sequential([conv, keras.layers.ReLU()])])
        self.cls_logits = CONV(num_anchors, 1)
        self.bbox_pred = CONV(num_anchors * 4, 1)

    def call(self, x):
        x = self.conv(x)
        return self.cls_logits(x), self.bbox_pred(x)


@keras.saving.register_keras_serializable("diptych")
class RegionProposalNetwork(ProposalNetwork):
    """torchvision's names.

    Args:
        filters: channels of the levels.
        candidates, proposals: see :class:`ProposalNetwork`.
    """

    def __init__(
        self,
        filters: int,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (2000, 1000),
        **kwargs,
    ):
        super().__init__("torchvision", candidates, proposals, **kwargs)
        self.head = RPNConvolutions(filters, len(RATIOS) * len(self.sizes))

    def maps(self, x):
        return self.head(x)


@keras.saving.register_keras_serializable("diptych")
class RPNHead(ProposalNetwork):
    """mmdet's names.

    Args:
        filters: channels of the levels and of the 3x3 convolution.
        candidates, proposals, sizes: see :class:`ProposalNetwork`.
    """

    def __init__(
        self,
        filters: int,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (1000, 1000),
        sizes: tuple[float, ...] = (8.0,),
        **kwargs,
    ):
        super().__init__("mmdet", candidates, proposals, sizes, **kwargs)
        anchors = len(RATIOS) * len(self.sizes)
        self.rpn_conv = CONV(filters, 3, padding=1)
        self.rpn_cls = CONV(anchors, 1)
        self.rpn_reg = CONV(anchors * 4, 1)

    def maps(self, x):
        x = tf.nn.relu(self.rpn_conv(x))
        return self.rpn_cls(x), self.rpn_reg(x)
