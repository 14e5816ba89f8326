"""Cases of CycleGAN."""

from parity_tests.cases.gan.pix2pix import pictures, ramp
from parity_tests.harness.case import Case, Reference, images

SMALL = {"blocks": 2, "width": 8}


def generator(model: str, file: str, variant: str = "", **options) -> Case:
    reference = Reference(
        file,
        options,
        modules={"before_tanh": "model.26" if "9" in model else "model.23"},
        outputs={"output": ""},
        training={"output_train_statistics": ""} if options.get("norm") == "batch" else {},
        losses={"l1": "l1"},
        targets=ramp,
    )
    small = {**SMALL, **options}
    make = pictures("A", height=32, width=44)
    return Case(model, make, pictures("B", height=32, width=44), small, variant=variant, references=[reference])


CASES = [
    Case(
        "cyclegan",
        pictures("A", "B", height=32, width=44),
        pictures("A", "B", height=32, width=44),
        {**SMALL, "layers": 2},
        trainer={"pool": 2},
        references=[
            Reference(
                "cyclegan_step",
                {"blocks": 6},
                training={
                    name: name
                    for name in (
                        *("fake_B", "rec_A", "fake_A", "rec_B", "idt_A", "idt_B"),
                        *("D_A_real", "D_A_fake", "D_B_real", "D_B_fake"),
                    )
                },
                step=True,
                after={"fake_B_after_update": "fake_B", "D_A_real_after_update": "D_A_real"},
                losses={
                    **{name: name for name in ("idt_A", "idt_B", "G_A", "G_B", "cycle_A", "cycle_B", "D_A", "D_B")},
                    "loss_G": "G",
                },
            )
        ],
    ),
    generator("cyclegan_resnet_9blocks", "cyclegan_resnet_9blocks"),
    generator("cyclegan_resnet_6blocks", "cyclegan_resnet_6blocks"),
    generator("cyclegan_resnet_6blocks", "cyclegan_resnet_6blocks_batch_dropout", "batch", norm="batch", dropout=0.0),
    Case(
        "patchgan_instance",
        images(65, 71),
        options={"width": 8},
        criterion={"mode": "lsgan"},
        references=[
            Reference(
                "cyclegan_patchgan_instance",
                modules={f"conv{i}": f"model.{i}" for i in (0, 2, 5, 8, 11)},
                outputs={"output": ""},
                losses={"real": "real"},
                criterion={"mode": "lsgan"},
            )
        ],
    ),
]
