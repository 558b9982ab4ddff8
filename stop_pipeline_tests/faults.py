"""Ticks that are killed, or refused by the disk, at a call of one's choice.

What belongs here: counting the file-system calls of a tick, ending it at one of them, and judging what it left behind.
What does not: which ticks are tried, and how often (`test_faults`).

A tick runs whole (fetch, parse, apply, both derived tables) in a process of its own, forked from a warm one, and ends
itself by a real SIGKILL. These are process kills, not power cuts: what was written but not synced survives them. That
each file is synced before it is renamed is therefore shown on the recorded list of calls.
"""

import builtins
import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stop_pipeline import read_rejected, read_stops, read_stops_per_day, read_suppression_list, threads, tick
from stop_pipeline.errors import StopPipelineError
from stop_pipeline.files import WORK_FOLDER, writable
from stop_pipeline.guard import Guard
from stop_pipeline.model import Answer
from stop_pipeline.store import Store
from stop_pipeline_tests.ticking import PARIS, CannedClient, Row, answer_body, rows, tree

ACCOUNT = "main"
OTHER_LEFTOVER = f"{WORK_FOLDER}/account=other/leftover"
TABLES = ("stops", "rejected", "snapshot", "suppression_list", "stops_per_day")

How = Literal["before", "half", "after"]


@dataclass(frozen=True)
class Call:
    """One file-system call of a tick.

    Attributes:
        kind: What was called.
        path: On what, relative to the data root.
        to: Where a rename leads.
        writes: Whether it can change what is on disk.
    """

    kind: str
    path: str
    to: str = ""
    writes: bool = True


@dataclass(frozen=True)
class Plan:
    """At which call a tick ends, counted from 0: killed at it, or given an errno in place of it."""

    number: int
    how: How = "before"
    errno: int | None = None


@dataclass(frozen=True)
class Ended:
    """How the process of a tick ended.

    Attributes:
        killed: By SIGKILL.
        calls: What it called; empty if it was killed.
        uncounted: Changes to the data root that no counted call made; always empty, or the harness has a hole.
        error_type: Name of the exception's class, None if the tick went through.
        error: Its message.
    """

    killed: bool
    calls: tuple[Call, ...] = ()
    uncounted: tuple[str, ...] = ()
    error_type: str | None = None
    error: str = ""


class _Calls:
    """Counts this process's calls on a data root, and ends it at one of them. For a process that ends soon."""

    def __init__(self, root: Path, plan: Plan | None) -> None:
        self.made: list[Call] = []
        self.uncounted: list[str] = []
        self._root = str(root)
        self._plan = plan
        self._lock = threading.Lock()
        self._this_thread = threading.local()
        self._paths: dict[int, str] = {}

    def install(self) -> None:
        for name in ("mkdir", "unlink", "remove", "rmdir", "chmod", "truncate"):
            self._wrap_os(name, writes=True)
        for name in ("stat", "lstat", "scandir", "listdir"):
            self._wrap_os(name, writes=False)
        for name in ("replace", "rename"):
            self._wrap_rename(name)
        self._wrap_fsync()
        self._wrap_open()
        self._wrap_close()
        self._wrap_file_objects()
        self._wrap_arrow()
        sys.addaudithook(self._audit)

    def _inside(self) -> bool:
        """Whether this thread is within a call already, of which it makes others."""
        return getattr(self._this_thread, "inside", False)

    def step(self, call: Call, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        if self._inside():
            return act()
        with self._lock:  # an answer is compressed in a thread of its own
            at_it = self._plan is not None and self._plan.number == len(self.made)
            self.made.append(call)
        if at_it and self._plan is not None:
            if self._plan.errno is not None:
                raise _refusal(self._plan.errno, call)
            if self._plan.how == "half" and half is not None:
                half()
            if self._plan.how != "after":
                os.kill(os.getpid(), signal.SIGKILL)
        self._this_thread.inside = True
        try:
            return act()
        finally:
            self._this_thread.inside = False
            if at_it:  # also after a call that fails, such as making a folder that is there
                os.kill(os.getpid(), signal.SIGKILL)

    def below(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path relative to the data root; None if it lies elsewhere."""
        if isinstance(path, int):
            text = self._paths.get(path)
        elif dir_fd is not None and dir_fd >= 0:
            folder = self._paths.get(dir_fd)
            text = None if folder is None else os.path.join(folder, os.fspath(path))  # noqa: PTH118
        else:
            text = os.fspath(path)
        if isinstance(text, bytes) or text is None or not (text + "/").startswith(self._root + "/"):
            return None
        return text[len(self._root) + 1 :] or "."

    def _wrap_os(self, name: str, *, writes: bool) -> None:
        real = getattr(os, name)

        def counted(path: Any = ".", *args: Any, **options: Any) -> Any:
            at = self.below(path, options.get("dir_fd"))
            if at is None:
                return real(path, *args, **options)
            return self.step(Call(name, at, writes=writes), lambda: real(path, *args, **options))

        setattr(os, name, counted)

    def _wrap_rename(self, name: str) -> None:
        real = getattr(os, name)

        def counted(source: Any, target: Any, **options: Any) -> None:
            at, to = self.below(source), self.below(target)
            if at is None or to is None:
                real(source, target, **options)
            else:
                self.step(Call("rename", at, to), lambda: real(source, target, **options))

        setattr(os, name, counted)

    def _wrap_fsync(self) -> None:
        real = os.fsync

        def counted(descriptor: int) -> None:
            at = self.below(descriptor)
            if at is None:
                real(descriptor)
            else:
                self.step(Call("fsync", at), lambda: real(descriptor))

        os.fsync = counted  # type: ignore[assignment]

    def _wrap_open(self) -> None:
        real = os.open

        def counted(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            at = self.below(path, dir_fd)
            if at is None:
                return real(path, flags, mode, dir_fd=dir_fd)
            writes = bool(flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR | os.O_TRUNC))
            call = Call("open to write" if writes else "open", at, writes=writes)
            descriptor: int = self.step(call, lambda: real(path, flags, mode, dir_fd=dir_fd))
            self._paths[descriptor] = f"{self._root}/{at}"
            return descriptor

        os.open = counted

    def _wrap_close(self) -> None:
        """Not counted: it changes nothing, since what Python still holds is written by the file object's own close."""
        real = os.close

        def noted(descriptor: int) -> None:
            self._paths.pop(descriptor, None)
            real(descriptor)

        os.close = noted  # type: ignore[assignment]

    def _wrap_file_objects(self) -> None:
        real = io.open

        def counted(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            at = self.below(file)
            if at is None:
                return real(file, mode, *args, **options)
            writes = bool(set(mode) & set("wax+"))
            if isinstance(file, int):
                opened = real(file, mode, *args, **options)
            else:
                call = Call("open to write" if writes else "open", at, writes=writes)
                opened = self.step(call, lambda: real(file, mode, *args, **options))
            return _CountedFile(self, opened, at) if writes else opened

        io.open = counted
        builtins.open = counted

    def _wrap_arrow(self) -> None:
        """Arrow opens files by itself, unseen by `os`."""
        for module, name in ((pa, "input_stream"), (pa, "OSFile"), (pq, "ParquetFile"), (pq, "read_metadata")):
            self._wrap_arrow_read(module, name)
        real = pa.output_stream

        def counted(path: Any, *args: Any, **options: Any) -> Any:
            at = self.below(path)
            if at is None:
                return real(path, *args, **options)
            opened = self.step(Call("Arrow's open to write", at), lambda: real(path, *args, **options))
            return _CountedFile(self, opened, at)

        pa.output_stream = counted

    def _wrap_arrow_read(self, module: Any, name: str) -> None:
        real = getattr(module, name)

        def counted(path: Any, *args: Any, **options: Any) -> Any:
            at = self.below(path) if isinstance(path, str | Path) else None
            if at is None:
                return real(path, *args, **options)
            return self.step(Call("Arrow's open", at, writes=False), lambda: real(path, *args, **options))

        setattr(module, name, counted)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python tells of each call that changes files: one that was not counted shows a hole in this harness."""
        if self._inside() or event not in _CHANGES:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
            return
        path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike) and (at := self.below(os.fsdecode(path))) is not None:
            self.uncounted.append(f"{event} {at}")


_CHANGES = {
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "os.truncate",
    "os.link",
    "os.symlink",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class _CountedFile:
    """A file open for writing, its writes and its close counted."""

    def __init__(self, calls: _Calls, file: Any, at: str) -> None:
        self._calls, self._file, self._at = calls, file, at

    def write(self, data: Any) -> Any:
        def half() -> None:
            self._file.write(memoryview(data)[: len(memoryview(data)) // 2])
            self._file.flush()

        return self._calls.step(Call("write", self._at), lambda: self._file.write(data), half)

    def upload(self, source: Any) -> Any:
        return self._calls.step(Call("write", self._at), lambda: self._file.upload(source))

    def close(self) -> None:
        self._calls.step(Call("close", self._at), self._file.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _refusal(errno: int, call: Call) -> OSError:
    said = os.strerror(errno)
    if call.kind.startswith("Arrow"):  # it puts its own words into `strerror`
        return OSError(errno, f"Failed to open local file '/{call.path}'. Detail: [errno {errno}] {said}")
    return OSError(errno, said, call.path)


class _DiskClient(CannedClient):
    """As the real client: a disk that refuses the answer is a StoreError."""

    def fetch(self, into: Path, progress: Callable[[int], None] | None = None) -> Answer:
        with writable(into):
            return super().fetch(into, progress)


def whole_tick(root: Path, body: bytes, at: datetime) -> None:
    """All five steps, in this process."""
    store = Store(root)
    tick.fetch(store, ACCOUNT, _DiskClient(body, at), timezone=PARIS)
    tick.parse_newest(store, ACCOUNT, timezone=PARIS)
    tick.apply_newest(store, ACCOUNT, Guard())
    tick.derive_suppression_list(store, ACCOUNT)
    tick.derive_stops_per_day(store, ACCOUNT)


def tick_in_a_process(root: Path, body: bytes, at: datetime, plan: Plan | None = None) -> Ended:
    """All five steps in a process of their own, which ends as planned."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as report:
                pickle.dump(_tick_counted(root, body, at, plan), report)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        reported = report.read()
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Ended(killed=True)
    ended: Ended = pickle.loads(reported)  # noqa: S301 – our own fork wrote it
    return ended


def _tick_counted(root: Path, body: bytes, at: datetime, plan: Plan | None) -> Ended:
    calls = _Calls(root, plan)
    calls.install()
    threads._MOST_THREADS = 1  # noqa: SLF001 – so that a number means the same call in every tick
    error: Exception | None = None
    try:
        whole_tick(root, body, at)
    except Exception as raised:  # noqa: BLE001 – whatever escapes is what is looked for
        error = raised
    return Ended(
        killed=False,
        calls=tuple(calls.made),
        uncounted=tuple(calls.uncounted),
        error_type=None if error is None else type(error).__name__,
        error="" if error is None else str(error),
    )


# Scenarios, and what they must come to


@dataclass(frozen=True)
class Scenario:
    """A data root, and the tick that is ended on it.

    Attributes:
        name: What is shown.
        before: The answers ticked first, an hour apart.
        killed: The answer of the tick that is ended.
        another: An answer that is neither the one before nor the killed one.
        interrupted: An answer whose tick was killed just before its commit, so that the tick in question begins by
            taking it back.
    """

    name: str
    before: tuple[bytes, ...]
    killed: bytes
    another: bytes
    interrupted: bytes | None = None

    def next_answers(self) -> dict[str, bytes]:
        """What the tick after the killed one may get."""
        before = {"the one before": self.before[-1]} if self.before else {}
        return {"the same": self.killed} | before | {"another": self.another}


@dataclass(frozen=True)
class View:
    """What the package's readers give, as text."""

    stops: str
    rejected: str
    suppression_list: str
    stops_per_day: str


@dataclass(frozen=True)
class Expected:
    """What a scenario must come to.

    Attributes:
        folder: Where the scenario's roots lie; its data root before the tick is `base`.
        calls: Those of the whole tick.
        uncounted: As in `Ended`.
        before: What readers saw before the tick.
        after: What they see after it.
        committed: Each period committed before the tick, with its end.
        trees: By (whether the tick had committed, the next answer): all files after the next tick, and their folders.
    """

    folder: Path
    calls: tuple[Call, ...]
    uncounted: tuple[str, ...]
    before: View
    after: View
    committed: dict[tuple[Any, ...], Any]
    trees: dict[tuple[bool, str], dict[str, bytes]]


@dataclass(frozen=True)
class Left:
    """What one ended tick left: how it ended, where, and a digest of the whole data root."""

    plan: Plan
    ended: Ended
    root: Path
    digest: str


KILLED_AT = datetime.fromisoformat("2026-02-01T12:00:00+00:00")
NEXT_AT = datetime.fromisoformat("2026-02-01T13:00:00+00:00")
_INTERRUPTED_AT = datetime.fromisoformat("2026-02-01T11:00:00+00:00")


def _bad(number: int) -> dict[str, Any]:
    return {"id": f"x{number}", "phoneNumber": f"+3363998990{number}", "createdAt": "2025-02-30 10:00:00"}


def scenarios() -> tuple[Scenario, ...]:
    """A malformed row is among each answer, and another one in the tick that is ended."""
    listed = [row for month in range(1, 5) for row in rows(8, first_id=100 * month, month=f"2025-0{month}")]
    base = answer_body([*listed, _bad(1)])
    late = [Row(900, "+33639989900", "2024-11-30 23:59:59"), Row(901, "+33639989901", "2025-04-02 08:00:00")]
    moved = dataclasses.replace(listed[9], created_at="2025-06-01 00:00:00")
    altered = answer_body([*listed[:9], moved, *listed[10:], _bad(1), _bad(2)])
    another = answer_body([*listed[1:-1], Row(950, "+33639989950", "2025-03-20 10:00:00"), _bad(3)])
    change = answer_body([*listed, *late, _bad(1), _bad(2)])
    removal = answer_body([*listed[2:9], *listed[10:], _bad(2)])
    return (
        Scenario("a first load over four months", (), base, another),
        Scenario("a small change", (base,), change, another),
        Scenario("a removal", (base,), removal, another),
        Scenario("an altered row", (base,), altered, another),
        Scenario("a tick after a killed one", (answer_body([*listed[:-1], _bad(4)]), base), removal, another, altered),
    )


def prepare(scenario: Scenario, folder: Path) -> Expected:
    """Build the scenario's data root, and by undisturbed ticks what must come of it."""
    base = folder / "base"
    base.mkdir(parents=True, mode=0o700)
    for number, body in enumerate(scenario.before):
        whole_tick(base, body, KILLED_AT.replace(hour=1 + number))
    leftover = base / OTHER_LEFTOVER
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"of another account")
    undisturbed = base
    if scenario.interrupted is not None:
        undisturbed = shutil.copytree(base, folder / "undisturbed")
        calls = tick_in_a_process(_copy(base, folder), scenario.interrupted, _INTERRUPTED_AT).calls
        commit = [number for number, call in enumerate(calls) if call.to == f"state/account={ACCOUNT}.json"][-1]
        assert tick_in_a_process(base, scenario.interrupted, _INTERRUPTED_AT, Plan(commit)).killed

    ran = _copy(undisturbed, folder)
    before, committed = view(ran), _periods(ran)
    whole_tick(ran, scenario.killed, KILLED_AT)
    trees = {}
    for has_run, start in ((False, undisturbed), (True, ran)):
        for name, body in scenario.next_answers().items():
            root = _copy(start, folder)
            whole_tick(root, body, NEXT_AT)
            trees[has_run, name] = _result(root)
    recorded = tick_in_a_process(_copy(base, folder), scenario.killed, KILLED_AT)
    assert recorded.error_type is None, recorded
    return Expected(folder, recorded.calls, recorded.uncounted, before, view(ran), committed, trees)


def end_a_tick(scenario: Scenario, folder: Path, plan: Plan) -> Left:
    """Run the scenario's tick until it ends as planned."""
    root = _copy(folder / "base", folder)
    ended = tick_in_a_process(root, scenario.killed, KILLED_AT, plan)
    if ended.calls:
        ended = dataclasses.replace(ended, calls=ended.calls[plan.number : plan.number + 1])
    return Left(plan, ended, root, digest(root))


def judge(scenario: Scenario, expected: Expected, root: Path, nexts: int) -> list[str]:
    """What is wrong with what an ended tick left, and with what the next one makes of it; nothing, if all is well.

    The next one is tried with the first `nexts` of the scenario's next answers.
    """
    problems = _torn(root)
    if problems:
        return problems
    state_file = root / f"state/account={ACCOUNT}.json"
    state = json.loads(state_file.read_bytes()) if state_file.exists() else {"applied_at": None}
    has_run = state["applied_at"] == KILLED_AT.isoformat()
    seen, standing = view(root), expected.after if has_run else expected.before
    if (seen.stops, seen.rejected) != (standing.stops, standing.rejected):
        problems.append("read_stops or read_rejected gives something else than the commit")
    for name in ("suppression_list", "stops_per_day"):
        # Remade after the commit: until then they are those of the commit before it.
        allowed = {getattr(expected.before, name), getattr(standing, name)}
        if getattr(seen, name) not in allowed:
            problems.append(f"{name} is that of no commit")
    problems += _lost(expected.committed, _periods(root))
    for name, body in list(scenario.next_answers().items())[:nexts]:
        problems += _judge_next(expected, root, name, body, has_run=has_run)
    return problems


def _judge_next(expected: Expected, left: Path, name: str, body: bytes, *, has_run: bool) -> list[str]:
    root = _copy(left, expected.folder)
    try:
        whole_tick(root, body, NEXT_AT)
    except StopPipelineError as error:
        return [f"the next tick ({name}, committed: {has_run}) fails: {error}"]
    problems = _torn(root)
    result, wanted = _result(root), expected.trees[has_run, name]
    if result != wanted:
        differing = sorted(file for file in result.keys() | wanted.keys() if result.get(file) != wanted.get(file))
        problems.append(f"the next tick ({name}, committed: {has_run}) ends with other files: {differing}")
    # What landed is evidence, also if its tick was killed: raw/ may hold one answer more than had it never run, so it
    # is not compared byte for byte. It must name the newest answer, and hold no torn file (`_torn`).
    latest = json.loads((root / f"raw/account={ACCOUNT}/latest.json").read_bytes())
    if (latest["fetched_at"], latest["sha256"]) != (NEXT_AT.isoformat(), hashlib.sha256(body).hexdigest()):
        problems.append(f"latest.json is not of the newest answer after the next tick ({name})")
    work = root / WORK_FOLDER
    if any(path.is_file() for path in (work / f"account={ACCOUNT}").rglob("*")):
        problems.append(f"temporaries are left after the next tick ({name})")
    if (root / OTHER_LEFTOVER).read_bytes() != b"of another account":
        problems.append("another account's temporaries were touched")
    shutil.rmtree(root)
    return problems


def view(root: Path) -> View:
    """What readers see."""
    return View(
        stops=_text(read_stops(root, history=True)) + _text(read_stops(root)),
        rejected=_text(read_rejected(root, history=True)) + _text(read_rejected(root)),
        suppression_list=_text(read_suppression_list(root)),
        stops_per_day=_text(read_stops_per_day(root)),
    )


def digest(root: Path) -> str:
    """Of every file and folder with its bytes; temporaries count by their bytes, since their names are random."""
    entries = sorted(
        (
            re.sub(r"/[0-9a-f]{32}$", "/temporary", path.relative_to(root).as_posix()),
            path.read_bytes() if path.is_file() else b"folder",
        )
        for path in root.rglob("*")
    )
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def warm_up() -> None:
    """Make this process one that ticks can be forked from: one thread of Arrow, everything loaded."""
    warnings.simplefilter("ignore", DeprecationWarning)  # Python's on forking beside threads; Arrow handles that itself
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        first = scenarios()[1]
        whole_tick(root, first.before[0], KILLED_AT)
        whole_tick(root, first.killed, NEXT_AT)
        view(root)


def _copy(root: Path, folder: Path) -> Path:
    return shutil.copytree(root, Path(tempfile.mkdtemp(dir=folder)) / "data")


def _text(frame: pd.DataFrame) -> str:
    return frame.to_csv(date_format="%Y-%m-%dT%H:%M:%S.%f", index=False)


def _result(root: Path) -> dict[str, bytes]:
    """All of the data root but raw/ and .work/, with the months' folders, so that an empty one shows."""
    files = tree(root, *[name for name in (*TABLES, "state") if (root / name).exists()])
    folders = {path.relative_to(root).as_posix(): b"folder" for path in root.glob("stops/account=*/*")}
    return files | folders


def _periods(root: Path) -> dict[tuple[Any, ...], Any]:
    """Each period's end, as one finds it who reads the folder directly."""
    if not any(root.glob("stops/**/*.parquet")):
        return {}
    stops = pd.read_parquet(root / "stops")
    keys = zip(stops["id"], stops["phone_number"], stops["created_at_local"], stops["first_seen_at"], strict=True)
    return dict(zip(keys, stops["removed_at"], strict=True))


def _lost(committed: dict[tuple[Any, ...], Any], found: dict[tuple[Any, ...], Any]) -> list[str]:
    """Committed periods that are gone, or ended otherwise than by a tick that is not committed yet."""
    ends = {KILLED_AT, _INTERRUPTED_AT}
    lost = [key for key in committed if key not in found]
    altered = [
        key
        for key, end in committed.items()
        if key in found and not (pd.isna(end) and (pd.isna(found[key]) or found[key] in ends)) and end != found[key]
    ]
    return [f"{len(lost)} committed periods are lost"] * bool(lost) + ["a committed end has changed"] * bool(altered)


def _torn(root: Path) -> list[str]:
    """Files that are not finished, or not where they belong."""
    problems = []
    for table in TABLES:
        for path in (root / table).rglob("*"):
            if path.is_dir():
                continue
            if path.suffix != ".parquet":
                problems.append(f"{path.relative_to(root)} does not belong there")
                continue
            try:
                with pq.ParquetFile(path) as file:
                    file.read()
            except (OSError, pa.ArrowException) as error:
                problems.append(f"{path.relative_to(root)} is torn: {error}")
    for path in (root / "raw").rglob("*.zst"):
        with pa.input_stream(str(path), compression="zstd") as stream:
            if hashlib.sha256(stream.read()).hexdigest()[:12] != path.name.split("-")[1][:12]:
                problems.append(f"{path.relative_to(root)} is torn")
    named = [path.parent / json.loads(path.read_bytes())["file"] for path in (root / "raw").rglob("latest.json")]
    return problems + [f"latest.json names {path.name}, which is not there" for path in named if not path.exists()]
