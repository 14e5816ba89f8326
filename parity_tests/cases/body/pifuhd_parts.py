"""Small configurations of PIFuHD's parts."""

from parity_tests.cases.body.pifuhd import POINTS, camera
from parity_tests.harness.case import Case, images

COARSE = {"num_stack": 2, "hg_depth": 1, "hg_dim": 6, "ngf": 2, "blocks": 1}
FIELD = {
    "groups": 2,
    "mlp_dim": (8, 8, 4, 1),
    "res_layers": (1,),
    "coarse": {"mlp_dim": (7, 8, 8, 4, 4, 1)},
    "delta": 1.0,  # the differences of published size keep three digits in float32
}
WHOLE = {"reference": "the whole network has its own"}


def pair(rng, batch):
    small, large = (
        images(*size, name=name) for size, name in (((32, 48), "images_global"), ((40, 56), "images_local"))
    )
    return {**small(rng, batch), **large(rng, batch)}


def asked(rng, batch):
    """Maps of both levels, and points in and around the cube."""
    return {
        "coarse": rng.standard_normal((batch, 6, 8, 12)),
        "fine": rng.standard_normal((batch, 4, 20, 28)),
        "points": rng.uniform(-1.1, 1.1, (batch, 3, POINTS)),
        "calib": camera(rng, batch, 0.1),
    }


CASES = [
    Case(
        "pifuhd_features",
        pair,
        options={"hg_depth": 1, "hg_dim": 4, "base": 8, "groups": 2, "coarse": COARSE},
        without=WHOLE,
    ),
    Case("pifuhd_field", asked, options=FIELD, without=WHOLE),
    Case("pifuhd_normals", asked, options=FIELD, without=WHOLE),
]
