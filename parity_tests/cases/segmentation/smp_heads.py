"""Cases of the segmenters of segmentation-models-pytorch."""

from parity_tests.cases.segmentation import grid_labels, label_maps
from parity_tests.harness.case import Case, Reference, images

SMALL = {"layers": (1, 1, 1, 1), "planes": (8, 16, 24, 32), "num_classes": 4}


def smp(model: str, size: tuple[int, int], maps, without_dropout=None, **options) -> Case:
    """Maps of the encoder by their names in the file, the decoder's, logits, the loss and gradients."""
    dropout = without_dropout or {}
    reference = Reference(
        model,
        dropout,
        modules={f"features.{i}": f"encoder.layer{i}" for i in maps} | {"decoder": "decoder"},
        outputs={"out": "logits"},
        inputs={"image": "images"},
        losses={"ce": "ce"},
        targets=grid_labels,
    )
    return Case(model, images(*size), label_maps(*size, 4), {**SMALL, **dropout, **options}, references=[reference])


ASPP = {"channels": 12, "rates": (2, 3, 4)}
NO_DROPOUT = {"aspp_dropout": 0.0}

CASES = [
    smp("smp_unet_resnet34", (49, 66), range(1, 5), channels=(12, 10, 8, 6, 4)),
    smp("smp_pspnet_resnet18", (72, 56), (1, 2), {"dropout": 0.0}, channels=12),
    smp("smp_deeplabv3_resnet18", (64, 48), range(1, 5), NO_DROPOUT, **ASPP),
    smp("smp_deeplabv3plus_resnet50", (64, 48), range(1, 5), NO_DROPOUT, early_channels=6, **ASPP),
]
