"""Options and places that all tests share."""

import os
from pathlib import Path

import pytest

# as in jobs: small matrix products cost several times more with two threads, and workers are the parallelism
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


def pytest_addoption(parser):
    """--run-slow runs the large variants."""
    parser.addoption("--run-slow", action="store_true", default=False, help="run the large variants of tests")


def pytest_collection_modifyitems(config, items):
    """Skip large variants unless asked for."""
    if config.getoption("--run-slow"):
        return
    skip = pytest.mark.skip(reason="large variant: --run-slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data():
    """Directory of real frames that are not part of the project; the test skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    place = Path(os.environ.get("SKYQUILT_SHARED", default)) / "data"
    if not place.is_dir():
        pytest.skip(
            "real frames (a directory shared/data beside the checkout, or SKYQUILT_SHARED) are not here"
        )
    return place
