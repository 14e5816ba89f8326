"""mmdet's CenterNet over a pyramid: losses of given maps, and the cells that an object is learnt at."""

import numpy as np
import pytest

from parity_tests.test_dense_detectors import OBJECTS, POSITIVE, SIZES, in_float32, losses_of, maps_of, waves  # noqa: F401
from parity_tests.test_one_stage_losses import both

CRITERION = ("centernet_update", "CenterNetUpdateCriterion")


def near() -> list[np.ndarray]:
    """Distances in strides that are nearly those of one object of each image."""
    found = []
    for size, wave in zip(SIZES, waves(4, 0.3, 1, 0.2)):
        stride = 256 // size
        y, x = np.meshgrid(*[(np.arange(size) + 0.5) * stride] * 2, indexing="ij")
        boxes = OBJECTS["boxes"][[0, 1], [2, 0]]  # (2, 4)
        sides = [np.stack((x - x1, y - y1, x2 - x, y2 - y)) / stride for x1, y1, x2, y2 in boxes]
        found.append(np.maximum(np.stack(sides) * wave, 0).astype(np.float32))
    return found


# in the second scene four and six cells of two objects have boxes that are good enough
@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize(
    ("distances", "expected"),
    [(POSITIVE, (61.562748, 1.6250373)), (near(), (26.695255, 1.5264779))],
    ids=["waves", "near"],
)
def test_losses_are_those_of_mmdet(package, distances, expected):
    found = losses_of(package, *CRITERION, maps_of(distances, False))
    assert [found[key] for key in ("loss_cls", "loss_bbox")] == pytest.approx(expected, rel=2e-6)


@both
def test_cells_that_an_object_is_learnt_at(panel):
    """A box of 100 x 100 around (84, 84): half its diagonal, 70.7, is in the ranges of P3 and P4."""
    maps = {key: panel.map(x[:1].astype(np.float64)) for key, x in maps_of(POSITIVE, False).items()}
    boxes, labels, valid = np.array([[[34.0, 34, 134, 134]]]), np.array([[2]]), np.array([[True]])
    criterion = panel.module("detection.centernet_update").CenterNetUpdateCriterion()
    heat, wanted, positive = criterion.assign(maps, *(panel.tensor(x) for x in (boxes, labels, valid)), 5)
    heat, wanted, cells = np.array(heat)[0], np.array(wanted)[0], np.flatnonzero(np.array(positive)[0])
    rows = np.arange(9, 12)
    p3 = (rows[:, None] * 32 + rows).ravel()
    p4 = 32 * 32 + ((rows - 5)[:, None] * 16 + rows - 5).ravel()
    assert cells.tolist() == [*p3, *p4]
    assert wanted[10 * 32 + 10] == pytest.approx([50 / 8] * 4)
    assert wanted[32 * 32 + 5 * 16 + 4] == pytest.approx(
        [(72 - 34) / 16, (88 - 34) / 16, (134 - 72) / 16, (134 - 88) / 16]
    )
    assert (heat[:, [0, 1, 3, 4]] == 0).all()
    assert heat[10 * 32 + 10, 2] == heat[32 * 32 + 5 * 16 + 5, 2] == 1  # the second is not at the middle
    assert heat[10 * 32 + 11, 2] == pytest.approx(np.exp(-(8**2) / (2 * 100**2 / 81)))
    assert heat[0, 2] == 0  # exp(-52)
