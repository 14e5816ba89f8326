from parity_tests.cases.face._common import identities, stored_labels
from parity_tests.harness.case import Case, Reference, images
from torch_impl.losses.margin import annealing

CASES = [
    Case(
        "sphere20a",
        images(37, 33),
        identities,
        {"num_classes": 5, "layers": (1, 2, 1, 1), "planes": (6, 8, 10, 12), "size": (37, 33), "embedding_size": 9},
        references=[
            Reference(
                "sphereface_pytorch_sphere20a",
                {"num_classes": 12},
                outputs={"feature": "embeddings", "cos_theta": "cosines", "phi_theta": "margins"},
                inputs={"image": "images"},
                losses={"angle": "angle"},
                targets=stored_labels,
                criterion={"blend": annealing(1000)},
            )
        ],
    ),
]
