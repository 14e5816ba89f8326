"""A user's settings, streams and paths change no answer, and none of them ends in a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
ODD = os.fsdecode(b"w\xff")  # a name that is not UTF-8


def run(*command, cwd: Path, text: bool = True, shell: str = "", **environment) -> subprocess.CompletedProcess:
    """``diptych`` in a separate process; ``shell`` redirects its streams."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("KERAS_", "PYTHONIOENCODING"))}
    given = kept | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | environment
    line = [sys.executable, "-m", "scripts.cli", *map(str, command)]
    if shell:
        line = ["sh", "-c", f'"$@" {shell}', "sh", *line]
    return subprocess.run(line, cwd=cwd, env=given, capture_output=True, text=text, timeout=300)


SETTINGS = {
    "backend": ({"KERAS_BACKEND": "torch"}, None),
    "unknown backend": ({"KERAS_BACKEND": "nonsense"}, None),
    "backend in the file": ({}, {"backend": "torch"}),
    "data format": ({}, {"image_data_format": "channels_first"}),
    "float64": ({}, {"floatx": "float64"}),
    "float16": ({}, {"floatx": "float16", "epsilon": 1e-2}),
}


def with_settings(name: str, folder: Path) -> dict[str, str]:
    environment, file = SETTINGS[name]
    (folder / "keras").mkdir()
    if file is not None:
        (folder / "keras" / "keras.json").write_text(json.dumps(file), encoding="utf-8")
    return environment | {"KERAS_HOME": str(folder / "keras")}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_keras_do_not_change_the_command_line(name, tmp_path):
    """The file is checked against the model in eager mode before it is written."""
    command = ("export", "crnn_english_g2", "--framework", "tensorflow", "--out", "o", "--json")
    found = run(*command, cwd=tmp_path, **with_settings(name, tmp_path))
    assert found.returncode == 0, found.stderr[-2000:]
    assert json.loads(found.stdout)["files"][0]["nodes"] > 10


def test_settings_of_keras_do_not_change_the_proof(tmp_path):
    settings = with_settings("data format", tmp_path) | {"KERAS_BACKEND": "torch"}
    found = run("parity", "mobilenet_v1", "--level", "outputs", "--jobs", 1, cwd=tmp_path, **settings)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]


@pytest.mark.parametrize("content", ['{"floatx": "float128"}', "[1]", '{"image_data_format": "diagonal"}'])
def test_settings_that_keras_itself_refuses_are_named(content, tmp_path):
    (tmp_path / "keras.json").write_text(content, encoding="utf-8")
    found = run("export", "pixelgan", "--out", "o", cwd=tmp_path, KERAS_HOME=str(tmp_path))
    assert found.returncode == 2
    assert str(tmp_path / "keras.json") in found.stderr and len(found.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["backend", "unknown backend", "backend in the file", "data format"])
def test_the_library_names_a_setting_that_it_cannot_work_with(name, tmp_path):
    code = "try: import tf_impl\nexcept ImportError as error: print(error)"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KERAS_")}
    given = kept | {"PYTHONPATH": str(ROOT)} | with_settings(name, tmp_path)
    found = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-2000:]
    (line,) = found.stdout.splitlines()
    assert "KERAS_BACKEND" in line or "image_data_format" in line


@pytest.mark.parametrize("shell, code", [(">&-", 0), ("2>&-", 0), (">&- 2>&- <&-", 0), (">/dev/full", 2)])
def test_closed_and_full_streams(shell, code, tmp_path):
    found = run("list", cwd=tmp_path, shell=shell)
    assert found.returncode == code and "Traceback" not in found.stderr, found.stderr


def test_a_mistake_is_one_where_nothing_can_be_said(tmp_path):
    assert run("show", "nosuch", cwd=tmp_path, shell="2>&-").returncode == 2


def test_frameworks_are_imported_with_closed_streams(tmp_path):
    """No file that a library opens gets the number of a stream that others print to."""
    found = run("export", "pixelgan", "--framework", "torch", "--out", "o", cwd=tmp_path, shell=">&- 2>&- <&-")
    assert found.returncode == 0
    assert (tmp_path / "o" / "pixelgan_torch.onnx").is_file()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_streams_that_cannot_encode(encoding, tmp_path):
    for command in (["show", "\N{SNOWMAN}"], ["list"], ["show", "fmm"]):
        found = run(*command, cwd=tmp_path, text=False, PYTHONIOENCODING=encoding)
        assert found.returncode == (2 if command[1:] == ["\N{SNOWMAN}"] else 0), found.stderr
        assert b"Traceback" not in found.stderr


def test_json_stays_json_on_a_stream_that_cannot_encode(tmp_path):
    target = tmp_path / "M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller \N{SNOWMAN}"
    command = ("export", "pixelgan", "--framework", "torch", "--out", target, "--json")
    found = run(*command, cwd=tmp_path, text=False, PYTHONIOENCODING="ascii")
    assert found.returncode == 0, found.stderr
    assert Path(json.loads(found.stdout)["files"][0]["path"]).parent == target


@pytest.mark.skipif(sys.platform != "linux", reason="the file system takes UTF-8 alone")
def test_paths_that_are_not_utf8(tmp_path):
    """Weights, ONNX files, the report's pages, temporary files: all in a folder with such a name."""
    from PIL import Image

    folder = tmp_path / ODD
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(picture).save(folder / "picture.png")
    commands = [
        ("export", "pixelgan", "--out", folder / "o", "--json"),
        ("predict", "mobilenet_v2_035", folder / "picture.png", "--checkpoint", "nosuch.pth"),
        ("report", "pixelgan", "--out", folder / "site"),
        ("convert", folder / "missing.pth", folder / "x.safetensors", "--model", "pixelgan"),
    ]
    for command, code in zip(commands, (0, 2, 0, 2), strict=True):
        found = run(*command, cwd=tmp_path, TMPDIR=str(folder), DIPTYCH_CACHE=str(folder / "cache"))
        assert found.returncode == code, found.stderr[-2000:]
        assert "Traceback" not in found.stderr
    assert (folder / "o" / "pixelgan_torch.onnx").is_file() and (folder / "site" / "index.html").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="the file system takes UTF-8 alone")
def test_onnx_files_at_paths_that_are_not_utf8_run(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    from weights import onnx_file

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (tmp_path / ODD).mkdir()
    path = tmp_path / ODD / "relu.onnx"
    path.write_bytes(model.SerializeToString())
    found = onnx_file.run(onnx_file.session(path), {"x": np.array([-1, 1], np.float32)})
    assert found["y"].tolist() == [0, 1] and onnx.load(path).graph.name == "graph"
