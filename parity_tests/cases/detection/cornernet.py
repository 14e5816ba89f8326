"""A small configuration of CornerNet."""

from parity_tests.cases.detection import objects, stored_objects
from parity_tests.cases.detection._darknet import scaled_image
from parity_tests.cases.detection._hourglass import SMALL
from parity_tests.harness.case import Case, Reference, images

FILE = "cornernet_hourglass104"
MAPS = [f"{corner}_{key}" for corner in ("tl", "br") for key in ("heat", "tag", "regr")]

CASES = [
    Case(
        "cornernet_hourglass104",
        images(63, 95),
        objects(63, 95, 3),
        {**SMALL, "pooled": 4},
        postprocess={"corners": 10, "candidates": 30, "detections": 8, "tag_distance": 2.0},
        references=[
            Reference(
                FILE,
                modules={"pre": "pre"}
                | {f"stack{i}.kp": f"kps.{i}" for i in (0, 1)}
                | {f"stack{i}.cnv": f"cnvs.{i}" for i in (0, 1)}
                | {f"stack{i}.{corner}_cnv": f"{corner}_cnvs.{i}" for i in (0, 1) for corner in ("tl", "br")},
                outputs={f"stack{i}.{key}": key + s for i, s in enumerate(("_0", "")) for key in MAPS},
                inputs={"image": "images"},
                given={"images": scaled_image(FILE, 1)},
                losses={key: key for key in ("focal", "pull", "push", "regr")},
                targets=stored_objects,
            )
        ],
    )
]
