"""Values beyond all reason: one line, exit code 2, at once, and never the end of the process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from scripts import cli
from weights.processing import images, ocr

ROOT = Path(__file__).parent.parent
HUGE = {"400 digits": "9" * 400, "20,000 digits": "9" * 20000}


def refused(*args, words=()):
    result = CliRunner().invoke(cli.main, [str(arg) for arg in args])
    assert result.exit_code == 2, result.output
    assert result.stdout == "" and result.stderr.startswith("diptych: ") and result.stderr.count("\n") == 1
    assert len(result.stderr) < 1000
    for word in words:
        assert word in result.stderr, result.stderr


SIZES = ["1000000000x1000000000", "999999999x999999999", "1x999999999", "200000x200000"]


@pytest.mark.parametrize("size", [*SIZES, *(f"{digits}x{digits}" for digits in HUGE.values())], ids=lambda s: s[:24])
def test_sizes(size, tmp_path):
    refused("export", "resnet18", "--size", size, "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("digits", HUGE)
@pytest.mark.parametrize("option", ["--threads", "--batch", "--length", "--runs"])
def test_numbers_of_many_digits(option, digits):
    refused("bench", "bert_tiny", option, HUGE[digits], words=[option])


@pytest.mark.parametrize(
    "command, words",
    [
        (["bench", "resnet18", "--threads", 10**6], ["--threads", "1000000"]),
        (["parity", "resnet18", "--jobs", 10**6], ["--jobs"]),
        (["report", "resnet18", "--out", "o", "--jobs", 10**6], ["--jobs"]),
        (["bench", "resnet18", "--batch", 10**6], ["GiB", "1000000 at once"]),
        (["bench", "gpt2", "--length", 10**9], ["GiB", "1000000000 tokens"]),
        (["bench", "resnet18", "gpt2", "--length", 10**9], ["GiB"]),
    ],
)
def test_numbers_beyond_the_machine(command, words):
    refused(*command, words=words)


@pytest.mark.parametrize("model", ["bert_tiny", "gpt2"])
def test_texts_beyond_the_positions(model):
    """In a separate process: the number of threads is set before the frameworks run."""
    command = [sys.executable, "-m", "scripts.cli", "bench", model, "--length", "5000", "--runs", "1"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 2, found.stderr[-2000:]
    assert "--length 5000" in found.stderr and len(found.stderr.splitlines()) == 1


@pytest.fixture
def pipe(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes")
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path / "pipe.png"


@pytest.mark.parametrize("model", ["mobilenet_v2", "crnn_english_g2"])
def test_a_named_pipe_is_no_picture(model, pipe):
    command = [sys.executable, "-m", "scripts.cli", "predict", model, pipe]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)  # it would wait for ever
    assert found.returncode == 2 and "pipe" in found.stderr and len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights.weights.h5"])
def test_a_named_pipe_is_no_file_of_weights(name, tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes")
    os.mkfifo(tmp_path / name)
    command = [
        sys.executable,
        "-m",
        "scripts.cli",
        "convert",
        tmp_path / name,
        tmp_path / "o.pth",
        "--model",
        "pixelgan",
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2 and name in found.stderr and len(found.stderr.splitlines()) == 1


def test_a_line_of_text_that_is_absurdly_wide(tmp_path):
    path = tmp_path / "wide.png"
    Image.fromarray(np.zeros((1, 60000), np.uint8)).save(path)
    refused("predict", "crnn_english_g2", path, words=[str(path), "60000 x 1"])
    with pytest.raises(images.PictureError, match="cut it"):
        ocr.line_input(np.zeros((1, ocr.WIDEST), np.uint8), height=2)
    assert ocr.line_input(np.zeros((1, ocr.WIDEST // 2), np.uint8), height=2).shape[3] == ocr.WIDEST
    assert ocr.line_input(np.zeros((1, 60000), np.uint8), width=100).shape[3] == 100  # squeezed, as asked
