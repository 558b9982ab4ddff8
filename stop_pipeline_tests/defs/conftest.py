from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from stop_pipeline_tests.support.pipeline import Pipeline


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """In memory; tests of what is on disk make their own."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def pipeline(tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """A pipeline of the account “main”; there is a key for “lyon” as well."""
    monkeypatch.setenv("SMSPARTNER_API_KEY", "key-of-main")
    monkeypatch.setenv("SMSPARTNER_API_KEY_LYON", "key-of-lyon")
    with Pipeline.running(tmp_path, instance) as pipeline:
        yield pipeline
