"""Small configurations of Siam R-CNN's parts."""

from parity_tests.cases.tracking.siamrcnn import SMALL, frames
from parity_tests.harness.case import Case

WHOLE = {"reference": "no file of the whole, whose publishers' code needs TensorFlow 1"}
FROZEN = dict.fromkeys(("gradients", "training"), "all of it is frozen")
TRUNK = {name: SMALL[name] for name in ("layers", "planes", "channels", "groups_of_norm")}


def chosen(*names: str, **maps):
    """Input maker of some of the whole's inputs, after maps of given sizes."""
    make_all = frames(96, 64)

    def make(rng, batch):
        found = make_all(rng, batch)
        return {name: rng.standard_normal((batch, *size)) for name, size in maps.items()} | {
            name: found[name] for name in names
        }

    return make


CASES = [
    Case("siamrcnn_r50_template", chosen("template", "template_box"), options=TRUNK, without=WHOLE | FROZEN),
    Case(
        "siamrcnn_r50_track",
        chosen("images", "active", reference=(8, 7, 7)),
        options={**SMALL, "detections": 5},
        without=WHOLE,
    ),
]
