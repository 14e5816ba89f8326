"""What the segmenters of instances share: backbone and pyramid P2 to P6, coordinates, boxes around masks.

Mirror notes:
- NHWC here, NCHW in PyTorch; masks of instances are (N, D, H, W) in both.
"""

import keras
import tensorflow as tf

from tf_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from tf_impl.layers.model import Model
from tf_impl.layers.resize import map_size

__all__ = ["LEVELS", "MaskDetector", "boxes_of_masks", "coordinates", "pyramid_backbone", "strided_masks"]

LEVELS = ("p2", "p3", "p4", "p5", "p6")
BLOCKS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


def pyramid_backbone(
    depth: int = 50,
    layers: tuple[int, ...] | None = None,
    planes: tuple[int, ...] = (64, 128, 256, 512),
    norm_eval: bool = True,
    frozen_stages: int = 1,
) -> ResNet:
    """A residual network's maps C2 to C5; 18, 34, 50 or 101 layers deep, unless ``layers`` says otherwise.

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
        norm_eval=norm_eval,
        frozen_stages=frozen_stages,
        features_only=True,
        out_indices=(1, 2, 3, 4),
    )


@keras.saving.register_keras_serializable("diptych")
class MaskDetector(Model):
    """Backbone, pyramid, head.

    Args:
        backbone: returns its maps by name.
        neck: makes levels of them, by name.
        mask_head: makes the maps of every level.

    Inputs: (N, H, W, 3) float, normalised; height and width are multiples of 32.
    Returns: what the head returns: a dict of maps.
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
    """Masks at a fraction of their size: what is half inside or more, judged by the four middle pixels of a cell.

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
