"""Small configurations of the detectors."""

from parity_tests.cases.detection import objects, stored_objects
from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images


def torchvision_retinanet(file: str) -> Reference:
    """torchvision's maps, outputs, losses and gradients."""
    fpn = "backbone.fpn"
    return Reference(
        file,
        modules={f"backbone.body.{i}": f"backbone.body.layer{i + 2}" for i in range(3)}
        | {f"features.{i}": f"{fpn}.layer_blocks.{i}" for i in range(3)}
        | {"features.3": f"{fpn}.extra_blocks.p6", "features.4": f"{fpn}.extra_blocks.p7"},
        outputs={"head.cls_logits": "cls_logits", "head.bbox_regression": "bbox_regression"},
        inputs={"image": "images"},
        losses={"classification": "classification", "bbox_regression": "bbox_regression"},
        targets=stored_objects,
        gradient_bound=1e-3,
        reason="rounding decides on which side of zero the input of some ReLU falls: gradient norms move by 2e-4 in "
        "float32, by 4e-7 in float64, which test_retinanet.py measures",
    )


SMALL_RETINANET = {
    "layers": (1, 1, 1, 1),
    "planes": (8, 16, 24, 32),
    "out_channels": 16,
    "num_convs": 1,
    "num_classes": 4,
}
RETINANET = {"candidates": 50, "detections": 20}

CASES = [
    Case(
        "retinanet_resnet50_fpn",
        images(97, 81),
        objects(97, 81, 4, first=1),
        SMALL_RETINANET,
        postprocess=RETINANET,
        references=[torchvision_retinanet("torchvision_retinanet_resnet50_fpn")],
    ),
    Case(
        "retinanet_resnet50_fpn_v2",
        images(97, 81),
        objects(97, 81, 4, first=1),
        {**SMALL_RETINANET, "norm_groups": 4},
        postprocess=RETINANET,
        references=[torchvision_retinanet("torchvision_retinanet_resnet50_fpn_v2")],
    ),
    Case(
        "retinanet_resnet50_fpn",
        images(65, 83),
        objects(65, 83, 4, first=1),
        {**SMALL_RETINANET, "norm": "frozen", "norm_eps": 0.0, "frozen_stages": 1},
        criterion={"box_loss": "smooth_l1"},
        postprocess=RETINANET,
        variant="frozen",
        without=SAME_GRAPH,
    ),
    Case(
        "retinanet_r50_fpn_mmdet",
        images(97, 81),
        objects(97, 81, 4),
        SMALL_RETINANET,
        postprocess=RETINANET,
        references=[
            Reference(
                "retinanet_r50_fpn_1x_coco",
                modules={f"backbone.{i}": f"backbone.layer{i + 1}" for i in range(4)}
                | {f"neck.{i}": f"neck.fpn_convs.{i}" for i in range(5)}
                | {f"bbox_head.0.{i}": f"bbox_head.retina_cls#{i}" for i in range(5)}
                | {f"bbox_head.1.{i}": f"bbox_head.retina_reg#{i}" for i in range(5)},
                inputs={"input": "images"},
            )
        ],
    ),
    Case(
        "retinanet_r18_fpn_mmdet",
        images(65, 49),
        objects(65, 49, 4),
        {**SMALL_RETINANET, "extra": "on_lateral", "relu_before_extra": True, "norm_eval": False},
        criterion={"box_loss": "giou"},
        postprocess=RETINANET,
        variant="on_lateral",
        without=SAME_GRAPH,
    ),
]
