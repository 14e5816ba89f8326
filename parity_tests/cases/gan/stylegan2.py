"""Cases of StyleGAN2."""

import numpy as np

from parity_tests.cases.gan.pggan import equalized, pictures
from parity_tests.harness.case import SAME_GRAPH, Case, Reference

SMALL = {"size": 16, "base": 64, "most": 12}
VECTORS = {"z_dim": 10, "w_dim": 14, "mapping_layers": 2}
FIXED = {"cutoff": [None]}  # no batch
PIXELS = 4**2 + 2 * (8**2 + 16**2)  # of the noise


def training(rng, batch):
    return {
        "images": pictures(rng, batch),
        "z": rng.standard_normal((batch, 6, 10)),
        "cutoff": np.array([3.0, 4.0, 6.0]),
        "noise": rng.standard_normal((batch, 3, PIXELS)),
        "direction": rng.standard_normal((batch, 3, 16, 16)),
    }


def vectors(rng, batch):
    return {
        "z": rng.standard_normal((batch, 10)),
        "z2": rng.standard_normal((batch, 10)),
        "cutoff": np.array([3.0]),
    }


def generated(size: int, outputs, cutoff: int = 99, weights=equalized, **options) -> Reference:
    return Reference(
        f"stylegan2_g_{size}",
        {"size": size, **options},
        outputs=outputs,
        inputs={"z": "z", "z2": "z2"},
        given={"cutoff": np.array([cutoff])},
        weights=weights,
    )


def without_noise(values):
    """The weights of the files, and no noise."""
    return {
        name: np.zeros_like(value) if name.endswith("noise_strength") else value
        for name, value in equalized(values).items()
    }


def references(size: int) -> list[Reference]:
    return [
        generated(size, {"ws": "ws", "image": "fake"}),
        generated(size, {"ws_psi_0_7": "ws", "image_psi_0_7": "fake"}, psi=0.7),
        generated(size, {"image_mix_from_4": "fake"}, cutoff=4),
        generated(size, {"image_no_noise": "fake"}, weights=without_noise),
    ]


def generator(model: str, found, without=None) -> Case:
    return Case(
        model,
        vectors,
        lambda rng, batch: {"images": pictures(rng, batch)},
        {**SMALL, **VECTORS, "psi": 0.7, "truncated_layers": 4},
        dynamic=FIXED,
        references=found,
        without=without or {},
    )


def discriminator(model: str, found, without=None) -> Case:
    return Case(
        model,
        lambda rng, batch: {"images": pictures(rng, batch)},
        None,
        SMALL,
        references=[
            Reference(
                file,
                {"size": size, "base": 16384},
                outputs={output: ""},
                inputs={"real": "images"},
                weights=equalized,
            )
            for file, size, output in found
        ],
        without=without or {},
    )


CASES = [
    Case("stylegan2_256", training, None, {**SMALL, **VECTORS}, trainer={"every": (2, 3)}, dynamic=FIXED),
    generator("stylegan2_generator_256", references(256) + references(64)),
    generator("stylegan2_generator_1024", [], SAME_GRAPH),
    discriminator("stylegan2_discriminator_256", [("stylegan2_d_256", 256, "score"), ("stylegan2_d_64", 64, "real")]),
    discriminator("stylegan2_discriminator_1024", [], SAME_GRAPH),
]
