"""Names, shapes and order of all tensors are equal in both panels."""

import os

import pytest


def test_tensors_have_the_same_names_shapes_and_order(case, holds):
    assert holds("interface").applies


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests")
@pytest.mark.xdist_group("together")
def test_groups_reach_the_scheduler(request):
    """Tests of a case share a worker, which builds its twins once."""
    assert request.node.nodeid.endswith("@together")
