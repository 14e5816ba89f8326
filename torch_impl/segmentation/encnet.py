"""EncNet: the map's positions are encoded by learnt code words, and the code scales the channels of the map.

"Context Encoding for Semantic Segmentation", 2018, arXiv:1803.08904.
Parameter names: mmsegmentation ``decode_heads/enc_head.py``, ``utils/encoding.py`` (Apache-2.0).
What to look at: the normalisation after the encoding has one channel per code word, not per feature.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
- The code words are axis 1 of an encoding in PyTorch and the last axis in TensorFlow, which normalisation uses.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet

__all__ = [
    "EncHead",
    "EncModule",
    "EncNetCriterion",
    "Encoding",
    "SegmentationPostProcess",
    "encnet_r50_d8",
    "encnet_r101_d8",
]


class Encoding(nn.Module):
    """Residuals of all positions to every code word, weighted by closeness (section 3.1).

    Args:
        channels: width C of the map.
        num_codes: words K.

    x: (N, C, H, W) -> (N, K, C).
    """

    def __init__(self, channels: int, num_codes: int):
        super().__init__()
        bound = (num_codes * channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(num_codes, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(num_codes).uniform_(-1, 0))

    def forward(self, x):
        places = x.flatten(2).transpose(1, 2)  # (N, P, C)
        distances = places.square().sum(-1, keepdim=True) - 2 * places @ self.codewords.T
        distances = distances + self.codewords.square().sum(-1)  # (N, P, K)
        weights = (self.scale * distances).softmax(-1)
        return weights.transpose(1, 2) @ places - weights.sum(1)[..., None] * self.codewords  # mirror: axis 1


class EncModule(nn.Module):
    """The encoding of a map, and the map with its channels scaled by it.

    Args:
        channels: width C of the map.
        num_codes: words of the encoding.

    x: (N, C, H, W) -> the mean code (N, C), the scaled map (N, C, H, W).
    """

    def __init__(self, channels: int, num_codes: int):
        super().__init__()
        self.encoding_project = conv_bn(channels, channels, 1)
        self.encoding = nn.Sequential(Encoding(channels, num_codes), nn.BatchNorm1d(num_codes), nn.ReLU())
        self.fc = nn.Sequential(nn.Linear(channels, channels), nn.Sigmoid())

    def forward(self, x):
        code = self.encoding(self.encoding_project(x)).mean(1)
        return code, F.relu(x + x * self.fc(code)[:, :, None, None])


class EncHead(DecodeHead):
    """A convolution, the encoding, and classes of pixels and of the image (section 3.2).

    Args:
        in_channels: of the maps that are used: ``"c5"``, and ``"c3"`` and ``"c4"`` with ``add_lateral``.
        channels: of every convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        num_codes: words of the encoding.
        add_lateral: whether earlier maps are joined.

    Inputs: dict of maps (N, C, H, W).
    Returns: dict: ``"logits"`` (N, K, H, W); ``"se_logits"`` (N, K), which classes the image shows.
    """

    def __init__(
        self,
        in_channels: dict[str, int],
        channels: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        num_codes: int = 32,
        add_lateral: bool = False,
    ):
        super().__init__(channels, num_classes, dropout)
        self.add_lateral = add_lateral
        self.bottleneck = conv_bn(in_channels["c5"], channels, 3, padding=1)
        if add_lateral:
            self.lateral_convs = nn.ModuleList(conv_bn(in_channels[name], channels, 1) for name in ("c3", "c4"))
            self.fusion = conv_bn(3 * channels, channels, 3, padding=1)
        self.enc_module = EncModule(channels, num_codes)
        self.se_layer = nn.Linear(channels, num_classes)

    def forward(self, maps):
        x = self.bottleneck(maps["c5"])
        if self.add_lateral:
            laterals = [conv(maps[name]) for name, conv in zip(("c3", "c4"), self.lateral_convs)]
            x = self.fusion(torch.cat((x, *(resize_bilinear(y, map_size(x)) for y in laterals)), 1))
        code, x = self.enc_module(x)
        return {"logits": self.classify(x), "se_logits": self.se_layer(code)}


class EncNetCriterion(SegmentationCriterion):
    """Cross-entropy of the pixels, and which classes the image shows (the "SE loss").

    Args:
        se_weight: weight of the latter.
        options: of :class:`SegmentationCriterion`.

    Inputs: as for :class:`SegmentationCriterion`, and ``outputs["se_logits"]`` (N, K).
    Returns: dict of scalars: its terms, ``"decode.loss_se"``, ``"total"``.
    """

    def __init__(self, se_weight: float = 0.2, **options):
        super().__init__(**options)
        self.se_weight = se_weight

    def forward(self, outputs, targets):
        losses, logits = super().forward(outputs, targets), outputs["se_logits"]
        classes = torch.arange(logits.shape[1], device=logits.device)
        shown = (targets["labels"].flatten(1)[:, :, None] == classes).any(1).to(logits.dtype)  # (N, K)
        entropies = F.relu(logits) - logits * shown + F.softplus(-logits.abs())
        losses["decode.loss_se"] = self.se_weight * entropies.mean()
        return {**losses, "total": losses["total"] + losses["decode.loss_se"]}


def encnet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    num_codes: int = 32,
    add_lateral: bool = False,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = EncHead(backbone.channels, channels, num_classes, dropout, num_codes, add_lateral)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def encnet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return encnet_r50_d8(depth=depth, **options)
