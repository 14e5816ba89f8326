"""Fully connected layer and gated recurrent unit with PaddlePaddle's parameters.

Paddle's unit resets the state before its matrix (nn.GRU does it after), and lets u weigh the new value, not the old.

Mirror notes:
- Neither framework has this unit, so both run over time in a loop: PyTorch's in Python, TensorFlow's in the graph.
- While exporting, both emit the ``GRU`` operator, whose gates are z = 1 - u, r, h.
"""

import torch
from torch import nn

from .native import exporting, onnx_node

__all__ = ["FC", "DynamicGRU", "bidirectional_gru"]


class FC(nn.Module):
    """y = x W + b with W (in, out).

    Args:
        in_features, out_features: widths.

    Inputs: (..., in_features).  Returns: (..., out_features).
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.w_0 = nn.Parameter(torch.empty(in_features, out_features))
        self.b_0 = nn.Parameter(torch.zeros(out_features))
        nn.init.uniform_(self.w_0, -0.1, 0.1)

    def forward(self, x):
        return x @ self.w_0 + self.b_0


class DynamicGRU(nn.Module):
    """The recurrent part of a gated recurrent unit (arXiv:1406.1078); its input is multiplied by the weights already.

    h = (1 - u) h' + u tanh(x_c + (r h') W_c), u = sigmoid(x_u + h' W_u), r = sigmoid(x_r + h' W_r).

    Args:
        size: width H of the state.

    The matrix (H, 3 H) is not three groups of columns: its values, in their order, are W_u and W_r as one (H, 2 H)
    matrix, and after them W_c (H, H).
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.w_0 = nn.Parameter(torch.empty(size, 3 * size))
        self.b_0 = nn.Parameter(torch.zeros(1, 3 * size))
        nn.init.uniform_(self.w_0, -0.1, 0.1)

    def matrices(self):
        """W_u and W_r (H, 2 H), W_c (H, H)."""
        values, cut = self.w_0.flatten(), 2 * self.size**2
        return values[:cut].reshape(self.size, 2 * self.size), values[cut:].reshape(self.size, self.size)


def turned(x, lengths):
    """Every sequence reversed; what comes after its end stays.  x: (N, T, D), lengths: (N,)."""
    places = torch.arange(x.shape[1], device=x.device)
    last = lengths[:, None] - 1
    order = torch.where(places <= last, last - places, places)
    return x.gather(1, order[..., None].expand_as(x))


def operator(x, lengths, parts):
    """Both directions as ONNX's GRU operator.  x: (N, T, I) -> (N, T, 2 H)."""
    size = parts[0][1].size

    def gates(columns):  # u, r, c along the first axis
        return torch.cat([-columns[:size], columns[size:]])

    weights, recurrent, biases = [], [], []
    for fc, gru in parts:
        gate, candidate = gru.matrices()
        weights.append(gates(fc.w_0.T))
        recurrent.append(gates(torch.cat([gate, candidate], 1).T))
        biases.append(torch.cat([gates(fc.b_0), gates(gru.b_0[0])]))
    y, _ = onnx_node(  # mirror: whose gates
        "GRU",
        [x.transpose(0, 1), torch.stack(weights), torch.stack(recurrent), torch.stack(biases), lengths.int()],
        {"hidden_size": size, "direction": "bidirectional", "linear_before_reset": 0},
        [x.dtype] * 2,
        [(x.shape[1], 2, x.shape[0], size), (2, x.shape[0], size)],
    )
    return y.permute(2, 0, 1, 3).flatten(2)  # (T, 2, N, H) -> (N, T, 2 H)


def bidirectional_gru(x, lengths, forward, backward):
    """Two units over sequences of various lengths, the second one backwards.

    Args:
        x: (N, T, I) float.
        lengths: (N,) int, 1 to T.
        forward, backward: an :class:`FC` and a :class:`DynamicGRU` each.

    Returns:
        (N, T, 2 H), 0 after the end.
    """
    parts = forward, backward
    if exporting():
        return operator(x, lengths, parts)
    given = [fc(y) + gru.b_0 for (fc, gru), y in zip(parts, (x, turned(x, lengths)), strict=True)]
    given = torch.stack(given)  # (2, N, T, 3 H)
    gate, candidate = (torch.stack(matrices) for matrices in zip(*(gru.matrices() for _, gru in parts), strict=True))
    size = gate.shape[1]
    h = torch.zeros(2, x.shape[0], size, dtype=x.dtype, device=x.device)
    outputs = []
    for t in range(x.shape[1]):  # mirror: in a loop
        now = given[:, :, t]
        u, r = torch.sigmoid(now[..., : 2 * size] + h @ gate).chunk(2, -1)
        h = (1 - u) * h + u * torch.tanh(now[..., 2 * size :] + (r * h) @ candidate)
        outputs.append(h)
    y = torch.stack(outputs, 2)  # (2, N, T, H)
    inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return torch.cat([y[0], turned(y[1], lengths)], -1) * inside[..., None].to(x.dtype)
