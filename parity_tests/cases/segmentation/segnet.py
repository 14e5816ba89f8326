"""Cases of SegNet."""

from parity_tests.cases.segmentation import grid_labels, label_maps
from parity_tests.harness.case import Case, Reference, images

CASES = [
    Case(
        "segnet_vgg16",
        images(36, 44),
        label_maps(36, 44, 4),
        {"widths": (4, 8, 8, 16, 16), "num_classes": 4},
        criterion={"ignore_index": 255, "class_weight": (0.5, 1.5, 2.0, 0.7)},
        references=[
            Reference(
                "segnet_pytorch_vgg16",
                modules={
                    name: name for name in ("conv3_3_bn", "conv5_3", "conv4_1_D_bn", "conv2_1_D_bn", "conv1_2_D_bn")
                },
                outputs={"out": "logits"},
                inputs={"image": "images"},
                losses={"ce": "ce"},
                targets=grid_labels,
                criterion={"ignore_index": 255},
            )
        ],
    ),
    Case(
        "bayesian_segnet_vgg16",
        images(36, 44),
        label_maps(36, 44, 4),
        {"widths": (4, 8, 8, 16, 16), "num_classes": 4, "dropout": 0.0},  # the panels drop by chances of their own
        criterion={"ignore_index": 255},
        without={"reference": "the network of segnet_vgg16, which has its file, with dropout"},
    ),
    Case(
        "segnet_basic",
        images(38, 45),
        label_maps(38, 45, 4),
        {"width": 6, "num_classes": 4},
        criterion={"ignore_index": 255},
    ),
]
