"""Faster R-CNN whose second stage is trained on the hardest proposals only.

"Training Region-based Object Detectors with Online Hard Example Mining", 2016, arXiv:1604.03540.
Reference: mmdet ``samplers/ohem_sampler.py`` (Apache-2.0). All proposals are classified first, without a gradient; the
positive and negative ones with the largest losses are selected and evaluated again.

Mirror notes:
- The same formulas in both panels; gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.assignment import BACKGROUND, IGNORED
from tf_impl.boxes.sampling import sample
from tf_impl.detection._two_stage import class_entropy
from tf_impl.detection.faster_rcnn import (
    StandardRoIHead,
    TwoStageDetector,
    mmdet_criterion,
    mmdet_postprocess,
    pyramid_detector,
)
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import top_k
from tf_impl.rois.sampling import sample_rois

__all__ = ["OHEMRoIHead", "faster_rcnn_r50_fpn_ohem", "mmdet_criterion", "mmdet_postprocess"]

SHARE = 0.25  # of the chosen proposals may be positive


@keras.saving.register_keras_serializable("diptych")
class OHEMRoIHead(StandardRoIHead):
    """The second stage that selects the proposals that it classifies worst.

    Args:
        num_classes, units, samples: see :class:`StandardRoIHead`.

    Inputs, returns: as for :class:`RoIHead`.
    """

    def __init__(self, num_classes: int, units: int = 1024, samples: int = 512, **kwargs):
        super().__init__(num_classes, units, samples=samples, **kwargs)

    def call(self, maps, proposals, image_size, targets=None, given: bool = False):
        if targets is None:
            return super().call(maps, proposals, image_size, targets, given)
        boxes, matched = self.mine(maps, proposals, targets)
        return {**super().call(maps, boxes, image_size, given=True), "matched": matched}

    def mine(self, maps, proposals, targets):
        """Boxes (N, S, 4), the objects among them, and what each belongs to, (N, S)."""
        count = proposals.shape[1] + targets["boxes"].shape[1]
        boxes, matched = sample_rois(proposals, targets, self.convention, count, 1.0, self.positive, self.low_quality)
        logits = tf.stop_gradient(self.classify(maps, boxes)[0])  # mirror: cut with
        logits = tf.reshape(logits, (-1, count, logits.shape[-1]))
        background = logits.shape[-1] - 1
        labels = tf.where(matched >= 0, take_rows(targets["labels"], matched), background)
        losses = class_entropy(logits, labels)
        chosen = sample(matched >= 0, matched == BACKGROUND, self.samples, SHARE, losses)
        kind = 2 * tf.cast(chosen[0], tf.int32) + tf.cast(chosen[1], tf.int32)
        kind, index = top_k(kind, min(self.samples, count))
        boxes = tf.where(kind[..., None] > 0, take_rows(boxes, index), 0.0)
        return boxes, tf.where(kind > 0, take_rows(matched, index), IGNORED)


def faster_rcnn_r50_fpn_ohem(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    **options,
) -> TwoStageDetector:
    head = OHEMRoIHead(num_classes, units, samples)
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)
