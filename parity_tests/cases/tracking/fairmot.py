import numpy as np

from parity_tests.harness.case import SAME_GRAPH, Case, images

SMALL = {"depths": (1, 1, 1, 2, 1, 1), "widths": (4, 4, 6, 8, 10, 12), "hidden": 6, "reid": 5}
SLOTS, PEOPLE = 4, 7


def people(height: int, width: int, borders: int):
    def make(rng, batch):
        cells = np.stack([rng.permutation(height * width)[:SLOTS] for _ in range(batch)])
        valid = np.arange(SLOTS) < SLOTS - 1 - np.arange(batch)[:, None] % 3
        if batch > 2:
            valid[-1] = False
        heat = rng.uniform(0, 0.9, (batch, 1, height * width))
        for i in range(batch):
            heat[i, 0, cells[i, valid[i]]] = 1.0
        return {
            "heat": heat.reshape(batch, 1, height, width),
            "index": cells,
            "valid": valid,
            "sizes": rng.uniform(0, 5, (batch, SLOTS, borders)),
            "offsets": rng.uniform(size=(batch, SLOTS, 2)),
            "identities": rng.integers(-1, PEOPLE, (batch, SLOTS)),
        }

    return make


def case(model: str, height: int, width: int, borders: int, **others) -> Case:
    return Case(
        model,
        images(height, width),
        people(height // 4, width // 4, borders),
        SMALL,
        {"num_identities": PEOPLE, "reid": 5},
        {"detections": 20},
        learning_rate=2.0**-24,  # as in CenterTrack's case
        **others,
    )


CASES = [case("fairmot_dla34", 64, 96, 4), case("fairmot_dla34_wh2", 32, 64, 2, without=SAME_GRAPH)]
