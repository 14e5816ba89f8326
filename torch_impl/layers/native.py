"""One ONNX operator in place of a composite function, while a model is being exported.

A function such as RoIAlign computes with ordinary tensor mathematics in eager mode. ONNX has an equivalent operator
that runtimes execute much faster; inside ``with exporting_to_onnx():`` the function emits it instead.

Mirror notes:
- TensorFlow has no symbolic ONNX operator. A ``PyFunc`` node, which is never executed, carries name and attributes in
  its token; ``HANDLERS`` tells tf2onnx to replace it by the operator. PyTorch has ``torch.onnx.ops.symbolic``.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch

__all__ = ["exporting", "exporting_to_onnx", "onnx_node"]

_exporting = False


def exporting() -> bool:
    """Whether the current call traces a model for ONNX."""
    return _exporting


@contextlib.contextmanager
def exporting_to_onnx() -> Iterator[None]:
    """Make :func:`exporting` true inside the block."""
    global _exporting
    before, _exporting = _exporting, True
    try:
        yield
    finally:
        _exporting = before


def onnx_node(op: str, inputs: Sequence, attributes: dict, dtype, shape: Sequence):
    """Emit one standard ONNX operator.

    Args:
        op: operator name, such as ``"RoiAlign"``.
        inputs: tensors in the operator's order and layout (NCHW); ``None`` for an optional input that is left out.
        attributes: ONNX attributes (int, float, string, or a list of them).
        dtype: data type of the output, or a list with one per output.
        shape: shape of the output, or a list with one per output.

    Returns:
        The output tensor, or a list of them if ``dtype`` is a list.
    """
    if isinstance(dtype, list):
        return list(torch.onnx.ops.symbolic_multi_out(op, inputs, attributes, dtypes=dtype, shapes=shape))
    return torch.onnx.ops.symbolic(op, inputs, attributes, dtype=dtype, shape=shape)  # mirror: symbolic ONNX operator
