"""How files reach the data root: complete or not at all, readable by their owner only, one writer per account.

Names are relative to the data root, with forward slashes. What the system refuses is a StoreError; only `open`
and `footer` raise what the system raises. On disk a file is written under a temporary name in `.work/`, synced,
renamed to its final name, and its folder synced. What writes is to be called under the account's lock.
"""

import errno
import fnmatch
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote
from uuid import uuid4

import filelock
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import to_json

from stop_pipeline.errors import ConfigurationError, StoreError
from stop_pipeline.settings import is_remote
from stop_pipeline.table.state import Value, from_document

log = logging.getLogger(__name__)

WORK_FOLDER = ".work"
LOCK_TIMEOUT_SECONDS = 900

RESTORE = "Restore it from a backup."
MADE_AGAIN = "The next sync makes it again."

# What reading a file raises if it is damaged or belongs to another program.
_DAMAGE = (pa.ArrowException, KeyError, ValueError, TypeError)

Content: TypeAlias = bytes | pa.Buffer


class Files:
    """The files below a data root that is a folder; `bucket.BucketFiles` are those in a bucket.

    Locks and temporary files are always on the local disk: for a folder inside it, so that a rename stays on one disk.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        try:
            os.fsencode(self._root).decode()
        except UnicodeDecodeError:
            raise ConfigurationError(
                f"The path of the data root, {str(root)!a}, is not UTF-8: choose another."
            ) from None
        self._scratch = self._root / WORK_FOLDER

    def shown(self, name: str = "") -> str:
        """Where a file, or the data root itself, is: its absolute path, or its URI in a bucket."""
        return str(self._path(name))

    def uri(self, name: str) -> str:
        """The URI of a file or folder."""
        place = self.shown(name)
        return place if is_remote(place) else f"file://{quote(place, safe='/=')}"

    def has_root(self) -> bool:
        """Whether the data root exists."""
        return self.exists("") and self._root.is_dir()

    def is_writable(self) -> bool:
        """Whether this process may write to the data root."""
        return os.access(self._root, os.W_OK)

    def encloses(self, place: str | Path) -> bool:
        """Whether a path, links followed, or a URI is the data root or lies inside it."""
        return not is_remote(place) and Path(os.path.realpath(place)).is_relative_to(os.path.realpath(self._root))

    def reading(self, name: str, advice: str = RESTORE) -> AbstractContextManager[None]:
        """Turn a file that cannot be read, or does not hold what it should, into a sentence that ends in the advice."""
        return _told("read", self.shown(name), advice, damage=_DAMAGE)

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading; what is read is one version of it, whatever is renamed over it meanwhile."""
        return pa.OSFile(self.shown(name))

    def footer(self, name: str) -> pq.FileMetaData:
        """The footer of a Parquet file; raises as `open` does."""
        return pq.read_metadata(self.shown(name))

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is no such file."""
        with self.reading(name):
            try:
                with self.open(name) as file:
                    data: bytes = file.read()
            except FileNotFoundError:
                return None
            return data

    def write(self, account: str, name: str, data: Content | Path) -> None:
        """Replace a file atomically, by bytes or by a temporary file; if that is refused, the old file stays."""
        temporary = data if isinstance(data, Path) else self.temporary(account)
        with writing(self.shown(name)):
            if isinstance(data, Path):
                temporary.chmod(0o600)
                sync_to_disk(temporary)
            else:
                _write_new(temporary, data)
        self._move({temporary: name})

    def stage(self, account: str, data: Content) -> str:
        """Write a new file that no reader looks at yet; gives its name."""
        name = f"{staged_folder(account)}/{uuid4().hex}"
        path = self._path(name)
        with writing(str(path)):
            _make_folder(path.parent)
            _write_new(path, data)
            sync_to_disk(path.parent)
        return name

    def publish(self, staged: Mapping[str, str | None]) -> None:
        """Move each staged file to its place, unless it is gone, since it was moved before; None removes a file."""
        # Not `Path.exists`, which may take a file that it cannot look at for one that has been moved already.
        self._move({self._path(source): name for name, source in staged.items() if source and self.exists(source)})
        for name, source in staged.items():
            if source is None:
                self.remove(name)

    def discard_staged(self, account: str) -> None:
        """Remove every staged file of the account; what cannot be removed is left for the next time."""
        shutil.rmtree(self._path(staged_folder(account)), ignore_errors=True)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists, and its folder, if that is empty then."""
        path = self._path(name)
        with writing(str(path)):
            path.unlink(missing_ok=True)
            try:
                path.parent.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise
            sync_to_disk(next(parent for parent in path.parents if parent.exists()))

    def exists(self, name: str) -> bool:
        """Whether a file or folder exists; unlike `Path.exists`, not “no” where it may not look."""
        with self.reading(name):
            try:
                self._path(name).stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def matching(self, pattern: str) -> list[str]:
        """The names that match a pattern with `*` in some of its parts, sorted."""
        names = [""]  # not by `Path.glob`, which takes a folder that cannot be listed for an empty one
        for part in pattern.split("/"):
            names = [
                f"{name}/{entry}" if name else entry
                for name in names
                for entry in (fnmatch.filter(self._entries(name), part) if "*" in part else [part])
            ]
        return sorted(names if "*" in part else filter(self.exists, names))

    def below(self, folder: str) -> list[str]:
        """The names of all files in a folder and its folders, sorted; the folder itself, if it is a file."""
        with self.reading(folder):
            if self._path(folder).is_file():
                return [folder]
        # Not by `Path.rglob`, which takes a folder that cannot be listed for an empty one.
        inner = (f"{folder}/{entry}" if folder else entry for entry in self._entries(folder))
        return sorted(name for entry in inner for name in self.below(entry))

    @contextmanager
    def locked(self, account: str, *, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[None]:
        """Hold the account's lock: one writer at a time, across processes. The system frees that of a dead process.

        A file beside the lock says who holds it. Temporary files of the account are removed first, since their writer
        is gone, and at the end, since a refused response holds phone numbers.

        Raises:
            StoreError: another process held the lock for too long, or the data root cannot be written.
        """
        holder = self._scratch / f"account={account}.holder"
        with writing(str(self._scratch)):
            _make_folder(self._scratch)
            lock = _acquired(self._scratch / f"account={account}.lock", holder, account, timeout_seconds)
        with lock:
            shutil.rmtree(self._temporaries(account), ignore_errors=True)  # first, for they may be what fills the disk
            with suppress(OSError):  # it only tells others whom they wait for
                holder.touch(mode=0o600)
                holder.write_text(f"process {os.getpid()} (since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC)")
            try:
                yield
            finally:
                shutil.rmtree(self._temporaries(account), ignore_errors=True)

    def temporary(self, account: str) -> Path:
        """A fresh path for a temporary file."""
        folder = self._temporaries(account)
        with writing(str(folder)):
            _make_folder(folder)
        return folder / uuid4().hex

    def _temporaries(self, account: str) -> Path:
        return self._scratch / f"account={account}"

    def _path(self, name: str) -> Path:
        return self._root / name

    def _entries(self, folder: str) -> list[str]:
        """The names, within a folder, of what is in it."""
        with self.reading(folder):
            try:
                return [path.name for path in self._path(folder).iterdir()]
            except (FileNotFoundError, NotADirectoryError):
                return []

    def _move(self, files: Mapping[Path, str]) -> None:
        """Rename synced files, then sync each of their folders once."""
        for source, name in files.items():
            path = self._path(name)
            with writing(str(path)):
                _make_folder(path.parent)
                source.replace(path)
        for folder in sorted({self._path(name).parent for name in files.values()}):
            with writing(str(folder)):
                sync_to_disk(folder)


def staged_folder(account: str) -> str:
    """Name of the folder that holds an account's staged files."""
    return f"{WORK_FOLDER}/staged/account={account}"


def read_document(files: Files, name: str, kind: type[Value], advice: str = RESTORE) -> Value | None:
    """The value, of some class, that a JSON file holds; None if there is no such file."""
    data = files.read(name)
    with files.reading(name, advice):
        return None if data is None else from_document(kind, json.loads(data))


def write_document(files: Files, account: str, name: str, value: object) -> None:
    """Replace a JSON file."""
    files.write(account, name, to_json(value, indent=2) + b"\n")


def writing(where: str) -> AbstractContextManager[None]:
    """Turn a refusal of the operating system into a sentence."""
    return _told("write", where, "The last commit is unharmed.")


def reading_temporary(path: Path) -> AbstractContextManager[None]:
    """Turn the refusal to read a temporary file into a sentence."""
    return _told("read", str(path), "Nothing was changed, and a later sync may succeed.")


def _acquired(path: Path, holder: Path, account: str, timeout_seconds: float) -> AbstractContextManager[object]:
    lock = filelock.FileLock(path, mode=0o600)
    with suppress(filelock.Timeout):
        return lock.acquire(timeout=0)
    first = _named(holder)
    log.warning("Account %s: waiting for %s, which holds its lock", account, first)
    try:
        return lock.acquire(timeout=timeout_seconds)
    except filelock.Timeout:
        last = _named(holder)
        held_by = last if last == first else f"one process after another, now {last},"
        raise StoreError(
            f"The account “{account}” has been locked by {held_by} for {timeout_seconds:g} s: wait for that process to "
            f"end, or end it, and run again (lock: {path})."
        ) from None


def _named(holder: Path) -> str:
    """The process that holds a lock now, as it has written down."""
    with suppress(OSError):
        return holder.read_text() or "another process"
    return "another process"


def _write_new(path: Path, data: Content) -> None:
    """Write a new file that only its owner can read, and sync it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    sync_to_disk(path)


def _make_folder(path: Path) -> None:
    """Make a folder and its parents for their owner only, and sync what holds them."""
    if not path.is_dir():
        _make_folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        sync_to_disk(path.parent)


def sync_to_disk(path: Path) -> None:
    """Flush a file or folder to disk, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told(what: str, where: str, advice: str, damage: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # The system's own words; Arrow puts its message, path included, into `strerror`, and sets no `errno`.
        unknown = "it is damaged" if damage else type(error).__name__
        refusal = os.strerror(error.errno) if error.errno else unknown
        if error.errno in (errno.EACCES, errno.EPERM):
            advice = _permission_advice(where)
    except damage:
        refusal = "it is damaged, or was written by another program"
    else:
        return
    # Not within `except`: the error may hold what was read, and would be the context of this one.
    raise StoreError(f"Cannot {what} {where}: {refusal}. {advice}")


def _permission_advice(where: str) -> str:
    """Who may do it, and who asked: most often one run by root left files that the service user cannot use."""
    owner = "nobody"
    for path in (Path(where), *Path(where).parents):
        with suppress(OSError, KeyError):
            owner = f"user {path.stat().st_uid}"
            break
    return f"It belongs to {owner}, and this process runs as user {os.getuid()}: run as its owner, or change the owner."
