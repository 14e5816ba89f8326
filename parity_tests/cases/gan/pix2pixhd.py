"""Small configurations of pix2pixHD."""

import numpy as np

from parity_tests.cases.gan.pix2pix import nothing, pictures, ramp
from parity_tests.harness.case import Case, Reference, images

SMALL = {"width": 4, "downs": 2, "blocks": 2}
WIDTHS = (4, 8, 16, 32, 32)  # of VGG-19


def scenes(height: int, width: int, labels: int, instances: int):
    """Input maker of maps of labels and of instances, in blocks, and images."""
    make_images = pictures("real", height=height, width=width)

    def make(rng, batch):
        blocks = [rng.integers(0, n, (batch, height // 8, width // 8)) for n in (labels, instances)]
        found = [x.repeat(8, 1).repeat(8, 2) for x in blocks]
        return {"labels": found[0], "instances": found[1], **make_images(rng, batch)}

    return make


def generator(model: str, file: str, channels: int, options: dict, published: dict, last: str) -> Case:
    reference = Reference(
        file,
        published,
        modules={"before_tanh": last},
        outputs={"output": ""},
        inputs={"input": "maps"},
        losses={"l1": "l1"},
        targets=ramp,
    )
    make = images(32, 48, channels, "maps")
    small = {**SMALL, "in_chans": channels, **options}
    return Case(model, make, pictures("B", height=32, width=48), small, references=[reference])


def discriminator(number: int) -> Case:
    def make(rng, batch):
        return {name: rng.standard_normal((batch, 6, 48, 52)) for name in ("images", "others")}

    reference = Reference(
        f"pix2pixhd_multiscale_d{number}",
        outputs={f"scale.{i}.{j}": f"real_{i}_{j}" for i in range(number) for j in range(5)},
        inputs={"input": "images", "other": "others"},
        losses={"real": "D_real", "fake": "D_fake", "feature_matching": "G_GAN_Feat"},
        targets=nothing,
    )
    options = {"in_chans": 6, "width": 8}
    return Case(f"pix2pixhd_multiscale_d{number}", make, None, options, references=[reference])


def numbered(rng, batch):
    """Images, and instances of which one lies in two places."""
    instances = rng.integers(0, 5, (batch, 4, 6)).repeat(8, 1).repeat(8, 2)
    return {"images": rng.standard_normal((batch, 3, 32, 48)), "instances": instances}


Y, X = np.mgrid[:48, :64]

CASES = [
    Case(
        "pix2pixhd",
        scenes(32, 48, 5, 6),
        pictures("real", height=32, width=48),
        {
            **SMALL,
            **{"label_nc": 5, "encoder_width": 4, "encoder_downs": 2, "max_instances": 6, "discriminator_width": 8},
        },
        criterion={"widths": WIDTHS},
        without={"reference": "no file of the whole; its networks have theirs, and the losses of the discriminators"},
    ),
    Case(
        "pix2pixhd",
        scenes(32, 48, 5, 6),
        pictures("real", height=32, width=48),
        {**SMALL, "label_nc": 5, "feat_num": 0, "discriminator_width": 8},
        criterion={"widths": WIDTHS},
        variant="without_features",
        without={"reference": "no file of the whole; its networks have theirs, and the losses of the discriminators"},
    ),
    generator("pix2pixhd_global", "pix2pixhd_global", 6, {}, {}, "model.38"),
    generator(
        "pix2pixhd_local",
        "pix2pixhd_local_2_enhancers_small",
        6,
        {"local_blocks": 1},
        {"in_chans": 6, "width": 4, "downs": 2, "blocks": 2, "enhancers": 2, "local_blocks": 1},
        "model2_2.5",
    ),
    Case(
        "pix2pixhd_encoder",
        numbered,
        pictures("B", height=32, width=48),
        {"width": 4, "downs": 2, "max_instances": 5},
        references=[
            Reference(
                "pix2pixhd_encoder",
                modules={"before_tanh": "model.29", "before_mean": "model"},
                outputs={"output": ""},
                inputs={"input": "images"},
                given={"instances": np.broadcast_to(1 + Y // 20 + 2 * (X // 24), (2, 48, 64)).copy()},
                losses={"l1": "l1"},
                targets=ramp,
            )
        ],
    ),
    discriminator(2),
    discriminator(3),
]
