"""Detectors whose backbone has deformable convolutions: each position samples where its features tell it to.

"Deformable Convolutional Networks", 2017, arXiv:1703.06211; "Deformable ConvNets v2: More Deformable, Better Results",
2018, arXiv:1811.11168. Parameter names: mmdet ``dcn``, ``dcnv2`` (Apache-2.0). All 3x3 convolutions of stages 3 to 5
are deformable, strided ones included.

Mirror notes:
- The layers have the same names in both panels, and their framework's argument names.
"""

import functools

from tf_impl.classification.resnet import CONV, DEFORM
from tf_impl.detection.cascade_rcnn import CascadeCriterion, CascadePostProcess, cascade_rcnn_r50_fpn
from tf_impl.detection.faster_rcnn import faster_rcnn_r50_fpn, mmdet_criterion, mmdet_postprocess
from tf_impl.detection.mask_rcnn import MaskPostProcess, mask_mmdet_criterion, mask_rcnn_r50_fpn

__all__ = [
    "CascadeCriterion",
    "CascadePostProcess",
    "MaskPostProcess",
    "cascade_rcnn_r50_dconv_c3_c5_fpn",
    "faster_rcnn_r50_dconv_c3_c5_fpn",
    "faster_rcnn_r50_mdconv_c3_c5_fpn",
    "faster_rcnn_r50_mdconv_group4_c3_c5_fpn",
    "mask_mmdet_criterion",
    "mask_rcnn_r50_dconv_c3_c5_fpn",
    "mask_rcnn_r50_mdconv_c3_c5_fpn",
    "mmdet_criterion",
    "mmdet_postprocess",
]


def deformable(version: str, deform_groups: int = 1) -> tuple:
    """The classes of the 3x3 convolutions of the four stages; "v1" or "v2", without and with a mask."""
    conv = functools.partial(DEFORM[version], deform_groups=deform_groups)
    return CONV, conv, conv, conv


def faster_rcnn_r50_dconv_c3_c5_fpn(deform: str = "v1", deform_groups: int = 1, **options):
    return faster_rcnn_r50_fpn(conv=deformable(deform, deform_groups), **options)


def faster_rcnn_r50_mdconv_c3_c5_fpn(deform: str = "v2", **options):
    return faster_rcnn_r50_dconv_c3_c5_fpn(deform=deform, **options)


def faster_rcnn_r50_mdconv_group4_c3_c5_fpn(deform: str = "v2", deform_groups: int = 4, **options):
    return faster_rcnn_r50_dconv_c3_c5_fpn(deform=deform, deform_groups=deform_groups, **options)


def mask_rcnn_r50_dconv_c3_c5_fpn(deform: str = "v1", **options):
    return mask_rcnn_r50_fpn(conv=deformable(deform), **options)


def mask_rcnn_r50_mdconv_c3_c5_fpn(deform: str = "v2", **options):
    return mask_rcnn_r50_fpn(conv=deformable(deform), **options)


def cascade_rcnn_r50_dconv_c3_c5_fpn(deform: str = "v1", **options):
    return cascade_rcnn_r50_fpn(conv=deformable(deform), **options)
