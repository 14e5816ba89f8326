"""SiamFC++ on the beginning of an Inception v3 that keeps a stride of 8.

"SiamFC++: Towards Robust and Accurate Visual Tracking with Target Estimation Guidelines", 2019, arXiv:1911.06188.
Parameter names: MegviiDetection/video_analyst ``backbone_impl/googlenet.py`` (MIT). What to look at: the second pool of
the stem is gone, and the cells that padding reaches are cut off, so that an object looks the same everywhere.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths.
"""

from torch import nn

from torch_impl.classification.googlenet import BasicConv2d, first_blocks, scaled
from torch_impl.classification.inception_v3 import STAGES
from torch_impl.layers.initialization import normal
from torch_impl.layers.pooling import max_pool2d
from torch_impl.tracking.halves import SiamFCPPTemplate, SiamFCPPTrack
from torch_impl.tracking.siamfcpp import SiamFCPP, SiamFCPPCriterion, SiamFCPPPostProcess

__all__ = [
    "Inception3",
    "SiamFCPPPostProcess",
    "siamfcpp_googlenet",
    "siamfcpp_googlenet_criterion",
    "siamfcpp_googlenet_template",
    "siamfcpp_googlenet_track",
]

BORDER = 4  # cells that padding reaches


class Inception3(nn.Module):
    """Stem and two stages of Inception v3, one linear layer.

    Args:
        layers: blocks of the stages, at most those of the default.
        width: multiplier of the channels of stem and blocks.
        channels: of the result.

    x: (N, 3, H, W), BGR in 0 to 255 -> (N, channels, H', W').
    """

    def __init__(self, layers: tuple[int, int] = (3, 5), width: float = 1.0, channels: int = 256):
        super().__init__()
        self.channels = channels
        c32, c64, c80, c192 = scaled(width, 32, 64, 80, 192)
        self.Conv2d_1a_3x3 = BasicConv2d(3, c32, 3, 2)
        self.Conv2d_2a_3x3 = BasicConv2d(c32, c32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(c32, c64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(c64, c80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(c80, c192, 3)
        self.blocks = sum(first_blocks(STAGES[:2], layers), ())
        inner = c192
        for name in self.blocks:
            block, *widths = (STAGES[0] | STAGES[1])[name]
            setattr(self, name, block(inner, *widths, width=width))
            inner = getattr(self, name).out_channels
        normal(self, 0.1)
        self.channel_reduce = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels, eps=1e-3))

    def forward(self, x):
        x = (x.flip(1) - 127.5) / 127.5  # RGB  # mirror: NCHW
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(max_pool2d(x, 3, 2)))
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.channel_reduce(x[..., BORDER:-BORDER, BORDER:-BORDER])  # mirror: NCHW


def siamfcpp_googlenet_criterion(**options) -> SiamFCPPCriterion:
    """The losses of the published training, in which cells of the object count three times as much as others."""
    return SiamFCPPCriterion(**{"alpha": 0.75, **options})


def siamfcpp_googlenet(
    layers: tuple[int, int] = (3, 5), width: float = 1.0, channels: int = 256, norms: tuple[bool, ...] = (False, False)
) -> SiamFCPP:
    return SiamFCPP(Inception3(layers, width, channels), norms)


def siamfcpp_googlenet_template(
    layers: tuple[int, int] = (3, 5), width: float = 1.0, channels: int = 256
) -> SiamFCPPTemplate:
    return SiamFCPPTemplate(Inception3(layers, width, channels))


def siamfcpp_googlenet_track(
    layers: tuple[int, int] = (3, 5), width: float = 1.0, channels: int = 256, norms: tuple[bool, ...] = (False, False)
) -> SiamFCPPTrack:
    return SiamFCPPTrack(Inception3(layers, width, channels), norms)
