"""A data root in a bucket: what holds in a folder holds there, whatever request is refused.

Against moto's S3 server, a process of its own on loopback.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from stop_pipeline.defs.alerts import findings_of_age
from stop_pipeline.errors import ConfigurationError, StoreError
from stop_pipeline.rebuild import fresh_root, rebuild
from stop_pipeline.settings import Settings
from stop_pipeline.table.bucket import FOOTER_BYTES, BucketFiles
from stop_pipeline.table.files import Files
from stop_pipeline.table.reading import read_rejected, read_stops, read_stops_per_day, read_suppression_list
from stop_pipeline.table.store import Store
from stop_pipeline.verify import verify
from stop_pipeline_tests.support.bucket import (
    SECRET,
    WRITES,
    Choice,
    Fault,
    Proxy,
    Request,
    S3Server,
    environment,
    first,
    nth_write,
)
from stop_pipeline_tests.support.commands import free_port, run_command
from stop_pipeline_tests.support.loopback import Loopback, reply
from stop_pipeline_tests.support.syncing import PARIS, START, Row, Syncer, response_body, rows, tree

pytestmark = pytest.mark.cluster

BUCKET = "a-bucket"
MALFORMED = {"id": "none", "phoneNumber": "+33639980001", "createdAt": "2025-06-01 10:00:00"}
FIRST = [*rows(30), *rows(20, first_id=100, month="2025-07")]
CHANGED: list[Row | Mapping[str, Any]] = [*FIRST[1:], *rows(3, first_id=200, month="2025-08"), MALFORMED]
"""One row removed, a month begun, and the first malformed row."""
DOCUMENT = "state/account=main.json"

Direct = Callable[[str], None]
"""Makes the variables lead to an endpoint."""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lock and temporary files are."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def direct(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Direct:
    """The variables lead to the server; called with another endpoint, there."""

    def lead_to(endpoint: str) -> None:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)

    lead_to(server.endpoint)
    return lead_to


@pytest.fixture
def prefix() -> str:
    """A prefix of this test's own, in the bucket."""
    return f"{BUCKET}/{uuid4().hex}"


def parquet(columns: int, row_groups: int = 1) -> bytes:
    """A Parquet file whose footer grows with its columns and row groups."""
    table = pa.table({f"column_{i}": list(range(row_groups)) for i in range(columns)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=1)
    data: bytes = sink.getvalue().to_pybytes()
    return data


# What a folder does too


def test_a_bucket_holds_byte_for_byte_what_a_folder_holds(server: S3Server, prefix: str, tmp_path: Path) -> None:
    on_disk, in_bucket = Syncer(tmp_path / "data"), Syncer(f"s3://{prefix}")
    for syncer in (on_disk, in_bucket):
        for listed in (FIRST, CHANGED, CHANGED, FIRST):
            syncer.sync(listed)
    assert without_record(server.objects(prefix)) == without_record(tree(tmp_path / "data"))


def without_record(files: dict[str, bytes]) -> dict[str, bytes]:
    """All but the content of the account's record, which has the time of the clock on the wall."""
    return files | {"accounts/account=main.json": b""}


def test_readers_give_the_same_from_a_bucket_as_from_a_folder(prefix: str, tmp_path: Path) -> None:
    roots = [str(tmp_path / "data"), f"s3://{prefix}"]
    for root in roots:
        syncer = Syncer(root)
        syncer.sync(FIRST)
        syncer.sync(CHANGED)
    reads: list[Callable[[str], pd.DataFrame]] = [
        read_stops,
        read_rejected,
        read_stops_per_day,
        read_suppression_list,
        lambda root: read_stops(root, history=True),
        lambda root: read_stops(root, as_of=START.replace(hour=13)),
        lambda root: read_stops(root, columns=["id"], filters=[("created_month", ">", "2025-06"), ("id", "<", 110)]),
    ]
    for read in reads:
        from_disk, from_bucket = map(read, roots)
        assert len(from_disk)
        pd.testing.assert_frame_equal(from_bucket, from_disk)


def test_a_bucket_finds_the_names_that_a_folder_finds(prefix: str, tmp_path: Path) -> None:
    on_disk, in_bucket = Files(tmp_path / "data"), BucketFiles(f"s3://{prefix}")
    names = [
        "state/account=main.json",
        "state/account=other.json",
        "state/notes.txt",
        "stops/account=main/created_month=2025-06/stops.parquet",
        "stops/account=main/created_month=2025-06/deeper/stops.parquet",
        "stops/account=main/created_month=2025-07/stops.parquet",
        "stops/account=main/created_month=2025-07/other.parquet",
        "raw/account=main/latest.json",
        "raw/account=main/1.json.zst",
        "a file at the top",
    ]
    for files in (on_disk, in_bucket):
        assert (files.has_root(), files.below("")) == (False, [])
        for name in names:
            files.write("main", name, name.encode())
        files.remove("raw/account=main/1.json.zst")
        files.remove("raw/account=main/1.json.zst")
        assert files.has_root()
        assert files.below("")
        assert files.is_writable()
    for name in (*names, "none.json", "none/none"):
        assert in_bucket.read(name) == on_disk.read(name)
    for name in (*names, "stops", "stops/account=main", "sto", "none"):
        assert in_bucket.exists(name) == on_disk.exists(name)
    for pattern in (
        "state/account=*.json",
        "stops/account=main/created_month=*/stops.parquet",
        "stops/account=*/created_month=*",
        "s*/account=*",
        "raw/account=main/*.zst",
        "none/account=*",
        "none/*/none",
    ):
        assert in_bucket.matching(pattern) == on_disk.matching(pattern)
    for folder in ("state", "stops", "none", "stops/account=m"):
        assert in_bucket.below(folder) == on_disk.below(folder)


def test_staged_objects_are_published_once_however_often_that_is_tried(server: S3Server, prefix: str) -> None:
    files = BucketFiles(f"s3://{prefix}")
    for name in ("state/a", "state/b"):
        files.write("main", name, b"old")
    staged = files.stage("main", b"new")
    files.stage("main", b"never committed")
    files.stage("other", b"of another account")
    assert files.read(staged) == b"new"
    assert files.read("state/a") == b"old"
    for _ in range(2):
        files.publish({"state/a": staged, "state/b": None})
    files.discard_staged("main")
    assert sorted(server.objects(prefix).values()) == [b"new", b"of another account"]
    assert files.read("state/a") == b"new"


def test_an_empty_object_that_marks_a_folder_is_no_file(server: S3Server, prefix: str) -> None:
    files = BucketFiles(f"s3://{prefix}")
    server.filesystem().create_dir(f"{prefix}/state")
    assert files.below("") == []
    files.write("main", DOCUMENT, b"{}")
    assert files.below("") == [DOCUMENT]
    assert files.matching("*/*") == [DOCUMENT]


def test_a_data_root_encloses_itself_and_what_has_a_longer_prefix() -> None:
    files = BucketFiles("s3://bucket/a/b/")
    assert [files.encloses(uri) for uri in ("s3://bucket/a/b", "s3://bucket/a/b/c", "s3://bucket/a/bc")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("uri", ["gs://bucket/prefix", "abfs://container@account.dfs.core.windows.net/a prefix"])
def test_google_and_azure_are_taken_too(uri: str) -> None:
    assert BucketFiles(uri).uri("stops") == f"{uri}/stops"


# What is fetched


def test_months_that_a_filter_leaves_out_are_not_fetched(server: S3Server, prefix: str, direct: Direct) -> None:
    Syncer(f"s3://{prefix}").sync(FIRST)
    with Proxy(server.endpoint) as proxy:
        direct(proxy.endpoint)
        read_stops(f"s3://{prefix}", filters=[("created_month", "==", "2025-07")])
    assert len({request.target for request in proxy.seen if "created_month" in request.target}) == 1


def test_an_unchanged_sync_reads_the_footers_of_months_alone_and_several_at_a_time(
    server: S3Server, prefix: str, direct: Direct
) -> None:
    months = [f"2024-{month:02}" for month in range(1, 13)]
    listed = [
        Row(
            3 * i,
            f"+3363998{i * 7919 % 10_000:04}",
            f"{month}-{1 + i * i % 28:02} {i * 31 % 24:02}:{i * 17 % 60:02}:00",
        )
        for i, month in enumerate(months * 3_000)
    ]
    syncer = Syncer(f"s3://{prefix}")
    syncer.sync(listed)
    assert min(map(len, server.objects(f"{prefix}/stops").values())) > FOOTER_BYTES
    both = threading.Barrier(2, timeout=60)

    def wait_for_another(request: Request) -> None:
        if "created_month" in request.target:
            both.wait()

    with Proxy(server.endpoint, wait_for_another) as proxy:
        direct(proxy.endpoint)
        assert Syncer(f"s3://{prefix}", start=syncer.now).sync(listed).outcome == "unchanged"
    reads = [request for request in proxy.seen if "created_month" in request.target]
    assert [(request.method, request.range) for request in reads] == [("GET", f"bytes=-{FOOTER_BYTES}")] * len(months)


def test_a_footer_is_read_from_the_end_of_an_object_however_long_it_is(prefix: str) -> None:
    files = BucketFiles(f"s3://{prefix}")
    for columns, row_groups in ((1, 1), (10, 100), (20, 500)):
        files.write("main", "a.parquet", parquet(columns, row_groups))
        footer = files.footer("a.parquet")
        assert (footer.num_columns, footer.num_rows) == (columns, row_groups)


def test_a_footer_that_grows_while_it_is_read_is_that_of_one_version(
    server: S3Server, prefix: str, direct: Direct
) -> None:
    files = BucketFiles(f"s3://{prefix}")
    versions = [parquet(10, 100), parquet(20, 500), parquet(20, 900)]

    def replace(request: Request) -> None:
        files.write("main", "a.parquet", versions[min(len(proxy.seen), len(versions)) - 1])

    with Proxy(server.endpoint, replace) as proxy:
        direct(proxy.endpoint)
        assert BucketFiles(f"s3://{prefix}").footer("a.parquet").num_rows == 900


@pytest.mark.parametrize("data", [b"no Parquet", b"", b"\xff" * 100])
def test_a_damaged_month_is_told_by_its_uri(server: S3Server, prefix: str, data: bytes) -> None:
    syncer = Syncer(f"s3://{prefix}")
    syncer.sync(FIRST)
    month = "stops/account=main/created_month=2025-06/stops.parquet"
    with server.filesystem().open_output_stream(f"{prefix}/{month}") as stream:
        stream.write(data)
    with pytest.raises(StoreError, match=f"s3://{prefix}") as told:
        syncer.sync(CHANGED)
    assert "backup" in str(told.value)


# What is written


def tables(server: S3Server, prefix: str) -> dict[str, bytes]:
    """All but the responses kept, since one that arrived in a failed sync is kept, and the account's record."""
    objects = without_record(server.objects(prefix)).items()
    return {name: data for name, data in objects if not name.startswith("raw/")}


@dataclass(frozen=True)
class Ends:
    """How a sync can begin and end: before it, and after a repetition, whether or not it had committed."""

    before: str  # the data root before the sync
    seen: pd.DataFrame
    seen_after: pd.DataFrame
    if_it_never_ran: dict[str, bytes]
    if_it_ran: dict[str, bytes]

    @classmethod
    def of(cls, server: S3Server, prefix: str) -> "Ends":
        """Three data roots below a prefix: one before the sync, one after it, and one where it never ran."""
        Syncer(f"s3://{prefix}/before").sync(FIRST)
        ends = []
        for name, hours in (("never-ran", (15,)), ("ran", (14, 15))):
            server.copy(f"{prefix}/before", f"{prefix}/{name}")
            for hour in hours:
                Syncer(f"s3://{prefix}/{name}").sync(CHANGED, at=START.replace(hour=hour))
            ends.append(tables(server, f"{prefix}/{name}"))
        seen, seen_after = (read_stops(f"s3://{prefix}/{name}", history=True) for name in ("before", "ran"))
        return cls(f"{prefix}/before", seen, seen_after, *ends)

    def check(self, server: S3Server, place: str) -> bool:
        """A reader sees a commit exactly, and the next sync ends as if the one before had run, or never had.

        Returns:
            Whether it had run, that is, whether it had committed.
        """
        state = Store(f"s3://{place}").state("main")
        ran = state.applied_at == START.replace(hour=14)
        pd.testing.assert_frame_equal(read_stops(f"s3://{place}", history=True), self.seen_after if ran else self.seen)
        Syncer(f"s3://{place}").sync(CHANGED, at=START.replace(hour=15))
        assert tables(server, place) == (self.if_it_ran if ran else self.if_it_never_ran)
        return ran


@pytest.fixture(scope="module")
def ends(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Ends:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment(server.endpoint) | {"HOME": str(tmp_path_factory.mktemp("home"))}).items():
            patch.setenv(name, value)
        return Ends.of(server, f"{BUCKET}/ends")


@pytest.mark.parametrize(
    ("fault", "methods", "says"),
    [
        ("refused", WRITES, "access is refused"),
        ("done, but refused", WRITES, "access is refused"),
        ("lost", ("PUT",), "the store lost the upload"),
    ],
)
def test_whatever_write_is_refused_readers_see_a_commit_and_the_next_sync_mends_all(
    server: S3Server, ends: Ends, prefix: str, direct: Direct, fault: Fault, methods: Collection[str], says: str
) -> None:
    def sync_with(fault: Choice, place: str) -> list[Request]:
        """Sync past a proxy; gives the requests."""
        server.copy(ends.before, place)
        with Proxy(server.endpoint, fault) as proxy:
            direct(proxy.endpoint)
            Syncer(f"s3://{place}").sync(CHANGED, at=START.replace(hour=14))
        return proxy.seen

    seen = sync_with(lambda request: None, f"{prefix}/counted")
    count = sum(request.method in methods for request in seen)
    assert count >= 10
    ran = []
    for number in range(count):
        with pytest.raises(StoreError, match=rf"^Cannot write s3://.*{says}"):
            sync_with(nth_write(number, fault, methods), f"{prefix}/{number}")
        direct(server.endpoint)
        ran.append(ends.check(server, f"{prefix}/{number}"))
    assert ran == sorted(ran)
    assert set(ran) == {False, True}


SYNC_IN_A_PROCESS = """
import sys
from datetime import datetime
from pathlib import Path
from stop_pipeline_tests.support.syncing import Syncer
root, body, at = sys.argv[1:]
Syncer(root).sync(Path(body).read_bytes(), at=datetime.fromisoformat(at))
"""


class Held:
    """Keeps the request that `choose` would refuse waiting until it is let go; then it meets `end`."""

    def __init__(self, choose: Choice, end: Fault | None) -> None:
        self._choose = choose
        self._end = end
        self.reached = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, request: Request) -> Fault | None:
        if self._choose(request) is None:
            return None
        self.reached.set()
        self.let_go.wait()
        return self._end


@pytest.mark.parametrize(("sent", "end"), [(signal.SIGKILL, "refused"), (signal.SIGKILL, None), (signal.SIGINT, None)])
@pytest.mark.parametrize("held_at", ["/.work/staged/", "/state/account", "/stops/account"])
def test_a_process_ended_in_the_midst_of_a_write_leaves_a_commit_and_the_next_sync_mends_all(
    server: S3Server, ends: Ends, prefix: str, tmp_path: Path, held_at: str, sent: signal.Signals, end: Fault | None
) -> None:
    body = tmp_path / "response.json"
    body.write_bytes(response_body(CHANGED))
    place = f"{prefix}/killed"
    server.copy(ends.before, place)
    held = Held(first("PUT", held_at, "refused"), end)
    with Proxy(server.endpoint, held) as proxy:
        arguments = [f"s3://{place}", str(body), str(START.replace(hour=14))]
        with subprocess.Popen(
            [sys.executable, "-c", SYNC_IN_A_PROCESS, *arguments],
            env=os.environ | environment(proxy.endpoint),
            stderr=subprocess.PIPE,
        ) as process:
            assert held.reached.wait(60)
            process.send_signal(sent)
            if sent == signal.SIGKILL:
                process.wait()
            held.let_go.set()
            process.communicate(timeout=60)
        assert process.returncode == -sent
    committed_before_it_ended = held_at == "/stops/account" or (held_at == "/state/account" and end is None)
    assert ends.check(server, place) == committed_before_it_ended
    left = [path.name for path in (tmp_path / ".stop_pipeline" / "work").glob("*/*")]
    assert set(left) == {"account=main.lock", "account=main.holder"}


@pytest.mark.parametrize("number", range(5))
def test_a_large_object_whose_upload_is_refused_midway_leaves_the_old_one(
    server: S3Server, prefix: str, direct: Direct, number: int
) -> None:
    """An upload in parts begins, sends three parts and is completed: each of these five is refused."""
    kinds = [("POST", "?uploads"), *(("PUT", f"partNumber={part}") for part in (1, 2, 3)), ("POST", "?uploadId=")]
    files = BucketFiles(f"s3://{prefix}")
    files.write("main", "state/large", b"old")
    with Proxy(server.endpoint, first(*kinds[number], "refused")) as proxy:
        direct(proxy.endpoint)
        with pytest.raises(StoreError, match="Cannot write"):
            BucketFiles(f"s3://{prefix}").write("main", "state/large", b"new" * 4_000_000)
    assert server.objects(prefix) == {"state/large": b"old"}
    files.write("main", "state/large", b"new" * 4_000_000)
    assert server.objects(prefix) == {"state/large": b"new" * 4_000_000}


def test_a_response_past_its_time_is_removed(server: S3Server, prefix: str) -> None:
    syncer = Syncer(f"s3://{prefix}")
    syncer.sync(FIRST)
    syncer.sync(CHANGED)
    first, second = syncer.store.responses.all("main")
    syncer.store.responses.forget("main", first)
    assert syncer.store.responses.all("main") == [second]
    assert "raw/account=main/latest.json" in server.objects(prefix)


def test_a_finished_temporary_file_is_moved_to_the_bucket(server: S3Server, prefix: str) -> None:
    files = BucketFiles(f"s3://{prefix}")
    with files.locked("main"):
        temporary = files.temporary("main")
        temporary.write_bytes(b"kept" * 2_000_000)
        files.write("main", "raw/account=main/1.json.zst", temporary)
        assert not temporary.exists()
    assert server.objects(prefix) == {"raw/account=main/1.json.zst": b"kept" * 2_000_000}


def test_two_writers_on_one_machine_take_turns(prefix: str, home: Path) -> None:
    with (
        BucketFiles(f"s3://{prefix}/").locked("main"),
        pytest.raises(StoreError, match=f"locked by process {os.getpid()}"),
        BucketFiles(f"s3://{prefix}").locked("main", timeout_seconds=0.1),
    ):
        pass
    for path in (home / ".stop_pipeline").rglob("*"):
        if path.is_dir() or path.suffix == ".lock":
            assert path.stat().st_mode & 0o077 == 0


# What readers see meanwhile


@pytest.mark.parametrize("fault", ["done, but cut off", "cut off midway", "busy"])
def test_a_request_that_fails_on_the_way_is_sent_again(
    server: S3Server, prefix: str, direct: Direct, fault: Fault
) -> None:
    failed: set[tuple[str, str]] = set()

    def fail_once(request: Request) -> Fault | None:
        if (request.method, request.target) in failed:
            return None
        failed.add((request.method, request.target))
        return fault

    with Proxy(server.endpoint, fail_once) as proxy:
        direct(proxy.endpoint)
        files = BucketFiles(f"s3://{prefix}")
        files.write("main", DOCUMENT, b"a document " * 100_000)
        assert files.read(DOCUMENT) == b"a document " * 100_000
        files.remove(DOCUMENT)
    assert {method for method, _ in failed} == {"PUT", "GET", "DELETE"}
    assert server.objects(prefix) == {}


@pytest.mark.parametrize("later", [b"a longer document " * 100_000, b"short"])
def test_an_object_replaced_while_the_connection_breaks_off_is_never_a_mixture(
    server: S3Server, prefix: str, direct: Direct, later: bytes
) -> None:
    """The first response is cut off midway, and what is left of the object is another version by then."""
    files = BucketFiles(f"s3://{prefix}")
    files.write("main", DOCUMENT, b"a document " * 100_000)

    def replace_before_the_second(request: Request) -> Fault | None:
        if len(proxy.seen) == 2:
            files.write("main", DOCUMENT, later)
        return "cut off midway" if len(proxy.seen) == 1 else None

    with Proxy(server.endpoint, replace_before_the_second) as proxy:
        direct(proxy.endpoint)
        files_behind_proxy = BucketFiles(f"s3://{prefix}")
        with pytest.raises(StoreError, match="Cannot read"):
            files_behind_proxy.read(DOCUMENT)
        assert files_behind_proxy.read(DOCUMENT) == later


def test_a_sync_that_commits_while_a_reader_reads_is_not_seen(server: S3Server, prefix: str, direct: Direct) -> None:
    syncer = Syncer(f"s3://{prefix}")
    syncer.sync(FIRST)
    later = [*FIRST, *rows(500, first_id=1000)]

    def sync_before_the_bytes_are_sent(request: Request) -> None:
        if "stops.parquet" in request.target and syncer.store.state("main").rows != len(later):
            syncer.sync(later)

    with Proxy(server.endpoint, sync_before_the_bytes_are_sent) as proxy:
        direct(proxy.endpoint)
        stops = read_stops(f"s3://{prefix}")
    assert syncer.store.state("main").rows == len(later)
    assert sorted(stops["id"]) == sorted(row.id for row in FIRST)


def test_an_object_removed_while_it_is_read_is_not_there(server: S3Server, prefix: str, direct: Direct) -> None:
    files = BucketFiles(f"s3://{prefix}")
    files.write("main", DOCUMENT, b"{\n}\n")

    def remove_before_the_bytes_are_sent(request: Request) -> None:
        files.remove(DOCUMENT)

    with Proxy(server.endpoint, remove_before_the_bytes_are_sent) as proxy:
        direct(proxy.endpoint)
        assert BucketFiles(f"s3://{prefix}").read(DOCUMENT) is None


def test_readers_see_one_commit_after_the_other_while_syncs_run(prefix: str) -> None:
    syncer = Syncer(f"s3://{prefix}")
    lists = [[*FIRST[round_ % 3 :], *rows(round_, first_id=1000 + 10 * round_, month="2025-08")] for round_ in range(7)]
    commits = [sorted(row.id for row in listed) for listed in lists]
    syncer.sync(lists[0])
    seen: list[list[int]] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.append(sorted(read_stops(f"s3://{prefix}")["id"]))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for listed in lists[1:]:
            syncer.sync(listed)
        over.set()
        reader.result()
    seen.append(sorted(read_stops(f"s3://{prefix}")["id"]))
    order = [commits.index(ids) for ids in seen]
    assert order == sorted(order)
    assert len(set(order)) > 2
    assert order[-1] == len(lists) - 1


# Buckets that cannot be used


@dataclass(frozen=True)
class Wrong:
    """A bucket that cannot be used: what the command is given, and what its sentence must say."""

    uri: str
    variables: dict[str, str]
    says: str
    guarded: bool = True


@pytest.fixture
def wrong_buckets(server: S3Server, prefix: str) -> dict[str, Wrong]:
    may_not_list = server.make_user("s3:GetObject", "s3:PutObject", "s3:DeleteObject")
    may_not_write = server.make_user("s3:GetObject", "s3:ListBucket")
    return {
        "unreachable": Wrong(
            prefix, environment(f"http://127.0.0.1:{free_port()}"), "cannot be reached", guarded=False
        ),
        "missing": Wrong("no-such-bucket/prefix", environment(server.endpoint), "no such bucket", guarded=False),
        "unknown key": Wrong(prefix, environment(server.endpoint, key="AKIAUNKNOWN"), "access is refused"),
        "wrong secret": Wrong(
            prefix, environment(server.endpoint, key=may_not_write[0], secret=SECRET), "access is refused"
        ),
        "may not list": Wrong(
            prefix, environment(server.endpoint, key=may_not_list[0], secret=may_not_list[1]), "access is refused"
        ),
        "may not write": Wrong(
            prefix, environment(server.endpoint, key=may_not_write[0], secret=may_not_write[1]), "access is refused"
        ),
    }


def leaked(wrong: Wrong, text: str) -> list[str]:
    secrets = (wrong.variables["AWS_ACCESS_KEY_ID"], wrong.variables["AWS_SECRET_ACCESS_KEY"])
    return [secret for secret in secrets if secret in text]


def committed(server: S3Server, prefix: str) -> dict[str, bytes]:
    """Everything but what comes before the commit: the response as received, and parsed."""
    return {name: data for name, data in tables(server, prefix).items() if not name.startswith("snapshot/")}


def test_a_bucket_that_cannot_be_used_changes_no_table_and_is_told_in_one_sentence(
    server: S3Server, prefix: str, wrong_buckets: dict[str, Wrong], monkeypatch: pytest.MonkeyPatch
) -> None:
    syncer = Syncer(f"s3://{prefix}")
    syncer.sync(FIRST)
    before = committed(server, prefix)
    for name, wrong in wrong_buckets.items():
        for variable, value in wrong.variables.items():
            monkeypatch.setenv(variable, value)
        with server.guarded() if wrong.guarded else nullcontext(), pytest.raises(StoreError) as told:
            Syncer(f"s3://{wrong.uri}", start=syncer.now).sync(CHANGED)
        assert wrong.says in str(told.value), name
        assert f"s3://{wrong.uri}" in str(told.value), name
        assert not leaked(wrong, str(told.value)), name
        assert told.value.__context__ is None, name
        assert committed(server, prefix) == before, name


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("refused", "access is refused"),
        ("busy", "the store failed with HTTP status 503"),
        ("elsewhere", "set AWS_REGION"),
        ("done, but cut off", "cannot be reached"),
    ],
)
def test_a_store_that_keeps_failing_is_told_in_one_sentence_soon(
    server: S3Server, prefix: str, direct: Direct, fault: Fault, says: str
) -> None:
    with Proxy(server.endpoint, lambda request: fault) as proxy:
        direct(proxy.endpoint)
        files = BucketFiles(f"s3://{prefix}")
        began = time.monotonic()
        with pytest.raises(StoreError, match=rf"^Cannot read s3://{prefix}/{DOCUMENT}: [^\n]*{says}[^\n]*\.$") as told:
            files.read(DOCUMENT)
        assert "a-key-id" not in str(told.value)
        assert time.monotonic() - began < 30


def test_a_store_that_never_responds_is_given_up_in_well_under_a_minute(prefix: str, direct: Direct) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        direct(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(StoreError, match="cannot be reached"):
            BucketFiles(f"s3://{prefix}").write("main", DOCUMENT, b"{}")
        assert time.monotonic() - began < 45


def test_the_ages_of_many_lists_are_given_up_together_if_the_store_never_responds(prefix: str, direct: Direct) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        direct(f"http://127.0.0.1:{silent.getsockname()[1]}")
        settings = Settings(accounts=tuple(f"account_{number}" for number in range(12)), data_root=f"s3://{prefix}")
        now = datetime.now(UTC)
        assert findings_of_age(settings, now, now) == []
        silent.settimeout(0)
        asked = 0
        with suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                asked += 1
    assert 0 < asked <= 5  # one request, and its retries


def test_credentials_that_are_missing_are_told_in_one_sentence(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreError, match="no credentials are set; set the provider's own variables"):
        BucketFiles(f"s3://{prefix}").read(DOCUMENT)


def test_a_variable_that_cannot_be_used_is_a_mistake_of_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "none.json"))
    with pytest.raises(ConfigurationError, match="GOOGLE_") as told:
        BucketFiles("gs://bucket/prefix")
    assert told.value.__context__ is None


def test_without_a_home_folder_it_is_said_what_to_set(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999)  # as in a container
    with pytest.raises(ConfigurationError, match=r"has no home folder.*: set HOME"):
        BucketFiles(f"s3://{prefix}")


def test_another_programs_object_with_an_impossible_name_is_told_as_that(server: S3Server, prefix: str) -> None:
    url = f"{server.endpoint}/{prefix}/backup//x.txt"
    requests.put(url, data=b"x", timeout=60).raise_for_status()
    with pytest.raises(StoreError, match="another program's object there has a name that no file can have"):
        BucketFiles(f"s3://{prefix}").below("")


def test_without_obstore_a_folder_works_and_a_bucket_says_what_to_install(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["obstore"] = None
from stop_pipeline.errors import ConfigurationError
from stop_pipeline.table.store import Store
Store(sys.argv[1]).state("main")
try:
    Store("s3://bucket/prefix")
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.count("\n") == 1
    assert "pip install -c constraints.txt -e '.[bucket]'" in done.stdout


def test_the_command_tells_in_one_sentence_that_a_bucket_cannot_be_used_and_exits_1(
    server: S3Server, prefix: str, wrong_buckets: dict[str, Wrong], tmp_path: Path
) -> None:
    with Loopback(reply(200, response_body(FIRST))) as provider:
        for name in ("unreachable", "wrong secret", "may not list"):
            wrong = wrong_buckets[name]
            with server.guarded() if wrong.guarded else nullcontext():
                done = run_command(
                    "run",
                    cwd=tmp_path,
                    SMSPARTNER_API_KEY="a-key-that-is-not-shown",
                    SMSPARTNER_BASE_URL=provider.base_url,
                    STOP_PIPELINE_DATA=f"s3://{wrong.uri}",
                    **wrong.variables,
                )
            said = [line for line in done.stderr.splitlines() if not line.startswith("Account ")]
            assert (done.returncode, len(said)) == (1, 1), f"{name}: {done.stderr}"
            assert wrong.says in said[0], name
            assert not leaked(wrong, done.stdout + done.stderr), name
    # That the account belongs to the data root is recorded before its first sync, which may fail.
    assert committed(server, prefix).keys() <= {"accounts/account=main.json"}


# The commands


def test_a_bucket_is_verified_and_rebuilt(prefix: str) -> None:
    syncer = Syncer(f"s3://{prefix}/data")
    syncer.sync(FIRST)
    syncer.sync(CHANGED)
    assert verify(syncer.store, "main").problems == ()
    fresh = fresh_root(f"s3://{prefix}/rebuilt", syncer.store)
    rebuild(syncer.store, fresh, "main", timezone=PARIS)
    pd.testing.assert_frame_equal(read_stops(fresh.root, history=True), read_stops(syncer.store.root, history=True))
    for taken in ("rebuilt", "data", "data/within"):
        with pytest.raises(StoreError, match=r"is not empty|is inside the data root"):
            fresh_root(f"s3://{prefix}/{taken}", syncer.store)


def test_verify_names_the_problems_of_a_bucket(server: S3Server, prefix: str) -> None:
    syncer = Syncer(f"s3://{prefix}")
    syncer.sync(FIRST)
    month = "stops/account=main/created_month=2025-06/stops.parquet"
    strays = ("stops/account=main/notes.txt", "stops/more.txt", "stops/old/most.txt")
    for name, data in ((month, server.objects(prefix)[month][:-5]), *((stray, b"mine") for stray in strays)):
        with server.filesystem().open_output_stream(f"{prefix}/{name}") as stream:
            stream.write(data)
    sentences = verify(syncer.store, "main").problems
    assert len(sentences) == 4
    assert all(any(stray in sentence for sentence in sentences) for stray in strays)
    assert any(f"s3://{prefix}/{month}: it is damaged" in sentence for sentence in sentences)


def test_run_verify_and_rebuild_work_on_a_bucket(server: S3Server, prefix: str, tmp_path: Path) -> None:
    variables = environment(server.endpoint) | {
        "STOP_PIPELINE_DATA": f"s3://{prefix}",
        "SMSPARTNER_API_KEY": "a-key-that-is-not-shown",
    }
    with Loopback(reply(200, response_body(FIRST))) as provider:
        ran = run_command("run", cwd=tmp_path, SMSPARTNER_BASE_URL=provider.base_url, **variables)
    assert ran.stdout.startswith("main: 50 rows = 50 kept + 0 duplicates collapsed + 0 rejected; 50 new,"), ran.stderr
    assert (tmp_path / ".stop_pipeline" / "dagster.yaml").exists()
    verified = run_command("verify", cwd=tmp_path, **variables)
    assert verified.stdout == "main: 2 months, 50 rows, no problems found.\n", verified.stderr
    rebuilt = run_command("rebuild", "--into", f"s3://{prefix}-rebuilt", cwd=tmp_path, **variables)
    assert f"1 response replayed into s3://{prefix}-rebuilt, 0 skipped; 50 rows" in rebuilt.stdout, rebuilt.stderr
