"""RetinaFace's anchors against stored ones, and faces that no anchor is close to."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.face.retinaface as keras_face
import tf_impl.face.retinaface_paper as keras_paper
import torch_impl.face.retinaface as torch_face
import torch_impl.face.retinaface_paper as torch_paper
from parity_tests.harness import fingerprints
from torch_impl.boxes.anchors import cell_anchors, grid_anchors


def test_anchors_are_those_of_the_reference():
    stored = fingerprints.load("pytorch_retinaface_mobilenet025")["outputs"]["priors"]
    maps = ((12, 16), (6, 8), (3, 4))
    anchors = np.concatenate(
        [
            grid_anchors(cell_anchors(sizes, (1.0,)), size, (step, step), 0.5)
            for sizes, step, size in zip(torch_face.SIZES, torch_face.STEPS, maps)
        ]
    )
    priors = np.concatenate([anchors[:, :2] + anchors[:, 2:], 2 * (anchors[:, 2:] - anchors[:, :2])], 1) / 2
    priors /= np.array([128, 96, 128, 96])
    at = np.unique(np.round(np.linspace(0, priors.size - 1, 64))).astype(int)
    np.testing.assert_allclose(priors.ravel()[at], stored["values"], atol=1e-6)


# of one row of anchors: which face each has, and whether it counts
@pytest.mark.parametrize(
    "boxes, index, positive",
    [
        ([[0, 0, 10, 10], [0, 0, 9, 10]], [1, 0, 0], [True, False, False]),  # both want the first anchor: the last one
        ([[0, 0, 10, 10], [18, 0, 19, 1]], [0, 0, 1], [True, False, False]),  # the second is too small, and still named
        ([[18, 0, 19, 1], [0, 0, 1, 1]], [1, 0, 0], [False, False, False]),  # nothing is close: only background
    ],
)
def test_every_face_names_its_best_anchor(boxes, index, positive):
    anchors, valid = [[0, 0, 10, 10], [30, 0, 40, 10], [10, 0, 20, 10]], [[True, True]]
    found = torch_face.RetinaFaceCriterion().assign(
        torch.tensor([boxes], dtype=torch.float64), torch.tensor(valid), torch.tensor(anchors, dtype=torch.float64)
    )
    ours = keras_face.RetinaFaceCriterion().assign(
        tf.constant([boxes], tf.float64), tf.constant(valid), tf.constant(anchors, tf.float64)
    )
    for panel in (found, ours):
        np.testing.assert_array_equal(np.asarray(panel[0])[0], index)
        np.testing.assert_array_equal(np.asarray(panel[1])[0], positive)


def test_anchors_of_the_paper():
    model = torch_paper.retinaface_resnet152_p2p6(layers=(1, 1, 1, 1), planes=(4, 6, 8, 10), out_channels=8)
    anchors = model(torch.zeros(1, 3, 640, 640))["anchors"]
    sizes = (anchors[:, 2:] - anchors[:, :2]).round(decimals=2).unique(dim=0)
    assert anchors.shape == (102300, 4)  # section 4.2
    assert (sizes[:, 0] == sizes[:, 1]).all() and sizes[0, 0] == 16 and round(float(sizes[-1, 0])) == 406


def test_anchors_between_face_and_background_do_not_count():
    boxes, valid = np.array([[[0.0, 0, 10, 10]]]), np.array([[True]])
    anchors = np.array([[0.0, 0, 10, 5], [0, 0, 10, 4.9], [0, 0, 10, 3], [0, 0, 10, 2.9]])
    found = torch_paper.PaperRetinaFaceCriterion().assign(*map(torch.tensor, (boxes, valid, anchors)))
    ours = keras_paper.PaperRetinaFaceCriterion(dtype="float64").assign(*map(tf.constant, (boxes, valid, anchors)))
    for _, positive, negative in (found, ours):
        np.testing.assert_array_equal(positive, [[True, False, False, False]])
        np.testing.assert_array_equal(negative, [[False, False, False, True]])
