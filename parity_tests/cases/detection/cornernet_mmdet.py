"""A small configuration of CornerNet as mmdet trains it, and mmdet's numbers under its names."""

import re

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._hourglass import SMALL
from parity_tests.cases.detection._mmdet import losses_objects
from parity_tests.harness import fingerprints
from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images
from weights.seeded import seeded

FILE = "cornernet_hourglass104_8xb6-210e-mstest_coco"
NAMES = {
    r"^backbone\.stem\.0\.": "pre.0.",
    r"^backbone\.stem\.1\.0\.": "pre.1.",
    r"^backbone\.hourglass_modules\.": "kps.",
    r"^backbone\.out_convs\.": "cnvs.",
    r"^backbone\.inters\.": "inters.",
    **{
        rf"^backbone\.{theirs}\.(\d)\.{part}\.": rf"{ours}.\1.{i}."
        for theirs, ours in (("conv1x1s", "inters_"), ("remap_convs", "cnvs_"))
        for i, part in enumerate(("conv", "bn"))
    },
    r"\.downsample\.": ".skip.",
    r"^bbox_head\.(tl|br)_pool\.(\d)\.": r"\1_cnvs.\2.",
    r"direction(\d)_conv\.": r"p\1_conv1.",
    r"aftpool_conv\.conv\.": "p_conv1.",
    r"aftpool_conv\.bn\.": "p_bn1.",
    r"(_cnvs\.\d)\.conv1\.conv\.": r"\1.conv1.",
    r"(_cnvs\.\d)\.conv1\.bn\.": r"\1.bn1.",
    **{
        rf"^bbox_head\.(tl|br)_{theirs}\.": rf"\1_{ours}."
        for theirs, ours in (("heat", "heats"), ("off", "regrs"), ("emb", "tags"))
    },
    r"^((?:tl|br)_(?:heats|regrs|tags)\.\d\.1)\.conv\.": r"\1.",
}
MAPS = [f"{corner}_{key}" for key in ("heat", "tag", "regr") for corner in ("tl", "br")]


def mmdet_weights(values):
    """The rule of the seeded weights goes by mmdet's names."""
    for name, value in seeded({name: tuple(shape) for name, shape in fingerprints.load(FILE)["tensors"]}).items():
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        values[name] = value
    return values


CASES = [
    Case(
        "cornernet_hourglass104_mmdet",
        images(63, 95),
        objects(63, 95, 3),
        {**SMALL, "pooled": 4},
        postprocess={"corners": 10, "candidates": 30, "detections": 8, "tag_distance": 2.0},
        without={"results": SAME_GRAPH["results"]},
        references=[
            Reference(
                FILE,
                modules={f"backbone.{i}": f"cnvs.{i}" for i in (0, 1)},
                outputs={f"bbox_head.{k}.{i}": key + s for k, key in enumerate(MAPS) for i, s in enumerate(("_0", ""))},
                inputs={"input": "images"},
                losses={f"{key}_loss.{i}": f"{key}_loss" for key in ("det", "off", "pull", "push") for i in (0, 1)},
                targets=losses_objects,
                rename=NAMES,
                weights=mmdet_weights,
                bound=1e-3,
                reason="probabilities of these weights are 1 but for roundings, of whose complements the logarithms are"
                " summed: 4e-4 in det_loss in TensorFlow, whose sigmoid rounds otherwise; 2e-7 in PyTorch, 1.4e-5"
                " elsewhere",
            )
        ],
    )
]
