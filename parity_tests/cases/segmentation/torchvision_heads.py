"""Cases of torchvision's FCN and DeepLabv3."""

from parity_tests.cases.segmentation import grid_labels, label_maps
from parity_tests.harness.case import Case, Reference, images

SMALL = {"layers": (1, 1, 1, 1), "planes": (8, 16, 24, 32), "num_classes": 5, "dropout": 0.0}


def torchvision(file: str, options) -> Reference:
    """Maps, logits, the loss of the classifier and gradients."""
    return Reference(
        file,
        options,
        modules={"layer3": "backbone.layer3", "layer4": "backbone.layer4"},
        outputs={"out": "logits", "aux": "aux_logits"},
        inputs={"image": "images"},
        targets=grid_labels,
        losses={"out": "out"},
    )


CASES = [
    Case(
        "fcn_resnet50",
        images(65, 49),
        label_maps(65, 49),
        SMALL,
        references=[torchvision("torchvision_fcn_resnet50", {"dropout": 0.0})],
    ),
    Case(
        "deeplabv3_resnet50",
        images(65, 49),
        label_maps(65, 49),
        {**SMALL, "channels": 12, "aspp_dropout": 0.0},
        references=[torchvision("torchvision_deeplabv3_resnet50", {"dropout": 0.0, "aspp_dropout": 0.0})],
    ),
]
