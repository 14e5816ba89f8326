"""Features of boxes from all levels at once, mixed by a convolution and by attention.

"A Novel Region of Interest Extraction Layer for Instance Segmentation", 2020, arXiv:2004.13665.
Names: mmdet ``roi_extractors/generic_roi_extractor.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the widths of the maps.
"""

import torch
from torch import nn

from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.generalized_attention import GeneralizedAttention
from torch_impl.layers.roi_align import roi_align
from torch_impl.rois.extractors import image_index

__all__ = ["GenericRoIExtractor", "SquareAttention"]


class SquareAttention(GeneralizedAttention):
    """:class:`GeneralizedAttention` by query and relative position, of square maps, as the reference computes it.

    Its vertical part uses the query with height and width exchanged, as its checkpoints were trained.

    Args:
        in_channels: width C of the map.
        num_heads, kv_stride: as there.

    x: (N, C, B, B), the same shape out.
    Source: mmcv ``cnn/bricks/generalized_attention.py`` (Apache-2.0).
    """

    def __init__(self, in_channels: int, num_heads: int = 6, kv_stride: int = 2):
        super().__init__(in_channels, num_heads=num_heads, kv_stride=kv_stride, attention_type="0100")

    def forward(self, x):
        of_key = x[:, :, :: self.kv_stride, :: self.kv_stride]
        size, keys = x.shape[3], of_key.shape[3]
        asked = self.split(self.query_conv(x))
        asked = asked.reshape(-1, self.num_heads, self.head_dim, size, size).permute(0, 1, 4, 3, 2)  # (N, M, w, h, e)
        along_x = self.relative(self.appr_geom_fc_x, size, keys)  # (M, size, e, keys)
        along_y = self.relative(self.appr_geom_fc_y, size, keys)
        energy_x = torch.matmul(asked, along_x).permute(0, 1, 3, 2, 4)  # (N, M, h, w, keys)
        energy_y = torch.matmul(asked, along_y)  # height and width exchanged
        energy = (energy_x[:, :, :, :, None] + energy_y[..., None]).reshape(-1, self.num_heads, size**2, keys**2)
        y = torch.matmul(self.split(self.value_conv(of_key)), energy.softmax(-1).transpose(-1, -2))
        return self.gamma * self.proj_conv(y.reshape(-1, self.num_heads * self.head_dim, size, size)) + x


class GenericRoIExtractor(nn.Module):
    """RoIAlign on all levels, a convolution of each, their sum, attention.

    Args:
        channels: channels C of the levels.
        output_size: bins of a box in each direction, B.
        num_heads: of the attention.
        levels: names of the maps, fine to coarse.

    Inputs: dict of maps (N, C, H, W), of stride 4 for "p2" and so on; boxes (N, R, 4) xyxy in pixels.
    Returns: (N * R, C, B, B).
    """

    def __init__(
        self,
        channels: int,
        output_size: int,
        num_heads: int = 6,
        levels: tuple[str, ...] = ("p2", "p3", "p4", "p5"),
    ):
        super().__init__()
        self.output_size, self.levels = output_size, tuple(levels)
        self.post_module = SquareAttention(channels, num_heads)  # mirror: infers the widths
        self.pre_module = ConvModule(channels, channels, 5, padding=2)

    def forward(self, maps, boxes):
        image, rows = image_index(boxes), boxes.detach().reshape(-1, 4)
        found = 0
        for name in self.levels:
            x = roi_align(maps[name], rows, image, self.output_size, 1 / 2 ** int(name[1:]), 2, True)  # mirror: NCHW
            found = found + self.pre_module(x)
        return self.post_module(found)
