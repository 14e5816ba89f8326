"""Suppression of more boxes than fit into one block, against a walk through the boxes one by one."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.layers.nms as tf_nms
import torch_impl.layers.nms as torch_nms

PANELS = {
    "tensorflow": (tf_nms.nms, tf.constant),
    "xla": (tf.function(tf_nms.nms, jit_compile=True, autograph=False), tf.constant),
    "pytorch": (torch_nms.nms, torch.tensor),
}
COUNT, THRESHOLD = 3 * torch_nms.BLOCK - 51, 0.3


def walked(boxes: np.ndarray, scores: np.ndarray, max_outputs: int) -> list[int]:
    """The greedy rule, a box at a time."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        x1, y1 = np.maximum(boxes[i, :2], boxes[kept, :2]).T
        x2, y2 = np.minimum(boxes[i, 2:], boxes[kept, 2:]).T
        shared = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
        if not (shared > THRESHOLD * (areas[i] + areas[kept] - shared)).any():
            kept.append(i)
    return kept[:max_outputs]


@pytest.mark.parametrize("max_outputs", [7, 150, COUNT + 5])
@pytest.mark.parametrize("panel", PANELS)
def test_blocks_keep_what_a_walk_keeps(panel, max_outputs):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [[[60.0]], [[400.0]]], (2, COUNT, 2))  # a crowd, and boxes that mostly lie apart
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (2, COUNT, 2))], 2)
    scores = rng.uniform(0, 1, (2, COUNT)).round(2)  # many are equal
    nms, tensor = PANELS[panel]
    indices, valid = nms(tensor(boxes), tensor(scores), THRESHOLD, max_outputs)
    expected = [walked(*image, max_outputs) for image in zip(boxes, scores, strict=True)]
    assert len(expected[0]) < len(expected[1]) or max_outputs == 7
    for row, mask, kept in zip(np.asarray(indices), np.asarray(valid), expected, strict=True):
        assert row[mask].tolist() == kept
        assert mask.sum() == len(kept) and not row[~mask].any()
