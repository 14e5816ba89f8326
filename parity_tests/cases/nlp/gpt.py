"""Small configurations of the language models that predict the next token, and of how it is chosen."""

import numpy as np

from parity_tests.harness.case import Case, Reference

SMALL_GPT = {"vocab_size": 50, "hidden": 16, "layers": 2, "heads": 2, "positions": 16, "dropout": 0.0}
SEQUENCE = ("N", "T")
STEP = {"input_ids": SEQUENCE, "length": (None,)}


def tokens(length: int = 7, vocabulary: int = 50):
    """Input maker: token ids."""

    def make(rng, batch):
        return {"input_ids": rng.integers(0, vocabulary, (batch, length))}

    return make


def next_tokens(length: int = 7, vocabulary: int = 50):
    """Target maker: the tokens to predict, of which the last ones of the second text do not count."""

    def make(rng, batch):
        labels = rng.integers(0, vocabulary, (batch, length))
        labels[1, -2:] = -100
        return {"labels": labels}

    return make


def choices(count: int = 3, length: int = 7, vocabulary: int = 50):
    """Input maker: several continuations of every text, and where each ends."""

    def make(rng, batch):
        return {
            "input_ids": rng.integers(0, vocabulary, (batch, count, length)),
            "mc_token_ids": rng.integers(0, length, (batch, count)),
        }

    return make


def right_choices(count: int = 3, length: int = 7, vocabulary: int = 50):
    """Target maker: the right continuation, and the tokens to predict."""

    def make(rng, batch):
        labels = rng.integers(0, vocabulary, (batch, count, length))
        labels[:, 1, -2:] = -100
        return {"labels": labels, "mc_labels": rng.integers(0, count, batch)}

    return make


def cached(length: int = 3, past: int = 5, layers: int = 2, heads: int = 2, positions: int = 16, width: int = 8):
    """Input maker: the next tokens, and a cache that is filled up to ``past``; what comes after that is not read."""

    def make(rng, batch):
        cache = (batch, layers, heads, positions, width)
        return {
            "input_ids": rng.integers(0, 50, (batch, length)),
            "length": np.array([past]),
            "past_keys": rng.standard_normal(cache),
            "past_values": rng.standard_normal(cache),
        }

    return make


def logits_and_past(rng, batch):
    """Logits with ties, and the tokens so far, some of them twice."""
    logits = np.round(2 * rng.standard_normal((batch, 40)), 1)
    return {"logits": logits, "previous": rng.integers(0, 40, (batch, 9))}


def probabilities_and_uniform(rng, batch):
    """Probabilities, some equal and some 0, and where the draw falls."""
    p = rng.integers(0, 6, (batch, 40)).astype(np.float64)
    p[:, ::3] = 0
    return {"p": p / p.sum(1, keepdims=True), "uniform": np.concatenate([[0.0], rng.uniform(size=batch - 1)])}


def hugging_face(file: str, version: int, **options) -> Reference:
    layers = options["layers"]
    modules = {f"hidden.{i + 1}": f"transformer.h.{i}" for i in range(layers if version == 1 else layers - 1)}
    if version == 2:
        modules[f"hidden.{layers}"] = "transformer.ln_f"
    return Reference(
        file,
        options,
        modules={"hidden.0": "transformer.drop", **modules},
        outputs={"logits": "logits"},
        losses={"lm": "lm"},
        targets=lambda expected: {
            "labels": np.asarray(expected["inputs"]["input_ids"]["data"], np.int64).reshape(
                expected["inputs"]["input_ids"]["shape"]
            )
        },
    )


SMALL_REFERENCE = {"vocab_size": 90, "hidden": 48, "layers": 3, "heads": 4, "positions": 24}
DISCRETE = "the token is a whole number"

CASES = [
    Case(
        "gpt2",
        tokens(),
        next_tokens(),
        SMALL_GPT,
        dynamic={"input_ids": SEQUENCE, "labels": SEQUENCE},
        references=[hugging_face("hf_gpt2_small_lm", 2, **SMALL_REFERENCE)],
    ),
    Case("gpt2_step", cached(), options=SMALL_GPT, dynamic=STEP),
    Case("gpt2_chunk", cached(), options=SMALL_GPT, dynamic=STEP),
    Case(
        "gpt1",
        tokens(),
        next_tokens(),
        SMALL_GPT,
        dynamic={"input_ids": SEQUENCE, "labels": SEQUENCE},
        references=[hugging_face("hf_gpt1_small_lm", 1, **SMALL_REFERENCE)],
    ),
    Case(
        "gpt1_double_heads",
        choices(),
        right_choices(),
        SMALL_GPT,
        dynamic={"input_ids": ("N", None, "T"), "labels": ("N", None, "T")},
    ),
    Case("gpt1_step", cached(), options=SMALL_GPT, dynamic=STEP),
    Case(
        "distribution",
        logits_and_past,
        options={"penalty": 1.5, "temperature": 0.75, "top_k": 12, "top_p": 0.8},
        dynamic={"previous": SEQUENCE},
    ),
    Case("distribution", logits_and_past, options={"top_p": 0.3}, variant="top_p"),
    Case("draw", probabilities_and_uniform, without={"gradients": DISCRETE, "training": DISCRETE}),
]
