"""A data root in a bucket: what holds on a disk holds there, whatever request is refused, and readers see commits only.

Against moto's S3 server, a process of its own on loopback.
"""

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest

from stop_pipeline import read_rejected, read_stops, read_stops_per_day, read_suppression_list
from stop_pipeline.errors import StoreError
from stop_pipeline.objects import ObjectFiles
from stop_pipeline.rebuild import fresh_root, rebuild
from stop_pipeline.verify import verify
from stop_pipeline_tests.bucket import SECRET, Choice, Fault, Proxy, S3Server, environment, nth_write
from stop_pipeline_tests.commands import run_command
from stop_pipeline_tests.loopback import Loopback, reply
from stop_pipeline_tests.ticking import PARIS, START, Row, Ticker, answer_body, rows, tree

pytestmark = pytest.mark.cluster

BUCKET = "a-bucket"
MALFORMED = {"id": "none", "phoneNumber": "+33639980001", "createdAt": "2025-06-01 10:00:00"}
FIRST = [*rows(30), *rows(20, first_id=100, month="2025-07")]
CHANGED: list[Row | Mapping[str, Any]] = [*FIRST[1:], *rows(3, first_id=200, month="2025-08"), MALFORMED]
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
def prefix() -> str:
    """A place of this test's own."""
    return f"{BUCKET}/{uuid4().hex}"


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
        with pytest.raises(StoreError, match=r"is not empty|lies within"):
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
    seen = read_stops(before.store.root, history=True)
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
            with pytest.raises(StoreError, match=r"^Cannot write s3://.*access is refused"):
                Ticker(f"s3://{place}").tick(CHANGED, at=START.replace(hour=14))
        direct(server.endpoint)
        ticker = Ticker(f"s3://{place}")
        stands = ticker.store.state("main").applied_at == START.replace(hour=14)
        if not stands:
            pd.testing.assert_frame_equal(read_stops(ticker.store.root, history=True), seen)
        ticker.tick(CHANGED, at=START.replace(hour=15))
        assert tables(server, place) == ends["ran" if stands else "never-ran"], f"write {number} of {count}"


def tables(server: S3Server, prefix: str) -> dict[str, bytes]:
    """Everything but the answers as received: one that landed in a tick that failed is kept."""
    return {name: data for name, data in server.objects(prefix).items() if not name.startswith("raw/")}


TICK_IN_A_PROCESS = """
import sys
from datetime import datetime
from pathlib import Path
from stop_pipeline_tests.ticking import Ticker
root, body, at = sys.argv[1:]
Ticker(root).tick(Path(body).read_bytes(), at=datetime.fromisoformat(at))
"""


class Held:
    """Keeps what `choose` would refuse waiting until it is let go; then it meets `end`."""

    def __init__(self, choose: Choice, end: Fault | None) -> None:
        self._choose = choose
        self._end = end
        self.reached = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, method: str, target: str) -> Fault | None:
        if self._choose(method, target) is None:
            return None
        self.reached.set()
        self.let_go.wait()
        return self._end


@pytest.mark.parametrize(("sent", "end"), [(signal.SIGKILL, "refused"), (signal.SIGINT, None)])
def test_a_process_ended_in_the_midst_of_a_write_leaves_a_commit_and_the_next_tick_mends_all(
    server: S3Server,
    prefix: str,
    direct: Callable[[str], None],
    tmp_path: Path,
    sent: signal.Signals,
    end: Fault | None,
) -> None:
    count = writes_of_a_tick(server, f"{prefix}/counted", direct)
    body = tmp_path / "answer.json"
    body.write_bytes(answer_body(CHANGED))
    before = Ticker(f"s3://{prefix}/before")
    before.tick(FIRST)
    seen = read_stops(before.store.root, history=True)
    server.copy(f"{prefix}/before", f"{prefix}/never-killed")
    Ticker(f"s3://{prefix}/never-killed").tick(CHANGED, at=START.replace(hour=15))

    # In the midst of the tick: the third write from the end is the commit.
    for number in (count // 2, count - 4):
        place = f"{prefix}/{number}"
        server.copy(f"{prefix}/before", place)
        held = Held(nth_write(number, "refused"), end)
        with Proxy(server.endpoint, held) as proxy:
            arguments = [f"s3://{place}", str(body), str(START.replace(hour=14))]
            with subprocess.Popen(
                [sys.executable, "-c", TICK_IN_A_PROCESS, *arguments], env=os.environ | environment(proxy.endpoint)
            ) as process:
                assert held.reached.wait(60)
                process.send_signal(sent)
                if sent == signal.SIGKILL:
                    process.wait()
                held.let_go.set()
        pd.testing.assert_frame_equal(read_stops(f"s3://{place}", history=True), seen)
        Ticker(f"s3://{place}").tick(CHANGED, at=START.replace(hour=15))
        assert tables(server, place) == tables(server, f"{prefix}/never-killed")
    left = [path.name for path in (tmp_path / ".stop_pipeline" / "work").glob("*/*")]
    assert set(left) == {"account=main.lock"}


@pytest.mark.parametrize("number", range(5))
def test_a_large_object_whose_upload_is_refused_midway_leaves_the_old_one(
    server: S3Server, prefix: str, direct: Callable[[str], None], number: int
) -> None:
    files = ObjectFiles(f"s3://{prefix}")
    files.write("main", "state/large", b"old")
    with Proxy(server.endpoint, refuse_nth_of_its_kind(number)) as proxy:
        direct(proxy.endpoint)
        with pytest.raises(StoreError, match="Cannot write"):
            ObjectFiles(f"s3://{prefix}").write("main", "state/large", b"new" * 9_000_000)
        gc.collect()  # a stream that is forgotten would upload what it has
    assert server.objects(prefix) == {"state/large": b"old"}
    direct(server.endpoint)
    files.write("main", "state/large", b"new" * 9_000_000)
    assert server.objects(prefix) == {"state/large": b"new" * 9_000_000}


def refuse_nth_of_its_kind(number: int) -> Choice:
    """An upload in parts begins, sends three parts and is completed: refuse one of these five."""

    def choose(method: str, target: str) -> Fault | None:
        kinds = ["?uploads", "partNumber=1&", "partNumber=2&", "partNumber=3&"]
        kind = next((at for at, text in enumerate(kinds) if text in target), len(kinds) if method == "POST" else None)
        return "refused" if kind == number else None

    return choose


def test_an_answer_that_is_lost_on_the_way_is_asked_for_again(
    server: S3Server, prefix: str, direct: Callable[[str], None]
) -> None:
    lost: set[tuple[str, str]] = set()

    def lose_once(method: str, target: str) -> Fault | None:
        if (method, target) in lost:
            return None
        lost.add((method, target))
        return "done, but cut off"

    with Proxy(server.endpoint, lose_once) as proxy:
        direct(proxy.endpoint)
        ObjectFiles(f"s3://{prefix}").write("main", "state/account=main.json", b"{\n}\n")
        assert ObjectFiles(f"s3://{prefix}").read("state/account=main.json") == b"{\n}\n"
    assert len(lost) >= 3


def test_an_object_replaced_while_it_is_read_is_read_as_one_version(
    server: S3Server, prefix: str, direct: Callable[[str], None]
) -> None:
    ticker = Ticker(f"s3://{prefix}")
    ticker.tick(FIRST)
    later = [*FIRST, *rows(500, first_id=1000)]

    def tick_before_the_bytes_are_sent(method: str, target: str) -> None:
        if method == "GET" and "stops.parquet" in target and ticker.store.state("main").rows != len(later):
            ticker.tick(later)

    with Proxy(server.endpoint, tick_before_the_bytes_are_sent) as proxy:
        direct(proxy.endpoint)
        stops = read_stops(f"s3://{prefix}")
    assert sorted(stops["id"]) == sorted(row.id for row in FIRST)


@pytest.mark.parametrize("later", [b'{\n  "a": 1\n}\n', b'{\n  "a": {\n    "b": 12\n  }\n}\n'])
def test_a_document_replaced_by_a_shorter_or_longer_one_while_it_is_read_is_one_of_the_two(
    server: S3Server, prefix: str, direct: Callable[[str], None], later: bytes
) -> None:
    name, first = "state/account=main.json", b'{\n  "a": {\n    "b": 1\n  }\n}\n'
    files = ObjectFiles(f"s3://{prefix}")
    files.write("main", name, first)

    def replace_before_the_bytes_are_sent(method: str, target: str) -> None:
        if method == "GET" and len(proxy.seen) == 2:
            files.write("main", name, later)

    with Proxy(server.endpoint, replace_before_the_bytes_are_sent) as proxy:
        direct(proxy.endpoint)
        assert ObjectFiles(f"s3://{prefix}").read(name) == later


def test_an_object_removed_while_it_is_read_is_not_there(
    server: S3Server, prefix: str, direct: Callable[[str], None]
) -> None:
    files = ObjectFiles(f"s3://{prefix}")
    files.write("main", "state/account=main.json", b"{\n}\n")

    def remove_before_the_bytes_are_sent(method: str, target: str) -> None:
        if method == "GET" and target.endswith(".json"):
            files.remove("state/account=main.json")

    with Proxy(server.endpoint, remove_before_the_bytes_are_sent) as proxy:
        direct(proxy.endpoint)
        assert ObjectFiles(f"s3://{prefix}").read("state/account=main.json") is None


def test_readers_see_one_commit_after_the_other_while_ticks_run(prefix: str) -> None:
    ticker = Ticker(f"s3://{prefix}")
    lists = [[*FIRST[round_ % 3 :], *rows(round_, first_id=1000 + 10 * round_, month="2025-08")] for round_ in range(8)]
    commits = [sorted(row.id for row in listed) for listed in lists]
    ticker.tick(lists[0])
    seen: list[list[int]] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.append(sorted(read_stops(f"s3://{prefix}")["id"]))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for listed in lists[1:]:
            ticker.tick(listed)
        over.set()
        reader.result()
    order = [commits.index(ids) for ids in seen]
    assert order == sorted(order)
    assert len(seen) > 1


def test_two_writers_on_one_machine_take_turns(prefix: str, home: Path) -> None:
    files = ObjectFiles(f"s3://{prefix}/")
    with (
        files.locked("main"),
        pytest.raises(StoreError, match="Another process has been writing"),
        ObjectFiles(f"s3://{prefix}").locked("main", timeout_seconds=0.1),
    ):
        pass
    for folder in (home / ".stop_pipeline").rglob("*"):
        assert folder.stat().st_mode & 0o077 == 0


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


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_bucket_that_cannot_be_used_changes_no_table_and_is_told_in_one_sentence(
    server: S3Server, prefix: str, wrong_buckets: dict[str, Wrong], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticker = Ticker(f"s3://{prefix}")
    ticker.tick(FIRST)
    before = committed(server, prefix)
    for name, wrong in wrong_buckets.items():
        for variable, value in wrong.variables.items():
            monkeypatch.setenv(variable, value)
        with server.guarded() if wrong.guarded else nullcontext(), pytest.raises(StoreError) as told:
            Ticker(f"s3://{wrong.uri}", start=ticker.now).tick(CHANGED)
        assert wrong.says in str(told.value), name
        assert f"s3://{wrong.uri}" in str(told.value), name
        assert not leaked(wrong, str(told.value)), name
        assert committed(server, prefix) == before, name


def test_the_command_tells_in_one_sentence_that_a_bucket_cannot_be_used_and_exits_1(
    server: S3Server, prefix: str, wrong_buckets: dict[str, Wrong], tmp_path: Path
) -> None:
    with Loopback(reply(200, answer_body(FIRST))) as provider:
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
    assert committed(server, prefix) == {}


def leaked(wrong: Wrong, text: str) -> list[str]:
    secrets = (wrong.variables["AWS_ACCESS_KEY_ID"], wrong.variables["AWS_SECRET_ACCESS_KEY"])
    return [secret for secret in secrets if secret in text]


def committed(server: S3Server, prefix: str) -> dict[str, bytes]:
    """Everything but what comes before the commit: the answer as received, and parsed."""
    return {name: data for name, data in tables(server, prefix).items() if not name.startswith("snapshot/")}


def test_run_verify_and_rebuild_work_on_a_bucket(server: S3Server, prefix: str, tmp_path: Path) -> None:
    variables = environment(server.endpoint) | {
        "STOP_PIPELINE_DATA": f"s3://{prefix}",
        "SMSPARTNER_API_KEY": "a-key-that-is-not-shown",
    }
    with Loopback(reply(200, answer_body(FIRST))) as provider:
        ran = run_command("run", cwd=tmp_path, SMSPARTNER_BASE_URL=provider.base_url, **variables)
    assert ran.stdout.startswith("main: 50 listed, 50 new,"), ran.stderr
    assert (tmp_path / ".stop_pipeline" / "dagster.yaml").exists()
    verified = run_command("verify", cwd=tmp_path, **variables)
    assert verified.stdout == "main: 2 months, 50 rows, nothing off.\n", verified.stderr
    rebuilt = run_command("rebuild", "--into", f"s3://{prefix}-rebuilt", cwd=tmp_path, **variables)
    assert f"1 answer replayed into s3://{prefix}-rebuilt, 0 skipped; 50 rows" in rebuilt.stdout, rebuilt.stderr
