"""Sliding windows: against a loop over windows in numpy, the segmenter itself, other sizes, and ONNX files."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.export
import torch_impl.export
from tf_impl.layers.model import Model
from tf_impl.segmentation import sliding as tf_sliding
from torch_impl.segmentation import sliding as torch_sliding
from weights import onnx_file

LAYOUTS = {"images": "NCHW", "logits": "NCHW"}


def scores_of(window: np.ndarray) -> np.ndarray:
    """What :class:`TorchHalf` gives one window (N, C, h, w): scores that depend on all of it, at its own size."""
    return np.concatenate([window, window**2 + window.mean((1, 2, 3), keepdims=True)], 1)


class TorchHalf(torch.nn.Module):
    """Two maps of each of the channels; the second knows what else is in the window."""

    def forward(self, images):
        return {
            "logits": torch.cat((images, images**2 + images.mean((1, 2, 3), keepdim=True)), 1),
            "aux_logits": images,
        }


@keras.saving.register_keras_serializable("test_sliding")
class KerasHalf(Model):
    def call(self, images, training=False):
        second = images**2 + tf.reduce_mean(images, (1, 2, 3), keepdims=True)
        return {"logits": tf.concat((images, second), -1), "aux_logits": images}


def by_hand(images: np.ndarray, crop, stride) -> np.ndarray:
    """As the reference says it: windows by their ends, which are moved back inside, sums and counts."""
    _, channels, height, width = images.shape
    total, count = np.zeros((len(images), 2 * channels, height, width)), np.zeros((height, width))
    grids = [max(n - c + s - 1, 0) // s + 1 for n, c, s in zip((height, width), crop, stride)]
    for i in range(grids[0]):
        for j in range(grids[1]):
            bottom, right = min(i * stride[0] + crop[0], height), min(j * stride[1] + crop[1], width)
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            total[:, :, top:bottom, left:right] += scores_of(images[:, :, top:bottom, left:right])
            count[top:bottom, left:right] += 1
    assert count.min() > 0
    return total / count


def both(images: np.ndarray, **options) -> np.ndarray:
    """The logits of both panels, which must be the same."""
    found = torch_sliding.SlidingWindows(TorchHalf(), **options).eval()(torch.from_numpy(images))
    twin = tf_sliding.SlidingWindows(KerasHalf(dtype="float64"), dtype="float64", **options)
    twin = twin(tf.constant(images.transpose(0, 2, 3, 1)))
    assert set(found) == set(twin) == {"logits"}
    np.testing.assert_allclose(twin["logits"].numpy().transpose(0, 3, 1, 2), found["logits"], rtol=1e-13, atol=1e-14)
    return found["logits"].numpy()


@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((20, 31), (8, 12), (5, 7)),  # the last windows overlap more
        ((18, 26), (8, 12), (5, 7)),  # they fit
        ((17, 9), (8, 12), (8, 12)),  # side by side, and an image that is narrower than a window
        ((5, 30), (8, 12), (1, 11)),
        ((9, 13), (8, 12), (5, 7)),  # one pixel more than a window
        ((7, 11), (8, 12), (5, 7)),  # smaller in both directions
    ],
)
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_windows_are_those_of_the_loop(size, crop, stride, batch):
    images = np.random.default_rng(0).standard_normal((2, 3, *size))
    found = both(images, crop=crop, stride=stride, batch=batch)
    np.testing.assert_allclose(found, by_hand(images, crop, stride), rtol=1e-12, atol=1e-13)


def test_a_window_as_large_as_the_image_changes_nothing():
    images = np.random.default_rng(1).standard_normal((2, 3, 9, 13))
    for crop in ((9, 13), (256, 256)):
        np.testing.assert_allclose(both(images, crop=crop, stride=(3, 3)), scores_of(images), rtol=1e-13)
    assert np.abs(both(images, crop=(8, 8), stride=(3, 3)) - scores_of(images)).max() > 0.01


def test_published_windows():
    """256 every 170 pixels: of 2336 x 3504 pixels 14 x 21, the last ones at the border."""
    rows, columns = torch_sliding.starts(2336, 256, 170), torch_sliding.starts(3504, 256, 170)
    assert (len(rows), len(columns)) == (14, 21) and (rows[-2:], columns[-1]) == ([2040, 2080], 3248)
    assert tf_sliding.starts(2336, 256, 170) == rows


def test_training_is_that_of_the_segmenter():
    images = np.random.default_rng(2).standard_normal((1, 3, 9, 13)).astype(np.float32)
    options = {"crop": (8, 8), "stride": (3, 3)}
    theirs = torch_sliding.SlidingWindows(TorchHalf(), **options).train()(torch.from_numpy(images))
    ours = tf_sliding.SlidingWindows(KerasHalf(), **options)(tf.constant(images.transpose(0, 2, 3, 1)), training=True)
    assert set(theirs) == set(ours) == {"logits", "aux_logits"}
    np.testing.assert_allclose(theirs["logits"], scores_of(images), rtol=1e-5)


def test_both_files_serve_every_batch_of_the_size_they_are_made_for(tmp_path):
    images = np.random.default_rng(3).standard_normal((2, 3, 11, 17)).astype(np.float32)
    options = {"crop": (8, 12), "stride": (5, 7), "batch": 3}
    panels = {
        "torch": (torch_impl.export, torch_sliding.SlidingWindows(TorchHalf(), **options).eval()),
        "tensorflow": (tf_impl.export, tf_sliding.SlidingWindows(KerasHalf(), **options)),
    }
    for name, (module, model) in panels.items():
        paths = {"model": tmp_path / f"{name}.onnx"}
        given = {"layouts": LAYOUTS, "outputs": ["logits"], "dynamic": {"images": ("N", None, None, None)}}
        module.export_forms(model, paths, {"images": images}, **given)
        session = onnx_file.session(paths["model"])
        for count in (1, 3):
            feed = np.random.default_rng(count).standard_normal((count, 3, 11, 17)).astype(np.float32)
            found = onnx_file.run(session, {"images": feed})["logits"]
            np.testing.assert_allclose(found, by_hand(feed, (8, 12), (5, 7)), rtol=1e-4, atol=1e-5)
        with pytest.raises((onnx_file.ExportError, ValueError)):
            module.export_forms(
                model, {"model": tmp_path / "no.onnx"}, {"images": images}, dynamic_size=True, **given | {"dynamic": {}}
            )
    assert not (tmp_path / "no.onnx").exists()


@pytest.mark.parametrize("panel", [torch_sliding, tf_sliding])
@pytest.mark.parametrize("stride", [(0, 4), (4, 9)])
def test_strides_that_leave_pixels_out_are_refused(panel, stride):
    with pytest.raises(ValueError, match="to the sides of a window"):
        panel.SlidingWindows(None, crop=(8, 8), stride=stride)
