"""pix2pixHD's maps of edges and instances in both panels."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
import torch

import tf_impl.gan.pix2pixhd as tf_pix2pixhd
import torch_impl.gan.pix2pixhd as torch_pix2pixhd

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
