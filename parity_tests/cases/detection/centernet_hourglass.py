"""A small configuration of CenterNet on hourglasses."""

from parity_tests.cases.detection import objects, stored_objects
from parity_tests.cases.detection._darknet import scaled_image
from parity_tests.cases.detection._hourglass import SMALL
from parity_tests.harness.case import Case, Reference, images

FILE = "centernet_hourglass"

CASES = [
    Case(
        "centernet_hourglass104",
        images(64, 96),
        objects(64, 96, 3),
        SMALL,
        postprocess={"detections": 20},
        references=[
            Reference(
                FILE,
                outputs={f"out.{i}.{key}": key + s for i, s in enumerate(("_0", "")) for key in ("hm", "wh", "reg")},
                inputs={"image": "images"},
                given={"images": scaled_image(FILE, 1)},
                losses={key: key for key in ("hm_loss", "wh_loss", "off_loss")},
                targets=stored_objects,
                criterion={"wh_weight": 1.0},
            )
        ],
    )
]
