"""Features of boxes, each from the level of a pyramid that suits its size.

"Feature Pyramid Networks for Object Detection", 2016, arXiv:1612.03144, section 4.2.

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.convention import convention_of
from tf_impl.boxes.iou import box_area
from tf_impl.layers.roi_align import pyramid_roi_align

__all__ = ["RoIExtractor", "box_levels", "image_index"]


def box_levels(boxes_xyxy, bounds: tuple[float, ...]):
    """Index of the level that a box belongs to, 0 for the finest.

    Args:
        boxes_xyxy: (R, 4) in pixels.
        bounds: ascending; a box whose area has a square root of at least this is one level coarser.

    Returns:
        (R,) int64.
    """
    size = tf.sqrt(tf.maximum(box_area(boxes_xyxy), 0.0))
    return tf.reduce_sum(tf.cast(size[:, None] >= tf.constant(bounds, size.dtype), tf.int64), 1)


def image_index(boxes):
    """The image that every row of (N, R, 4) boxes belongs to.  -> (N * R,) int64."""
    count, rows = tf.unstack(tf.shape(boxes, out_type=tf.int64)[:2])
    return tf.reshape(tf.tile(tf.range(count)[:, None], (1, rows)), (-1,))


@keras.saving.register_keras_serializable("diptych")
class RoIExtractor(keras.layers.Layer):
    """RoIAlign on the level of every box.

    Args:
        convention: "torchvision" or "mmdet".
        output_size: bins of a box in each direction, B.
        levels: names of the maps, fine to coarse.

    Inputs: dict of maps (N, H, W, C), of stride 4 for "p2" and so on; boxes (N, R, 4) xyxy in pixels.
    Returns: (N * R, B, B, C).
    """

    def __init__(self, convention: str, output_size: int, levels: tuple[str, ...] = ("p2", "p3", "p4", "p5"), **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.convention, self.output_size, self.levels = convention_of(convention), output_size, tuple(levels)

    def call(self, maps, boxes):
        image, rows = image_index(boxes), tf.reshape(tf.stop_gradient(boxes), (-1, 4))
        level = box_levels(rows, self.convention.level_bounds[: len(self.levels) - 1])
        return pyramid_roi_align(
            [tf.cast(maps[name], rows.dtype) for name in self.levels],  # mirror: NHWC
            [1 / 2 ** int(name[1:]) for name in self.levels],
            level,
            rows,
            image,
            self.output_size,
            self.convention.sampling_ratio,
            self.convention.aligned,
        )
