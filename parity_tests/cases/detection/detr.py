"""Small configurations of DETR."""

import numpy as np

from parity_tests.cases.detection import objects, stored_objects
from parity_tests.harness.case import Case, Reference

SMALL = {
    "layers": (1, 1, 1, 1),
    "planes": (8, 8, 8, 16),
    "num_classes": 4,
    "queries": 10,
    "dim": 16,
    "heads": 2,
    "depths": (2, 2),
    "hidden": 24,
    "dropout": 0.0,
}


def sizes(height: int, width: int, batch: int) -> np.ndarray:
    """(N, 2): every second image is smaller than the batch."""
    return np.array([(height - 24 * (i % 2), width - 40 * (i % 2)) for i in range(batch)])


def padded_images(height: int, width: int):
    """Input maker: noise that is 0 in the padding, and the mask of the padding."""

    def make(rng, batch):
        size = sizes(height, width, batch)[:, :, None, None]
        mask = (np.arange(height)[:, None] >= size[:, 0]) | (np.arange(width) >= size[:, 1])
        return {
            "images": rng.standard_normal((batch, 3, height, width)) * ~mask[:, None],
            "padding_mask": mask,
        }

    return make


def matched(height: int, width: int, classes: int, layers: int, queries: int):
    """Target maker: objects, and queries for them in no particular order."""
    of_detectors = objects(height, width, classes)

    def make(rng, batch):
        targets = of_detectors(rng, batch)
        most = targets["labels"].shape[1]
        order = np.argsort(rng.uniform(size=(batch, layers, queries)), -1)[..., :most]
        indices = np.where(targets["valid"][:, None], order, -1)
        return {**targets, "image_size": sizes(height, width, batch), "indices": indices}

    return make


def stored_batch(factor: float, height: int = 96, width: int = 128) -> dict[str, np.ndarray]:
    """The two images of the fingerprints, multiplied and padded to one size."""
    rng = np.random.default_rng(0)
    images, mask = np.zeros((2, 3, height, width)), np.ones((2, height, width), bool)
    for i, (h, w) in enumerate(STORED_SIZES):
        images[i, :, :h, :w] = rng.standard_normal((3, h, w)).astype(np.float32) * np.float32(factor)
        mask[i, :h, :w] = False
    return {"images": images, "padding_mask": mask}


STORED_SIZES = ((96, 128), (64, 96))


def stored_matching(expected):
    """The targets of a fingerprint, with the reference's assignments."""
    targets = stored_objects(expected)
    layers = [*(str(i) for i in range(5)), "last"]
    indices = np.full((2, len(layers), targets["labels"].shape[1]), -1)
    for i in range(2):
        for layer, name in enumerate(layers):
            described = expected["outputs"][f"matching.{name}.{i}"]
            queries, slots = np.reshape(described["values"], described["shape"]).astype(int)
            indices[i, layer, slots] = queries
    return {**targets, "image_size": np.array(STORED_SIZES), "indices": indices}


def reference(file: str, factor: float = 1.0, **options) -> Reference:
    """The published network's maps, outputs, losses and gradients; they are of the plain sum of the losses."""
    before = range(5)
    return Reference(
        file,
        options,
        modules={"backbone": "backbone.0"},
        outputs={"pred_logits": "pred_logits", "pred_boxes": "pred_boxes"}
        | {f"aux_outputs.{i}.{key}": f"{key}_{i}" for i in before for key in ("pred_logits", "pred_boxes")},
        given=stored_batch(factor),
        inputs={"image0": "images", "image1": "padding_mask"},
        losses={
            f"loss_{key}{suffix}": f"loss_{key}{suffix}"
            for key in ("ce", "bbox", "giou")
            for suffix in ("", *(f"_{i}" for i in before))
        },
        targets=stored_matching,
        criterion={"bbox_weight": 1.0, "giou_weight": 1.0},
    )


CASES = [
    Case(
        "detr_resnet50",
        padded_images(97, 129),
        matched(97, 129, 4, 2, 10),
        SMALL,
        references=[reference("detr_r50")],
        variant="sine",
    ),
    Case(
        "detr_resnet50",
        padded_images(97, 129),
        matched(97, 129, 4, 2, 10),
        {**SMALL, "learned_positions": True, "pre_norm": True},
        references=[
            reference("detr_r50_learned", learned_positions=True),
            reference("detr_r50_prenorm", 2.0, pre_norm=True),
        ],
        variant="learned-pre-norm",
    ),
]
