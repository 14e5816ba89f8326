"""Which cases a change makes stale, and what ``--changed`` proves again."""

import shutil

import pytest

from parity_tests import saved
from parity_tests.harness import digest
from parity_tests.harness.case import cases


def forget():
    for function in (digest._Module.read, digest._read, digest._split, digest.of_harness, digest.of_case):
        function.cache_clear()


@pytest.fixture(scope="module")
def before():
    return {"the harness": digest.of_harness()} | {name: digest.of_case(name) for name in cases()}


@pytest.fixture
def changed(monkeypatch, tmp_path, before):
    """Change the text of a file in a copy of the project; the cases whose digest differs then."""

    def change(path, function):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        for package in digest.OWN:
            shutil.copytree(digest.ROOT / package, copy / package, ignore=shutil.ignore_patterns("*.json", "*.pyc"))
        text = (copy / path).read_text()
        assert function(text) != text
        (copy / path).write_text(function(text))
        with monkeypatch.context() as patch:
            patch.setattr(digest, "ROOT", copy)
            forget()
            found = {"the harness": digest.of_harness()} | {name: digest.of_case(name) for name in cases()}
            stale = {name for name in found if found[name] != before[name]}
        forget()
        return stale

    return change


def test_a_changed_layer_makes_exactly_the_cases_stale_that_use_it(changed):
    stale = changed("tf_impl/layers/window_attention.py", lambda text: text.replace("1", "2"))
    assert {"window_attention", "performer_lm"} <= {cases()[name].model for name in stale}
    assert not {name for name in stale if cases()[name].entry.family not in ("layers", "nlp")}


def test_a_definition_makes_only_those_stale_that_reach_it(changed):
    assert not changed("tf_impl/layers/normalization.py", lambda text: text + "\n\ndef unused_rule(x):\n    return x\n")
    stale = changed(
        "torch_impl/classification/squeezenet.py", lambda text: text.replace("1.1", "1.2").replace("64", "65")
    )
    assert stale and {cases()[name].entry.module for name in stale} <= {"classification.squeezenet"}
    everywhere = changed("tf_impl/layers/model.py", lambda text: text.replace("object.__setattr__", "setattr"))
    assert len(everywhere) > 100
    assert not changed("tf_impl/layers/model.py", lambda text: text.replace("(bool, int", "(int"))  # of a config


def test_comments_and_docstrings_make_none_stale(changed):
    assert not changed("tf_impl/layers/top_k.py", lambda text: text + "\n# a comment\n")
    assert not changed("torch_impl/layers/top_k.py", lambda text: text.replace('"""Largest', '"""The largest'))


def test_a_case_and_the_harness_have_digests_apart(changed):
    path = "parity_tests/cases/classification/squeezenet.py"
    assert changed(path, lambda text: text.replace("65, 49", "67, 49")) <= {
        name for name, case in cases().items() if case.entry.module == "classification.squeezenet"
    }
    stale = changed("parity_tests/harness/measure.py", lambda text: text.replace("1e-10", "1e-11"))
    assert stale == {"the harness"}


def test_what_is_proven_again():
    current = {name: {"digest": digest.of_case(name), "harness": digest.of_harness()} for name in cases()}
    count = len(current)

    def reasons(known):
        found = digest.chosen(known, "a commit")
        return {reason: {name for name in found if found[name] == reason} for reason in set(found.values())}

    assert reasons({})["new"] == set(current)
    assert reasons({**current, "top_k": {**current["top_k"], "digest": "other"}})["changed"] == {"top_k"}
    assert 15 < len(reasons(current)["turn"]) < 45
    other = {name: {**case, "harness": "other"} for name, case in current.items()}
    assert 0.15 * count < len(reasons(other)["harness"]) < 0.36 * count
    turns = [name for i in range(120) for name, why in digest.chosen(current, f"commit {i}").items() if why]
    assert len(set(turns)) > 0.98 * count  # everybody has a turn


def test_a_forged_figure_is_found_when_its_turn_comes():
    claimed = {"figure": 1e-15}
    assert saved.confirmed(claimed, 2e-14, 1e-10)  # another processor
    assert saved.confirmed({"figure": 4e-11}, 6e-11, 1e-10)
    assert not saved.confirmed(claimed, 5e-11, 1e-10)
    assert saved.confirmed({}, 5e-11, 1e-10)  # nothing was claimed
