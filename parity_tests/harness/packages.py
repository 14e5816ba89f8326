"""The packages that ship official checkpoints are optional: a test that needs one is skipped where it is missing."""

import contextlib

import pytest

from weights.checkpoints import CheckpointError

__all__ = ["skip_without_package"]


@contextlib.contextmanager
def skip_without_package():
    """Skip the test if what is fetched here is in a package that is not installed; any other failure stays one."""
    try:
        yield
    except CheckpointError as error:
        if "is not installed" not in str(error):
            raise
        pytest.skip(str(error))
