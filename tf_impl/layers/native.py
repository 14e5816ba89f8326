"""One ONNX operator in place of a composite function, while a model is being exported.

A function such as RoIAlign computes with ordinary tensor mathematics in eager mode. ONNX has an equivalent operator
that runtimes execute much faster; inside ``with exporting_to_onnx():`` the function emits it instead.

Mirror notes:
- TensorFlow has no symbolic ONNX operator. A ``PyFunc`` node, which is never executed, carries name and attributes in
  its token; ``HANDLERS`` tells tf2onnx to replace it by the operator. PyTorch has ``torch.onnx.ops.symbolic``.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence

import tensorflow as tf

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
        shape: shape of the output (entries may be ``None``), or a list with one per output.

    Returns:
        The output tensor, or a list of them if ``dtype`` is a list.
    """
    several = isinstance(dtype, list)
    dtypes, shapes = (dtype, shape) if several else ([dtype], [shape])
    present = [x is not None for x in inputs]
    token = json.dumps({"op": op, "attributes": attributes, "present": present}, sort_keys=True)
    # mirror: symbolic ONNX operator
    outputs = tf.raw_ops.PyFunc(input=[x for x in inputs if x is not None], token=token, Tout=dtypes)
    outputs = [tf.ensure_shape(y, s) for y, s in zip(outputs, shapes, strict=True)]
    return outputs if several else outputs[0]


def _to_operator(ctx, node, name, args):
    described = json.loads(node.get_attr_value("token").decode())
    given = iter(node.input)
    inputs = [next(given) if present else "" for present in described["present"]]
    shapes = [ctx.get_shape(output) for output in node.output]
    dtypes = [ctx.get_dtype(output) for output in node.output]
    outputs = list(node.output)
    ctx.remove_node(node.name)
    ctx.make_node(
        described["op"],
        inputs,
        outputs=outputs,
        name=node.name,
        attr=described["attributes"],
        shapes=shapes,
        dtypes=dtypes,
    )


def _to_where(ctx, node, name, args):
    """``Where``; tf2onnx writes a sum of products, in which an infinite value that is not chosen becomes NaN."""
    node.type = "Where"


HANDLERS = {"PyFunc": (_to_operator, []), "SelectV2": (_to_where, [])}
