"""Blocks in which every position sees the whole map: the global context block and the non-local block.

"GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", 2019, arXiv:1904.11492; "Non-local Neural
Networks", 2017, arXiv:1711.07971. Parameter names: mmcv ``cnn/bricks/context_block.py`` and ``non_local.py``
(Apache-2.0).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow, which transposes its maps to NCHW for the matrix products: in a file these
  transposes cancel those of the convolutions.
- Keras infers the width of the map, and makes the layers that depend on it when it sees one.
- The layer normalisation over [P, 1, 1] is PyTorch's own; TensorFlow has a small layer for it.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .conv_module import ConvModule

__all__ = ["ContextBlock", "NonLocal2d"]


class ContextBlock(nn.Module):
    """One context vector of the whole map, added to every position or multiplied with it.

    Args:
        in_channels: width C of the map.
        ratio: the two 1x1 convolutions of a branch have P = int(C * ratio) channels between them.
        pooling_type: "att", a mean weighted by a softmax over all positions, or "avg", the plain mean.
        fusion_types: "channel_mul" (through a sigmoid, first), "channel_add", or both.

    x: (N, C, H, W), the same shape out.
    Raises: ValueError if ``pooling_type`` or one of ``fusion_types`` is unknown.
    """

    keeps_initial_values = True

    def __init__(
        self,
        in_channels: int,
        ratio: float,
        pooling_type: str = "att",
        fusion_types: tuple[str, ...] = ("channel_add",),
    ):
        super().__init__()
        if pooling_type not in ("att", "avg"):
            raise ValueError(f"pooling_type={pooling_type!r} must be 'att' or 'avg'")
        if not fusion_types or not set(fusion_types) <= {"channel_add", "channel_mul"}:
            raise ValueError(f"fusion_types={fusion_types!r} must hold 'channel_add', 'channel_mul' or both")
        self.pooling_type = pooling_type
        if pooling_type == "att":
            self.conv_mask = nn.Conv2d(in_channels, 1, 1)
            nn.init.kaiming_normal_(self.conv_mask.weight)
            nn.init.zeros_(self.conv_mask.bias)
        planes = int(in_channels * ratio)  # mirror: infers the width
        self.channel_add_conv = branch(in_channels, planes) if "channel_add" in fusion_types else None
        self.channel_mul_conv = branch(in_channels, planes) if "channel_mul" in fusion_types else None

    def forward(self, x):
        context = self.pool(x)
        y = x
        if self.channel_mul_conv is not None:
            y = y * torch.sigmoid(self.channel_mul_conv(context))
        if self.channel_add_conv is not None:
            y = y + self.channel_add_conv(context)
        return y

    def pool(self, x):
        """The context.  (N, C, H, W) -> (N, C, 1, 1)."""
        if self.pooling_type == "avg":
            return F.adaptive_avg_pool2d(x, 1)
        _, channels, height, width = x.shape
        attention = self.conv_mask(x).reshape(-1, height * width).softmax(-1)  # (N, H W)
        # mirror: matrix products
        context = torch.matmul(x.reshape(-1, channels, height * width), attention[:, :, None])
        return context.reshape(-1, channels, 1, 1)


def branch(channels: int, planes: int):
    """C -> P -> C with layer normalisation and ReLU between; starts as zero."""
    last = nn.Conv2d(planes, channels, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    # mirror: layer normalisation over
    return nn.Sequential(nn.Conv2d(channels, planes, 1), nn.LayerNorm([planes, 1, 1], eps=1e-5), nn.ReLU(), last)


class NonLocal2d(nn.Module):
    """Every position receives a weighted sum over all positions, with weights from pairs.

    Args:
        in_channels: width C of the map.
        reduction: the sum is of I = max(C // reduction, 1) channels.
        use_scale: "embedded_gaussian" divides by sqrt(I) before the softmax.
        norm: normalisation after the last convolution, None or "batch".
        mode: the weight of a pair: "embedded_gaussian", softmax of theta . phi; "gaussian", softmax of x . x;
            "dot_product", theta . phi / number of positions; "concatenation", ReLU(w . [theta, phi]) / number of
            positions.
        sub_sample: max pooling by 2 of the positions that are summed over; a last odd row or column is dropped.
        zeros_init: the block starts as the identity.

    x: (N, C, H, W), the same shape out.
    Raises: ValueError if there is no such ``mode``.
    """

    keeps_initial_values = True

    def __init__(
        self,
        in_channels: int,
        reduction: int = 2,
        use_scale: bool = True,
        norm: str | None = None,
        mode: str = "embedded_gaussian",
        sub_sample: bool = False,
        zeros_init: bool = True,
    ):
        super().__init__()
        if mode not in ("gaussian", "embedded_gaussian", "dot_product", "concatenation"):
            raise ValueError(f"mode={mode!r} must be 'gaussian', 'embedded_gaussian', 'dot_product' or 'concatenation'")
        self.use_scale, self.mode = use_scale, mode
        self.inter_channels = width = max(in_channels // reduction, 1)
        inner = [ConvModule(in_channels, width, 1, activation=None) for _ in range(1 if mode == "gaussian" else 3)]
        self.g = nn.Sequential(inner[0], nn.MaxPool2d(2)) if sub_sample else inner[0]
        self.conv_out = ConvModule(width, in_channels, 1, norm=norm, activation=None)
        if mode == "gaussian":
            self.phi = nn.MaxPool2d(2) if sub_sample else None
        else:
            self.theta = inner[1]
            self.phi = nn.Sequential(inner[2], nn.MaxPool2d(2)) if sub_sample else inner[2]
        if mode == "concatenation":
            self.concat_project = nn.ModuleDict({"conv": nn.Conv2d(2 * width, 1, 1, bias=False)})
            nn.init.kaiming_normal_(self.concat_project["conv"].weight, mode="fan_out")
        for module in inner:
            nn.init.normal_(module.conv.weight, std=0.01)
            nn.init.zeros_(module.conv.bias)
        if zeros_init and norm is not None:
            nn.init.zeros_(self.conv_out.bn.weight)
        else:
            nn.init.normal_(self.conv_out.conv.weight, std=0.0 if zeros_init else 0.01)
        if norm is None:
            nn.init.zeros_(self.conv_out.conv.bias)

    def forward(self, x):
        values = self.g(x).flatten(2)  # (N, I, K)
        queries = (x if self.mode == "gaussian" else self.theta(x)).flatten(2)  # (N, I, Q)
        keys = (x if self.phi is None else self.phi(x)).flatten(2)
        weights = self.pairwise(queries, keys)  # (N, Q, K)
        y = torch.matmul(values, weights.transpose(1, 2))
        return x + self.conv_out(y.reshape(-1, self.inter_channels, *x.shape[2:]))

    def pairwise(self, queries, keys):
        """Weight of every pair.  (N, I, Q), (N, I, K) -> (N, Q, K)."""
        if self.mode == "concatenation":  # w . [theta, phi] = w1 . theta + w2 . phi
            of_query, of_key = self.concat_project["conv"].weight.reshape(2, 1, -1)
            energy = torch.matmul(of_query, queries).transpose(1, 2) + torch.matmul(of_key, keys)
            return F.relu(energy) / keys.shape[-1]
        energy = torch.matmul(queries.transpose(1, 2), keys)
        if self.mode == "dot_product":
            return energy / keys.shape[-1]
        if self.mode == "embedded_gaussian" and self.use_scale:
            energy = energy / self.inter_channels**0.5
        return energy.softmax(-1)
