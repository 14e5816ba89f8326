"""Non-local network: between the head's two convolutions every position receives a weighted sum over all positions.

"Non-local Neural Networks", 2017, arXiv:1711.07971.
Parameter names: mmsegmentation ``decode_heads/nl_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras

from tf_impl.layers.context import NonLocal2d
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import EncoderDecoder, FCNHead, auxiliary_head, dilated_resnet

__all__ = ["NLHead", "SegmentationCriterion", "SegmentationPostProcess", "nonlocal_r50_d8", "nonlocal_r101_d8"]


@keras.saving.register_keras_serializable("diptych")
class NLHead(FCNHead):
    """The head of FCN with a non-local block.

    Args:
        filters, num_classes, dropout: see :class:`FCNHead`.
        mode, reduction, use_scale: see :class:`NonLocal2d`.

    Inputs: dict of maps (N, H, W, C).
    Returns: logits (N, H, W, K).
    """

    def __init__(
        self,
        filters: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        mode: str = "embedded_gaussian",
        reduction: int = 2,
        use_scale: bool = True,
        **kwargs,
    ):
        super().__init__(filters, num_classes, dropout, **kwargs)
        self.nl_block = NonLocal2d(reduction, use_scale, norm="batch", mode=mode)

    def between(self, x, training=False):
        return self.nl_block(x, training=training)


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
    head = NLHead(channels, num_classes, dropout, mode, reduction, use_scale)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def nonlocal_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return nonlocal_r50_d8(depth=depth, **options)
