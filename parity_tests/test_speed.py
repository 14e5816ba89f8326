"""Timings of parts of systems: what is measured of one, how it is shown, and what is refused."""

import json

import pytest
import torch
from click.testing import CliRunner

from scripts import readme
from scripts.speed_parts import main
from scripts.speed_repositories import REPOSITORIES, modules_of
from scripts.timing import Part, measured


def test_published_repositories_are_asked_for():
    result = CliRunner().invoke(main, ["published_faces"])
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert all(name in result.output for name in ("published_faces", "--repositories FOLDER", *REPOSITORIES))


def test_only_lacking_clones_are_named(tmp_path):
    for name in REPOSITORIES[1:]:
        (tmp_path / name.rpartition("/")[2]).mkdir()
    result = CliRunner().invoke(main, ["published_trackers", "--repositories", str(tmp_path)])
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert REPOSITORIES[0] in result.output and REPOSITORIES[1] not in result.output


def test_an_unknown_group_is_refused():
    result = CliRunner().invoke(main, ["tracker"])
    assert result.exit_code == 2 and "no group tracker" in result.output and "trackers" in result.output


def test_two_repositories_may_share_a_name(tmp_path):
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "shared_name.py").write_text(f"value = {i}", encoding="utf-8")
        with modules_of(tmp_path / str(i)):
            import shared_name
        assert shared_name.value == i


def test_a_part_is_measured_and_shown(monkeypatch, tmp_path):
    x = torch.ones(64, 64)

    def twice():
        return (x @ x.T).exp()

    files = {"TensorFlow's ONNX": list, "PyTorch's ONNX": list}
    found = measured(Part("a loss", twice, list, twice, "package", files, matrix=4 * 64 * 64, runs=1))
    assert list(found["ratios"]) == [
        "PyTorch / package",
        "TensorFlow / PyTorch",
        "PyTorch's ONNX / PyTorch",
        "TensorFlow's ONNX / PyTorch's ONNX",
    ]
    assert found["memory"] == {"PyTorch": pytest.approx(2, abs=0.1), "package": pytest.approx(2, abs=0.1)}

    for i, ratio in enumerate(found["ratios"].values()):
        ratio["median"] = i + 0.5
    found["milliseconds"]["PyTorch"]["median"] = 1234.5
    found["memory"] = {"PyTorch": 2.0, "package": 3.04}
    saved = tmp_path / "parts.json"
    plain = {"part": "re-ranking", "milliseconds": {"PyTorch": {"median": 1.0}}, "ratios": {}}
    groups = {"metric": [found], "retrieval": [plain]}
    timed = {"groups": groups, "versions": {}, "threads": 1, "runs": 1, "few_runs": 1}
    saved.write_text(json.dumps(timed), encoding="utf-8")
    monkeypatch.setattr(readme, "PARTS", saved)
    heading, _, *rows = [line.strip("|").split("|") for line in readme.parts().splitlines() if line.startswith("|")]
    assert {len(row) for row in (heading, *rows)} == {7}
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[0] == ["a loss", "1234", "0.50 package", "1.50", "2.50", "3.50", "2.0, 3.0"]
    assert cells[1] == ["re-ranking", "1", "", "", "", "", ""]
