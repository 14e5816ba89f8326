"""Small configurations of mmdet's EfficientDet, and its numbers under its names."""

import re

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import losses_objects
from parity_tests.cases.detection.efficientdet import FEW, SMALL
from parity_tests.cases.detection.retinanet_efficientnet import NAMES as RETINANET
from parity_tests.cases.detection.retinanet_efficientnet import STAGES
from parity_tests.harness import fingerprints
from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images
from weights.seeded import seeded

BLOCKS = ("conv6_up", "conv5_up", "conv4_up", "conv3_up", "conv4_down", "conv5_down", "conv6_down", "conv7_down")
WEIGHTS = ("p6_w1", "p5_w1", "p4_w1", "p3_w1", "p4_w2", "p5_w2", "p6_w2", "p7_w2")
EDGES = {  # what is made narrow for a node: the node, and the number of its input
    "p5_down_channel": (1, 2),
    "p4_down_channel": (2, 1),
    "p3_down_channel": (3, 0),
    "p4_level_connection": (4, 1),
    "p5_level_connection": (5, 2),
}
PYRAMID_AND_HEADS = {
    r"^neck\.bifpn\.(\d)\.": r"fpn.cell.\1.",
    r"^fpn\.cell\.0\.p5_to_p6\.0\.": "fpn.resample.3.conv.",
    **{rf"^fpn\.cell\.0\.{key}\.": f"fpn.cell.0.fnode.{n}.combine.resample.{i}.conv." for key, (n, i) in EDGES.items()},
    **{rf"^(fpn\.cell\.\d)\.{key}\.": rf"\1.fnode.{n}.after_combine.conv." for n, key in enumerate(BLOCKS)},
    **{rf"^(fpn\.cell\.\d)\.{key}$": rf"\1.fnode.{n}.combine.edge_weights" for n, key in enumerate(WEIGHTS)},
    **{
        pattern: replacement
        for theirs, ours in (("cls", "class_net"), ("reg", "box_net"))
        for pattern, replacement in (
            (rf"^bbox_head\.{theirs}_conv_list\.", f"{ours}.conv_rep."),
            (rf"^bbox_head\.{theirs}_bn_list\.(\d)\.(\d)\.", rf"{ours}.bn_rep.\1.\2.bn."),
            (rf"^bbox_head\.{theirs}_header\.", f"{ours}.predict."),
        )
    },
    r"\.depthwise_conv\.": ".conv_dw.",
    r"\.pointwise_conv\.": ".conv_pw.",
    r"\.down_conv\.": ".conv.",
}


def names(repeats: tuple[int, ...]) -> dict[str, str]:
    """From mmdet's names to ours, for a backbone whose stages have so many blocks."""
    found = {pattern: ours for pattern, ours in RETINANET.items() if "blocks" not in ours}
    for layer, stages in STAGES.items():
        places = [f"backbone.blocks.{stage}.{i}." for stage in stages for i in range(repeats[stage])]
        found |= {rf"^backbone\.layers\.{layer}\.{i}\.": place for i, place in enumerate(places)}
    return {**found, **PYRAMID_AND_HEADS}


def reference(file: str, repeats: tuple[int, ...]) -> Reference:
    """mmdet's maps, outputs, losses and gradients."""
    rename = names(repeats)

    def weights(values):
        """The rule of the seeded weights goes by mmdet's names."""
        for name, value in seeded({name: tuple(shape) for name, shape in fingerprints.load(file)["tensors"]}).items():
            for pattern, replacement in rename.items():
                name = re.sub(pattern, replacement, name)
            values[name] = value
        return values

    return Reference(
        file,
        modules={f"backbone.{i}": f"backbone.blocks.{2 * i + 2}" for i in range(3)}
        | {f"neck.{i}": f"fpn@{i}" for i in range(5)},
        outputs={f"bbox_head.{k}.{i}": f"{key}_p{i + 3}" for k, key in enumerate(("class", "box")) for i in range(5)},
        inputs={"input": "images"},
        losses={f"{key}.{i}": key for key in ("loss_cls", "loss_bbox") for i in range(5)},
        targets=losses_objects,
        rename=rename,
        weights=weights,
    )


CASES = [
    Case(
        "efficientdet_effb0_bifpn",
        images(128, 256),
        objects(128, 256, 3),
        SMALL,
        postprocess=FEW,
        references=[reference("efficientdet_effb0_bifpn_8xb16-crop512-300e_coco", (1, 2, 2, 3, 3, 4, 1))],
    ),
    Case(
        "efficientdet_effb3_bifpn",
        images(128, 256),
        objects(128, 256, 3),
        SMALL,
        postprocess=FEW,
        without=SAME_GRAPH,
        references=[reference("efficientdet_effb3_bifpn_8xb16-crop896-300e_coco", (2, 3, 3, 5, 5, 6, 2))],
    ),
]
