"""Writers and readers at once: real processes on one data root, and nothing lost, torn, or waited for in vain.

What a table must hold is computed here from what was listed, by a model that knows no Parquet: a period begins with the
first answer that lists a row, and ends with the first that no longer does.
"""

import hashlib
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from stop_pipeline import read_stops, read_stops_per_day, read_suppression_list, tick
from stop_pipeline.errors import StoreError
from stop_pipeline.files import LOCK_TIMEOUT_SECONDS, LocalFiles
from stop_pipeline.guard import Guard
from stop_pipeline.model import Answer
from stop_pipeline.store import Store
from stop_pipeline_tests.commands import COMMAND, GIVE_UP_SECONDS, clean_environment, wait_until
from stop_pipeline_tests.conftest import Figures
from stop_pipeline_tests.loopback import Exchange, Loopback, Script, head, reply
from stop_pipeline_tests.test_secrets import DagsterUi
from stop_pipeline_tests.ticking import PARIS, START, CannedClient, Row, Ticker, answer_body, rows

WRITERS = 8
OTHERS_TURN_SECONDS = 0.1

Key = tuple[int, str, str]
"""id, phone number, `created_at_local`"""


@dataclass
class Model:
    """What a table of periods must hold after some answers: for each period, when it began and ended."""

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
    executor = ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("spawn"))
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

    A row of its own comes with each, and stands for the next thirty answers.
    """
    standing = rows(60) + rows(60, first_id=100, month="2025-07")
    own = [Row(1000 + i, f"+3363998{i:04}", "2025-08-01 10:00:00") for i in range(max(number - 30, 0), number + 1)]
    altered = Row(500, f"+3363997{number // 3:04}", "2025-05-01 10:00:00")
    return [*standing, *own, altered]


class SharedProvider:
    """Answers that follow each other across processes, each once; their times are this machine's, or as told."""

    secrets: tuple[str, ...] = ()

    def __init__(self, folder: Path, times: Mapping[int, datetime] | None = None) -> None:
        self._folder = folder
        self._times = times

    def fetch(self, into: Path, progress: Callable[[int], None] | None = None) -> Answer:
        for number in itertools.count():
            try:
                (self._folder / str(number)).touch(exist_ok=False)
                break
            except FileExistsError:
                continue
        fetched_at = datetime.now(UTC) if self._times is None else self._times[number]
        return CannedClient(answer_body(listing(number)), fetched_at).fetch(into)


@dataclass(frozen=True)
class Applied:
    """Which answer a tick found applied when it was done, and whether it had applied it itself."""

    sha256: str
    applied_at: datetime
    here: bool


def _tick_again_and_again(root: Path, work: Path, ticks: int, times: Mapping[int, datetime] | None) -> list[Applied]:
    store, provider = Store(root), SharedProvider(work / "asked", times)
    _begin(work / "started", WRITERS)
    done = []
    for _ in range(ticks):
        # A lock that others poll for seldom changes hands by itself: after each step they get the time to take it.
        tick.fetch(store, "main", provider, timezone=PARIS)
        time.sleep(OTHERS_TURN_SECONDS)
        tick.parse_newest(store, "main", timezone=PARIS)
        time.sleep(OTHERS_TURN_SECONDS)
        applied = tick.apply_newest(store, "main", Guard(accept_removals=1000))
        tick.derive_suppression_list(store, "main")
        tick.derive_stops_per_day(store, "main")
        assert applied.state.sha256 is not None
        assert applied.state.applied_at is not None
        done.append(Applied(applied.state.sha256, applied.state.applied_at, applied.outcome == "applied"))
    return done


@pytest.mark.parametrize("clock", ["running", "jumping"])
@pytest.mark.parametrize("ticks", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_eight_processes_tick_one_account_and_the_newest_answer_wins(
    ticks: int, clock: str, processes: ProcessPoolExecutor, tmp_path: Path, figures: Figures
) -> None:
    root, asked = tmp_path / "data", tmp_path / "asked"
    asked.mkdir()
    total = WRITERS * ticks
    # A clock that jumps: every answer has a time of its own, in an order of no sense (7 does not divide the total).
    times = {number: START + timedelta(minutes=number * 7 % total) for number in range(total)}
    given = times if clock == "jumping" else None
    futures = [processes.submit(_tick_again_and_again, root, tmp_path, ticks, given) for _ in range(WRITERS)]
    done = [applied for per_process in results_of(futures) for applied in per_process]

    assert len(list(asked.iterdir())) == total
    state = Store(root).state("main")
    bodies = {_sha256(listing(number)): number for number in range(total)}
    applied = {each.applied_at: bodies[each.sha256] for each in done}
    assert len([each for each in done if each.here]) == len(applied), "an answer was applied twice, or none"
    model = Model()
    for applied_at, number in sorted(applied.items()):
        model.apply(listing(number), applied_at)
        if clock == "jumping":
            assert applied_at == times[number]

    newest = max(times, key=times.__getitem__) if clock == "jumping" else total - 1
    assert state.applied_at == max(applied)
    assert bodies[state.sha256 or ""] == newest
    assert state.pending is None
    history = periods_of(read_stops(root, history=True))
    lost = len(model.periods.items() - dict(history).items())
    figures.add("ticks of one account by eight processes at once, and rows lost", tried=total, lost=lost)
    assert len(history) == len(dict(history))
    assert dict(history) == model.periods
    assert sorted(keys_of(read_stops(root))) == sorted((r.id, r.phone_number, r.created_at) for r in listing(newest))
    if clock == "running":
        assert set(range(1000, 1000 + total)) <= {key[0] for (key, _), _ in history}, "a row was lost"
    assert not list((root / ".work").glob("account=main/*"))


def _sha256(listed: list[Row]) -> str:
    return hashlib.sha256(answer_body(listed)).hexdigest()


def _tick_once(root: Path, account: str, count: int) -> None:
    Ticker(root, account).tick(rows(count))


def _wait_for_lock(root: Path, account: str) -> str:
    try:
        with LocalFiles(root).locked(account, timeout_seconds=0.2):
            return "held"
    except StoreError as error:
        return str(error)


def test_an_account_never_waits_for_another_but_for_itself(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    root = tmp_path / "data"
    with Store(root).locked("lyon"):
        # Its wait for the lock would last longer than ours for the tick.
        assert LOCK_TIMEOUT_SECONDS > GIVE_UP_SECONDS
        results_of([processes.submit(_tick_once, root, "paris", 7)])
        (refusal,) = results_of([processes.submit(_wait_for_lock, root, "lyon")])
        assert "Another process has been writing the account “lyon” for 0.2 s" in refusal
    assert len(read_stops(root)) == 7
    assert results_of([processes.submit(_wait_for_lock, root, "lyon")]) == ["held"]


def _tick_of(root: Path, work: Path, account: str) -> None:
    _begin(work / "started", WRITERS)
    ticker = Ticker(root, account)
    for number in range(5):
        ticker.tick(rows(20 + number))


def test_eight_accounts_at_once_share_a_root_and_nothing_else(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    root = tmp_path / "data"
    results_of([processes.submit(_tick_of, root, tmp_path, f"a{number}") for number in range(WRITERS)])
    assert read_stops(root)["account"].value_counts().to_dict() == {f"a{number}": 24 for number in range(WRITERS)}


def _hold_the_lock(root: Path, account: str, ready: Path) -> None:
    store = Store(root)
    with store.locked(account):
        store.temporary(account).write_text("half of a file")
        ready.touch()
        signal.pause()


def test_a_holder_that_is_killed_blocks_nobody_and_what_it_left_is_cleared(tmp_path: Path) -> None:
    root, ready = tmp_path / "data", tmp_path / "ready"
    Ticker(root).tick(rows(20))
    holder = multiprocessing.get_context("spawn").Process(target=_hold_the_lock, args=(root, "main", ready))
    holder.start()
    try:
        give_up_at = time.monotonic() + GIVE_UP_SECONDS
        while not ready.exists():
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        assert "Another process" in _wait_for_lock(root, "main")
        left = list((root / ".work" / "account=main").iterdir())
        assert len(left) == 1
    finally:
        holder.kill()
        holder.join(GIVE_UP_SECONDS)
    assert holder.exitcode == -signal.SIGKILL
    ticker = Ticker(root, start=START + timedelta(days=1))
    ticker.tick(rows(21))
    assert len(read_stops(root)) == 21
    assert not left[0].exists()


# Runs of Dagster

RUN_THE_JOB = (sys.executable, "-m", "dagster", "job", "execute", "-m", "stop_pipeline.definitions", "-j", "tick")
NEVER = "0 0 29 2 *"
"""As good as never: no tick of the schedule comes in between."""
STEPS = ("raw_stop_list", "stop_snapshot", "stops", "suppression_list", "stops_per_day")


@dataclass(frozen=True)
class Happened:
    """What the event logs of an instance tell, over all its runs."""

    instance: dg.DagsterInstance

    @property
    def home(self) -> str:
        return self.instance.root_directory

    def events(self) -> dict[str, list[tuple[float, dg.DagsterEvent]]]:
        """By run: each event with its time, in seconds."""
        return {
            run_id: [(log.timestamp, log.dagster_event) for log in self.instance.all_logs(run_id) if log.dagster_event]
            for run_id in self.instance.get_run_ids()
        }

    def started(self, step: str) -> int:
        """In how many runs the step has started."""
        return sum(
            any(event.is_step_start and event.step_key == step for _, event in events)
            for events in self.events().values()
        )

    def waits_for_the_pool(self) -> bool:
        """Whether a run was told to wait for it."""
        return any(
            "Step blocked by limit for pool stop_list" in (event.message or "")
            for events in self.events().values()
            for _, event in events
        )

    def steps(self) -> list[tuple[float, float, str]]:
        """When each step that succeeded began and ended, and its name, in order of time."""
        begun, spans = {}, []
        for run_id, events in self.events().items():
            for seconds, event in events:
                if event.is_step_start:
                    begun[run_id, event.step_key] = seconds
                elif event.is_step_success:
                    spans.append((begun[run_id, event.step_key], seconds, str(event.step_key)))
        return sorted(spans)


@pytest.fixture
def make_home(tmp_path: Path) -> Iterator[Callable[[str], Happened]]:
    """Makes a DAGSTER_HOME as the command does, its databases there already."""
    with ExitStack() as instances:

        def make(name: str) -> Happened:
            home = tmp_path / name
            home.mkdir()
            with as_file(files("stop_pipeline") / "dagster.yaml") as defaults:
                shutil.copyfile(defaults, home / "dagster.yaml")
            return Happened(instances.enter_context(dg.DagsterInstance.from_config(str(home))))

        yield make


def run_at_once(
    *commands: tuple[Sequence[str | Path], Path, dict[str, str]], next_when: Callable[[], bool] = lambda: True
) -> None:
    """Processes (command, folder, environment) that must all end well, each started once the condition holds.

    Of one that fails is told what it said, at once: the others may be waiting for it.
    """
    started: list[tuple[subprocess.Popen[str], IO[str]]] = []

    def have_ended() -> bool:
        codes = [process.poll() for process, _ in started]
        assert not any(codes), said()
        return None not in codes

    def said() -> list[str]:
        for _, output in started:
            output.seek(0)
        return [output.read() for _, output in started]

    def end_or(condition: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + GIVE_UP_SECONDS
        while not have_ended() and not condition():
            assert time.monotonic() < give_up_at, said()
            time.sleep(0.05)

    with ExitStack() as stack:
        for command, folder, env in commands:
            end_or(next_when)
            output = stack.enter_context(TemporaryFile("w+"))
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT, text=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append((process, output))
        end_or(lambda: False)
        assert not any("Traceback" in output for output in said()), said()


def held_until(condition: Callable[[], bool], body: bytes, answered: list[float]) -> Script:
    """Answer once the condition holds, and note when.

    Till then white space comes, which JSON allows: a client that hears nothing for long asks anew.
    """

    def script(exchange: Exchange) -> None:
        exchange.write(head(200))
        while not condition() and not exchange.closing.wait(0.1):
            exchange.write(b" ")
        answered.append(time.monotonic())
        exchange.write(body)

    return script


def test_a_run_that_starts_while_another_fetches_waits_for_the_pool(
    tmp_path: Path, make_home: Callable[[str], Happened]
) -> None:
    """One is held in its request until the other has been told to wait; from then on no two steps overlap.

    Two that ask for the pool in the same instant may both get in, since SQLite locks no row: then one waits for the
    store's lock, as two runs of two instances do.
    """
    happened, answered = make_home("home"), list[float]()
    first = held_until(happened.waits_for_the_pool, answer_body(rows(30)), answered)
    with Loopback(first, reply(200, answer_body(rows(31)))) as server:
        env = clean_environment(
            SMSPARTNER_API_KEY="a-key", SMSPARTNER_BASE_URL=server.base_url, DAGSTER_HOME=happened.home
        )
        run_at_once(*[(RUN_THE_JOB, tmp_path, env)] * 2, next_when=lambda: len(server.requests) > 0)
        assert server.requests[1].arrived_at > answered[0]
    assert happened.waits_for_the_pool()
    assert_no_two_steps_overlap(happened)
    assert_both_lists_are_in(tmp_path / "data")


def test_two_runs_of_two_instances_whom_no_pool_joins_are_serialised_by_the_lock(
    tmp_path: Path, make_home: Callable[[str], Happened]
) -> None:
    """One is held in its request until the other's step has started, and whoever else tries finds the lock taken."""
    homes = [make_home("home"), make_home("other-home")]
    answered: list[float] = []
    lock_taken: list[str] = []

    def both_started() -> bool:
        if sum(home.started("raw_stop_list") for home in homes) < 2:
            return False
        lock_taken.append(_wait_for_lock(tmp_path / "data", "main"))
        return True

    first = held_until(both_started, answer_body(rows(30)), answered)
    with Loopback(first, reply(200, answer_body(rows(31)))) as server:
        env = clean_environment(SMSPARTNER_API_KEY="a-key", SMSPARTNER_BASE_URL=server.base_url)
        run_at_once(*((RUN_THE_JOB, tmp_path, env | {"DAGSTER_HOME": happened.home}) for happened in homes))
        assert server.requests[1].arrived_at > answered[0]
    assert "Another process has been writing" in lock_taken[0]
    assert not any(happened.waits_for_the_pool() for happened in homes)
    assert_both_lists_are_in(tmp_path / "data")


@pytest.mark.parametrize("rounds", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_dev_and_a_run_that_start_together_on_a_new_home_both_come_up(
    rounds: int, tmp_path: Path, free_port: int
) -> None:
    """Both make Dagster's databases: made twice at once, they would be broken for good."""
    for number in range(rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Loopback(reply(200, answer_body(rows(31)))) as server:
            env = clean_environment(
                SMSPARTNER_API_KEY="a-key", SMSPARTNER_BASE_URL=server.base_url, STOP_PIPELINE_CRON=NEVER
            )
            with dev_running(folder, free_port, env) as ui:
                run_at_once(((COMMAND, "run"), folder, env))
                ui.wait_until_loaded()
        assert_both_lists_are_in(folder / "data")


@pytest.mark.slow
def test_a_run_launched_from_the_ui_while_another_fetches_waits_for_it(
    tmp_path: Path, free_port: int, make_home: Callable[[str], Happened]
) -> None:
    happened, answered = make_home("home"), list[float]()
    launched: list[str] = []
    first = held_until(lambda: len(launched) == 2, answer_body(rows(30)), answered)
    with Loopback(first, reply(200, answer_body(rows(31)))) as server:
        env = clean_environment(
            SMSPARTNER_API_KEY="a-key",
            SMSPARTNER_BASE_URL=server.base_url,
            STOP_PIPELINE_CRON=NEVER,
            DAGSTER_HOME=happened.home,
        )
        with dev_running(tmp_path, free_port, env) as ui:
            ui.wait_until_loaded()
            launched.append(ui.launch())
            wait_until(lambda: server.requests, "the first request")
            launched.append(ui.launch())
            assert [ui.end_of(run_id) for run_id in launched] == ["SUCCESS", "SUCCESS"]
        assert server.requests[1].arrived_at > answered[0]
    assert_no_two_steps_overlap(happened)
    assert_both_lists_are_in(tmp_path / "data")


@contextmanager
def dev_running(folder: Path, port: int, env: dict[str, str]) -> Iterator[DagsterUi]:
    """`stop-pipeline dev`, which is asked to end at the end of the block."""
    with (folder / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [COMMAND, "dev", "--port", str(port)], cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield DagsterUi(f"http://127.0.0.1:{port}")
        assert process.poll() is None, (folder / "dev.log").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=GIVE_UP_SECONDS)


def assert_no_two_steps_overlap(happened: Happened) -> None:
    """Of two whole runs, by the times in the event log."""
    spans = happened.steps()
    assert Counter(step for _, _, step in spans) == dict.fromkeys(STEPS, 2)
    assert [(one, other) for one, other in itertools.pairwise(spans) if other[0] < one[1]] == []


def assert_both_lists_are_in(root: Path) -> None:
    """The list of 30 rows, or none, then that of 31: each row once, and nothing ended."""
    assert sorted(read_stops(root)["id"]) == sorted(read_stops(root, history=True)["id"]) == list(range(1, 32))
    assert sorted(read_suppression_list(root)["phone_number"]) == sorted(read_stops(root)["phone_number"])
    assert read_stops_per_day(root)["stops"].sum() == 31


@pytest.mark.parametrize("rounds", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_two_runs_at_once_on_one_instance_both_end_well(rounds: int, tmp_path: Path) -> None:
    """By the command, on a home that neither has made yet: Dagster's databases, pool and the lock are all raced for."""
    for number in range(rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Loopback(reply(200, answer_body(rows(30))), reply(200, answer_body(rows(31)))) as server:
            environment = clean_environment(SMSPARTNER_API_KEY="a-key", SMSPARTNER_BASE_URL=server.base_url)
            run_at_once(*[((COMMAND, "run"), folder, environment)] * 2)
        assert_both_lists_are_in(folder / "data")
        assert len(list((folder / ".dagster_home" / "history" / "runs").glob("*-*.db"))) == 2


# Readers


def evolving(number: int) -> list[Row]:
    """What the provider lists at the `number`th tick: each adds, alters and removes rows, in several months."""
    months = ("2025-03", "2025-04", "2025-05", "2025-06")
    standing = [row for place, month in enumerate(months) for row in rows(250, first_id=1 + 250 * place, month=month)]
    gone = {1 + (7 * i) % 1000 for i in range(2 * number)} if number else set()
    listed = [row for row in standing if row.id not in gone]
    altered = {row.id for row in listed[number % 50 :: 211]}
    listed = [Row(row.id, f"+3363997{number:04}", row.created_at) if row.id in altered else row for row in listed]
    # A month that begins every tenth tick: folders come while the readers list them.
    added = [
        Row(2000 + i, f"+3363996{i:04}", f"{2015 + i // 40:04}-{1 + i // 10 % 12:02}-10 08:00:00")
        for i in range(number * 2)
    ]
    return listed + added


def fetched_at_tick(number: int) -> datetime:
    return START + timedelta(hours=number + 1)


@dataclass(frozen=True)
class Progress:
    """How far the writer has come, as told by a file per commit that is there only once the commit stands."""

    folder: Path

    def committed(self) -> int:
        """The newest tick known to be committed; -1 before the first."""
        return len(list(self.folder.iterdir())) - 1

    def commit(self, number: int) -> None:
        (self.folder / f"{number:04}").touch()


def _write(root: Path, folder: Path, ticks: int, parties: int) -> None:
    progress, ticker = Progress(folder / "committed"), Ticker(root, start=fetched_at_tick(0))
    _begin(folder / "started", parties)
    try:
        for number in range(1, ticks + 1):
            ticker.tick(evolving(number))
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


def _states(ticks: int) -> list[Model]:
    """What the table must be after each tick."""
    model, states = Model(), []
    for number in range(ticks + 1):
        model.apply(evolving(number), fetched_at_tick(number))
        states.append(Model(dict(model.periods)))
    return states


def _read_the_folder(name: str, root: Path, folder: Path, ticks: int, parties: int, *, by_path: bool) -> Readings:
    """Read until the writer is done; each read must hold all that was committed before it, and nothing that never was.

    Between two months a tick may be half applied, so a read lies between two commits.
    """
    read = (PATH_READERS if by_path else FOLDER_READERS)[name]
    progress, states, readings = Progress(folder / "committed"), _states(ticks), Readings()
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
        after = min(progress.committed() + 1, ticks)
        found = periods_of(frame)
        periods = dict(found)
        least, most = states[before].periods, states[after].periods
        if len(periods) != len(found):
            readings.wrong.append("a row came twice")
        if least.keys() - periods.keys():
            readings.wrong.append(f"{len(least.keys() - periods.keys())} committed rows were missing")
        if periods.keys() - most.keys():
            readings.wrong.append("a row came that no tick had written")
        for period, ended in periods.items():
            allowed = {least.get(period), most.get(period)}
            if ended not in allowed:
                readings.wrong.append(f"a row ended at {ended}, where {allowed} were due")
                break
        readings.seen.add(before)
    return readings


def _read_commits(root: Path, folder: Path, ticks: int, parties: int) -> Readings:
    """`read_stops` until the writer is done: each read must be one commit exactly, none older than was known."""
    progress, readings = Progress(folder / "committed"), Readings()
    numbers = {tuple(sorted(state.open_keys())): number for number, state in enumerate(_states(ticks))}
    assert len(numbers) == ticks + 1
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


@pytest.mark.parametrize("ticks", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_readers_never_fail_and_never_miss_a_committed_row_while_ticks_go_on(
    ticks: int, processes: ProcessPoolExecutor, tmp_path: Path, figures: Figures
) -> None:
    root = tmp_path / "data"
    readings = _read_while_writing(processes, root, tmp_path, ticks, by_path=False)

    for reading in readings.values():
        bad = reading.failed.total() + len(reading.wrong)
        figures.add("reads while ticks go on", tried=reading.reads, lost=bad)
    for name, reading in readings.items():
        assert not reading.failed, name
        assert not reading.wrong, (name, reading.wrong[:3])
        assert reading.reads > ticks // 4, f"{name} hardly read"
        assert len(reading.seen) > 3, f"{name} saw hardly any change"
    final = _states(ticks)[ticks]
    assert dict(periods_of(read_stops(root, history=True))) == final.periods


@pytest.mark.parametrize("ticks", [15, pytest.param(100, marks=pytest.mark.slow)])
def test_how_often_duckdb_and_polars_trip_over_the_bare_path_is_told(
    ticks: int, processes: ProcessPoolExecutor, tmp_path: Path, figures: Figures
) -> None:
    """Measured, not promised: the README says to read over a fresh `pyarrow.dataset` instead."""
    readings = _read_while_writing(processes, tmp_path / "data", tmp_path, ticks, by_path=True)
    for name, reading in readings.items():
        what = f"reads while ticks go on, by {name} on the bare path"
        figures.add(what, tried=reading.reads, lost=reading.failed.total())
    assert all(reading.reads for reading in readings.values())


def _read_while_writing(
    processes: ProcessPoolExecutor, root: Path, folder: Path, ticks: int, *, by_path: bool
) -> dict[str, Readings]:
    names = list(PATH_READERS if by_path else FOLDER_READERS)
    parties = len(names) + (1 if by_path else 2)
    (folder / "committed").mkdir()
    Ticker(root, start=START).tick(evolving(0))
    Progress(folder / "committed").commit(0)
    arguments = (root, folder, ticks, parties)
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
    ticker = Ticker(root)
    ticker.tick(evolving(0))
    assert dict(periods_of(_read_pandas(root))) == _states(0)[0].periods
    file = root / "stops/account=main/created_month=2025-04/stops.parquet"
    data = file.read_bytes()
    file.unlink()
    assert set(_states(0)[0].periods) - set(dict(periods_of(_read_pandas(root))))
    file.with_name("twice.parquet").write_bytes(data)
    file.write_bytes(data)
    found = periods_of(_read_pandas(root))
    assert len(found) != len(dict(found))
    assert pq.ParquetFile(file).metadata.num_rows == 250
