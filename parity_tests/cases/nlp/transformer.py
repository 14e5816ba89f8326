"""Small configurations of attention and of the Transformer."""

import numpy as np

from parity_tests.harness.case import Case, Reference

LENGTHS = {"query": ("N", "T"), "key": ("N", "S"), "value": ("N", "S"), "key_padding_mask": ("N", "S")}


def padding(batch: int, length: int):
    """True after the end of each row; the rows end at different places, the last one of three before its start."""
    ends = np.maximum(length - 2 * np.arange(batch), 0)
    ends[2:] = 0
    return np.arange(length) >= ends[:, None]


def attended(query: int, key: int, value: int, masks: bool = False):
    """Input maker: 7 queries, 5 keys, padded; ``attn_mask`` is causal, and its first query sees no key."""

    def make(rng, batch):
        found = {
            "query": rng.standard_normal((batch, 7, query)),
            "key": rng.standard_normal((batch, 5, key)),
            "value": rng.standard_normal((batch, 5, value)),
            "key_padding_mask": padding(batch, 5),
        }
        if masks:
            found["attn_mask"] = np.arange(5) > np.arange(7)[:, None] - 1
        return found

    return make


def attention(model: str, inputs, variant: str = "", **options) -> Case:
    return Case(model, inputs, options=options, variant=variant, dynamic={**LENGTHS, "attn_mask": ("T", "S")})


def ends(batch: int, length: int):
    """1 for a word, 0 for padding; every row is one word shorter than the one before."""
    return (np.arange(length) < length - np.arange(batch)[:, None]).astype(np.int64)


def sentences(source: int = 7, target: int = 6, vocabulary: int = 40):
    """Input maker: padded source sentences (1 = padding) and what the decoder reads, from the end mark (2) on."""

    def make(rng, batch):
        mask, words = ends(batch, source), rng.integers(3, vocabulary, (batch, source))
        read = np.where(ends(batch, target), rng.integers(3, vocabulary, (batch, target)), 1)
        read[:, 0] = 2
        return {"input_ids": np.where(mask, words, 1), "attention_mask": mask, "decoder_input_ids": read}

    return make


def sources(rng, batch):
    return {name: x for name, x in sentences()(rng, batch).items() if name != "decoder_input_ids"}


def next_words(target: int = 6, vocabulary: int = 40):
    """Target maker: the word after every position, padded."""

    def make(rng, batch):
        return {"labels": np.where(ends(batch, target), rng.integers(2, vocabulary, (batch, target)), 1)}

    return make


def one_step(rng, batch):
    """Input maker: one word at different positions, a memory of 7 words, and a cache of 5 that is filled with noise."""
    memory, cache = (batch, 2, 2, 7, 8), (batch, 2, 2, 5, 8)
    return {
        "decoder_input_ids": rng.integers(3, 40, (batch, 1)),
        "position": np.arange(batch) * 2 % 5,
        "attention_mask": ends(batch, 7),
        **{name: rng.standard_normal(memory) for name in ("memory_key", "memory_value")},
        **{name: rng.standard_normal(cache) for name in ("past_key", "past_value")},
    }


def stored_labels(expected):
    labels = expected["inputs"]["labels"]
    return {"labels": np.asarray(labels["data"], np.int64).reshape(labels["shape"])}


SMALL_TRANSFORMER = {"vocab_size": 40, "dim": 16, "layers": 2, "heads": 2, "ffn": 32, "dropout": 0.0}
SOURCE = {"input_ids": ("N", "S"), "attention_mask": ("N", "S")}
SENTENCES = {**SOURCE, "decoder_input_ids": ("N", "T"), "labels": ("N", "T")}
MEMORY, CACHE = ("N", None, None, "S"), ("N", None, None, "M")
STEP = {
    "attention_mask": ("N", "S"),
    **{name: MEMORY for name in ("memory_key", "memory_value")},
    **{name: CACHE for name in ("past_key", "past_value")},
}
MARIAN = Reference(
    "hf_marian_transformer_small",
    {
        "vocab_size": 60,
        "dim": 32,
        "layers": 2,
        "heads": 4,
        "ffn": 64,
        "pos": "marian",
        "positions": 32,
    },
    modules={
        "positions": "model.encoder.embed_positions",
        **{f"{half}.0": f"model.{half}.dropout" for half in ("encoder", "decoder")},
        **{f"{half}.{i + 1}": f"model.{half}.layers.{i}" for half in ("encoder", "decoder") for i in range(2)},
    },
    outputs={"logits": "logits"},
    inputs={name: name for name in ("input_ids", "attention_mask", "decoder_input_ids")},
    losses={"label_smoothed": "label_smoothed"},
    targets=stored_labels,
)


def transformer(model: str = "transformer_base", variant: str = "", criterion=None, references=(), **options) -> Case:
    return Case(
        model,
        sentences(),
        next_words(),
        {**SMALL_TRANSFORMER, **options},
        variant=variant,
        criterion=criterion or {},
        dynamic=SENTENCES,
        references=references,
    )


SINGLE = {"query_dim": 6, "key_dim": 5}
HEADS = {"embed_dim": 16, "num_heads": 4}

CASES = [
    attention("dot_attention", attended(6, 6, 4)),
    attention("scaled_dot_attention", attended(6, 6, 4)),
    attention("general_attention", attended(6, 5, 4), **SINGLE),
    attention("additive_attention", attended(6, 5, 4), **SINGLE, attention_dim=8, bias=True),
    attention("concat_attention", attended(6, 5, 4), **SINGLE, attention_dim=8),
    attention("local_attention", attended(6, 5, 4), **SINGLE, window=2),
    attention("local_attention", attended(6, 5, 4), "monotonic", **SINGLE, window=1, predictive=False),
    attention("multihead_attention", attended(16, 16, 16, masks=True), **HEADS),
    attention("multihead_attention", attended(16, 10, 12, masks=True), "cross", **HEADS, kdim=10, vdim=12, bias=False),
    attention("multihead_attention", attended(16, 16, 16, masks=True), "weights", **HEADS, need_weights=True),
    transformer(pos="marian", positions=16, references=[MARIAN]),
    transformer(
        "transformer_base",
        "pre_norm",
        {"form": "t2t"},
        normalize_before=True,
        pos="t2t",
        layers=1,
        tying="decoder",
        source_vocab_size=43,
    ),
    transformer("transformer_big", criterion={"form": "torch"}, heads=4, layers=1, pos="fairseq", tying="none"),
    Case("transformer_base_encode", sources, options=SMALL_TRANSFORMER, dynamic=SOURCE),
    Case("transformer_base_step", one_step, options={**SMALL_TRANSFORMER, "pos": "fairseq"}, dynamic=STEP),
]
