"""Whatever a user imports first, nothing crashes; and the pinned environment is what its files say.

Each order runs in a separate process. On Linux x86-64 the environment holds triton, as PyTorch's CUDA builds do:
loaded after TensorFlow it ends the process with a segmentation fault.
"""

import configparser
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parent.parent
INPUT = """
import numpy as np
ids = np.random.default_rng(0).integers(1, 50, (2, 12))
small = dict(vocab_size=50, embed_dim=8, kernel_num=4)
"""
EXPORTS = {
    "torch": INPUT
    + """
import torch_impl.export
from torch_impl.nlp.textcnn import TextCNN
torch_impl.export.export(TextCNN(**small), "torch.onnx", {"input_ids": ids})
""",
    "tensorflow": INPUT
    + """
import tf_impl.export
from tf_impl.nlp.textcnn import TextCNN
twin = TextCNN(**small)
twin(ids)
tf_impl.export.export(twin, "tensorflow.onnx", {"input_ids": ids})
""",
}
# as the README loads one set of tensors into both panels
SNIPPET = (
    """
import torch_impl.state
import tf_impl.state
from tf_impl.nlp import textcnn as keras_textcnn
from torch_impl.nlp import textcnn
"""
    + INPUT
    + """
model = textcnn.TextCNN(**small)
twin = keras_textcnn.TextCNN(**small)
twin(ids)
tf_impl.state.load_state_dict(twin, torch_impl.state.state_dict(model))
"""
)
HAS_TRITON = importlib.util.find_spec("triton") is not None


def python(code: str, folder: Path, **environment) -> subprocess.CompletedProcess:
    """Run code in a separate process, as a user does, with only the path of this one's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KERAS_")}
    given = kept | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""} | environment
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=300)


def ends_well(run: subprocess.CompletedProcess) -> None:
    assert run.returncode == 0, f"exit code {run.returncode}\n{run.stderr[-2000:]}"


def test_the_environment_has_what_crashes():
    """Without triton, the tests of this file would hold whatever the project does."""
    if sys.platform == "linux" and platform.machine() == "x86_64":
        assert HAS_TRITON


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_the_snippet_of_the_readme_then_an_export(framework, tmp_path):
    ends_well(python(SNIPPET + EXPORTS[framework], tmp_path))
    assert (tmp_path / f"{framework}.onnx").is_file()


@pytest.mark.parametrize(
    "first, order",
    [
        ("", ["torch", "tensorflow"]),
        ("", ["tensorflow", "torch"]),
        ("tensorflow", ["torch"]),
        ("tensorflow", ["tensorflow", "torch"]),
        ("keras", ["torch", "tensorflow"]),
        ("torch, tensorflow", ["torch", "tensorflow"]),
        ("tf2onnx", ["tensorflow", "torch"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " then ".join(value),
)
def test_both_exports_whatever_was_imported_first(first, order, tmp_path):
    ends_well(python((f"import {first}" if first else "") + "".join(EXPORTS[name] for name in order), tmp_path))
    assert {path.stem for path in tmp_path.glob("*.onnx")} == set(order)


def test_the_command_line_exports_both(tmp_path):
    """As ``diptych demo`` does."""
    code = "from scripts.cli import main; main(['export', 'textcnn_rand', '--out', '.'])"
    ends_well(python(code, tmp_path))


@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@pytest.mark.parametrize("panel", ["tf_impl", "torch_impl", "parity_tests.harness"])
def test_triton_comes_before_tensorflow(panel, tmp_path):
    """Imported before TensorFlow, a panel keeps triton for ``torch.compile`` on a GPU."""
    code = f"import {panel}, tensorflow, triton, sys; assert sys.modules['triton']"
    ends_well(python(code, tmp_path))


@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
def test_torch_compiles_where_triton_is_left_out(tmp_path):
    code = "import tensorflow, torch_impl, torch; print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)))"
    ends_well(python(code, tmp_path))


@pytest.mark.parametrize(
    "code, absent",
    [
        ("import weights.catalog, weights.store, weights.onnx_file", ["tensorflow", "keras", "torch", "triton"]),
        (
            "from scripts.cli import main\ntry: main(['list'])\nexcept SystemExit: pass",
            ["tensorflow", "torch", "triton"],
        ),
        ("import torch_impl.state", ["tensorflow", "keras"]),
        ("import tf_impl.state", ["torch"]),
    ],
    ids=["weights", "list", "torch_impl", "tf_impl"],
)
def test_only_what_is_needed_is_imported(code, absent, tmp_path):
    run = python(f"{code}\nimport sys\nassert not [n for n in {absent} if n in sys.modules], {absent}", tmp_path)
    ends_well(run)


def names_and_pins(file: str) -> dict[str, str]:
    lines = (ROOT / "scripts" / file).read_text(encoding="utf-8").splitlines()
    pins = [re.match(r"([\w.-]+)==(\S+)", line) for line in lines if not line.startswith(("#", "-c "))]
    return {canonical(pin[1]): pin[2] for pin in pins if pin}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_is_pinned():
    """Of the environment that the suite runs in, if it is the pinned one."""
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip("not the environment that scripts/environment makes")
    pins = {}
    for path in sorted((ROOT / "scripts").glob("requirements*.txt")):
        pins |= names_and_pins(path.name)
    found = {canonical(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    for own in ("pip", "diptych"):
        found.pop(own, None)
    # the CPU build has a local version: 2.13.0+cpu
    other = {n: v for n, v in found.items() if n not in pins or Version(pins[n]).public != Version(v).public}
    assert not other, f"installed, and not at a pinned version: {other}"


def test_triton_is_the_one_of_the_pinned_torch():
    needed = [r for r in importlib.metadata.requires("torch") or () if r.startswith("triton")]
    if not needed:
        pytest.skip("a build of PyTorch without triton")
    assert f"triton=={names_and_pins('requirements.txt')['triton']}" in needed[0].replace(" ", "")


def test_ranges_admit_what_was_tried():
    """The pinned version and its corrections, and no other minor version."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    pins = names_and_pins("requirements.txt")
    wanted = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    ranges = [line for line in wanted.splitlines() if line.strip() and not line.startswith("#")]
    assert len(ranges) > 20
    for line in ranges:
        name, allowed = re.match(r"\s*([\w.-]+)\s*(.*)", line).groups()
        pin = Version(pins[canonical(name)])
        later, earlier = f"{pin.major}.{pin.minor + 1}", f"{pin.major}.{max(pin.minor - 1, 0)}"
        assert pin in SpecifierSet(allowed), line
        assert later not in SpecifierSet(allowed) and f"{pin.major + 1}.{pin.minor}" not in SpecifierSet(allowed), line
        assert pin.minor == 0 or earlier not in SpecifierSet(allowed), line
