"""Export of PyTorch modules to ONNX.

Mirror notes:
- TensorFlow traces a function of NHWC tensors and tf2onnx moves the axes; PyTorch exports NCHW as it is.
- tf2onnx writes an invalid graph without raising where it lacks an operator; the checks that follow detect it.
"""

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from torch_impl import state
from torch_impl.layers import native
from weights import onnx_file, store

__all__ = ["apply_postprocess", "export", "export_forms"]


class _Graph(nn.Module):
    """A model, then criterion and post-process, as one function of tensors with a flat dictionary of results.

    The keys are "model.logits", "losses.total", "results.scores", ...: variant, and name within it.
    """

    def __init__(self, model, forms, inputs, targets, outputs, criterion, postprocess, call, needs_targets):
        super().__init__()
        self.model, self.criterion, self.postprocess = model, criterion, postprocess
        self.call, self.needs_targets = call or "__call__", needs_targets
        self.forms, self.inputs, self.targets, self.outputs = forms, inputs, targets, outputs
        self.names = list(dict.fromkeys([*inputs, *targets]))  # a target may be an input, too

    def forward(self, *values):
        given = dict(zip(self.names, values, strict=True))
        inputs = [given[name] for name in self.inputs]
        targets = {name: given[name] for name in self.targets}
        call = getattr(self.model, self.call)
        returned = call(*inputs) if not self.needs_targets or self.forms != ["losses"] else None
        found = {}
        for form in self.forms:
            if form == "losses":
                results = self.criterion(call(*inputs, targets=targets) if self.needs_targets else returned, targets)
            else:
                results = apply_postprocess(self.postprocess, returned, inputs) if form == "results" else returned
            results = onnx_file.named(results, self.outputs)
            found |= {f"{form}.{name}": value for name, value in sorted(results.items())}
        return found


def apply_postprocess(postprocess, outputs, inputs: Sequence) -> dict:
    """Apply a post-process to a model's outputs.

    A post-process that takes ``image_size`` is given (N, 2) int64, one that takes ``input_size`` height and width as
    numbers: those of the first input.
    """
    parameters = inspect.signature(postprocess.forward).parameters
    if "input_size" in parameters:
        return postprocess(outputs, tuple(inputs[0].shape[2:]))
    if "image_size" not in parameters:
        return postprocess(outputs)
    size = torch.tensor(inputs[0].shape[2:], device=inputs[0].device)
    return postprocess(outputs, size.expand(inputs[0].shape[0], 2))


def export(model, path: str | Path, inputs: Mapping[str, np.ndarray], *, criterion=None, postprocess=None, **options):
    """Write a model as ONNX: alone, with its criterion (losses out), or with its post-process (results out).

    Args:
        model: a module in float32.
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
        model: a module in float32.
        paths: the files to write, by variant: "model", "losses" (needs ``criterion``), "results" (``postprocess``).
        inputs: example arrays (batch of 2 or more) by name, in the order of the model's arguments; maps are NCHW.
        layouts: of inputs, targets and outputs that have channels; not needed here, they are right already.
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
    from onnxscript import optimizer

    targets = (targets or {}) if "losses" in paths else {}
    examples = {**inputs, **targets}
    dynamic = onnx_file.dynamic_sizes(dynamic or {}, layouts or {}, examples) if dynamic_size else dynamic or {}
    onnx_file.refuse_too_large({name: tensor.nbytes for name, tensor in model.state_dict().items()}, half)
    training = model.training
    model.eval()
    graph = _Graph(
        model, list(paths), list(inputs), list(targets), outputs, criterion, postprocess, call, needs_targets
    )
    values = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in examples.values())
    symbols = {symbol: torch.export.Dim(symbol) for symbol in sorted(_symbols(dynamic, examples))}
    shapes = tuple(
        {i: symbols[symbol] for i, symbol in enumerate(dynamic.get(name, ("N",))) if symbol} for name in examples
    )
    try:
        with torch.no_grad():
            expected = {name: value.numpy() for name, value in graph(*values).items()}
            others = []
            for given in onnx_file.other_sizes(examples, dynamic) if dynamic_size else ():
                found = graph(*(torch.from_numpy(array) for array in given.values()))
                others.append((given, {name: value.numpy() for name, value in found.items()}))
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), native.exporting_to_onnx():
            warnings.simplefilter("ignore")
            for talkative in ("torch.onnx", "onnx_ir", "onnxscript"):
                logging.getLogger(talkative).setLevel(logging.CRITICAL)
            program = torch.onnx.export(  # mirror: moves the axes
                graph,
                values,
                dynamo=True,
                verbose=False,
                opset_version=18,
                input_names=list(examples),
                output_names=list(expected),
                dynamic_shapes=(shapes,),
            )
            # the exporter leaves it to the runtime to transpose and reorder large weights
            optimizer.fold_constants(program.model, input_size_limit=2**31)
            optimizer.remove_unused_nodes(program.model)
        proto = program.model_proto
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise onnx_file.ExportError(
            f"PyTorch could not export the model: {str(error).splitlines()[0][:300]}"
        ) from error
    finally:
        model.train(training)
    if any(node.op_type == "DeformConv" for node in proto.graph.node):
        proto.opset_import[0].version = 19
    metadata = {"framework": "pytorch", "weights": store.digest(state.state_dict(model)), **(metadata or {})}
    for form, path in paths.items():
        shorter = {name: name.removeprefix(f"{form}.") for name in expected if name.startswith(f"{form}.")}
        part = onnx_file.cut(proto, examples if form == "losses" else inputs, shorter)
        wanted = {short: expected[name] for name, short in shorter.items()}
        tolerance = onnx_file.HALF_TOLERANCE if half else onnx_file.TOLERANCE
        part = onnx_file.half(part) if half else part
        if dynamic_size:
            onnx_file.name_output_axes(part, ("N",))
        checks = [(given, {short: found[name] for name, short in shorter.items()}) for given, found in others]
        onnx_file.write_verified(part, path, examples, wanted, metadata, tolerance, checks)  # mirror: invalid graph
    return {form: Path(path) for form, path in paths.items()}


def _symbols(dynamic: Mapping[str, Sequence[str | None]], examples: Mapping) -> set[str]:
    return {symbol for name in examples for symbol in dynamic.get(name, ("N",)) if symbol}
