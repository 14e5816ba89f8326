"""InstaBoost on a small scene: two instances that overlap and one at the border."""

import numpy as np
import pytest

from weights.processing.instaboost import InstaBoost, guided_matting, overlapping, tight_box

SHAPE = (64, 72)
BOXES = np.array([[16.0, 16, 34, 34], [26, 22, 44, 42], [52, 2, 68, 20]])


@pytest.fixture
def scene():
    """Image, boxes, labels, masks of ellipses that fill the boxes."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    x1, y1, x2, y2 = (BOXES[:, i, None, None] for i in range(4))
    masks = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
    image = np.stack([x * 3, y * 3, 100 + 0 * x], -1)
    for mask, colour in zip(masks, ([250, 20, 20], [20, 250, 20], [20, 20, 250])):
        image[mask] = colour
    return image.astype(np.uint8), BOXES, np.array([4, 7, 2]), masks


def run(scene, seed=0, **options):
    options = {"probability": 1.0, "colour_probability": 0.0, **options}
    return InstaBoost(**options)(np.random.default_rng(seed), *scene)


def middles(masks):
    return np.array([np.argwhere(mask).mean(0) for mask in masks])


def test_nothing_happens_without_instances_or_by_chance(scene):
    for found in (run(scene, probability=0.0), run([scene[0], *(x[:0] for x in scene[1:])])):
        np.testing.assert_array_equal(found[0], scene[0])
    assert len(found[1]) == 0


def test_a_seed_gives_one_result(scene):
    first, second, third = run(scene, 3), run(scene, 3), run(scene, 4)
    assert all((a == b).all() for a, b in zip(first, second))
    assert (first[0] != third[0]).any()


def test_skipped_instances_stay(scene):
    image, boxes, labels, masks = run(scene, shares=(0, 0, 1))
    np.testing.assert_array_equal(masks, scene[3])
    np.testing.assert_array_equal(boxes, [tight_box(mask) for mask in scene[3]])
    np.testing.assert_array_equal(image[masks.any(0)], scene[0][masks.any(0)])
    assert labels.tolist() == [4, 7, 2]


def test_instances_that_overlap_move_together(scene):
    """Without rotations and scales every mask is shifted by whole pixels."""
    assert [group.tolist() for group in overlapping(BOXES)] == [[0, 1], [2]]
    shifts = []
    for seed in range(8):
        masks = run(scene, seed, scale=(1, 1), theta=(0, 0), dx=5, dy=5)[3]
        shift = middles(masks) - middles(scene[3])
        np.testing.assert_allclose(shift[0], shift[1])
        np.testing.assert_allclose(shift[:2], np.rint(shift[:2]))
        assert np.abs(shift[0]).max() <= 28 // 5
        shifts.append(shift[0])
    assert len(np.unique(shifts, axis=0)) > 4


def test_an_instance_at_the_border_moves_out_and_never_shrinks(scene):
    """The third touches the upper and the right border."""
    for seed in range(8):
        masks = run(scene, seed, shares=(0, 1, 0), dx=4, dy=4)[3]
        y, x = middles(masks)[2] - middles(scene[3])[2]
        assert y < 0.6 and x > -0.6
        whole = masks[2].any(0).sum()
        assert whole >= 12


def test_instances_are_mirrored(scene):
    image, _, _, masks = run(scene, shares=(0, 1, 0), scale=(1, 1), theta=(0, 0), dx=100, dy=100)
    left, right = np.argwhere(masks[0]).mean(0)[1], np.argwhere(masks[1]).mean(0)[1]
    assert left > right
    assert tuple(image[25, 35]) == (250, 20, 20) and tuple(image[32, 24]) == (20, 250, 20)


def test_what_leaves_the_image_is_dropped(scene):
    small = np.zeros((1, *SHAPE), bool)
    small[0, 0, 0] = True
    found = run((scene[0], np.array([[0.0, 0, 2, 2]]), np.array([1]), small), 1, scale=(1, 1), dx=1, dy=1)
    assert len(found[1]) == len(found[2]) == len(found[3]) <= 1


def test_known_parts_of_a_matte_stay(scene):
    image, _, _, masks = scene
    trimap = np.where(masks[0], 255, 0).astype(np.uint8)
    trimap[20:24] = 127
    alpha = guided_matting(image, trimap)
    known = trimap != 127
    np.testing.assert_array_equal(alpha[known], trimap[known])
    assert alpha.min() >= 0 and alpha.max() <= 255 and alpha[21, 25] > alpha[21, 60]


def test_colours_change_alone_where_an_outline_is_not_to_be_found(scene):
    """A mask that leaves nothing outside."""
    image, masks = scene[0], np.ones((1, *SHAPE), bool)
    box = np.array([[0.0, 0, SHAPE[1], SHAPE[0]]])
    found = run((image, box, np.array([1]), masks), colour_probability=1.0)
    np.testing.assert_array_equal(found[1], box)
    assert (found[0] != image).any() and found[0].dtype == np.uint8


def test_unknown_actions_are_refused():
    with pytest.raises(ValueError, match=r"actions=.*must be 'normal'"):
        InstaBoost(actions=("turn",), shares=(1.0,))
