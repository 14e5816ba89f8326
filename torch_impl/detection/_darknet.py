"""Common parts of the networks in darknet's configuration files: a list of layers that refer to each other by number.

Names: darknet ``cfg/*.cfg`` (public domain), as its converters to PyTorch write them, ``models.{i}`` for
layer i of the file, ``conv{n}`` and ``bn{n}`` for the n-th convolution: Tianxiaomo/pytorch-YOLOv4
``tool/darknet2pytorch.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- A pooling of size 2 that keeps the size needs one more row and column: PyTorch pads the map, Keras has "same".
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.activation import LeakyReLU
from torch_impl.layers.pooling import max_pool2d
from torch_impl.layers.resize import resize_nearest

__all__ = ["DarknetConv", "DarknetLayers", "reorganise"]


def reorganise(x, stride: int = 2):
    """darknet's reorganisation of a map into a smaller one with more channels, which is not space-to-depth.

    The values are read in a different order than they were written in: as if the map were larger with 1 / stride^2 of
    its channels. Published weights rely on this order.

    Args:
        x: (N, C, H, W); stride^2 divides C.

    Returns:
        (N, stride^2 C, H / stride, W / stride).

    Source: darknet ``src/blas.c``, ``reorg_cpu``.
    """
    n, c, h, w = x.shape
    y = x.reshape(n, c * h // stride**2, stride, w, stride)
    return y.permute(0, 2, 4, 1, 3).reshape(n, c * stride**2, h // stride, w // stride)


class DarknetConv(nn.Module):
    """Convolution that keeps the size at stride 1; batch normalisation and leaky ReLU of slope 0.1, or a bias.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution.
        number: index of the convolution in the network, from 1.
        plain: no normalisation and no activation.

    Inputs: (N, C, H, W).  Returns: (N, out_channels, H', W').
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, number: int, plain: bool = False
    ):
        super().__init__()
        self.number, self.plain = number, plain
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=plain)
        setattr(self, f"conv{number}", conv)
        if not plain:
            setattr(self, f"bn{number}", nn.BatchNorm2d(out_channels))
            self.activation = LeakyReLU(0.1)

    def forward(self, x):
        y = getattr(self, f"conv{self.number}")(x)
        return y if self.plain else self.activation(getattr(self, f"bn{self.number}")(y))


class DarknetLayers(nn.Module):
    """A network given as a list of rows, one per section of the configuration file.

    Args:
        rows: ("conv", width, kernel size, stride), with normalisation and leaky ReLU; ("plain", width), 1x1 with bias;
            ("max", size, stride); ("route", numbers), several layers' maps concatenated, negative numbers count back;
            ("shortcut", number), the sum with that layer's map; ("upsample",); ("reorg",); ("out",), the preceding map
            is a result.
        in_chans: channels of the image.

    Inputs: (N, in_chans, H, W) float.
    Returns: list of the results, in the order of the rows.
    """

    def __init__(self, rows: tuple[tuple, ...], in_chans: int = 3):
        super().__init__()
        self.rows, models, widths, number = tuple(rows), [], [], 0
        for i, (kind, *values) in enumerate(rows):
            width, layer = widths[-1] if widths else in_chans, nn.Identity()
            if kind in ("conv", "plain"):
                number += 1
                size = values[1:] if kind == "conv" else (1, 1)
                layer = DarknetConv(width, values[0], *size, number, kind == "plain")
                width = values[0]
            elif kind == "route":
                width = sum(widths[j if j >= 0 else i + j] for j in values[0])
            elif kind == "reorg":
                width *= 4
            models.append(layer)
            widths.append(width)
        self.models = nn.ModuleList(models)

    def forward(self, images):
        x, maps, results = images, [], []
        for i, (kind, *values) in enumerate(self.rows):
            if kind == "max":
                size, stride = values
                if stride == 1 and size == 2:  # mirror: keeps the size
                    x = F.pad(x, (0, 1, 0, 1), value=torch.finfo(x.dtype).min)
                    x = max_pool2d(x, 2, 1)
                else:
                    x = max_pool2d(x, size, stride, size // 2 if stride == 1 else 0)
            elif kind == "route":
                x = torch.cat([maps[j if j >= 0 else i + j] for j in values[0]], 1)
            elif kind == "shortcut":
                x = x + maps[i + values[0]]
            elif kind == "upsample":
                x = resize_nearest(x, (2 * x.shape[2], 2 * x.shape[3]))
            elif kind == "reorg":
                x = reorganise(x)
            elif kind == "out":
                results.append(x)
            else:
                x = self.models[i](x)
            maps.append(x)
        return results
