"""Small configurations of YOLOv3."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._darknet import converted
from parity_tests.cases.detection._mmdet import losses_objects
from parity_tests.harness.case import Case, Reference, images

FEW = {"candidates": 50, "detections": 20}
LEVELS = ("p5", "p4", "p3")

CASES = [
    Case(
        "yolov3_d53",
        images(64, 96),
        objects(64, 96, 4),
        {"depths": (1, 1, 2, 1, 1), "widths": (4, 6, 8, 10, 12, 14), "num_classes": 4},
        postprocess=FEW,
        learning_rate=2.0**-12,
        references=[
            Reference(
                "yolov3_d53_8xb8-ms-608-273e_coco",
                modules={f"backbone.{i}": f"backbone.conv_res_block{i + 3}" for i in range(3)}
                | {f"neck.{i}": f"neck.detect{i + 1}" for i in range(3)},
                outputs={f"bbox_head.0.{i}": f"pred_{level}" for i, level in enumerate(LEVELS)},
                inputs={"input": "images"},
                losses={f"loss_{key}.{i}": f"loss_{key}" for key in ("cls", "conf", "xy", "wh") for i in range(3)},
                targets=losses_objects,
            )
        ],
    ),
    Case(
        "yolov3_spp",
        images(64, 96),
        objects(64, 96, 4),
        {"width": 0.125, "depths": (1, 1, 2, 1, 1), "num_classes": 4},
        postprocess=FEW,
        learning_rate=2.0**-12,
        references=[
            converted("darknet_yolov3_spp", (19, 38, 57, 76, 95), tuple(f"pred_{level}" for level in LEVELS)),
        ],
    ),
    Case(
        "yolov3_tiny",
        images(64, 96),
        objects(64, 96, 4),
        {"width": 0.25, "num_classes": 4},
        postprocess=FEW,
        learning_rate=2.0**-12,
        references=[converted("darknet_yolov3_tiny", (4, 8, 12), ("pred_p5", "pred_p4"))],
    ),
]
