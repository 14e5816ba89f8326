"""Long short-term memory.

Mirror notes:
- PyTorch ships it. Keras's own has one bias instead of two and another layout, so the TensorFlow panel has a layer of
  its own that holds PyTorch's tensors as they are.
- While exporting, TensorFlow emits the ``LSTM`` operator itself, in ONNX's order of gates; PyTorch's exporter does so,
  but not for sequences of several lengths, which PyTorch packs.
"""

import torch
from torch.nn import LSTM  # mirror: one bias instead of two; mirror: order of gates
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .native import exporting, onnx_node

__all__ = ["LSTM", "run_lstm"]


def operator(lstm, x, lengths, layer: int):
    """One layer as ONNX's operator, whose gates are i, o, f, g.  x: (T, N, I) -> (T, N, D H)."""
    directions = ("", "_reverse") if lstm.bidirectional else ("",)

    def reordered(kind):
        gates = (getattr(lstm, f"{kind}_l{layer}{direction}").chunk(4) for direction in directions)
        return torch.stack([torch.cat([i, o, f, g]) for i, f, g, o in gates])

    count, size = len(directions), lstm.hidden_size
    bias = torch.cat([reordered("bias_ih"), reordered("bias_hh")], 1) if lstm.bias else None
    y, _, _ = onnx_node(
        "LSTM",
        [x, reordered("weight_ih"), reordered("weight_hh"), bias, lengths.int()],
        {"hidden_size": size, "direction": "bidirectional" if count == 2 else "forward"},
        [x.dtype] * 3,
        [(x.shape[0], count, x.shape[1], size), (count, x.shape[1], size), (count, x.shape[1], size)],
    )
    return y.transpose(1, 2).flatten(2)  # (T, D, N, H) -> (T, N, D H)


def run_lstm(lstm, x, lengths):
    """An LSTM over sequences of several lengths, which the second direction reads from their own ends.

    Args:
        lstm: an :class:`LSTM` of batches that come first.
        x: (N, T, I) float.
        lengths: (N,) int, 1 to T.

    Returns:
        (N, T, D H), 0 behind the end.
    """
    if exporting():
        x = x.transpose(0, 1)
        for layer in range(lstm.num_layers):
            x = operator(lstm, x, lengths, layer)
        return x.transpose(0, 1)
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=x.shape[1])[0]
