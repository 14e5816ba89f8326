"""The mirror rule: every file has its twin, with the same public names, signatures and order; imports run one way."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PANELS = ("tf_impl", "torch_impl")
FILES = sorted(
    {path.relative_to(ROOT / panel).as_posix() for panel in PANELS for path in (ROOT / panel).rglob("*.py")}
    - {"state.py"}  # the walk over a Keras model's attributes has no counterpart
)


def parse(panel: str, file: str) -> ast.Module:
    return ast.parse((ROOT / panel / file).read_text())


def public(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def definitions(tree: ast.Module) -> dict[str, ast.AST]:
    return {node.name: node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


def signature(node) -> list[tuple[str, str | None]]:
    """(parameter, default) of a function, or of a class's ``__init__`` without what Keras adds."""
    if isinstance(node, ast.ClassDef):
        node = next((n for n in node.body if getattr(n, "name", "") == "__init__"), None)
        if node is None:
            return []
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(plain, defaults), *zip(arguments.kwonlyargs, arguments.kw_defaults)]
    return [(argument.arg, normal(default)) for argument, default in pairs if argument.arg not in ("self", "training")]


def constructor(module) -> list[inspect.Parameter]:
    """What a PyTorch module takes; a class such as ``nn.LSTM`` hands ``*args`` on to its base."""
    for cls in module.__mro__:
        accepted = list(inspect.signature(cls.__init__).parameters.values())
        if all(parameter.kind is not parameter.VAR_POSITIONAL for parameter in accepted):
            return accepted
    raise TypeError(f"{module.__name__} names its arguments nowhere")


def normal(default) -> str | None:
    """A default without the prefix that names the framework."""
    if default is None:
        return None
    text = ast.unparse(default)
    return text.removeprefix("nn.").removeprefix("keras.layers.").removeprefix("torch.").removeprefix("tf.")


@pytest.mark.parametrize("file", FILES)
def test_both_panels_define_the_same(file):
    trees = {}
    for panel in PANELS:
        assert (ROOT / panel / file).is_file(), f"{panel}/{file} is missing"
        trees[panel] = parse(panel, file)
    names = {panel: public(tree) for panel, tree in trees.items()}
    assert names["tf_impl"] == names["torch_impl"]
    own = {panel: definitions(tree) for panel, tree in trees.items()}
    both = [name for name in own["tf_impl"] if name in own["torch_impl"]]
    assert both == [name for name in own["torch_impl"] if name in own["tf_impl"]], "another order of definitions"
    for name in both:
        assert signature(own["tf_impl"][name]) == signature(own["torch_impl"][name]), f"{file}: {name}"


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith(("layers/", "boxes/", "losses/"))])
def test_what_pytorch_ships_has_the_same_arguments(file):
    """Where a twin re-exports PyTorch's own class, ours takes the same arguments in the same order."""
    own = definitions(parse("tf_impl", file))
    module = importlib.import_module("torch_impl." + file.removesuffix(".py").replace("/", "."))
    for name in public(parse("torch_impl", file)):
        theirs = getattr(module, name)
        if not inspect.isclass(theirs) or theirs.__module__.startswith("torch_impl"):
            continue
        accepted = constructor(theirs)
        positions = {parameter.name: i for i, parameter in enumerate(accepted)}
        ours = signature(own[name])
        assert [positions[argument] for argument, _ in ours] == sorted(positions[argument] for argument, _ in ours), (
            name
        )
        for argument, default in ours:
            if default is not None:
                assert ast.literal_eval(default) == accepted[positions[argument]].default, f"{name}({argument})"


def test_public_names_are_defined_and_not_keras_names():
    reserved = {"loss", "compute_loss", "metrics", "optimizer", "fit", "evaluate", "predict", "summary", "export"}
    for file in FILES:
        for node in parse("tf_impl", file).body:
            if isinstance(node, ast.ClassDef) and any("keras.Model" in ast.unparse(base) for base in node.bases):
                methods = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
                assert not methods & reserved, f"{file}: {node.name} redefines {methods & reserved}"


ALLOWED = {
    "weights": {"weights"},
    "tf_impl": {"tf_impl", "weights"},
    "torch_impl": {"torch_impl", "weights"},
    "parity_tests": {"parity_tests", "tf_impl", "torch_impl", "weights"},
    "scripts": {"scripts", "parity_tests", "tf_impl", "torch_impl", "weights"},
}
OF_THE_SCRIPTS = {  # what is tested may be imported
    "test_bad_input.py",
    "test_cli.py",
    "test_readme.py",
    "test_report.py",
    "test_report_browser.py",
}
FORBIDDEN = {
    "weights": {"tensorflow", "keras", "torch"},
    "tf_impl": {"torch"},
    "torch_impl": {"tensorflow", "keras", "tf2onnx"},
}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_run_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        allowed = ALLOWED[package] | ({"scripts"} if path.name in OF_THE_SCRIPTS else set())
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in (name.split(".")[0] for name in names):
                assert name not in FORBIDDEN.get(package, ()), f"{path.name} imports {name}"
                assert name not in ALLOWED or name in allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("statement", ["import weights.catalog; weights.catalog.load()", "import scripts.cli"])
def test_light_imports_load_no_framework(statement):
    code = f"{statement}; import sys; print([m for m in ('torch', 'tensorflow', 'keras', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
