"""Identities of CenterTrack and FairMOT over made-up frames, and the parts of their rules."""

import numpy as np
import pytest

from weights.processing.tracking.centertrack import CenterTracker
from weights.processing.tracking.fairmot import FairMOTTracker, Kalman, assign, measured_of
from weights.processing.tracking.heatmaps import draw_hill, hill_radius


def detections(centres, moves, size=20.0, scores=None, labels=None):
    centres = np.array(centres, float).reshape(-1, 2)
    return {
        "boxes": np.concatenate([centres - size / 2, centres + size / 2], 1),
        "centres": centres,
        "moves": np.array(moves, float).reshape(-1, 2),
        "scores": np.full(len(centres), 0.9) if scores is None else np.array(scores),
        "labels": np.zeros(len(centres), int) if labels is None else np.array(labels),
    }


def test_centers_go_back_by_their_movement():
    tracker = CenterTracker()
    first = tracker.step(detections([[50, 50], [80, 50]], np.zeros((2, 2))))
    assert [t["id"] for t in first] == [1, 2]
    crossed = tracker.step(detections([[78, 50], [52, 50]], [[-28, 0], [28, 0]]))  # they change places
    assert [t["id"] for t in crossed] == [1, 2] and crossed[0]["active"] == 2
    assert [t["id"] for t in tracker.step(detections([[78, 50]], [[0, 0]], labels=[1]))] == [3]  # of another class
    assert tracker.step(detections([[300, 300]], [[0, 0]], scores=[0.2])) == []


def test_centers_are_kept_for_some_frames():
    tracker = CenterTracker(max_age=3)
    tracker.step(detections([[50, 50]], [[0, 0]]))
    for age in (2, 3):
        (track,) = tracker.step(detections([], []))
        assert track["age"] == age and track["active"] == 0 and not tracker.heat(64, 64).any()
    assert tracker.step(detections([], [])) == []


def test_tracks_are_drawn_for_the_next_frame():
    tracker = CenterTracker()
    tracker.step(detections([[40, 30], [600, 30]], np.zeros((2, 2))))
    heat = tracker.heat(64, 96)
    assert heat.shape == (1, 1, 64, 96) and heat[0, 0, 30, 40] == 1 and (heat == 1).sum() == 1


@pytest.mark.parametrize("size, radius", [((20, 20), 5), ((1, 1), 0), ((40, 10), 4)])
def test_radius_of_a_hill(size, radius):
    assert hill_radius(*size) == radius
    heat = np.zeros((9, 9))
    draw_hill(heat, (0, 8), 3)
    assert heat[8, 0] == 1 and heat[4, 0] == 0 and heat[5, 0] > 0
    draw_hill(heat, (30, 30), 3)


def people(*places):
    boxes = np.array([[x, y, x + 20, y + 50] for x, y in places], float)
    return boxes, np.full(len(places), 0.8), np.eye(4)[: len(places)]


def test_people_keep_their_identities_by_their_looks():
    tracker = FairMOTTracker()
    boxes, scores, looks = people((0, 0), (100, 0))
    assert [t.identity for t in tracker.step(boxes, scores, looks)] == [1, 2]
    for _ in range(2):
        boxes = boxes + [2, 0, 2, 0]
        found = tracker.step(boxes[::-1], scores, looks[::-1])
        assert sorted((t.identity, t.box[0]) for t in found) == [(1, boxes[0, 0]), (2, boxes[1, 0])]


def test_a_lost_person_comes_back_and_a_new_one_waits():
    tracker = FairMOTTracker(max_lost=3)
    boxes, scores, looks = people((0, 0))
    tracker.step(boxes, scores, looks)
    assert tracker.step(boxes[:0], scores[:0], looks[:0]) == []
    assert [t.identity for t in tracker.step(boxes, scores, looks)] == [1]
    both, scores, looks = people((0, 0), (200, 0))
    assert [t.identity for t in tracker.step(both, scores, looks)] == [1]  # the second is not confirmed yet
    assert [t.identity for t in tracker.step(both, scores, looks)] == [1, 2]
    for _ in range(5):
        tracker.step(both[:0], scores[:0], looks[:0])
    assert tracker.tracks == []


def test_filter_follows_a_straight_movement():
    measured = measured_of(np.array([[0.0, 0, 20, 50]]))[0]
    np.testing.assert_allclose(measured, [10, 25, 0.4, 50])
    mean, covariance = Kalman.start(measured)
    for _ in range(30):
        mean, covariance = Kalman.predict(mean, covariance)
        measured = measured + [3, 0, 0, 0]
        mean, covariance = Kalman.update(mean, covariance, measured)
    np.testing.assert_allclose(mean[4], 3, atol=0.1)
    np.testing.assert_allclose(Kalman.distance(mean, covariance, mean[None, :4]), 0, atol=1e-9)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_leaving_alone_has_a_price():
    cost = np.array([[0.1, 0.35], [0.3, 0.9]])
    assert assign(cost, 0.4) == [(0, 0)]  # both pairs of the other diagonal would cost 0.65
    assert sorted(assign(cost, 1.0)) == [(0, 1), (1, 0)]
    assert assign(np.full((1, 1), np.inf), 0.4) == [] and assign(np.zeros((0, 2)), 0.4) == []
