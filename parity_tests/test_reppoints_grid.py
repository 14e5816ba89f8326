"""RepPoints with a grid of points: which squares learn the first box, in both panels."""

import importlib

import numpy as np
import pytest
import tensorflow as tf
import torch


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("form, expected", [("RepPointsGridCriterion", 0.156), ("RepPointsCriterion", 0.0)])
def test_squares_that_overlap_an_object_learn_it(package, form, expected):
    """An object like the square of one cell: this and four neighbours, 8 of 32 pixels away, learn it, or this alone."""
    outputs = {}
    for i in range(3, 8):
        cells = (1, 128 // 2**i, 128 // 2**i)
        outputs[f"cls_p{i}"] = np.zeros((*cells, 2))
        outputs[f"init_p{i}"] = outputs[f"reg_p{i}"] = np.tile([-2.0, -2.0, 2.0, 2.0], (*cells, 1))
    targets = {
        "boxes": np.array([[[48.0, 48, 80, 80], [0, 0, 9, 9]]]),
        "labels": np.zeros((1, 2), np.int64),
        "valid": np.array([[True, False]]),
    }
    make = tf.constant
    if package == "torch_impl":
        outputs = {key: np.ascontiguousarray(x.transpose(0, 3, 1, 2)) for key, x in outputs.items()}
        make = torch.from_numpy
    criterion = getattr(importlib.import_module(f"{package}.detection.reppoints_grid"), form)(
        **({"dtype": "float64"} if package == "tf_impl" else {})
    )
    found = criterion({key: make(x) for key, x in outputs.items()}, {key: make(x) for key, x in targets.items()})
    assert float(found["loss_pts_init"]) == pytest.approx(expected, abs=1e-6)
    terms = sum(float(found[key]) for key in ("loss_cls", "loss_pts_init", "loss_pts_refine"))
    assert float(found["total"]) == pytest.approx(terms)
