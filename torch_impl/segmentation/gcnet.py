"""GCNet: between the head's two convolutions every position receives the same context of the whole map.

"GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", 2019, arXiv:1904.11492.
Parameter names: mmsegmentation ``decode_heads/gc_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

from torch_impl.layers.context import ContextBlock
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import EncoderDecoder, FCNHead, auxiliary_head, dilated_resnet

__all__ = ["GCHead", "SegmentationCriterion", "SegmentationPostProcess", "gcnet_r50_d8", "gcnet_r101_d8"]


class GCHead(FCNHead):
    """The head of FCN with a global context block.

    Args:
        in_channels, channels, num_classes, dropout: see :class:`FCNHead`.
        ratio, pooling_type, fusion_types: see :class:`ContextBlock`.

    Inputs: dict of maps (N, C, H, W).
    Returns: logits (N, K, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        ratio: float = 0.25,
        pooling_type: str = "att",
        fusion_types: tuple[str, ...] = ("channel_add",),
    ):
        super().__init__(in_channels, channels, num_classes, dropout)
        self.gc_block = ContextBlock(channels, ratio, pooling_type, fusion_types)

    def between(self, x):
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
    head = GCHead(backbone.channels["c5"], channels, num_classes, dropout, ratio, pooling_type, fusion_types)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def gcnet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return gcnet_r50_d8(depth=depth, **options)
