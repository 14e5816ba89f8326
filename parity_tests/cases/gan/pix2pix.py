"""Small configurations of the generative models."""

import numpy as np

from parity_tests.harness.case import Case, Reference, images


def pictures(*names: str, height: int = 64, width: int = 128):
    """Input maker of images in [-1, 1] whose sizes a U-Net of six levels can halve."""

    def make(rng, batch):
        return {name: np.clip(rng.standard_normal((batch, 3, height, width)), -1, 1) for name in names}

    return make


def ramp(expected):
    """The target of the stored L1 loss: from -1 to 1 over all values of the output."""
    shape = expected["outputs"]["output"]["shape"]
    return {"B": np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)}


def nothing(expected):
    return {}


SMALL_UNET = {"num_downs": 6, "width": 8, "dropout": 0.0}
PLAIN = {"dropout": 0.0}


def unet(model: str, file: str, **options) -> Case:
    small = {**SMALL_UNET, **options}
    training = {"output_train_statistics": ""} if options.get("norm") != "instance" else {}
    reference = Reference(
        file,
        {**PLAIN, **options},
        modules={"before_tanh": "model.model.3"},
        outputs={"output": ""},
        training=training,
        losses={"l1": "l1"},
        targets=ramp,
        gradient_bound=1e-3,
        reason="rounding decides on which side of zero the input of some ReLU falls: the file of unet_256 is 1.0e-4 "
        "from the norms in float64, on which both panels agree, which test_pix2pix.py measures",
    )
    return Case(model, pictures("A"), pictures("B"), small, variant=options.get("norm", ""), references=[reference])


def patches(model: str, file: str, convolutions, **options) -> Case:
    name = "net" if model == "pixelgan" else "model"
    reference = Reference(
        file,
        modules={f"conv{i}": f"{name}.{i}" for i in convolutions},
        outputs={"output": ""},
        training={"output_train_statistics": ""},
        losses={"real": "real"},
        targets=nothing,
    )
    side = 129 if model == "patchgan_n5" else 65
    return Case(model, images(side, side + 6, 6, "pair"), None, {"width": 8, **options}, references=[reference])


CASES = [
    Case("pix2pix", pictures("A", "B"), pictures("B"), SMALL_UNET),
    unet("unet_256", "pix2pix_unet_256"),
    unet("unet_256", "pix2pix_unet_256_instance", norm="instance"),
    unet("unet_128", "pix2pix_unet_128"),
    patches("patchgan_70", "pix2pix_patchgan_70", (0, 2, 5, 8, 11)),
    patches("patchgan_n5", "pix2pix_patchgan_n5", (0, 2, 5, 8, 11, 14, 17)),
    patches("pixelgan", "pix2pix_pixel", (0, 2, 5)),
]
