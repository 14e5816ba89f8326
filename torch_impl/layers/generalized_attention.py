"""Generalised attention: appearance, relative position, and learnt biases in place of either, as optional terms.

"An Empirical Study of Spatial Attention Mechanisms in Deep Networks", 2019, arXiv:1904.05873. Parameter names: mmcv
``cnn/bricks/generalized_attention.py`` (Apache-2.0).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow, which transposes its maps to NCHW for the matrix products: in a file these
  transposes cancel those of the convolutions.
- Keras infers the width of the map, and makes the layers that depend on it when it sees one.
"""

import math

import numpy as np
import torch
from torch import nn

from .resize import resize_bilinear

__all__ = ["GeneralizedAttention"]

WAVE_LENGTH = 1000  # longest of the position embedding


class GeneralizedAttention(nn.Module):
    """Attention of every position (query) to every position (key), per head.

    The energy of a pair, with Q and K of appearance and R of the relative position, has up to four terms: Q . K,
    Q . R, appr_bias . K and geom_bias . R. It is not divided by the root of the width.

    The reference, given the second term without the fourth, uses the query with height and width exchanged for the
    vertical part: it fails unless H = W, and computes a different function then. Here the term is the same in all
    types, as in the paper. Given the third term alone and a range, the reference lets all queries see what the first
    one may see; here each has its own range. ``local_constraint_map``, which it stores, is computed from the size of
    the map.

    Args:
        in_channels: width C of the map.
        position_embedding_dim: width E of the embedding of a relative position, a multiple of 4; -1 for C.
        position_magnitude: factor of the positions.
        num_heads: heads M, each of C // M channels.
        spatial_range: farthest row and column that a query sees, in units of the query's grid; -1 for all.
        q_stride: only every such row and column is a query; the result is resized bilinearly.
        kv_stride: only every such row and column is a key.
        attention_type: four characters, 0 or 1, that choose the terms in the order above.

    x: (N, C, H, W), the same shape out.
    Raises: ValueError if ``attention_type`` is anything else or chooses nothing.
    """

    keeps_initial_values = True

    def __init__(
        self,
        in_channels: int,
        spatial_range: int = -1,
        num_heads: int = 9,
        position_embedding_dim: int = -1,
        position_magnitude: float = 1,
        kv_stride: int = 2,
        q_stride: int = 1,
        attention_type: str = "1111",
    ):
        super().__init__()
        if len(attention_type) != 4 or not set(attention_type) <= {"0", "1"} or attention_type == "0000":
            raise ValueError(f"attention_type={attention_type!r} must be four characters 0 or 1, not all of them 0")
        self.num_heads, self.spatial_range, self.attention_type = num_heads, spatial_range, attention_type
        self.embedding_dim = position_embedding_dim if position_embedding_dim > 0 else in_channels
        self.position_magnitude, self.kv_stride, self.q_stride = position_magnitude, kv_stride, q_stride
        self.head_dim = in_channels // num_heads
        width = self.head_dim * num_heads  # mirror: infers the width
        qk, qr, bk, br = (bit == "1" for bit in attention_type)
        bound = (2 * self.head_dim) ** -0.5
        if bk:
            self.appr_bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        if br:
            self.geom_bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.gamma = nn.Parameter(torch.zeros(1))
        if qk or qr:
            self.query_conv = nn.Conv2d(in_channels, width, 1, bias=False)
        if qk or bk:
            self.key_conv = nn.Conv2d(in_channels, width, 1, bias=False)
        self.value_conv = nn.Conv2d(in_channels, width, 1, bias=False)
        if qr or br:
            self.appr_geom_fc_x = nn.Linear(self.embedding_dim // 2, width, bias=False)
            self.appr_geom_fc_y = nn.Linear(self.embedding_dim // 2, width, bias=False)
        self.proj_conv = nn.Conv2d(width, in_channels, 1)
        for module in self.children():
            nn.init.kaiming_uniform_(module.weight, a=1)
        nn.init.zeros_(self.proj_conv.bias)

    def forward(self, x):
        heads, dim = self.num_heads, self.head_dim
        of_query = x[:, :, :: self.q_stride, :: self.q_stride]
        of_key = x[:, :, :: self.kv_stride, :: self.kv_stride]
        (h, w), (hk, wk) = of_query.shape[2:], of_key.shape[2:]
        query = None
        if self.attention_type[:2] != "00":
            query = self.split(self.query_conv(of_query))
        energy = 0.0
        if self.attention_type[0] == "1" or self.attention_type[2] == "1":
            key = self.split(self.key_conv(of_key))
            asked = self.asked(query, 0, "appr_bias")
            energy = torch.matmul(asked.transpose(-1, -2), key)  # (N, M, h w or 1, K)
        if self.attention_type[1] == "1" or self.attention_type[3] == "1":
            asked = self.asked(query, 1, "geom_bias")
            asked = asked.reshape(-1, heads, dim, *((h, w) if self.attention_type[1] == "1" else (1, 1)))
            along_x = self.relative(self.appr_geom_fc_x, w, wk)  # (M, w, e, wk)
            along_y = self.relative(self.appr_geom_fc_y, h, hk)
            energy_x = torch.matmul(asked.permute(0, 1, 4, 3, 2), along_x).permute(0, 1, 3, 2, 4)  # (N, M, h, w, wk)
            energy_y = torch.matmul(asked.permute(0, 1, 3, 4, 2), along_y)  # (N, M, h, w, hk)
            energy = energy + (energy_x[:, :, :, :, None] + energy_y[..., None]).reshape(-1, heads, h * w, hk * wk)
        if self.spatial_range >= 0:
            energy = energy + torch.from_numpy(self.constraint(h, w, hk, wk)).to(x)
        elif self.attention_type == "0010":  # all queries are the same
            h = w = 1
        value = self.split(self.value_conv(of_key))
        y = torch.matmul(value, energy.softmax(-1).transpose(-1, -2))  # (N, M, e, h w)
        y = self.proj_conv(y.reshape(-1, heads * dim, h, w))
        if self.q_stride > 1 and (h, w) != (1, 1):
            y = resize_bilinear(y, x.shape[2:])
        return self.gamma * y + x

    def split(self, x):
        """(N, M e, h, w) -> (N, M, e, h w)."""
        _, _, h, w = x.shape
        return x.reshape(-1, self.num_heads, self.head_dim, h * w)  # mirror: matrix products

    def asked(self, query, term: int, bias: str):
        """Query, bias, or their sum, depending on the type.  (N, M, e, h w) -> (N or 1, M, e, h w or 1)."""
        found = query if self.attention_type[term] == "1" else 0.0
        if self.attention_type[term + 2] == "1":
            found = found + getattr(self, bias).reshape(1, self.num_heads, self.head_dim, 1)
        return found

    def relative(self, layer, queries: int, keys: int):
        """Embedding of the relative positions on one axis: (M, queries, e, keys)."""
        distance = np.subtract.outer(np.arange(queries) * self.q_stride, np.arange(keys) * self.kv_stride)
        frequency = WAVE_LENGTH ** (4 / self.embedding_dim * np.arange(self.embedding_dim / 4))
        angle = self.position_magnitude * distance[..., None] / frequency
        waves = torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], -1)).to(layer.weight)
        found = layer(waves) / math.sqrt(2)  # (queries, keys, M e)
        return found.reshape(queries, keys, self.num_heads, self.head_dim).permute(2, 0, 3, 1)

    def constraint(self, h: int, w: int, hk: int, wk: int) -> np.ndarray:
        """0 where a query may look at a key, -inf elsewhere: (h w, hk wk)."""
        allowed = []
        for queries, keys in ((h, hk), (w, wk)):
            place, key = np.arange(queries)[:, None], np.arange(keys)
            first = np.maximum((place - self.spatial_range) // self.kv_stride, 0)
            allowed.append((key >= first) & (key <= (place + self.spatial_range + 1) // self.kv_stride))
        rows, columns = allowed
        both = rows[:, None, :, None] & columns[None, :, None, :]
        return np.where(both, 0.0, -np.inf).reshape(h * w, hk * wk)
