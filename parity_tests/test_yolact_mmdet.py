"""mmdet's YOLACT: its coefficients and masks, and the boxes that its post-process keeps, in both panels."""

import numpy as np
import pytest

from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.test_one_stage_losses import both, in_float64  # noqa: F401
from weights import catalog
from weights.seeded import seeded


@pytest.mark.slow
@pytest.mark.parametrize("panel", (TensorFlow, PyTorch), ids=lambda panel: panel.package)
def test_coefficients_prototypes_and_masks_are_those_of_mmdet(panel):
    expected = fingerprints.load("yolact_r50_8xb8-55e_coco")
    twin = panel(catalog.get("yolact_r50_mmdet"), {}, {}, None, "float32")
    twin.load(seeded(twin.shapes()))
    inputs = fingerprints.inputs_of(expected)
    found = twin.outputs({"images": inputs["input"]})
    maps = {"mask_head.protonet": found["proto"].transpose(0, 3, 1, 2)}
    masks = found["proto"][0] @ inputs["yolact_coeffs"].T.astype(np.float32)
    maps["mask_head.0.0"] = 1 / (1 + np.exp(-masks))
    start = 0
    for i, size in enumerate((16, 8, 4, 2, 1)):
        rows = found["mask"][:, start : start + 3 * size**2]
        maps[f"bbox_head.2.{i}"] = rows.reshape(1, size, size, 96).transpose(0, 3, 1, 2)
        start += 3 * size**2
    for name, values in maps.items():
        figures = compare_with_fingerprint(name, values, expected["outputs"][name])
        assert max(figure.relative for figure in figures) < 1e-4, figures


def rows_of(priors: int, classes: dict) -> dict[str, np.ndarray]:
    """Outputs of two classes whose priors say background, with few exceptions."""
    logits = np.tile([0.0, 0.0, 9.0], (1, priors, 1))
    for prior, values in classes.items():
        logits[0, prior] = values
    return {"loc": np.zeros((1, priors, 4)), "conf": logits, "mask": np.full((1, priors, 2), 0.5)}


@both
def test_the_last_class_is_background_and_better_boxes_suppress(panel):
    module = panel.module("segmentation.yolact_mmdet")
    outputs = rows_of(3 * 341, {198: (5.0, 0, 0), 201: (4.0, 0, 0), 300: (0, 6.0, 0)})
    outputs |= {"proto": np.ones((1, 32, 32, 2))}
    outputs = {key: panel.tensor(x) for key, x in outputs.items()} | {"segm": panel.map(np.zeros((1, 2, 16, 16)))}
    result = module.MMDetYOLACTPostProcess(detections=4, iou_threshold=0.4)(outputs, input_size=(128, 128))
    result = {key: np.array(x)[0] for key, x in result.items()}
    assert result["valid"].tolist() == [True, True, False, False]  # 201 is one cell away from 198
    assert result["labels"].tolist()[:2] == [1, 0]
    anchors = np.concatenate(module.level_priors((16, 16)))
    np.testing.assert_allclose(result["boxes"][:2], np.clip(anchors[[300, 198]], 0, 128), rtol=1e-9)
    column, row = (anchors[300, :2] + anchors[300, 2:]) / 2
    assert result["masks"][0, int(row), int(column)]
    assert not result["masks"][0, 127, 127]


@both
def test_an_object_has_the_prior_that_it_overlaps_most(panel):
    """Of two objects with one best prior the last one has it, the other the priors that it overlaps by a half."""
    criterion = panel.module("segmentation.yolact_mmdet").MMDetYOLACTCriterion()
    iou = np.array([[[0.45, 0.3, 0.55, 0.1], [0.3, 0.2, 0.6, 0.0], [0.9, 0.9, 0.9, 0.9]]])
    found = criterion.assign(panel.tensor(iou), panel.tensor(np.array([[True, True, False]])))
    assert np.array(found).tolist() == [[-2, -1, 1, -1]]
    iou = np.array([[[0.1, 0.3, 0.2, 0.0], [0.05, 0.25, 0.0, 0.0]]])
    found = criterion.assign(panel.tensor(iou), panel.tensor(np.array([[True, True]])))
    assert np.array(found).tolist() == [[-1, 1, -1, -1]]
