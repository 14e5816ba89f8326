"""The hourglass network with 104 layers for corners, extreme points or centres of objects.

"CornerNet: Detecting Objects as Paired Keypoints", 2018, arXiv:1808.01244, section 3.4.
Parameter names: princeton-vl/CornerNet ``models/py_utils/kp.py`` (BSD-3), which ExtremeNet and CenterNet share. It
downsamples by strides, not by pooling, and has a residual unit where the hourglass for poses has a bottleneck.

Mirror notes:
- NCHW here, NHWC in TensorFlow. Keras infers the input widths; a unit is told whether its shortcut needs a convolution.
- The names of two lists end with an underscore, which in TensorFlow marks names that Keras reserves: so their layers
  are attributes with the whole name there, index included; here they are lists.
"""

import torch.nn.functional as F
from torch import nn

from torch_impl.layers.resize import map_size, resize_nearest

__all__ = ["Convolution", "HourglassTrunk", "KeypointModule", "Residual", "maps_of_stacks", "predictions"]

DIMS = (256, 256, 384, 384, 384, 512)
MODULES = (2, 2, 2, 2, 2, 4)
PRIOR_BIAS = -2.19  # logit of a heat map before training: probability 0.1


class Convolution(nn.Module):
    """Convolution, normalisation, ReLU.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution.
        with_bn: whether there is a normalisation; if not, the convolution has a bias.

    x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, with_bn: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=not with_bn)
        self.bn = nn.BatchNorm2d(out_channels) if with_bn else None

    def forward(self, x):
        x = self.conv(x)
        return F.relu(x if self.bn is None else self.bn(x))


def projection(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """1x1 convolution and normalisation."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Args:
        in_channels, out_channels, stride: of the first convolution.

    x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.skip = None
        if stride != 1 or in_channels != out_channels:
            self.skip = projection(in_channels, out_channels, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.skip is None else self.skip(x)))


def units(in_channels: int, out_channels: int, count: int, stride: int = 1) -> nn.Sequential:
    """Residual units, the first of which has the stride and changes the width."""
    first = Residual(in_channels, out_channels, stride)
    return nn.Sequential(first, *(Residual(out_channels, out_channels) for _ in range(count - 1)))


class KeypointModule(nn.Module):
    """One hourglass: a branch at full size, and one at half size, which may be an hourglass again.

    Args:
        dims: widths, from this size to the smallest.
        modules: residual units at each size.

    x: (N, dims[0], H, W), the same shape out.
    """

    def __init__(self, dims: tuple[int, ...], modules: tuple[int, ...]):
        super().__init__()
        self.up1 = units(dims[0], dims[0], modules[0])
        self.low1 = units(dims[0], dims[1], modules[0], 2)
        deeper = len(dims) > 2
        self.low2 = KeypointModule(dims[1:], modules[1:]) if deeper else units(dims[1], dims[1], modules[1])
        above = [Residual(dims[1], dims[1]) for _ in range(modules[0] - 1)]
        self.low3 = nn.Sequential(*above, Residual(dims[1], dims[0]))

    def forward(self, x):
        wide = self.up1(x)
        for part in (self.low1, self.low2, self.low3):
            x = part(x)
        return wide + resize_nearest(x, map_size(wide))


class HourglassTrunk(nn.Module):
    """The base of the detectors: a stem of stride 4 and hourglasses, each of which receives the previous one's output.

    Args:
        stacks: number of hourglasses.
        dims, modules: of each, see :class:`KeypointModule`.
        stem: width of the first convolution.
        cnv_dim: width of the output.

    ``stacked``: (N, 3, H, W) float, normalised -> list of (N, cnv_dim, H / 4, W / 4), rounded up, one per hourglass.
    """

    def __init__(
        self,
        stacks: int = 2,
        dims: tuple[int, ...] = DIMS,
        modules: tuple[int, ...] = MODULES,
        stem: int = 128,
        cnv_dim: int = 256,
    ):
        super().__init__()
        width, between = dims[0], range(stacks - 1)
        self.pre = nn.Sequential(Convolution(3, stem, 7, 2), Residual(stem, width, 2))
        self.kps = nn.ModuleList(KeypointModule(dims, modules) for _ in range(stacks))
        self.cnvs = nn.ModuleList(Convolution(width, cnv_dim, 3) for _ in range(stacks))
        self.inters = nn.ModuleList(Residual(width, width) for _ in between)
        # mirror: end with an underscore
        self.inters_ = nn.ModuleList(projection(width, width) for _ in between)
        self.cnvs_ = nn.ModuleList(projection(cnv_dim, width) for _ in between)

    def stacked(self, images):
        """The map of every hourglass, from an image batch."""
        x, found = self.pre(images), []
        for i, (hourglass, cnv) in enumerate(zip(self.kps, self.cnvs)):
            found.append(cnv(hourglass(x)))
            if i < len(self.inters):
                x = self.inters_[i](x) + self.cnvs_[i](found[-1])
                x = self.inters[i](F.relu(x))
        return found


def predictions(stacks: int, in_channels: int, hidden: int, out_channels: int, bias: float | None = None):
    """3x3 convolution, ReLU and 1x1 convolution for every hourglass; ``bias`` is of the initial values."""
    heads = []
    for _ in range(stacks):
        last = nn.Conv2d(hidden, out_channels, 1)
        if bias is not None:
            nn.init.constant_(last.bias, bias)
        heads.append(nn.Sequential(Convolution(in_channels, hidden, 3, with_bn=False), last))
    return nn.ModuleList(heads)


def maps_of_stacks(found: dict) -> dict:
    """Lists of maps by key -> the maps by ``key_0``, ``key_1``, ..., and by ``key`` the last one."""
    named = {}
    for key, maps in found.items():
        named |= {f"{key}_{i}": x for i, x in enumerate(maps[:-1])} | {key: maps[-1]}
    return named
