"""Path aggregation: a feature pyramid followed by a second path from the fine levels to the coarse ones.

"Path Aggregation Network for Instance Segmentation", 2018, arXiv:1803.01534, section 3.1.
Parameter names: mmdet ``necks/pafpn.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow. Keras infers the widths of the maps and only needs their names.
"""

from collections.abc import Mapping

from torch import nn

from torch_impl.layers.conv_module import ConvModule
from torch_impl.necks.fpn import FPN, level_names, top_down

__all__ = ["PAFPN"]


class PAFPN(FPN):
    """:class:`FPN` whose every level is added, at half its size, to the next coarser one.

    Args:
        in_channels: channels of every map that is used, by name, fine to coarse; such as ``{"c2": 256, ...}``.
        out_channels: channels of the levels.
        num_outs: number of levels; those beyond the maps are every second cell of the level before.

    Inputs: dict of maps (N, C_i, H_i, W_i), those that are not used included.
    Returns: dict of levels (N, out_channels, H_i, W_i), fine to coarse, "p2" for "c2" and so on.
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 256, num_outs: int = 5):
        super().__init__(in_channels, out_channels, num_outs)
        width = (out_channels, out_channels, 3)
        steps = range(len(self.used) - 1)
        self.downsample_convs = nn.ModuleList(ConvModule(*width, 2, 1, activation=None) for _ in steps)
        self.pafpn_convs = nn.ModuleList(ConvModule(*width, 1, 1, activation=None) for _ in steps)
        for module in (*self.downsample_convs, *self.pafpn_convs):
            nn.init.xavier_uniform_(module.conv.weight)

    def forward(self, maps):
        laterals = top_down([conv(maps[name]) for name, conv in zip(self.used, self.lateral_convs)])
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        for i, conv in enumerate(self.downsample_convs):
            levels[i + 1] = levels[i + 1] + conv(levels[i])  # mirror: NCHW
        levels = levels[:1] + [conv(x) for conv, x in zip(self.pafpn_convs, levels[1:])]
        while len(levels) < self.num_outs:
            levels.append(levels[-1][:, :, ::2, ::2])
        return dict(zip(level_names(self.used, len(levels)), levels))
