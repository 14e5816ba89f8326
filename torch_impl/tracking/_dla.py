"""Common parts of the trackers with deep layer aggregation: the trunk with stems for the previous frame, upsampling,
heads.

Names: xingyizhou/CenterTrack ``model/networks/dla.py``, ifzhang/FairMOT ``models/networks/pose_dla_dcn.py`` (MIT).

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths.
"""

from torch import nn

from torch_impl.classification.dla import DLATree, conv_bn
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.layers.rows import map_rows, take_rows
from torch_impl.necks.dla_up import DLAUp, IDAUp

__all__ = ["DLASeg", "DLATrunk", "gathered_l1", "gathered_rows"]


class DLATrunk(nn.Module):
    """Deep layer aggregation without a classifier.

    Args:
        depths, widths: see ``DLA``.
        previous: whether there are stems for the previous frame and for a heat map of its objects.

    images, previous: (N, 3, H, W), heat: (N, 1, H, W); the last two may be None -> list of six maps of strides 1 to 32.
    """

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...], previous: bool = False):
        super().__init__()
        self.base_layer = nn.Sequential(*conv_bn(3, widths[0], 7), nn.ReLU())
        channels = widths[0]
        for i in range(2):
            layers = []
            for j in range(depths[i]):
                layers += [*conv_bn(channels, widths[i], 3, 1 if i == 0 or j else 2), nn.ReLU()]
                channels = widths[i]
            setattr(self, f"level{i}", nn.Sequential(*layers))
        for i in range(2, 6):
            setattr(self, f"level{i}", DLATree(depths[i], channels, widths[i], 2, level_root=i > 2))
            channels = widths[i]
        self.pre_img_layer = self.pre_hm_layer = None
        if previous:
            self.pre_img_layer = nn.Sequential(*conv_bn(3, widths[0], 7), nn.ReLU())
            self.pre_hm_layer = nn.Sequential(*conv_bn(1, widths[0], 7), nn.ReLU())
        kaiming_normal(self)

    def forward(self, images, previous=None, heat=None):
        x, maps = self.base_layer(images), []
        if previous is not None:
            x = x + self.pre_img_layer(previous)
        if heat is not None:
            x = x + self.pre_hm_layer(heat)
        for i in range(6):
            x = getattr(self, f"level{i}")(x)
            maps.append(x)
        return maps


class DLASeg(nn.Module):
    """Trunk, upsampling, and a head per output.

    Args:
        heads: channels by name.
        depths, widths, previous: of the trunk.
        hidden: width of the heads' first convolution.
        prior_bias: of the heat map's logits before training.

    images, previous, heat: see :class:`DLATrunk` -> dict of maps of stride 4 by name.
    """

    def __init__(
        self,
        heads: dict[str, int],
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        previous: bool = False,
        hidden: int = 256,
        prior_bias: float = -2.19,
    ):
        super().__init__()
        self.names = tuple(heads)
        self.base = DLATrunk(depths, widths, previous)
        self.dla_up = DLAUp(widths[2:])
        self.ida_up = IDAUp(widths[2:5], widths[2], (1, 2, 4))
        for name, filters in heads.items():
            first, last = nn.Conv2d(widths[2], hidden, 3, padding=1), nn.Conv2d(hidden, filters, 1)
            nn.init.constant_(last.bias, prior_bias if name == "hm" else 0.0)
            if name != "hm":
                nn.init.zeros_(first.bias)
            setattr(self, name, nn.Sequential(first, nn.ReLU(), last))

    def answers(self, images, previous=None, heat=None) -> dict:
        """The outputs of the heads by name."""
        maps = self.base(images, previous, heat)
        maps = self.dla_up(maps[2:])
        x = self.ida_up(maps[:3])[-1]
        return {name: getattr(self, name)(x) for name in self.names}


def gathered_rows(x, index):
    """The feature vectors of a map at cells.  (N, C, H, W), (N, M) int64 row by row -> (N, M, C)."""
    return take_rows(map_rows(x), index)


def gathered_l1(x, index, wanted, mask):
    """Mean absolute difference at cells, over the values that count.

    Args:
        x: (N, C, H, W).
        index: (N, M) int64 cells, row by row.
        wanted: (N, M, C).
        mask: (N, M), 1 for those that count.
    """
    mask = mask.to(x.dtype)
    difference = (gathered_rows(x, index) - wanted.to(x.dtype)).abs().sum(-1)
    return (difference * mask).sum() / (x.shape[1] * mask.sum() + 1e-4)
