"""MTCNN's cascade: published weights on a photograph, stage by stage, in both panels; its parts on small examples."""

from functools import cache

import numpy as np
import pytest
from skimage import data

import torch_impl.state
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.packages import skip_without_package
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, checkpoints
from weights.processing.face import mtcnn

NETWORKS = ("mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet")
STAGES = {"pnet.candidates": "candidates", "pnet.boxes": "proposals", "rnet.boxes": "refined"}
# what the published networks say about arange(3 S S) / (3 S S) * 2 - 1
VECTORS = {
    "mtcnn_pnet": (12, 0.0015494160, [0.0359762833, -0.0363106988, 0.0255317762, 0.1207796782]),
    "mtcnn_rnet": (24, 0.00068028359, [-0.1463469565, -0.2272439897, 0.1520790309, 0.3873811066]),
    "mtcnn_onet": (48, 0.000141494, None),
}


@cache
def published(panel, model):
    entry = catalog.get(model)
    with skip_without_package():
        _, path = checkpoints.fetch(entry)
    found = panel(entry, {}, precision="float32")
    found.load(torch_impl.state.open_checkpoint(path))
    return found


def network(panel, model):
    """What the cascade calls."""
    return lambda images: published(panel, model).outputs({"images": images})


@pytest.mark.parametrize("panel", [TensorFlow, PyTorch])
@pytest.mark.parametrize("model", NETWORKS)
def test_published_networks(panel, model):
    side, face, box = VECTORS[model]
    image = np.arange(3 * side * side, dtype=np.float32).reshape(1, 3, side, side) / (3 * side * side) * 2 - 1
    found = published(panel, model).outputs({"images": image})
    np.testing.assert_allclose(found["prob"].ravel()[1], face, rtol=1e-4)
    if box:
        np.testing.assert_allclose(found["box"].ravel(), box, atol=1e-5)


@pytest.mark.parametrize("panel", [TensorFlow, PyTorch])
@pytest.mark.parametrize("setting", ["default", "min40", "strict"])
def test_a_photograph_stage_by_stage(panel, setting):
    networks = [network(panel, model) for model in NETWORKS]
    expected = fingerprints.load("facenet_pytorch_mtcnn_astronaut")["outputs"][setting]
    stages = {}
    found = mtcnn.detect_faces(data.astronaut(), *networks, **expected["settings"], stages=stages)
    for theirs, ours in STAGES.items():
        for figure in compare_with_fingerprint(theirs, stages[ours], expected["stages"][theirs]):
            assert figure.relative <= 1e-4, figure
    boxes = np.array(expected["stages"]["final.boxes_and_prob"]["data"]).reshape(-1, 5)
    points = np.array(expected["stages"]["final.points"]["data"]).reshape(-1, 5, 2)
    assert found["valid"].sum() == len(boxes) == 1
    np.testing.assert_allclose(found["boxes"][0], boxes[0, :4], atol=0.01)
    np.testing.assert_allclose(found["scores"][0], boxes[0, 4], atol=1e-5)
    np.testing.assert_allclose(found["landmarks"][0], points[0], atol=0.01)
    aligned = mtcnn.align_face(data.astronaut(), found["landmarks"][0])
    assert aligned.shape == (112, 112, 3) and 60 < aligned.mean() < 200
    for rule in ("probability", "largest", "center_weighted_size"):
        assert mtcnn.select_face(found, (512, 512), rule) == 0


def test_nothing_is_found_in_nothing():
    def never(images):
        shape = (1, 2, (images.shape[2] - 2) // 2 - 4, (images.shape[3] - 2) // 2 - 4)
        return {"prob": np.zeros(shape, np.float32), "box": np.zeros((1, 4, *shape[2:]), np.float32)}

    found = mtcnn.detect_faces(np.zeros((40, 60, 3), np.uint8), never, None, None)
    assert not found["valid"].any() and found["boxes"].shape == (64, 4)
    assert not mtcnn.detect_faces(np.zeros((8, 8, 3), np.uint8), never, None, None)["valid"].any()
    with pytest.raises(ValueError, match="no face"):
        mtcnn.select_face(found, (40, 60))
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        mtcnn.detect_faces(np.zeros((40, 60), np.uint8), never, None, None)


def test_suppression_is_the_loop():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 20, (60, 2))
    boxes = np.concatenate([boxes, boxes + rng.uniform(1, 15, (60, 2))], 1)
    scores = np.round(rng.uniform(size=60), 1)  # with ties
    for mode, extra in (("union", 0.0), ("min", 1.0)):
        shared, left, kept = mtcnn.overlaps(boxes, extra, mode), list(np.argsort(-scores, kind="stable")), []
        while left:
            kept.append(left.pop(0))
            left = [i for i in left if shared[kept[-1], i] <= 0.4]
        np.testing.assert_array_equal(mtcnn.suppress(boxes, scores, 0.4, extra, mode), kept)


@pytest.mark.parametrize(
    "mode, expected", [("linear", 0.8 * (1 - 2 / 3)), ("gaussian", 0.8 * np.exp(-((2 / 3) ** 2) / 0.5))]
)
def test_soft_suppression_lowers_scores(mode, expected):
    boxes = np.array([[0.0, 0, 10, 10], [0, 2, 10, 12], [50, 50, 60, 60]])  # the first two share 2/3 of their union
    order, scores = mtcnn.soft_suppress(boxes, np.array([0.9, 0.8, 0.7]), mode)
    np.testing.assert_array_equal(order, [0, 2, 1])
    np.testing.assert_allclose(scores, [0.9, 0.7, expected])


def test_similarity_finds_rotation_scale_and_shift():
    turn = 1.7 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    matrix = mtcnn.similarity_transform(mtcnn.TEMPLATE, mtcnn.TEMPLATE @ turn.T + [3, -5])
    np.testing.assert_allclose(matrix, np.concatenate([turn, [[3], [-5]]], 1), atol=1e-10)


def test_area_resize_is_the_mean_of_whole_pixels():
    total = mtcnn.integral(np.arange(5.0)[:, None, None])
    for window, size, expected in (((0, 0, 1, 5), 2, [1, 3]), ((0, 0, 1, 2), 3, [0, 0.5, 1]), ((0, 3, 1, 5), 1, [3.5])):
        found = mtcnn.area_resize(total, np.array([window]), (size, 1))
        np.testing.assert_allclose(found[0, :, 0, 0], expected)
