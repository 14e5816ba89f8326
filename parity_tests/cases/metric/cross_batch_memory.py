from parity_tests.cases.metric import SIZE, embeddings, labels, loss
from parity_tests.harness.case import Case

PLACES = 14  # with 8 rows in a step, the second reaches the end


def step(rng, batch):
    return {
        **embeddings(rng, batch),
        **labels(rng, batch),
        "memory": rng.standard_normal((PLACES, SIZE)),
        "memory_labels": rng.integers(0, 4, PLACES),
        "pointer": rng.integers(9, 10, 1),
        "count": rng.integers(12, 13, 1),
    }


COPIES = "in the next step the same batch meets its copies: whether 1 minus their cosine is above 0 is rounding"
SMALL = {"memory_size": PLACES, "embedding_size": SIZE}
FIXED = {"memory": (None, None), "memory_labels": (None,), "pointer": (None,), "count": (None,)}
CASES = [
    Case("cross_batch_memory", embeddings, labels, SMALL, without={"training": COPIES}),
    loss("cross_batch_memory", "reference", loss="anchor", policy="reference", weight=0.5, **SMALL),
    loss("cross_batch_memory", "triplet", loss="triplet", batch_weight=0.0, **SMALL),
    *(
        Case(
            "cross_batch_memory_step",
            step,
            options={"loss": loss, "policy": policy},
            variant=variant,
            dynamic=FIXED,
        )
        for loss, policy, variant in (
            ("contrastive", "ring", ""),
            ("triplet", "ring", "triplet"),
            ("anchor", "reference", "reference"),
        )
    ),
]
