"""Small configurations of the First Order Motion Model's training."""

import numpy as np

from parity_tests.harness import fingerprints
from parity_tests.harness.case import Case, Reference
from torch_impl.face.fomm import blur_kernel
from weights.seeded import seeded

FILE = "fomm_taichiadv256_losses"
NAMES = {r"^(g|dm)\.": "", "^kp_extractor": "kp_detector"}
WIDTHS = (4, 6, 8, 10, 12)  # of VGG-19
SMALL = {
    "num_kp": 3,
    "kp_expansion": 4,
    "kp_features": 16,
    "kp_blocks": 3,
    "block_expansion": 4,
    "max_features": 12,
    "num_bottleneck_blocks": 1,
    "motion_expansion": 4,
    "motion_features": 16,
    "motion_blocks": 3,
    "scale_factor": 0.5,
}


def frames(height: int, width: int):
    """Input maker of two frames and a bending."""

    def make(rng, batch):
        return {
            **{name: rng.uniform(size=(batch, 3, height, width)) for name in ("source", "driving")},
            "theta": np.eye(2, 3) + rng.normal(0, 0.05, (batch, 2, 3)),
            "control_params": rng.normal(0, 0.005, (batch, 1, 25)),
        }

    return make


def driving(height: int, width: int):
    """Target maker of the frame that is to be made."""
    return lambda rng, batch: {"driving": rng.uniform(size=(batch, 3, height, width))}


def stored_driving(expected):
    return {"driving": fingerprints.inputs_of(expected)["driving"]}


def their_name(name: str) -> str:
    """What the file calls a tensor of ours; VGG-19's layers are numbered through, in slices."""
    layer = name.removeprefix("criterion.perceptual.vgg.features.")
    if layer == name:
        return "g." + name.replace("kp_detector", "kp_extractor")
    return f"g.vgg.slice{1 + sum(int(layer.split('.')[0]) >= first for first in (2, 7, 12, 21))}.{layer}"


def filled(values):
    """The rule of seeded weights, applied to the file's names; the blurs are as they are built."""
    shapes = {their_name(name): value.shape for name, value in values.items()}
    found = dict(zip(values, seeded(shapes).values(), strict=True))
    steps = {"kp_detector.down": 4, "generator.dense_motion_network.down": 4}
    steps |= {f"criterion.downs.{i}": 2 ** (i + 1) for i in range(3)}
    blurs = {f"{name}.weight": np.tile(blur_kernel(step), (3, 1, 1, 1)) for name, step in steps.items()}
    return found | {name: blur.astype(np.float32) for name, blur in blurs.items()}


NOISE = {"training": (1e-6, "biases before a normalisation have no gradient but rounding, which Adam enlarges")}

CASES = [
    Case(
        "fomm_adv",
        frames(32, 48),
        driving(32, 48),
        {**SMALL, "patch_expansion": 4, "patch_features": 16, "patch_blocks": 3},
        criterion={"scales": (1.0, 0.5), "widths": WIDTHS},
        bounds=NOISE,
        references=[
            Reference(
                FILE,
                {"align_corners": False},
                inputs={name: name for name in ("source", "driving", "theta", "control_params")},
                outputs={"prediction": "prediction", "transformed_frame": "transformed_frame"}
                | {
                    f"{theirs}.{key}": f"{ours}_{key}"
                    for theirs, ours in {"kp_driving": "driving", "transformed_kp": "transformed"}.items()
                    for key in ("value", "jacobian")
                },
                losses={
                    name: name
                    for name in (
                        "perceptual",
                        "gen_gan",
                        "feature_matching",
                        "equivariance_value",
                        "equivariance_jacobian",
                        "disc_gan",
                    )
                },
                targets=stored_driving,
                rename=NAMES,
                weights=filled,
                skip=["g.discriminator.discs.1.down_blocks.3.conv.weight"],
                reason="the file has the gradient of the sum of all losses, and the discriminator lowers its own",
            )
        ],
    ),
    Case(
        "fomm",
        frames(32, 48),
        driving(32, 48),
        SMALL,
        criterion={"scales": (1.0, 0.5), "widths": WIDTHS},
        bounds=NOISE,
        without={"reference": "the file of fomm_adv has these losses, too"},
    ),
]
