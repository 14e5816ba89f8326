import numpy as np

from parity_tests.cases.contrastive import SMALL, nothing, views
from parity_tests.harness.case import SAME_GRAPH, Case

QUEUE = {"dim": 6, "queue_size": 16, "momentum": 0.5, **SMALL}


def order(rng, batch):
    return {"order": np.roll(np.arange(2 * batch), 1)}


CASES = [
    Case("moco_v1", views("im_q", "im_k"), nothing, QUEUE),
    Case("moco_v1", views("im_q", "im_k"), order, {"bn_groups": 2, **QUEUE}, variant="shuffled", without=SAME_GRAPH),
    Case("moco_v2", views("im_q", "im_k"), nothing, QUEUE),
]
