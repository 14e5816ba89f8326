"""DiMP: exact pooling of boxes, and a filter's transpose."""

import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.cases.tracking.dimp import BOXES as OBJECTS
from parity_tests.cases.tracking.dimp import PROPOSALS
from parity_tests.harness import fingerprints
from tf_impl.layers.precise_roi_pool import precise_roi_pool as keras_pool
from tf_impl.tracking import dimp as keras_dimp
from torch_impl.layers.precise_roi_pool import precise_roi_pool as torch_pool
from torch_impl.tracking import dimp as torch_dimp
from weights.seeded import seeded

RNG = np.random.default_rng(0)
BOXES = np.array([[[2.5, 1.0, 17.0, 9.25], [-6.0, -3.0, 5.0, 40.0], [4.0, 4.0, 4.0, 9.0]]])


def surface(x, row, column):
    """Bilinear values at any place, 0 outside."""
    i, j = np.arange(x.shape[0]), np.arange(x.shape[1])
    rows = np.maximum(1 - np.abs(row[:, None] - i), 0)
    columns = np.maximum(1 - np.abs(column[:, None] - j), 0)
    return rows @ x @ columns.T


def test_precise_roi_pooling_is_the_mean_of_the_bilinear_surface():
    x = RNG.standard_normal((1, 6, 9, 2))
    found = keras_pool(tf.constant(x), tf.constant(BOXES), 3, 0.5).numpy()
    twin = torch_pool(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(BOXES), 3, 0.5).numpy()
    np.testing.assert_allclose(found, twin.transpose(0, 1, 3, 4, 2), atol=1e-14)
    for box, bins in zip(BOXES[0, :2] / 2, found[0], strict=False):
        steps = (np.arange(3 * 2000) + 0.5) / (3 * 2000)
        column, row = (box[i] + steps * (box[i + 2] - box[i]) for i in (0, 1))
        for channel in range(2):
            values = surface(x[0, ..., channel], row, column).reshape(3, 2000, 3, 2000).mean((1, 3))
            np.testing.assert_allclose(bins[..., channel], values, atol=1e-6)
    assert not found[0, 2].any()  # without area


def test_gradients_of_boxes_are_finite_and_equal():
    x = RNG.standard_normal((1, 6, 9, 2))
    boxes, given = tf.Variable(BOXES), torch.tensor(BOXES, requires_grad=True)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.square(keras_pool(tf.constant(x), boxes, 3, 0.5)))
    torch_pool(torch.tensor(x.transpose(0, 3, 1, 2)), given, 3, 0.5).square().sum().backward()
    assert np.isfinite(given.grad.numpy()).all()
    np.testing.assert_allclose(tape.gradient(total, boxes).numpy(), given.grad.numpy(), atol=1e-13)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_the_transpose_is_the_gradient_of_the_filter(size):
    features, kernel = torch.randn(2, 3, 4, 5, 6).double(), torch.randn(3, 4, size, size).double().requires_grad_()
    scores = torch_dimp.apply_filter(features, kernel)
    residuals = torch.randn(scores.shape).double()
    expected = torch.autograd.grad(scores, kernel, residuals)[0]
    torch.testing.assert_close(torch_dimp.apply_transpose(features, residuals, size), expected)
    last = (0, 1, 3, 4, 2)
    maps, filters = tf.constant(features.numpy().transpose(last)), kernel.detach().numpy().transpose(0, 2, 3, 1)
    found = keras_dimp.apply_filter(maps, tf.constant(filters))
    np.testing.assert_allclose(found, scores.detach().numpy(), atol=1e-13)
    found = keras_dimp.apply_transpose(maps, tf.constant(residuals.numpy()), size)
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), atol=1e-13)


def test_overlaps_have_the_published_gradient_for_boxes():
    """What the tracker climbs, of the network at its published size."""
    expected = fingerprints.load("pytracking_dimp18")
    images = {name: torch.tensor(x).float() for name, x in fingerprints.inputs_of(expected).items()}
    model = torch_dimp.dimp18().eval()
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    model.load_state_dict({name: torch.tensor(x) for name, x in seeded(shapes).items()})
    train, test = (
        list(model.feature_extractor.forward_features(images[name][0]).values())
        for name in ("train_images", "test_images")
    )
    vectors = model.bb_regressor.modulation(train, torch.tensor(OBJECTS[0]).float())
    boxes = torch.tensor(PROPOSALS[:1]).float().requires_grad_()
    model.bb_regressor.overlaps(vectors, test, boxes).sum().backward()
    np.testing.assert_allclose(
        boxes.grad.numpy().ravel(), expected["outputs"]["predict_iou_box_gradient"]["values"], atol=4e-6
    )
