"""Cases of inception_v3."""

from dataclasses import replace

from parity_tests.cases.classification._common import INCEPTION_V3, reference
from parity_tests.harness.case import Case, Reference, images, labels

CASES = [
    Case(
        "inception_v3",
        images(299, 301),
        labels(10),
        {"layers": (1, 2, 2), "width": 0.0625, "num_classes": 10, "dropout": 0.0},
        learning_rate=2.0**-10,
        references=[
            Reference(
                "torchvision_inception_v3",
                {"dropout": 0.0},
                modules={f"features.{i}": name for i, name in enumerate(INCEPTION_V3)},
                outputs={"logits": "logits"},
                training={"train.logits": "logits", "train.aux_logits": "aux"},
                inputs={"image": "images"},
            )
        ],
    ),
    Case(
        "inception_v3",
        images(139, 122),
        labels(10),
        {
            "layers": (1, 2, 2),
            "width": 0.0625,
            "num_classes": 10,
            "aux_logits": False,
            "transform_input": True,
            "dropout": 0.0,
        },
        criterion={"auxiliary": {}},
        variant="transform_input",
        learning_rate=2.0**-10,
        references=[
            replace(
                reference(
                    "torchvision_inception_v3_transform_input",
                    INCEPTION_V3,
                    loss=True,
                    aux_logits=False,
                    transform_input=True,
                    dropout=0.0,
                ),
                criterion={"label_smoothing": 0.0, "auxiliary": {}},
            )
        ],
    ),
]
