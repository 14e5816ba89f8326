"""Losses of one-stage detectors on a scene of waves, against numbers computed once with the references' own code.

The scene: an image of 256 x 256 with four objects and one with two; outputs are b + a sin(0.7371 i + p) over the flat
index i of the reference's layout.
"""

import importlib
import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.cases.detection import padded
from weights.processing import set_matching

SCENE = [
    (
        np.array([[12.3, 20.1, 100.7, 90.9], [30, 40, 62, 75.5], [150.2, 100.3, 250.1, 240.8], [5.5, 200, 25, 225]]),
        np.array([1, 0, 4, 2]),
    ),
    (np.array([[60, 60, 200, 210], [64.4, 70.2, 110.9, 140.6]]), np.array([3, 3])),
]
# golden numbers are of float32 computations
CLOSE = {"rel": 2e-6}


def side(package, tensor, nchw):
    """The modules of a panel; how arrays get in, and NCHW maps."""
    return SimpleNamespace(
        package=package,
        module=lambda name: importlib.import_module(f"{package}.{name}"),
        tensor=tensor,
        map=lambda array: tensor(array if nchw else array.transpose(0, 2, 3, 1)),
    )


TF = side("tf_impl", tf.constant, False)
TORCH = side("torch_impl", lambda array: torch.from_numpy(np.array(array)), True)
both = pytest.mark.parametrize("panel", [TF, TORCH], ids=["tensorflow", "pytorch"])


@pytest.fixture(autouse=True)
def in_float64():
    """Keras casts what a layer is given to the type that the layer was made with."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def wave(shape, amplitude, base, phase):
    """Rounded to float32, as the references were given it."""
    flat = base + amplitude * np.sin(0.7371 * np.arange(math.prod(shape)) + phase)
    return flat.reshape(shape).astype(np.float32).astype(np.float64)


def losses(panel, criterion, outputs, targets):
    found = criterion(outputs, {key: panel.tensor(value) for key, value in targets.items()})
    return {key: float(value) for key, value in found.items()}


@both
def test_ssd_of_torchvision(panel):
    boxes = panel.module("boxes.default_boxes").default_boxes
    sizes = [(n, n) for n in (38, 19, 10, 5, 3, 1)]
    scales, steps = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), (8, 16, 32, 64, 100, 300)
    anchors = boxes((300, 300), sizes, scales, ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)), steps)
    assert anchors.shape == (8732, 4)
    np.testing.assert_allclose(anchors[:2], [[-6.5, -6.5, 14.5, 14.5], [-11.370426] * 2 + [19.370426] * 2], atol=1e-5)
    outputs = {
        "cls_logits": panel.tensor(wave((2, 8732, 6), 1.5, 0, 0.1)),
        "bbox_regression": panel.tensor(wave((2, 8732, 4), 0.5, 0, 0.2)),
        "anchors": panel.tensor(anchors),
        "image_size": panel.tensor(np.array([300, 300])),
    }
    targets = padded(SCENE)
    targets["labels"] = targets["labels"] + targets["valid"]
    found = losses(panel, panel.module("detection.ssd").SSDCriterion(), outputs, targets)
    assert found["classification"] == pytest.approx(14.309581, **CLOSE)
    assert found["bbox_regression"] == pytest.approx(2.907710, **CLOSE)
    targets["valid"][:] = False
    assert losses(panel, panel.module("detection.ssd").SSDCriterion(), outputs, targets)["total"] == 0


@both
def test_yolov3_of_mmdet(panel):
    outputs = {
        f"pred_{level}": panel.map(wave((2, 30, n, n), 1, -0.5, 0.1 + k))
        for k, (level, n) in enumerate((("p5", 8), ("p4", 16), ("p3", 32)))
    }
    found = losses(panel, panel.module("detection.yolov3").YOLOV3Criterion(), outputs, padded(SCENE))
    for key, value in (("cls", 28.616428), ("conf", 4281.8359), ("xy", 28.157291), ("wh", 17.416479)):
        assert found[f"loss_{key}"] == pytest.approx(value, **CLOSE), key


@both
def test_yolov4(panel):
    outputs = {
        f"pred_{level}": panel.map(wave((2, 30, n, n), 1, -0.5, 0.1 + k))
        for k, (level, n) in enumerate((("p3", 32), ("p4", 16), ("p5", 8)))
    }
    found = losses(panel, panel.module("detection.yolov4").YOLOV4Criterion(), outputs, padded(SCENE))
    for key, value in (("xy", 15.77565), ("wh", 8.65048), ("obj", 4272.731), ("cls", 21.67369)):
        assert found[f"loss_{key}"] == pytest.approx(value, **CLOSE), key


@both
def test_yolov5(panel):
    outputs = {
        f"pred_{level}": panel.tensor(wave((2, 3, n, n, 10), 1, -0.3, 0.1 + k))
        for k, (level, n) in enumerate((("p3", 32), ("p4", 16), ("p5", 8)))
    }
    criterion = panel.module("detection.yolov5").YOLOV5Criterion(0.05, (256 / 640) ** 2, 0.5 * 5 / 80)
    found = losses(panel, criterion, outputs, padded(SCENE))
    for key, value in (("total", 1.436023), ("box", 0.124922), ("obj", 0.530596), ("cls", 0.062494)):
        assert found[key] == pytest.approx(value, rel=1e-5), key


@both
def test_centernet(panel):
    outputs = {
        "hm": panel.map(wave((2, 5, 64, 64), 2, -2, 0.1)),
        "wh": panel.map(wave((2, 2, 64, 64), 5, 10, 0.2)),
        "reg": panel.map(wave((2, 2, 64, 64), 0.5, 0.5, 0.3)),
    }
    found = losses(panel, panel.module("detection.centernet").CenterNetCriterion(), outputs, padded(SCENE))
    for key, value in (("hm", 248.143738), ("wh", 11.337549), ("off", 0.465426)):
        assert found[f"{key}_loss"] == pytest.approx(value, **CLOSE), key


def detr_scene():
    logits = {"_0": 0.9, "": 0.1}
    boxes = {"_0": 1.3, "": 0.4}
    outputs = {f"pred_logits{key}": wave((2, 12, 6), 1.5, 0, phase) for key, phase in logits.items()}
    outputs |= {f"pred_boxes{key}": wave((2, 12, 4), 0.2, 0.45, phase) for key, phase in boxes.items()}
    return outputs, {**padded(SCENE), "image_size": np.full((2, 2), 256)}


def test_matching_of_detr():
    outputs, targets = detr_scene()
    indices = set_matching.match_layers(outputs, targets)
    assert indices.shape == (2, 2, 4)
    assert indices[0, 1].tolist() == [10, 1, 11, 3]  # query 1 for object 1, 3 for 3, 10 for 0, 11 for 2
    assert indices[1, 1].tolist() == [5, 6, -1, -1]
    targets["valid"][:] = False
    assert (set_matching.match_layers(outputs, targets) == -1).all()
    with pytest.raises(ValueError, match="4 objects in an image are more than 2 queries"):
        outputs = {"pred_logits": outputs["pred_logits"][:, :2], "pred_boxes": outputs["pred_boxes"][:, :2]}
        set_matching.match_layers(outputs, detr_scene()[1])


@both
def test_detr(panel):
    outputs, targets = detr_scene()
    targets["indices"] = set_matching.match_layers(outputs, targets)
    outputs = {key: panel.tensor(value) for key, value in outputs.items()}
    found = losses(panel, panel.module("detection.detr").DETRCriterion(), outputs, targets)
    for suffix, values in (("", (1.896320, 0.560188, 0.958421)), ("_0", (1.781204, 0.532942, 0.898652))):
        for key, value in zip(("ce", "bbox", "giou"), values):
            assert found[f"loss_{key}{suffix}"] == pytest.approx(value, **CLOSE), key
