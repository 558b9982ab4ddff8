"""How files reach the data root: complete or not at all, readable by their owner only, one writer per account.

`Files` says what any data root can do; `LocalFiles` does it in a folder, `bucket.BucketFiles` in a bucket. Names are
relative to the data root, with forward slashes. Temporary files and locks are always on the local disk.

On disk a file is written under a temporary name in `.work/`, synced, renamed to its final name, and its folder synced.
"""

import errno
import fnmatch
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from stop_pipeline.table.lock import AccountLock
from stop_pipeline.table.refusals import reading, writing

WORK_FOLDER = ".work"
LOCK_TIMEOUT_SECONDS = 900

Content: TypeAlias = bytes | pa.Buffer


class Files(ABC):
    """The files below one data root.

    Args:
        scratch: Folder on the local disk for locks and temporary files.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    @abstractmethod
    def uri(self, name: str) -> str:
        """The URI of a file or folder."""

    @abstractmethod
    def shown(self, name: str = "") -> str:
        """Where a file, or the data root itself, is, for a person to read."""

    @abstractmethod
    def has_root(self) -> bool:
        """Whether the data root exists."""

    @abstractmethod
    def is_unused(self) -> bool:
        """Whether nothing is at the data root.

        Raises:
            StoreError: it cannot be read.
        """

    @abstractmethod
    def is_writable(self) -> bool:
        """Whether this process may write to the data root."""

    @abstractmethod
    def encloses(self, other: "Files") -> bool:
        """Whether the other data root is this one, or lies inside it."""

    @abstractmethod
    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading; what is read is one version of it, whatever is written meanwhile.

        Raises:
            FileNotFoundError: there is no such file.
            OSError, StoreError: it cannot be read.
        """

    @abstractmethod
    def footer(self, name: str) -> pq.FileMetaData:
        """The footer of a Parquet file; raises as `open` does."""

    @abstractmethod
    def write(self, account: str, name: str, data: Content) -> None:
        """Replace a file atomically, under the account's lock.

        Raises:
            StoreError: it cannot be written; the old file stays.
        """

    @abstractmethod
    def adopt(self, temporary: Path, name: str) -> None:
        """Move a finished temporary file to `name`, atomically."""

    @abstractmethod
    def stage(self, account: str, data: Content) -> str:
        """Write a new file that no reader looks at yet; gives its name."""

    @abstractmethod
    def publish(self, staged: Mapping[str, str | None]) -> None:
        """Move staged files to their places; a staged file that is gone has been moved already.

        Args:
            staged: Place of each file, and the name of the staged one; None removes the file at that place.
        """

    @abstractmethod
    def discard_staged(self, account: str) -> None:
        """Remove every staged file of the account."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether a file or folder exists.

        Raises:
            StoreError: that cannot be found out.
        """

    @abstractmethod
    def matching(self, pattern: str) -> list[str]:
        """The names that match a pattern with `*` in some of its parts, sorted.

        Raises:
            StoreError: a folder cannot be listed.
        """

    @abstractmethod
    def below(self, folder: str) -> list[str]:
        """The names of all files in a folder and its folders, sorted."""

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is no such file."""
        with reading(self.shown(name)):
            try:
                with self.open(name) as file:
                    data: bytes = file.read()
            except FileNotFoundError:
                return None
            return data

    @contextmanager
    def locked(self, account: str, *, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[None]:
        """Hold the account's lock: one writer at a time, across processes; a dead process holds no lock.

        Temporary files of the account are removed first, since their writer is gone, and at the end, since a refused
        response holds phone numbers.

        Raises:
            StoreError: another process held the lock for too long, or the data root cannot be written.
        """
        with writing(str(self._scratch)):
            for folder in _make_folder(self._scratch):
                _sync(folder)
            lock = AccountLock(self._scratch, account)
            lock.acquire(timeout_seconds)
        try:
            shutil.rmtree(self._temporaries(account), ignore_errors=True)
            yield
        finally:
            shutil.rmtree(self._temporaries(account), ignore_errors=True)
            lock.release()

    def temporary(self, account: str) -> Path:
        """A fresh path for a temporary file, to be used under the account's lock."""
        with writing(str(self._temporaries(account))):
            _make_folder(self._temporaries(account))
        return self._temporaries(account) / uuid4().hex

    def _temporaries(self, account: str) -> Path:
        return self._scratch / f"account={account}"


class LocalFiles(Files):
    """The files in a folder on disk. Its temporary files are inside it, so that a rename stays on one disk."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        super().__init__(self._root / WORK_FOLDER)

    def shown(self, name: str = "") -> str:
        """The absolute path."""
        return str(self._path(name))

    def uri(self, name: str) -> str:
        """The file:// URI of the absolute path."""
        return self._path(name).as_uri()

    def has_root(self) -> bool:
        """Whether the folder exists."""
        return self._root.is_dir()

    def is_unused(self) -> bool:
        """Whether the folder is empty, or does not exist."""
        with reading(self.shown()):
            return not self._root.exists() or (self._root.is_dir() and not any(self._root.iterdir()))

    def is_writable(self) -> bool:
        """Whether this process may write to the folder."""
        return os.access(self._root, os.W_OK)

    def encloses(self, other: Files) -> bool:
        """Whether the other folder is this one, or lies inside it, links followed."""
        return isinstance(other, LocalFiles) and Path(other.shown()).resolve().is_relative_to(self._root.resolve())

    def open(self, name: str) -> pa.NativeFile:
        """The file as it is now: renaming another one over it does not change an open file."""
        return pa.OSFile(self.shown(name))

    def footer(self, name: str) -> pq.FileMetaData:
        """The footer of a Parquet file."""
        return pq.read_metadata(self.shown(name))

    def write(self, account: str, name: str, data: Content) -> None:
        """Write a temporary file, sync it and rename it."""
        temporary = self.temporary(account)
        with writing(self.shown(name)):
            _write_new(temporary, data)
        self._move([(temporary, name)])

    def adopt(self, temporary: Path, name: str) -> None:
        """Sync a finished temporary file and rename it."""
        with writing(self.shown(name)):
            temporary.chmod(0o600)
            _sync(temporary)
        self._move([(temporary, name)])

    def stage(self, account: str, data: Content) -> str:
        """Write and sync a new file in `.work/staged`."""
        name = f"{WORK_FOLDER}/staged/account={account}/{uuid4().hex}"
        with writing(self.shown(name)):
            for folder in _make_folder(self._path(name).parent):
                _sync(folder)
            _write_new(self._path(name), data)
            _sync(self._path(name).parent)
        return name

    def publish(self, staged: Mapping[str, str | None]) -> None:
        """Rename staged files to their places, then sync the folders."""
        # Not `Path.exists`, which may take a file that it cannot look at for one that has been moved already.
        unmoved = [(source, name) for name, source in staged.items() if source is not None and self.exists(source)]
        self._move((self._path(source), name) for source, name in unmoved)
        for name, source in staged.items():
            if source is None:
                self.remove(name)

    def discard_staged(self, account: str) -> None:
        """Remove the staged files; what cannot be removed is left for the next time."""
        shutil.rmtree(self._path(f"{WORK_FOLDER}/staged/account={account}"), ignore_errors=True)

    def remove(self, name: str) -> None:
        """Remove the file, and its folder if that is empty then."""
        path = self._path(name)
        with writing(str(path)):
            path.unlink(missing_ok=True)
            try:
                path.parent.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise
            _sync(next(parent for parent in path.parents if parent.exists()))

    def exists(self, name: str) -> bool:
        """Whether it exists; `Path.exists` says no where it may not look."""
        with reading(self.shown(name)):
            try:
                self._path(name).stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def matching(self, pattern: str) -> list[str]:
        """The names that match; `Path.glob` takes a folder that cannot be listed for an empty one."""
        names = [""]
        for part in pattern.split("/"):
            names = [
                f"{name}/{entry}" if name else entry
                for name in names
                for entry in (fnmatch.filter(self._entries(name), part) if "*" in part else [part])
            ]
        return sorted(names if "*" in part else filter(self.exists, names))

    def below(self, folder: str) -> list[str]:
        """The names of all files below a folder; the folder itself, if it is a file."""
        paths = [self._path(folder), *sorted(self._path(folder).rglob("*"))]
        return [path.relative_to(self._root).as_posix() for path in paths if path.is_file()]

    def _move(self, files: Iterable[tuple[Path, str]]) -> None:
        """Rename synced files, then sync each folder that changed once."""
        changed: set[Path] = set()
        for source, name in files:
            path = self._path(name)
            with writing(str(path)):
                changed |= _make_folder(path.parent) | {path.parent}
                source.replace(path)
        for folder in sorted(changed):
            with writing(str(folder)):
                _sync(folder)

    def _path(self, name: str) -> Path:
        return self._root / name

    def _entries(self, name: str) -> list[str]:
        with reading(self.shown(name)):
            try:
                return [path.name for path in self._path(name).iterdir()]
            except (FileNotFoundError, NotADirectoryError):
                return []


def _write_new(path: Path, data: Content) -> None:
    """Write a new file that only its owner can read, and sync it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    _sync(path)


def _make_folder(path: Path) -> set[Path]:
    """Make a folder and its parents for their owner only; gives the parents that changed and are to be synced."""
    if path.is_dir():
        return set()
    changed = _make_folder(path.parent)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    return changed | {path.parent}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
