"""A small configuration of FreeAnchor."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import FEW, SMALL, losses_objects
from parity_tests.harness.case import Case, Reference, images

CASES = [
    Case(
        "freeanchor_r50_fpn",
        images(65, 97),
        objects(65, 97, 4),
        SMALL,
        postprocess=FEW,
        references=[
            Reference(
                "freeanchor_r50_fpn_1x_coco",
                modules={f"backbone.{i}": f"backbone.layer{i + 1}" for i in range(4)}
                | {f"neck.{i}": f"neck.fpn_convs.{i}" for i in range(5)}
                | {f"bbox_head.0.{i}": f"bbox_head.retina_cls#{i}" for i in range(5)}
                | {f"bbox_head.1.{i}": f"bbox_head.retina_reg#{i}" for i in range(5)},
                inputs={"input": "images"},
            ),
            Reference(
                "freeanchor_r50_fpn_1x_coco",
                inputs={"input": "images"},
                losses={key: key for key in ("positive_bag_loss", "negative_bag_loss")},
                targets=losses_objects,
                bound=2e-3,
                gradient_bound=1e-2,
                reason="at rank fifty anchors overlap an object equally, for three objects of five in the bag and "
                "outside of it, and the reference's unsorted selection leaves open which of them it takes: the loss of "
                "the bags moves by 7e-4, one gradient by 5e-3; with its selection in place of ours by 3e-4 and 5e-4",
            ),
        ],
    )
]
