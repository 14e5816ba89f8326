"""What the figures of a case depend on, as digests; and which cases ``scripts/test --changed`` proves again.

A case's own digest is of the definitions that its model, criterion, post-process and trainer reach in both panels, of
the module that defines the case, its table of the catalogue, and its fingerprints. The measuring code and the versions
of the packages have a separate digest, because they change for all cases at once. Comments and docstrings do not
count, nor how Keras writes a model into a file and reads it, which no level of the proof does.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from parity_tests.harness import case as cases
from parity_tests.harness import fingerprints, vocabulary

__all__ = ["PACKAGES", "chosen", "of_case", "of_harness", "sources", "turn"]

ROOT = Path(__file__).parents[2]
OWN = ("tf_impl", "torch_impl", "weights", "parity_tests")
PACKAGES = ("tensorflow", "keras", "torch", "onnx", "onnxruntime")
HARNESS = ("parity_tests.harness.measure", "parity_tests.harness.panels")
SAMPLE = 30  # unchanged cases that are proven again, where a tenth would be more
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
OF_FILES = {"get_config", "from_config", "get_build_config", "build_from_config"}  # methods


@dataclass(frozen=True)
class _Module:
    """What a module of ours defines, by name, and what else it does when it is imported."""

    definitions: dict[str, list[ast.AST]]
    loose: list[ast.AST]
    imports: dict[str, str]  # name in the module -> dotted name of what it stands for

    @staticmethod
    @cache
    def read(name: str) -> "_Module | None":
        """None if we have no such module. Comments and docstrings are left out."""
        path = ROOT / Path(*name.split("."))
        is_package = path.is_dir()
        path = path / "__init__.py" if is_package else path.with_suffix(".py")
        if name.partition(".")[0] not in OWN or not path.is_file():
            return None
        tree = ast.parse(path.read_text(encoding="utf-8"))
        definitions, loose, imports = {}, [], {}
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
                del node.body[0]
            if isinstance(node, ast.ClassDef):
                node.body = [part for part in node.body if getattr(part, "name", None) not in OF_FILES]
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    imports[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                above = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
                source = ".".join([*above, *filter(None, [node.module])])
                imports |= {alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names}
        for node in tree.body:
            names = _defined(node)
            for defined in names:
                definitions.setdefault(defined, []).append(node)
            if not names and not isinstance(node, (ast.Import, ast.ImportFrom)):
                loose.append(node)
        definitions.pop("__all__", None)
        return _Module(definitions, loose, imports)

    def stands_for(self, chain: str) -> str | None:
        """The dotted name of what ``name.attribute`` is in this module, if it was imported."""
        first, _, rest = chain.partition(".")
        return ".".join(filter(None, [self.imports[first], rest])) if first in self.imports else None


def _defined(node: ast.stmt) -> list[str]:
    """Names that a statement of a module gives a meaning to."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return [node.name]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        parts = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
        return [part.id for part in parts if isinstance(part, ast.Name)]
    return []


class _Chains(ast.NodeVisitor):
    """All ``name`` and ``name.attribute...`` in a piece of code."""

    def __init__(self):
        self.found = set()

    def visit_Name(self, node):
        self.found.add(node.id)

    def visit_Attribute(self, node):
        parts, base = [node.attr], node.value
        while isinstance(base, ast.Attribute):
            parts.append(base.attr)
            base = base.value
        if isinstance(base, ast.Name):
            self.found.add(".".join([base.id, *reversed(parts)]))
        else:
            self.visit(base)


@cache
def _read(module: str, name: str) -> tuple[str, tuple[str, ...]]:
    """A digest of a definition (of what is loose, if the name is empty), and dotted names of all that it refers to."""
    owner = _Module.read(module)
    nodes = owner.definitions[name] if name else owner.loose
    visitor = _Chains()
    for node in nodes:
        visitor.visit(node)
    own = [
        f"{module}.{chain.partition('.')[0]}" for chain in visitor.found if chain.partition(".")[0] in owner.definitions
    ]
    imported = [owner.stands_for(chain) for chain in visitor.found]
    text = "".join(ast.dump(node) for node in nodes)
    return hashlib.sha256(text.encode()).hexdigest(), tuple(sorted({*own, *filter(None, imported)}))


def sources(names: Iterable[str], without: Iterable[str] = ()) -> dict[str, str]:
    """Digests of definitions, and of all definitions that they refer to inside the project, by dotted name.

    Args:
        names: dotted names of modules or of what they define; of a module, everything counts.
        without: beginnings of names that are not followed.
    """
    queue, seen, found, without = list(names), set(), {}, tuple(without)
    while queue:
        dotted = queue.pop()
        if dotted in seen or dotted.startswith(without):
            continue
        seen.add(dotted)
        module, name = _split(dotted)
        if module is None:
            continue
        owner = _Module.read(module)
        if name and name not in owner.definitions:
            queue += filter(None, [owner.stands_for(name)])
            continue
        for each in ["", *([name] if name else owner.definitions)]:
            if (key := f"{module}:{each}") not in found:
                found[key], referred = _read(module, each)
                queue += referred
    return dict(sorted(found.items()))


@cache
def _split(dotted: str) -> tuple[str | None, str]:
    """The module of ours that a dotted name begins with, and the name in it that follows (empty: the module)."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        if _Module.read(".".join(parts[:count])) is not None:
            return ".".join(parts[:count]), ".".join(parts[count : count + 1])
    return None, ""


def _short(everything) -> str:
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:16]


@cache
def of_harness() -> str:
    """Of the measuring code and the versions of the packages."""
    return _short([sources(HARNESS), {package: version(package) for package in PACKAGES}])


@cache
def of_case(name: str) -> str:
    """Of everything else that the figures of a case depend on."""
    case = cases.cases()[name]
    parts = (case.entry.builder, case.entry.criterion, case.entry.postprocess, case.entry.trainer)
    parts = [name for name in (*parts, vocabulary.CLASSES.get(case.entry.builder)) if name]
    panels = [f"{panel}.{case.entry.module}.{name}" for panel in ("tf_impl", "torch_impl") for name in parts]
    modules = sources([*panels, _defined_in()[case.name]], without=("parity_tests.harness", "weights"))
    files = {reference.file: fingerprints.path_of(reference.file).read_bytes() for reference in case.references}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return _short([case.name, repr(case.entry), modules, digests])


@cache
def _defined_in() -> dict[str, str]:
    import importlib

    return {case.name: module for module in cases.modules() for case in importlib.import_module(module).CASES}


def turn(commit: str, name: str) -> float:
    """A number in [0, 1) for a name, another one at each commit."""
    return int.from_bytes(hashlib.sha256(f"{commit} {name}".encode()).digest()[:4]) / 2**32


def chosen(saved: Mapping[str, Mapping], commit: str) -> dict[str, str]:
    """Which cases are to be proven again, and why; the others are taken on trust.

    Args:
        saved: cases of the saved proof, by name.
        commit: decides which of the unchanged cases are due.

    Returns:
        case -> "new", "changed", "harness" (a quarter of the cases for which only the harness or the versions
        changed), "turn" (a tenth of the rest, about thirty of them at most), or "" if it is taken on trust.
    """
    found, share = {}, min(1 / 10, SAMPLE / len(cases.cases()))
    for name in cases.cases():
        drawn = turn(commit, name)
        if name not in saved:
            found[name] = "new"
        elif saved[name].get("digest") != of_case(name):
            found[name] = "changed"
        elif saved[name].get("harness") != of_harness():
            found[name] = "harness" if drawn < 1 / 4 else ""
        else:
            found[name] = "turn" if drawn < share else ""
    return found
