"""Long short-term memory with PyTorch's arguments and PyTorch's parameters.

Mirror notes:
- PyTorch ships it. Keras' has one bias instead of two and another layout, so the TensorFlow panel has its own layer,
  which holds PyTorch's tensors as they are.
- While exporting, both emit the ``LSTM`` operator themselves, in ONNX's order of gates; PyTorch's exporter would do so
  too, but it first runs through the sequence step by step, and does not support sequences of various lengths.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .native import exporting, onnx_node

__all__ = ["LSTM"]


class LSTM(nn.LSTM):  # mirror: one bias instead of two
    """Long short-term memory over a sequence, optionally stacked and in both directions (Neural Computation 9(8),
    1997).

    Args:
        input_size: width I of the input.
        hidden_size: width H of the state.
        num_layers: number of stacked layers L.
        bias: whether biases are added; there are two per direction, one for the input and one for the state.
        batch_first: (N, T, .) instead of (T, N, .); states are (., N, H) in both cases.
        bidirectional: a second pass from the end (D = 2), concatenated after the first.

    Inputs: (T, N, I), and optionally the pair of first states (L D, N, H), zero by default, and the lengths (N,) int of
        the sequences, 1 to T, T by default; the second direction reads every sequence from its own end.
    Returns: the outputs (T, N, D H), 0 after the end, and the pair of last states h and c (L D, N, H).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
    ):
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, bidirectional=bidirectional)
        self.directions = ("", "_reverse") if bidirectional else ("",)

    def forward(self, x, hx=None, lengths=None):
        if exporting():
            return self._operators(x, hx, lengths)
        if lengths is None:
            return super().forward(x, hx)
        packed = pack_padded_sequence(x, lengths.cpu(), self.batch_first, enforce_sorted=False)
        y, last = super().forward(packed, hx)
        return pad_packed_sequence(y, self.batch_first, total_length=x.shape[1 if self.batch_first else 0])[0], last

    def _operators(self, x, hx, lengths):
        if self.batch_first:
            x = x.transpose(0, 1)
        count = len(self.directions)
        last_h, last_c = [], []
        for layer in range(self.num_layers):
            state = None if hx is None else [s[layer * count : (layer + 1) * count] for s in hx]
            x, h, c = self._operator(x, layer, state, lengths)
            last_h.append(h)
            last_c.append(c)
        if self.batch_first:
            x = x.transpose(0, 1)
        return x, (torch.cat(last_h), torch.cat(last_c))

    def _operator(self, x, layer, state, lengths):
        """One layer as ONNX's operator, whose gates are i, o, f, g."""

        def reordered(kind):
            tensors = (getattr(self, f"{kind}_l{layer}{direction}") for direction in self.directions)
            gates = (tensor.unflatten(0, (4, -1)) for tensor in tensors)  # i, f, g, o
            # an index, not a split: the exporter folds no node with several outputs
            return torch.stack([of_gate[[0, 3, 1, 2]].flatten(0, 1) for of_gate in gates])  # mirror: order of gates

        count, size = len(self.directions), self.hidden_size
        lengths = None if lengths is None else lengths.int()
        bias = torch.cat([reordered("bias_ih"), reordered("bias_hh")], 1) if self.bias else None
        inputs = [x, reordered("weight_ih"), reordered("weight_hh"), bias, lengths, *(state or (None, None))]
        while inputs[-1] is None:
            inputs.pop()
        y, h, c = onnx_node(
            "LSTM",
            inputs,
            {"hidden_size": size, "direction": "bidirectional" if count == 2 else "forward"},
            [x.dtype] * 3,
            [(x.shape[0], count, x.shape[1], size), (count, x.shape[1], size), (count, x.shape[1], size)],
        )
        return y.transpose(1, 2).flatten(2), h, c  # (T, D, N, H) -> (T, N, D H)
