"""What DiMP's loop is made of: the filter's optimiser, the memory of samples, states, patches and first samples."""

import numpy as np
import pytest
import torch

from torch_impl.tracking.dimp import DiMPSteepestDescentGN
from weights.processing.tracking import dimp

RNG = np.random.default_rng(0)


def descent():
    torch.manual_seed(0)
    return DiMPSteepestDescentGN(num_bins=30, bin_displacement=0.2).double()


def optimizer(module):
    parameters = {name: x.detach().numpy() for name, x in module.state_dict().items()}
    return dimp.FilterOptimizer(parameters, module.bin_displacement)


def test_the_filter_learns_as_the_network_does():
    module = descent()
    features, kernel = RNG.standard_normal((3, 5, 18, 18)), 0.1 * RNG.standard_normal((5, 4, 4))
    boxes = np.array([[100.0, 90, 60, 40], [0, 30, 50, 70], [240, 250, 90, 80]])
    with torch.no_grad():
        wanted = module(torch.tensor(kernel)[None], torch.tensor(features)[:, None], torch.tensor(boxes)[:, None])
    found = optimizer(module)(kernel, features, boxes, np.full(3, 1 / 3), 5)
    np.testing.assert_allclose(found, wanted[-1][0].numpy(), rtol=1e-10)
    # a sample without weight does not count
    weights = np.array([0.5, 0.5, 0])
    both = [optimizer(module)(kernel, features[:n], boxes[:n], weights[:n], 2) for n in (2, 3)]
    np.testing.assert_allclose(*both, rtol=1e-10)


def test_weights_of_the_memory():
    memory = dimp.Memory(np.zeros((2, 1, 1, 1)), np.zeros((2, 4)), slots=4)
    memory.add(np.ones((1, 1, 1)), np.ones(4), 0.1)
    old = 0.5 / 0.9
    np.testing.assert_allclose(memory.weights, np.array([old, old, 0.1, 0]) / (2 * old + 0.1))
    memory.add(np.full((1, 1, 1), 2.0), np.ones(4), 0.5)  # the later the heavier
    third = memory.weights[3] / memory.weights[2]
    assert third == pytest.approx(2)
    memory.add(np.full((1, 1, 1), 3.0), np.ones(4), 0.5)  # in the place of the lightest later one
    assert memory.features.ravel().tolist() == [0, 0, 3, 2] and memory.count == 4
    for _ in range(5):
        memory.add(np.zeros((1, 1, 1)), np.ones(4), 0.5)
    np.testing.assert_allclose(memory.weights[:2], 0.125)


# scores of the best cell (9, 9) and of another cell, the object's last place, in cells from the middle
@pytest.mark.parametrize(
    "best, second, previous, state, place",
    [
        (0.2, 0.0, (0, 0), "not_found", (0, 0)),
        (1.0, 0.3, (0, 0), "normal", (0, 0)),
        (1.0, 0.6, (0, 0), "hard_negative", (0, 0)),
        (0.4, 0.22, (0, 0), "normal", (0, 0)),  # too low to be something
        (1.0, 0.9, (0, 0), "hard_negative", (0, 0)),  # the other one is far
        (1.0, 0.9, (8, 8), "hard_negative", (8, 8)),  # the best one is far
        (1.0, 0.9, (4, 4), "uncertain", (0, 0)),  # both are near
        (1.0, 0.9, (-9, 9), "uncertain", (0, 0)),  # both are far
    ],
)
def test_states(best, second, previous, state, place):
    scores = np.zeros((19, 19))
    scores[9, 9], scores[17, 17] = best, second
    found, named, score = dimp.localise(scores, np.array([2.0, 2.0]), np.array(previous, float))
    assert (named, score) == (state, best) and tuple(found) == place
    scores[10, 10] = 0.99 * best  # belongs to the object
    assert dimp.localise(scores, np.array([2.0, 2.0]), np.array(previous, float))[1] == state


def test_a_patch_is_resampled_and_its_borders_are_repeated():
    image = np.zeros((40, 50, 3))
    image[..., 0], image[..., 1] = np.mgrid[:40, :50]
    patch, shown = dimp.sample_patch(image, np.array([20.7, 3.2]), 16.2, 16)
    np.testing.assert_array_equal(shown, [13, -4, 29, 12])
    np.testing.assert_array_equal(patch[:, 0, 0], np.arange(13, 29))
    np.testing.assert_array_equal(patch[0, :, 1], np.clip(np.arange(-4, 12), 0, None))
    patch, shown = dimp.sample_patch(image, np.array([20.0, 21.0]), 40.0, 10)  # every third pixel
    np.testing.assert_array_equal(shown, [0, 3, 39, 42])
    assert patch.shape == (10, 10, 3) and patch[0, 0, 0] == pytest.approx(2 + 3 * 0.15)


def test_first_samples_show_the_object_where_they_say():
    crop = np.zeros((96, 96, 3))
    crop[46:50, 46:50] = 1  # around the middle, 47.5
    samples, moves = dimp.first_samples(crop, np.linspace(-0.4, 0.4, 16).reshape(8, 2))
    assert samples.shape == (13, 48, 48, 3) and moves[1].tolist() == [14, 14] and moves[2].tolist() == [14, -14]
    y, x = np.mgrid[:48, :48]
    for sample, (right, down) in zip(samples[..., 0], moves, strict=True):
        centre = (sample * x).sum() / sample.sum(), (sample * y).sum() / sample.sum()
        np.testing.assert_allclose(centre, (23.5 + right, 23.5 + down), atol=1e-6)
    np.testing.assert_allclose(samples[6:9].sum((1, 2, 3)), samples[0].sum(), rtol=1e-6)  # blurred


def test_turned_clockwise():
    image = np.zeros((9, 9, 1))
    image[4, 8] = 1
    np.testing.assert_allclose(dimp.turn(image, 90)[8, 4], 1, atol=1e-12)
