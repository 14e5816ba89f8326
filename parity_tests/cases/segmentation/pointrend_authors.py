"""Small configurations of PointRend whose coarse logits enter the first layer of the points alone."""

from parity_tests.cases.gan._common import filled_by_other_names
from parity_tests.cases.segmentation import SMALL, label_maps
from parity_tests.cases.segmentation.pointrend import FEW, with_points
from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images

DETECTRON2 = {  # names of the reference
    r"^backbone\.bottom_up\.(stem\.)?": "backbone.",
    **{rf"^backbone\.res{i + 1}\.": f"backbone.layer{i}." for i in range(1, 5)},
    r"^(backbone\..*)conv(\d)\.norm\.": r"\1bn\2.",
    r"\.shortcut\.norm\.": ".downsample.1.",
    r"\.shortcut\.": ".downsample.0.",
    **{rf"^backbone\.fpn_lateral{i + 2}\.": f"neck.lateral_convs.{i}.conv." for i in range(4)},
    **{rf"^backbone\.fpn_output{i + 2}\.": f"neck.fpn_convs.{i}.conv." for i in range(4)},
    r"^sem_seg_head\.coarse_sem_seg_head\.predictor": "decode_head.0.conv_seg",
    **{rf"^sem_seg_head\.coarse_sem_seg_head\.p{i + 2}\.": f"decode_head.0.scale_heads.{i}." for i in range(4)},
    r"^(decode_head\.0\.scale_heads\.\d\.\d)\.norm\.": r"\1.gn.",
    r"^(decode_head\.0\.scale_heads\.\d\.\d)\.(weight|bias)": r"\1.conv.\2",
    **{rf"^sem_seg_head\.point_head\.fc{i + 1}\.": f"decode_head.1.fcs.{i}.conv." for i in range(3)},
    r"^sem_seg_head\.point_head\.predictor": "decode_head.1.fc_seg",
}

CASES = [
    Case(
        "pointrend_r50",
        images(65, 49),
        label_maps(65, 49),
        {**SMALL, **FEW, "coarse_each_layer": False},
        variant="coarse_once",
        references=[
            Reference(
                "mmseg_pointrend_r18_nocat",
                {"depth": 18, "num_classes": 7, "coarse_each_layer": False, "subdivision_points": 300},
                modules={f"backbone.{i}": f"neck.fpn_convs.{i}" for i in range(4)},
                outputs={"decode.0": "coarse_logits", "logits": "logits"},
                inputs={"image": "images"},
                losses={key: key for key in ("decode_0.loss_ce", "decode_1.pointloss_ce")},
                targets=with_points,
            )
        ],
        without=SAME_GRAPH,
    ),
    Case(
        "pointrend_semantic_r101",
        images(65, 49),
        label_maps(65, 49),
        {**FEW, "layers": (1, 1, 1, 1), "planes": (8, 8, 16, 16), "num_classes": 5, "norm_groups": 4},
        references=[
            Reference(
                "detectron2_pointrend_semantic_r101",
                modules={f"fpn.p{i + 2}": f"neck.fpn_convs.{i}" for i in range(4)},
                outputs={"coarse": "coarse_logits", "refined": "logits"},
                inputs={"image": "images"},
                losses={"loss_sem_seg": "decode_0.loss_ce", "loss_sem_seg_point": "decode_1.pointloss_ce"},
                targets=with_points,
                rename=DETECTRON2,
                weights=filled_by_other_names("detectron2_pointrend_semantic_r101", DETECTRON2),
            )
        ],
        without=SAME_GRAPH,
    ),
]
