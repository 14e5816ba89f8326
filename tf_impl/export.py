"""Export of Keras models to ONNX.

Mirror notes:
- TensorFlow traces a function of NHWC tensors and tf2onnx moves the axes; PyTorch exports NCHW as it is.
- tf2onnx writes an invalid graph without raising where it lacks an operator; the checks that follow detect it.
"""

import contextlib
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import onnx
import tensorflow as tf

from tf_impl import state
from tf_impl.layers import native
from tf_impl.layers.resize import map_size
from weights import onnx_file, store

__all__ = ["apply_postprocess", "export", "export_forms"]

LARGE = 2**20  # elements of a matrix that is passed to the graph; tf2onnx copies what is in the graph dozens of times


def apply_postprocess(postprocess, outputs, inputs: Sequence) -> dict:
    """Apply a post-process to a model's outputs.

    A post-process that takes ``image_size`` is given (N, 2) int64, one that takes ``input_size`` height and width as
    numbers (as tensors where they are not known): those of the first input.
    """
    parameters = inspect.signature(postprocess.call).parameters
    if "input_size" in parameters:
        return postprocess(outputs, input_size=map_size(inputs[0]))
    if "image_size" not in parameters:
        return postprocess(outputs)
    static, shape = inputs[0].shape, tf.shape(inputs[0], out_type=tf.int64)
    size = shape[1:3] if None in static[1:3] else tf.constant(tuple(static[1:3]), tf.int64)
    return postprocess(outputs, tf.tile(size[None], (shape[0], 1)))


def export(model, path: str | Path, inputs: Mapping[str, np.ndarray], *, criterion=None, postprocess=None, **options):
    """Write a model as ONNX: alone, with its criterion (losses out), or with its post-process (results out).

    Args:
        model: a built model in float32.
        path: the file to write.
        inputs: example arrays (batch of 2 or more) by name, in the order of the model's arguments; maps are NCHW.
        criterion: if given, the file computes the losses from inputs and targets.
        postprocess: if given, the file returns its results.
        options: as for :func:`export_forms`.

    Returns:
        The path.

    Raises:
        ExportError: if the graph is invalid, not standard, or computes other values; no file is left.
    """
    form = "model" if criterion is None and postprocess is None else "results" if criterion is None else "losses"
    return export_forms(model, {form: path}, inputs, criterion=criterion, postprocess=postprocess, **options)[form]


def export_forms(
    model,
    paths: Mapping[str, str | Path],
    inputs: Mapping[str, np.ndarray],
    *,
    layouts: Mapping[str, str] | None = None,
    outputs: Sequence[str] = ("output",),
    dynamic: Mapping[str, Sequence[str | None]] | None = None,
    criterion=None,
    targets: Mapping[str, np.ndarray] | None = None,
    postprocess=None,
    call: str | None = None,
    needs_targets: bool = False,
    dynamic_size: bool = False,
    metadata: Mapping[str, str] | None = None,
    half: bool = False,
) -> dict[str, Path]:
    """Write several variants of a model from one trace: evaluation mode, NCHW, dynamic batch, opset 18.

    The opset is 19 where the graph holds ``DeformConv``.

    Args:
        model: a built model in float32.
        paths: the files to write, by variant: "model", "losses" (needs ``criterion``), "results" (``postprocess``).
        inputs: example arrays (batch of 2 or more) by name, in the order of the model's arguments; maps are NCHW.
        layouts: of inputs, targets and outputs that have channels, "NCHW": they are last in the arrays here, as written
            in the file.
        outputs: names of what the model returns if it is a tensor or a list of them.
        dynamic: names of the dynamic axes of inputs and targets; by default the first axis is "N".
        criterion: maps (outputs, targets) to losses.
        targets: example targets by name, for the criterion.
        postprocess: maps outputs, and the size of the first input if it takes ``image_size``, to results.
        call: the method that is called instead of the model itself.
        needs_targets: the losses come from outputs that the model computes with ``targets=``.
        dynamic_size: height and width of inputs with the layout "NCHW" are dynamic, too; checked at two other sizes.
        metadata: strings for the files, besides framework, weights hash and version.
        half: weights and arithmetic in float16; inputs and outputs stay float32.

    Returns:
        The paths by variant.

    Raises:
        ExportError: if a graph is invalid, not standard, or computes other values; that file is not left.
    """
    import tf2onnx

    targets = (targets or {}) if "losses" in paths else {}
    examples = {**inputs, **targets}
    dynamic, layouts = dynamic or {}, layouts or {}
    dynamic = onnx_file.dynamic_sizes(dynamic, layouts, examples) if dynamic_size else dynamic
    called = getattr(model, call or "__call__")
    names = list(examples)

    def axes(name):
        return dynamic.get(name, ("N",))

    onnx_file.refuse_too_large({v.path: v.value.dtype.size * int(np.prod(v.shape)) for v in model.variables}, half)
    matrices = {id(v): v for v, _ in state.variables(model).values() if len(v.shape) == 2 and np.prod(v.shape) > LARGE}
    weights = {f"large_weight_{i}": variable for i, variable in enumerate(matrices.values())}

    def trace(*values):
        if not weights:
            return forms(*values)
        with keras.StatelessScope(list(zip(weights.values(), values[len(names) :], strict=True))):
            return forms(*values[: len(names)])

    def forms(*values):
        given = {name: to_layout(name, value, back=False) for name, value in zip(names, values, strict=True)}
        given_inputs = [given[name] for name in inputs]
        given_targets = {name: given[name] for name in targets}
        needed = {"targets": given_targets} if needs_targets else {}
        found = {}
        for form in paths:
            if form == "losses":
                results = criterion(called(*given_inputs, **needed, training=False), given_targets)
            else:
                results = called(*given_inputs, training=False)
                results = apply_postprocess(postprocess, results, given_inputs) if form == "results" else results
            found |= {
                f"{form}.{name}": to_layout(name, value, back=True)
                for name, value in onnx_file.named(results, outputs).items()
            }
        return found

    def to_layout(name, value, back):
        """Move channels to the end, or back; tf2onnx does it where the layout is "NCHW"."""
        layout = layouts.get(name, "")
        if layout == "NCHW" or len(layout) != value.shape.rank or not layout:
            return value
        axes = [*(i for i, letter in enumerate(layout) if letter != "C"), layout.index("C")]
        return tf.transpose(value, np.argsort(axes) if back else axes)

    def channels_last(name):
        return layouts.get(name) == "NCHW" and examples[name].ndim == 4

    signature, values = [], []
    for name, array in examples.items():
        shape = [None if i < len(axes(name)) and axes(name)[i] else size for i, size in enumerate(array.shape)]
        if channels_last(name):
            array, shape = array.transpose(0, 2, 3, 1), [shape[i] for i in (0, 2, 3, 1)]  # mirror: moves the axes
        values.append(tf.constant(array))
        signature.append(tf.TensorSpec(shape, values[-1].dtype, name=name))
    for name, variable in weights.items():
        values.append(tf.convert_to_tensor(variable))
        signature.append(tf.TensorSpec(variable.shape, values[-1].dtype, name=name))
    eager = trace(*values)
    as_nchw = [
        name for name, value in eager.items() if layouts.get(name.partition(".")[2]) == "NCHW" and value.shape.rank == 4
    ]
    expected = {
        name: value.numpy().transpose(0, 3, 1, 2) if name in as_nchw else value.numpy() for name, value in eager.items()
    }
    others = []
    for given in onnx_file.other_sizes(examples, dynamic) if dynamic_size else ():
        arrays = [a.transpose(0, 2, 3, 1) if channels_last(name) else a for name, a in given.items()]
        found = trace(*(tf.constant(array) for array in arrays), *values[len(names) :])
        found = {n: v.numpy().transpose(0, 3, 1, 2) if n in as_nchw else v.numpy() for n, v in found.items()}
        others.append((given, found))
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with native.exporting_to_onnx(), _optimised_in_place():
        proto, _ = tf2onnx.convert.from_function(
            tf.function(trace, input_signature=signature, autograph=False),
            input_signature=signature,
            opset=18,
            custom_op_handlers=native.HANDLERS,
            inputs_as_nchw=[name for name in examples if channels_last(name)],
            outputs_as_nchw=as_nchw,
        )
    for value in [value for value in proto.graph.input if value.name in weights]:
        proto.graph.input.remove(value)
        matrix = tf.convert_to_tensor(weights[value.name]).numpy()
        proto.graph.initializer.append(onnx.numpy_helper.from_array(matrix, value.name))
    if any(node.op_type == "DeformConv" for node in proto.graph.node):
        proto.opset_import[0].version = 19
    metadata = {"framework": "tensorflow", "weights": store.digest(state.state_dict(model)), **(metadata or {})}
    for form, path in paths.items():
        shorter = {name: name.removeprefix(f"{form}.") for name in expected if name.startswith(f"{form}.")}
        part = onnx_file.cut(proto, examples if form == "losses" else inputs, shorter)
        wanted = {short: expected[name] for name, short in shorter.items()}
        _reduce_before_transpose(part)
        _simplify_reshapes(part)
        _name_dimensions(part, {name: axes(name) for name in names}, examples, wanted)
        tolerance = onnx_file.HALF_TOLERANCE if half else onnx_file.TOLERANCE
        part = onnx_file.half(part) if half else part
        if dynamic_size:
            onnx_file.name_output_axes(part, ("N",))
        checks = [(given, {short: found[name] for name, short in shorter.items()}) for given, found in others]
        onnx_file.write_verified(part, path, examples, wanted, metadata, tolerance, checks)  # mirror: invalid graph
    return {form: Path(path) for form, path in paths.items()}


@contextlib.contextmanager
def _optimised_in_place():
    """Let tf2onnx change a graph in place; otherwise it copies the graph for every pass, in case one fails."""
    before = os.environ.get("TF2ONNX_CATCH_ERRORS")
    os.environ["TF2ONNX_CATCH_ERRORS"] = "FALSE"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TF2ONNX_CATCH_ERRORS"]
        else:
            os.environ["TF2ONNX_CATCH_ERRORS"] = before


def _name_dimensions(proto, axes: Mapping[str, Sequence[str | None]], examples: Mapping, expected: Mapping):
    """Give dynamic dimensions their names, which tf2onnx calls unk__1, unk__2, ...

    A dimension of an output is identified by its length in the examples.
    """
    lengths = {}
    for value in proto.graph.input:
        for i, (dimension, name) in enumerate(zip(value.type.tensor_type.shape.dim, axes[value.name])):
            if name:
                dimension.dim_param = name
                lengths.setdefault(examples[value.name].shape[i], name)
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        for dimension, length in zip(value.type.tensor_type.shape.dim, expected[value.name].shape):
            if not dimension.HasField("dim_value") or dimension.dim_value <= 0:
                dimension.dim_param = lengths.get(length, f"{value.name}_{length}")


def _reduce_before_transpose(proto):
    """Let a mean over height and width read the NCHW map itself; tf2onnx transposes the map to NHWC for it."""
    graph = proto.graph
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        transpose = producers.get(node.input[0]) if node.op_type == "ReduceMean" else None
        if transpose is None or transpose.op_type != "Transpose" or list(transpose.attribute[0].ints) != [0, 2, 3, 1]:
            continue
        keepdims = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        if keepdims or onnx.numpy_helper.to_array(constants[node.input[1]]).tolist() != [1, 2]:
            continue
        axes = onnx.numpy_helper.from_array(np.array([2, 3]), f"{node.name}_axes")
        graph.initializer.append(axes)
        node.input[:] = [transpose.input[0], axes.name]
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.output[0] not in used]:
        graph.node.remove(node)


def _simplify_reshapes(proto):
    """Remove every Reshape that changes nothing, and let the others copy the batch instead of inferring it.

    tf2onnx leaves the former where it transposed maps of 1 x 1. After a batch of -1, ONNX Runtime no longer knows that
    two maps have the same shape, and does not fuse their sum with the convolution before it.
    """
    shapes = onnx_file.known_shapes(proto)
    graph = proto.graph
    targets = {
        tensor.name: onnx.numpy_helper.to_array(tensor).tolist()
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1
    }
    kept = {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Reshape"]:
        source, target = node.input
        there, wanted = shapes.get(source), targets.get(target)
        if not there or wanted is None:
            continue
        # 0 is a dynamic length on one side, -1 an inferred one on the other; a single one of them can only mean the
        # same
        if [max(n, 0) for n in wanted] == there and there.count(0) <= 1 and node.output[0] not in kept:
            for other in graph.node:
                other.input[:] = [source if name == node.output[0] else name for name in other.input]
            graph.node.remove(node)
        elif there[0] == 0 and wanted[0] == -1 and np.prod(there[1:]) == np.prod(wanted[1:]) > 0:
            node.input[1] = f"{target}_keeping_batch"
            if node.input[1] not in targets:
                targets[node.input[1]] = [0, *wanted[1:]]
                graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, *wanted[1:]]), node.input[1]))
