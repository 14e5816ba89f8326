"""Faster R-CNN whose results may overlap, with lowered scores.

"Soft-NMS -- Improving Object Detection With One Line of Code", 2017, arXiv:1704.04503.
Reference: mmdet ``faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco.py`` (Apache-2.0). The network is that of Faster
R-CNN.

Mirror notes:
- The layers have the same names in both panels, and their framework's argument names.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.coders import clip_boxes
from tf_impl.boxes.sampling import has_area
from tf_impl.detection.faster_rcnn import TwoStageDetector, TwoStagePostProcess, faster_rcnn_r50_fpn, mmdet_criterion
from tf_impl.layers.rows import take_rows
from tf_impl.layers.soft_nms import batched_soft_nms
from tf_impl.layers.top_k import top_k

__all__ = ["SoftNMSPostProcess", "faster_rcnn_r50_fpn_soft_nms", "mmdet_criterion"]


@keras.saving.register_keras_serializable("diptych")
class SoftNMSPostProcess(TwoStagePostProcess):
    """The best boxes of every image, by soft suppression in every class.

    Args:
        score_threshold, candidates, iou_threshold, detections: see :class:`TwoStagePostProcess`.
        sigma, min_score, method: see :func:`batched_soft_nms`.

    Inputs, returns: as for :class:`TwoStagePostProcess`; scores are lowered.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
        sigma: float = 0.5,
        min_score: float = 1e-3,
        method: str = "linear",
        **kwargs,
    ):
        super().__init__("mmdet", score_threshold, candidates, iou_threshold, detections, **kwargs)
        self.options = {"method": method, "sigma": sigma, "iou_threshold": iou_threshold, "min_score": min_score}

    def detect(self, probabilities, deltas, proposals, image_size):
        classes = probabilities.shape[-1] - 1
        scores = tf.where(has_area(proposals)[..., None], probabilities[..., :-1], -1.0)
        scores = tf.reshape(scores, (-1, scores.shape[1] * classes))
        scores, pairs = top_k(scores, min(self.candidates, scores.shape[1]))
        index = pairs // classes
        labels = pairs - index * classes
        deltas = take_rows(tf.reshape(deltas, (-1, deltas.shape[1] * classes, 4)), pairs)
        boxes = clip_boxes(self.coder.decode(deltas, take_rows(proposals, index)), image_size)
        valid = scores > self.score_threshold
        index, scores, valid = batched_soft_nms(boxes, scores, labels, valid, self.detections, **self.options)
        return {
            "boxes": tf.where(valid[..., None], take_rows(boxes, index), 0.0),
            "scores": scores,
            "labels": tf.where(valid, take_rows(labels, index), 0),
            "valid": valid,
        }


def faster_rcnn_r50_fpn_soft_nms(layers=(3, 4, 6, 3), **options) -> TwoStageDetector:
    return faster_rcnn_r50_fpn(layers=layers, **options)
