"""Cases of U-Net on volumes."""

from parity_tests.harness.case import Case, Reference


def volumes(depth: int, height: int, width: int):
    def make(rng, batch):
        return {"volumes": rng.uniform(size=(batch, 1, depth, height, width))}

    return make


CASES = [
    Case(
        "unet_platelets",
        volumes(4, 16, 32),
        options={"width": 2},
        references=[
            Reference(
                "platelet_unet",
                outputs={"probabilities": "probabilities"},
                training={"train.probabilities": "probabilities"},
                inputs={"image": "volumes"},
            )
        ],
    )
]
