"""Small configurations of the readers of text."""

import numpy as np

from parity_tests.harness.case import Case, Reference, images


def texts(steps: int, most: int = 4, classes: int = 11):
    """Target maker: texts of every length down to none, equal neighbours among them, in inputs of several lengths."""

    def make(rng, batch):
        labels = rng.integers(1, classes, (batch, most))
        labels[0, 1] = labels[0, 0]
        return {
            "labels": labels,
            "input_lengths": steps - np.arange(batch) % 3,
            "label_lengths": (most - 2 * np.arange(batch)) % (most + 1),
        }

    return make


def stored_targets(expected):
    """The targets of the reference, which are concatenated there, as padded rows."""
    values = {name: np.asarray(expected["inputs"][name]["data"], np.int64) for name in ("targets", "target_lengths")}
    rows = np.split(values["targets"], np.cumsum(values["target_lengths"])[:-1])
    labels = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        labels[i, : len(row)] = row
    steps, batch, _ = expected["outputs"]["logits"]["shape"]
    return {"labels": labels, "input_lengths": np.full(batch, steps), "label_lengths": values["target_lengths"]}


SMALL = {"base": 4, "nh": 8, "num_classes": 11}

CASES = [
    Case(
        "crnn",
        images(32, 20, 1),
        texts(6),
        SMALL,
        criterion={"reduction": "mean_batch"},
        references=[
            Reference(
                "crnn_pytorch_37",
                modules={"cnn": "cnn", "rnn0": "rnn.0"},
                outputs={"logits": "logits"},
                inputs={"image": "images"},
                losses={"ctc": "ctc"},
                targets=stored_targets,
                criterion={"reduction": "mean_batch"},
            )
        ],
    ),
    Case(
        "crnn", images(32, 21, 2), texts(6), {**SMALL, "in_chans": 2, "n_rnn": 3, "leaky_relu": True}, variant="leaky"
    ),
    Case(
        "crnn_english_g2",
        images(64, 29, 1),
        texts(6),
        {"output_channel": 32, "hidden_size": 8, "num_classes": 11},
    ),
    Case("crnn_khmer", images(48, 29, 1), texts(6), {"base": 4, "nh": 8, "num_classes": 11, "dropout": 0.0}),
]
