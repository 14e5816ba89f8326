"""What the cases of the segmenters share: label maps, the labels of fingerprints, and where their numbers are found."""

import re

import numpy as np

from parity_tests.harness.case import Case, Reference, images

R18 = {
    "depth": 18,
    "num_classes": 7,
    "channels": 64,
    "aux_channels": 32,
    "dropout": 0.0,
}  # of the files "mmseg_*_r18_*"
SMALL = {"width": 8, "layers": (1, 1, 1, 1), "num_classes": 5}


def label_maps(height: int, width: int, classes: int = 5):
    """Target maker: classes by pixel, a corner ignored, and one image of three ignored as a whole."""

    def make(rng, batch):
        labels = rng.integers(0, classes, (batch, height, width))
        labels[:, : height // 4, width // 2 :] = 255
        if batch > 2:
            labels[-1] = 255
        return {"labels": labels}

    return make


def grid_labels(expected, ignored: int = 255, size: tuple[int, int] | None = None):
    """The labels of a fingerprint: a grid of classes, a corner ignored (the fingerprints' README).

    Args:
        expected: the fingerprint.
        ignored: label of the corner.
        size: height and width, where they are not those of the image.
    """
    loss, notes = expected["loss"], expected.get("notes", "")
    if loss.get("size"):
        (height, width), batch, cell, classes, offset = loss["size"], 2, 16, 19, loss["targets"]["offset"]
        corner = 8
    else:
        batch, _, *image = next(iter(expected["inputs"].values()))["shape"]
        height, width = size or image
        cell, corner, offset = 8, 4, 0
        classes = int(re.search(r"C = (\d+)", notes)[1])
    rows, columns = np.arange(height)[:, None], np.arange(width)
    labels = np.stack([(rows // cell + 3 * (columns // cell) + 5 * i + offset) % classes for i in range(batch)])
    labels[:, (rows < corner) & (columns > width // 2)] = ignored
    return {"labels": labels}


def mmseg(file: str, heads=None, losses=None, maps: bool = True, **options) -> Reference:
    """Maps of the backbone, logits, losses and gradients of an mmsegmentation model.

    Args:
        file: name of the fingerprint.
        heads: fingerprint output -> key of the model's outputs; those of one head and the auxiliary head by default.
        losses: loss terms, as in the file; those of cross-entropies by default.
        maps: whether the backbone is a ResNet whose maps are compared.
    """
    first = "configuration" if "_4xb" in file else "own"
    if heads is None:
        heads = {"decode_head": "logits", "auxiliary_head": "aux_logits"}
        heads = heads if first == "configuration" else {"decode": "logits", "aux": "aux_logits"}
    options = {**(R18 if "_r18_" in file else {"dropout": 0.0}), **options}
    if losses is None:
        losses = {"decode.loss_ce": "decode.loss_ce", "aux.loss_ce": "aux.loss_ce"}
    return Reference(
        file,
        options,
        modules={f"backbone.{i}": f"backbone.layer{i + 1}" for i in range(4)} if maps else {},
        outputs=heads,
        inputs={("input" if first == "configuration" else "image"): "images"},
        losses=losses,
        targets=grid_labels,
    )


def segmenter(model: str, *references: Reference, size=(65, 49), variant: str = "", criterion=None, **options) -> Case:
    """A case of a segmenter on a small dilated residual network."""
    plain = {"dropout": 0.0} if "dropout" not in options else {}
    return Case(
        model,
        images(*size),
        label_maps(*size),
        {**SMALL, **plain, **options},
        criterion=criterion or {},
        variant=variant,
        references=references,
    )
