"""Cases of googlenet."""

from dataclasses import replace

from parity_tests.cases.classification._common import GOOGLENET, reference
from parity_tests.harness.case import Case, Reference, images, labels

CASES = [
    Case(
        "googlenet",
        images(65, 49),
        labels(10),
        {"layers": (1, 4, 1), "width": 0.125, "num_classes": 10, "dropout": 0.0, "dropout_aux": 0.0},
        learning_rate=2.0**-10,
        references=[
            Reference(
                "torchvision_googlenet",
                {"dropout": 0.0, "dropout_aux": 0.0},
                modules={f"features.{i}": name for i, name in enumerate(GOOGLENET)},
                outputs={"logits": "logits"},
                training={"train.logits": "logits", "train.aux_logits1": "aux1", "train.aux_logits2": "aux2"},
                inputs={"image": "images"},
            )
        ],
    ),
    Case(
        "googlenet",
        images(49, 66),
        labels(10),
        {
            "layers": (1, 2, 1),
            "width": 0.125,
            "num_classes": 10,
            "aux_logits": False,
            "five_by_five": True,
            "dropout": 0.0,
        },
        criterion={"auxiliary": {}},
        variant="five_by_five",
        learning_rate=2.0**-10,
        references=[
            replace(
                reference(
                    "torchvision_googlenet_transform_input",
                    GOOGLENET,
                    loss=True,
                    aux_logits=False,
                    transform_input=True,
                    dropout=0.0,
                ),
                criterion={"auxiliary": {}},
            )
        ],
    ),
]
