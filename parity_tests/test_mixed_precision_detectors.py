"""Detectors in mixed precision: the maps lose precision, the boxes do not."""

import keras
import numpy as np
import pytest
import torch

import tf_impl.training.mixed_precision as tf_mixed
import torch_impl.training.mixed_precision as torch_mixed
from parity_tests.harness.case import get
from parity_tests.harness.measure import Proof

MIXED = {"tensorflow": tf_mixed, "pytorch": torch_mixed}
NAMES = (
    "faster_rcnn_r50_fpn",
    "mask_rcnn_r50_fpn",
    "faster_rcnn_r50_dconv_c3_c5_fpn",
    "faster_rcnn_r50_mdconv_c3_c5_fpn",
    "cascade_rcnn_r50_fpn",
)
PROPOSALS = np.array([[1.3, 2.6, 40.1, 50.7], [10.2, 5.9, 80.3, 60.4], [1025.1, 1026.2, 1064.3, 1090.4]], np.float32)
# relative L2; measured are at most 1.3e-3 of the outputs and 1.9e-3 of a step, of a precision that rounds by 5e-4
OUTPUTS, STEP = 4e-3, 8e-3


def detector(name: str, panel: str):
    """A small detector with seeded weights, and its images, proposals and targets."""
    proof = Proof(get(name)[0])
    twin = dict(zip(MIXED, proof.twins("float32"), strict=True))[panel]
    inputs, targets = proof.arrays()
    proposals = np.tile(PROPOSALS, (len(inputs["images"]), 1, 1))
    images = twin.tensors({"images": inputs["images"]})["images"]
    made = twin.tensors({**targets, "proposals": proposals})
    return twin, images, made


def arrays(outputs) -> dict:
    return {key: np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for key, x in outputs.items()}


def distance(found, expected) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected.astype(np.float64)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("panel", MIXED)
def test_boxes_keep_single_precision(panel, name):
    """Coordinates beyond 1,024 would be whole pixels in half precision."""
    twin, images, targets = detector(name, panel)
    options = {"training": False} if panel == "tensorflow" else {}
    found = {}
    for dtype in ("float32", "float16"):
        with MIXED[panel].autocast(twin.model, dtype):
            found[dtype] = arrays(twin.model(images, proposals=targets["proposals"], **options))
    for key in ("anchors", "image_size"):
        np.testing.assert_array_equal(found["float16"][key], found["float32"][key])
    if not name.startswith("cascade"):  # which moves them from stage to stage
        np.testing.assert_array_equal(found["float16"]["proposals"], np.asarray(targets["proposals"]))
    for key in ("objectness", "anchor_deltas", "class_logits", "box_deltas"):
        assert 1e-5 < distance(found["float16"][key], found["float32"][key]) < OUTPUTS, key


@pytest.mark.parametrize("panel", MIXED)
def test_step_is_near_that_of_single_precision(panel):
    changes = {}
    for dtype in ("float32", "float16"):
        twin, images, targets = detector("mask_rcnn_r50_fpn", panel)
        before = arrays(twin.state())
        optimizer = (
            torch.optim.SGD(twin.model.parameters(), 2.0**-7) if panel == "pytorch" else keras.optimizers.SGD(2.0**-7)
        )
        scaler = MIXED[panel].StaticLossScaler(64.0)
        trainer = MIXED[panel].MixedPrecisionTrainer(twin.model, twin.criterion, optimizer, scaler, dtype)
        assert trainer.step(((images, None, targets), targets))[1]
        after = arrays(twin.state())
        kept = [key for key in after if "running" not in key and "tracked" not in key]
        changes[dtype] = np.concatenate([(after[key] - before[key]).ravel() for key in kept])
    assert 1e-5 < distance(changes["float16"], changes["float32"]) < STEP
