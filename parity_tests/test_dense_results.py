"""Results of a dense detector in both panels, against loops over levels, candidates and kept boxes."""

import math

import numpy as np
import pytest

from parity_tests.boxes import anchors_of, both, outputs_of, plain_overlap, scene

pytestmark = pytest.mark.usefixtures("double_precision")


def plain_results(logits, deltas, anchors, image, threshold, candidates, overlap, detections, both_clamps, drop_empty):
    """One image's results: loops over levels, candidates and kept boxes."""
    found, start = [], 0
    for level in anchors:
        x, d = logits[start : start + len(level)], deltas[start : start + len(level)]
        start += len(level)
        scores = 1 / (1 + np.exp(-x))
        order = np.argsort(-scores.ravel(), kind="stable")[:candidates]
        for a, k in zip(*np.unravel_index(order, x.shape)):
            if scores[a, k] <= threshold:
                continue
            size, centre = level[a, 2:] - level[a, :2], (level[a, 2:] + level[a, :2]) / 2
            ratio = np.minimum(d[a, 2:], math.log(1000 / 16))
            ratio = np.maximum(ratio, -math.log(1000 / 16)) if both_clamps else ratio
            centre, half = centre + d[a, :2] * size, np.exp(ratio) * size / 2
            box = np.clip(np.concatenate([centre - half, centre + half]), 0, [image[1], image[0]] * 2)
            if not (drop_empty and (box[2:] <= box[:2]).any()):
                found.append((scores[a, k], k, box))
    kept = []
    for score, k, box in sorted(found, key=lambda row: -row[0]):
        empty = (box[2:] <= box[:2]).any()
        if all(label != k or empty or plain_overlap(box, other) <= overlap for _, label, other in kept):
            kept.append((score, k, box))
    return kept[:detections]


@both
@pytest.mark.parametrize(
    "form, options",
    [
        ("RetinaNetPostProcess", {"candidates": 60, "detections": 15}),
        ("RetinaNetPostProcess", {"candidates": 700, "detections": 400, "score_threshold": 0.8}),
        ("RetinaNetPostProcess", {"candidates": 25, "iou_threshold": 0.1}),
        ("retinanet_mmdet_postprocess", {"candidates": 60}),
    ],
)
def test_results_are_the_rule(panel, form, options):
    image, logits, deltas, _ = scene(classes=3)
    deltas *= 3  # boxes outside the image, and beyond the clamps
    deltas[:, ::17, 2:] *= 20
    postprocess = getattr(panel.retinanet, form)(**options)
    found = panel.arrays(postprocess(outputs_of(panel, logits, deltas, image, True, np.float64)))
    anchors = list(anchors_of(panel, image, True).values())
    mmdet = form != "RetinaNetPostProcess"
    detections = options.get("detections", 100 if mmdet else 300)
    limits = (options.get("score_threshold", 0.05), options["candidates"], options.get("iou_threshold", 0.5))
    assert found["boxes"].shape == (2, detections, 4)
    for i in range(2):
        expected = plain_results(logits[i], deltas[i], anchors, image, *limits, detections, mmdet, mmdet)
        count = found["valid"][i].sum()
        assert count == len(expected) and found["valid"][i, :count].all()
        for key, column in (("scores", 0), ("labels", 1), ("boxes", 2)):
            np.testing.assert_allclose(found[key][i, :count], [row[column] for row in expected], rtol=1e-9, atol=1e-9)
            assert not found[key][i, count:].any()


@both
def test_scores_at_the_threshold_are_dropped(panel):
    image, logits, deltas, _ = scene(classes=2)
    logits[:] = 0.0  # probability one half exactly
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    assert not np.asarray(panel.retinanet.RetinaNetPostProcess(score_threshold=0.5)(outputs)["valid"]).any()
    found = panel.arrays(panel.retinanet.RetinaNetPostProcess(score_threshold=0.49, candidates=3)(outputs))
    assert found["valid"].any() and (found["scores"][found["valid"]] == 0.5).all()


@both
def test_equal_scores_take_the_lower_index(panel):
    image, logits, deltas, _ = scene(classes=2)
    logits[:], deltas[:] = -9.0, 0.0
    logits[:, 4:8] = 1.0
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    found = panel.arrays(panel.retinanet.RetinaNetPostProcess(candidates=3, iou_threshold=1.0)(outputs))
    assert found["labels"][0, :3].tolist() == [0, 1, 0] and found["valid"][0].sum() == 3


@both
def test_images_of_a_padded_batch_have_their_own_size(panel):
    image, logits, deltas, _ = scene()
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    outputs["image_size"] = panel.tensor(np.array([[60, 50], [97, 81]]))
    boxes = np.asarray(panel.retinanet.RetinaNetPostProcess()(outputs)["boxes"])
    assert boxes[0].max(0).tolist() == [*boxes[0].max(0)[:2], 50, 60] and boxes[1, :, 2].max() > 50
