"""Published weights of classifiers on photographs of scikit-image, in both panels."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

import torch_impl.state
from parity_tests.harness.packages import skip_without_package
from parity_tests.harness.panels import PyTorch, TensorFlow
from torch_impl.losses.cross_entropy import ClassificationPostProcess
from weights import catalog, checkpoints, onnx_file, store
from weights.processing.images import image_input

CLASSES = Path(catalog.__file__).parents[1] / "classes"


@cache
def panels(model):
    """Both panels with the published weights, and the checkpoint; skipped where its package is not installed."""
    entry = catalog.get(model)
    with skip_without_package():
        checkpoint, path = checkpoints.fetch(entry, "imagenet")
    tensors = store.rename(torch_impl.state.open_checkpoint(path), checkpoint.rename)
    found = []
    for panel in (TensorFlow, PyTorch):
        found.append(panel(entry, {}, precision="float32"))
        found[-1].load(tensors)
    return checkpoint, found


def outputs(model, picture):
    """Both panels' answers for an image, which must be the same."""
    checkpoint, both = panels(model)
    images = image_input(picture, checkpoint.preprocessing)
    ours, theirs = (next(iter(panel.outputs({"images": images}).values())) for panel in both)
    assert onnx_file.relative(ours, theirs) <= 1e-5
    return theirs


@pytest.mark.parametrize(
    "model, picture, expected, score",
    [
        ("mobilenet_v2", "chelsea", "Egyptian cat", 0.7166),
        ("tf_efficientnet_lite0", "chelsea", "tiger cat", 0.3946),
        ("tf_efficientnet_lite0", "coffee", "espresso", 0.9511),
    ],
)
def test_what_is_on_the_photograph(model, picture, expected, score):
    best = ClassificationPostProcess(1)(torch.from_numpy(outputs(model, getattr(data, picture)())))
    names = (CLASSES / f"{panels(model)[0].classes}.txt").read_text(encoding="utf-8").splitlines()
    assert names[int(best["classes"][0, 0])] == expected
    np.testing.assert_allclose(best["scores"][0, 0], score, atol=1e-3)


def test_half_precision_still_sees_the_cat(tmp_path):
    checkpoint, (_, torch_panel) = panels("mobilenet_v2")
    images = image_input(data.chelsea(), checkpoint.preprocessing)
    path = torch_panel.export(tmp_path / "half.onnx", {"images": np.repeat(images, 2, 0)}, None, {}, half=True)
    (found,) = onnx_file.run(onnx_file.session(path), {"images": images}).values()
    expected = outputs("mobilenet_v2", data.chelsea())
    assert np.abs(found - expected).max() < 0.1 and found.argmax() == expected.argmax()
    assert path.stat().st_size < 8e6  # the file in single precision has 14 MB


def test_embeddings_of_the_same_cat_are_closer():
    cat = data.chelsea()
    found = [outputs("mobilenet_v2_embedding", picture)[0] for picture in (cat, cat[:, ::-1], data.coffee())]
    cat, mirrored, coffee = (value / np.linalg.norm(value) for value in found)
    assert cat @ mirrored > 0.9 > 0.5 > cat @ coffee
