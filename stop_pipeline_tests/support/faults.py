"""A sync that ends at a file-system call of one's choice: killed there, or refused by the disk.

A sync runs all five steps in a process of its own, forked from a warm one, and ends itself by a real SIGKILL. What it
wrote but did not yet sync survives such a kill; what a power cut would leave is worked out from the recorded calls
(`power_cuts`).
"""

import builtins
import io
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from stop_pipeline import sync
from stop_pipeline.results import Merged
from stop_pipeline.table import responses
from stop_pipeline.table import store as store_module
from stop_pipeline.table.merge import RemovalPolicy
from stop_pipeline.table.store import Store
from stop_pipeline_tests.support.syncing import PARIS

ACCOUNT = "main"

How = Literal["before", "half", "after"]


@dataclass(frozen=True)
class Call:
    """One file-system call of a sync.

    Attributes:
        kind: What was called.
        path: On what, relative to the folder that is watched.
        to: Where a rename leads.
        writes: Whether it can change what is on disk.
        content: What a file held when it was synced.
    """

    kind: str
    path: str
    to: str = ""
    writes: bool = True
    content: bytes | None = None


@dataclass(frozen=True)
class Plan:
    """At which call a sync ends, counted from 0: killed at it, or given an errno in place of it."""

    number: int
    how: How = "before"
    errno: int | None = None


@dataclass(frozen=True)
class Ended:
    """How the process of a sync ended.

    Attributes:
        killed: By SIGKILL.
        calls: What it called; empty if it was killed.
        uncounted: Changes to the data root that no counted call made; always empty, or the harness has a hole.
        error_type: Name of the exception's class; None if the sync went through.
        error: Its message.
    """

    killed: bool
    calls: tuple[Call, ...] = ()
    uncounted: tuple[str, ...] = ()
    error_type: str | None = None
    error: str = ""


def whole_sync(root: Path, body: bytes, at: datetime, timezone: str = PARIS) -> Merged:
    """All five steps, in this process."""
    store = Store(root)
    sync.fetch(store, ACCOUNT, sync.FetchedBefore(body, at))
    sync.parse(store, ACCOUNT, timezone=timezone)
    merged = sync.merge(store, ACCOUNT, RemovalPolicy())
    sync.derive_tables(store, ACCOUNT)
    return merged


def sync_in_a_process(
    root: Path, body: bytes, at: datetime, plan: Plan | None = None, *, watched: Path | None = None
) -> Ended:
    """All five steps in a process of their own, which ends as planned.

    Args:
        root: The data root.
        body: The response.
        at: Its fetch time.
        plan: Where the sync ends; None lets it run through.
        watched: The folder whose calls count; by default the data root.
    """
    from_process, to_parent = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(from_process)
            with os.fdopen(to_parent, "wb") as report:
                pickle.dump(_sync_counted(root, body, at, plan, watched or root), report)
        finally:
            os._exit(0)
    os.close(to_parent)
    with os.fdopen(from_process, "rb") as report:
        reported = report.read()
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Ended(killed=True)
    ended: Ended = pickle.loads(reported)  # noqa: S301 – our own fork wrote it
    return ended


def _sync_counted(root: Path, body: bytes, at: datetime, plan: Plan | None, watched: Path) -> Ended:
    calls = _Calls(watched, plan)
    calls.install()
    # One file at a time, so that a number means the same call in every sync.
    store_module.FILES_AT_ONCE = 1
    responses._COMPRESSORS = 1  # noqa: SLF001
    error: Exception | None = None
    try:
        whole_sync(root, body, at)
    except Exception as raised:  # noqa: BLE001 – whatever escapes is what is looked for
        error = raised
    return Ended(
        killed=False,
        calls=tuple(calls.made),
        uncounted=tuple(calls.uncounted),
        error_type=None if error is None else type(error).__name__,
        error="" if error is None else str(error),
    )


class _Calls:
    """Counts this process's calls below a folder, and ends it at one of them. For a process that ends soon."""

    def __init__(self, folder: Path, plan: Plan | None) -> None:
        self.made: list[Call] = []
        self.uncounted: list[str] = []
        self._folder = str(folder)
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
        for module, name in ((pa, "input_stream"), (pa, "OSFile"), (pq, "ParquetFile"), (pq, "read_metadata")):
            self._wrap_arrow_read(module, name)  # Arrow opens files by itself, unseen by `os`
        sys.addaudithook(self._audit)

    def _inside(self) -> bool:
        """Whether this thread is within a call already, of which it makes others."""
        return getattr(self._this_thread, "inside", False)

    def step(self, call: Call, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        if self._inside():
            return act()
        with self._lock:
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
            if at_it:  # also after a call that fails, such as making a folder that exists
                os.kill(os.getpid(), signal.SIGKILL)

    def below(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path relative to the folder; None if it lies elsewhere."""
        if isinstance(path, int):
            text = self._paths.get(path)
        elif dir_fd is not None and dir_fd >= 0:
            folder = self._paths.get(dir_fd)
            text = None if folder is None else os.path.join(folder, os.fspath(path))  # noqa: PTH118
        else:
            text = os.fspath(path)
        if isinstance(text, bytes) or text is None or not (text + "/").startswith(self._folder + "/"):
            return None
        return text[len(self._folder) + 1 :] or "."

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
                return
            path = Path(self._folder, at)
            self._this_thread.inside = True
            content = path.read_bytes() if path.is_file() else None
            self._this_thread.inside = False
            self.step(Call("fsync", at, content=content), lambda: real(descriptor))

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
            self._paths[descriptor] = f"{self._folder}/{at}"
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
            self._file.write(data[: len(data) // 2] if isinstance(data, str) else memoryview(data)[: len(data) // 2])
            self._file.flush()

        return self._calls.step(Call("write", self._at), lambda: self._file.write(data), half)

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
