"""Small configurations of BlendMask with fewer levels and towers that share their convolutions."""

from parity_tests.cases.detection._mmdet import FEW
from parity_tests.cases.segmentation._instances import instances
from parity_tests.cases.segmentation.blendmask import scene_targets
from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images

SMALL = {
    "layers": (1, 1, 1, 1),
    "planes": (4, 4, 8, 8),
    "num_classes": 4,
    "out_channels": 16,
    "shared_convs": 1,
    "norm_groups": 4,
    "basis_channels": 8,
    "num_bases": 2,
    "attention": 3,
    "basis_convs": 1,
}

CASES = [
    Case(
        "blendmask_550_r50",
        images(64, 96),
        instances(64, 96, 4),
        SMALL,
        criterion={"max_masks": 30, "size": 8},
        postprocess={**FEW, "detections": 10, "size": 8},
        references=[
            Reference(
                "adelaidet_blendmask_550_r50",
                modules={"fpn.p3": "backbone.fpn_output3", "fpn.p6": "backbone.top_block.p6"},
                outputs={f"{key}.{i}": f"{key}_p{i + 3}" for key in ("cls", "reg", "ctr") for i in range(4)}
                | {"top.0": "top_p3", "top.1": "top_p4", "bases": "bases", "sem": "sem"},
                inputs={"image": "images"},
                losses={
                    "loss_fcos_cls": "loss_cls",
                    "loss_fcos_loc": "loss_bbox",
                    "loss_fcos_ctr": "loss_centerness",
                    "loss_mask": "loss_mask",
                    "loss_basis_sem": "loss_basis_sem",
                },
                targets=scene_targets,
                gradient_bound=2e-3,
                reason="in float32, a ReLU of res3.3 falls on the other side of zero; in float64 both panels have 1e-4",
            )
        ],
    ),
    Case(
        "blendmask_rt_r50",
        images(64, 96),
        instances(64, 96, 4),
        SMALL,
        criterion={"max_masks": 30, "size": 8},
        postprocess={**FEW, "detections": 10, "size": 8},
        without={"reference": "no file of this variant, which is blendmask_550_r50 with a level less", **SAME_GRAPH},
    ),
]
