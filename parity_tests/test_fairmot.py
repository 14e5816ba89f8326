"""FairMOT against the stored numbers of the reference, whose file has the loss's parameters among the network's."""

import numpy as np
import pytest

from parity_tests.cases.tracking.centertrack import OBJECTS, hills
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.seeded import seeded

SIZES = [
    [[2.5, 3.0, 2.25, 3.5], [6.0, 8.5, 7.0, 9.0], [2.0, 1.0, 4.5, 1.5]],
    [[3.0, 3.0, 3.0, 3.0], [1.5, 4.0, 10.0, 2.0], [0.0, 0.0, 0.0, 0.0]],
]
OFFSETS = [[[0.25, 0.5], [0.75, 0.1], [0.0, 0.9]], [[0.33, 0.66], [0.5, 0.5], [0.0, 0.0]]]


def stored_people(borders: int):
    index, valid = np.zeros((2, 3), np.int64), np.zeros((2, 3), bool)
    for i, of_image in enumerate(OBJECTS):
        for j, (row, column) in enumerate(of_image):
            index[i, j], valid[i, j] = row * 40 + column, True
    return {
        "heat": hills(OBJECTS, (24, 40), (1.5, 1.2)),
        "index": index,
        "valid": valid,
        "sizes": np.array(SIZES)[..., :borders],
        "offsets": np.array(OFFSETS),
        "identities": np.array([[3, 17, -1], [0, 29, 5]]),
    }


@pytest.mark.parametrize("name, borders, reid", [("fairmot_dla34", 4, 128), ("fairmot_dla34_wh2", 2, 512)])
@pytest.mark.parametrize("panel", [TensorFlow, PyTorch])
def test_network_and_loss_are_those_of_the_reference(panel, name, borders, reid):
    expected = fingerprints.load(name)
    inputs = {"images": fingerprints.inputs_of(expected)["input"]}
    model = panel(catalog.get(name), {}, {"num_identities": 30, "reid": reid}, precision="float32", example=inputs)
    theirs = {key: tuple(shape) for key, shape in expected["tensors"]}
    assert {key.replace("criterion.", "loss_module."): shape for key, shape in model.shapes().items()} == theirs
    values = seeded(theirs)
    values["loss_module.s_det"], values["loss_module.s_id"] = (np.array([v], np.float32) for v in (-1.85, -1.05))
    model.load({key.replace("loss_module.", "criterion."): value for key, value in values.items()})
    found = model.outputs(inputs)
    figures = [f for name in found for f in compare_with_fingerprint(name, found[name], expected["outputs"][name])]
    assert max(figure.relative for figure in figures) <= 1e-4, figures
    losses = model.losses(inputs, stored_people(borders))
    np.testing.assert_allclose(losses["total"], expected["loss"]["terms"]["total"], rtol=1e-4)
    for name in ("hm_loss", "wh_loss", "off_loss", "id_loss"):
        np.testing.assert_allclose(losses[name], expected["outputs"][f"loss_terms.{name}"]["values"][0], rtol=1e-4)
    gradients = model.gradients(inputs, stored_people(borders))
    largest = max(norm for norm, _ in expected["loss"]["gradients"].values())
    for name, (norm, _) in expected["loss"]["gradients"].items():
        assert abs(np.linalg.norm(gradients[name]) - norm) <= 1e-3 * max(norm, 1e-3 * largest), name
