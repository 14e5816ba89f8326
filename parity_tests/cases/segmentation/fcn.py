"""Cases of FCN."""

from parity_tests.cases.segmentation import mmseg, segmenter

CASES = [segmenter("fcn_r50_d8", mmseg("fcn_r50-d8_4xb2-40k_cityscapes-512x1024"), channels=16, aux_channels=8)]
