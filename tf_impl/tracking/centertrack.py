"""CenterTrack: a detector that also sees the previous frame and where its objects were, and predicts how far each has
moved.

"Tracking Objects as Points", 2020, arXiv:2004.01177. Parameter names: xingyizhou/CenterTrack ``model/networks`` (MIT).
What to look at: two more stems are all that the network needs to track; identities are assigned greedily, in
``weights/processing/tracking/centertrack.py``.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.heatmaps import peaks
from tf_impl.losses.heatmap import clamped_sigmoid
from tf_impl.tracking._dla import DLASeg, gathered_l1, gathered_rows

__all__ = [
    "CenterTrack",
    "CenterTrackCriterion",
    "CenterTrackPostProcess",
    "centertrack_coco",
    "centertrack_mot17",
]

STRIDE = 4  # pixels per cell of the maps
WEIGHTS = {"hm": 1.0, "reg": 1.0, "wh": 0.1, "tracking": 1.0, "ltrb_amodal": 0.1}
# target of every head except the first, and the mask of the objects that count
TARGETS = {
    "reg": ("offsets", "valid"),
    "wh": ("sizes", "valid"),
    "tracking": ("moves", "followed"),
    "ltrb_amodal": ("borders", "valid"),
}


@keras.saving.register_keras_serializable("diptych")
class CenterTrack(DLASeg):
    """The network of the paper.

    Args:
        num_classes: classes K.
        amodal: whether there is a head for the borders of boxes that extend beyond the image.
        depths, widths: of the trunk, see ``DLA``.
        hidden: width of the heads' first convolution.

    Inputs: ``images`` and ``previous`` (N, H, W, 3) float, normalised, multiples of 32; ``heat`` (N, H, W, 1),
        peaks of the objects in the previous frame.
    Returns: dict of maps of stride 4: ``"hm"`` K logits, ``"reg"`` the centre's offset in its cell, ``"wh"`` size,
        ``"tracking"`` the offset to the centre in the previous frame, with ``amodal`` ``"ltrb_amodal"`` borders; all
        in cells.
    """

    def __init__(
        self,
        num_classes: int = 80,
        amodal: bool = False,
        depths: tuple[int, ...] = (1, 1, 1, 2, 2, 1),
        widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512),
        hidden: int = 256,
        **kwargs,
    ):
        heads = {"hm": num_classes, "reg": 2, "wh": 2, "tracking": 2, **({"ltrb_amodal": 4} if amodal else {})}
        super().__init__(heads, depths, widths, True, hidden, -4.6, **kwargs)

    def call(self, images, previous, heat, training=False):
        return self.answers(images, previous, heat, training)


@keras.saving.register_keras_serializable("diptych")
class CenterTrackCriterion(keras.layers.Layer):
    """Focal loss of the peaks, L1 of the heads' outputs at them.

    Args:
        weights: of the heads.

    Inputs: ``outputs`` of :class:`CenterTrack`; ``targets``: ``"peaks"`` (N, H, W, K), ``"index"`` (N, M) int64
        cells row by row, ``"labels"`` (N, M) int64, ``"valid"`` (N, M) bool; ``"offsets"``, ``"sizes"``, ``"moves"``
        (N, M, 2), ``"followed"`` (N, M) bool, whose move is known; for the amodal head ``"borders"`` (N, M, 4).
    Returns: dict of scalars, unweighted: one for each head, ``"total"``.
    """

    def __init__(self, weights: dict[str, float] = WEIGHTS, **kwargs):
        super().__init__(**kwargs)
        self.shares = dict(weights)

    def call(self, outputs, targets):
        p, valid = clamped_sigmoid(outputs["hm"]), tf.cast(targets["valid"], outputs["hm"].dtype)
        wanted = tf.cast(targets["peaks"], p.dtype)
        away = tf.reduce_sum(tf.math.log(1 - p) * tf.square(p) * (1 - wanted) ** 4)
        peak = tf.gather(gathered_rows(p, targets["index"]), targets["labels"], batch_dims=2)  # (N, M)
        here = tf.reduce_sum(tf.math.log(peak) * tf.square(1 - peak) * valid)
        losses = {"hm": -(here + away) / tf.maximum(tf.reduce_sum(valid), 1.0)}
        for head, (target, counted) in TARGETS.items():
            if head in outputs:
                losses[head] = gathered_l1(outputs[head], targets["index"], targets[target], targets[counted])
        return {**losses, "total": sum(self.shares[head] * loss for head, loss in losses.items())}


@keras.saving.register_keras_serializable("diptych")
class CenterTrackPostProcess(keras.layers.Layer):
    """The best peaks of every frame.

    Args:
        detections: results per frame, D.

    Inputs: ``outputs`` of :class:`CenterTrack`.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy, ``"centres"`` and ``"moves"`` (N, D, 2) in pixels, ``"scores"`` (N, D)
        descending, ``"labels"`` (N, D) int64.
    """

    def __init__(self, detections: int = 100, **kwargs):
        super().__init__(**kwargs)
        self.detections = detections

    def call(self, outputs):
        heat = tf.sigmoid(outputs["hm"])
        scores, labels, row, column = peaks(heat, 3, self.detections)
        index = row * heat.shape[2] + column
        cell = tf.cast(tf.stack((column, row), -1), heat.dtype)
        found = {name: gathered_rows(x, index) for name, x in outputs.items() if name != "hm"}
        half = tf.maximum(found["wh"], 0.0) / 2
        centre = cell + found["reg"]
        boxes = tf.concat((centre - half, centre + half), -1)
        if "ltrb_amodal" in found:
            boxes = tf.concat((cell, cell), -1) + found["ltrb_amodal"]
        return {
            "boxes": STRIDE * boxes,
            "centres": STRIDE * cell,
            "moves": STRIDE * found["tracking"],
            "scores": scores,
            "labels": labels,
        }


def centertrack_mot17(num_classes=1, amodal=True, **options) -> CenterTrack:
    return CenterTrack(num_classes, amodal, **options)


def centertrack_coco(**options) -> CenterTrack:
    return CenterTrack(**options)
