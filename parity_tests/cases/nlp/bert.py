"""Small configurations of the language models."""

import numpy as np

from parity_tests.harness.case import Case, Reference

SMALL_BERT = {
    "vocab_size": 50,
    "hidden": 16,
    "layers": 2,
    "heads": 2,
    "intermediate": 32,
    "positions": 16,
    "dropout": 0.0,
}
SEQUENCE = ("N", "T")
IDS = ("input_ids", "attention_mask", "token_type_ids")


def tokens(length: int = 7, vocabulary: int = 50):
    """Input maker: token ids, a mask whose sentences end at different lengths, two segments."""

    def make(rng, batch):
        ends = np.maximum(length - np.arange(batch), 1)
        return {
            "input_ids": rng.integers(0, vocabulary, (batch, length)),
            "attention_mask": (np.arange(length) < ends[:, None]).astype(np.int64),
            "token_type_ids": np.tile((np.arange(length) > length // 2).astype(np.int64), (batch, 1)),
        }

    return make


def masked_words(rng, batch):
    """About a third of the words are to be predicted."""
    labels = rng.integers(0, 50, (batch, 7))
    labels[rng.random((batch, 7)) < 0.6] = -100
    labels[:, 1] = 3
    return {"labels": labels}


def masked_words_and_relation(rng, batch):
    """The same, and the relation of the two sentences."""
    return {**masked_words(rng, batch), "next_sentence_label": rng.integers(0, 2, batch)}


def choices(count: int = 3):
    """Input maker: several continuations of every text."""

    def make(rng, batch):
        return {name: ids.reshape(batch, count, -1) for name, ids in tokens()(rng, count * batch).items()}

    return make


def classes(*shape: int, count: int = 3):
    """Target maker: a class per row; the last of each batch above two, or the last token of every text, is ignored."""

    def make(rng, batch):
        labels = rng.integers(0, count, (batch, *shape))
        if shape:
            labels[:, -1] = -100
        elif batch > 2:
            labels[-1] = -100
        return {"labels": labels}

    return make


def answers(length: int = 7):
    """Target maker: first and last token of an answer; the second text was cut before it."""

    def make(rng, batch):
        ends = np.sort(rng.integers(0, length, (2, batch)), 0)
        ends[:, 1] = -100
        return {"start_positions": ends[0], "end_positions": ends[1]}

    return make


def stored_targets(expected):
    """The targets of a transformers fingerprint."""
    return {
        name: np.asarray(expected["inputs"][name]["data"], np.int64).reshape(expected["inputs"][name]["shape"])
        for name in ("labels", "next_sentence_label")
    }


def hugging_face(file: str, **options) -> Reference:
    hidden = {f"hidden.{i + 1}": f"bert.encoder.layer.{i}" for i in range(options["layers"])}
    return Reference(
        file,
        options,
        modules={"hidden.0": "bert.embeddings", "pooler_output": "bert.pooler", **hidden},
        outputs={name: name for name in ("prediction_logits", "seq_relationship_logits")},
        inputs={name: name for name in IDS},
        losses={"mlm": "mlm", "nsp": "nsp"},
        targets=stored_targets,
    )


CASES = [
    Case(
        "bert_base_uncased",
        tokens(),
        masked_words_and_relation,
        SMALL_BERT,
        dynamic={name: SEQUENCE for name in (*IDS, "labels")},
        references=[
            hugging_face(
                "hf_bert_pretraining_small",
                vocab_size=120,
                hidden=48,
                layers=3,
                heads=4,
                intermediate=96,
                positions=32,
            )
        ],
    ),
    Case(
        "all_minilm_l6_v2",
        tokens(),
        options=SMALL_BERT,
        dynamic={name: SEQUENCE for name in IDS},
    ),
    Case(
        "bert_base_uncased_masked_lm",
        tokens(),
        masked_words,
        SMALL_BERT,
        dynamic={name: SEQUENCE for name in (*IDS, "labels")},
    ),
    Case(
        "bert_base_uncased_sequence",
        tokens(),
        classes(),
        {**SMALL_BERT, "num_classes": 3},
        criterion={"label_smoothing": 0.1},
        dynamic={name: SEQUENCE for name in IDS},
    ),
    Case(
        "bert_base_uncased_token",
        tokens(),
        classes(7),
        {**SMALL_BERT, "num_classes": 3},
        dynamic={name: SEQUENCE for name in (*IDS, "labels")},
    ),
    Case("bert_base_uncased_question", tokens(), answers(), SMALL_BERT, dynamic={name: SEQUENCE for name in IDS}),
    Case(
        "bert_base_uncased_choice",
        choices(),
        classes(),
        SMALL_BERT,
        dynamic={name: ("N", None, "T") for name in IDS},
    ),
]
