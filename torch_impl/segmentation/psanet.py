"""PSANet: every position collects from, and distributes to, the positions around it, with predicted weights.

"PSANet: Point-wise Spatial Attention Network for Scene Parsing", ECCV 2018.
Parameter names: mmsegmentation ``decode_heads/psa_head.py`` and mmcv ``ops/psa_mask.py`` (Apache-2.0).
What to look at: a mask larger than the map covers all of it; outside a smaller one the weight after the softmax is
exp(0), not 0; the last projection pads, so the map grows by 2 before it is resized.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import torch
from torch import nn

from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet

__all__ = ["PSAHead", "SegmentationCriterion", "SegmentationPostProcess", "psa_mask", "psanet_r50_d8", "psanet_r101_d8"]


PSA_TYPES = ("collect", "distribute", "bi-direction")


def psa_mask(x, mask_size: tuple[int, int], psa_type: str):
    """Convert weights around each position to weights between all positions.

    Args:
        x: (N, h * w, H, W), for every position a mask of (h, w) centred on it.
        mask_size: (h, w).
        psa_type: "collect": entry [n, source, place] is the place's mask at the source; "distribute": entry
            [n, place, target] is the place's mask at the target.

    Returns:
        (N, H W, H W); 0 outside the mask.
    """
    (rows, columns), (height, width) = mask_size, map_size(x)
    y, x_ = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    # row and column of one position's mask (second axis) at another position (first axis)
    a = y[:, None] - y + (rows - 1) // 2  # (H, H)
    b = x_[:, None] - x_ + (columns - 1) // 2  # (W, W)
    row, column = a[:, None, :, None], b[None, :, None, :]
    reached = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    index = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    places = height * width
    index, reached = index.reshape(1, places, places), reached.reshape(1, places, places)
    y = x.flatten(2).gather(1, index.expand(x.shape[0], -1, -1)) * reached.to(x.dtype)
    return y if psa_type == "collect" else y.transpose(1, 2)


class PSAHead(DecodeHead):
    """The head (section 3.3).

    Args:
        in_channels: of the map ``"c5"``.
        channels: of the attention.
        num_classes, dropout: see :class:`DecodeHead`.
        mask_size: (h, w) of the masks.
        psa_type: "collect", "distribute" or "bi-direction", both.
        compact: whether masks already are weights between all positions; h * w is their number.
        shrink_factor: of the map in the attention.
        normalization_factor: divisor of the attended map.
        psa_softmax: whether weights pass a softmax over the positions summed over.

    Inputs: dict of maps (N, C, H, W).
    Returns: logits (N, K, H, W).
    Raises: ValueError if ``psa_type`` is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        mask_size: tuple[int, int] = (97, 97),
        psa_type: str = "bi-direction",
        compact: bool = False,
        shrink_factor: int = 2,
        normalization_factor: float = 1.0,
        psa_softmax: bool = True,
    ):
        super().__init__(channels, num_classes, dropout)
        if psa_type not in PSA_TYPES:
            raise ValueError(f"psa_type={psa_type!r} must be one of {PSA_TYPES}")
        self.mask_size, self.psa_type, self.compact = tuple(mask_size), psa_type, compact
        self.shrink_factor, self.normalization_factor = shrink_factor, normalization_factor
        self.psa_softmax = psa_softmax
        self.reduce = conv_bn(in_channels, channels, 1)
        self.attention = self.masks(channels)
        both = psa_type == "bi-direction"
        if both:
            self.reduce_p = conv_bn(in_channels, channels, 1)
            self.attention_p = self.masks(channels)
        self.proj = conv_bn((1 + both) * channels, in_channels, 1, padding=1)
        self.bottleneck = conv_bn(2 * in_channels, channels, 3, padding=1)

    def masks(self, channels: int) -> nn.Sequential:
        """The layers that predict every position's mask."""
        size = self.mask_size[0] * self.mask_size[1]
        return nn.Sequential(conv_bn(channels, channels, 1), nn.Conv2d(channels, size, 1, bias=False))

    def shrunk(self, size: tuple[int, int]) -> tuple[tuple[int, int], bool]:
        """Height and width in the attention, and whether corners are aligned."""
        if all(n % 2 for n in size):
            return tuple((n - 1) // self.shrink_factor + 1 for n in size), True
        return tuple(n // self.shrink_factor for n in size), False

    def attend(self, x, attention, psa_type: str):
        """(N, C, H, W) -> (N, C, H, W)."""
        weights = attention(x)
        if self.compact:
            weights = weights.flatten(2)
            collects = psa_type == "collect" and self.psa_type == "collect"
            swapped = collects or (psa_type == "distribute" and self.psa_type == "bi-direction")
            weights = weights.transpose(1, 2) if swapped else weights
        else:
            weights = psa_mask(weights, self.mask_size, psa_type)
        weights = weights.softmax(1) if self.psa_softmax else weights
        return (x.flatten(2) @ weights / self.normalization_factor).reshape(x.shape)

    def forward(self, maps):
        identity, align_corners = maps["c5"], False
        reductions = [(self.reduce, self.attention, "collect" if self.psa_type != "distribute" else "distribute")]
        if self.psa_type == "bi-direction":
            reductions.append((self.reduce_p, self.attention_p, "distribute"))
        attended = []
        for reduce, attention, psa_type in reductions:
            x = reduce(identity)
            if self.shrink_factor != 1:
                size, align_corners = self.shrunk(map_size(x))
                x = resize_bilinear(x, size, align_corners)
            attended.append(self.attend(x, attention, psa_type))
        x = resize_bilinear(self.proj(torch.cat(attended, 1)), map_size(identity), align_corners)
        return self.classify(self.bottleneck(torch.cat((identity, x), 1)))


def psanet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    mask_size: tuple[int, int] = (97, 97),
    psa_type: str = "bi-direction",
    compact: bool = False,
    shrink_factor: int = 2,
    normalization_factor: float = 1.0,
    psa_softmax: bool = True,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = PSAHead(
        backbone.channels["c5"],
        channels,
        num_classes,
        dropout,
        mask_size,
        psa_type,
        compact,
        shrink_factor,
        normalization_factor,
        psa_softmax,
    )
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def psanet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return psanet_r50_d8(depth=depth, **options)
