"""The report: what stands on its pages, that hostile text stays text, and that nothing is invented or lost."""

import copy
import dataclasses
import functools
import itertools
import json
import operator
import re
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from parity_tests import saved as proofs
from parity_tests.harness.case import cases
from scripts import cli, parity, report
from scripts.report import charts, code, details, notes, pages
from scripts.report import site as site_of
from weights import catalog

ROOT = Path(__file__).parent.parent
MODELS = {name: model for name, model in catalog.load().items() if not model.neutral}
HOSTILE = (
    """<script>alert(1)</script>"><img src=x onerror='alert(2)'>&amp;</title></svg>--> \u2028 {{ 7 * 7 }} ${x} `y`"""
)
DETAILS = {
    "case": "resnet18",
    "model": "resnet18",
    "errors": {},
    "versions": {},
    "levels": {"outputs": {"float64": {"figure": 1e-15, "name": "y"}, "float32": {"figure": 2e-7, "name": "y"}}},
    "losses": [{"name": "total", "values": [1.5, 1.5], "float64": 0.0, "float32": 1e-7}],
    "gradients": [
        {"name": "conv1.weight", "shape": [8, 3, 7, 7], "float64": 2e-15, "absolute": 1e-16, "float32": 3e-7},
        {"name": "layer1.0.conv2.weight", "shape": [8, 8, 3, 3], "float64": 9e-15, "absolute": 2e-16, "float32": 1e-7},
        {"name": "fc.bias", "shape": [10], "float64": 0.0, "absolute": 0.0, "float32": 0.0},
    ],
    "trace": [
        {"module": "conv1", "float64": 5e-16, "float32": 0.0},
        {"module": "layer1.0.conv2", "float64": 8e-16, "float32": 2e-7},
        {"module": "layer1.0", "float64": 9e-16, "float32": None},
    ],
    "classes": {
        "": ["tf_impl.classification.resnet:ResNet", "torch_impl.classification.resnet:ResNet"],
        "conv1": ["tf_impl.layers.convolution:Conv2d", "torch.nn.modules.conv:Conv2d"],
        "layer1": ["keras.src.models.sequential:Sequential", "torch.nn.modules.container:Sequential"],
        "layer1.0": ["tf_impl.classification.resnet:BasicBlock", "torch_impl.classification.resnet:BasicBlock"],
        "layer1.0.conv2": ["tf_impl.layers.convolution:Conv2d", "torch.nn.modules.conv:Conv2d"],
    },
    "onnx": {
        "model": {
            panel: {
                "nodes": 3,
                "bytes": 4000,
                "transposes": 0,
                "opset": 18,
                "sha256": "0" * 64,
                "operators": {"Conv": 2, name: 1},
            }
            for panel, name in (("tf_impl", "MatMul"), ("torch_impl", "Gemm"))
        }
    },
    "latency": {
        "runs": 20,
        "inputs": {"images": [2, 3, 65, 49]},
        "milliseconds": {
            "TensorFlow's ONNX": {"median": 0.4, "low": 0.3, "high": 0.5},
            "PyTorch's ONNX": {"median": 0.4, "low": 0.35, "high": 0.45},
        },
        "ratio": {"median": 1.0, "low": 0.9, "high": 1.1},
    },
    "answers": {
        "picture": "/9j/4AAQSkZJRg==",
        "size": [60, 80],
        "inputs": {"images": [1, 3, 60, 80]},
        "engines": {
            engine: {
                "kind": "boxes",
                "count": 1,
                "rows": [{"box": [5.0, 6.0, 40.0, 50.0], "score": 0.75, "label": 3}],
            }
            for engine in ("TensorFlow", "PyTorch", "TensorFlow's ONNX", "PyTorch's ONNX")
        },
        "differences": dict.fromkeys(("TensorFlow", "PyTorch", "TensorFlow's ONNX", "PyTorch's ONNX"), 1e-7),
        "bound": 1e-5,
    },
}


@pytest.fixture(scope="module")
def site():
    """Every page, with the details of one case."""
    known = {case.name: case.model for case in cases().values()}
    return pages.render(MODELS, parity.saved(), {"resnet18": DETAILS}, known)


class Elements(HTMLParser):
    """All start tags with their attributes, the text, and the data of scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.scripts, self._in = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text.append(data)


# ----------------------------------------------------------------------------------------------- mirror notes


@pytest.mark.parametrize("file", notes.files())
def test_both_panels_list_the_same_notes_and_marks_lead_to_one(file):
    listed = {panel: notes._listed(source) for panel, source in notes.sources(file).items()}
    assert len(listed["tf_impl"]) == len(listed["torch_impl"]), listed
    for entries in listed.values():
        texts = [text for text, *_ in entries]
        assert len(set(texts)) == len(texts), "a note is listed twice"
    assert not notes.stray(file)
    layout = "NHWC in TensorFlow, NCHW in PyTorch"  # of all lines
    marked = [note.marked for note in notes.in_file(file) if not note.text.startswith(layout)]
    assert all(marked) or not any(marked), "a file that marks one note marks all, in both panels"
    for note in notes.in_file(file):
        for panel, numbers in note.places.items():
            lines = notes.sources(file)[panel].splitlines()
            assert all(0 < number <= len(lines) and lines[number - 1].strip() for number in numbers)


def test_marks_on_and_above_a_line():
    source = "a = 1  # why; mirror: one\n\n# mirror: two\n# and so on\nb = 2\nc = 3  # mirror: three; mirror: four\n"
    assert list(notes._marks(source)) == [(1, "one"), (5, "two"), (6, "three"), (6, "four")]
    shown = [pages.excerpt(line).striptags() for line in code.lines(source)]
    assert (shown[0], shown[5]) == ("a = 1 # why", "c = 3")


def test_a_mark_without_a_note_is_found(monkeypatch):
    both = dict.fromkeys(
        notes.PANELS, '"""x\n\nMirror notes:\n- One thing.\n- One other.\n"""\n\na = 1  # mirror: One\n'
    )
    monkeypatch.setattr(notes, "sources", lambda file: both)
    assert len(notes.stray("x.py")) == 2
    assert "'One' is in 2 notes" in notes.stray("x.py")[0]


def test_a_note_without_a_mark_leads_to_the_names_it_gives():
    source = '"""x\n\nMirror notes:\n- It is ``F.gelu`` there.\n"""\n\nimport F\n\ny = F.gelu(x)\nz = my_F.gelux(x)\n'
    assert notes._named(source, "It is ``F.gelu`` there.") == [9]


def test_notes_are_spelt_out_and_have_topics():
    assert notes.spelt_out("NHWC here, NCHW in PyTorch: there rows.") == (
        "NHWC in TensorFlow, NCHW in PyTorch: in PyTorch rows."
    )
    assert notes.spelt_out("the attribute is ``output_`` there.") == "the attribute is ``output_`` there."
    found = notes.notes()
    topics = {note.topic for note in found}
    asked = {"Padding", "Resize and sampling", "Batch statistics", "Recurrent gates", "Ties", "Masks and indices"}
    assert asked | {"Export"} <= topics
    assert not any(re.search(r"\bhere\b", note.text) for note in found)


# ----------------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("file", notes.files())
def test_pages_lose_no_line_of_a_file(file):
    rows = code.rows(file)
    assert len({row["id"] for row in rows}) == len(rows)
    for i, (_, source) in enumerate(notes.sources(file).items()):
        shown = {line["number"]: line["html"] for row in rows for line in row["cells"][i] or ()}
        lines = source.splitlines()
        assert [n for n, line in enumerate(lines, start=1) if line.strip() and n not in shown] == []
        assert list(shown) == sorted(shown)
        for number, html in shown.items():
            assert html.striptags() == " ".join(lines[number - 1].split())


def test_lines_of_modules():
    source = notes.sources("classification/resnet.py")["torch_impl"].splitlines()
    forward = code.line_of("torch_impl", "classification/resnet.py", "BasicBlock")
    assert "def forward(self, x)" in source[forward - 1]
    conv2 = code.line_of("torch_impl", "classification/resnet.py", "BasicBlock", "conv2")
    assert source[conv2 - 1].strip().startswith("self.conv2 = CONV(planes")
    layer1 = code.line_of("torch_impl", "classification/resnet.py", "ResNet", "layer1")  # made by setattr
    assert source[layer1 - 1].strip() == "def __init__("
    assert code.line_of("torch_impl", "classification/resnet.py", "Nothing") is None


def test_the_trace_leads_to_both_sources(site):
    page = site["classification/resnet.html"]
    links = re.findall(r'<a class="jump" href="#tf-(\d+),pt-\d+"><code>([\w.<>]+)</code>', page)
    tensorflow = notes.sources("classification/resnet.py")["tf_impl"].splitlines()
    places = {module.replace("<wbr>", ""): tensorflow[int(line) - 1].strip() for line, module in links}
    assert places["layer1.0.conv2"].startswith("self.conv2 = CONV(planes")
    assert places["layer1.0"] == "def call(self, x, training=False):"
    assert places["conv1"].startswith("self.conv1 = CONV(filters, 7")


# ------------------------------------------------------------------------------------------------------- pages


def test_every_link_leads_somewhere(site):
    anchors = {path: set(re.findall(r'\sid="([^"]+)"', page)) for path, page in site.items()}
    for path, page in site.items():
        for tag, attributes in Elements(page).tags:
            href = attributes.get("href", "") if tag == "a" else ""
            if not href or href.startswith("https://"):
                continue
            file, _, names = href.partition("#")
            target = (Path("/") / Path(path).parent / file).resolve().relative_to("/").as_posix() if file else path
            assert target in site, f"{path}: {href}"
            if names and not names.startswith("family="):
                assert set(names.split(",")) <= anchors[target], f"{path}: {href}"


def test_pages_load_nothing_and_hold_one_script(site):
    for path, page in site.items():
        elements = Elements(page)
        for tag, attributes in elements.tags:
            assert tag not in ("iframe", "img", "object", "embed", "base"), path
            assert not any(name.startswith("on") or name == "style" for name in attributes), f"{path}: {attributes}"
            source = attributes.get("src") or (attributes.get("href") if tag != "a" else None)
            assert source is None or source.startswith("data:"), f"{path}: {source}"
        scripts = [kind.get("type", "") for tag, kind in elements.tags if tag == "script"]
        assert sorted(scripts) == (["", "application/json"] if path == "index.html" else [""])
        assert "url(" not in page and "@import" not in page
        (policy,) = (a["content"] for _, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'; img-src data:;")


def test_drawings_are_xml(site):
    for path in ("index.html", "classification/resnet.html"):
        drawings = re.findall(r"<svg.*?</svg>", site[path], re.DOTALL)
        assert len(drawings) > 10
        for drawing in drawings:
            xml.etree.ElementTree.fromstring(drawing)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    """In another process, with another order of sets; and no framework is needed."""
    chosen = ["resnet18", "crnn", "top_k"]
    known = {name: name for name in chosen}
    site = pages.render(report._chosen(chosen), parity.saved(), {"resnet18": DETAILS}, known)
    program = (
        "import json, sys; from pathlib import Path; from scripts import parity, report;"
        "from scripts.report import pages; given = json.load(open(sys.argv[1]));"
        "site = pages.render(report._chosen(list(given['known'])), parity.saved(), given['details'], given['known']);"
        "Path(sys.argv[2]).write_text(json.dumps(site));"
        "print([m for m in ('torch', 'tensorflow', 'keras', 'onnxruntime') if m in sys.modules])"
    )
    given, again = tmp_path / "given.json", tmp_path / "site.json"
    given.write_text(json.dumps({"known": known, "details": {"resnet18": DETAILS}}))
    done = subprocess.run(
        [sys.executable, "-c", program, given, again],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONHASHSEED": "7"},
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert json.loads(again.read_text()) == site


def test_figures_are_those_of_the_saved_proof(site):
    saved = parity.saved()["resnet18"]["levels"]
    article = (
        site["classification/resnet.html"].split('<article class="case" data-case="resnet18"')[1].split("</article>")[0]
    )
    rows = dict(re.findall(r'<th scope="row">(\w+)</th>\n\s*<td>.*?</td>\n\s*<td class="num">(.*?)</td>', article))
    assert rows["outputs"] == site_of.figure(saved["outputs"]["figure"])
    assert rows["gradients"] == site_of.figure(saved["gradients"]["figure"])
    assert [site_of.figure(value) for value in (0, 1.26e-9, 3e-15, None)] == ["equal", "1.3e-9", "3.0e-15", "inf"]


def test_what_was_not_run_is_marked(site):
    empty = pages.render(MODELS, {}, {}, {case.name: case.model for case in cases().values()})
    index = Elements(empty["index.html"])
    assert not [
        attributes
        for tag, attributes in index.tags
        if tag == "svg" and "bound" in attributes.get("aria-label", "") and "A bar" not in attributes["aria-label"]
    ]
    page = empty["classification/resnet.html"]
    assert "holds</span>" not in page
    assert page.count('<span class="state notrun">not run</span>') >= 8 * 5  # levels of five cases
    assert "Loss terms, trace, gradients and answers of this case: not measured" in page
    partly = {
        "resnet18": {
            **parity.saved()["resnet18"],
            "levels": {"outputs": parity.saved()["resnet18"]["levels"]["outputs"]},
        }
    }
    some = site_of.Site(MODELS, partly, {}, {"resnet18": "resnet18", "resnet34": "resnet34"})
    assert some.measured("outputs", ["resnet18", "resnet34"])["partly"]
    assert some.measured("losses", ["resnet18"])["state"] == "not run"


def test_a_broken_level_is_shown(site):
    saved = json.loads(json.dumps(parity.saved()["resnet18"]))
    saved["levels"]["outputs"] |= {"figure": None, "holds": False, "name": "RuntimeError: it fell"}
    page = pages.render({"resnet18": MODELS["resnet18"]}, {"resnet18": saved}, {}, {"resnet18": "resnet18"})[
        "classification/resnet.html"
    ]
    assert '<span class="state broken">broken</span>' in page
    assert "RuntimeError: it fell" in page
    assert 'class="level broken"' in page


DAMAGE = (None, -1, 0, HOSTILE, [], {}, [1], {"a": {}}, float("nan"), 10**400, True)
GONE = object()


def damaged(sound: dict) -> Iterator[dict]:
    """What was read from a file, with one value in it replaced or taken out: every seventh place and value."""

    def places(node, path=()):
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            yield (*path, key)
            yield from places(node[key], (*path, key))

    for (*above, last), value in itertools.islice(itertools.product(places(sound), (*DAMAGE, GONE)), 0, None, 7):
        found = copy.deepcopy(sound)
        at = functools.reduce(operator.getitem, above, found)
        if value is GONE:
            del at[last]
        else:
            at[last] = value
        yield found


def test_damaged_details_count_as_not_run_or_are_shown(tmp_path, monkeypatch):
    """Wrong types, missing keys, NaN, absurd numbers and markup in the cache: no page ends in a traceback."""
    case = next(case for case in cases().values() if case.name == "resnet18")
    monkeypatch.setattr(details, "path_of", lambda case: tmp_path / "details.json")
    models, proof = {"resnet18": MODELS["resnet18"]}, parity.saved()["resnet18"]
    shown = 0
    for found in damaged(DETAILS):
        (tmp_path / "details.json").write_text(json.dumps(found))
        kept = details.read(case)
        if kept is not None:
            shown += 1
            site = pages.render(models, {"resnet18": proof}, {"resnet18": kept}, {"resnet18": "resnet18"})
            assert "<img" not in site[site_path(site)]
    assert 20 < shown < 200, "most damage is seen, and what does not matter is shown"


def test_damaged_proofs_are_refused_or_shown(tmp_path):
    proof = parity.saved()["resnet18"]
    models, shown = {"resnet18": MODELS["resnet18"]}, 0
    for found in damaged(proof):
        (tmp_path / "resnet.json").write_text(json.dumps({"cases": {"resnet18": found}}))
        try:
            kept = proofs.read(tmp_path / "resnet.json")
        except proofs.DamagedProof as error:
            assert str(tmp_path / "resnet.json") in str(error)
            continue
        shown += 1
        site = pages.render(models, kept, {}, {"resnet18": "resnet18"})
        assert "<img" not in site[site_path(site)]
    assert 5 < shown < 100


def test_hostile_names_stay_text():
    """In the catalogue, the proof, the details: HTML, attributes, SVG, JSON."""
    tensor = catalog.Tensor(("N", 3))
    model = dataclasses.replace(
        MODELS["resnet18"],
        system=HOSTILE,
        title=HOSTILE,
        paper=HOSTILE,
        reference=HOSTILE,
        options={HOSTILE: HOSTILE},
        inputs={HOSTILE: tensor},
    )
    text = json.dumps(DETAILS)
    for word in ("layer1.0.conv2", "fc.bias", "total", "MatMul", "TensorFlow's ONNX"):
        text = text.replace(json.dumps(word)[1:-1], json.dumps(HOSTILE)[1:-1])
    found = json.loads(text) | {"errors": {"gradients": HOSTILE}}
    saved = json.loads(json.dumps(parity.saved()["resnet18"]))
    saved["versions"]["torch"] = HOSTILE
    for level in saved["levels"].values():
        level |= {"name": HOSTILE, "reason": HOSTILE}
    case = f"case {HOSTILE}"
    site = pages.render({"resnet18": model}, {case: saved}, {case: found}, {case: "resnet18"})
    for path in ("index.html", site_path(site)):
        elements = Elements(site[path])
        assert not {"img", "iframe"} & {tag for tag, _ in elements.tags}
        assert not [1 for _, attributes in elements.tags if any(name.startswith("on") for name in attributes)]
        assert [tag for tag, _ in elements.tags].count("script") == (2 if path == "index.html" else 1)
        assert HOSTILE in "".join(elements.text)
        for href in (attributes.get("href", "") for _, attributes in elements.tags):
            assert not href.lower().startswith("javascript:")
        for drawing in re.findall(r"<svg.*?</svg>", site[path], re.DOTALL):
            xml.etree.ElementTree.fromstring(drawing)
    (search,) = json.loads(Elements(site["index.html"]).scripts[0])
    assert HOSTILE.lower() in search["words"]
    assert "49" not in "".join(Elements(site["index.html"]).text).replace("{{ 7 * 7 }}", "")[:300]


def site_path(site) -> str:
    (path,) = (path for path in site if path.startswith("classification/"))
    return path


def test_papers_become_links_only_if_they_are_papers():
    assert pages.paper_link("arXiv:1512.03385") == "https://arxiv.org/abs/1512.03385"
    assert pages.paper_link("10.1109/5.726791") == "https://doi.org/10.1109/5.726791"
    assert pages.paper_link("javascript:alert(1)") is None
    assert pages.paper_link('10.1109/"onclick="x') is None


def test_systems_of_one_name_have_pages_of_their_own():
    models = {
        "a": dataclasses.replace(MODELS["resnet18"], name="a", system="X-1"),
        "b": dataclasses.replace(MODELS["resnet18"], name="b", system="X 1"),
    }
    assert sorted(site_of.Site(models, {}, {}, {}).path.values()) == [
        "classification/x-1-.html",
        "classification/x-1.html",
    ]


def test_bars():
    assert 'width="0"' in charts.level(0.0, 1e-10, True, "equal")
    inside, outside = (charts.level(value, 1e-10, value < 1e-10, "x") for value in (1e-12, 1e-8))
    length, tick = (float(re.findall(r'class="bar" x="0" y="2" width="([\d.]+)"', bar)[0]) for bar in (inside, outside))
    assert length < float(re.findall(r'class="bound" x="([\d.]+)"', inside)[0]) < tick
    assert "broken" in charts.level(None, 1e-10, False, "x")
    assert charts._at(1e-30, 100) == 0 and charts._at(5.0, 100) == 100


# ------------------------------------------------------------------------------------------- details and cache


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*args, code=0):
    result = CliRunner().invoke(cli.main, ["report", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def test_measured_details_are_kept_and_shown(cache, tmp_path):
    case = cases()["pixelgan"]
    assert details.read(case) is None
    out = tmp_path / "site"
    before = json.loads(run("pixelgan", "--out", out, "--json").stdout)
    assert "pixelgan" in before["details not run"]
    parts = []
    found = details.measure("pixelgan", parts.append)
    assert parts == list(details.PARTS)
    assert found["errors"] == {}
    assert details.read(case) == found
    (kept,) = (cache / "report").iterdir()
    assert kept == details.path_of(case)
    outputs = found["levels"]["outputs"]
    assert outputs["float64"]["figure"] < 1e-12 < outputs["float32"]["figure"] < 1e-4
    saved = parity.saved()["pixelgan"]["levels"]["outputs"]["figure"]
    assert outputs["float64"]["figure"] == pytest.approx(saved, rel=0.5)
    assert {row["name"] for row in found["gradients"]} >= {"net.0.weight", "net.0.bias"}
    assert found["gradients"][0]["shape"] == [8, 6, 1, 1]
    assert [row["module"] for row in found["trace"]][:2] == ["net.0", "net.1"]
    assert found["classes"][""] == [
        "tf_impl.gan._patchgan:PixelDiscriminator",
        "torch_impl.gan._patchgan:PixelDiscriminator",
    ]
    for panel in found["onnx"]["model"].values():
        assert panel["opset"] == 18 and len(panel["sha256"]) == 64
        assert sum(panel["operators"].values()) == panel["nodes"]
    for values in found["latency"]["milliseconds"].values():
        assert 0 < values["low"] <= values["median"] <= values["high"]
    after = json.loads(run("pixelgan", "--out", out, "--json").stdout)
    assert "pixelgan" not in after["details not run"]
    page = (out / "gan" / "pix2pix.html").read_text()
    assert found["onnx"]["model"]["tf_impl"]["sha256"] in page
    kept.write_text("{")
    assert details.read(case) is None


def test_answers_of_four_engines_to_the_picture():
    from scripts.report.measured import Measured

    found = Measured(cases()["unet_128"]).answers()
    assert list(found["engines"]) == ["TensorFlow", "PyTorch", "TensorFlow's ONNX", "PyTorch's ONNX"]
    assert all(answer["kind"] == "picture" and answer["jpeg"] for answer in found["engines"].values())
    assert max(found["differences"].values()) <= found["bound"]
    assert found["size"] == [64, 128] and found["picture"]


# ------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_every_system_from_the_saved_proof_alone(cache, tmp_path):
    out = tmp_path / "site"
    result = run("--out", out)
    assert "open" in result.stdout and "were not run, and are marked so" in result.stdout
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    systems = {(model.family, model.system) for model in MODELS.values()}
    assert {"index.html", "idioms.html"} <= written
    assert len([path for path in written if path.split("/")[0] in catalog.FAMILIES]) == len(systems)


def test_systems_are_chosen_by_model_or_by_their_own_name():
    chosen = report._chosen(["resnet34", "crnn"])
    assert {model.system for model in chosen.values()} == {"ResNet", "CRNN"}
    assert set(report._chosen(["wide resnet"])) == {"wide_resnet50_2", "wide_resnet101_2"}


def test_bad_usage_is_one_line(cache, tmp_path):
    assert "did you mean" in run("resnet81", "--out", tmp_path / "site", code=2).stderr
    assert not (tmp_path / "site").exists()
    (tmp_path / "file").write_text("x")
    assert "is a file, and a folder was expected" in run("crnn", "--out", tmp_path / "file", code=2).stderr
    assert (tmp_path / "file").read_text() == "x"
    assert "cannot be made" in run("crnn", "--out", tmp_path / "file" / "below", code=2).stderr
    assert "--out" in run("crnn", code=2).stderr


def test_the_command_line_starts_without_the_report():
    program = "import sys; from scripts.cli import main; main(['list'], standalone_mode=False);"
    program += "print([m for m in ('jinja2', 'pygments', 'selenium') if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip() == "[]"


def test_what_is_written_once_has_no_page(tmp_path):
    result = CliRunner().invoke(cli.main, ["report", "fmm", "--out", str(tmp_path / "site")])
    assert result.exit_code == 2 and "diptych show fmm" in result.stderr
    assert not (tmp_path / "site").exists()
