"""Cases of StarGAN."""

import numpy as np

from parity_tests.cases.gan._common import ramp
from parity_tests.harness import fingerprints
from parity_tests.harness.case import SAME_GRAPH, Case, Reference

C5 = np.array([[1.0, 0, 0, 1, 1], [0, 1, 0, 1, 0]])  # codes of the generators' files
C8 = np.array([[1.0, 0, 0, 1, 1, 0, 0, 1], [0, 1, 0, 1, 0, 0, 1, 0]])
STEP = np.array([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, 1]])  # of the step's
GIVEN = {"c_org": STEP, "c_trg": STEP[::-1], "mix": np.array([0.3, 0.8])}
D_TERMS = {"D_real": "D_real", "D_cls": "D_cls", "D_fake": "D_fake", "D_gp": "D_gp"}


def pictures(rng, batch, height, width):
    return np.clip(rng.standard_normal((batch, 3, height, width)), -1, 1)


def codes(rng, batch, domains: bool = False):
    """Three attributes, or one of three domains."""
    if domains:
        return np.eye(3)[rng.integers(0, 3, batch)]
    return rng.integers(0, 2, (batch, 3)).astype(float)


def inputs(domains: bool = False):
    def make(rng, batch):
        return {
            "image": pictures(rng, batch, 32, 32),
            "c_org": codes(rng, batch, domains),
            "c_trg": codes(rng, batch, domains),
            "mix": rng.uniform(size=batch),
        }

    return make


def stored(expected):
    return {"image": fingerprints.inputs_of(expected)["A"], "c_org": STEP, "c_trg": STEP[::-1]}


def generator(file: str, code, variant: str = "", **options) -> Case:
    own = {"c_dim": code.shape[1]}
    return Case(
        "stargan_generator",
        lambda rng, batch: {"image": pictures(rng, batch, 20, 28), "code": codes(rng, batch)},
        lambda rng, batch: {"B": pictures(rng, batch, 20, 28)},
        {"c_dim": 3, "width": 4, "blocks": 1, **options},
        variant=variant,
        references=[
            Reference(
                file,
                own,
                modules={"before_tanh": "main.21"},
                training={"output": ""},
                given={"code": code},
                losses={"l1": "l1"},
                targets=ramp("B"),
            ),
            Reference(
                file,
                {**own, "running": True},
                modules={"eval_before_tanh": "main.21"},
                outputs={"eval_output": ""},
                given={"code": code},
            ),
        ],
    )


def discriminator(file: str, size: int, code, variant: str = "", without=None, **criterion) -> Case:
    return Case(
        "stargan_discriminator",
        lambda rng, batch: {"images": pictures(rng, batch, 32, 32)},
        lambda rng, batch: {"c_org": codes(rng, batch, bool(criterion))},
        {"c_dim": 3, "width": 4, "layers": 3, "size": 32},
        criterion=criterion,
        variant=variant,
        references=[
            Reference(
                file,
                {"size": size, "c_dim": code.shape[1]},
                outputs={"src_real": "src", "cls_real": "cls"},
                inputs={"real": "images"},
            )
        ],
        without=without or {},
    )


SMALL = {"size": 32, "c_dim": 3, "width": 4, "blocks": 1, "D_width": 4, "D_layers": 3}

CASES = [
    Case(
        "stargan_128",
        inputs(),
        inputs(),
        SMALL,
        trainer={"n_critic": 2},
        references=[
            Reference(
                "stargan_step",
                {"size": 64},
                given=GIVEN,
                inputs={"A": "image"},
                trainer={"n_critic": 1},
                training={name: name for name in ("fake", "src_real", "cls_real", "src_fake", "src_mix", "rec")},
                step=True,
                after={"fake_after_G_update": "fake"},
                losses=D_TERMS | {"G_fake": "G_fake", "G_cls": "G_cls", "G_rec": "G_rec"},
                targets=stored,
            ),
            Reference(
                "stargan_step",
                {"size": 64},
                given=GIVEN,
                inputs={"A": "image"},
                trainer={"n_critic": 2},
                step=True,
                after={"src_fake_after_D_update": "src_fake", "cls_fake_after_D_update": "cls_fake"},
                losses=D_TERMS,
                targets=stored,
                skip=[name for name in fingerprints.load("stargan_step")["loss"]["gradients"] if name.startswith("G.")],
                reason="the generator rests in the first of two steps, so that the updated discriminator is seen alone",
            ),
        ],
    ),
    Case(
        "stargan_256",
        inputs(domains=True),
        inputs(domains=True),
        SMALL,
        criterion={"dataset": "domains"},
        trainer={"n_critic": 1},
        without=SAME_GRAPH,
    ),
    generator("stargan_g_c5", C5),
    generator("stargan_g_c8", C8, "running", running=True),
    discriminator("stargan_d_128_c5", 128, C5),
    discriminator("stargan_d_64_c8", 64, C8, "domains", dataset="domains"),
]
