"""Small configurations of the taggers of characters."""

import numpy as np

from parity_tests.harness.case import Case

FIXED = {name: () for name in ("start_transitions", "end_transitions", "transitions")}


def ends(batch: int, length: int) -> np.ndarray:
    """A mask whose texts end at different lengths."""
    return (np.arange(length) < np.maximum(length - 2 * np.arange(batch), 1)[:, None]).astype(np.int64)


def chain(tagged: bool, length: int = 5, tags: int = 4):
    """Input maker: scores of a random field, with the right tags if asked."""

    def make(rng, batch):
        inputs = {"emissions": 2 * rng.standard_normal((batch, length, tags))}
        if tagged:
            inputs["tags"] = rng.integers(0, tags, (batch, length))
        return inputs | {
            "valid": ends(batch, length),
            "start_transitions": rng.standard_normal(tags),
            "end_transitions": rng.standard_normal(tags),
            "transitions": rng.standard_normal((tags, tags)),
        }

    return make


def characters(length: int = 8, vocabulary: int = 50):
    """Input maker: characters and where the texts end."""

    def make(rng, batch):
        return {"input_ids": rng.integers(0, vocabulary, (batch, length)), "mask": ends(batch, length)}

    return make


def features(length: int = 8, count: int = 9, rows: int = 40):
    """Input maker: features of every character, some of which it does not have."""

    def make(rng, batch):
        ids = rng.integers(1, rows, (batch, length, count))
        ids[rng.random(ids.shape) < 0.3] = 0
        return {"features": ids, "mask": ends(batch, length)}

    return make


def tags(length: int = 8, count: int = 4):
    """Target maker: tags, which are -1 after the end."""

    def make(rng, batch):
        return {"tags": np.where(ends(batch, length), rng.integers(0, count, (batch, length)), -1)}

    return make


SMALL_BILSTM = {"vocab_size": 50, "embed_dim": 8, "hidden": 6, "dropout": 0.0}
SMALL_LAC = {"vocab_size": 50, "embed_dim": 8, "hidden": 6, "num_tags": 5}

CASES = [
    Case("crf_nll", chain(True), dynamic={name: (None,) for name in FIXED}),
    Case("crf_decode", chain(False), dynamic={name: (None,) for name in FIXED}),
    Case("linear_crf", features(), tags(), {"num_features": 40}, criterion={"reduction": "token_mean"}),
    Case("bilstm_crf", characters(), tags(), SMALL_BILSTM),
    Case(
        "bilstm_crf",
        characters(6),
        tags(6),
        {**SMALL_BILSTM, "constrained": True},
        criterion={"reduction": "sum"},
        variant="constrained",
    ),
    Case("bigru_crf_lac", characters(), tags(8, 5), SMALL_LAC),
]
