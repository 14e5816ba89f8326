"""Heat maps of joints, where they are found again, and what the mirror image adds."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.body.hourglass as keras_pose
import torch_impl.body.hourglass as torch_pose
from weights.processing.body.heatmaps import joint_heatmaps, pck


def test_hills_end_and_the_higher_one_counts():
    maps = joint_heatmaps(np.array([[[[5.7, 3.2]], [[7.0, 3.0]]], [[[-1.0, 4.0]], [[70.0, 4.0]]]]), 64, 64)
    assert maps.shape == (2, 1, 64, 64) and not maps[1].any()
    assert maps[0, 0, 3, 5] == maps[0, 0, 3, 7] == 1
    np.testing.assert_allclose(maps[0, 0, 3, 6], np.exp(-0.5))
    assert maps[0, 0, 7, 5] > 0 and maps[0, 0, 8, 5] == 0


def found(panel, maps):
    """Key points of (N, S, J, H, W)."""
    if panel is torch_pose:
        outputs = panel.HourglassPostProcess()(torch.from_numpy(maps))
    else:
        outputs = panel.HourglassPostProcess()(tf.constant(maps.transpose(0, 1, 3, 4, 2)))
    return {name: np.asarray(value) for name, value in outputs.items()}


@pytest.mark.parametrize("panel", [torch_pose, keras_pose])
def test_joints_are_found_a_quarter_towards_the_larger_neighbours(panel):
    maps = np.zeros((1, 2, 2, 8, 6))
    maps[0, 1, 0, 5, 2], maps[0, 1, 0, 5, 3], maps[0, 1, 0, 4, 2] = 3.0, 0.5, 0.2
    maps[0, 1, 1, 0, 0] = 0.7  # in the corner: the neighbour outside is the cell itself
    outputs = found(panel, maps)
    np.testing.assert_allclose(outputs["keypoints"][0, 0], [4 * 2.75, 4 * 5.25])
    np.testing.assert_allclose(outputs["keypoints"][0, 1], [4 * 0.25, 4 * 0.25])
    np.testing.assert_allclose(outputs["scores"][0], [1.0, 0.7])


def test_mirror_image_changes_sides():
    maps = np.random.default_rng(0).standard_normal((1, 1, 16, 4, 5))
    mirrored = maps[:, :, list(torch_pose.MIRRORED), :, ::-1].copy()
    both = torch_pose.average_flipped(torch.from_numpy(maps), torch.from_numpy(mirrored))
    np.testing.assert_allclose(both, maps)
    last = [tf.constant(x.transpose(0, 1, 3, 4, 2)) for x in (maps, mirrored)]
    np.testing.assert_allclose(keras_pose.average_flipped(*last), maps.transpose(0, 1, 3, 4, 2))


def test_share_of_right_joints():
    wanted = np.array([[[0.0, 0], [10, 0], [np.nan, np.nan]]])
    assert pck(np.array([[[3.0, 4], [10, 6], [0, 0]]]), wanted, np.array([10.0])) == 0.5
