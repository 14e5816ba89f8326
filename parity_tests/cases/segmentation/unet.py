"""Cases of U-Net with a head."""

from parity_tests.cases.segmentation import label_maps, mmseg
from parity_tests.harness.case import Case, images

SIZE = (64, 96)
SIXTEEN = {"base_channels": 16, "channels": 16, "num_classes": 5}


def unet(model: str, reference, **options) -> Case:
    small = {"base_channels": 4, "channels": 6, "num_classes": 5, "dropout": 0.0, **options}
    return Case(model, images(*SIZE), label_maps(*SIZE), small, references=[reference])


CASES = [
    unet("unet_s5_d16", mmseg("unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024", maps=False)),
    unet("unet_s5_d16_deconv", mmseg("mmseg_unet_deconv16", maps=False, **SIXTEEN)),
    unet("unet_s5_d16_pspnet", mmseg("mmseg_unet_psp16", maps=False, aux_channels=16, **SIXTEEN), aux_channels=6),
    unet("unet_s5_d16_deeplabv3", mmseg("mmseg_unet_aspp16", maps=False, aux_channels=16, **SIXTEEN), aux_channels=6),
]
