"""The two files of a system for a page: coloured lines, aligned definitions, and the lines of definitions."""

import ast
from functools import cache

from markupsafe import Markup, escape
from pygments.lexers import PythonLexer
from pygments.token import STANDARD_TYPES, Token

from scripts.report.notes import PANELS, files, in_file, sources
from scripts.show import aligned, parts

__all__ = ["SIDES", "classes", "imports", "line_of", "lines", "rows"]

SIDES = dict(zip(PANELS, ("tf", "pt")))  # panel -> prefix of its lines' anchors
COLOURED = {
    Token.Keyword: "k",
    Token.Name.Builtin: "b",
    Token.Name.Class: "c",
    Token.Name.Decorator: "d",
    Token.Name.Function: "c",
    Token.Literal.String: "s",
    Token.Literal.Number: "n",
    Token.Comment: "o",
    Token.Operator.Word: "k",
}


@cache
def _style(token) -> str:
    while token not in COLOURED and token in STANDARD_TYPES and token.parent is not None:
        token = token.parent
    return COLOURED.get(token, "")


@cache
def lines(source: str) -> tuple[Markup, ...]:
    """Every line of a Python file with its colours."""
    done: list[list[Markup]] = [[]]
    for token, text in PythonLexer(stripnl=False, ensurenl=False).get_tokens(source):
        style = _style(token)
        for i, piece in enumerate(text.split("\n")):
            if i:
                done.append([])
            if piece:
                done[-1].append(Markup('<i class="{}">{}</i>').format(style, piece) if style else escape(piece))
    return tuple(Markup("").join(line) for line in done)


@cache
def rows(file: str) -> list[dict]:
    """The definitions of a file in both panels, aligned.

    Returns:
        Per row: "name" (as PyTorch has it), "id", and "cells": per panel None, or the lines of the definition, each
        with "number", "html", "indent" in steps of four, the numbers of the mirror "notes" that are listed or happen
        there, and whether it is "marked" as the first line of a note or as its place.
    """
    both = sources(file)
    coloured = {panel: lines(source) for panel, source in both.items()}
    noted: dict[tuple[str, int], list[int]] = {}
    leading = set()
    for note in in_file(file):
        for panel in PANELS:
            first, last = note.listed[panel]
            leading |= {(panel, number) for number in (first, *note.places[panel])}
            for number in dict.fromkeys([*range(first, last + 1), *note.places[panel]]):
                noted.setdefault((panel, number), []).append(note.number)
    found, taken = [], set()
    for pair in aligned(*(parts(source) for source in both.values())):
        name = next(part.twin for part in pair if part)
        anchor = name.strip("()")
        anchor = anchor if anchor not in taken else f"{anchor}-{len(found)}"
        taken.add(anchor)
        cells = []
        for panel, part in zip(PANELS, pair, strict=True):
            if part is None:
                cells.append(None)
                continue
            cells.append(
                [
                    {
                        "number": n,
                        "html": coloured[panel][n - 1],
                        "indent": min((len(text) - len(text.lstrip())) // 4, 8),
                        "notes": noted.get((panel, n), []),
                        "marked": (panel, n) in leading,
                    }
                    for n, text in enumerate(part.text.splitlines(), start=part.first)
                ]
            )
        found.append({"name": name, "id": f"def-{anchor}", "cells": cells})
    return found


@cache
def imports(file: str) -> set[str]:
    """The files of the panels that a file imports."""
    found = set()
    for panel, source in sources(file).items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                module = f"{panel}.{file.rpartition('/')[0]}.{node.module}" if node.level else node.module
                names = (module, *(f"{module}.{alias.name}" for alias in node.names))
                found |= {f"{name.removeprefix(panel).lstrip('.').replace('.', '/')}.py" for name in names}
    return found & set(files())


@cache
def classes(panel: str, file: str) -> dict[str, dict]:
    """Classes of a file: "bases", "init" and "forward" (lines of the two methods), "attributes" with their lines."""
    found = {}
    for node in ast.parse(sources(file)[panel]).body:
        if not isinstance(node, ast.ClassDef):
            continue
        methods = {item.name: item.lineno for item in node.body if isinstance(item, ast.FunctionDef)}
        attributes: dict[str, int] = {}
        for inner in ast.walk(node):
            targets = inner.targets if isinstance(inner, ast.Assign) else []
            for target in targets:
                for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and name.value.id == "self":
                        attributes.setdefault(name.attr.rstrip("_"), name.lineno)
        found[node.name] = {
            "bases": [ast.unparse(base) for base in node.bases],
            "init": methods.get("__init__", node.lineno),
            "forward": methods.get("forward", methods.get("call", node.lineno)),
            "attributes": attributes,
        }
    return found


def line_of(panel: str, file: str, name: str, attribute: str | None = None) -> int | None:
    """The line of a class's computation, or where it makes an attribute; None if the file has no such class."""
    known = classes(panel, file)
    queue = [name]
    while attribute and queue:
        found = known.get(queue.pop(0))
        if found and attribute in found["attributes"]:
            return found["attributes"][attribute]
        queue += found["bases"] if found else []
    if name not in known:
        return None
    return known[name]["init" if attribute else "forward"]
