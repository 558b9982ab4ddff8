"""Writers and readers at once: real processes on one data root, and nothing lost, torn, or waited for in vain.

What a table must hold is worked out here from what was listed, by a model that knows no Parquet: a period begins with
the first response that lists a row, and ends with the first that no longer does.
"""

import errno
import hashlib
import itertools
import logging
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest

from stop_pipeline import read_stops, sync
from stop_pipeline.errors import StoreError
from stop_pipeline.smspartner.client import Response
from stop_pipeline.table.files import LOCK_TIMEOUT_SECONDS, Files
from stop_pipeline.table.merge import RemovalPolicy
from stop_pipeline.table.store import Store
from stop_pipeline_tests.conftest import Figures
from stop_pipeline_tests.support.commands import GIVE_UP_SECONDS, wait_until
from stop_pipeline_tests.support.syncing import PARIS, START, Row, Syncer, response_body, rows

WRITERS = 8
OTHERS_TURN_SECONDS = 0.1

Key = tuple[int, str, str]
"""id, phone number, `created_at_local`"""


@dataclass
class Model:
    """What a table of periods must hold after some responses: for each period, when it began and ended."""

    periods: dict[tuple[Key, datetime], datetime | None] = field(default_factory=dict)

    def apply(self, listed: list[Row], fetched_at: datetime) -> None:
        keys = {(row.id, row.phone_number, row.created_at) for row in listed}
        still_open = {key: began for (key, began), ended in self.periods.items() if ended is None}
        for key in still_open.keys() - keys:
            self.periods[key, still_open[key]] = fetched_at
        for key in keys - still_open.keys():
            self.periods[key, fetched_at] = None

    def open_keys(self) -> set[Key]:
        return {key for (key, _), ended in self.periods.items() if ended is None}


def periods_of(frame: pd.DataFrame) -> list[tuple[tuple[Key, datetime], datetime | None]]:
    """The rows of a frame as the model has them."""
    removed = [None if pd.isna(time) else time.to_pydatetime() for time in frame["removed_at"]]
    return list(zip(zip(keys_of(frame), _times(frame["first_seen_at"]), strict=True), removed, strict=True))


def keys_of(frame: pd.DataFrame) -> list[Key]:
    return list(
        zip(
            frame["id"].tolist(),
            frame["phone_number"].astype(str).tolist(),
            frame["created_at_local"].astype(str).tolist(),
            strict=True,
        )
    )


def _times(column: Any) -> list[datetime]:
    return [time.to_pydatetime() for time in column]


# The processes: eight, started once, and all set off together


def _begin(folder: Path, parties: int) -> None:
    """Wait until as many processes as named are here, so that they run at once."""
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    give_up_at = time.monotonic() + GIVE_UP_SECONDS
    while len(list(folder.iterdir())) < parties:
        if time.monotonic() > give_up_at:
            raise TimeoutError
        time.sleep(0.002)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    executor = ProcessPoolExecutor(WRITERS, mp_context=context)
    yield executor
    for process in list((executor._processes or {}).values()):  # noqa: SLF001 – one that hangs must not hang us
        process.kill()
    executor.shutdown(cancel_futures=True)


def results_of(futures: list[Future[Any]]) -> list[Any]:
    give_up_at = time.monotonic() + GIVE_UP_SECONDS
    return [future.result(timeout=max(give_up_at - time.monotonic(), 1)) for future in futures]


# Writers


def listing(number: int) -> list[Row]:
    """The provider's list when it is asked for the `number`th time: rows are added, altered and removed.

    A row of its own comes with each, and stands for the next thirty responses.
    """
    standing = rows(60) + rows(60, first_id=100, month="2025-07")
    own = [Row(1000 + i, f"+3363998{i:04}", "2025-08-01 10:00:00") for i in range(max(number - 30, 0), number + 1)]
    altered = Row(500, f"+3363998{9000 + number // 3}", "2025-05-01 10:00:00")
    return [*standing, *own, altered]


class SharedProvider:
    """Responses that follow each other across processes, each once; their times are this machine's, or as given."""

    secrets: tuple[str, ...] = ()

    def __init__(self, folder: Path, times: Mapping[int, datetime] | None = None) -> None:
        self._folder = folder
        self._times = times

    def fetch(self, into: Path) -> Response:
        for number in itertools.count():
            try:
                (self._folder / str(number)).touch(exist_ok=False)
                break
            except FileExistsError:
                continue
        fetched_at = datetime.now(UTC) if self._times is None else self._times[number]
        return sync.FetchedBefore(response_body(listing(number)), fetched_at).fetch(into)


@dataclass(frozen=True)
class Done:
    """Which response a sync found merged when it was done, and whether it had merged it itself."""

    sha256: str
    applied_at: datetime
    here: bool


def _sync_again_and_again(root: Path, work: Path, syncs: int, times: Mapping[int, datetime] | None) -> list[Done]:
    store, provider = Store(root), SharedProvider(work / "asked", times)
    _begin(work / "started", WRITERS)
    done = []
    for _ in range(syncs):
        # A lock that others poll for seldom changes hands by itself: after each step they get the time to take it.
        sync.fetch(store, "main", provider)
        time.sleep(OTHERS_TURN_SECONDS)
        sync.parse(store, "main", timezone=PARIS)
        time.sleep(OTHERS_TURN_SECONDS)
        merged = sync.merge(store, "main", RemovalPolicy(accept_removals=1000))
        sync.derive_tables(store, "main")
        assert merged.state.sha256 is not None
        assert merged.state.applied_at is not None
        done.append(Done(merged.state.sha256, merged.state.applied_at, merged.outcome == "merged"))
    return done


@pytest.mark.parametrize("clock", ["running", "jumping"])
@pytest.mark.parametrize("syncs", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_eight_processes_sync_one_account_and_the_newest_response_wins(
    syncs: int, clock: str, processes: ProcessPoolExecutor, tmp_path: Path, figures: Figures
) -> None:
    root, asked = tmp_path / "data", tmp_path / "asked"
    asked.mkdir()
    total = WRITERS * syncs
    # A clock that jumps: every response has a time of its own, in an arbitrary order (7 does not divide the total).
    times = {number: START + timedelta(minutes=number * 7 % total) for number in range(total)}
    given = times if clock == "jumping" else None
    futures = [processes.submit(_sync_again_and_again, root, tmp_path, syncs, given) for _ in range(WRITERS)]
    done = [each for per_process in results_of(futures) for each in per_process]

    assert len(list(asked.iterdir())) == total
    state = Store(root).state("main")
    bodies = {_sha256(listing(number)): number for number in range(total)}
    applied = {each.applied_at: bodies[each.sha256] for each in done}
    assert len([each for each in done if each.here]) == len(applied), "a response was merged twice, or none"
    model = Model()
    for applied_at, number in sorted(applied.items()):
        model.apply(listing(number), applied_at)
        if clock == "jumping":
            assert applied_at == times[number]

    newest = max(times, key=times.__getitem__) if clock == "jumping" else total - 1
    assert state.applied_at == max(applied)
    assert bodies[state.sha256 or ""] == newest
    assert state.staged == {}
    history = periods_of(read_stops(root, history=True))
    lost = len(model.periods.items() - dict(history).items())
    figures.add("syncs of one account by eight processes at once, and rows lost", tried=total, lost=lost)
    assert len(history) == len(dict(history))
    assert dict(history) == model.periods
    assert sorted(keys_of(read_stops(root))) == sorted((r.id, r.phone_number, r.created_at) for r in listing(newest))
    if clock == "running":
        assert set(range(1000, 1000 + total)) <= {key[0] for (key, _), _ in history}, "a row was lost"
    assert not list((root / ".work").glob("account=main/*"))


def _sha256(listed: list[Row]) -> str:
    return hashlib.sha256(response_body(listed)).hexdigest()


def _sync_once(root: Path, account: str, count: int) -> None:
    Syncer(root, account).sync(rows(count))


def _wait_for_lock(root: Path, account: str) -> str:
    try:
        with Files(root).locked(account, timeout_seconds=0.2):
            return "held"
    except StoreError as error:
        return str(error)


def test_an_account_never_waits_for_another_but_for_itself(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    root = tmp_path / "data"
    with Store(root).locked("lyon"):
        # It would wait for the lock longer than we wait for the sync.
        assert LOCK_TIMEOUT_SECONDS > GIVE_UP_SECONDS
        results_of([processes.submit(_sync_once, root, "paris", 7)])
        (refusal,) = results_of([processes.submit(_wait_for_lock, root, "lyon")])
        assert f"The account “lyon” has been locked by process {os.getpid()} (since " in refusal
        assert "UTC) for 0.2 s: wait for that process to end, or end it, and run again (lock: " in refusal
    assert len(read_stops(root)) == 7
    assert results_of([processes.submit(_wait_for_lock, root, "lyon")]) == ["held"]


def test_a_wait_says_for_whom(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, ready = tmp_path / "data", tmp_path / "ready"
    with lock_held(root, ready) as holder, caplog.at_level(logging.WARNING):
        assert f"has been locked by process {holder.pid} (since 20" in _wait_for_lock(root, "main")
    assert [record.getMessage().split(" (since ")[0] for record in caplog.records] == [
        f"Account main: waiting for process {holder.pid}"
    ]


def test_a_wait_that_ends_names_the_process_that_holds_the_lock_by_then(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    holder = tmp_path / "data/.work/account=main.holder"
    with store.locked("main"), ThreadPoolExecutor(1) as pool:
        holder.write_text("process 1 (since noon)")
        waiting = pool.submit(_wait_for_lock, tmp_path / "data", "main")
        time.sleep(0.05)
        holder.write_text("process 2 (since then)")
        assert "has been locked by one process after another, now process 2 (since then), for" in waiting.result()


def test_what_a_killed_sync_left_on_a_full_disk_is_removed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "data")
    with store.locked("main"):
        pass
    left = store.files.temporary("main")
    left.write_bytes(b"x")

    def refuse(*_: object, **__: object) -> None:
        assert not left.exists()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", refuse)  # as long as `left` is there, the disk is full
    with store.locked("main"):
        assert not left.exists()


def _sync_of(root: Path, work: Path, account: str) -> None:
    _begin(work / "started", WRITERS)
    syncer = Syncer(root, account)
    for number in range(5):
        syncer.sync(rows(20 + number))


@pytest.mark.slow
def test_eight_accounts_at_once_share_a_root_and_nothing_else(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    root = tmp_path / "data"
    results_of([processes.submit(_sync_of, root, tmp_path, f"a{number}") for number in range(WRITERS)])
    assert read_stops(root)["account"].value_counts().to_dict() == {f"a{number}": 24 for number in range(WRITERS)}


def _hold_the_lock(root: Path, account: str, ready: Path) -> None:
    store = Store(root)
    with store.locked(account):
        store.files.temporary(account).write_text("half of a file")
        ready.touch()
        signal.pause()


@contextmanager
def lock_held(root: Path, ready: Path) -> Iterator[SpawnProcess]:
    """A process that holds the account's lock until it is killed, at the end of the block or before."""
    holder = multiprocessing.get_context("spawn").Process(target=_hold_the_lock, args=(root, "main", ready))
    holder.start()
    try:
        wait_until(ready.exists, "the lock is held")
        yield holder
    finally:
        holder.kill()
        holder.join(GIVE_UP_SECONDS)
    assert holder.exitcode == -signal.SIGKILL


def test_a_holder_that_is_killed_blocks_nobody_and_what_it_left_is_cleared(tmp_path: Path) -> None:
    root = tmp_path / "data"
    Syncer(root).sync(rows(20))
    with lock_held(root, tmp_path / "ready"):
        left = list((root / ".work" / "account=main").iterdir())
        assert len(left) == 1
    Syncer(root, start=START + timedelta(days=1)).sync(rows(21))
    assert len(read_stops(root)) == 21
    assert not left[0].exists()


# Readers


def evolving(number: int) -> list[Row]:
    """What the provider lists at the `number`th sync: each adds, alters and removes rows, in several months."""
    months = ("2025-03", "2025-04", "2025-05", "2025-06")
    standing = [row for place, month in enumerate(months) for row in rows(250, first_id=1 + 250 * place, month=month)]
    gone = {1 + (7 * i) % 1000 for i in range(2 * number)} if number else set()
    listed = [row for row in standing if row.id not in gone]
    altered = {row.id for row in listed[number % 50 :: 211]}
    listed = [Row(row.id, f"+3363998{5000 + number}", row.created_at) if row.id in altered else row for row in listed]
    # A month that begins every tenth sync: folders come while the readers list them.
    added = [
        Row(2000 + i, f"+3363998{7000 + i}", f"{2015 + i // 40:04}-{1 + i // 10 % 12:02}-10 08:00:00")
        for i in range(number * 2)
    ]
    return listed + added


def fetched_at_sync(number: int) -> datetime:
    return START + timedelta(hours=number + 1)


@dataclass(frozen=True)
class Progress:
    """How far the writer has come, as told by a file per commit that is there only once the commit stands."""

    folder: Path

    def committed(self) -> int:
        """The newest sync known to be committed; -1 before the first."""
        return len(list(self.folder.iterdir())) - 1

    def commit(self, number: int) -> None:
        (self.folder / f"{number:04}").touch()


def _write(root: Path, folder: Path, syncs: int, parties: int) -> None:
    progress, syncer = Progress(folder / "committed"), Syncer(root, start=fetched_at_sync(0))
    _begin(folder / "started", parties)
    try:
        for number in range(1, syncs + 1):
            syncer.sync(evolving(number), accept_removals=1000)
            progress.commit(number)
    finally:
        (folder / "over").touch()


Reader = Callable[[Path], pd.DataFrame]


def _read_pandas(root: Path) -> pd.DataFrame:
    return pd.read_parquet(root / "stops")


def _read_pyarrow(root: Path) -> pd.DataFrame:
    return ds.dataset(root / "stops", partitioning="hive").to_table().to_pandas()  # type: ignore[no-any-return]


def _read_duckdb(root: Path) -> pd.DataFrame:
    dataset = ds.dataset(root / "stops", partitioning="hive")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.from_arrow(dataset).arrow().read_all().to_pandas()  # type: ignore[no-any-return]


def _read_polars(root: Path) -> pd.DataFrame:
    dataset = ds.dataset(root / "stops", partitioning="hive")
    return pl.scan_pyarrow_dataset(dataset).collect().to_arrow().to_pandas()  # type: ignore[no-any-return]


def _read_duckdb_by_path(root: Path) -> pd.DataFrame:
    with duckdb.connect() as connection:
        files = f"{root}/stops/**/*.parquet"
        relation = connection.read_parquet(files, hive_partitioning=True)
        return relation.arrow().read_all().to_pandas()  # type: ignore[no-any-return]


def _read_polars_by_path(root: Path) -> pd.DataFrame:
    return pl.scan_parquet(root / "stops", hive_partitioning=True).collect().to_arrow().to_pandas()  # type: ignore[no-any-return]


FOLDER_READERS: dict[str, Reader] = {
    "pandas": _read_pandas,
    "pyarrow": _read_pyarrow,
    "DuckDB": _read_duckdb,
    "polars": _read_polars,
}
PATH_READERS: dict[str, Reader] = {"DuckDB": _read_duckdb_by_path, "polars": _read_polars_by_path}


@dataclass
class Readings:
    """What a reader met."""

    reads: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)


def _states(syncs: int) -> list[Model]:
    """What the table must be after each sync."""
    model, states = Model(), []
    for number in range(syncs + 1):
        model.apply(evolving(number), fetched_at_sync(number))
        states.append(Model(dict(model.periods)))
    return states


def _read_the_folder(name: str, root: Path, folder: Path, syncs: int, parties: int, *, by_path: bool) -> Readings:
    """Read until the writer is done; each read must hold all that was committed before it, and nothing that never was.

    Between two months a sync may be half published, so a read lies between two commits.
    """
    read = (PATH_READERS if by_path else FOLDER_READERS)[name]
    progress, states, readings = Progress(folder / "committed"), _states(syncs), Readings()
    read(root)
    _begin(folder / "started", parties)
    while not (folder / "over").exists():
        before = progress.committed()
        readings.reads += 1
        try:
            frame = read(root)
        except BaseException as error:  # every failure is counted; a panic of polars is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            readings.failed[f"{type(error).__name__}: {str(error)[:90]}"] += 1
            continue
        if by_path:
            continue
        after = min(progress.committed() + 1, syncs)
        found = periods_of(frame)
        periods = dict(found)
        least, most = states[before].periods, states[after].periods
        if len(periods) != len(found):
            readings.wrong.append("a row came twice")
        if least.keys() - periods.keys():
            readings.wrong.append(f"{len(least.keys() - periods.keys())} committed rows were missing")
        if periods.keys() - most.keys():
            readings.wrong.append("a row came that no sync had written")
        for period, ended in periods.items():
            allowed = {least.get(period), most.get(period)}
            if ended not in allowed:
                readings.wrong.append(f"a row ended at {ended}, where {allowed} were due")
                break
        readings.seen.add(before)
    return readings


def _read_commits(root: Path, folder: Path, syncs: int, parties: int) -> Readings:
    """`read_stops` until the writer is done: each read must be one commit exactly, none older than was known."""
    progress, readings = Progress(folder / "committed"), Readings()
    numbers = {tuple(sorted(state.open_keys())): number for number, state in enumerate(_states(syncs))}
    assert len(numbers) == syncs + 1
    read_stops(root)
    _begin(folder / "started", parties)
    while not (folder / "over").exists():
        before = progress.committed()
        readings.reads += 1
        try:
            frame = read_stops(root)
        except Exception as error:  # noqa: BLE001 – every failure is counted
            readings.failed[f"{type(error).__name__}: {str(error)[:90]}"] += 1
            continue
        number = numbers.get(tuple(sorted(keys_of(frame))))
        if number is None:
            readings.wrong.append("a read was no commit")
        elif not before <= number <= progress.committed() + 1:
            readings.wrong.append(f"commit {number} was read, where {before} stood already")
        else:
            readings.seen.add(number)
    return readings


@pytest.mark.parametrize("syncs", [10, pytest.param(45, marks=pytest.mark.slow)])
def test_readers_never_fail_and_never_miss_a_committed_row_while_syncs_go_on(
    syncs: int, processes: ProcessPoolExecutor, tmp_path: Path, figures: Figures
) -> None:
    root = tmp_path / "data"
    readings = _read_while_writing(processes, root, tmp_path, syncs, by_path=False)

    for reading in readings.values():
        bad = reading.failed.total() + len(reading.wrong)
        figures.add("reads while syncs go on", tried=reading.reads, lost=bad)
    for name, reading in readings.items():
        assert not reading.failed, name
        assert not reading.wrong, (name, reading.wrong[:3])
        assert reading.reads > syncs // 4, f"{name} hardly read"
        assert len(reading.seen) > 3, f"{name} saw hardly any change"
    final = _states(syncs)[syncs]
    assert dict(periods_of(read_stops(root, history=True))) == final.periods


@pytest.mark.slow
@pytest.mark.parametrize("syncs", [40])
def test_how_often_duckdb_and_polars_trip_over_the_bare_path_is_told(
    syncs: int, processes: ProcessPoolExecutor, tmp_path: Path, figures: Figures
) -> None:
    """Measured, not promised: the README says to read over a fresh `pyarrow.dataset` instead."""
    readings = _read_while_writing(processes, tmp_path / "data", tmp_path, syncs, by_path=True)
    for name, reading in readings.items():
        what = f"reads while syncs go on, by {name} on the bare path"
        figures.add(what, tried=reading.reads, lost=reading.failed.total())
    assert all(reading.reads for reading in readings.values())


def _read_while_writing(
    processes: ProcessPoolExecutor, root: Path, folder: Path, syncs: int, *, by_path: bool
) -> dict[str, Readings]:
    names = list(PATH_READERS if by_path else FOLDER_READERS)
    parties = len(names) + (1 if by_path else 2)
    (folder / "committed").mkdir()
    Syncer(root, start=START).sync(evolving(0))
    Progress(folder / "committed").commit(0)
    arguments = (root, folder, syncs, parties)
    reading = {name: processes.submit(_read_the_folder, name, *arguments, by_path=by_path) for name in names}
    if not by_path:
        reading["read_stops"] = processes.submit(_read_commits, *arguments)
    writing = processes.submit(_write, *arguments)
    results_of([writing])
    return dict(zip(reading, results_of(list(reading.values())), strict=True))


def test_the_model_tells_a_read_that_lost_or_invented_a_row(tmp_path: Path) -> None:
    """The readers' verdicts can fail: a file that is taken away, and one that is put back, are both noticed."""
    (tmp_path / "committed").mkdir()
    root = tmp_path / "data"
    Syncer(root).sync(evolving(0))
    assert dict(periods_of(_read_pandas(root))) == _states(0)[0].periods
    file = root / "stops/account=main/created_month=2025-04/stops.parquet"
    data = file.read_bytes()
    file.unlink()
    assert set(_states(0)[0].periods) - set(dict(periods_of(_read_pandas(root))))
    file.with_name("twice.parquet").write_bytes(data)
    file.write_bytes(data)
    found = periods_of(_read_pandas(root))
    assert len(found) != len(dict(found))
