"""Small configurations of YOLOv5."""

from parity_tests.cases.detection import objects, stored_objects
from parity_tests.cases.detection._darknet import scaled_image
from parity_tests.harness.case import Case, Reference, images

FEW = {"candidates": 50, "detections": 20, "score_threshold": 0.1}


def reference(file: str, factor: float) -> Reference:
    """The published network's maps, outputs, losses and gradients."""
    return Reference(
        file,
        modules={f"layers.layer{i}": f"model.{i}" for i in (4, 6, 9, 10, 14, 17, 20, 23)},
        outputs={f"raw.{i}": f"pred_p{i + 3}" for i in range(3)},
        inputs={"image": "images"},
        given={"images": scaled_image(file, factor)},
        losses={"loss": "total", "box": "box", "obj": "obj", "cls": "cls"},
        targets=stored_objects,
        criterion={"object_gain": (160 / 640) ** 2},
    )


CASES = [
    Case(
        "yolov5s",
        images(64, 96),
        objects(64, 96, 4),
        {"width": 0.125, "num_classes": 4},
        postprocess=FEW,
        references=[reference("ultralytics_yolov5s", 50)],
    ),
    Case(
        "yolov5n",
        images(64, 96),
        objects(64, 96, 1),
        {"width": 0.125, "num_classes": 1},
        postprocess=FEW,
        references=[reference("ultralytics_yolov5n", 50)],
        variant="one_class",
    ),
]
