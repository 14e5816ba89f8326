"""Cases of ESRGAN."""

from parity_tests.cases.gan._common import filled_by_other_names, ramp
from parity_tests.cases.gan.srgan import L1, WIDTHS, only, pairs
from parity_tests.harness import fingerprints
from parity_tests.harness.case import SAME_GRAPH, Case, Reference

SMALL = {"blocks": 1, "width": 8, "growth": 4}
OLD_NAMES = {  # of the first release
    "^RRDB_trunk": "body",
    "RDB(?=[123])": "rdb",
    "^trunk_conv": "conv_body",
    "^upconv": "conv_up",
    "^HRconv": "conv_hr",
}
STATISTICS = [f"netD.bn{i}_1.running_{key}" for i in (0, 4) for key in ("mean", "var")]


def real_images(expected):
    """The step's real images."""
    return {"hr": fingerprints.inputs_of(expected)["gt"]}


def rrdbnet(file: str) -> Reference:
    return Reference(file, outputs={"output": ""}, losses={"l1": "pixel"}, targets=ramp("hr"), criterion=L1)


CASES = [
    Case(
        "rrdbnet_x4",
        only("lr", pairs(4, 7, 5)),
        only("hr", pairs(4, 7, 5)),
        SMALL,
        references=[
            rrdbnet("basicsr_rrdbnet_x4_b23"),
            Reference(
                "esrgan_rrdbnet_old_names",
                outputs={"output": ""},
                rename=OLD_NAMES,
                weights=filled_by_other_names("esrgan_rrdbnet_old_names", OLD_NAMES),
            ),
        ],
    ),
    Case(
        "rrdbnet_x4_b16",
        only("lr", pairs(4, 7, 5)),
        only("hr", pairs(4, 7, 5)),
        {**SMALL, "blocks": 2},
        without=SAME_GRAPH,
        references=[rrdbnet("basicsr_rrdbnet_x4_b16")],
    ),
    Case(
        "esrgan",
        pairs(4),
        only("hr", pairs(4)),
        {**SMALL, "size": 32, "D_width": 4, "hidden": 8},
        criterion={"widths": WIDTHS},
        bounds={"gradients": (1e-8, "that of the last bias is the difference of two nearly equal numbers")},
        references=[
            Reference(
                "esrgan_step",
                {"blocks": 3},
                criterion={"content": 0.0},
                inputs={"lq": "lr", "gt": "hr"},
                training={
                    "sr": "sr",
                    "real_in_G_step": "D_real",
                    "fake_in_G_step": "D_fake",
                    "real_in_D_step": "D_real",
                    "fake_in_D_step": "D_fake",
                },
                step=True,
                after={"sr_after_G_update": "sr", "real_after_D_update": "D_real"},
                state={f"{name}.after": name for name in STATISTICS},
                losses={"G_pix": "G_pixel", "G_gan": "G_gan", "D_real": "D_real", "D_fake": "D_fake"},
                targets=real_images,
                gradient_bound=3e-3,
                reason="rounding decides on which side of zero the input of some ReLU falls; 5e-4 in float64",
            ),
        ],
    ),
]
