"""Cases of SRGAN."""

from parity_tests.cases.gan._common import filled_by_other_names, nothing, ramp, unit_images
from parity_tests.harness.case import SAME_GRAPH, Case, Reference

L1 = {"weight": 100.0, "distance": "l1"}
WIDTHS = (4, 6, 8, 10, 12)  # of VGG-19
LEFTTHOMAS = {
    r"^block1\.": "conv1.",
    r"^block7\.": "conv2.",
    r"^block8\.2\.": "conv3.",
    r"^block8\.(\d)\.conv\.": r"upsampling.\1.upsample_block.0.",
    r"^block8\.(\d)\.prelu\.": r"upsampling.\1.upsample_block.2.",
    r"^block2\.": "trunk.0.",
    r"^block3\.": "trunk.1.",
    r"^block4\.": "trunk.2.",
    r"^block5\.": "trunk.3.",
    r"^block6\.": "trunk.4.",
    r"^(trunk\.\d)\.conv1\.": r"\1.rcb.0.",
    r"^(trunk\.\d)\.bn1\.": r"\1.rcb.1.",
    r"^(trunk\.\d)\.prelu\.": r"\1.rcb.2.",
    r"^(trunk\.\d)\.conv2\.": r"\1.rcb.3.",
    r"^(trunk\.\d)\.bn2\.": r"\1.rcb.4.",
}


def pairs(scale: int, side: int = 8, other: int | None = None):
    """Inputs: small and large images."""

    def make(rng, batch):
        other_side = side if other is None else other
        return {
            "lr": unit_images(rng, batch, side, other_side),
            "hr": unit_images(rng, batch, scale * side, scale * other_side),
        }

    return make


def mixed_pairs(rng, batch):
    """Inputs of a gradient penalty."""
    return {**pairs(4)(rng, batch), "mix": rng.uniform(size=batch)}


def only(name: str, make):
    return lambda rng, batch: {name: make(rng, batch)[name]}


def generator(model: str, scale: int, references, variant: str = "", **options) -> Case:
    make = pairs(scale, 9, 7)
    small = {"blocks": 2, "width": 8, **options}
    return Case(model, only("lr", make), only("hr", make), small, variant=variant, references=references)


def srresnet(scale: int, *others: Reference, without=None) -> Case:
    file = f"srgan_srresnet_x{scale}"
    references = [
        Reference(file, outputs={"output": ""}),
        Reference(
            file,
            {"output": "linear"},
            outputs={"before_clamp": ""},
            training={"before_clamp_train_statistics": ""},
            losses={"l1": "pixel"},
            targets=ramp("hr"),
            criterion=L1,
        ),
    ]
    return generator(f"srresnet_x{scale}", scale, [*references, *others], output="linear")


def msrresnet(scale: int) -> Case:
    reference = Reference(
        f"basicsr_msrresnet_x{scale}",
        outputs={"output": ""},
        losses={"l1": "pixel"},
        targets=ramp("hr"),
        criterion=L1,
    )
    return generator(f"msrresnet_x{scale}", scale, [reference])


def discriminator(model: str, file: str, variant: str = "", without=None, **options) -> Case:
    reference = Reference(
        file,
        outputs={"output": ""},
        training={"output_train_statistics": ""},
        losses={"real": "real"},
        targets=nothing,
    )
    return Case(
        model,
        lambda rng, batch: {"images": unit_images(rng, batch, 32, 32)},
        None,
        {"size": 32, "width": 4, "hidden": 8, **options},
        variant=variant,
        references=[] if variant else [reference],
        without=without or {},
    )


def srgan(model: str, variant: str = "", make=None, without=None, criterion=None, **options) -> Case:
    return Case(
        model,
        make or pairs(4),
        only("hr", pairs(4)),
        {"blocks": 1, "width": 4, "size": 32, "hidden": 8, **options},
        criterion={"widths": WIDTHS, **(criterion or {})},
        variant=variant,
        without=without or {},
    )


CASES = [
    srresnet(2),
    srresnet(
        4,
        Reference(
            "leftthomas_srgan_g_x4",
            {"blocks": 5, "bias": True, "output": "tanh"},
            outputs={"output": ""},
            rename=LEFTTHOMAS,
            weights=filled_by_other_names("leftthomas_srgan_g_x4", LEFTTHOMAS),
        ),
    ),
    srresnet(8),
    generator("srresnet_x4", 4, [], "tanh", bias=True, output="tanh"),
    generator("srresnet_x4", 4, [], "clamp"),
    msrresnet(2),
    msrresnet(3),
    msrresnet(4),
    discriminator("discriminator_96", "srgan_d96"),
    discriminator("discriminator_96", "", "instance", norm="instance"),
    discriminator("discriminator_128", "basicsr_vgg_d128"),
    discriminator("discriminator_128", "", "none", norm="none", without=SAME_GRAPH),
    Case(
        "discriminator_pooled",
        lambda rng, batch: {"images": unit_images(rng, batch, 33, 47)},
        options={"width": 4},
        references=[Reference("leftthomas_srgan_d", outputs={"output": ""})],
    ),
    srgan("srgan"),
    srgan("srgan", "wgan_clip", criterion={"mode": "wgan_clip", "content": 2e-6}, without=SAME_GRAPH),
    srgan("srgan_wgan_gp", make=mixed_pairs, criterion={"mode": "wgan_gp", "content": 2e-6}, output="linear"),
    srgan(
        "srgan_basicsr",
        criterion={"pixel": 0.01, "adversarial": 5e-3, "distance": "l1", "layer": 34},
    ),
]
