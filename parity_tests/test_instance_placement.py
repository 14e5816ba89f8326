"""Where an instance suits: consistency against a plain loop, guided instances, and how a hole is filled."""

import numpy as np
import pytest

from parity_tests.test_instaboost import middles, run
from weights.processing.instaboost import RINGS, consistency_map, diffuse, resized


def test_a_hole_is_filled_smoothly():
    y, x = np.mgrid[:20, :24]
    image = np.stack([x * 10, y * 10, 0 * x + 7], -1).astype(np.uint8)
    hole = np.zeros((20, 24), bool)
    hole[6:14, 8:18] = True
    spoilt = np.where(hole[..., None], 255, image).astype(np.uint8)
    found = diffuse(spoilt, hole)
    assert np.abs(found.astype(int) - image).max() <= 3  # a plane is its own mean
    np.testing.assert_array_equal(found[~hole], image[~hole])


@pytest.fixture
def halves():
    """An image with a grey left half and a striped right one, without and with a disc on the stripes; its mask."""
    y, x = np.mgrid[:160, :240]
    background = np.where(x < 120, 90, 60 + 120 * (y // 20 % 2))[..., None].repeat(3, -1).astype(np.uint8)
    mask = (y - 80) ** 2 + (x - 180) ** 2 <= 15**2
    image = background.copy()
    image[mask] = [250, 30, 30]
    return image, background, mask


def test_consistency_is_that_of_a_plain_loop(halves):
    image, background, mask = halves
    found = consistency_map(image, background, mask, (80, 180))
    rings = np.zeros(mask.shape)
    for value, radius in ((1, 12), (2, 8), (3, 4)):  # the farthest pixels that so many dilations reach
        rings[
            np.array(
                [
                    [
                        mask[max(i - radius, 0) : i + radius + 1, max(j - radius, 0) : j + radius + 1].any()
                        for j in range(240)
                    ]
                    for i in range(160)
                ]
            )
        ] = value
    rings[mask] = 0
    small, around, labels = (np.rint(resized(x, (16, 24))) for x in (image, background, rings))
    cost = np.full((16, 24), -1.0)
    for row in range(16):
        for column in range(24):
            total = 0.0
            for i, j in np.argwhere(labels > 0):
                a, b = i + row - 8, j + column - 18
                if not (0 <= a < 16 and 0 <= b < 24):
                    total = -1
                    break
                total += RINGS[int(labels[i, j]) - 1][1] * np.sqrt(((small[i, j] - around[a, b]) ** 2).sum()) / 255
            cost[row, column] = total
    cost[cost < 0] = cost.max()
    heat = (1 - cost / cost.max()) ** 3
    np.testing.assert_allclose(found, resized(heat / heat.max(), (160, 240)), atol=1e-12)


def test_guided_instances_go_where_it_looks_alike(halves):
    image, background, mask = halves
    scene = [image, np.array([[164.0, 64, 197, 97]]), np.array([0]), mask[None]]
    options = {"guided": True, "scale": (1, 1), "theta": (0, 0), "inpaint": lambda *_: background}
    suited = consistency_map(image, background, mask, (80.5, 180.5))
    assert suited[20:140, 20:100].max() < 0.5 < 0.9 < suited[75:85, 175:185].max()
    moved = []
    for seed in range(6):
        middle = middles(run(scene, seed, **options)[3])[0]
        assert suited[tuple(np.rint(middle).astype(int))] > 0.5
        moved.append(np.abs(middle - [80, 180]).max())
    assert max(moved) > 20  # farther than a share of its width


def test_every_place_suits_where_all_looks_alike():
    image = np.full((60, 80, 3), 90, np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    np.testing.assert_array_equal(consistency_map(image, image, mask, (30, 40)), 1.0)
