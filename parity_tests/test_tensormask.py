"""TensorMask's two operations in both panels: aligned masks of windows, and objects' masks inside windows."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.segmentation.tensormask as tf_tensormask
import torch_impl.segmentation.tensormask as torch_tensormask
from torch_impl.layers.roi_align import roi_align
from torch_impl.rois.masks import paste_masks

PANELS = ("tensorflow", "pytorch")


def aligned(panel, x, scale):
    """``swap_align_to_nat`` of NCHW maps."""
    if panel == "pytorch":
        return torch_tensormask.swap_align_to_nat(torch.tensor(x), scale).numpy()
    found = tf_tensormask.swap_align_to_nat(tf.constant(x.transpose(0, 2, 3, 1)), scale)
    return found.numpy().transpose(0, 3, 1, 2)


def loops(x, scale, missing=-6.0):
    """The same, pixel by pixel."""
    _, channels, height, width = x.shape
    side = int(channels**0.5)
    x = x.reshape(-1, side, side, height, width)
    fine, rows, columns = side * scale, -(-height // scale), -(-width // scale)
    found = np.zeros((len(x), fine, fine, rows, columns))
    for v, u, y, z in np.ndindex(fine, fine, rows, columns):
        where = [(n + 0.5) / scale - 0.5 for n in (v, u)]
        where += [place * scale + n - fine / 2 + 0.5 for place, n in ((y, v), (z, u))]
        for corner in np.ndindex(2, 2, 2, 2):
            place = [int(np.floor(n)) + c for n, c in zip(where, corner)]
            weight = np.prod([1 - abs(n - p) for n, p in zip(where, place)])
            inside = all(0 <= p < size for p, size in zip(place, (side, side, height, width)))
            found[:, v, u, y, z] += weight * (x[(slice(None), *place)] if inside else missing)
    return found.reshape(len(x), fine * fine, rows, columns)


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize(("side", "scale"), [(3, 1), (3, 2), (2, 4)])
def test_aligned_masks_are_their_definition(panel, side, scale):
    x = np.random.default_rng(0).standard_normal((2, side**2, 5, 6))
    np.testing.assert_allclose(aligned(panel, x, scale), loops(x, scale), atol=1e-12)


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("bipyramid", [True, False])
@pytest.mark.parametrize(("level", "side"), [(0, 3), (0, 5), (1, 3), (2, 3)])
def test_masks_inside_windows_are_those_of_roi_align(panel, level, side, bipyramid):
    rng = np.random.default_rng(1)
    masks = (rng.random((2, 3, 9, 11)).repeat(4, 2).repeat(4, 3) > 0.5).astype(float)
    masks[:, :, 1::3] = 0
    row, column, owner = (
        rng.integers(0, 9 >> level, (2, 6)),
        rng.integers(0, 11 >> level, (2, 6)),
        rng.integers(0, 3, (2, 6)),
    )
    stride = 4 * 2**level
    centre = np.stack([column, row, column, row], -1) * stride
    half = side * stride / 2
    boxes = centre + np.array([-half, -half, half, half])
    image = (np.arange(2)[:, None] * 3 + owner).reshape(-1)
    fine = side * 2**level if bipyramid else side
    expected = roi_align(
        torch.tensor(masks.reshape(6, 1, 36, 44)),
        torch.tensor(boxes.reshape(-1, 4)),
        torch.tensor(image),
        fine,
        1.0,
        4 if bipyramid else stride,
        True,
    )
    expected = (expected >= 0.5).numpy().reshape(2, 6, fine**2)
    panel, tensor = (tf_tensormask, tf.constant) if panel == "tensorflow" else (torch_tensormask, torch.tensor)
    found = panel.window_masks(tensor(masks), tensor(owner), tensor(row), tensor(column), level, side, bipyramid)
    np.testing.assert_array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("bipyramid", [True, False])
def test_masks_are_drawn_as_they_are_pasted_into_their_windows(panel, bipyramid):
    """Every window, at the levels of both phases, against the paste of mmdet's detectors."""
    rng, windows, size = np.random.default_rng(2), (3, 5), (40, 52)
    outputs = {}
    for level, name in enumerate(torch_tensormask.LEVELS):
        height, width = (max(n >> level, 1) for n in (10, 13))
        outputs[f"cls_{name}"] = rng.standard_normal((1, 2, height, width))
        for a, side in enumerate(windows):
            outputs[f"mask_{name}_{a}"] = rng.standard_normal(
                (1, (side * 2**level if bipyramid else side) ** 2, height, width)
            )
    tensors = {key: torch.tensor(x) for key, x in outputs.items()}
    places = torch_tensormask.window_places(tensors, windows)
    index = rng.choice(len(places["level"]), 40, replace=False)
    if panel == "pytorch":
        post = torch_tensormask.TensorMaskPostProcess(windows)
        draw = post.drawn if bipyramid else post.pasted
        found = draw(tensors, places, torch.tensor(index[None]), size).numpy()[0]
    else:
        post = tf_tensormask.TensorMaskPostProcess(windows)
        maps = {key: tf.constant(x.transpose(0, 2, 3, 1)) for key, x in outputs.items()}
        draw = post.drawn if bipyramid else post.pasted
        found = draw(maps, places, tf.constant(index[None]), size).numpy()[0]
    for i, mask in zip(index, found):
        level, a = places["level"][i], places["window"][i]
        side = windows[a] * 2**level if bipyramid else windows[a]
        logits = tensors[f"mask_{torch_tensormask.LEVELS[level]}_{a}"][0, :, places["row"][i], places["column"][i]]
        box = torch.tensor(places["anchor"][i][None, None])
        expected = paste_masks(logits.sigmoid().reshape(1, 1, side, side), box, size, "mmdet")[0, 0]
        np.testing.assert_allclose(mask, expected.numpy(), atol=1e-9)
