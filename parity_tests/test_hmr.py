"""HMR: rotations are rotations, and points are where the camera puts them."""

import numpy as np
import tensorflow as tf
import torch

from tf_impl.body import hmr as keras_hmr
from torch_impl.body import hmr as torch_hmr


def test_any_six_numbers_make_a_rotation():
    numbers = np.random.default_rng(0).standard_normal((2, 18))
    found = torch_hmr.to_rotations(torch.tensor(numbers)).numpy()
    np.testing.assert_allclose(keras_hmr.to_rotations(tf.constant(numbers)), found, atol=1e-14)
    np.testing.assert_allclose(found @ found.swapaxes(2, 3), np.broadcast_to(np.eye(3), found.shape), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(found), 1)
    columns = np.tile([1.0, 0, 0, 1, 0, 0], (1, 2))  # the first two columns of the identity, row by row
    np.testing.assert_allclose(torch_hmr.to_rotations(torch.tensor(columns))[0, 1], np.eye(3))


def test_a_point_at_the_origin_is_where_the_camera_is_shifted_to():
    camera = np.array([[0.9, 0.1, -0.2]])
    for panel, tensor in ((torch_hmr, torch.tensor), (keras_hmr, tf.constant)):
        found = np.asarray(panel.project(tensor(np.zeros((1, 1, 3))), tensor(camera)))
        np.testing.assert_allclose(found[0, 0], [0.09, -0.18])  # weak perspective: scale times shift
