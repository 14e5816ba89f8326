"""GCNet: between the head's two convolutions every position receives the same context of the whole map.

"GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", 2019, arXiv:1904.11492.
Parameter names: mmsegmentation ``decode_heads/gc_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras

from tf_impl.layers.context import ContextBlock
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import EncoderDecoder, FCNHead, auxiliary_head, dilated_resnet

__all__ = ["GCHead", "SegmentationCriterion", "SegmentationPostProcess", "gcnet_r50_d8", "gcnet_r101_d8"]


@keras.saving.register_keras_serializable("diptych")
class GCHead(FCNHead):
    """The head of FCN with a global context block.

    Args:
        filters, num_classes, dropout: see :class:`FCNHead`.
        ratio, pooling_type, fusion_types: see :class:`ContextBlock`.

    Inputs: dict of maps (N, H, W, C).
    Returns: logits (N, H, W, K).
    """

    def __init__(
        self,
        filters: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        ratio: float = 0.25,
        pooling_type: str = "att",
        fusion_types: tuple[str, ...] = ("channel_add",),
        **kwargs,
    ):
        super().__init__(filters, num_classes, dropout, **kwargs)
        self.gc_block = ContextBlock(ratio, pooling_type, fusion_types)

    def between(self, x, training=False):
        return self.gc_block(x)


def gcnet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    ratio: float = 0.25,
    pooling_type: str = "att",
    fusion_types: tuple[str, ...] = ("channel_add",),
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = GCHead(channels, num_classes, dropout, ratio, pooling_type, fusion_types)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def gcnet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return gcnet_r50_d8(depth=depth, **options)
