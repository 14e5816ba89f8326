"""Small configurations of vid2vid."""

import numpy as np

from parity_tests.cases.gan.pix2pix import nothing
from parity_tests.cases.gan.pix2pixhd import WIDTHS
from parity_tests.harness.case import Case, Reference, images

SIZE = (16, 24)


def maps(**channels: int):
    """Maker of maps by name; flows are a few pixels long."""

    def make(rng, batch):
        found = {name: rng.standard_normal((batch, count, *SIZE)) for name, count in channels.items()}
        return {name: x if "flow" in name else np.clip(x, -1, 1) for name, x in found.items()}

    return make


def scenes(rng, batch):
    """Inputs of the whole: maps of labels and of instances in blocks, frames, flows."""
    shape = (batch, 3, SIZE[0] // 4, SIZE[1] // 4)
    found = {"labels": rng.integers(0, 4, shape), "instances": rng.integers(0, 5, shape)}
    found = {name: x.repeat(4, 2).repeat(4, 3) for name, x in found.items()}
    maker = maps(frames=9, previous=6, flow_ref=4, skipped_frames=9, skipped_previous=6, skipped_flow_ref=4)
    return {**found, **maker(rng, batch)}


def truths(rng, batch):
    found = maps(frames=9, previous=6, flow_ref=4)(rng, batch)
    return {**found, "confidence": rng.integers(0, 2, (batch, 1, *SIZE)).astype(float)}


def ramp(expected):
    shape = expected["outputs"]["image"]["shape"]
    return {"images": np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)}


PARTS = ("image", "flow", "weight", "raw")

CASES = [
    Case(
        "vid2vid",
        scenes,
        truths,
        {"label_nc": 4, "width": 4, "downs": 2, "blocks": 3, "discriminator_width": 4, "layers": 2},
        criterion={"widths": WIDTHS},
        bounds={
            "training": (
                1e-7,
                "a bias before batch normalisation has no gradient but rounding, by whose size Adam's step divides it",
            )
        },
        without={"reference": "no file of the whole; its generator and its discriminators have theirs"},
    ),
    Case(
        "vid2vid_composite",
        maps(maps=12, previous=6),
        maps(images=3),
        {"in_chans": 12, "width": 4, "downs": 2, "blocks": 3},
        references=[
            Reference(
                "vid2vid_composite_ngf64_down3",
                {"width": 64},
                modules={"image_feature": "model_up_img", "flow_feature": "model_up_flow"},
                outputs={name: name for name in PARTS},
                training={f"train.{name}": name for name in PARTS},
                inputs={"input": "maps", "prev": "previous"},
                losses={name: name for name in ("l1", "flow", "weight")},
                targets=ramp,
                bound=1e-3,
                gradient_bound=1e-2,
                reason="a flow moves noise: with batch statistics the file's image is 8e-5 off in float64, that of the "
                "panels in float32 1.7e-4, and rounding decides between which pixels a flow ends, on which its "
                "gradient depends; in float64 the norms are those of the file to 2e-6",
            )
        ],
    ),
    Case(
        "vid2vid_image_discriminator",
        images(48, 52, 6),
        None,
        {"in_chans": 6, "width": 8},
        references=[
            Reference(
                "vid2vid_multiscale_d",
                outputs={f"scale.{i}.{j}": f"real_{i}_{j}" for i in range(2) for j in range(5)},
                inputs={"input": "images"},
                losses={"real": "D_real"},
                targets=nothing,
            )
        ],
    ),
]
