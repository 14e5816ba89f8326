"""Path aggregation: a feature pyramid followed by a second path from the fine levels to the coarse ones.

"Path Aggregation Network for Instance Segmentation", 2018, arXiv:1803.01534, section 3.1.
Parameter names: mmdet ``necks/pafpn.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch. Keras infers the widths of the maps and only needs their names.
"""

from collections.abc import Mapping

import keras

from tf_impl.layers.conv_module import ConvModule
from tf_impl.necks.fpn import FPN, level_names, top_down

__all__ = ["PAFPN"]


@keras.saving.register_keras_serializable("diptych")
class PAFPN(FPN):
    """:class:`FPN` whose every level is added, at half its size, to the next coarser one.

    Args:
        in_channels: channels of every map that is used, by name, fine to coarse; such as ``{"c2": 256, ...}``.
        out_channels: channels of the levels.
        num_outs: number of levels; those beyond the maps are every second cell of the level before.

    Inputs: dict of maps (N, H_i, W_i, C_i), those that are not used included.
    Returns: dict of levels (N, H_i, W_i, out_channels), fine to coarse, "p2" for "c2" and so on.
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 256, num_outs: int = 5, **kwargs):
        super().__init__(in_channels, out_channels, num_outs, **kwargs)
        options = dict(padding=1, activation=None, kernel_initializer="glorot_uniform")
        steps = range(len(self.used) - 1)
        self.downsample_convs = [ConvModule(out_channels, 3, strides=2, **options) for _ in steps]
        self.pafpn_convs = [ConvModule(out_channels, 3, **options) for _ in steps]

    def call(self, maps, training=False):
        laterals = top_down([conv(maps[name]) for name, conv in zip(self.used, self.lateral_convs)])
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        for i, conv in enumerate(self.downsample_convs):
            levels[i + 1] = levels[i + 1] + conv(levels[i])  # mirror: NHWC
        levels = levels[:1] + [conv(x) for conv, x in zip(self.pafpn_convs, levels[1:])]
        while len(levels) < self.num_outs:
            levels.append(levels[-1][:, ::2, ::2])
        return dict(zip(level_names(self.used, len(levels)), levels))
