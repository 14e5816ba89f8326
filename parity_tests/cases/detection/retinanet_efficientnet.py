"""A small configuration of RetinaNet on EfficientNet."""

import re

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import FEW, losses_objects
from parity_tests.cases.detection.efficientdet import SMALL
from parity_tests.harness import fingerprints
from parity_tests.harness.case import Case, Reference, images
from weights.seeded import seeded

FILE = "retinanet_effb3_fpn_8xb4-crop896-1x_coco"
STAGES = {1: (0,), 2: (1,), 3: (2,), 4: (3, 4), 5: (5, 6)}  # mmdet's layers hold one or two stages
REPEATS = (2, 3, 3, 5, 5, 6, 2)
NAMES = {
    r"^backbone\.layers\.0\.conv": "backbone.conv_stem",
    r"^backbone\.layers\.0\.bn": "backbone.bn1",
    r"(layers\.1\.\d)\.depthwise_conv\.bn": r"\1.bn1",
    r"(layers\.1\.\d)\.linear_conv\.conv": r"\1.conv_pw",
    r"(layers\.1\.\d)\.linear_conv\.bn": r"\1.bn2",
    r"expand_conv\.conv": "conv_pw",
    r"expand_conv\.bn": "bn1",
    r"depthwise_conv\.conv": "conv_dw",
    r"depthwise_conv\.bn": "bn2",
    r"linear_conv\.conv": "conv_pwl",
    r"linear_conv\.bn": "bn3",
    r"se\.conv1\.conv": "se.conv_reduce",
    r"se\.conv2\.conv": "se.conv_expand",
}
for layer, stages in STAGES.items():
    first = 0
    for stage in stages:
        for i in range(REPEATS[stage]):
            NAMES[rf"^backbone\.layers\.{layer}\.{first + i}\."] = f"backbone.blocks.{stage}.{i}."
        first += REPEATS[stage]


def mmdet_weights(values):
    """The rule of the seeded weights goes by mmdet's names."""
    tensors = {name: tuple(shape) for name, shape in fingerprints.load(FILE)["tensors"] if name.startswith("backbone.")}
    for name, value in seeded(tensors).items():
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        values[name] = value
    return values


CASES = [
    Case(
        "retinanet_effb3_fpn",
        images(96, 128),
        objects(96, 128, 4),
        {
            **{key: SMALL[key] for key in ("width", "depth", "stages", "drop_path")},
            "out_channels": 8,
            "num_convs": 1,
            "num_classes": 4,
        },
        postprocess=FEW,
        references=[
            Reference(
                FILE,
                modules={f"backbone.{i}": f"backbone.blocks.{2 * i + 2}" for i in range(3)}
                | {f"neck.{i}": f"neck@{i}" for i in range(5)}
                | {f"bbox_head.0.{i}": f"bbox_head.retina_cls#{i}" for i in range(5)}
                | {f"bbox_head.1.{i}": f"bbox_head.retina_reg#{i}" for i in range(5)},
                inputs={"input": "images"},
                losses={f"{key}.{i}": key for key in ("loss_cls", "loss_bbox") for i in range(5)},
                targets=losses_objects,
                rename=NAMES,
                weights=mmdet_weights,
            )
        ],
    )
]
