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


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """A pipeline on an instance whose history is in files, below `home`."""
    monkeypatch.setenv("SMSPARTNER_API_KEY", "key-of-main")
    (tmp_path / "home").mkdir()
    with (
        dg.DagsterInstance.local_temp(str(tmp_path / "home")) as instance,
        Pipeline.running(tmp_path / "data", instance) as pipeline,
    ):
        yield pipeline
