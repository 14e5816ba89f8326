"""``diptych predict``: the answers of four engines, TensorFlow, PyTorch and both ONNX files, in one table."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from scripts.files import asked, example, export_files, model_of, twins
from scripts.output import Problem, frameworks, print_json, table
from scripts.questions import Request, preprocessing, question_of
from weights import catalog, onnx_file

__all__ = ["ENGINES", "agreement", "answered", "ask", "engines", "predict", "results_of"]

ENGINES = ("TensorFlow", "PyTorch", "TensorFlow's ONNX", "PyTorch's ONNX")
TOLERANCE = 1e-4  # relative L2 between engines, in float32; the parity suite measures finer
RUNS = 5

Arrays = dict[str, np.ndarray]


def engines(model: catalog.Model, panels: Mapping, files: Mapping, threads: int = 0) -> dict[str, Callable]:
    """The four engines of a model by name: functions from inputs to outputs, arrays by name, maps as NCHW."""
    import tensorflow as tf

    ours, torch = panels["tensorflow"], panels["torch"]
    graph = tf.function(lambda *values: ours.call(*values, training=False), autograph=False, reduce_retracing=True)
    sessions = [onnx_file.session(files[name], threads=threads) for name in ("tensorflow", "torch")]

    def tensorflow(feed):
        return ours.arrays(ours.named(graph(*ours.tensors(feed).values())))

    functions = (tensorflow, torch.outputs, *((lambda feed, s=s: onnx_file.run(s, feed)) for s in sessions))
    return dict(zip(ENGINES, functions, strict=True))


def results_of(panel, feed: Arrays, outputs: Arrays) -> Arrays:
    """Apply PyTorch's post-process to an engine's outputs; nothing if there is none."""
    if panel.postprocess is None:
        return {}
    import torch

    from torch_impl.export import apply_postprocess

    given = panel.tensors(outputs)
    if len(given) == 1 and panel.entry.family not in ("detection", "segmentation"):  # they return a dict of one
        (given,) = given.values()
    with torch.no_grad():
        return panel.arrays(apply_postprocess(panel.postprocess, given, list(panel.tensors(feed).values())))


def in_batches(function: Callable, feed: Arrays, batch: int | None) -> Arrays:
    """The outputs of an engine, computed for a limited number of rows at once."""
    rows = len(next(iter(feed.values())))
    if batch is None or rows <= batch:
        return function(feed)
    chunks = ({name: array[start : start + batch] for name, array in feed.items()} for start in range(0, rows, batch))
    parts = [function(chunk) for chunk in chunks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def agreement(outputs: Mapping[str, Arrays]) -> float:
    """The largest relative L2 difference of an engine's outputs from PyTorch's."""
    expected = outputs["PyTorch"]
    found = [onnx_file.aligned(of_engine, expected) for of_engine in outputs.values()]
    return max(onnx_file.relative(arrays[name], expected[name]) for arrays in found for name in expected)


def ask(
    model: catalog.Model,
    request: Request,
    weights: str | None,
    folder: Path,
    options: Mapping | None = None,
    key: str | None = None,
    draw: Path | None = None,
    mesh: Path | None = None,
) -> dict:
    """Ask all engines; both ONNX files stay in the folder, a drawing of the answers in the file ``draw``, and PyTorch's
    surface in the file ``mesh``.

    Returns:
        "checkpoint", "files", "difference", per engine "milliseconds" (median) and "answers"; if they are surfaces also
        "vertices": the largest distance of a vertex from PyTorch's.

    Raises:
        Problem, PictureError, ...: if an input is not what the model takes.
    """
    question = question_of(model)
    if question is None:
        raise Problem(
            f"predict asks classifiers, segmenters, detectors, generators and translators of images, finders of faces, "
            f"joints and surfaces, encoders of pictures and sentences, readers of text lines, taggers of words and "
            f"trackers; {model.name} ({model.family}) is none of them: export it, and run the file"
        )
    meshes = ("face_mesh", "position_mesh", "body_mesh")
    for given, said, wanted in (
        (request.index or request.rerank, "--index and --rerank", ("embeddings",)),
        (request.seed is not None, "--seed", ("noise",)),
        (request.box is not None, "--box", meshes),
        (request.frames is not None, "--frames", ()),
        (request.basis is not None or mesh is not None, "--basis and --mesh", meshes),
    ):
        if given and question.__name__ not in wanted:
            raise Problem(f"{said}: {model.name} has no use for it; leave it out")
    if not request.inputs and question.__name__ != "noise":
        raise Problem(f"{model.name} needs an INPUT; see: diptych predict --help")
    known = {c.name for c in model.checkpoints}
    if model.checkpoints or weights is None:
        entry = model.checkpoint(weights if weights in known else None)
    else:
        entry = catalog.Checkpoint(weights, "", preprocessing=preprocessing(model))
    asked_for = question(model, entry, request)
    if draw is not None:
        from scripts.draw import check

        check(draw)
        if asked_for.draw is None:
            raise Problem(f"--draw: the answers of {model.name} are a table; leave it out")
    if mesh is not None:
        from scripts import meshes

        meshes.check(mesh)
    frameworks()
    import torch

    feed = asked_for.feed
    # exported with a batch of at least two: a batch of one would become a constant
    single = {name for name, array in feed.items() if model.inputs[name].shape[0] == "N" and len(array) == 1}
    examples = {name: np.concatenate([array] * 2) if name in single else array for name, array in feed.items()}
    examples = {name: array[: asked_for.batch] for name, array in examples.items()}
    with asked(", ".join(map(str, request.inputs)) or model.name):
        panels, _ = twins(model, weights, options=options, key=key)
        files = export_files(panels, folder, examples, None, example(model)[2])
    functions = engines(model, panels, files, torch.get_num_threads())
    # the first run traces and warms up
    outputs = {name: in_batches(function, feed, asked_for.batch) for name, function in functions.items()}
    results = {name: results_of(panels["torch"], feed, found) for name, found in outputs.items()}
    found = {name: outputs[name] | results[name] for name in functions}
    if draw is not None:
        from scripts.draw import save

        save(asked_for.draw(found), draw)
    vertices = {}
    if asked_for.mesh is not None:
        surfaces = {name: asked_for.mesh(found) for name, found in outputs.items()}
        expected = surfaces["PyTorch"].vertices
        away = max(np.linalg.norm(found.vertices - expected, axis=1).max() for found in surfaces.values())
        vertices = {"vertices": float(f"{away:.3g}")}
        if mesh is not None:
            meshes.save(surfaces["PyTorch"], mesh)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    feed = {name: array[: asked_for.batch] for name, array in feed.items()}
    for _ in range(RUNS):
        for name, function in functions.items():
            start = time.perf_counter()
            function(feed)
            seconds[name].append(time.perf_counter() - start)
    common = asked_for.common(found) if asked_for.common else []
    answers = {name: asked_for.read(outputs[name], results[name]) + common for name in functions}
    paths = {name: str(path) for name, path in files.items()}
    told = answered(model.name, weights or entry.name, request.inputs, agreement(outputs), paths, seconds, answers)
    return told | vertices


def answered(
    name: str,
    checkpoint: str,
    inputs: Sequence,
    difference: float,
    files: Mapping[str, str],
    seconds: Mapping[str, Sequence[float]],
    answers: Mapping[str, list],
) -> dict:
    """The result of :func:`ask`, from every engine's ``seconds`` and ``answers``."""
    return {
        "model": name,
        "checkpoint": checkpoint,
        "inputs": [str(path) for path in inputs],
        "difference": float(f"{difference:.3g}"),
        "files": dict(files),
        "engines": {
            engine: {"milliseconds": round(1000 * statistics.median(seconds[engine]), 2), "answers": rows}
            for engine, rows in answers.items()
        },
    }


def print_answers(found: dict, times: str = f"median of {RUNS} runs") -> None:
    """The answers side by side, without those whose share is 0 everywhere; ``times`` says what was timed."""
    answers = {name: engine["answers"] for name, engine in found["engines"].items()}
    cells = [row for row in zip(*answers.values(), strict=True) if any(cell.get("share", 1) for cell in row)]
    rows = [[row[0]["row"], *(cell["text"] for cell in row)] for row in cells]
    timed = [f"{engine['milliseconds']:.1f} ms" for engine in found["engines"].values()]
    table(
        ["", *answers],
        [*rows, [times, *timed]],
        f"{found['model']}, checkpoint {found['checkpoint']}",
    )
    print(f"largest relative difference from PyTorch: {found['difference']:.1e}")
    if "vertices" in found:
        print(f"largest distance of a vertex from PyTorch's: {found['vertices']:.1e}")


def predict(
    name: str,
    request: Request,
    checkpoint: str | None,
    as_json: bool,
    options: Mapping | None = None,
    key: str | None = None,
    draw: Path | None = None,
    mesh: Path | None = None,
) -> int:
    """Answers of all engines; 1 if they differ by more than ``TOLERANCE``."""
    timed = f"median of {RUNS} runs"
    with tempfile.TemporaryDirectory() as folder:
        others = request.index or request.rerank or request.seed is not None
        unused = others or mesh is not None or request.basis is not None
        if name in ("mtcnn", "mtcnn_cascade"):
            from scripts import cascade

            if options or key or unused or request.box is not None or request.frames is not None:
                raise Problem(f"{name} takes a picture, --checkpoint, --top and --draw; leave the other options out")
            found = cascade.ask(request, checkpoint, Path(folder), draw)
        elif model_of(name).family == "tracking":
            from scripts import tracks

            if unused or request.frames is not None:
                raise Problem(f"{name} takes frames, --checkpoint, --box and --draw; leave the other options out")
            found = tracks.ask(model_of(name), request, checkpoint, Path(folder), options, key, draw)
            timed = "median of a frame"
        elif name in ("fomm", "fomm_adv"):
            from scripts import animation

            if unused or request.box is not None:
                raise Problem(f"{name} takes a picture, --checkpoint, --frames and --draw; leave the other options out")
            found = animation.ask(model_of(name), request, checkpoint, Path(folder), options, key, draw)
            timed = "median of a frame"
        elif model_of(name).name == "pifuhd":
            from scripts import surfaces

            if others or request.basis is not None or request.frames is not None:
                raise Problem(f"{name} takes a picture, --checkpoint, --box, --mesh and --draw; leave the others out")
            found = surfaces.ask(model_of(name), request, checkpoint, Path(folder), options, key, draw, mesh)
            timed = "a reconstruction"
        else:
            found = ask(model_of(name), request, checkpoint, Path(folder), options, key, draw, mesh)
    del found["files"]
    if as_json:
        print_json(found)
    else:
        print_answers(found, timed)
    return 0 if found["difference"] <= TOLERANCE else 1
