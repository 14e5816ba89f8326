"""Small configurations of the classifiers of sentences."""

import numpy as np

from parity_tests.harness.case import Case, Reference, labels

SMALL_TEXTCNN = {"vocab_size": 50, "num_classes": 3, "embed_dim": 8, "kernel_num": 4, "dropout": 0.0}


def sentences(length: int = 12, vocabulary: int = 50):
    """Input maker: sentences of several lengths, filled up with 0; one begins with padding."""

    def make(rng, batch):
        ids = rng.integers(1, vocabulary, (batch, length))
        ids[np.arange(length) >= length - 3 * np.arange(batch)[:, None]] = 0
        ids[1, :2] = 0
        return {"input_ids": ids}

    return make


def textcnn(model: str, variant: str = "", references=(), **options) -> Case:
    return Case(
        model,
        sentences(),
        labels(3),
        {**SMALL_TEXTCNN, **options},
        variant=variant,
        dynamic={"input_ids": ("N", "T")},
        references=references,
    )


TEXTCNN_REFERENCE = Reference(
    "cnn_text_classification",
    {"vocab_size": 60, "num_classes": 3, "embed_dim": 24, "kernel_num": 10, "padding": 0},
    modules={"embed": "embed"},
    outputs={"logits": "logits"},
    inputs={"x": "input_ids"},
    losses={"ce": "cross_entropy"},
    targets=lambda expected: {"labels": np.asarray(expected["inputs"]["labels"]["data"], np.int64)},
)

SMALL_FASTBERT = {
    "vocab_size": 50,
    "hidden": 16,
    "layers": 3,
    "heads": 2,
    "intermediate": 32,
    "positions": 16,
    "classifier_hidden": 8,
    "num_classes": 3,
    "dropout": 0.0,
}


def segments(length: int = 6, vocabulary: int = 50):
    """Input maker: pairs of texts of several lengths; the segments of padding are 0."""

    def make(rng, batch):
        places = np.arange(length)
        ids = np.tile(np.where(places > length // 2, 2, 1), (batch, 1))
        ids[places >= np.maximum(length - np.arange(batch), 1)[:, None]] = 0
        return {"input_ids": rng.integers(0, vocabulary, (batch, length)), "segment_ids": ids}

    return make


FASTBERT_REFERENCE = Reference(
    "fastbert_small",
    {"vocab_size": 70, "hidden": 256, "layers": 3, "heads": 4, "intermediate": 128, "num_classes": 3},
    modules={
        "embedding": "embedding",
        **{f"hidden.{i}": f"encoder.transformer.{i}" for i in range(3)},
        **{f"logits.{i}": f"classifiers.{i}" for i in range(3)},
    },
    inputs={"src": "input_ids", "mask": "segment_ids"},
    losses={"finetune": "finetune", "distill": "distill"},
    targets=lambda expected: {"labels": np.asarray(expected["inputs"]["labels"]["data"], np.int64)},
)


def rows(rng, batch):
    """Rows of several sizes; all of one is equal."""
    x = rng.standard_normal((batch, 5, 16)) * 10.0 ** np.arange(-2, 3)[:, None]
    x[0, 2] = 3
    return {"x": x}


CASES = [
    Case("std_layer_norm", rows, options={"normalized_shape": 16}),
    textcnn("textcnn_rand", references=[TEXTCNN_REFERENCE]),
    textcnn("textcnn_static", mask_padding=True),
    textcnn("textcnn_non_static", kernel_sizes=(2, 5), padding=1),
    textcnn("textcnn_multichannel"),
    Case(
        "fastbert_base",
        segments(),
        labels(3),
        SMALL_FASTBERT,
        postprocess={"speed": 0.85},
        dynamic={"input_ids": ("N", "T"), "segment_ids": ("N", "T")},
        references=[FASTBERT_REFERENCE],
    ),
]
