"""Small configurations of the hybrid task cascade."""

import numpy as np

from parity_tests.cases.detection._masks import SMALL_MASKS, masked_objects
from parity_tests.cases.detection._two_stage import mmdet_outputs
from parity_tests.harness.case import SAME_GRAPH, Case, images

SMALL = {**SMALL_MASKS, "semantic_channels": 8, "semantic_classes": 6}


def segmented(labels, masks):
    """The label of the last object at every pixel, 255 where there is none."""
    found = np.full((len(masks), *masks.shape[2:]), 255, np.int64)
    for i, j in np.ndindex(labels.shape):
        found[i][masks[i, j] > 0] = labels[i, j]
    return found


def targets_of(height: int, width: int, classes: int):
    """Target maker of objects with masks, and of the segmentation of the image."""
    make = masked_objects(height, width, classes)

    def segmented_objects(rng, batch):
        found = make(rng, batch)
        return {**found, "sem_seg": segmented(found["labels"], found["masks"])}

    return segmented_objects


OUTPUTS = (
    {f"roi_head.semantic_head.{i}": f"roi_head.semantic_head@{i}" for i in range(2)}
    | {f"roi_head.bbox_head.{i}.{j}": f"roi_head.bbox_head.{i}@{j}" for i in range(3) for j in range(2)}
    | {f"roi_head.mask_head.{i}.{j}": f"roi_head.mask_head.{i}@{j}" for i in range(3) for j in range(2)}
)

CASES = [
    Case(
        "htc_r50_fpn",
        images(97, 81),
        targets_of(97, 81, 4),
        SMALL,
        references=mmdet_outputs("htc_r50_fpn_1x_coco", OUTPUTS),
        without=SAME_GRAPH,
    ),
    Case(
        "htc_without_semantic_r50_fpn",
        images(97, 81),
        masked_objects(97, 81, 4),
        SMALL_MASKS,
        without=SAME_GRAPH | {"reference": "no file of it; its parameters are counted at the published size"},
    ),
]
