"""FCN: convolutions instead of a classifier, here on dilated residual networks.

"Fully Convolutional Networks for Semantic Segmentation", 2014, arXiv:1411.4038; dilated backbones as in
"Multi-Scale Context Aggregation by Dilated Convolutions", 2015, arXiv:1511.07122. The networks on VGG-16 of the paper
are in ``fcn_vgg.py``.
Parameter names: mmsegmentation ``decode_heads/fcn_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import EncoderDecoder, FCNHead, auxiliary_head, dilated_resnet

__all__ = ["SegmentationCriterion", "SegmentationPostProcess", "fcn_r50_d8", "fcn_r101_d8"]


def fcn_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = FCNHead(channels, num_classes, dropout)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def fcn_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return fcn_r50_d8(depth=depth, **options)
