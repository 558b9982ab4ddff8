"""A data root in a bucket: what holds on a disk holds there, whatever request is refused, and readers see commits only.

Against moto's S3 server, a process of its own on loopback.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from stop_pipeline import read_rejected, read_stops, read_stops_per_day, read_suppression_list
from stop_pipeline.errors import StoreError
from stop_pipeline.objects import ObjectFiles
from stop_pipeline.rebuild import fresh_root, rebuild
from stop_pipeline.store import Store
from stop_pipeline.verify import verify
from stop_pipeline_tests.bucket import SECRET, Fault, Proxy, S3Server, environment, nth_write
from stop_pipeline_tests.commands import run_command
from stop_pipeline_tests.loopback import Loopback, reply
from stop_pipeline_tests.ticking import PARIS, START, Row, Ticker, answer_body, rows, tree

pytestmark = pytest.mark.cluster

BUCKET = "a-bucket"
MALFORMED = {"id": "none", "phoneNumber": "+33639980001", "createdAt": "2025-06-01 10:00:00"}
FIRST = [*rows(30), *rows(20, first_id=100, month="2025-07")]
CHANGED = [*FIRST[1:], *rows(3, first_id=200, month="2025-08"), MALFORMED]
"""One row removed, a month begun, and the first malformed row."""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lock and temporaries lie."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def direct(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Amazon's variables lead to the server; called with another endpoint, there."""

    def lead_to(endpoint: str) -> None:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)

    lead_to(server.endpoint)
    return lead_to


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A place of this test's own."""
    return f"{BUCKET}/{abs(hash(request.node.nodeid))}"


def test_a_bucket_holds_byte_for_byte_what_a_folder_holds(server: S3Server, prefix: str, tmp_path: Path) -> None:
    on_disk, in_bucket = Ticker(tmp_path / "data"), Ticker(f"s3://{prefix}")
    for ticker in (on_disk, in_bucket):
        for listed in (FIRST, CHANGED, CHANGED, FIRST):
            ticker.tick(listed)
    assert server.objects(prefix) == tree(tmp_path / "data")


def test_readers_give_the_same_from_a_bucket_as_from_a_folder(prefix: str, tmp_path: Path) -> None:
    roots = [str(tmp_path / "data"), f"s3://{prefix}"]
    for root in roots:
        ticker = Ticker(root)
        ticker.tick(FIRST)
        ticker.tick(CHANGED)
    reads: list[Callable[[str], pd.DataFrame]] = [
        read_stops,
        read_rejected,
        read_stops_per_day,
        read_suppression_list,
        lambda root: read_stops(root, history=True),
        lambda root: read_stops(root, as_of=START),
        lambda root: read_stops(root, columns=["id"], filters=[("created_month", ">", "2025-06"), ("id", "<", 110)]),
    ]
    for read in reads:
        from_disk, from_bucket = map(read, roots)
        pd.testing.assert_frame_equal(from_bucket, from_disk)


def test_months_that_a_filter_leaves_out_are_not_fetched(
    server: S3Server, prefix: str, direct: Callable[[str], None]
) -> None:
    Ticker(f"s3://{prefix}").tick(FIRST)
    with Proxy(server.endpoint) as proxy:
        direct(proxy.endpoint)
        read_stops(f"s3://{prefix}", filters=[("created_month", "==", "2025-07")])
    months = {target for _, target in proxy.seen if "created_month" in target}
    assert len(months) == 1


def test_a_bucket_is_verified_and_rebuilt(prefix: str) -> None:
    ticker = Ticker(f"s3://{prefix}/data")
    ticker.tick(FIRST)
    ticker.tick(CHANGED)
    assert verify(ticker.store, "main").findings == ()
    fresh = fresh_root(f"s3://{prefix}/rebuilt", ticker.store)
    rebuild(ticker.store, fresh, "main", timezone=PARIS)
    pd.testing.assert_frame_equal(read_stops(fresh.root, history=True), read_stops(ticker.store.root, history=True))
    for taken in ("rebuilt", "data", "data/within"):
        with pytest.raises(StoreError, match="is not empty|lies within"):
            fresh_root(f"s3://{prefix}/{taken}", ticker.store)


def test_verify_names_what_is_off(server: S3Server, prefix: str) -> None:
    ticker = Ticker(f"s3://{prefix}")
    ticker.tick(FIRST)
    month = "stops/account=main/created_month=2025-06/stops.parquet"
    for name, data in ((month, server.objects(prefix)[month][:-5]), ("stops/account=main/notes.txt", b"mine")):
        with server.filesystem().open_output_stream(f"{prefix}/{name}") as stream:
            stream.write(data)
    sentences = [finding.sentence for finding in verify(ticker.store, "main").findings]
    assert len(sentences) == 2
    assert "notes.txt is no file of this package" in sentences[0]
    assert f"s3://{prefix}/{month}: it is damaged" in sentences[1]


def test_an_answer_past_its_time_is_removed(server: S3Server, prefix: str) -> None:
    ticker = Ticker(f"s3://{prefix}")
    ticker.tick(FIRST)
    ticker.tick(CHANGED)
    first, second = ticker.store.answers("main")
    ticker.store.forget_answer("main", first)
    assert ticker.store.answers("main") == [second]
    assert "raw/account=main/latest.json" in server.objects(prefix)


def writes_of_a_tick(server: S3Server, prefix: str, direct: Callable[[str], None]) -> int:
    """How many requests of a tick change something."""
    ticker = Ticker(f"s3://{prefix}")
    ticker.tick(FIRST)
    with Proxy(server.endpoint) as proxy:
        direct(proxy.endpoint)
        ticker = Ticker(f"s3://{prefix}", start=ticker.now)
        ticker.tick(CHANGED)
    direct(server.endpoint)
    return len(proxy.writes())


@pytest.mark.parametrize("fault", ["refused", "done, but refused"])
def test_whatever_write_is_refused_readers_see_a_commit_and_the_next_tick_mends_all(
    server: S3Server, prefix: str, direct: Callable[[str], None], fault: Fault
) -> None:
    count = writes_of_a_tick(server, f"{prefix}/counted", direct)
    assert count >= 10

    # What there is after two ticks, and after three: a commit that was made in spite of a refusal stands.
    before = Ticker(f"s3://{prefix}/before")
    before.tick(FIRST)
    seen = {"before": read_stops(before.store.root, history=True)}
    ends = {}
    for name, ticks in (("never-ran", (3,)), ("ran", (2, 3))):
        server.copy(f"{prefix}/before", f"{prefix}/{name}")
        ticker = Ticker(f"s3://{prefix}/{name}")
        for hour in ticks:
            ticker.tick(CHANGED, at=START.replace(hour=12 + hour))
        ends[name] = tables(server, f"{prefix}/{name}")

    for number in range(count):
        place = f"{prefix}/{number}"
        server.copy(f"{prefix}/before", place)
        with Proxy(server.endpoint, nth_write(number, fault)) as proxy:
            direct(proxy.endpoint)
            with pytest.raises(StoreError, match=r"^Cannot write s3://.*AccessDenied|ACCESS_DENIED"):
                Ticker(f"s3://{place}").tick(CHANGED, at=START.replace(hour=14))
        direct(server.endpoint)
        ticker = Ticker(f"s3://{place}")
        committed = ticker.store.state("main").applied_at == START.replace(hour=14)
        if not committed:
            pd.testing.assert_frame_equal(read_stops(ticker.store.root, history=True), seen["before"])
        ticker.tick(CHANGED, at=START.replace(hour=15))
        assert tables(server, place) == ends["ran" if committed else "never-ran"], f"write {number} of {count}"
        assert verify(ticker.store, "main").findings == ()


def tables(server: S3Server, prefix: str) -> dict[str, bytes]:
    """Everything but the answers as received: one that landed in a tick that failed is kept."""
    return {name: data for name, data in server.objects(prefix).items() if not name.startswith("raw/")}
