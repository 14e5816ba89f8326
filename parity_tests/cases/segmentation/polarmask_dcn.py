"""A small configuration of PolarMask with deformable convolutions."""

from parity_tests.cases.detection._mmdet import FEW, SMALL
from parity_tests.cases.segmentation.polarmask import outlined
from parity_tests.harness.case import Case, images

CASES = [
    Case(
        "polarmask_r50_dcn",
        images(65, 97),
        outlined(65, 97, 4),
        {**SMALL, "norm_groups": 4},
        postprocess={**FEW, "detections": 10, "mask_nms": True},
        without={"reference": "its deformable convolutions need a graphics card; parameters are counted"},
    ),
]
