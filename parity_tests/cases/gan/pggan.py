"""Cases of Progressive GAN."""

import numpy as np

from parity_tests.cases.gan._common import ramp
from parity_tests.harness.case import SAME_GRAPH, Case, Reference

SMALL = {"size": 16, "base": 64, "most": 12}


def equalized(values):
    """The rule of the files: weights of deviation 1; the level of detail and filters as built."""
    found = {}
    for name, value in values.items():
        leaf = name.rpartition(".")[2]
        if leaf.endswith("weight") and value.ndim > 1:
            value = value.astype(np.float64) * np.sqrt(np.prod(value.shape[1:]))
            value = (value / 0.01 if "mapping." in name else value).astype(np.float32)
        if name.endswith("blur.kernel"):
            value = np.broadcast_to(np.outer((1, 2, 1), (1, 2, 1)) / 16, value.shape).astype(np.float32)
        if leaf == "resample_filter":
            value = (np.outer((1, 3, 3, 1), (1, 3, 3, 1)) / 64).astype(np.float32)
        found[name] = np.zeros_like(value) if leaf == "lod" else value
    return found


def pictures(rng, batch, size: int = 16):
    return np.clip(rng.standard_normal((batch, 3, size, size)), -1, 1)


def training(lod: float):
    def make(rng, batch):
        return {
            # loud: small weights leave the difference of two mean scores of ordinary images to rounding
            "images": 1e5 * pictures(rng, batch),
            "z": rng.standard_normal((batch, 10)),
            "z2": rng.standard_normal((batch, 10)),
            "mix": rng.uniform(size=batch),
            "lod": np.array([lod]),
        }

    return make


def pggan(lod: float, variant: str = "", without=None, **options) -> Case:
    return Case(
        "pggan",
        training(lod),
        None,
        {**SMALL, "z_dim": 10, **options},
        variant=variant,
        dynamic={"lod": [None]},
        without=without or {},
    )


def generated(file: str, size: int, lod: float, output: str, loss: bool = False, **options) -> Reference:
    return Reference(
        file,
        {"size": size, **options},
        outputs={output: ""},
        given={"lod": np.array([lod])},
        losses={"l1": "l1"} if loss else {},
        targets=ramp("images", output) if loss else None,
        weights=equalized,
    )


def generator(lod: float, references, variant: str = "", without=None, **options) -> Case:
    return Case(
        "pggan_generator",
        lambda rng, batch: {"z": rng.standard_normal((batch, 10)), "lod": np.array([lod])},
        lambda rng, batch: {"images": pictures(rng, batch)},
        {**SMALL, "z_dim": 10, **options},
        variant=variant,
        references=references,
        dynamic={"lod": [None]},
        without=without or {},
    )


def scored(file: str, size: int, output: str = "score", **options) -> Reference:
    return Reference(
        file,
        {"size": size, **options},
        outputs={output: ""},
        inputs={"real": "images"},
        given={"lod": np.zeros(1)},
        weights=equalized,
    )


def discriminator(lod: float, references, variant: str = "", without=None, **options) -> Case:
    return Case(
        "pggan_discriminator",
        lambda rng, batch: {"images": pictures(rng, batch), "lod": np.array([lod])},
        None,
        {**SMALL, **options},
        variant=variant,
        references=references,
        dynamic={"lod": [None]},
        without=without or {},
    )


CASES = [
    pggan(0.5),
    pggan(1.3, "coarse", SAME_GRAPH),
    generator(
        0.5,
        [
            generated("pggan_g_64", 64, 0.5, "lod_0.5", loss=True),
            *(generated("pggan_g_64", 64, lod, f"lod_{lod}") for lod in (0.0, 1.0, 1.3, 2.75)),
            generated("pggan_g_256", 256, 0.0, "image"),
            generated("pggan_g_256", 256, 0.25, "image_lod_0_25"),
        ],
    ),
    generator(1.3, [generated("pggan_g_64_fused", 64, 0.0, "image", fused_scale=True)], "fused", fused_scale=True),
    discriminator(0.5, [scored("pggan_d_64", 64, "real"), scored("pggan_d_256", 256)]),
    discriminator(1.3, [scored("pggan_d_64_fused", 64, fused_scale=True)], "fused", fused_scale=True),
]
