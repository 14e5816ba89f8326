"""Checking and writing ONNX files, the same for both panels.

A file is only written after it passed the full checker, held nothing but standard operators, loaded in ONNX Runtime and
reproduced the exported model's numbers.
"""

import contextlib
import glob
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

__all__ = [
    "ExportError",
    "aligned",
    "cut",
    "dynamic_sizes",
    "files_of",
    "half",
    "histogram",
    "known_shapes",
    "name_output_axes",
    "name_outputs",
    "named",
    "other_sizes",
    "refuse_too_large",
    "relative",
    "run",
    "session",
    "stray_transposes",
    "write_verified",
]

TOLERANCE = 1e-4  # relative L2 that an export may differ from its framework; the parity suite holds it to 1e-5
HALF_TOLERANCE = 1e-2  # the same for float16
LIMIT = 2**31 - 2**24  # bytes of weights in one file; Protocol Buffers end at 2 GiB
TENSOR = LIMIT  # of one tensor, which is written in one piece
RANKED = ("proposals", "boxes")  # outputs whose rows come in the order of their scores
SWAPPED = 0.1  # share of rows that rounding may move
EXTERNAL = 1024  # bytes of a tensor that goes to the file of data, if there is one


class ExportError(ValueError):
    """The model cannot be exported as asked; no file was written."""


def session(model, optimise: bool = True, threads: int = 0, spinning: bool = True):
    """An ONNX Runtime session on the CPU.

    Args:
        model: path of a file, or its bytes.
        optimise: all graph optimisations, or none.
        threads: intra-op threads; 0 leaves the number to ONNX Runtime.
        spinning: whether threads wait busily for work, which is faster unless something else needs the cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    if isinstance(source, str) and not _is_unicode(source):
        source = Path(source).read_bytes()  # ONNX Runtime only takes paths in UTF-8
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)  # bytes of a path that are not UTF-8


def named(returned, names: Sequence[str]) -> dict:
    """A model's outputs by name: a dictionary unchanged, a list in the names' order, a tensor under the first name."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if isinstance(returned, (list, tuple)):
        return dict(zip(names, returned, strict=True))
    return {names[0]: returned}


def run(session, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a session by name; inputs that the graph does not use are left out."""
    used = {value.name for value in session.get_inputs()}
    values = session.run(None, {name: array for name, array in inputs.items() if name in used})
    return dict(zip((value.name for value in session.get_outputs()), values, strict=True))


def _nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _nodes(inner)


def histogram(model) -> Counter:
    """How often each operator occurs in a model (a loaded ``ModelProto``), subgraphs included."""
    return Counter(node.op_type for node in _nodes(model.graph))


def stray_transposes(model) -> list[str]:
    """Names of the Transpose nodes between the model's inputs and outputs."""
    ends = {value.name for value in [*model.graph.input, *model.graph.output]}
    return [
        node.name or node.output[0]
        for node in model.graph.node
        if node.op_type == "Transpose" and not ends & {*node.input, *node.output}
    ]


def name_outputs(model, names: Mapping[str, str]) -> None:
    """Rename outputs of a graph; inner values that already have one of the new names are renamed too."""
    taken = set(names.values()) - {value.name for value in model.graph.output}
    renamed = {name: f"{name}__inner" for name in taken} | dict(names)
    for node in _nodes(model.graph):
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in [*model.graph.value_info, *model.graph.output, *model.graph.initializer]:
        value.name = renamed.get(value.name, value.name)


def cut(model, inputs: Iterable[str], outputs: Mapping[str, str]):
    """The part of a graph that computes some of its outputs, as a separate model.

    Args:
        model: the ``ModelProto``; it is not changed.
        inputs: names of the inputs that the part has, used or not, in their order.
        outputs: names of the outputs -> their names in the part.
    """
    import onnx

    graph = model.graph
    given = {value.name: value for value in graph.input}
    needed, kept = set(outputs), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            if node.op_type == "Shape" and node.input[0] in given and node.input[0] not in inputs:
                node = _same_length(node, given, inputs)
            kept.append(node)
            needed |= {name for inner in _nodes(onnx.GraphProto(node=[node])) for name in inner.input}
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = graph.name
    part.graph.node.extend(reversed(kept))
    part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in needed)
    part.graph.input.extend(given[name] for name in inputs)
    part.graph.output.extend(value for value in graph.output if value.name in outputs)
    part.graph.value_info.extend(value for value in graph.value_info if value.name in needed)
    name_outputs(part, outputs)
    return part


def _same_length(node, given: Mapping, inputs: Iterable[str]):
    """Redirect a ``Shape`` node that reads a dynamic length to one of these inputs."""
    import onnx

    def length(value, axis):
        return value.type.tensor_type.shape.dim[axis].dim_param

    wanted = length(given[node.input[0]], next(a.i for a in node.attribute if a.name == "start"))
    for name in inputs:
        for axis in range(len(given[name].type.tensor_type.shape.dim)):
            if length(given[name], axis) == wanted:
                return onnx.helper.make_node("Shape", [name], node.output, node.name, start=axis, end=axis + 1)
    raise ExportError(f"the length {wanted!r} of {node.input[0]!r} is that of no input of the model")


def known_shapes(model) -> dict[str, list[int]]:
    """Lengths of the axes of inputs and intermediate values, 0 for dynamic ones; large weights are not copied."""
    import onnx

    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = bare.graph
    graph.name = model.graph.name
    for part in ("node", "input", "output", "value_info"):
        getattr(graph, part).extend(getattr(model.graph, part))
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > EXTERNAL:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            graph.initializer.append(tensor)
    graph = onnx.shape_inference.infer_shapes(bare).graph
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.input]}


def half(model):
    """The same graph with weights and arithmetic in float16; inputs and outputs keep their types.

    Operators that would lose too much stay in float32, by the list of ONNX Runtime's converter.

    Args:
        model: the ``ModelProto``; it is changed.
    """
    import onnx
    from onnxruntime.transformers.onnx_model import OnnxModel

    # the converter casts an output for every node that reads it, and takes a constant output for a computed one
    constants = {tensor.name for tensor in model.graph.initializer}
    read = {name for node in _nodes(model.graph) for name in node.input}
    kept = []
    for value in model.graph.output:
        name, inner = value.name, f"{value.name}__half"
        if name in read | constants:
            name_outputs(model, {name: inner})
            value.name = name
            model.graph.node.append(onnx.helper.make_node("Identity", [inner], [name], inner))
            kept += [inner] if name in constants else []
    del model.graph.value_info[:]  # of the previous types; they are inferred again
    converted = OnnxModel(model)
    converted.convert_float_to_float16(keep_io_types=True, node_block_list=kept)
    converted.topological_sort()
    return converted.model


def _check_operators(model):
    foreign = sorted(
        {f"{node.domain}::{node.op_type}" for node in _nodes(model.graph) if node.domain not in ("", "ai.onnx")}
    )
    if foreign:
        raise ExportError(f"the graph has operators outside the ONNX standard: {', '.join(foreign)}")


def _lower_versions(model) -> None:
    """Declare the lowest IR version that supports the operators, and no domain without an operator in it."""
    import onnx

    used = {node.domain for node in _nodes(model.graph)} | {"", "ai.onnx"}  # two names of the standard domain
    kept = [
        onnx.helper.make_opsetid(entry.domain, entry.version) for entry in model.opset_import if entry.domain in used
    ]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)


def refuse_too_large(sizes: Mapping[str, int], half: bool = False) -> None:
    """Reject weights that no ONNX file can hold, before the work.

    Args:
        sizes: bytes of every tensor by name.
        half: whether the weights are to be converted to float16, which is done in one piece.

    Raises:
        ExportError: names the tensor, or the total size.
    """
    for name, size in sizes.items():
        if size > TENSOR:
            raise ExportError(f"{name} has {size:,} bytes, and a tensor in a file of ONNX at most 2 GiB; split it")
    if half and sum(sizes.values()) > LIMIT:
        total = f"{sum(sizes.values()):,}"
        raise ExportError(f"the weights have {total} bytes, and at most 2 GiB can be turned to float16; leave half out")


def files_of(path: str | Path) -> list[Path]:
    """The files of a model with external weights: the data, then the model itself."""
    path = Path(path)
    return [*sorted(path.parent.glob(f"{glob.escape(path.name)}.*.data")), path]


def dynamic_sizes(dynamic: Mapping, layouts: Mapping[str, str], examples: Mapping[str, np.ndarray]) -> dict:
    """Names of dynamic axes, with height and width of every image among them.

    Raises:
        ExportError: if no input is one.
    """
    images = [name for name, array in examples.items() if layouts.get(name) == "NCHW" and array.ndim == 4]
    if not images:
        raise ExportError("dynamic_size: no input is an image, whose height and width could be dynamic; leave it out")
    sizes = {name: (*dynamic.get(name, ("N",))[:1], None, "H", "W") for name in images}
    labels = {name: (*dynamic.get(name, ("N",))[:1], "H", "W") for name, x in examples.items() if x.ndim == 3}
    return {**dynamic, **sizes, **labels}


def other_sizes(examples: Mapping[str, np.ndarray], dynamic: Mapping[str, Sequence]) -> Iterator[dict]:
    """Inputs of two other sizes: repeated beyond the border, and mirrored."""
    for more in ((32, 16), (16, 48)):
        yield {
            name: np.ascontiguousarray(
                np.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, n) for n in more], "wrap")
                if dynamic.get(name, ())[-2:] == ("H", "W")
                else array
            )
            for name, array in examples.items()
        }


def name_output_axes(model, known: Collection[str]) -> None:
    """Give every dynamic axis of an output that no input has its own name: "logits_2"."""
    for value in model.graph.output:
        for i, dimension in enumerate(value.type.tensor_type.shape.dim):
            if not dimension.dim_value and dimension.dim_param not in known:
                dimension.dim_param = f"{value.name}_{i}"


def write_verified(
    model,
    path: str | Path,
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    tolerance: float = TOLERANCE,
    others: Sequence[tuple[Mapping, Mapping]] = (),
) -> Path:
    """Check an exported model in every way that is possible, then move it into place.

    Args:
        model: the ``ModelProto``.
        path: where the file goes; nothing is left there or next to it on failure.
        inputs: example arrays by input name.
        expected: the framework's own results for them, by output name.
        metadata: strings that go into the file.
        tolerance: relative L2 difference allowed between an output and what is expected.
        others: further inputs, of other sizes, with the expected outputs.

    Returns:
        The path. Weights beyond 2 GiB, which an ONNX file cannot hold, are in a data file next to it.

    Raises:
        ExportError: if the checker, the operator list, ONNX Runtime or the comparison fails; it says which output.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    _check_operators(model)
    for node in _nodes(model.graph):  # source lines of the machine that exported it
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    del model.metadata_props[:]
    for key, value in sorted({**metadata, "diptych": _version()}.items()):
        model.metadata_props.add(key=key, value=value)
    _lower_versions(model)
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LIMIT:
        return _write_with_data(model, path, inputs, expected, tolerance)
    for given, wanted in ((inputs, expected), *others):
        _verify(model, model.SerializeToString(), given, wanted, tolerance)
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:  # unlike tempfile's, with the permissions that the user's umask grants
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # a path below a file has no file to remove
            temporary.unlink(missing_ok=True)
        raise
    return path


def _write_with_data(model, path: Path, inputs: Mapping, expected: Mapping, tolerance: float) -> Path:
    """The same for a model with its weights in a separate file.

    That file gets a new name every time: an existing model keeps its data until the new model replaces it.
    """
    import onnx

    mark = secrets.token_hex(8)
    data, folder = f"{path.name}.{mark}.data", path.parent / f".{mark}.tmp"
    placed = path.parent / data
    try:
        folder.mkdir()
        onnx.save_model(model, folder / path.name, save_as_external_data=True, location=data, size_threshold=EXTERNAL)
        _verify(str(folder / path.name), folder / path.name, inputs, expected, tolerance)
        for name in (data, path.name):
            with (folder / name).open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(folder / data, placed)
        _replace(folder / path.name, path, placed)
    except BaseException:
        with contextlib.suppress(OSError):
            placed.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def _replace(temporary: Path, path: Path, *data: Path) -> None:
    """Move a model into place; the data files of a previous one are deleted."""
    old = [file for file in files_of(path)[:-1] if file not in data]
    os.replace(temporary, path)
    for file in old:
        with contextlib.suppress(OSError):
            file.unlink()


def _verify(model, source, inputs: Mapping, expected: Mapping, tolerance: float) -> None:
    """Check a model (or a path) and compare what ONNX Runtime computes from its bytes (or the path)."""
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        found = run(session(source), inputs)
    except Exception as error:  # the checker and the runtime raise many types
        raise ExportError(f"the exported graph is not valid: {str(error).strip().splitlines()[0][:300]}") from error
    if sorted(found) != sorted(expected):
        raise ExportError(f"the exported graph returns {sorted(found)}, the model {sorted(expected)}")
    found = aligned(found, expected)
    for name, value in expected.items():
        difference = relative(found[name], value)
        if not difference <= tolerance:
            raise ExportError(
                f"output {name!r} of the exported graph differs from the model: relative L2 {difference:.2e}"
            )


def aligned(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs with the rows of their rankings in the order in which they are expected.

    Rounding swaps boxes of nearly equal scores, and with them the rows of all outputs (N, K, ...) of theirs.
    """
    found = dict(found)
    for name in RANKED:
        if name not in expected or np.shape(found.get(name)) != np.shape(expected[name]):
            continue
        lead = expected[name]
        order = np.stack([_partners(*pair) for pair in zip(found[name], lead, strict=True)])
        for other, value in expected.items():
            if np.shape(value)[:2] == lead.shape[:2] and np.shape(found[other]) == np.shape(value):
                found[other] = found[other][np.arange(len(lead))[:, None], order]
    return found


def _partners(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The row of ``found`` (K, D) for every row of ``expected``: its own, unless a few rows are those of others."""
    from scipy.optimize import linear_sum_assignment

    order = np.arange(len(expected))
    moved = np.flatnonzero(~(np.abs(found - expected).max(1) <= TOLERANCE * np.abs(expected).max(initial=1)))
    if 0 < len(moved) <= SWAPPED * len(expected) and np.isfinite(found[moved]).all():
        distances = np.abs(found[moved, None] - expected[moved]).max(2)
        theirs, ours = linear_sum_assignment(distances)
        order[moved[ours]] = moved[theirs]
    return order


def relative(a: np.ndarray, b: np.ndarray, floor: float = 0.0) -> float:
    """|a - b| / max(|b|, floor) in the L2 norm; infinite if shapes differ or a value is not finite."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    difference = np.linalg.norm(a.astype(np.float64).ravel() - b.astype(np.float64).ravel())
    size = max(np.linalg.norm(b.astype(np.float64).ravel()), floor)
    return float(difference / size) if size > 0 else (0.0 if difference == 0 else float("inf"))


def _version() -> str:
    try:
        return version("diptych")
    except PackageNotFoundError:
        return "unknown"
