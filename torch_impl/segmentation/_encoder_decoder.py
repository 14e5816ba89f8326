"""Common parts of the segmenters on a backbone: the composition, the plain convolutional head, the dilated ResNets.

Names: mmsegmentation ``models/segmentors/encoder_decoder.py``, ``decode_heads/fcn_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
- Dropout of whole channels is a noise shape in Keras.
"""

import functools
import itertools

import torch
from torch import nn

from torch_impl.classification.resnet import BasicBlock, Bottleneck, ResNet, deep_convs
from torch_impl.layers.conv_module import ConvModule

__all__ = ["DecodeHead", "EncoderDecoder", "FCNHead", "ResNetV1c", "auxiliary_head", "conv_bn", "dilated_resnet"]

conv_bn = functools.partial(ConvModule, norm="batch")


class UndilatedBasicBlock(BasicBlock):
    """A basic block whose second convolution is never dilated, as in mmsegmentation."""

    def __init__(
        self, in_channels: int, planes: int, stride: int = 1, dilation: int = 1, first_dilation: int = 1, **options
    ):
        super().__init__(in_channels, planes, stride, 1, first_dilation, **options)


BLOCKS = {18: (UndilatedBasicBlock, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3)), 101: (Bottleneck, (3, 4, 23, 3))}


class ResNetV1c(ResNet):
    """The maps of a ResNet-C, with mmsegmentation's names: all of the stem is one list of layers."""

    def __init__(self, block, layers: tuple[int, ...], deep_stem: tuple[int, int, int] = (32, 32, 64), **options):
        super().__init__(block, layers, deep_stem=deep_stem, features_only=True, **options)

    def make_stem(self, in_chans: int, channels: int, deep_stem, norm) -> None:
        self.stem = nn.Sequential(*deep_convs(in_chans, deep_stem, norm), norm(channels), nn.ReLU())

    def levels(self) -> list:
        return [[self.stem], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def forward_stem(self, images):
        return self.maxpool(self.stem(images))


def dilated_resnet(depth: int = 50, output_stride: int = 8, width: int = 64, layers=None, **options) -> ResNetV1c:
    """The backbone of most segmenters.

    Args:
        depth: 18, 50 or 101.
        output_stride: 8 or 16 (dilated last stages), or 32.
        width: nominal channels of the first stage.
        layers: blocks of each stage, instead of the depth's.
        options: of :class:`ResNet`.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth={depth} must be one of {sorted(BLOCKS)}")
    block, published = BLOCKS[depth]
    return ResNetV1c(
        block,
        layers or published,
        deep_stem=(width // 2, width // 2, width),
        planes=(width, 2 * width, 4 * width, 8 * width),
        output_stride=output_stride,
        zero_init_residual=True,
        **options,
    )


class DecodeHead(nn.Module):
    """The last layers of every head: dropout of whole channels, and a 1x1 convolution to the classes.

    Args:
        channels: of the map that is classified.
        num_classes: classes K.
        dropout: rate.
    """

    def __init__(self, channels: int, num_classes: int = 19, dropout: float = 0.1):
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)

    def classify(self, x):
        """(N, C, H, W) -> logits (N, K, H, W)."""
        return self.conv_seg(self.dropout(x))  # mirror: whole channels


class FCNHead(DecodeHead):
    """Convolutions on one map; the map itself is added to their result before the last one.

    Args:
        in_channels: of the map.
        channels: of the convolutions.
        num_classes, dropout: see :class:`DecodeHead`.
        in_map: name of the map.
        num_convs: convolutions; 0 classifies the map directly.
        kernel_size: of the convolutions.
        concat_input: whether the map is appended to the result and a further convolution follows.

    Inputs: dict of maps (N, C, H, W).
    Returns: logits (N, K, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        in_map: str = "c5",
        num_convs: int = 2,
        kernel_size: int = 3,
        concat_input: bool = True,
    ):
        super().__init__(channels if num_convs else in_channels, num_classes, dropout)
        self.in_map, padding = in_map, kernel_size // 2
        widths = [in_channels, *[channels] * num_convs]
        self.convs = nn.ModuleList(conv_bn(a, b, kernel_size, padding=padding) for a, b in itertools.pairwise(widths))
        self.conv_cat = None
        if concat_input:
            self.conv_cat = conv_bn(in_channels + channels, channels, kernel_size, padding=padding)

    def between(self, x):
        """The layers between the first convolution and the second."""
        return x

    def forward(self, maps):
        x = y = maps[self.in_map]
        for i, conv in enumerate(self.convs):
            y = conv(y)
            y = self.between(y) if i == 0 else y
        if self.conv_cat is not None:
            y = self.conv_cat(torch.cat((x, y), 1))
        return self.classify(y)


class EncoderDecoder(nn.Module):
    """Backbone, head, and a second head on an earlier map for training.

    Args:
        backbone: returns its maps by name.
        decode_head: makes logits (N, K, H', W') from the maps, or a dict with ``"logits"``.
        auxiliary_head: also makes logits, or is None.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: the head's result, ``"logits"`` if it is a tensor; ``"aux_logits"`` of the auxiliary head.
    """

    def __init__(self, backbone, decode_head, auxiliary_head=None):
        super().__init__()
        self.backbone, self.decode_head = backbone, decode_head
        self.auxiliary_head = auxiliary_head

    def forward(self, images):
        maps = self.backbone(images)
        outputs = self.decode_head(maps)
        outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
        if self.auxiliary_head is not None:
            outputs = {**outputs, "aux_logits": self.auxiliary_head(maps)}
        return outputs


def auxiliary_head(backbone, num_classes: int = 19, channels: int = 256, dropout: float = 0.1) -> FCNHead:
    """The usual second head: one convolution on the map ``"c4"``."""
    return FCNHead(backbone.channels["c4"], channels, num_classes, dropout, "c4", num_convs=1, concat_input=False)
