"""The mirror rule: every file has its twin, with the same public names, signatures and order; imports run one way.

Models, criteria, post-processes and builders have the same words in both panels. Blocks and layers have those of their
framework, which ``harness.vocabulary`` translates.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from parity_tests.harness.vocabulary import ARGUMENTS, CLASSES, INPUT_WIDTHS

ROOT = Path(__file__).resolve().parents[1]
PANELS = ("tf_impl", "torch_impl")
NO_TWIN = "No twin:"  # a room of one panel says so in its docstring
KERAS_ONLY = {"project", "kernel_initializer", "bias_initializer"}  # a block is told; values are given to constructors
HOOKS = {  # methods that a framework asks for
    "tf_impl": {"build", "build_from_config", "compute_output_shape", "convolution_op", "from_config", "get_config"}
    | {"torch_names"},  # of stored weights, where one layer has several layouts
    "torch_impl": {"train", "reset_parameters", "extra_repr"},
}
EXACT = ("Criterion", "PostProcess", "Trainer")


def parse(panel: str, file: str) -> ast.Module:
    return ast.parse((ROOT / panel / file).read_text())


def _files() -> list[str]:
    found = {path.relative_to(ROOT / panel).as_posix() for panel in PANELS for path in (ROOT / panel).rglob("*.py")}
    found -= {"state.py"}  # the walk over a Keras model's attributes has no counterpart
    own = {
        file
        for file in found
        if file.startswith("layers/")
        for panel in PANELS
        if (ROOT / panel / file).is_file() and NO_TWIN in (ast.get_docstring(parse(panel, file)) or "")
    }
    return sorted(found - own)


FILES = _files()


def public(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def definitions(tree: ast.Module) -> dict[str, ast.AST]:
    return {node.name: node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


def methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}


def signature(node) -> list[tuple[str, str | None]]:
    """(parameter, default) of a function, or of a class's ``__init__`` without what Keras adds."""
    if isinstance(node, ast.ClassDef):
        node = methods(node).get("__init__")
        if node is None:
            return []
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(plain, defaults), *zip(arguments.kwonlyargs, arguments.kw_defaults)]
    return [(argument.arg, normal(default)) for argument, default in pairs if argument.arg not in ("self", "training")]


def normal(default) -> str | None:
    """A default without the prefix that names the framework."""
    if default is None:
        return None
    text = ast.unparse(default)
    return text.removeprefix("nn.").removeprefix("keras.layers.").removeprefix("torch.").removeprefix("tf.")


def translated(node, twin) -> list[tuple[str, str | None]]:
    """The signature of a PyTorch block in Keras' words; ``twin`` is Keras'."""
    theirs = [name for name, _ in signature(twin)]
    found = []
    for name, default in signature(node):
        keras = {**ARGUMENTS, "hidden_size": "units"}.get(name, name.replace("channels", "filters"))
        name = keras if keras in theirs else name
        widths = (*INPUT_WIDTHS, "w_dim", "z_dim", "input_size")
        if (name in widths or name.endswith("_channels")) and name not in theirs:
            continue  # Keras infers them
        if name == "momentum" and default is not None and (name, default) not in signature(twin):
            default = repr(round(1 - float(default), 6))
        if name == "activation" and default not in (None, "None"):
            default = repr(default.lower())  # nn.ReLU, "relu"
        found.append((name, CLASSES.get(default, default)))
    return found


def _bases() -> dict[str, set[str]]:
    """The bases of every class of the TensorFlow panel, by name."""
    found = {}
    for file in (ROOT / "tf_impl").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(ast.unparse(base).split(".")[-1] for base in node.bases)
    return found


BASES = _bases()


def is_model(name: str) -> bool:
    """Whether a class is a model, a criterion, a post-process or a trainer, by its name or that of a base."""
    return (
        name == "Model" or name.endswith(EXACT) or any(is_model(base) for base in BASES.get(name, ()) if base != name)
    )


def is_block(file: str, node) -> bool:
    """Whether a definition has the words of its framework; a builder, which takes ``**options``, has ours."""
    if isinstance(node, ast.FunctionDef):
        return node.args.kwarg is None
    return file.startswith("layers/") or not is_model(node.name)


@pytest.mark.parametrize("file", FILES)
def test_both_panels_define_the_same(file):
    trees = {}
    for panel in PANELS:
        assert (ROOT / panel / file).is_file(), f"{panel}/{file} is missing; {NO_TWIN!r} in its docstring would say why"
        trees[panel] = parse(panel, file)
    names = {panel: public(tree) for panel, tree in trees.items()}
    own = {panel: definitions(tree) for panel, tree in trees.items()}
    if file.startswith("layers/"):  # what PyTorch ships is imported from it; what it does not has a twin
        known = {CLASSES.get(name, name) for name in names["torch_impl"]}
        ships = {keras for name, keras in CLASSES.items() if hasattr(torch.nn, name)}
        fills = {"kaiming_normal", "kaiming_uniform", "normal"}
        initial = {"KaimingNormal", "KaimingUniform", "SmallNormal", "ZeroRow"}  # PyTorch fills tensors by functions
        initial |= {"DepthwiseConv2D"}  # a convolution with groups
        assert not set(names["tf_impl"]) - known - ships - initial - set(names["torch_impl"])
        mine = {CLASSES.get(name, name) for name in own["torch_impl"]} & known
        assert not mine - set(names["tf_impl"]) - {"Conv2dSame"} - fills  # padding="same" in Keras
    else:
        assert names["tf_impl"] == names["torch_impl"]
    both = [name for name in own["tf_impl"] if name in own["torch_impl"]]
    assert both == [name for name in own["torch_impl"] if name in own["tf_impl"]], "another order of definitions"
    for name in both:
        ours, theirs = own["tf_impl"][name], own["torch_impl"][name]
        if is_block(file, ours):
            found = [pair for pair in signature(ours) if pair[0] not in KERAS_ONLY]
            assert found == translated(theirs, ours), f"{file}: {name}"
        else:
            assert signature(ours) == signature(theirs), f"{file}: {name}"


@pytest.mark.parametrize("file", FILES)
def test_both_panels_have_the_same_methods(file):
    own = {panel: definitions(parse(panel, file)) for panel in PANELS}
    for name in own["tf_impl"].keys() & own["torch_impl"].keys():
        classes = [own[panel][name] for panel in PANELS]
        if not all(isinstance(node, ast.ClassDef) for node in classes):
            continue
        found = []
        for panel, node in zip(PANELS, classes, strict=True):
            theirs = {key: m for key, m in methods(node).items() if not key.startswith("_") and key not in HOOKS[panel]}
            if panel == "torch_impl" and "forward" in theirs and "call" in methods(classes[0]):
                theirs["call"] = theirs.pop("forward")
            if panel == "torch_impl" and "convolution_op" in methods(classes[0]):  # Keras' own call calls it
                theirs.pop("forward", None)
            found.append(theirs)
        assert set(found[0]) == set(found[1]), f"{file}: {name}"
        if "call" in found[0]:
            taken = [[argument for argument, _ in signature(theirs["call"])] for theirs in found]
            assert taken[0] == taken[1], f"{file}: {name}.call"


@pytest.mark.parametrize("file", FILES)
def test_no_option_is_swallowed(file):
    """What takes ``**options`` hands them on: a misspelt one is refused where they end."""
    for panel in PANELS:
        for node in ast.walk(parse(panel, file)):
            if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None:
                name = node.args.kwarg.arg
                used = [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == name]
                assert used, f"{panel}/{file}: {node.name} in line {node.lineno} does not use **{name}"


@pytest.mark.parametrize("file", FILES)
def test_layers_are_registered_and_nothing_private_of_keras_is_called(file):
    """So that ``.keras`` files, ``clone_model`` and ``get_config`` work."""
    private = ("_flatten_layers", "_layers", "_tracker", "_lock", "_build_shapes_dict")
    tree = parse("tf_impl", file)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr not in private, f"{file}: {node.attr} in line {node.lineno}"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) in LAYERS for base in node.bases):
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            assert any("register_keras_serializable" in mark for mark in marks), (
                f"{file}: {node.name} is not registered"
            )


def test_registered_names_are_different():
    """Keras takes the last of two classes of one name without a word."""
    names = {}
    for file in sorted((ROOT / "tf_impl").rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            for mark in getattr(node, "decorator_list", []):
                if isinstance(mark, ast.Call) and "register_keras_serializable" in ast.unparse(mark):
                    name = mark.args[1].value if len(mark.args) > 1 else node.name
                    names.setdefault(name, []).append(file.name)
    assert not {name: files for name, files in names.items() if len(files) > 1}


LAYERS = {"keras.layers.Layer", "keras.Model", "Model", "Backbone", "ResNet"}


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
FORBIDDEN = {
    "weights": {"tensorflow", "keras", "torch"},
    "tf_impl": {"torch"},
    "torch_impl": {"tensorflow", "keras", "tf2onnx"},
}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_run_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        is_test = path.name.startswith(("test_", "conftest"))
        allowed = ALLOWED[package] | ({"scripts"} if is_test else set())  # what is tested, and keeps its figures
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
