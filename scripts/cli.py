"""The command line. A command imports what it needs when it runs: ``diptych list`` needs neither framework.

Exit codes: 0 good, 1 parity broken, 2 bad usage or input (one line says what), 130 interrupted;
70, with a traceback, is a bug in this program.
"""

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

import click

from scripts.output import line, prepare_streams, print_json, table
from scripts.parity import LEVELS, proof_states
from weights import catalog

__all__ = ["main"]

INTERRUPTED = 130
BUG = 70  # as in sysexits.h; 1 is for broken parity
MOST = max(16, 4 * (os.cpu_count() or 1))  # threads or processes
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _read_options(ctx, parameter, values) -> dict:
    """NAME=VALUE as a dictionary; a value is JSON (10, 0.5, true, [1, 2]) or else a word."""
    found = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{value!r}; NAME=VALUE such as num_classes=10 was expected", ctx, parameter)
        try:
            found[name] = json.loads(text)
        except (ValueError, RecursionError):
            found[name] = text
    return found


options = click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_read_options,
    help="Of the model's builder, such as num_classes=10; may be repeated.",
)
key = click.option("--key", help="Which set of weights, if a PyTorch file holds several, such as state_dict_ema.")


def message(error: Exception) -> str | None:
    """The line for an error that the user can fix; None for a bug."""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.format_message().rstrip('.')}; see `{error.ctx.command_path} --help`"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if any(base.__module__.startswith(("weights.", "scripts.")) for base in type(error).__mro__):
        return str(error)
    if isinstance(error, OSError):
        reason = error.strerror or line(error)
        return f"{error.filename}: {reason}; check the path" if error.filename else f"{reason}; make room and try again"
    if isinstance(error, MemoryError):
        return "out of memory; free some, or choose a smaller size"
    return None


@contextlib.contextmanager
def interruptible():
    """Let Ctrl-C through: an interruption that a library swallows is repeated every two seconds until it takes effect.

    Raises:
        Abort: instead of an error that follows an interruption: a library may convert one into the other.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    interrupted = False

    def interrupt(number, frame):
        nonlocal interrupted
        interrupted = True
        signal.setitimer(signal.ITIMER_REAL, 2)
        sys.unraisablehook = lambda _: None  # code that swallows it, or was interrupted while being built, reports it
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, interrupt)) for number in (signal.SIGINT, signal.SIGALRM)]
    try:
        yield
    except Exception as error:
        if interrupted:
            raise click.Abort from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)


class Commands(click.Group):
    """A group that ends with one line and a specific exit code for every error."""

    def main(self, *args, standalone_mode: bool = True, **extra):
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        prepare_streams()
        try:
            with interruptible():
                code = super().main(*args, standalone_mode=False, **extra)
        except click.Abort:
            click.echo("diptych: interrupted; no unfinished file was left", err=True)
            code = INTERRUPTED
        except Exception as error:
            text = message(error)
            if text is None:
                import traceback

                traceback.print_exc()
                code = BUG
            else:
                words = (
                    word if len(word) <= 500 else f"{word[:100]}... ({len(word):,} characters)" for word in text.split()
                )
                click.echo(f"diptych: {' '.join(words)}", err=True)
                code = 2
        sys.exit(code or 0)

    def invoke(self, ctx):
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # as in `diptych list | head`; click would end with 1, which is for broken parity
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


class Size(click.ParamType):
    """Height and width, such as 224x320."""

    name = "HxW"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        numbers = value.lower().split("x")
        fits = [number.isascii() and number.isdigit() and len(number) <= 9 and int(number) for number in numbers]
        if len(numbers) != 2 or not all(fits):
            self.fail(f"{value!r} is no size; height and width such as 224x320 were expected", param, ctx)
        return tuple(map(int, numbers))


class Box(click.ParamType):
    """Four numbers, such as 10,20,64,48."""

    name = "x,y,w,h"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(number) for number in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 4 or not all(abs(number) < 1e9 for number in numbers):
            self.fail(f"{value!r} is no box; left, top, width and height such as 10,20,64,48 were expected", param, ctx)
        return numbers


@click.group(
    "diptych", cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.pass_context
def main(ctx):
    """Deep-learning systems written twice, in TensorFlow/Keras and in PyTorch, and proven equal.

    Every command has --help and --json. Exit codes: 0 good, 1 parity broken, 2 bad usage or input.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@main.command("list")
@click.option("--family", type=click.Choice(catalog.FAMILIES), help="Only this family.")
@click.option("--kind", type=click.Choice(catalog.KINDS), help="Only models, losses, operators, ...")
@as_json
def list_(family, kind, as_json):
    """Show what is in the catalogue, and what is proven."""
    states = proof_states()
    chosen = [m for m in catalog.load().values() if family in (None, m.family) and kind in (None, m.kind)]
    rows = [
        {
            "name": m.name,
            "system": m.system,
            "family": m.family,
            "kind": m.kind,
            "parameters": m.parameters,
            "maps": m.maps,
            "checkpoints": [checkpoint.name for checkpoint in m.checkpoints],
            "proof": "written once" if m.neutral else states.get(m.name, "not measured"),
        }
        for m in chosen
    ]
    if as_json:
        print_json(rows)
        return
    columns = ["name", "system", "family", "kind", "parameters", "checkpoints", "proof"]
    cells = [
        [
            *(row[key] for key in columns[:4]),
            f"{row['parameters']:,}" if row["parameters"] else "",
            ", ".join(row["checkpoints"]),
            row["proof"],
        ]
        for row in rows
    ]
    table(columns, cells, right=["parameters"])


@main.command()
@click.argument("name")
@click.option("--only", metavar="NAME", help="One class, method (Class.method) or function.")
@click.option("--stacked", is_flag=True, help="One above the other, for narrow terminals.")
@as_json
def show(name, only, stacked, as_json):
    """Show both panels of a model side by side, aligned by definition."""
    from scripts.show import show

    show(name, only, stacked, as_json)


@main.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every case.")
@click.option("--level", "levels", multiple=True, type=click.Choice(LEVELS), help="Only this level; may be repeated.")
@click.option("--trace", is_flag=True, help="Find the first module whose output differs, in execution order.")
@click.option("--save", "to_file", is_flag=True, help="Keep the figures in parity_tests/proof.")
@click.option(
    "--jobs", type=click.IntRange(1, MOST), default=2, show_default=True, help="Processes; two share one case."
)
@as_json
def parity(names, everything, levels, trace, to_file, jobs, as_json):
    """Measure the proof of models or cases: worst figure of each level, bound, and whether it holds."""
    from scripts.parity import parity

    return parity(names, everything, levels, trace, to_file, jobs, as_json)


@main.command()
@click.argument("name")
@click.option(
    "--framework", type=click.Choice(["tensorflow", "torch", "both"]), default="both", show_default=True, help="Panel."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the files; made if need be.")
@click.option(
    "--weights",
    default="seeded",
    show_default=True,
    help="seeded, random, a checkpoint, or a .safetensors file.",
)
@click.option("--size", type=Size(), help="Of the pictures; the published size by default.")
@click.option("--dynamic-size", is_flag=True, help="Height and width are dynamic, too; checked at three sizes.")
@click.option("--with-loss", is_flag=True, help="Model and criterion: inputs and targets in, losses out.")
@click.option("--with-results", is_flag=True, help="Model and post-process.")
@click.option("--half", is_flag=True, help="Weights and arithmetic in float16; inputs and outputs stay float32.")
@options
@key
@click.option("--compare", is_flag=True, help="Show the operators of the graphs and stray Transposes.")
@as_json
def export(
    name, framework, out, weights, size, dynamic_size, with_loss, with_results, half, options, key, compare, as_json
):
    """Write ONNX files, checked against eager."""
    if with_loss + with_results + half > 1:
        raise click.UsageError("--with-loss, --with-results and --half make different files: choose one")
    from scripts.files import export

    form = "loss" if with_loss else "results" if with_results else None
    export(name, framework, out, weights, size, form, half, compare, as_json, options, key, dynamic_size)


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--model", "name", required=True, help="The model that the weights are of.")
@click.option("--checkpoint", help="Apply the rename patterns and options of this checkpoint of the catalogue.")
@options
@key
@as_json
def convert(source, target, name, checkpoint, options, key, as_json):
    """Convert SOURCE (.pth, .safetensors, .weights.h5, .h5, .keras) to TARGET (.safetensors, .weights.h5, .pth)."""
    from scripts.files import convert

    convert(source, target, name, checkpoint, as_json, options, key)


@main.command()
@click.argument("name")
@click.argument("checkpoint", required=False)
@as_json
def fetch(name, checkpoint, as_json):
    """Get an official checkpoint, verified; the first one by default."""
    from scripts.files import fetch

    fetch(name, checkpoint, as_json)


@main.command()
@click.argument("name")
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("--checkpoint", help="A checkpoint's name, or a file; the first of the catalogue by default.")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes, boxes, or near pictures.")
@click.option("--draw", type=click.Path(path_type=Path), help="Also a picture of the answers: maps, boxes, images.")
@click.option("--index", type=click.Path(path_type=Path), help="A folder: which of its pictures are like INPUT?")
@click.option("--rerank", is_flag=True, help="Order them by the neighbours that they share with INPUT.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of the noise that a picture is made of.")
@click.option("--box", type=Box(), help="Where the object, the face or the person is, in pixels.")
@click.option("--frames", type=click.Path(path_type=Path), help="A folder or a video: move INPUT as they move.")
@click.option("--mesh", type=click.Path(path_type=Path), help="Also the surface that was found: .obj or .ply.")
@click.option(
    "--basis", type=click.Path(path_type=Path), help="The face or body model it is made of: arrays in a .npz."
)
@options
@key
@as_json
def predict(name, inputs, checkpoint, top, draw, index, rerank, seed, box, frames, mesh, basis, options, key, as_json):
    """Answers of four engines: TensorFlow, PyTorch and both ONNX files.

    INPUT: pictures (classification), one picture (segmentation, detection, image to image, faces, joints, surfaces),
    two or more pictures or one and a folder (faces, persons and places as vectors), pictures of text lines (ocr),
    sentences (sentence encoders), a folder of frames or a video (trackers), one picture and --frames (animation), or
    nothing (generators). What moves is drawn into a folder, a .mp4 or a .gif.
    """
    from scripts.answer import predict
    from scripts.questions import Request

    return predict(
        name,
        Request(inputs, top, index, rerank, seed, box, basis, frames),
        checkpoint,
        as_json,
        options,
        key,
        draw,
        mesh,
    )


@main.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--threads", type=click.IntRange(1, MOST), default=1, show_default=True, help="Of every engine.")
@click.option("--batch", type=click.IntRange(1, 10**9), default=1, show_default=True, help="Size of the batch.")
@click.option("--length", type=click.IntRange(1, 10**9), default=128, show_default=True, help="Of texts, in tokens.")
@click.option("--runs", type=click.IntRange(1, 10**9), default=20, show_default=True, help="Rounds.")
@click.option("--against", type=click.Choice(["reference"]), help="Also keras.applications and the reference.")
@as_json
def bench(names, threads, batch, length, runs, against, as_json):
    """Time panels and ONNX files in turn: medians, quartiles and ratios."""
    from scripts.bench import bench

    bench(names, threads, batch, length, runs, against == "reference", as_json)


@main.command()
@click.argument("names", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the pages; made if need be.")
@click.option("--measure", is_flag=True, help="First run the details that are missing: up to half a minute a case.")
@click.option("--jobs", type=click.IntRange(1, MOST), default=1, show_default=True, help="Processes that measure.")
@as_json
def report(names, out, measure, jobs, as_json):
    """Write a static site: both files of every system side by side, and what was measured between them.

    NAMES: models or systems; all without. Details are kept in the cache folder (DIPTYCH_CACHE); what was not run is
    marked so.
    """
    from scripts.report import report

    report(names, out, measure, jobs, as_json)


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("diptych-demo"),
    show_default=True,
    help="Folder of the files.",
)
@as_json
def demo(out, as_json):
    """MobileNetV2 with its ImageNet weights: four engines on one picture, and the whole proof."""
    from scripts.demo import demo

    return demo(out, as_json)


if __name__ == "__main__":
    main(prog_name="diptych")
