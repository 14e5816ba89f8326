"""Small configurations of attention whose cost is not the square of the length."""

import numpy as np

from parity_tests.cases.nlp.transformer import ends, padding
from parity_tests.harness.case import Case, Reference


def featured(queries: int, keys: int, projected: bool = False):
    """Input maker: queries, keys and values of two heads, padded; with a projection of 16 features."""

    def make(rng, batch):
        found = {
            "query": rng.standard_normal((batch, 2, queries, 8)),
            "key": rng.standard_normal((batch, 2, keys, 8)),
            "value": rng.standard_normal((batch, 2, keys, 6)),
        }
        if projected:
            found["projection"] = rng.standard_normal((16, 8))
        return {**found, "key_padding_mask": padding(batch, keys)}

    return make


def hashed(rng, batch):
    """Vectors of length 16 for two rounds of 4 buckets, padded."""
    return {
        "qk": rng.standard_normal((batch, 16, 8)),
        "value": rng.standard_normal((batch, 16, 6)),
        "rotations": rng.standard_normal((8, 2, 2)),
        "padding_mask": padding(batch, 16),
    }


def shared(rng, batch):
    return {name: x for name, x in hashed(rng, batch).items() if name != "rotations"}


LENGTHS = {
    "query": ("N", None, "T"),
    "key": ("N", None, "S"),
    "value": ("N", None, "S"),
    "key_padding_mask": ("N", "S"),
    "projection": (),
}
ONE_LENGTH = {name: tuple("T" if axis == "S" else axis for axis in axes) for name, axes in LENGTHS.items()}


def features(model: str, variant: str = "", **options) -> Case:
    causal, projected = options.get("causal", False), model == "favor_attention"
    lengths = (70, 70) if causal else (7, 5)
    return Case(
        model,
        featured(*lengths, projected),
        options=options,
        variant=variant,
        dynamic=ONE_LENGTH if causal else LENGTHS,
    )


def hashing(variant: str = "", **options) -> Case:
    return Case(
        "lsh_attention",
        hashed,
        options={"bucket_size": 4, **options},
        variant=variant,
        dynamic={"rotations": ()},
    )


def windowed(rng, batch):
    """Queries, keys and values of two heads at 11 positions, padded."""
    found = {name: rng.standard_normal((batch, 2, 11, 8)) for name in ("query", "key", "value")}
    return {**found, "padding_mask": padding(batch, 11)}


def words(length: int = 11, context: int = 0):
    """Input maker: token ids and a mask, and for cross-attention a padded context of other length."""

    def make(rng, batch):
        found = {"input_ids": rng.integers(0, 50, (batch, length)), "attention_mask": ends(batch, length)}
        if context:
            found["context"] = rng.standard_normal((batch, context, 32))
            found["context_mask"] = ends(batch, context)
        return found

    return make


def next_word(length: int = 11):
    """Target maker: a word per position; the last has none."""

    def make(rng, batch):
        labels = rng.integers(0, 50, (batch, length))
        labels[:, -1] = -100
        return {"labels": labels}

    return make


def stored_next(expected):
    """The word after every position of a performer-pytorch fingerprint."""
    ids = np.asarray(expected["inputs"]["x"]["data"], np.int64).reshape(expected["inputs"]["x"]["shape"])
    return {"labels": np.concatenate([ids[:, 1:], np.full_like(ids[:, :1], -100)], 1)}


SMALL_PERFORMER = {
    "num_tokens": 50,
    "max_seq_len": 32,
    "dim": 32,
    "depth": 2,
    "heads": 4,
    "dim_head": 8,
    "nb_features": 16,
}


SMALL_REFORMER = {
    "num_tokens": 50,
    "max_seq_len": 32,
    "dim": 32,
    "depth": 1,
    "heads": 4,
    "dim_head": 8,
    "bucket_size": 4,
}


def hashed_words(rng, batch):
    """Token ids, a mask, and the rotations of one layer for two rounds of 4 buckets."""
    found = words(16)(rng, batch)
    rotations = rng.standard_normal((1, 8, 2, 2))
    return {"input_ids": found["input_ids"], "rotations": rotations, "attention_mask": found["attention_mask"]}


def reformer(variant: str = "", references=(), **options) -> Case:
    return Case(
        "reformer_lm",
        hashed_words,
        next_word(16),
        {**SMALL_REFORMER, **options},
        variant=variant,
        dynamic={"rotations": ()},
        references=references,
    )


def lucidrains(file: str, others=(), small=SMALL_PERFORMER, **options) -> Reference:
    return Reference(
        file,
        {**small, **options},
        modules={"encodings": "norm"},
        outputs={"logits": "logits"},
        inputs={"x": "input_ids", **{name: name for name in others}},
        losses={"ce": "cross_entropy"},
        targets=stored_next,
    )


def performer(variant: str = "", references=(), context: int = 0, **options) -> Case:
    return Case(
        "performer_lm_cross" if context else "performer_lm",
        words(context=context),
        next_word(),
        {**SMALL_PERFORMER, "depth": 1, **options},
        variant=variant,
        # a dynamic number of windows has a separate case; exporting it takes a minute here
        dynamic={} if context else {name: ("N", "T") for name in ("input_ids", "attention_mask", "labels")},
        references=references,
    )


LEARNT = {"rotary_position_emb": False}
WINDOWS = {"local_attn_heads": 1, "local_window_size": 4}
AXIAL = {"positions": "axial", "causal": False, "ff_glu": True}
ROTATED = ("rotations", "attention_mask")

CASES = [
    features("linear_attention"),
    features("linear_attention", "causal", causal=True),
    features("favor_attention"),
    features("favor_attention", "causal", causal=True),
    features("favor_attention", "relu", kernel="relu", mask_keys=False),
    features("favor_attention", "relu_causal", kernel="relu", causal=True),
    hashing(),
    hashing("causal", causal=True, allow_duplicates=False),
    Case(
        "shared_qk_attention",
        shared,
        options={"causal": True},
        dynamic={"qk": ("N", "T"), "value": ("N", "T"), "padding_mask": ("N", "T")},
    ),
    Case(
        "window_attention",
        windowed,
        options={"dim": 8, "window_size": 4},
        dynamic={**{name: ("N", None, "T") for name in ("query", "key", "value")}, "padding_mask": ("N", "T")},
    ),
    Case(
        "window_attention",
        windowed,
        options={"dim": 8, "window_size": 4, "causal": True},
        variant="causal",
        dynamic={**{name: ("N", None, "T") for name in ("query", "key", "value")}, "padding_mask": ("N", "T")},
    ),
    performer(
        references=[
            lucidrains("performer_lm_causal", **LEARNT),
            lucidrains("performer_lm_encoder", **LEARNT, causal=False),
            lucidrains("performer_lm_relu_glu", **LEARNT, causal=False, kernel="relu", ff_glu=True),
            lucidrains("performer_lm_local", **WINDOWS, norm="scale", tie_embed=True),
            lucidrains("performer_lm_local_encoder", **{**WINDOWS, "local_attn_heads": 2}, causal=False),
        ]
    ),
    performer(
        "reversible",
        references=[lucidrains("performer_lm_reversible", reversible=True, ff_chunks=3)],
        norm="rezero",
        reversible=True,
        causal=False,
        **LEARNT,
        depth=2,
    ),
    performer(
        context=7,
        references=[
            lucidrains(
                "performer_lm_cross",
                ("attention_mask", "context", "context_mask"),
                **LEARNT,
                causal=False,
                norm="rezero",
                mask_keys=False,
            )
        ],
        causal=False,
        kernel="relu",
        norm="scale",
        tie_embed=True,
        ff_glu=True,
        ff_chunks=3,
        **WINDOWS,
        **LEARNT,
    ),
    reformer(references=[lucidrains("reformer_lm_causal", ROTATED, {**SMALL_REFORMER, "depth": 2})]),
    reformer(
        "axial",
        references=[lucidrains("reformer_lm_axial", ROTATED, {**SMALL_REFORMER, "depth": 2}, **AXIAL)],
        **AXIAL,
        ff_chunks=3,
        allow_duplicates=False,
    ),
]
