"""Where a fetch puts a response."""

from pathlib import Path

import pytest


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "response"
