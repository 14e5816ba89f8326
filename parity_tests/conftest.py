"""Shared by the tests: which cases run, one proof per case and worker, the ``--full`` switch."""

import gc
import subprocess
from collections import Counter
from functools import cache, lru_cache

import pytest

from parity_tests import saved
from parity_tests.harness import digest
from parity_tests.harness.case import cases


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the published sizes, too (slow)")
    parser.addoption("--changed", action="store_true", help="cases whose sources changed, and a sample of the others")
    parser.addoption("--save", action="store_true", help="keep the figures that were found in parity_tests/proof")
    parser.addoption("--case", action="append", default=[], help="only these cases or models; may be repeated")


def pytest_configure(config):
    if config.getoption("--save") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Figures())


class _Figures:
    """What the tests find of every case, which is saved at the end."""

    def __init__(self):
        self.found = {}

    def pytest_runtest_logreport(self, report):
        for name, part in report.user_properties if report.when == "call" else ():
            self.found.setdefault(name, []).append(part)

    def pytest_sessionfinish(self):
        from scripts import parity

        parity.save({name: parity.merged(parts) for name, parts in self.found.items()})


def pytest_collection_modifyitems(config, items):
    if config.getoption("--changed"):
        again = _modules()
        marked = [(item, item.get_closest_marker("module")) for item in items]
        trusted = [item for item, mark in marked if mark and mark.args[0] not in again]
        config.hook.pytest_deselected(items=trusted)
        items[:] = [item for item in items if item not in set(trusted)]
    if not config.getoption("--full"):
        skip = pytest.mark.skip(reason="published sizes: run with --full")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


def pytest_runtest_teardown(item):
    if "slow" in item.keywords and item.config.getoption("--full"):
        gc.collect()  # a Keras model is a cycle: Python would keep seven of BERT base before it looks for them


def pytest_generate_tests(metafunc):
    """A test with the argument ``case`` runs for every case; all tests of a case share a worker and its twins."""
    if "case" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--case")
        chosen = [c for c in cases().values() if not wanted or {c.name, c.model} & set(wanted)]
        if metafunc.config.getoption("--changed"):
            chosen = [c for c in chosen if _changed()[c.name]]
        metafunc.parametrize(
            "case", [pytest.param(c.name, id=c.name, marks=pytest.mark.xdist_group(c.name)) for c in chosen]
        )


@cache
def _saved():
    return saved.read(saved.FOLDER)


@cache
def _commit():
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=digest.ROOT, capture_output=True, text=True, check=False).stdout.strip()


@cache
def _changed():
    """Case -> why it is proven by ``--changed``; "" if the saved proof is trusted."""
    return digest.chosen(_saved(), _commit())


@cache
def _modules():
    """Model files that ``--changed`` tests: those with a changed case, and a tenth of the others."""
    modules = {case.entry.module for case in cases().values()}
    changed = {cases()[name].entry.module for name, why in _changed().items() if why in ("new", "changed")}
    return changed | {module for module in modules if digest.turn(_commit(), module) < 1 / 10}


def pytest_report_header(config):
    if config.getoption("--changed"):
        reasons = Counter(_changed().values())
        trusted = reasons.pop("", 0)
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        return f"cases: {sum(reasons.values())} proven again ({why or 'none'}), {trusted} as the saved proof says"


@lru_cache(maxsize=2)
def _proof(name):
    from parity_tests.harness.measure import Proof

    return Proof(cases()[name])


@pytest.fixture
def proof(case):
    """The proof of a case, with its twins cached between tests."""
    return _proof(case)


@pytest.fixture
def holds(proof, request, record_property):
    """Measure a level of the case and assert that it holds; a level that does not apply must say why or be empty."""

    from scripts.parity import source_of, what_is_kept

    def check(level):
        measured = proof.level(level)
        if request.config.getoption("--save"):
            record_property(measured.case, what_is_kept(measured) | source_of(measured.case))
        lines = [f"  {f.name}: relative {f.relative:.2e}, absolute {f.absolute:.2e}" for f in measured.broken()[:12]]
        claimed = _saved().get(measured.case, {}).get("levels", {}).get(level, {})
        found = measured.worst.relative
        assert measured.holds, f"{level} of {measured.case}, bound {measured.bound:g}:\n" + "\n".join(lines)
        told = f"{level} of {measured.case}: {claimed.get('figure')} is saved, {found:g} was found; measure it again"
        assert saved.confirmed(claimed, found, measured.bound), told
        return measured

    return check


@pytest.fixture
def double_precision():
    """Keras layers that are made in the test compute in float64."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)
