"""``diptych show``: the two files of a system side by side, aligned by definition."""

import ast
import difflib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from scripts.output import Problem, print_json
from weights import catalog

__all__ = ["Part", "aligned", "parts", "show"]

ROOT = Path(__file__).parent.parent
PANELS = {"TensorFlow": "tf_impl", "PyTorch": "torch_impl"}
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Part:
    """A piece of a file: what is defined there, its first line, and its text."""

    name: str
    first: int
    text: str

    @property
    def twin(self) -> str:
        """The name that the piece has in the PyTorch panel."""
        return f"{self.name.removesuffix('.call')}.forward" if self.name.endswith(".call") else self.name


def _start(node) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])


def parts(source: str) -> list[Part]:
    """A file cut into "(docstring)", "(imports)", "(constants)", and "@Block" (its decorators), "Block",
    "Block.__init__", "function", ...

    Comments above a definition belong to it; what follows a method, to the method.
    """
    lines = source.splitlines()
    cuts = []
    for node in ast.parse(source).body:
        if isinstance(node, DEFINITIONS):
            name = node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            name = "(imports)"
        else:
            name = "(constants)" if cuts else "(docstring)"
        if getattr(node, "decorator_list", ()):
            cuts.append((f"@{name}", _start(node)))
        if not cuts or cuts[-1][0] != name:
            cuts.append((name, node.lineno))
        if isinstance(node, ast.ClassDef):
            cuts += [
                (f"{name}.{method.name}", _start(method)) for method in node.body if isinstance(method, DEFINITIONS)
            ]
    moved = []
    for name, first in cuts:
        while first > 1 and lines[first - 2].lstrip().startswith("#"):
            first -= 1
        moved.append((name, first))
    ends = [first for _, first in moved[1:]] + [len(lines) + 1]
    texts = ("\n".join(lines[first - 1 : end - 1]).rstrip() for (_, first), end in zip(moved, ends, strict=True))
    return [Part(name, first, text) for (name, first), text in zip(moved, texts, strict=True)]


def aligned(left: list[Part], right: list[Part]) -> list[tuple[Part | None, Part | None]]:
    """Pairs of parts of one name, in the order of the files; what one side lacks has no partner."""
    twins = [part.twin for part in left], [part.twin for part in right]
    rows, i, j = [], 0, 0
    for block in difflib.SequenceMatcher(None, *twins, autojunk=False).get_matching_blocks():
        rows += [(part, None) for part in left[i : block.a]] + [(None, part) for part in right[j : block.b]]
        i, j = block.a + block.size, block.b + block.size
        rows += zip(left[block.a : i], right[block.b : j], strict=True)
    return rows


def _chosen(rows, only: str, file: str):
    names = dict.fromkeys(part.name for row in rows for part in row if part and part.name[0] not in "(@")
    if only not in names:
        near = difflib.get_close_matches(only, names, 1, 0.5)
        known = ", ".join(name for name in names if "." not in name)
        hint = f"did you mean {near[0]}?" if near else f"there are {known}"
        raise Problem(f"--only: {file} defines no {only!r}; {hint}")
    return [
        row
        for row in rows
        if any(part and (part.name in (only, f"@{only}") or part.name.startswith(f"{only}.")) for part in row)
    ]


def _printed(rows, titles, stacked: bool, width: int | None):
    from rich.console import Console
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(
        width=width,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        highlight=False,
        soft_wrap=False,
    )

    def code(part: Part | None):
        if part is None:
            return Text("")
        return Syntax(
            part.text,
            "python",
            theme="ansi_dark",
            background_color="default",
            line_numbers=True,
            start_line=part.first,
            word_wrap=True,
        )

    with console.capture() as capture:
        if stacked:
            for row in rows:
                for title, part in zip(titles, row, strict=True):
                    if part is not None:
                        console.print(Text(f"--- {title}", style="bold"))
                        console.print(code(part))
        else:
            grid = Table(box=None, expand=True, padding=(0, 1, 1, 0), show_edge=False)
            for title in titles:
                grid.add_column(title, ratio=1, header_style="bold")
            for row in rows:
                grid.add_row(*map(code, row))
            console.print(grid)
    return "\n".join(text.rstrip() for text in capture.get().splitlines()) + "\n"


def show(name: str, only: str | None, stacked: bool, as_json: bool) -> None:
    """Show both panels of a model, or one definition of them."""
    model = catalog.get(name)
    file = Path(model.module.replace(".", "/")).with_suffix(".py").as_posix()
    paths = {"both": file} if model.neutral else {title: f"{panel}/{file}" for title, panel in PANELS.items()}
    sides = [parts((ROOT / path).read_text(encoding="utf-8")) for path in paths.values()]
    rows = [(part,) for part in sides[0]] if model.neutral else aligned(*sides)
    if only:
        rows = _chosen(rows, only, file)
    if as_json:
        keys = [title.lower() for title in paths]
        definitions = [
            {
                "name": next(part.name for part in row if part),
                **{key: part and {"line": part.first, "text": part.text} for key, part in zip(keys, row, strict=True)},
            }
            for row in rows
        ]
        files = dict(zip(keys, paths.values(), strict=True))
        print_json({"model": name, "files": files, "definitions": definitions})
        return
    # elsewhere than on a terminal, two columns that hold the longest line
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 130 if stacked else 256
    titles = [f"{title}: {path}" for title, path in paths.items()]
    text = _printed(rows, titles, stacked, width)
    if sys.stdout.isatty():
        os.environ.setdefault("LESS", "-FRX")  # colours; no pager for what fits the screen
        click.echo_via_pager(text, color=True)
    else:
        click.echo(text, nl=False)
