import dataclasses

import numpy as np

from parity_tests.cases.tracking._common import pair
from parity_tests.cases.tracking.halves import maps
from parity_tests.cases.tracking.siamfcpp import BOXES, objects, references
from parity_tests.harness.case import Case, images

FILE = "video_analyst_siamfcpp_googlenet"


def trained_and_tracked():
    """As on the other trunks, of one pair."""
    trained, tracked = references(FILE)
    targets = {"boxes": BOXES[:1], "same": np.array([True])}
    return [dataclasses.replace(trained, targets=lambda expected: targets), tracked]


SMALL = {"layers": (1, 2), "width": 0.125, "channels": 6}
WHOLE = {"reference": "the whole network has one"}
CASES = [
    Case(
        "siamfcpp_googlenet",
        pair(127, 191, 207),
        objects(191, 207),
        SMALL,
        references=trained_and_tracked(),
    ),
    Case("siamfcpp_googlenet_template", images(127, 127, name="template"), options=SMALL, without=WHOLE),
    Case(
        "siamfcpp_googlenet_track",
        maps(cls_kernel=(6, 3, 3), box_kernel=(6, 3, 3), search=(3, 191, 207)),
        options=SMALL,
        learning_rate=2.0**-20,  # distances are exponentials
        without=WHOLE,
    ),
]
