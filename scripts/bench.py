"""``diptych bench``: how fast the panels and their ONNX files are, compared with each other and with the usual
packages.

The two that are compared take turns in one process, so that whatever slows the machine slows both; a ratio is the
median of the ratios of each round.
"""

import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np

from scripts.answer import ENGINES
from scripts.files import asked, example, export_files, model_of, twins
from scripts.output import frameworks, print_json, table
from scripts.parity import measured_in_turn
from scripts.references import call_of
from weights import catalog, onnx_file

__all__ = ["bench", "ratio", "spread", "timed"]

WARM_UP = 3
LENGTH = 128  # of texts, by default
PACKAGES = ("torchvision", "timm", "transformers", "segmentation_models_pytorch")  # whose models are built by one call
# model -> keras.applications' builder, its arguments, and the options that make ours the same network
KERAS: dict[str, tuple[str, dict, dict]] = {
    "mobilenet_v2": ("MobileNetV2", {}, {}),
    "mobilenet_v2_035": ("MobileNetV2", {"alpha": 0.35}, {}),
    "mobilenet_v2_050": ("MobileNetV2", {"alpha": 0.5}, {}),
    "mobilenet_v2_075": ("MobileNetV2", {"alpha": 0.75}, {}),
    "mobilenet_v2_140": ("MobileNetV2", {"alpha": 1.4}, {}),
    "resnet50": ("ResNet50", {}, {"stride_in_1x1": True}),
    "resnet101": ("ResNet101", {}, {"stride_in_1x1": True}),
    "resnet152": ("ResNet152", {}, {"stride_in_1x1": True}),
    "mobilenet_v1": ("MobileNet", {}, {}),
    "mobilenet_v3_large": ("MobileNetV3Large", {"include_preprocessing": False}, {}),
    "mobilenet_v3_small": ("MobileNetV3Small", {"include_preprocessing": False}, {}),
    "inception_v3": ("InceptionV3", {}, {"aux_logits": False}),
    "inception_resnet_v2": ("InceptionResNetV2", {}, {}),
    "xception": ("Xception", {}, {}),
    "tf_efficientnet_b0": ("EfficientNetB0", {}, {}),
}


def _compiled(model, values) -> Callable[[], object]:
    import tensorflow as tf

    function = tf.function(lambda *arrays: model(*arrays, training=False), autograph=False)
    return lambda: function(*values)


def _eager(module, args=(), kwargs=None) -> Callable[[], object]:
    import torch

    def run():
        with torch.inference_mode():
            return module(*args, **(kwargs or {}))

    return run


def _answering(panel, values) -> Callable[[], object]:
    """PyTorch's model, a detector with its post-process, which torchvision's detectors include."""
    import torch

    from torch_impl.export import apply_postprocess

    if panel.postprocess is None or "boxes" in panel.entry.outputs:  # with masks, the model itself finds them
        return _eager(panel.model, values)

    def run():
        with torch.inference_mode():
            return apply_postprocess(panel.postprocess, panel.model(*values), values)

    return run


def _keras_pair(model: catalog.Model, inputs: Mapping[str, np.ndarray]) -> dict[str, Callable] | str:
    """Ours and keras.applications' model as compiled functions, or why there is no such pair."""
    if model.name not in KERAS:
        return "keras.applications has no such model"
    import keras

    import parity_tests.harness.panels

    builder, arguments, options = KERAS[model.name]
    panel = parity_tests.harness.panels.TensorFlow(model, options, precision="float32")
    values = list(panel.tensors(inputs).values())
    theirs = getattr(keras.applications, builder)(
        weights=None, input_shape=values[0].shape[1:], classifier_activation=None, **arguments
    )
    return {"ours": _compiled(panel.model, values), f"keras.applications.{builder}": _compiled(theirs, values)}


def _reference(model: catalog.Model):
    """The module that the catalogue names as reference, in evaluation mode, or why there is none."""
    package = model.reference.partition(".")[0]
    if package not in PACKAGES:
        return f"the reference, {model.reference}, is no model of {', '.join(PACKAGES)}"
    try:
        importlib.import_module(package)
    except ImportError:
        return f"{package} is not installed"
    try:
        path, builder, arguments, options = call_of(model.reference)
    except SyntaxError:
        return f"the reference, {model.reference}, is not built by one call"
    build = getattr(importlib.import_module(path), builder)
    if path.startswith(("torchvision.models.detection", "torchvision.models.segmentation")):
        options["weights_backbone"] = None  # by default they are downloaded
    if package == "segmentation_models_pytorch":
        options["encoder_weights"] = None
    if package == "transformers":  # the published base size is what a configuration is without arguments
        arguments = [build.config_class(use_cache=False)]
    theirs = build(*arguments, **options).eval()
    parameters = sum(parameter.numel() for parameter in theirs.parameters())
    if parameters != model.parameters:
        return f"{model.reference} has {parameters:,} parameters where ours has {model.parameters:,}"
    return theirs


def _torch_pairs(model: catalog.Model, panel, example, feed, session, threads: int, folder: Path) -> list[dict | str]:
    """Ours and the reference as eager modules, then our ONNX file and the reference's; or why there is no pair."""
    import torch

    theirs = _reference(model)
    if isinstance(theirs, str):
        return [theirs]
    named = model.reference.startswith("transformers.")  # its arguments have our names, in a different order
    detector = model.reference.startswith("torchvision.models.detection.")
    if detector:  # how many boxes are kept depends on the weights, and the work on the boxes
        theirs.load_state_dict(panel.model.state_dict())
        theirs.transform.image_mean, theirs.transform.image_std = [0.0] * 3, [1.0] * 3  # ours takes standardised ones

    def arguments(tensors):
        return ((), tensors) if named else (tuple(tensors.values()), {})

    tensors = panel.tensors(feed)
    ours = _answering(panel, list(tensors.values())) if detector else _eager(panel.model, tensors.values())
    pairs: list[dict | str] = [{"ours": ours, model.reference: _eager(theirs, *arguments(tensors))}]
    if detector:
        return [*pairs, f"{model.reference} takes a list of pictures, which its file would have the number of"]
    path = folder / "reference.onnx"
    batch = {name: {0: torch.export.Dim("N")} for name in example}
    try:
        args, kwargs = arguments(panel.tensors(example))
        torch.onnx.export(
            theirs,
            args,
            path,
            kwargs=kwargs,
            dynamo=True,
            verbose=False,
            opset_version=18,
            dynamic_shapes=batch if named else tuple(batch.values()),
        )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        return [*pairs, f"{model.reference} does not export: {str(error).splitlines()[0]}"]
    file = onnx_file.session(path, threads=threads, spinning=False)
    names = list(feed) if named else [value.name for value in file.get_inputs()]
    given = dict(zip(names, feed.values(), strict=True))
    return [
        *pairs,
        {
            "our ONNX file": lambda: onnx_file.run(session, feed),
            f"the ONNX file of {model.reference}": lambda: onnx_file.run(file, given),
        },
    ]


def timed(functions: Mapping[str, Callable], runs: int) -> dict[str, list[float]]:
    """Milliseconds of every run; the functions take turns, and every round starts with a different one.

    A function runs once untimed first, so that what ran before it, waiting threads included, does not count.
    """
    names = list(functions)
    for _ in range(WARM_UP):
        for function in functions.values():
            function()
    found: dict[str, list[float]] = {name: [] for name in names}
    for i in range(runs):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            functions[name]()
            start = time.perf_counter()
            functions[name]()
            found[name].append(1000 * (time.perf_counter() - start))
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
    return {"median": float(f"{median:.4g}"), "low": float(f"{low:.4g}"), "high": float(f"{high:.4g}")}


def ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of each round."""
    return spread([x / y for x, y in zip(a, b, strict=True)])


def _measured(
    model: catalog.Model, batch: int, length: int, threads: int, runs: int, reference: bool, folder: Path
) -> dict:
    inputs, _, dynamic = example(model, length=length)
    panels, _ = twins(model)
    files = export_files(panels, folder, inputs, None, dynamic)
    feed = example(model, batch, length=length)[0]
    tensorflow, torch, tensorflow_file, torch_file = ENGINES
    sessions = {name: onnx_file.session(path, threads=threads, spinning=False) for name, path in files.items()}
    pairs: list[dict | str] = [
        {
            tensorflow: _compiled(panels["tensorflow"].model, list(panels["tensorflow"].tensors(feed).values())),
            torch: _eager(panels["torch"].model, panels["torch"].tensors(feed).values()),
        },
        {
            tensorflow_file: lambda: onnx_file.run(sessions["tensorflow"], feed),
            torch_file: lambda: onnx_file.run(sessions["torch"], feed),
        },
    ]
    if reference:
        pairs.append(_keras_pair(model, feed))
        pairs += _torch_pairs(model, panels["torch"], inputs, feed, sessions["torch"], threads, folder)
    found = {"model": model.name, "milliseconds": {}, "ratios": {}, "left out": []}
    for pair in pairs:
        if isinstance(pair, str):
            found["left out"].append(pair)
            continue
        times = timed(pair, runs)
        ours, theirs = times
        named = f"{ours} beside {theirs}" if ours.startswith("our") else ours
        found["milliseconds"] |= {named: spread(times[ours]), theirs: spread(times[theirs])}
        found["ratios"] |= {f"{ours} / {theirs}": ratio(times[ours], times[theirs])}
    return found


def bench(
    names: Sequence[str], threads: int, batch: int, length: int, runs: int, reference: bool, as_json: bool
) -> None:
    """Time models at their published sizes, seeded weights, float32, on the CPU."""
    models = {name: model_of(name) for name in names}
    for model in models.values():
        example(model, batch, length=length)  # what does not fit into memory is rejected before the work
    frameworks(threads)
    import tensorflow as tf
    import torch

    counts = {
        "tensorflow": tf.config.threading.get_intra_op_parallelism_threads(),
        "torch": torch.get_num_threads(),
        "onnxruntime": threads,
    }

    def measure(name, tell):
        tell("export and timing")
        said = f"{name}: --length {length}" if length != LENGTH else ""
        with tempfile.TemporaryDirectory() as folder, asked(said, "try a shorter length"):
            return _measured(models[name], batch, length, threads, runs, reference, Path(folder))

    found = [measured for _, (measured,) in measured_in_turn(list(models), 1, 1, measure)]
    if as_json:
        versions = {package: version(package) for package in ("tensorflow", "torch", "onnxruntime")}
        said = {"versions": versions, "threads": counts, "batch": batch, "length": length, "runs": runs}
        print_json({**said, "models": found})
        return
    for measured in found:
        rows = [
            [name, f"{s['median']:.4g} ms", f"{s['low']:.4g} to {s['high']:.4g}"]
            for name, s in measured["milliseconds"].items()
        ]
        rows += [
            [name, f"{s['median']:.3f}", f"{s['low']:.3f} to {s['high']:.3f}"] for name, s in measured["ratios"].items()
        ]
        title = f"{measured['model']}: batch {batch}, {runs} runs in turn, threads {counts}"
        table(["", "median", "quartiles"], rows, title, right=["median", "quartiles"])
        for reason in measured["left out"]:
            click.echo(f"left out: {reason}")
