"""Detectors whose backbone adds the context of the whole map to every position.

"GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", 2019, arXiv:1904.11492.
Parameter names: mmdet ``gcnet`` (Apache-2.0). Every block of stages 3 to 5 ends with a global context block, before its
shortcut is added.

Mirror notes:
- The layers have the same names in both panels, and their framework's argument names.
"""

import functools

from tf_impl.detection.mask_rcnn import MaskPostProcess, mask_mmdet_criterion, mask_rcnn_r50_fpn
from tf_impl.layers.context import ContextBlock

__all__ = [
    "MaskPostProcess",
    "mask_mmdet_criterion",
    "mask_rcnn_r50_gcb_r4_c3_c5_fpn",
    "mask_rcnn_r50_gcb_r16_c3_c5_fpn",
    "mask_rcnn_r101_gcb_r16_c3_c5_fpn",
]


def mask_rcnn_r50_gcb_r16_c3_c5_fpn(ratio: float = 1 / 16, **options):
    layer = functools.partial(ContextBlock, ratio=ratio)
    plugin = {"name": "context_block", "position": "after_conv3", "layer": layer}
    return mask_rcnn_r50_fpn(plugins=({**plugin, "stages": (False, True, True, True)},), **options)


def mask_rcnn_r50_gcb_r4_c3_c5_fpn(ratio: float = 1 / 4, **options):
    return mask_rcnn_r50_gcb_r16_c3_c5_fpn(ratio=ratio, **options)


def mask_rcnn_r101_gcb_r16_c3_c5_fpn(layers=(3, 4, 23, 3), **options):
    return mask_rcnn_r50_gcb_r16_c3_c5_fpn(layers=layers, **options)
