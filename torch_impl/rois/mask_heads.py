"""Masks of every class from the features of boxes, under the names of torchvision and of mmdet.

Names: torchvision ``detection/mask_rcnn.py`` (BSD-3); mmdet ``mask_heads/fcn_mask_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow. Keras infers the widths of the maps.
"""

import torch.nn.functional as F
from torch import nn

from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.initialization import kaiming_normal

__all__ = ["FCNMaskHead", "MaskPredictor", "mask_convolutions"]


def doubled(in_channels: int, channels: int) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles height and width."""
    layer = nn.ConvTranspose2d(in_channels, channels, 2, 2)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def mask_convolutions(in_channels: int, channels: int, num_convs: int = 4) -> nn.Sequential:
    """torchvision's 3x3 convolutions with ReLU.  (R, C, B, B) -> (R, channels, B, B)."""
    widths = [in_channels, *[channels] * num_convs][:num_convs]
    head = nn.Sequential(*(nn.Sequential(nn.Conv2d(c, channels, 3, 1, 1), nn.ReLU(inplace=True)) for c in widths))
    kaiming_normal(head)
    return head


class MaskPredictor(nn.Module):
    """torchvision's logits at twice the size.

    Args:
        channels: width of the features.
        num_classes: classes K.

    x: (R, channels, B, B) -> (R, K, 2 B, 2 B).
    """

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.conv5_mask = doubled(channels, channels)
        self.mask_fcn_logits = nn.Conv2d(channels, num_classes, 1)
        kaiming_normal(self.mask_fcn_logits)

    def forward(self, x):
        return self.mask_fcn_logits(F.relu(self.conv5_mask(x), inplace=True))


class FCNMaskHead(nn.Module):
    """3x3 convolutions, twice the size, logits (mmdet).

    Args:
        in_channels, channels: of the features, and of the convolutions.
        num_classes: classes K.
        num_convs: convolutions before the enlargement.
        norm, norm_groups, conv: of the convolutions, see :class:`ConvModule`.
        upsample: makes, from a number of channels, the layer that doubles height and width, instead of a transposed
            convolution with a ReLU.

    x: (R, C, B, B) -> (R, K, 2 B, 2 B).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm=None,
        norm_groups: int = 32,
        conv=nn.Conv2d,
        upsample=None,
    ):
        super().__init__()
        convs = [
            ConvModule(c, channels, 3, 1, 1, norm=norm, norm_groups=norm_groups, conv=conv)
            for c in [in_channels, *[channels] * num_convs][:num_convs]
        ]
        self.convs = nn.ModuleList(convs)
        self.upsample = upsample(channels) if upsample else doubled(channels if convs else in_channels, channels)
        self.relu = nn.ReLU(inplace=True) if upsample is None else nn.Identity()
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        kaiming_normal(self.conv_logits)

    def forward(self, x):
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(self.relu(self.upsample(x)))
