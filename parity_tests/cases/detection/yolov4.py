"""Small configurations of YOLOv4."""

from parity_tests.cases.detection import objects, stored_objects
from parity_tests.cases.detection._darknet import scaled_image
from parity_tests.harness.case import Case, Reference, images

FILE = "tianxiaomo_yolov4"

CASES = [
    Case(
        "yolov4",
        images(64, 96),
        objects(64, 96, 4),
        {"depths": (2, 1, 1, 1), "width": 4, "num_classes": 4},
        postprocess={"candidates": 50, "detections": 20, "score_threshold": 0.2},
        learning_rate=2.0**-17,
        references=[
            Reference(
                FILE,
                modules={f"down.{i}": f"down{i + 1}" for i in range(5)} | {f"neck.{i}": f"neck@{i}" for i in range(3)},
                outputs={f"head.{i}": f"pred_p{i + 3}" for i in range(3)},
                inputs={"image": "images"},
                given={"images": scaled_image(FILE, 50)},
            ),
            Reference(
                FILE,
                inputs={"image_square": "images"},
                given={"images": scaled_image(FILE, 50, "image_square", ("image",))},
                losses={f"loss_{key}": f"loss_{key}" for key in ("xy", "wh", "obj", "cls")},
                targets=stored_objects,
            ),
        ],
    )
]
