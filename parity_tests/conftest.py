"""Shared by the tests: which cases run, one proof per case and worker, the ``--full`` switch."""

import gc
from functools import lru_cache

import pytest

from parity_tests.cases import cases


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the published sizes, too (slow)")
    parser.addoption("--case", action="append", default=[], help="only these cases or models; may be repeated")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        skip = pytest.mark.skip(reason="published sizes: run with --full")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


def pytest_runtest_teardown(item):
    if "slow" in item.keywords:
        gc.collect()  # a Keras model is a cycle: Python would keep seven of BERT base before it looks for them


def pytest_generate_tests(metafunc):
    """A test with the argument ``case`` runs for every case; all tests of a case share a worker and its twins."""
    if "case" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--case")
        chosen = [c for c in cases().values() if not wanted or {c.name, c.model} & set(wanted)]
        metafunc.parametrize(
            "case", [pytest.param(c.name, id=c.name, marks=pytest.mark.xdist_group(c.name)) for c in chosen]
        )


@lru_cache(maxsize=2)
def _proof(name):
    from parity_tests.measure import Proof

    return Proof(cases()[name])


@pytest.fixture
def proof(case):
    """The proof of a case, with its twins cached between tests."""
    return _proof(case)


@pytest.fixture
def holds(proof, record_property):
    """Measure a level of the case and assert that it holds; a level that does not apply must say why or be empty."""

    def check(level):
        measured = proof.level(level)
        record_property("worst", measured.worst.relative)
        lines = [f"  {f.name}: relative {f.relative:.2e}, absolute {f.absolute:.2e}" for f in measured.broken()[:12]]
        assert measured.holds, f"{level} of {measured.case}, bound {measured.bound:g}:\n" + "\n".join(lines)
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
