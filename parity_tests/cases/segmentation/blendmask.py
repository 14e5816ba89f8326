"""Small configurations of BlendMask."""

import numpy as np

from parity_tests.cases.detection import padded
from parity_tests.cases.detection._mmdet import FEW
from parity_tests.cases.segmentation._instances import ellipses, instances
from parity_tests.cases.segmentation.polarmask import SCENE
from parity_tests.harness.case import Case, Reference, images


def scene_targets(expected):
    """The targets of detectron2's and AdelaiDet's fingerprints."""
    height, width = expected["inputs"]["image"]["shape"][2:]
    targets = padded([(np.array(boxes, float), np.array(labels)) for boxes, labels in SCENE])
    return {"masks": ellipses(targets["boxes"], height, width), **targets}


CASES = [
    Case(
        "blendmask_r50",
        images(64, 96),
        instances(64, 96, 4),
        {
            "layers": (1, 1, 1, 1),
            "planes": (4, 4, 8, 8),
            "num_classes": 4,
            "out_channels": 16,
            "num_convs": 1,
            "norm_groups": 4,
            "basis_channels": 8,
            "num_bases": 2,
            "attention": 3,
        },
        criterion={"max_masks": 30, "size": 8},
        postprocess={**FEW, "detections": 10, "size": 8},
        references=[
            Reference(
                "adelaidet_blendmask_r50",
                modules={"fpn.p3": "backbone.fpn_output3", "fpn.p7": "backbone.top_block.p7"},
                outputs={f"{key}.{i}": f"{key}_p{i + 3}" for key in ("cls", "reg", "ctr") for i in range(5)}
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
            )
        ],
    ),
]
