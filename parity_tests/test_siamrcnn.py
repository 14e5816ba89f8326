"""Siam R-CNN: size, similarity of boxes, tracklets."""

import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.harness.case import get
from parity_tests.harness.measure import Proof
from torch_impl.tracking import siamrcnn
from weights import catalog
from weights.processing.tracking.siamrcnn import MEAN, STD, SiamRCNNTracker, fitted
from weights.processing.tracking.tracklets import Tracklets


@pytest.mark.parametrize("name", ["siamrcnn_r50", "siamrcnn_r101"])
def test_parameters_are_as_many_as_in_the_reference(name):
    with torch.device("meta"):
        model = getattr(siamrcnn, name)()
    assert sum(p.numel() for p in model.parameters()) == catalog.get(name).parameters


def test_similarity_is_that_of_both_panels_and_zero_far_away():
    twins = [panel.model for panel in Proof(get("siamrcnn_r50")[0]).twins("float64")]
    rng = np.random.default_rng(0)
    references, features = rng.standard_normal((2, 8, 7, 7)), rng.standard_normal((3, 8, 7, 7))
    before = np.array([[10.0, 10, 30, 30], [40, 20, 60, 50]])
    now = np.array([[12.0, 11, 31, 30], [39, 20, 60, 52], [10, 10, 30, 40]])
    with torch.no_grad():
        found = twins[1].similarity(*map(torch.tensor, (references, features, before, now)), torch.tensor([96, 64]))
    last = [tf.constant(x.transpose(0, 2, 3, 1)) for x in (references, features)]
    twin = twins[0].similarity(*last, tf.constant(before), tf.constant(now), tf.constant([96, 64]))
    np.testing.assert_allclose(found.numpy(), twin.numpy(), atol=1e-13)
    assert (found.numpy() > 0).tolist() == [[True, False, False], [False, True, False]]


def boxes(*lefts):
    return np.array([[x, 40.0, x + 10, 60] for x in lefts])


def test_crossing_objects_begin_tracklets_and_the_chain_goes_on():
    tracks = Tracklets(boxes(10)[0], None, (100, 100))
    box, sure = tracks.update(boxes(14, 60), [None] * 2, [0.9, 0.2], [[0.95, 0.0]], [0.9, 0.1])
    assert box[0] == 14 and sure == pytest.approx(0.1 + 0.9 + 9e-6)  # frame 0 counts with 1
    # as alike to both: neither is continued
    box, _ = tracks.update(boxes(35, 38), [None] * 2, [0.8, 0.3], [[0.9, 0.7], [0.7, 0.9]], [0.9, 0.2])
    assert len(tracks.all) == 4 and [t.end for t in tracks.all] == [2, 2, 3, 3]
    assert box[0] == 35 and tracks.all[2].score == pytest.approx(-7 * (0.21 / 4) + 0.08 + 0.81)
    for left, other in ((40, 30), (45, 25), (50, 20)):
        box, sure = tracks.update(boxes(left, other), [None] * 2, [0.8, 0.3], [[0.9, 0.1], [0.1, 0.9]], [0.9, 0.2])
        assert box[0] == left and sure > 0.8
    assert len(tracks.all) == 4
    box, sure = tracks.update(boxes(), [], [], np.zeros((2, 0)), [])
    assert box[0] == 50 and sure == pytest.approx(-1 + 8e-6)


def test_a_tracklet_that_begins_before_the_first_one_ends_has_no_chain():
    tracks = Tracklets(boxes(10)[0], None, (100, 100))
    tracks.update(boxes(12, 70), [None] * 2, [0.9, 0.9], [[0.9, 0.0]], [0.9, 0.9])
    tracks.update(boxes(14, 72), [None] * 2, [0.9, 0.9], [[0.9, 0.0], [0.0, 0.9]], [0.9, 0.9])
    assert tracks.all[1].end == 3 and tracks.all[1].start == 1
    assert tracks.all[1].score < -1e19


def test_a_frame_is_fitted_and_padded():
    image = np.full((50, 90, 3), 200, np.uint8)
    values, scale = fitted(image, 100, 160)  # the longer side is the limit
    assert scale == 160 / 90 and values.shape == (1, 3, 96, 160) and values.dtype == np.float32
    np.testing.assert_allclose(values[0, :, 88, 0], (200 - np.array(MEAN)) / STD, rtol=1e-6)
    assert not values[0, :, 89:].any()


class Two:
    """A network that sees two things, the first of which is the object; it is hidden in frame 3."""

    def __init__(self):
        self.frame, self.given = 0, []

    def track(self, reference, image, active):
        self.frame += 1
        self.given.append(active[0])
        x = 2 * (10 + 3.0 * self.frame)  # the input has twice the frame's size
        boxes = np.array([[[x, 20, x + 40, 60], [120, 100 - x, 160, 140 - x], [0, 0, 0, 0]]])
        features = np.eye(3)[None, :, :, None, None]
        valid = np.array([[self.frame != 3, True, False]])
        return {"boxes": boxes, "scores": np.array([[0.9, 0.4, 0]]), "valid": valid, "features": features}

    def similarity(self, references, features, reference_boxes, boxes, image_size):
        assert image_size.tolist() == [160, 192]
        near = (np.abs(reference_boxes[:, None] - boxes) < 20).all(-1)
        return near * (references[:, None] * features).sum((2, 3, 4))


def test_the_object_is_found_again_among_others():
    network = Two()
    first = np.eye(3)[:1, :, None, None]
    tracker = SiamRCNNTracker(lambda image, box: first, network.track, network.similarity, 4, 160)
    image = np.zeros((80, 96, 3), np.uint8)
    tracker.initialise(image, (10, 10, 20, 20))
    for frame in range(1, 6):
        found = tracker.track(image)
        shown = frame if frame != 3 else 2
        np.testing.assert_allclose(found["box"], (10 + 3 * shown, 10, 20, 20))
        assert (found["score"] > 0.9) == (frame != 3) and found["score"] >= 0
    np.testing.assert_allclose(network.given[0], [[20, 20, 60, 60], [0] * 4, [0] * 4, [0] * 4])
    assert [int(given.any(1).sum()) for given in network.given] == [1, 2, 2, 1, 2]
    assert [(tracklet.start, tracklet.end) for tracklet in tracker.tracklets.all] == [(0, 3), (1, 6), (4, 6)]
