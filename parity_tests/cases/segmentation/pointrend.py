"""A small configuration of PointRend for segmentation."""

import numpy as np

from parity_tests.cases.segmentation import SMALL, grid_labels, label_maps
from parity_tests.harness.case import Case, Reference, images

FEW = {"out_channels": 16, "channels": 8, "point_channels": 12, "points": 40, "subdivision_points": 90}


def golden(count: int) -> np.ndarray:
    """What the fingerprints use instead of random points, for two images."""
    values = np.arange(2 * count * 2) * 0.6180339887498949
    return (values - np.floor(values)).reshape(2, count, 2)


def with_points(expected):
    """The targets of a fingerprint's losses."""
    return {**grid_labels(expected), "point_candidates": golden(3 * 2048), "point_choices": golden(512)}


CASES = [
    Case(
        "pointrend_r50",
        images(65, 49),
        label_maps(65, 49),
        {**SMALL, **FEW},
        references=[
            Reference(
                "pointrend_r50_4xb2-80k_cityscapes-512x1024",
                modules={f"backbone.{i}": f"backbone.layer{i + 1}" for i in range(4)}
                | {f"neck.{i}": f"neck.fpn_convs.{i}" for i in range(4)},
                outputs={"decode_head.0": "coarse_logits", "tensor": "logits"},
                inputs={"input": "images"},
                losses={key: key for key in ("decode_0.loss_ce", "decode_1.pointloss_ce")},
                targets=with_points,
            )
        ],
    ),
]
