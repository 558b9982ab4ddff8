"""A data root for all tests of campaigns that only read it."""

from pathlib import Path

import pytest

from stop_pipeline_tests.campaign.lists import synced


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose list is recent and has one number; nothing here writes to it."""
    return synced(tmp_path_factory.mktemp("shared") / "data").root
