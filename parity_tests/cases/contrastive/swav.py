from parity_tests.cases.contrastive import SMALL, nothing
from parity_tests.harness.case import Case


def crops(rng, batch):
    return {
        "large": rng.standard_normal((2 * batch, 2, 3, 37, 40)),
        "small": rng.standard_normal((2 * batch, 6, 3, 24, 21)),
    }


CASES = [
    Case(
        "swav",
        crops,
        nothing,
        {"hidden_mlp": 12, "output_dim": 6, "nmb_prototypes": 5, **SMALL},
        trainer={"queue_length": 8, "frozen": 1, "steps": 4, "warmup": 1},
    )
]
