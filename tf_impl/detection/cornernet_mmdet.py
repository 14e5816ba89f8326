"""CornerNet as mmdet trains it: means over the two corners, sums over the hourglasses, probabilities that are not
clipped.

"CornerNet: Detecting Objects as Paired Keypoints", 2018, arXiv:1808.01244.
Source of the losses: mmdet ``dense_heads/corner_head.py``, ``losses/ae_loss.py`` (Apache-2.0). Network, names and
results are those of :class:`CornerNet`.

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.heatmaps import gaussian_radius, heat_maps
from tf_impl.detection.cornernet import CORNERS, CornerNet, CornerNetPostProcess
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import map_rows, take_rows
from tf_impl.losses.box import smooth_l1_loss

__all__ = ["CornerNetPostProcess", "MMDetCornerNetCriterion", "cornernet_hourglass104_mmdet"]

TINY = 1e-12  # in the logarithms
SINGLE = 1.1920928955078125e-07  # added to the divisors


@keras.saving.register_keras_serializable("diptych")
class MMDetCornerNetCriterion(keras.layers.Layer):
    """Focal loss of the heat maps, pull and push of the tags, smooth L1 loss of the offsets at the objects' corners.

    Args:
        overlap: IoU with itself that a box keeps when its corners move within the peak.
        pull_weight, push_weight: factors of the losses.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part; of several corners in a cell the
        last one's offset counts.
    Returns: dict of scalars: ``"det_loss"``, ``"pull_loss"``, ``"push_loss"``, ``"off_loss"``, ``"total"``; sums over
        the hourglasses.
    """

    def __init__(self, overlap: float = 0.3, pull_weight: float = 0.1, push_weight: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.overlap, self.pull_weight, self.push_weight = overlap, pull_weight, push_weight

    def call(self, outputs, targets):
        heat = outputs["tl_heat"]
        dtype, (height, width) = heat.dtype, map_size(heat)
        grid = tf.constant([width, height], dtype)
        ratio = grid / tf.cast(outputs["image_size"][::-1], dtype)
        boxes = tf.cast(targets["boxes"], dtype) * tf.tile(ratio, (2,))
        size = tf.math.ceil(boxes[..., 2:] - boxes[..., :2])
        valid = targets["valid"] & tf.reduce_all(size > 0, -1)
        size = tf.where(valid[..., None], size, tf.ones([], dtype))
        radius = tf.floor(tf.maximum(gaussian_radius(size[..., 1], size[..., 0], self.overlap), 0.0))

        zero = tf.zeros([], dtype)
        losses = dict.fromkeys(("det_loss", "pull_loss", "push_loss", "off_loss"), zero)
        stacks = [f"_{i}" for i in range(len(outputs) // 6 - 1)] + [""]
        tags = {stack: [] for stack in stacks}
        for corner, place in zip(CORNERS, (boxes[..., :2], boxes[..., 2:])):
            cell = tf.floor(tf.maximum(tf.minimum(place, grid - 1), 0.0))  # (N, M, 2)
            index = tf.cast(cell[..., 1] * width + cell[..., 0], tf.int64)
            counted = valid & ~self.taken_later(index, valid)
            wanted = heat_maps(cell, radius, targets["labels"], valid, heat.shape[-1], (height, width))  # mirror: NHWC
            for stack in stacks:
                found = [take_rows(map_rows(outputs[f"{corner}_{key}{stack}"]), index) for key in ("tag", "regr")]
                tags[stack].append(found[0][..., 0])  # (N, M)
                rests = tf.reduce_sum(tf.where(counted, smooth_l1_loss(found[1], place - cell), 0.0))
                rests = rests / (tf.maximum(tf.reduce_sum(tf.cast(counted, dtype)), 1.0) + SINGLE)
                losses["off_loss"] = losses["off_loss"] + rests / 2
                peaks = self.peak_loss(tf.sigmoid(outputs[f"{corner}_heat{stack}"]), wanted)
                losses["det_loss"] = losses["det_loss"] + peaks / 2
        for first, second in tags.values():
            together, apart = self.tag_losses(first, second, valid)
            losses["pull_loss"] = losses["pull_loss"] + self.pull_weight * together
            losses["push_loss"] = losses["push_loss"] + self.push_weight * apart
        return {**losses, "total": sum(losses.values())}

    @staticmethod
    def taken_later(index, valid):
        """Which objects share their cell with a later one.  (N, M) twice -> (N, M) bool."""
        slots = tf.range(index.shape[1])
        later = (slots[:, None] < slots) & valid[:, None]  # (N, M, M)
        return tf.reduce_any((index[:, :, None] == index[:, None]) & later, 2)

    @staticmethod
    def peak_loss(heat, wanted):
        """Focal loss of probabilities, weaker near a peak, by the number of peaks.  (N, H, W, K) twice -> scalar."""
        peak = wanted == 1
        at_peaks = tf.math.log(heat + TINY) * tf.square(1 - heat)
        elsewhere = tf.math.log(1 - heat + TINY) * tf.square(heat) * (1 - wanted) ** 4
        count = tf.maximum(tf.reduce_sum(tf.cast(peak, heat.dtype)), 1.0) + SINGLE
        return -tf.reduce_sum(tf.where(peak, at_peaks, elsewhere)) / count

    @staticmethod
    def tag_losses(first, second, valid):
        """Distances of an object's tags from their mean, and closeness of the objects' means; sums over the batch."""
        mean = (first + second) / 2
        number = tf.maximum(tf.reduce_sum(tf.cast(valid, mean.dtype), 1), 1.0)  # (N,)
        together = (tf.square(first - mean) + tf.square(second - mean)) / number[:, None]
        near = tf.nn.relu(1 - tf.abs(mean[:, None] - mean[:, :, None]))  # (N, M, M)
        near = near / tf.maximum(number * (number - 1), 1.0)[:, None, None]
        pairs = valid[:, None] & valid[:, :, None] & ~tf.eye(mean.shape[1], dtype=tf.bool)
        return tf.reduce_sum(tf.where(valid, together, 0.0)), tf.reduce_sum(tf.where(pairs, near, 0.0))


def cornernet_hourglass104_mmdet(stacks: int = 2, **options) -> CornerNet:
    return CornerNet(stacks, **options)
