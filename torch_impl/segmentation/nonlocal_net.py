"""Non-local network: between the head's two convolutions every position receives a weighted sum over all positions.

"Non-local Neural Networks", 2017, arXiv:1711.07971.
Parameter names: mmsegmentation ``decode_heads/nl_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

from torch_impl.layers.context import NonLocal2d
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import EncoderDecoder, FCNHead, auxiliary_head, dilated_resnet

__all__ = ["NLHead", "SegmentationCriterion", "SegmentationPostProcess", "nonlocal_r50_d8", "nonlocal_r101_d8"]


class NLHead(FCNHead):
    """The head of FCN with a non-local block.

    Args:
        in_channels, channels, num_classes, dropout: see :class:`FCNHead`.
        mode, reduction, use_scale: see :class:`NonLocal2d`.

    Inputs: dict of maps (N, C, H, W).
    Returns: logits (N, K, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        mode: str = "embedded_gaussian",
        reduction: int = 2,
        use_scale: bool = True,
    ):
        super().__init__(in_channels, channels, num_classes, dropout)
        self.nl_block = NonLocal2d(channels, reduction, use_scale, norm="batch", mode=mode)

    def between(self, x):
        return self.nl_block(x)


def nonlocal_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    mode: str = "embedded_gaussian",
    reduction: int = 2,
    use_scale: bool = True,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = NLHead(backbone.channels["c5"], channels, num_classes, dropout, mode, reduction, use_scale)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def nonlocal_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return nonlocal_r50_d8(depth=depth, **options)
