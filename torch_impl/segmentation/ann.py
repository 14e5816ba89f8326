"""ANN: non-local attention whose keys are few: the means of a pyramid of grids.

"Asymmetric Non-local Neural Networks for Semantic Segmentation", 2019, arXiv:1908.07678.
Parameter names: mmsegmentation ``decode_heads/ann_head.py`` (Apache-2.0).
What to look at: the second block has one projection for keys and queries, stored under both names.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import functools

import torch
from torch import nn

from torch_impl.layers.pooling import adaptive_avg_pool2d
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet
from torch_impl.segmentation._self_attention import SelfAttentionBlock

__all__ = [
    "AFNB",
    "APNB",
    "ANNHead",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "ann_r50_d8",
    "ann_r101_d8",
    "pyramid_places",
]


def pyramid_places(x, scales: tuple[int, ...]):
    """The means of s x s bins for every scale s, concatenated.  (N, C, H, W) -> (N, C, sum of s * s)."""
    return torch.cat([adaptive_avg_pool2d(x, scale).flatten(2) for scale in scales], 2)


class AFNB(nn.Module):
    """The last map attends to an earlier one, and both are fused (section 3.3).

    Args:
        in_channels, out_channels: of the earlier and of the last map.
        inner: channels of keys, queries and values.
        key_pool_scales: grids of the pyramid.

    Inputs: the earlier map, the last map (N, C, H, W).
    Returns: (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, inner: int, key_pool_scales: tuple[int, ...]):
        super().__init__()
        pool = functools.partial(pyramid_places, scales=key_pool_scales)
        block = SelfAttentionBlock(in_channels, out_channels, inner, out_channels, key_pool=pool)
        self.stages = nn.ModuleList([block])
        self.bottleneck = conv_bn(2 * out_channels, out_channels, 1, activation=None)

    def forward(self, low, high):
        return self.bottleneck(torch.cat((self.stages[0](high, low), high), 1))


class APNB(nn.Module):
    """A map attends to itself (section 3.2).

    Args:
        out_channels: of the map and of the result.
        inner: channels of keys, queries and values.
        key_pool_scales: grids of the pyramid.

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self, out_channels: int, inner: int, key_pool_scales: tuple[int, ...]):
        super().__init__()
        pool = functools.partial(pyramid_places, scales=key_pool_scales)
        block = SelfAttentionBlock(out_channels, out_channels, inner, out_channels, shared=True, key_pool=pool)
        self.stages = nn.ModuleList([block])
        self.bottleneck = conv_bn(2 * out_channels, out_channels, 1)

    def forward(self, x):
        return self.bottleneck(torch.cat((self.stages[0](x, x), x), 1))


class ANNHead(DecodeHead):
    """Fusion with an earlier map, a convolution, and attention of the result to itself (section 3.4).

    Args:
        in_channels: of the maps ``"c4"`` and ``"c5"``.
        channels: of the convolution.
        num_classes, dropout: see :class:`DecodeHead`; dropout also follows the fusion.
        project_channels: of keys, queries and values.
        key_pool_scales: grids of the pyramid.

    Inputs: dict of maps (N, C, H, W).
    Returns: logits (N, K, H, W).
    """

    def __init__(
        self,
        in_channels: dict[str, int],
        channels: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        project_channels: int = 256,
        key_pool_scales: tuple[int, ...] = (1, 3, 6, 8),
    ):
        super().__init__(channels, num_classes, dropout)
        low, high = in_channels["c4"], in_channels["c5"]
        self.fusion = AFNB(low, high, project_channels, key_pool_scales)
        self.bottleneck = conv_bn(high, channels, 3, padding=1)
        self.context = APNB(channels, project_channels, key_pool_scales)

    def forward(self, maps):
        x = self.dropout(self.fusion(maps["c4"], maps["c5"]))
        return self.classify(self.context(self.bottleneck(x)))


def ann_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    project_channels: int = 256,
    key_pool_scales: tuple[int, ...] = (1, 3, 6, 8),
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = ANNHead(backbone.channels, channels, num_classes, dropout, project_channels, key_pool_scales)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def ann_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return ann_r50_d8(depth=depth, **options)
