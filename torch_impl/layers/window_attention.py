"""Attention within windows: every window of queries sees itself, the window before it, and the one after it.

The numbers are those of lucidrains/local-attention (MIT). There, queries see the zeros that fill the last window unless
a mask is given; here they never do.

Mirror notes:
- ``torch.export`` treats an axis of length 1 as a constant: PyTorch exports one empty window more.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .attention import masked_softmax
from .native import exporting
from .positions import rotate

__all__ = ["RotaryFrequencies", "WindowAttention"]


class RotaryFrequencies(nn.Module):
    """Sines and cosines of the angles at positions 0, 1, ...: (T, E)."""

    def __init__(self, dim: int):
        super().__init__()
        frequencies = 10000 ** (-np.arange(0, dim, 2) / dim)
        self.register_buffer("inv_freq", torch.from_numpy(frequencies).float())

    def forward(self, length: int):
        angles = torch.arange(length, device=self.inv_freq.device)[:, None] * self.inv_freq
        return torch.cat([torch.sin(angles), torch.cos(angles)], -1)


class WindowAttention(nn.Module):
    """Scaled dot-product attention within windows, with rotary relative positions.

    Args:
        dim: width E of a head.
        window_size: positions of a window.
        causal: whether a query sees no later key; then there is no window after it.
        dropout: rate of the weights.

    Inputs: ``query``, ``key``, ``value`` (N, heads, T, E); ``padding_mask`` (N, T) bool, True = padding, or None.
    Returns: (N, heads, T, E).
    """

    def __init__(self, dim: int, window_size: int = 256, causal: bool = False, dropout: float = 0.0):
        super().__init__()
        self.window_size, self.causal = window_size, causal
        self.rel_pos = RotaryFrequencies(dim)
        self.dropout = nn.Dropout(dropout)

    def windows(self, x, fill=0):
        """(N, heads, T, E) -> (N, heads, W, window, E); positions after the end are filled."""
        rest = (self.window_size - x.shape[2] % self.window_size) % self.window_size
        if exporting():  # mirror: one empty window
            rest = rest + self.window_size
        return F.pad(x, (0, 0, 0, rest), value=fill).unflatten(2, (-1, self.window_size))

    def around(self, x, fill=0):
        """Each window with its neighbours: (N, heads, W, window, E) -> (N, heads, W, 2 or 3 windows, E)."""
        outside = torch.full_like(x[:, :, :1], fill)
        parts = [torch.cat([outside, x[:, :, :-1]], 2), x]
        if not self.causal:
            parts.append(torch.cat([x[:, :, 1:], outside], 2))
        return torch.cat(parts, 3)

    def forward(self, query, key, value, padding_mask=None):
        length = query.shape[2]
        query, key, value = self.windows(query), self.around(self.windows(key)), self.around(self.windows(value))
        # the queries have the last positions, as in the reference, even where a window comes after them
        waves = self.rel_pos(length=(2 if self.causal else 3) * self.window_size)
        query, key = rotate(query, waves[-self.window_size :], halves=True), rotate(key, waves, halves=True)
        places = self.windows(
            torch.arange(length, device=query.device)[None, None, :, None], -1
        )  # (1, 1, W, window, 1)
        of_key = self.around(places, -1).transpose(-1, -2)
        masked = of_key < 0
        if self.causal:
            masked = masked | (places < of_key)
        if padding_mask is not None:
            padding = self.around(self.windows(padding_mask[:, None, :, None].to(query.dtype), 1), 1)
            masked = masked | (padding.transpose(-1, -2) > 0)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (N, heads, W, window, 2 or 3 windows)
        y = self.dropout(masked_softmax(scores, masked)) @ value
        return y.flatten(2, 3).narrow(2, 0, length)
