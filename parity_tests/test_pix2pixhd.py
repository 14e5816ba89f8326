"""pix2pixHD's maps of edges and instances in both panels."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.gan.pix2pixhd as tf_pix2pixhd
import torch_impl.gan.pix2pixhd as torch_pix2pixhd
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from tf_impl import state as tf_state
from torch_impl import state as torch_state
from weights.seeded import seeded

EDGES = json.loads((Path(__file__).parent / "fingerprints/gan/pix2pixhd_edges.json").read_text())


def test_edges_are_those_of_the_reference():
    given = EDGES["inputs"]["instance"]
    instances = np.array(given["data"], np.int64).reshape(given["shape"])[:, 0]
    expected = np.array(EDGES["outputs"]["edges"]["data"])
    for found in (
        tf_pix2pixhd.edges(tf.constant(instances), tf.float64).numpy(),
        torch_pix2pixhd.edges(torch.tensor(instances), torch.float64).numpy(),
    ):
        np.testing.assert_array_equal(found.reshape(-1), expected.reshape(-1))


def test_pixels_get_the_mean_of_their_instance():
    rng = np.random.default_rng(0)
    features, instances = rng.standard_normal((2, 5, 6, 3)), rng.integers(0, 3, (2, 5, 6))
    expected = np.empty_like(features)
    for n in range(2):
        for i in range(3):
            expected[n, instances[n] == i] = features[n, instances[n] == i].mean(0)
    found = tf_pix2pixhd.instance_mean(tf.constant(features), tf.constant(instances), 4)
    np.testing.assert_allclose(found.numpy(), expected)
    found = torch_pix2pixhd.instance_mean(torch.tensor(features).permute(0, 3, 1, 2), torch.tensor(instances), 4)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected)


@pytest.mark.parametrize("panel", ["tf_impl", "torch_impl"])
def test_perceptual_distance_is_that_of_the_reference(panel):
    """Its gradient by the frozen network, which the file has too, is not taken here."""
    expected = fingerprints.load("pix2pixhd_vgg19_features")
    shapes = {name: tuple(shape) for name, shape in expected["tensors"]}
    renamed = {f"perceptual.vgg.features.{name.split('.', 1)[1]}": value for name, value in seeded(shapes).items()}
    images = list(fingerprints.inputs_of(expected).values())
    if panel == "tf_impl":
        criterion = tf_pix2pixhd.Pix2PixHDCriterion()
        tf_state.load_state_dict(criterion, renamed, strict=False)  # layers after the last one are not in it
        images = [tf.constant(image.transpose(0, 2, 3, 1), tf.float32) for image in images]
    else:
        criterion = torch_pix2pixhd.Pix2PixHDCriterion()
        torch_state.load_state_dict(criterion, renamed, strict=False)  # layers after the last one are not in it
        images = [torch.from_numpy(image).float() for image in images]
    np.testing.assert_allclose(criterion.perceptual(*images), expected["loss"]["terms"]["vgg"], rtol=1e-4)
    for which, image in zip(("input", "other"), images, strict=True):
        for i, found in enumerate(criterion.perceptual.seen(image).values()):
            found = found.numpy().transpose(0, 3, 1, 2) if panel == "tf_impl" else found.numpy()
            name = f"{which}.{i}"
            figures = compare_with_fingerprint(name, found, expected["outputs"][name])
            assert max(figure.relative for figure in figures) <= 1e-4, figures
