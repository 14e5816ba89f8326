"""OCRNet: a first head's classes gather positions into regions, and every position attends to the regions.

"Object-Contextual Representations for Semantic Segmentation", 2019, arXiv:1909.11065.
Parameter names: mmsegmentation ``decode_heads/ocr_head.py`` (Apache-2.0); of :class:`HRNetOCR` those of the authors'
checkpoints (HRNet/HRNet-Semantic-Segmentation ``seg_hrnet_ocr.py``, MIT).
What to look at: two softmaxes, over positions to gather regions and over classes to attend; the first
head gets gradients through both losses.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
- Dropout of whole channels is a noise shape in Keras.
"""

import torch
from torch import nn

from torch_impl.classification.hrnet import HRNet
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import DecodeHead, FCNHead, conv_bn, dilated_resnet
from torch_impl.segmentation._self_attention import SelfAttentionBlock

__all__ = [
    "CascadeEncoderDecoder",
    "HRNetOCR",
    "HRNetOCRCriterion",
    "HRNetOCRPostProcess",
    "OCRCriterion",
    "OCRHead",
    "ObjectAttention",
    "ObjectAttentionBlock",
    "SegmentationPostProcess",
    "SpatialOCRModule",
    "hrnet_w48_ocr",
    "joined",
    "ocrnet_hr18",
    "ocrnet_hr18s",
    "ocrnet_hr48",
    "ocrnet_r50_d8",
    "ocrnet_r101_d8",
]


def joined(maps) -> dict:
    """The maps, and as ``"all"`` all of them concatenated at the size of the first."""
    first, *others = maps.values()
    return {**maps, "all": torch.cat((first, *(resize_bilinear(x, map_size(first)) for x in others)), 1)}


class ObjectAttention(SelfAttentionBlock):
    """Every position attends to the classes' regions and is joined with the result (equations 9 to 11).

    Args:
        channels: width C of the map and of the regions.
        inner: channels of keys, queries and values.

    Inputs: the map (N, C, H, W), the regions (N, C, K, 1).
    Returns: (N, C, H, W).
    """

    def __init__(self, channels: int, inner: int):
        super().__init__(channels, channels, inner, channels, num_convs=2, value_norm=True)
        self.bottleneck = conv_bn(2 * channels, channels, 1)

    def forward(self, query, key):
        return self.bottleneck(torch.cat((super().forward(query, key), query), 1))


class OCRHead(DecodeHead):
    """The second head (section 3.2).

    Args:
        in_channels: of the map.
        channels: of the map after its convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        ocr_channels: of keys, queries and values.
        in_map: name of the map.

    Inputs: dict of maps (N, C, H, W); logits (N, K, H, W) of the first head.
    Returns: logits (N, K, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        ocr_channels: int = 256,
        in_map: str = "c5",
    ):
        super().__init__(channels, num_classes, dropout)
        self.in_map = in_map
        self.object_context_block = ObjectAttention(channels, ocr_channels)
        self.bottleneck = conv_bn(in_channels, channels, 3, padding=1)

    def forward(self, maps, logits):
        x = self.bottleneck(maps[self.in_map])
        shares = logits.flatten(2).softmax(-1)  # of every class, over the positions
        regions = x.flatten(2) @ shares.transpose(1, 2)  # (N, C, K)
        return self.classify(self.object_context_block(x, regions[..., None]))


class CascadeEncoderDecoder(nn.Module):
    """Backbone, a head, and a head that sees the first one's logits.

    Args:
        backbone: returns its maps by name.
        heads: the two heads.
        join: whether the heads read all maps, joined (:func:`joined`).

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict of logits (N, K, H', W'): ``"logits"`` of the second head, ``"aux_logits"`` of the first.
    """

    def __init__(self, backbone, heads, join: bool):
        super().__init__()
        self.backbone, self.join = backbone, join
        self.decode_head = nn.ModuleList(heads)

    def forward(self, images):
        maps = self.backbone(images)
        maps = joined(maps) if self.join else maps
        first, second = self.decode_head
        regions = first(maps)
        return {"logits": second(maps, regions), "aux_logits": regions}


class OCRCriterion(SegmentationCriterion):
    """Cross-entropy of both heads.

    Args:
        terms, options: see :class:`SegmentationCriterion`.

    Inputs and returns: as for :class:`SegmentationCriterion`.
    """

    def __init__(self, terms=(("decode_1.loss_ce", "logits", 1.0), ("decode_0.loss_ce", "aux_logits", 0.4)), **options):
        super().__init__(terms, **options)


def ocrnet_hr18(
    width: int = 18,
    num_classes: int = 19,
    channels: int = 512,
    ocr_channels: int = 256,
    **options,
) -> CascadeEncoderDecoder:
    backbone = HRNet(width, fuse_upsample="bilinear", features_only=True, **options)
    total = sum(backbone.channels.values())
    first = FCNHead(total, total, num_classes, 0.0, "all", num_convs=1, kernel_size=1, concat_input=False)
    second = OCRHead(total, channels, num_classes, 0.0, ocr_channels, "all")
    return CascadeEncoderDecoder(backbone, [first, second], join=True)


def ocrnet_hr18s(modules=(1, 3, 2), depth: int = 2, stage1=(2, 64), **options) -> CascadeEncoderDecoder:
    return ocrnet_hr18(modules=modules, depth=depth, stage1=stage1, **options)


def ocrnet_hr48(width: int = 48, **options) -> CascadeEncoderDecoder:
    return ocrnet_hr18(width=width, **options)


def ocrnet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    ocr_channels: int = 256,
    aux_channels: int = 256,
    dropout: float = 0.1,
    **options,
) -> CascadeEncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    first = FCNHead(backbone.channels["c4"], aux_channels, num_classes, dropout, "c4", num_convs=1, concat_input=False)
    second = OCRHead(backbone.channels["c5"], channels, num_classes, dropout, ocr_channels)
    return CascadeEncoderDecoder(backbone, [first, second], join=False)


def ocrnet_r101_d8(depth: int = 101, **options) -> CascadeEncoderDecoder:
    return ocrnet_r50_d8(depth=depth, **options)


def conv_bn_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    """1x1 convolution without bias; normalisation and ReLU in one."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return [conv, nn.Sequential(nn.BatchNorm2d(out_channels), nn.ReLU())]


def gathered(x, logits):
    """Mean features of each class's positions, weighted by the logits (equation 8).

    Args:
        x: (N, C, H, W).
        logits: (N, K, H, W).

    Returns:
        Regions (N, C, K, 1).
    """
    shares = logits.flatten(2).softmax(-1)  # of every class, over the positions
    return (x.flatten(2) @ shares.transpose(1, 2))[..., None]


class ObjectAttentionBlock(nn.Module):
    """Every position's attention to the regions (equations 9 and 10).

    Args:
        channels: width C of the map and of the regions.
        inner: channels of keys, queries and values.

    Inputs: the map (N, C, H, W), the regions (N, C, K, 1).
    Returns: (N, C, H, W).
    """

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.scale = inner**-0.5
        self.f_pixel = nn.Sequential(*conv_bn_relu(channels, inner), *conv_bn_relu(inner, inner))
        self.f_object = nn.Sequential(*conv_bn_relu(channels, inner), *conv_bn_relu(inner, inner))
        self.f_down = nn.Sequential(*conv_bn_relu(channels, inner))
        self.f_up = nn.Sequential(*conv_bn_relu(inner, channels))

    def forward(self, x, regions):
        queries = self.f_pixel(x)
        keys, values = self.f_object(regions).flatten(2), self.f_down(regions).flatten(2)  # (N, inner, K)
        weights = (queries.flatten(2).transpose(1, 2) @ keys * self.scale).softmax(-1)  # (N, HW, K)
        return self.f_up((values @ weights.transpose(1, 2)).reshape(queries.shape))


class SpatialOCRModule(nn.Module):
    """The map, joined with its positions' attention to the regions (equation 11).

    Args:
        channels: width C of the map and of the result.
        inner: see :class:`ObjectAttentionBlock`.
        dropout: rate, of whole channels.

    Inputs: the map (N, C, H, W), the regions (N, C, K, 1).
    Returns: (N, C, H, W).
    """

    def __init__(self, channels: int, inner: int, dropout: float):
        super().__init__()
        self.object_context_block = ObjectAttentionBlock(channels, inner)
        whole = nn.Dropout2d(dropout)  # mirror: whole channels
        self.conv_bn_dropout = nn.Sequential(*conv_bn_relu(2 * channels, channels), whole)

    def forward(self, x, regions):
        return self.conv_bn_dropout(torch.cat((self.object_context_block(x, regions), x), 1))


class HRNetOCR(HRNet):
    """The authors' network: all branches of HRNet joined, corners aligned, and the two heads.

    Args:
        width: of the branch with the highest resolution.
        num_classes: classes K.
        channels: of the map after its convolution.
        ocr_channels: of keys, queries and values.
        dropout: rate, of whole channels.
        options: ``modules``, ``depth`` and ``stage1`` of :class:`HRNet`.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict of logits (N, K, H / 4, W / 4): ``"logits"``, and ``"aux_logits"`` of the head that finds the regions.
    """

    def __init__(
        self,
        width: int,
        num_classes: int = 19,
        channels: int = 512,
        ocr_channels: int = 256,
        dropout: float = 0.05,
        **options,
    ):
        super().__init__(width, fuse_upsample="bilinear_corners", features_only=True, **options)
        total = sum(self.channels.values())
        self.conv3x3_ocr = nn.Sequential(nn.Conv2d(total, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.ocr_distri_head = SpatialOCRModule(channels, ocr_channels, dropout)
        self.cls_head = nn.Conv2d(channels, num_classes, 1)
        self.aux_head = nn.Sequential(
            nn.Conv2d(total, total, 1), nn.BatchNorm2d(total), nn.ReLU(), nn.Conv2d(total, num_classes, 1)
        )

    def forward(self, images):
        first, *others = self.branches(images)
        x = torch.cat((first, *(self.upsample(x, map_size(first)) for x in others)), 1)
        regions = self.aux_head(x)
        x = self.conv3x3_ocr(x)
        return {"logits": self.cls_head(self.ocr_distri_head(x, gathered(x, regions))), "aux_logits": regions}


class HRNetOCRCriterion(OCRCriterion):
    """Cross-entropy of both heads, the mean of the pixels that count, corners aligned.

    Args:
        ignore_index: label of pixels that do not.

    Inputs and returns: as for :class:`OCRCriterion`.
    """

    def __init__(self, ignore_index: int = 255):
        super().__init__(ignore_index=ignore_index, avg_non_ignore=True, align_corners=True)


class HRNetOCRPostProcess(SegmentationPostProcess):
    """The class of every pixel of the input, corners aligned.

    Inputs and returns: as for :class:`SegmentationPostProcess`.
    """

    def __init__(self):
        super().__init__(align_corners=True)


def hrnet_w48_ocr(width: int = 48, **options) -> HRNetOCR:
    return HRNetOCR(width, **options)
