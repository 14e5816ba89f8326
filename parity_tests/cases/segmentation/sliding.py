"""Cases of U-Net on sliding windows, with the losses of overlap."""

from parity_tests.cases.segmentation import label_maps
from parity_tests.harness.case import Case, images

SIZE = (48, 80)  # six windows


def sliding(variant: str = "", **criterion) -> Case:
    options = {"base_channels": 4, "channels": 6, "num_classes": 3, "dropout": 0.0}
    options |= {"crop": (32, 48), "stride": (20, 30), "batch": 4}
    return Case("unet_s5_d16_hrf", images(*SIZE), label_maps(*SIZE, 3), options, criterion, variant=variant)


CASES = [
    sliding(),
    sliding("lovasz", dice_weight=0.0, lovasz_weight=1.0),
    sliding("per_image", lovasz_weight=0.5, per_image=True),
]
