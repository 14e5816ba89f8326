"""First Order Motion Model in training: bendings and their derivatives, and what the losses of equivariance say."""

import numpy as np
import tensorflow as tf
import torch

from tf_impl.face import fomm_training as keras_fomm
from torch_impl.face import fomm_training as torch_fomm

RNG = np.random.default_rng(0)


def bending():
    return np.eye(2, 3) + RNG.normal(0, 0.05, (2, 2, 3)), RNG.normal(0, 0.05, (2, 1, 25))


def test_the_derivative_of_a_bending_is_that_of_its_points():
    theta, control = bending()
    points = RNG.uniform(-1, 1, (2, 6, 2))
    given = torch.tensor(points, requires_grad=True)
    moved, slope = torch_fomm.bend(given, torch.tensor(theta), torch.tensor(control))
    wanted = torch.stack([torch.autograd.grad(moved[..., i].sum(), given, retain_graph=True)[0] for i in (0, 1)], 2)
    torch.testing.assert_close(slope, wanted)
    twins = keras_fomm.bend(tf.constant(points), tf.constant(theta), tf.constant(control))
    for twin, found in zip(twins, (moved, slope), strict=True):
        np.testing.assert_allclose(twin, found.detach(), atol=1e-14)


def test_nothing_is_bent_without_a_spline():
    points = RNG.uniform(-1, 1, (1, 6, 2))
    points[0, 0] = 0.5, -1  # a control point
    theta = np.array([[[0.0, 1, 0.2], [2, 0, -0.1]], [[1, 0, 0], [0, 1, 0]]])
    moved, slope = torch_fomm.bend(torch.tensor(points), torch.tensor(theta), torch.zeros(2, 1, 25).double())
    np.testing.assert_allclose(moved[0], np.stack([points[0, :, 1] + 0.2, 2 * points[0, :, 0] - 0.1], 1))
    np.testing.assert_allclose(moved[1], points[0])
    np.testing.assert_allclose(slope[:, 3], theta[..., :2])


def test_points_that_move_with_the_frame_cost_nothing():
    values, frames = RNG.uniform(-1, 1, (1, 3, 2)), np.eye(2) + RNG.uniform(-0.3, 0.3, (1, 3, 2, 2))
    image = RNG.uniform(size=(1, 3, 16, 16))
    outputs = {"prediction": image, "driving_value": values, "returned_value": values}
    outputs |= {"driving_jacobian": frames, "returned_jacobian": frames}
    outputs = {name: torch.tensor(x) for name, x in outputs.items()}
    criterion = torch_fomm.FOMMCriterion((1.0,), widths=(2, 2, 2, 2, 2)).double()
    losses = criterion(outputs, {"driving": outputs["prediction"]})
    assert all(loss < 1e-14 for loss in losses.values()) and "gen_gan" not in losses
    outputs["returned_jacobian"] = 1.1 * outputs["driving_jacobian"]
    losses = criterion(outputs, {"driving": outputs["prediction"]})
    np.testing.assert_allclose(losses["equivariance_jacobian"], 10 * 0.1 / 2)  # of four numbers two differ
