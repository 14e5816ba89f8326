"""CCNet: every position attends to its row and column; applied twice, to the whole map.

"CCNet: Criss-Cross Attention for Semantic Segmentation", 2018, arXiv:1811.11721.
Parameter names: mmsegmentation ``decode_heads/cc_head.py``, mmcv ``ops/cc_attention.py`` (Apache-2.0).
What to look at: no loop over positions; rows and columns are batches of matrix products.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
- A position counts once: a large negative number masks it in its column, because infinities do not export.
"""

import torch
from torch import nn

from torch_impl.layers.scale import Scale
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import EncoderDecoder, FCNHead, auxiliary_head, dilated_resnet

__all__ = [
    "CCHead",
    "CrissCrossAttention",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "ccnet_r50_d8",
    "ccnet_r101_d8",
]


class CrissCrossAttention(nn.Module):
    """The weighted sum over row and column of every position, added to the map (section 3.2).

    Args:
        channels: width C of the map; queries and keys have an eighth.

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = Scale(0.0)

    def forward(self, x):
        height = x.shape[2]
        queries, keys, values = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        column = queries.permute(0, 3, 2, 1) @ keys.permute(0, 3, 1, 2)  # (N, W, H, H)
        own = torch.eye(height, dtype=torch.bool, device=x.device)
        column = torch.where(own, torch.finfo(x.dtype).min, column)  # mirror: counts once
        row = queries.permute(0, 2, 3, 1) @ keys.permute(0, 2, 1, 3)  # (N, H, W, W)
        weights = torch.cat((column.transpose(1, 2), row), -1).softmax(-1)  # (N, H, W, H + W)
        of_column = weights[..., :height].transpose(1, 2) @ values.permute(0, 3, 2, 1)  # (N, W, H, C)
        of_row = weights[..., height:] @ values.permute(0, 2, 3, 1)  # (N, H, W, C)
        return x + self.gamma(of_column.permute(0, 3, 2, 1) + of_row.permute(0, 3, 1, 2))


class CCHead(FCNHead):
    """The head of FCN with criss-cross attention, repeated with the same weights.

    Args:
        in_channels, channels, num_classes, dropout: see :class:`FCNHead`.
        recurrence: how often the attention is applied.

    Inputs: dict of maps (N, C, H, W).
    Returns: logits (N, K, H, W).
    """

    def __init__(
        self, in_channels: int, channels: int = 512, num_classes: int = 19, dropout: float = 0.1, recurrence: int = 2
    ):
        super().__init__(in_channels, channels, num_classes, dropout)
        self.recurrence = recurrence
        self.cca = CrissCrossAttention(channels)

    def between(self, x):
        for _ in range(self.recurrence):
            x = self.cca(x)
        return x


def ccnet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    recurrence: int = 2,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = CCHead(backbone.channels["c5"], channels, num_classes, dropout, recurrence)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def ccnet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return ccnet_r50_d8(depth=depth, **options)
