"""Fetches for tests: a client that never waits, and the error of a fetch that must leave nothing behind."""

import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from stop_pipeline.errors import StopPipelineError
from stop_pipeline.smspartner.client import Response, StopListClient
from stop_pipeline_tests.support.loopback import Loopback, Script

KEY = "k3y/w1th +ödd&=%signs"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIST = b'{"success": true, "code": 200, "nbData": 0, "data": []}'
LONG_LIST = b'{"success": true, "code": 200, "nbData": 0, "data": [' + b" " * 500_000 + b"]}"


def client_for(base_url: str, **settings: Any) -> StopListClient:
    """A client that never waits between tries, and whose clock stands still."""
    quick: dict[str, Any] = {
        "backoff_seconds": 0,
        "retry_after_max_seconds": 0,
        "clock": lambda: NOW,
    }
    return StopListClient(KEY, base_url=base_url, **(quick | settings))


def fetch(into: Path, *scripts: Script, **settings: Any) -> Response:
    """What such a client fetches from a server that responds so."""
    with Loopback(*scripts) as server:
        return client_for(server.base_url, **settings).fetch(into)


def fetch_error(base_url: str, into: Path, **settings: Any) -> StopPipelineError:
    """The error of a fetch, which must leave no file and no trace of the key behind."""
    with pytest.raises(StopPipelineError) as caught:
        client_for(base_url, **settings).fetch(into)
    assert not into.exists()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert_keyless("".join(traceback.format_exception(caught.value)))
    return caught.value


def assert_keyless(text: str) -> None:
    assert KEY not in text
    assert quote(KEY) not in text
    assert quote_plus(KEY) not in text
    assert "k3y" not in text
