"""A new system edits no file: a toy in a copy of the project is listed, shown, proven, exported and reported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.parity import LEVELS

ROOT = Path(__file__).parents[1]
PACKAGES = ("tf_impl", "torch_impl", "weights", "parity_tests", "scripts")
DOCSTRING = '"""A toy: one convolution, and the mean of its map.\n\nMirror notes:\n- Keras infers widths.\n"""\n\n'
FILES = {
    "torch_impl/classification/toy.py": DOCSTRING
    + """from torch import nn

from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = ["ClassificationCriterion", "ClassificationPostProcess", "Toy", "toy"]


class Toy(nn.Module):
    def __init__(self, num_classes: int = 6):
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 3)  # mirror: infers widths

    def forward(self, images):
        return self.conv(images).mean((2, 3))


def toy(**options) -> Toy:
    return Toy(**options)
""",
    "tf_impl/classification/toy.py": DOCSTRING
    + """import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = ["ClassificationCriterion", "ClassificationPostProcess", "Toy", "toy"]


@keras.saving.register_keras_serializable("diptych")
class Toy(Model):
    def __init__(self, num_classes: int = 6, **kwargs):
        super().__init__(**kwargs)
        self.conv = Conv2D(num_classes, 3)  # mirror: infers widths

    def call(self, images, training=False):
        return tf.reduce_mean(self.conv(images), (1, 2))


def toy(**options) -> Toy:
    return Toy(**options)
""",
    "weights/catalog/classification/toy.toml": """[toy]
system = "Toy"
kind = "model"
module = "classification.toy"
title = "A toy"
paper = "none"
year = 2026
reference = "none"
parameters = 168
parameters_source = "6 * 3 * 9 + 6"
criterion = "ClassificationCriterion"
postprocess = "ClassificationPostProcess"
inputs.images = { shape = ["N", 3, 9, 7], layout = "NCHW" }
outputs.logits = { shape = ["N", 6] }
targets.labels = { shape = ["N"], dtype = "int64", high = 6 }
""",
    "parity_tests/cases/classification/toy.py": '''"""Cases of the toy."""

from parity_tests.harness.case import Case, images, labels

CASES = [Case("toy", images(9, 7), labels(6))]
''',
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, text in FILES.items():
        (folder / name).write_text(text)
    yield folder
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert not changed, "using a new system has changed files that were there"


def diptych(folder, *arguments):
    return python(folder, "-c", "from scripts.cli import main; main()", *arguments)


def python(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(folder), "DIPTYCH_CACHE": str(folder / "cache")}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    return result.stdout


def test_a_toy_is_listed_shown_proven_exported_and_reported(copy):
    assert "toy" in diptych(copy, "list", "--family", "classification")
    assert "class Toy" in diptych(copy, "show", "toy")
    assert "all hold" in diptych(copy, "parity", "toy", "--save", "--jobs", "1")
    saved = json.loads((copy / "parity_tests" / "proof" / "classification" / "toy.json").read_text())
    assert all(level["holds"] for level in saved["cases"]["toy"]["levels"].values())
    (row,) = (row for row in json.loads(diptych(copy, "list", "--json")) if row["name"] == "toy")
    assert row["proof"] == "proven"
    diptych(copy, "export", "toy", "--out", str(copy / "onnx"))
    assert len(list((copy / "onnx").glob("*.onnx"))) == 2
    diptych(copy, "report", "toy", "--out", str(copy / "site"))
    assert "Toy" in (copy / "site" / "classification" / "toy.html").read_text()


def test_the_tests_of_a_toy_keep_its_figures(copy):
    path = copy / "parity_tests" / "proof" / "classification" / "toy.json"
    path.unlink(missing_ok=True)
    files = [f"parity_tests/test_{level}.py" for level in LEVELS]
    python(copy, "-m", "pytest", "-n", "1", "-k", "toy", "--case", "toy", "--save", *files)
    found = json.loads(path.read_text())["cases"]["toy"]
    assert list(found["levels"]) == list(LEVELS)
    assert found["parameters"] and found["onnx"]["model"].keys() == {"tf_impl", "torch_impl"}
    (row,) = (row for row in json.loads(diptych(copy, "list", "--json")) if row["name"] == "toy")
    assert row["proof"] == "proven"
