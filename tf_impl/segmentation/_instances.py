"""Common parts of instance segmenters: the detector around a mask head, coordinates, boxes around masks.

Mirror notes:
- NHWC here, NCHW in PyTorch; masks of instances are (N, D, H, W) in both.
"""

import keras
import tensorflow as tf

from tf_impl.layers.model import Model
from tf_impl.layers.resize import map_size

__all__ = ["LEVELS", "MaskDetector", "boxes_of_masks", "coordinates", "strided_masks"]

LEVELS = ("p2", "p3", "p4", "p5", "p6")


@keras.saving.register_keras_serializable("diptych")
class MaskDetector(Model):
    """Backbone, pyramid, head.

    Args:
        backbone: returns its maps by name.
        neck: makes named levels from them.
        mask_head: makes the maps of every level.

    Inputs: (N, H, W, 3) float, normalised; height and width are multiples of 32.
    Returns: the head's result, a dict of maps.
    """

    def __init__(self, backbone, neck, mask_head, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone, self.neck, self.mask_head = backbone, neck, mask_head

    def call(self, images, training=False):
        maps = self.backbone(images, training=training)
        return self.mask_head(self.neck(maps, training=training), training=training)


def coordinates(maps):
    """x and y of every cell, from -1 in the first to 1 in the last.  (N, H, W, C) -> (N, H, W, 2)."""
    height, width = map_size(maps)
    one = tf.ones([], maps.dtype)
    x, y = tf.meshgrid(tf.linspace(-one, one, width), tf.linspace(-one, one, height))
    return tf.tile(tf.stack([x, y], -1)[None], (tf.shape(maps)[0], 1, 1, 1))


def strided_masks(masks, factor: int):
    """Downsample masks: 1 for cells at least half inside, judged by their four middle pixels.

    Args:
        masks: (N, M, H, W) 0 or 1.
        factor: even; H and W are multiples of it.

    Returns:
        (N, M, H / factor, W / factor) 0 or 1.
    """
    low, high = factor // 2 - 1, factor // 2
    rows = masks[:, :, low::factor] + masks[:, :, high::factor]
    return tf.cast(rows[..., low::factor] + rows[..., high::factor] >= 2, masks.dtype)


def boxes_of_masks(masks, dtype):
    """The smallest boxes around masks, xyxy in pixels; 0 around nothing.  (N, D, H, W) bool -> (N, D, 4)."""
    ends = []
    for inside in (tf.reduce_any(masks, 2), tf.reduce_any(masks, 3)):
        place = tf.range(inside.shape[-1])
        some = tf.reduce_any(inside, -1)
        first = tf.reduce_min(tf.where(inside, place, inside.shape[-1]), -1)
        ends.append((tf.where(some, first, 0), tf.reduce_max(tf.where(inside, place + 1, 0), -1)))
    (x1, x2), (y1, y2) = ends
    return tf.cast(tf.stack([x1, y1, x2, y2], -1), dtype)
