"""Cases of StyleGAN."""

import numpy as np

from parity_tests.cases.gan._common import ramp
from parity_tests.cases.gan.pggan import equalized, pictures, scored
from parity_tests.harness.case import Case, Reference

SMALL = {"size": 16, "base": 64, "most": 12}
VECTORS = {"z_dim": 10, "w_dim": 14, "mapping_layers": 2}
FIXED = {"cutoff": [None], "lod": [None]}  # no batches
PIXELS = 2 * (4**2 + 8**2 + 16**2)  # of the noise


def training(rng, batch):
    return {
        "images": pictures(rng, batch),
        "z": rng.standard_normal((batch, 4, 10)),
        "cutoff": np.array([3.0, 6.0]),
        "noise": rng.standard_normal((batch, 2, PIXELS)),
        "lod": np.array([0.5]),
    }


def vectors(rng, batch):
    return {
        "z": rng.standard_normal((batch, 10)),
        "z2": rng.standard_normal((batch, 10)),
        "cutoff": np.array([3.0]),
        "lod": np.array([0.5]),
    }


def generated(size: int, outputs, cutoff: int = 99, lod: float = 0.0, loss: bool = False, **options) -> Reference:
    return Reference(
        f"stylegan_g_{size}",
        {"size": size, **options},
        outputs=outputs,
        given={"cutoff": np.array([cutoff]), "lod": np.array([lod])},
        losses={"l1": "l1"} if loss else {},
        targets=ramp("images", "image") if loss else None,
        weights=equalized,
    )


WHOLE = {"w": "w", "wp": "wp", "image": "fake"}

CASES = [
    Case("stylegan", training, None, {**SMALL, **VECTORS}, dynamic=FIXED),
    Case(
        "stylegan_generator",
        vectors,
        lambda rng, batch: {"images": pictures(rng, batch)},
        {**SMALL, **VECTORS, "psi": 0.7, "truncated_layers": 4},
        dynamic=FIXED,
        references=[
            generated(64, WHOLE, loss=True),
            generated(64, {"image_psi_0_7": "fake"}, psi=0.7),
            generated(64, {"image_lod_0_5": "fake"}, lod=0.5),
            generated(64, {"image_lod_1_3": "fake"}, lod=1.3),
            generated(64, {"image_mix_from_5": "fake"}, cutoff=5),
            generated(256, WHOLE),
            generated(256, {"image_psi_0_7": "fake"}, psi=0.7),
            generated(256, {"image_mix_from_5": "fake"}, cutoff=5),
        ],
    ),
    Case(
        "stylegan_discriminator",
        lambda rng, batch: {"images": pictures(rng, batch), "lod": np.array([1.3])},
        None,
        SMALL,
        dynamic=FIXED,
        references=[scored("stylegan_d_64", 64, "real"), scored("stylegan_d_256", 256)],
    ),
]
