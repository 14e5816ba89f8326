import numpy as np

from parity_tests.cases.detection import objects
from parity_tests.harness.case import Case, Reference, images


def faces(height: int, width: int):
    """Boxes with landmarks inside, those of some faces unknown."""

    def make(rng, batch):
        found = objects(height, width, 2)(rng, batch)
        found.pop("labels")
        boxes = found["boxes"]
        place = rng.uniform(size=(*boxes.shape[:2], 5, 2))
        points = boxes[..., None, :2] + place * (boxes[..., None, 2:] - boxes[..., None, :2])
        marked = rng.uniform(size=boxes.shape[:2]) < 0.7
        return {**found, "landmarks": points.reshape(*boxes.shape[:2], 10), "marked": marked}

    return make


def stored_faces(expected):
    """Rows of fractions of the image: box, landmarks, label."""
    size = np.array([128.0, 96.0])
    rows = [np.array(expected["inputs"][f"targets.{i}"]["data"]).reshape(-1, 15) for i in (0, 1)]
    found = np.zeros((2, 3, 15))
    valid = np.zeros((2, 3), bool)
    for i, of_image in enumerate(rows):
        found[i, : len(of_image)], valid[i, : len(of_image)] = of_image, True
    return {
        "boxes": found[..., :4] * np.tile(size, 2),
        "landmarks": found[..., 4:14] * np.tile(size, 5),
        "marked": found[..., 14] > 0,
        "valid": valid,
    }


def reference(file: str, body: dict) -> Reference:
    return Reference(
        file,
        modules=body | {f"fpn.{i}": f"fpn@{i}" for i in range(3)} | {f"ssh.{i}": f"ssh{i + 1}" for i in range(3)},
        outputs={"boxes": "boxes", "classes": "classes", "landmarks": "landmarks"},
        inputs={"image": "images"},
        losses={"loss_l": "box", "loss_c": "class", "loss_landm": "landmark"},
        targets=stored_faces,
        criterion={"box_weight": 1.0},
    )


RESULTS = {"candidates": 60, "detections": 20}

CASES = [
    Case(
        "retinaface_mobilenet025",
        images(97, 75),
        faces(97, 75),
        {"width": 4, "out_channels": 8},
        postprocess=RESULTS,
        references=[
            reference("pytorch_retinaface_mobilenet025", {f"body.{i}": f"body.stage{i + 1}" for i in range(3)})
        ],
    ),
    Case(
        "retinaface_resnet50",
        images(65, 91),
        faces(65, 91),
        {"layers": (1, 1, 1, 1), "planes": (4, 6, 8, 10), "out_channels": 68},
        postprocess=RESULTS,
        references=[reference("pytorch_retinaface_resnet50", {f"body.{i}": f"body.layer{i + 2}" for i in range(3)})],
    ),
]
