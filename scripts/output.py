"""Common parts of the commands: one clear line for every error, tables, JSON, files that are written completely or not
at all, and the frameworks, imported late and quietly."""

import contextlib
import json
import os
import re
import secrets
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from weights.frameworks import use_keras_on_tensorflow

__all__ = [
    "Problem",
    "frameworks",
    "line",
    "prepare_streams",
    "print_json",
    "styled_table",
    "table",
    "writing",
    "written",
]

STYLES = {"ok": "green", "BROKEN": "bold red", "broken": "bold red", "proven": "green", "not measured": "dim"}


class Problem(click.ClickException):
    """Bad input; one line says what was wrong, what was expected and what to do."""

    exit_code = 2


def line(error: BaseException, length: int = 300) -> str:
    """An error's message on one line, without the frame and the colours that Keras puts around it."""
    text = re.sub(r"\x1b\[[0-9;]*m|\{\{function_node [^}]*\}\} ?", "", str(error))
    text = re.sub(
        r"Exception encountered when calling [^\n]*\n|\n\s*Arguments received by .*", "", text, flags=re.DOTALL
    )
    text = text.rpartition("Error encountered: ")[2].strip("'\" \n")
    return " ".join(text.split())[:length] or type(error).__name__


def prepare_streams() -> None:
    """Let standard output and error accept any text.

    A closed stream shows nothing, and a character that a terminal cannot show is written as its escape.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would get the number, and what is printed
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  for as long as the process runs
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def print_json(value) -> None:
    """JSON in characters that standard output supports; others, and halves of surrogate pairs, as escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        text = json.dumps(value, indent=2)
    click.echo(text)


def styled_table(columns: Sequence[str], rows: Sequence[Sequence], title: str = "", right: Sequence[str] = ()):
    """A rich table; columns named in ``right`` hold numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        shown.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(str(cell), style=STYLES.get(str(cell), "")) for cell in row))
    return shown


def table(columns: Sequence[str], rows: Sequence[Sequence], title: str = "", right: Sequence[str] = ()) -> None:
    """Print a table: with rich on a terminal, elsewhere as plain columns without an end-of-line blank."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(styled_table(columns, rows, title, right))
        return
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    if title:
        click.echo(title)
    for row in cells if any(columns) else cells[1:]:
        aligned = (
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(row, widths, columns, strict=True)
        )
        click.echo("  ".join(aligned).rstrip())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report that a file or folder cannot be written, instead of the system's error.

    Raises:
        Problem: names the path and what the system said.
    """
    try:
        yield
    except OSError as error:
        raise Problem(
            f"{path}: cannot be written ({error.strerror or line(error)}), nothing was changed; "
            "make room or choose another place"
        ) from None


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary file next to ``path``, which replaces it on success and is removed otherwise.

    Raises:
        Problem: if the file cannot be written.
    """
    path = Path(os.path.realpath(path))
    temporary = path.parent / f".{secrets.token_hex(8)}{''.join(path.suffixes[-2:])}"
    try:
        with writing(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # a path below a file has no file to remove
            temporary.unlink(missing_ok=True)


def frameworks(threads: int | None = None) -> None:
    """Import both frameworks, with Keras' own settings, and without the lines that they write to the terminal.

    Args:
        threads: of every operator; None leaves the number to the frameworks.

    Raises:
        KerasSettingsError: if the user's Keras settings do not let it start.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", category=UserWarning)  # Keras and PyTorch warn their developers
    if threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        # TensorFlow's C++ writes to the stream itself, before its level of messages counts
        with contextlib.suppress(OSError, ValueError):
            kept = os.dup(2)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            null = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, null)
            os.dup2(null, 2)
        use_keras_on_tensorflow()
        import parity_tests.harness.panels  # noqa: F401
    if threads:
        import tensorflow as tf
        import torch

        torch.set_num_threads(threads)
        with contextlib.suppress(RuntimeError):  # TensorFlow runs already: only where commands share a process
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
