"""Detectors whose backbone has generalised attention after its 3x3 convolutions, with a choice of its four terms.

"An Empirical Study of Spatial Attention Mechanisms in Deep Networks", 2019, arXiv:1904.05873.
Parameter names: mmdet ``empirical_attention`` (Apache-2.0). The digits select the terms, see
:class:`GeneralizedAttention`; all blocks of stages 4 and 5 have it; those of stages 3 to 5 may have deformable
convolutions.

Mirror notes:
- The layers have the same names in both panels, and their framework's argument names.
"""

import functools

from torch_impl.detection.deformable import deformable
from torch_impl.detection.faster_rcnn import faster_rcnn_r50_fpn, mmdet_criterion, mmdet_postprocess
from torch_impl.layers.generalized_attention import GeneralizedAttention

__all__ = [
    "faster_rcnn_r50_attn0010_dcn_fpn",
    "faster_rcnn_r50_attn0010_fpn",
    "faster_rcnn_r50_attn1111_dcn_fpn",
    "faster_rcnn_r50_attn1111_fpn",
    "mmdet_criterion",
    "mmdet_postprocess",
]


def attention(attention_type: str, num_heads: int = 8) -> tuple:
    """The attention as a plugin of :class:`ResNet`."""
    layer = functools.partial(GeneralizedAttention, num_heads=num_heads, attention_type=attention_type)
    plugin = {"name": "gen_attention_block", "position": "after_conv2", "layer": layer}
    return ({**plugin, "stages": (False, False, True, True)},)


def faster_rcnn_r50_attn0010_fpn(attention_type: str = "0010", **options):
    return faster_rcnn_r50_fpn(plugins=attention(attention_type), **options)


def faster_rcnn_r50_attn1111_fpn(attention_type: str = "1111", **options):
    return faster_rcnn_r50_attn0010_fpn(attention_type=attention_type, **options)


def faster_rcnn_r50_attn0010_dcn_fpn(attention_type: str = "0010", deform: str = "v1", **options):
    return faster_rcnn_r50_attn0010_fpn(attention_type=attention_type, conv=deformable(deform), **options)


def faster_rcnn_r50_attn1111_dcn_fpn(attention_type: str = "1111", **options):
    return faster_rcnn_r50_attn0010_dcn_fpn(attention_type=attention_type, **options)
