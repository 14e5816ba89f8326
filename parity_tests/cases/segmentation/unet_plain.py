"""Cases of the plain U-Net."""

from parity_tests.cases.segmentation import grid_labels
from parity_tests.harness.case import Case, Reference, images


def labels(height: int, width: int, classes: int):
    def make(rng, batch):
        return {"labels": rng.integers(0, classes, (batch, height, width))}

    return make


def plain(model: str, file: str) -> Case:
    reference = Reference(
        file,
        modules={name: name for name in ("inc", "down2", "down4", "up1", "up3")},
        outputs={"out": "logits"},
        inputs={"image": "images"},
        losses={"ce": "ce", "dice": "dice"},
        targets=lambda expected: grid_labels(expected, ignored=0),
    )
    return Case(model, images(50, 38), labels(50, 38, 3), {"width": 4, "num_classes": 3}, references=[reference])


CASES = [plain("unet_deconv", "pytorch_unet_deconv"), plain("unet_bilinear", "pytorch_unet_bilinear")]
