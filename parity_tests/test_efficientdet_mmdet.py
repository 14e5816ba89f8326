"""mmdet's EfficientDet: its anchors, its Huber loss, and scores that are lowered, in both panels."""

import numpy as np
import pytest

from parity_tests.test_one_stage_losses import both, in_float64  # noqa: F401

SIDE, CELL = 32 / 2**0.5, (5 * 16 + 7) * 9  # of the square of P3 on ratio 1/2; the first anchor at (60, 44)


def outputs_of(panel, classes: dict, boxes: dict):
    """Maps of two classes, of an image of 128 x 128; logits and deltas of some anchors of P3."""
    rows = {"class": np.full((16 * 16 * 9, 2), -9.0), "box": np.zeros((16 * 16 * 9, 4))}
    for key, values in (("class", classes), ("box", boxes)):
        for anchor, numbers in values.items():
            rows[key][anchor] = numbers
    maps = {f"{key}_p3": x.reshape(1, 16, 16, -1).transpose(0, 3, 1, 2) for key, x in rows.items()}
    for i, size in enumerate((8, 4, 2, 1)):
        maps |= {f"class_p{i + 4}": np.full((1, 18, size, size), -9.0), f"box_p{i + 4}": np.zeros((1, 36, size, size))}
    return {key: panel.map(x) for key, x in maps.items()}


@both
def test_overlapping_boxes_of_a_class_are_lowered(panel):
    classes = {CELL: (2.0, -9), CELL + 3: (-9, 1.0), CELL + 9: (1.5, -9), CELL + 18 * 5: (-2.95, -9)}
    outputs = outputs_of(panel, classes, {CELL + 3: (0.25, 0, 0, np.log(2))})
    post_process = panel.module("detection.efficientdet_mmdet").MMDetEfficientDetPostProcess(detections=4)
    found = {key: np.array(x)[0] for key, x in post_process(outputs, input_size=(128, 128)).items()}
    assert found["valid"].tolist() == [True, True, True, False]  # the probability of the last one is below 0.05
    assert found["labels"].tolist() == [0, 1, 0, 0]
    wide = [60 + SIDE / 2 - SIDE, 44 - SIDE, 60 + SIDE / 2 + SIDE, 44 + SIDE]
    np.testing.assert_allclose(found["boxes"][:3], [[44, 28, 76, 60], wide, [52, 28, 84, 60]])
    overlap = 24 / 40
    scores = 1 / (1 + np.exp(-np.array([2, 1, 1.5])))
    np.testing.assert_allclose(found["scores"][:3], scores * [1, 1, np.exp(-(overlap**2) / 0.5)])


@both
def test_huber_loss_is_over_four_numbers_and_all_matched_anchors(panel):
    outputs = outputs_of(panel, {}, {CELL: (0.05, -0.3, 0, 0)})
    targets = {
        "boxes": np.array([[[44.0, 28, 76, 60], [0, 0, 0, 0]]]),
        "labels": np.array([[1, 0]]),
        "valid": np.array([[True, False]]),
    }
    module = panel.module("detection.efficientdet_mmdet")
    np.testing.assert_allclose(np.array(module.retina_rows(outputs)["anchors_p3"])[CELL], targets["boxes"][0, 0])
    criterion, targets = module.MMDetEfficientDetCriterion(), {key: panel.tensor(x) for key, x in targets.items()}
    one, other = (float(criterion(x, targets)["loss_bbox"]) for x in (outputs, outputs_of(panel, {}, {})))
    # in the other outputs this anchor has no loss, and the same others have one
    count = 50 / 4 * (0.5 * 0.05**2 + 0.1 * 0.3 - 0.005) / (one - other)
    assert count == pytest.approx(round(count), rel=1e-6)
    assert count > 1
