"""SMPL against the stored numbers of smplx on a made-up body, and what offsets and a file of arrays do."""

import numpy as np
import pytest
from scipy.special import softmax

import tf_impl.body.smpl as keras_smpl
import torch_impl.body.smpl as torch_smpl
from parity_tests.harness import fingerprints
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.processing.body.smpl import BodyError, read_body

STORED = fingerprints.load("smplx_smpl_synthetic")
PANELS = [TensorFlow, PyTorch]


def stored(name):
    return np.array(STORED["outputs"][name]["data"]).reshape(STORED["outputs"][name]["shape"])


def filled(panel, arrays, **options):
    found = panel(catalog.get("smpl"), {"num_vertices": 60, "vertex_joints": tuple(range(21)), **options})
    found.load(arrays)
    return found


def stored_body():
    given = fingerprints.inputs_of(STORED)
    return {
        "v_template": given["v_template"],
        "shapedirs": 0.1 * given["shapedirs"],
        "posedirs": 0.01 * given["posedirs"].reshape(180, 207).T,
        "J_regressor": softmax(given["J_logits"], 1),
        "lbs_weights": softmax(3 * given["weight_logits"], 1),
    }


@pytest.mark.parametrize("panel", PANELS)
def test_body_is_that_of_smplx(panel):
    given, body = fingerprints.inputs_of(STORED), filled(panel, stored_body())
    pose = np.concatenate([given["global_orient"], given["body_pose"]], 1)
    inputs = {"betas": given["betas"], "pose": pose, "transl": given["transl"]}
    found = body.outputs(inputs)
    for name in ("vertices", "joints"):
        np.testing.assert_allclose(found[name], stored(name), atol=2e-6)
    rotations = stored("rotations").reshape(2, 24, 3, 3)
    from_matrices = body.outputs({**inputs, "pose": rotations})["vertices"]
    np.testing.assert_allclose(from_matrices, stored("from_matrices.vertices"), atol=2e-6)
    rest = body.outputs({"betas": given["betas"], "pose": 0 * pose, "transl": 0 * given["transl"]})
    np.testing.assert_allclose(rest["vertices"], stored("rest.vertices"), atol=2e-6)
    np.testing.assert_allclose(rest["joints"][:, :24], stored("rest.joints"), atol=2e-6)


def wave(*shape, a):
    return np.sin(a * np.arange(np.prod(shape)) + 0.11).reshape(shape)


@pytest.mark.parametrize("panel", PANELS)
def test_a_small_body_in_double_precision(panel):
    arrays = {
        "v_template": wave(7, 3, a=0.37),
        "shapedirs": 0.1 * wave(7, 3, 3, a=0.53),
        "posedirs": 0.01 * wave(27, 21, a=0.71),
        "J_regressor": softmax(wave(4, 7, a=0.9), 1),
        "lbs_weights": softmax(3 * wave(7, 4, a=1.3), 1),
    }
    body = filled(panel, arrays, num_vertices=7, num_betas=3, parents=(-1, 0, 1, 1), vertex_joints=())
    pose = {"betas": wave(2, 3, a=2.1), "pose": 0.5 * wave(2, 12, a=0.77), "transl": np.zeros((2, 3))}
    found = body.outputs(pose)
    np.testing.assert_allclose(found["vertices"].sum(), 5.6049359797, rtol=1e-9)
    np.testing.assert_allclose(found["vertices"][0, 0], [0.2895270585, 0.3343818506, 0.8380884486], atol=1e-9)
    np.testing.assert_allclose(found["joints"][1, 3], [0.3683540977, 0.3218499192, 0.2490348809], atol=1e-9)


def test_rodrigues():
    import tensorflow as tf
    import torch

    wanted = [0.9357548033, -0.2831649600, 0.2101917055]
    np.testing.assert_allclose(keras_smpl.rodrigues(tf.constant([0.1, 0.2, 0.3], tf.float64))[0], wanted, atol=1e-8)
    vector = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    np.testing.assert_allclose(torch_smpl.rodrigues(vector)[0], wanted, atol=1e-8)
    assert torch.isfinite(torch.autograd.functional.jacobian(torch_smpl.rodrigues, 0 * vector)).all()


def test_a_file_of_arrays(tmp_path):
    given = fingerprints.inputs_of(STORED)
    tree = np.array([[2**32 - 1, *torch_smpl.PARENTS[1:]], range(24)], np.uint32)
    arrays = {
        "v_template": given["v_template"],
        "shapedirs": given["shapedirs"],
        "posedirs": given["posedirs"],
        "J_regressor": given["J_logits"],
        "weights": given["weight_logits"],
        "kintree_table": tree,
        "f": np.zeros((5, 3), np.uint32),
    }
    np.savez(tmp_path / "body.npz", **arrays)
    tensors, parents, faces = read_body(tmp_path / "body.npz", num_betas=4)
    assert parents == torch_smpl.PARENTS and faces.shape == (5, 3)
    assert tensors["posedirs"].shape == (207, 180) and tensors["shapedirs"].shape == (60, 3, 4)
    np.testing.assert_array_equal(tensors["posedirs"][:, 4], given["posedirs"][1, 1])
    arrays.pop("weights")
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(BodyError, match="weights"):
        read_body(tmp_path / "bad.npz")
    (tmp_path / "no.npz").write_bytes(b"no")
    with pytest.raises(BodyError, match=r"no\.npz"):
        read_body(tmp_path / "no.npz")
