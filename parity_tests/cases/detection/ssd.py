"""Small configurations of SSD."""

import re

import numpy as np

from parity_tests.cases.detection import objects, stored_objects
from parity_tests.harness import fingerprints
from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images
from weights.seeded import seeded

WIDTHS = {"widths": (4, 4, 8, 8, 8), "hidden": 16, "num_classes": 5}
EXTRAS = ((8, 16, 3, 2, 1), (4, 8, 3, 2, 1), (4, 8, 3, 1, 0), (4, 8, 3, 1, 0))
FEW = {"candidates": 30, "detections": 20}
MMDET = {  # mmdet's names -> ours
    r"^neck\.l2_norm\.weight": "backbone.scale_weight",
    r"^backbone\.features\.24": "backbone.extra.0.1",
    r"^backbone\.features\.26": "backbone.extra.0.3",
    r"^backbone\.features\.28": "backbone.extra.0.5",
    r"^backbone\.features\.31": "backbone.extra.0.7.1",
    r"^backbone\.features\.33": "backbone.extra.0.7.3",
    **{rf"^neck\.extra_layers\.{i}\.{j}\.conv": f"backbone.extra.{i + 1}.{2 * j}" for i in range(5) for j in range(2)},
    r"^bbox_head\.cls_convs\.(\d)\.0": r"head.classification_head.module_list.\1",
    r"^bbox_head\.reg_convs\.(\d)\.0": r"head.regression_head.module_list.\1",
}


def mmdet_weights(values):
    """The rule of the seeded weights goes by mmdet's names."""
    theirs = seeded({name: tuple(shape) for name, shape in fingerprints.load("ssd512_coco")["tensors"]})
    for name, value in theirs.items():
        for pattern, replacement in MMDET.items():
            name = re.sub(pattern, replacement, name)
        values[name] = value
    return values


def torchvision(file: str, modules: dict[str, str]) -> Reference:
    """torchvision's maps, outputs, losses and gradients; the image is multiplied by 50."""
    shape = fingerprints.load(file)["inputs"]["image"]["shape"]
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * np.float32(50)
    return Reference(
        file,
        modules={
            **modules,
            **{f"features.{i}": f"backbone.extra.{i - 1 if 'vgg' in file else i - 2}" for i in range(2, 6)},
        },
        outputs={
            "head.cls_logits": "cls_logits",
            "head.bbox_regression": "bbox_regression",
            "anchors_image0": "anchors",
        },
        inputs={"image": "images"},
        given={"images": noise.astype(np.float64)},
        losses={"classification": "classification", "bbox_regression": "bbox_regression"},
        targets=stored_objects,
    )


CASES = [
    Case(
        "ssd300_vgg16",
        images(300, 284),
        objects(300, 284, 5, first=1),
        {**WIDTHS, "extras": EXTRAS},
        postprocess=FEW,
        references=[torchvision("torchvision_ssd300_vgg16", {"features.1": "backbone.extra.0"})],
    ),
    Case(
        "ssd512_vgg16",
        images(480, 500),
        objects(480, 500, 5, first=1),
        {**WIDTHS, "extras": (*((4, 8, 3, 2, 1),) * 4, (4, 8, 4, 1, 1)), "depths": (1, 1, 1, 1, 1)},
        postprocess=FEW,
        without=SAME_GRAPH,
        references=[
            Reference(
                "ssd512_coco",
                options={"num_classes": 81},
                modules={f"neck.{i}": f"backbone.extra.{i - 1}" for i in range(1, 7)}
                | {f"bbox_head.0.{i}": f"head.classification_head.module_list.{i}" for i in range(7)}
                | {f"bbox_head.1.{i}": f"head.regression_head.module_list.{i}" for i in range(7)},
                inputs={"input": "images"},
                rename=MMDET,
                weights=mmdet_weights,
            )
        ],
    ),
    Case(
        "ssdlite320_mobilenet_v3_large",
        images(320, 288),
        objects(320, 288, 5, first=1),
        {"width": 0.125, "num_classes": 5, "extras": (16, 16, 16, 16)},
        postprocess=FEW,
        references=[
            torchvision(
                "torchvision_ssdlite320_mobilenet_v3_large",
                {"features.0": "backbone.features.0", "features.1": "backbone.features.1"},
            )
        ],
    ),
]
