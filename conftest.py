"""Real-data tests: skipped with a reason where SHALA_DATA is absent, failed where SHALA_REQUIRE_DATA is set."""

import os
from pathlib import Path

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("real_data") is None:
        return
    folder = Path(os.environ.get("SHALA_DATA", "../shared/data"))
    if not folder.is_dir():
        reason = f"no real data at {folder.resolve()}; set SHALA_DATA to their folder"
        if os.environ.get("SHALA_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real files; only for tests marked real_data."""
    return Path(os.environ.get("SHALA_DATA", "../shared/data")).resolve()
