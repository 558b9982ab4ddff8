"""How bytes reach the data root: whole or not at all, readable by their owner only, one writer per account.

What belongs here: what every data root can do (`Files`), the lock and temporaries, and how a folder on disk does it
(`LocalFiles`). What does not: how a bucket does it (`objects`), which files there are (`layout`) and what is in them.
Nobody else knows where a file lies: the other rooms name it relative to the data root, and only temporaries, always on
local disk, are paths to them.

On disk, a write goes to a temporary name in `.work/`, is synced, renamed onto its final path, and the folder is synced;
whoever reads the folder sees the old file or the new one. Folders of data never hold anything but finished files. Of
several files that are written together each of these steps is taken for all before the next: the disk then has to write
its journal a few times, where it would three times for each file.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import filelock

from stop_pipeline.errors import StoreError
from stop_pipeline.footers import footer_bytes
from stop_pipeline.threads import in_threads

if TYPE_CHECKING:  # a tick that changes nothing needs no Arrow
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

Item = TypeVar("Item")
Result = TypeVar("Result")
Content = tuple[str, "bytes | pa.Buffer"]
"""The name of a file, and what it is to hold."""

Damage = tuple[type[Exception], ...]
"""What reading a file raises if it is not one of this package, or no longer."""

WORK_FOLDER = ".work"
LOCK_TIMEOUT_SECONDS = 900
_FOOTER_BYTES = 65_536
"""How much of a Parquet file is read at first to find its footer."""
_NOT_TO_BE_REMOVED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)
"""What a folder says that holds other files, or is gone already."""


class Files(ABC):
    """The files below one data root. Names are relative to it, with forward slashes.

    The lock and temporaries lie in `scratch`, a folder on local disk.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    @abstractmethod
    def uri(self, name: str) -> str:
        """The URI of `name`."""

    @abstractmethod
    def shown(self, name: str = "") -> str:
        """Where `name`, or the data root itself, lies, as a person is told."""

    @abstractmethod
    def has_root(self) -> bool:
        """Whether there is such a data root."""

    @abstractmethod
    def is_unused(self) -> bool:
        """Whether nothing lies at the data root.

        Raises:
            StoreError: it cannot be looked at.
        """

    @abstractmethod
    def is_writable(self) -> bool:
        """Whether this process may take the lock and make temporaries."""

    @abstractmethod
    def encloses(self, other: Files) -> bool:
        """Whether the other data root is this one, or lies within it."""

    @contextmanager
    def locked(self, account: str, *, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[None]:
        """Hold the account's lock: one writer at a time, across processes; the lock of a dead process is free.

        Temporaries of the account are cleared first, for their writer is gone, since it held this lock; and at the end.

        Raises:
            StoreError: another process held the lock for `timeout_seconds`, or the data root cannot be written.
        """
        with writable(self._scratch):
            _sync_each(_make_folder(self._scratch))
        lock = filelock.FileLock(self._scratch / f"account={account}.lock", mode=0o600)
        busy = False
        with writable(Path(lock.lock_file)):
            try:
                lock.acquire(timeout=timeout_seconds)
            except filelock.Timeout:
                busy = True
        if busy:
            raise StoreError(
                f"Another process has been writing the account “{account}” for {timeout_seconds:g} s: wait for it to "
                f"end, or end it, and run again (lock: {lock.lock_file})."
            )
        try:
            with writable(self._work(account)):
                shutil.rmtree(self._work(account), ignore_errors=True)
            yield
        finally:
            # On the way out as well: a refused answer holds numbers, and whatever a server echoed of the request's key.
            shutil.rmtree(self._work(account), ignore_errors=True)
            lock.release()

    def temporary(self, account: str) -> Path:
        """A fresh path for a temporary file of the account, to be used under its lock."""
        with writable(self._work(account)):
            _make_folder(self._work(account))
        return self._work(account) / uuid4().hex

    def temporary_with(self, account: str, data: bytes | pa.Buffer) -> Path:
        """A temporary file that holds `data`, to be used under the account's lock."""
        temporary = self.temporary(account)
        with writable(temporary):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        return temporary

    @abstractmethod
    def write(self, account: str, name: str, data: bytes | pa.Buffer) -> None:
        """Put `data` at `name`, atomically, under the account's lock.

        Raises:
            StoreError: it was refused; what `name` held before stands.
        """

    def write_each(self, account: str, content: Callable[[Item], Content | None], items: Iterable[Item]) -> None:
        """Put what `content` gives for each item, unless that is None, as `write` would; several at once.

        All of it is there to stay when this returns; until then any of it may be.

        Raises:
            StoreError: some of it was refused.
        """

        def write(item: Item) -> None:
            if (file := content(item)) is not None:
                self.write(account, *file)

        in_threads(write, items)

    @abstractmethod
    def adopt(self, temporary: Path, name: str) -> None:
        """Move a finished temporary file to `name`, as `write` would put it there."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove the file `name`, if there is one."""

    @abstractmethod
    def reading(self, name: str = "", damage: Damage | None = None) -> AbstractContextManager[None]:
        """Turn a failure to read `name`, or what its bytes should be, into one sentence; see `readable`."""

    @abstractmethod
    def open(self, name: str) -> pa.NativeFile:
        """The file `name`, for reading anywhere in it; to be used under `reading`.

        However long it is read, it is one version of the file, whatever is put at `name` meanwhile.

        Raises:
            OSError: it cannot be opened; FileNotFoundError, if there is none.
        """

    def footer(self, name: str) -> bytes:
        """The end of the Parquet file `name`, with all of its footer; to be used under `reading`.

        Raises:
            OSError: it cannot be opened; FileNotFoundError, if there is none.
        """
        size_bytes = _FOOTER_BYTES
        while True:
            end = self._bytes(name, last=size_bytes)
            footer = footer_bytes(end)
            if footer <= size_bytes or len(end) < size_bytes:
                return end
            size_bytes = footer

    def footers(self, pattern: str) -> dict[str, pq.FileMetaData]:
        """The footer of each Parquet file whose name matches `pattern`, by name; to be used under the account's lock.

        Raises:
            StoreError: a folder cannot be listed, or a file not be read, or it has no footer.
        """
        import pyarrow as pa  # noqa: PLC0415 – see above
        import pyarrow.parquet as pq  # noqa: PLC0415 – see above

        footers = {}
        for name in self.matching(pattern):
            with self.reading(name):
                footers[name] = pq.read_metadata(pa.BufferReader(self.footer(name)))
        return footers

    @abstractmethod
    def scan(
        self, folder: str, schema: pa.Schema, keys: pa.Schema, columns: list[str], condition: pc.Expression | None
    ) -> pa.Table:
        """Some columns of the rows that meet a condition, of all Parquet files below `folder`, if there are any.

        To be used under `reading`. Each file is read as `open` would; those that cannot meet the condition are not.

        Args:
            folder: Its name.
            schema: Of the files, with their keys.
            keys: The hive keys, from the folder's own name on.
            columns: Which columns to give, in this order.
            condition: On any column; None gives all rows.

        Raises:
            OSError: it cannot be read; FileNotFoundError, if a file vanished after it was listed.
        """

    def read(self, name: str) -> bytes | None:
        """The bytes of `name`; None if there is no such file."""
        with self.reading(name):
            try:
                return self._bytes(name)
            except FileNotFoundError:
                return None

    @abstractmethod
    def _bytes(self, name: str, *, last: int | None = None) -> bytes:
        """The bytes of the file `name`, or the last so many of them, of one version of it.

        Raises:
            OSError: as `open`.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a file or folder `name`; not to know is an error."""

    @abstractmethod
    def matching(self, pattern: str) -> list[str]:
        """The names that match a pattern with `*` in some parts, sorted; not to know them all is an error."""

    @abstractmethod
    def below(self, folder: str) -> list[str]:
        """The names of all files below `folder`, at any depth, sorted by their parts."""

    def each(self, read: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """What `read` gives for each item, in their order; several at once."""
        return in_threads(read, items)

    def _work(self, account: str) -> Path:
        return self._scratch / f"account={account}"


class LocalFiles(Files):
    """The files below a folder on disk; its scratch is in that folder, so that a rename never leaves the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        super().__init__(self._root / WORK_FOLDER)

    def shown(self, name: str = "") -> str:
        """The absolute path."""
        return str(self._path(name))

    def uri(self, name: str) -> str:
        """The URI, file://…, of the absolute path."""
        return self._path(name).as_uri()

    def has_root(self) -> bool:
        """Whether there is such a folder."""
        return self._root.is_dir()

    def is_unused(self) -> bool:
        """Whether the data root is an empty folder, or not there yet."""
        with self.reading():
            return not self._root.exists() or (self._root.is_dir() and not any(self._root.iterdir()))

    def is_writable(self) -> bool:
        """Whether this process may write to the folder, which holds the lock as well."""
        return os.access(self._root, os.W_OK)

    def encloses(self, other: Files) -> bool:
        """Whether the other data root is this one, or lies within it, links followed."""
        return isinstance(other, LocalFiles) and Path(other.shown()).resolve().is_relative_to(self._root.resolve())

    def write(self, account: str, name: str, data: bytes | pa.Buffer) -> None:
        """Put `data` at `name`: a temporary file, synced, then renamed."""
        self.adopt(self.temporary_with(account, data), name)

    def write_each(self, account: str, content: Callable[[Item], Content | None], items: Iterable[Item]) -> None:
        """As `Files.write_each`; if `content` fails, nothing is put."""

        def finished(item: Item) -> tuple[Path, str] | None:
            file = content(item)
            return file and (self.temporary_with(account, file[1]), file[0])

        self._adopt(list(filter(None, in_threads(finished, items))))

    def adopt(self, temporary: Path, name: str) -> None:
        """Move a finished temporary file to `name`, atomically and synced."""
        self._adopt([(temporary, name)])

    def _adopt(self, finished: Sequence[tuple[Path, str]]) -> None:
        """Move finished temporary files to their names."""

        def sync(file: tuple[Path, str]) -> None:
            temporary, name = file
            with writable(self._path(name)):
                _sync(temporary)

        in_threads(sync, finished)
        changed: set[Path] = set()
        for temporary, name in finished:
            path = self._path(name)
            with writable(path):
                changed |= _make_folder(path.parent) | {path.parent}
                temporary.replace(path)
        _sync_each(changed)

    def remove(self, name: str) -> None:
        """Remove the file `name`, and its folder if that leaves it empty."""
        path = self._path(name)
        with writable(path):
            path.unlink(missing_ok=True)
            try:
                path.parent.rmdir()
            except OSError as error:
                if error.errno not in _NOT_TO_BE_REMOVED:
                    raise
            _sync(next(parent for parent in path.parents if parent.exists()))

    def reading(self, name: str = "", damage: Damage | None = None) -> AbstractContextManager[None]:
        """As `readable`."""
        return readable(self._path(name), damage)

    def open(self, name: str) -> pa.NativeFile:
        """The file as it is now: a rename onto its name leaves an open file what it was."""
        import pyarrow as pa  # noqa: PLC0415 – see above

        return pa.OSFile(self.shown(name))

    def _bytes(self, name: str, *, last: int | None = None) -> bytes:
        with self._path(name).open("rb") as file:
            if last is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - last))
            return file.read()

    def scan(
        self, folder: str, schema: pa.Schema, keys: pa.Schema, columns: list[str], condition: pc.Expression | None
    ) -> pa.Table:
        """Rows of the files as they are when each is opened."""
        if not self.exists(folder):
            return schema.empty_table().select(columns)
        import pyarrow.dataset as ds  # noqa: PLC0415 – it loads pandas, which a tick that changes nothing can do without

        dataset = ds.dataset(
            self.shown(folder),
            schema,
            "parquet",
            partitioning=ds.partitioning(keys, flavor="hive"),
            partition_base_dir=str(self._path(folder).parent),
        )
        return dataset.to_table(columns, filter=condition)

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder `name`; `Path.exists` may take not to know for a no."""
        with self.reading(name):
            try:
                self._path(name).stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def matching(self, pattern: str) -> list[str]:
        """The names that match.

        `Path.glob` takes a folder that cannot be listed for an empty one; months that nobody sees would be written
        anew, without their history.
        """
        names = [""]
        for part in pattern.split("/"):
            names = [
                f"{name}/{entry}" if name else entry
                for name in names
                for entry in (fnmatch.filter(self._entries(name), part) if "*" in part else [part])
            ]
        return sorted(names if "*" in part else filter(self.exists, names))

    def below(self, folder: str) -> list[str]:
        """The names of all files below `folder`."""
        paths = sorted(self._path(folder).rglob("*"))
        return [path.relative_to(self._root).as_posix() for path in paths if path.is_file()]

    def _path(self, name: str) -> Path:
        return self._root / name

    def _entries(self, name: str) -> list[str]:
        with self.reading(name):
            try:
                return [path.name for path in self._path(name).iterdir()]
            except (FileNotFoundError, NotADirectoryError):
                return []


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn a refusal of the operating system to write `path` into one sentence.

    Raises:
        StoreError: in place of an OSError.
    """
    refusal = None
    try:
        yield
    except OSError as error:
        refusal = _reason(error) or type(error).__name__
    if refusal is not None:
        raise StoreError(f"Cannot write {path}: {refusal}. What was committed before stands.")


@contextmanager
def readable(path: Path, damage: Damage | None = None) -> Iterator[None]:
    """Turn a file that cannot be read, or holds something else than it should, into one sentence.

    Args:
        path: The file.
        damage: What else than an OSError means that it is damaged; if not given, what reading Parquet raises then.

    Raises:
        StoreError: in place of an OSError or one of `damage`.
    """
    refusal = None
    try:
        yield
    except OSError as error:
        refusal = _reason(error) or "it is damaged"
    except damage_if(damage):
        refusal = "it is damaged or no file of this package"
    if refusal is not None:
        raise StoreError(f"Cannot read {path}: {refusal}. Restore it from a backup.")


def damage_if(named: Damage | None) -> Damage:
    """What means damage: what is named, or for a Parquet file, of which nothing is, whatever Arrow raises.

    Best asked for when something was raised, for it loads Arrow.
    """
    if named is not None:
        return named
    import pyarrow as pa  # noqa: PLC0415 – see above

    return pa.ArrowException, KeyError, ValueError


def _reason(error: OSError) -> str | None:
    """In the system's words: Arrow puts its own into `strerror`, path and all."""
    return os.strerror(error.errno) if error.errno else None


def _make_folder(path: Path) -> set[Path]:
    """Make a folder and its parents, for their owner only; gives each parent that gained one, and is to be synced."""
    if path.is_dir():
        return set()
    gained = _make_folder(path.parent)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    return gained | {path.parent}


def _sync_each(folders: Iterable[Path]) -> None:
    def sync(folder: Path) -> None:
        with writable(folder):
            _sync(folder)

    in_threads(sync, sorted(folders))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
