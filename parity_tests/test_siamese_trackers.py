"""The loops over frames of the Siamese trackers with made-up networks, their anchors and their targets."""

import numpy as np
import torch

from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from weights.processing.tracking import anchors, siamfc, siamrpn
from weights.processing.tracking.targets import response_labels


def test_anchors_are_those_of_pysot():
    np.testing.assert_array_equal(anchors.anchor_sizes(), [[104, 32], [88, 40], [64, 64], [40, 80], [32, 96]])
    found = np.moveaxis(anchors.training_anchors(25), 1, 0)
    for figure in compare_with_fingerprint(
        "anchors", found, fingerprints.load("pysot_anchors")["outputs"]["center_127_size_25_cxcywh"]
    ):
        assert figure.relative <= 1e-6, figure
    assert anchors.tracking_anchors(3)[9].tolist() == [-8, -8, 88, 40]


def test_targets_count_what_overlaps_and_no_more():
    rng = np.random.default_rng(0)
    box = np.array([127.0, 131, 70, 62])
    found = anchors.anchor_targets(box, 25, rng.uniform(size=(5, 25, 25)))
    assert (found["label_cls"] == 1).sum() <= 16 and (found["label_cls"] == 0).sum() == 48
    np.testing.assert_allclose(found["label_loc_weight"].sum(), 1, atol=1e-6)
    place = tuple(np.argwhere(found["label_cls"] == 1)[0])
    anchor = np.moveaxis(anchors.training_anchors(25), 1, -1)[place]
    assert anchors.overlaps(anchor, box) > 0.6
    dx, dy, dw, dh = found["label_loc"][(slice(None), *place)]
    np.testing.assert_allclose(anchor[:2] + [dx, dy] * anchor[2:], box[:2])
    np.testing.assert_allclose(np.exp([dw, dh]) * anchor[2:], box[2:])
    other = anchors.anchor_targets(box, 25, rng.uniform(size=(5, 25, 25)), negative_pair=True)
    assert (other["label_cls"] == 0).sum() == 16 and (other["label_cls"] == 1).sum() == 0
    assert not other["label_loc_weight"].any()


def test_labels_of_a_response():
    assert response_labels(15, 15).sum() == response_labels(17, 17).sum() == 13


def answer(cells, cell, anchor=2, size=(64.0, 64.0)):
    """A network that sees the object at one anchor of one cell, as large as that anchor."""
    cls, loc = np.zeros((1, 10, cells, cells)), np.zeros((1, 20, cells, cells))
    cls[0, 5 + anchor, *cell] = 9
    loc[0, 10 + anchor, *cell], loc[0, 15 + anchor, *cell] = np.log(np.array(size) / 64)
    return {"cls": cls, "loc": loc}


def test_siamrpn_goes_where_the_network_points():
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    tracker = siamrpn.SiamRPNTracker(lambda z: z, lambda z, x: answer(25, (13, 15)))
    tracker.initialise(image, (50, 40, 30, 30))
    assert tracker.memory.shape == (1, 3, 127, 127)
    scale = 127 / np.sqrt(60.0 * 60)
    found = tracker.track(image)
    centre = found["box"][:2] + found["box"][2:] / 2
    np.testing.assert_allclose(centre, [64.5 + 24 / scale, 54.5 + 8 / scale])
    assert found["score"] > 0.99 and (np.abs(found["box"][2:] - 30) < 0.3).all()


def test_siamrpn_stays_in_the_frame_and_the_long_term_one_widens_its_look():
    image, seen = np.zeros((60, 60, 3), np.uint8), []

    def network(_, x):
        seen.append(x.shape[-1])
        found = answer((x.shape[-1] - 127) // 8 + 9, (0, 0))
        return {**found, "cls": found["cls"] * (0.01 if len(seen) < 3 else 1)}

    tracker = siamrpn.SiamRPNTracker(lambda z: z, network, wide=831)
    tracker.initialise(image, (20, 20, 20, 20))
    for _ in range(4):
        box = tracker.track(image)["box"]
        assert (box[2:] >= 10).all() and (box[:2] + box[2:] / 2 >= 0).all()
    assert seen == [255, 831, 831, 255]


def test_siamfc_goes_where_the_network_points():
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)

    def network(_, x):
        assert x.shape == (3, 3, 255, 255)
        found = np.zeros((3, 1, 17, 17))
        found[1, 0, 8, 11] = 1.0
        return found

    tracker = siamfc.SiamFCTracker(lambda z: z, network)
    tracker.initialise(image, (51, 41, 30, 20))
    before = tracker.centre
    found = tracker.track(image)
    moved = tracker.centre - before
    assert abs(moved[0]) < 0.5 and abs(moved[1] - 24 * tracker.search_side / 255) < 1.5
    np.testing.assert_allclose(found["box"][2:], [30, 20])
    assert 0.7 < found["score"] < 0.74, "the cubic curve goes through 1 at the middle of the cell, whose logit it is"


def test_cubic_resize_is_that_of_pytorch():
    maps = np.random.default_rng(0).standard_normal((2, 9, 9))
    wanted = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size=(36, 36), mode="bicubic")[0]
    np.testing.assert_allclose(siamfc.cubic_resize(maps, 36), wanted, atol=1e-12)


def test_crop_shows_the_mean_outside():
    image = np.full((20, 20, 3), 200, np.uint8)
    found = siamrpn.crop(image, (0, 0), 20, 20, (7.9, 8, 9))
    assert found.shape == (1, 3, 20, 20)
    np.testing.assert_array_equal(found[0, :, 0, 0], [7, 8, 9])
    np.testing.assert_array_equal(found[0, :, -1, -1], [200, 200, 200])
