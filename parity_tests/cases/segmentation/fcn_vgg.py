"""Cases of FCN on VGG-16."""

import functools

from parity_tests.cases.segmentation import grid_labels
from parity_tests.harness.case import Case, Reference, images

SMALL = {"widths": (4, 8, 16, 32, 32), "fc_width": 16, "num_classes": 5, "dropout": 0.0}
MAPS = {
    "fcn32s": {"pool3": "pool#2", "pool5": "pool#4", "score_fr": "score_fr"},
    "fcn16s": {"pool4": "pool#3", "score_fr": "score_fr", "upscore2": "upscore2"},
    "fcn8s": {"pool3": "pool#2", "score_fr": "score_fr", "upscore_pool4": "upscore_pool4"},
    "fcn8satonce": {name: name for name in ("score_pool4", "upscore_pool4", "score_pool3")},
}


def labels(rng, batch):
    found = rng.integers(0, 5, (batch, 40, 52))
    found[:, :9, 20:] = -1
    return {"labels": found}


def fcn(model: str, name: str) -> Case:
    reference = Reference(
        f"pytorchfcn_{name}",
        {"dropout": 0.0},
        modules=MAPS[name],
        outputs={"out": "logits"},
        inputs={"image": "images"},
        losses={"mean": "nll", "sum": "nll"},
        targets=functools.partial(grid_labels, ignored=-1),
        criterion={"reduction": "mean_valid", "weight": 1 + 1e-4 * 2625},  # the mean, and 1e-4 of the sum
    )
    return Case(model, images(40, 52), labels, SMALL, references=[reference], learning_rate=2.0**-12)


CASES = [
    fcn("fcn32s_vgg16", "fcn32s"),
    fcn("fcn16s_vgg16", "fcn16s"),
    fcn("fcn8s_vgg16", "fcn8s"),
    fcn("fcn8s_atonce_vgg16", "fcn8satonce"),
]
