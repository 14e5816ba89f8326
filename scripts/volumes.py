"""``diptych predict`` for stacks of slices: what a network finds in a volume, and the brightest of it as a picture."""

import numpy as np

from scripts import draw
from scripts.questions import Question, Request, as_picture, one_picture
from weights import catalog
from weights.processing.volumes import open_volume, padded

__all__ = ["volume_maps"]

MAPS = ("affinity in depth", "affinity in rows", "affinity in columns", "mask", "centres")
MASK = MAPS.index("mask")


def volume_maps(model: catalog.Model, entry, request: Request) -> Question:
    """The share of voxels that each map is above one half in, and of those of which all engines say the same."""
    volume = open_volume(one_picture(model, request))
    depth, height, width = volume.shape
    (name,) = model.inputs

    def found_in(outputs):
        return outputs["probabilities"][0, :, :depth, :height, :width] > 0.5

    def read(outputs, results=None):
        shares = found_in(outputs).mean((1, 2, 3)).tolist()
        return [{"row": row, "text": f"{share:.2%}", "share": share} for row, share in zip(MAPS, shares, strict=True)]

    def drawn(found):
        seen = as_picture(255 * volume.max(0)[None])
        masks = {engine: found_in(outputs)[MASK].any(0)[None] for engine, outputs in found.items()}
        return draw.side_by_side({"input": seen} | {key: draw.regions(seen, mask) for key, mask in masks.items()})

    def common(found):
        first, *others = (found_in(outputs)[MASK] for outputs in found.values())
        share = float(np.all([other == first for other in others], axis=0).mean())
        return [{"row": "all four agree on the mask", "text": f"{share:.2%}", "agreement": share}]

    return Question({name: padded(volume)[None, None]}, read, drawn, common=common)
