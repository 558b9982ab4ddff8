"""Folders and files for other programs: each appears complete, readable by its owner only, or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stop_pipeline.errors import CampaignError

TEMPORARY_PREFIX = ".stop-pipeline-suppress-"


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `folder` if the block ends well, and is removed if it does not.

    Raises:
        CampaignError: `folder` exists and is not an empty folder, or cannot be written.
    """
    folder = folder.resolve()
    with _plain_refusal(folder):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise CampaignError(f"{folder} is not empty: name a folder that is empty or does not exist yet.")
        with _temporary_folder(folder.parent) as temporary:
            yield temporary
            for path in temporary.iterdir():
                _finish(path)
            temporary.replace(folder)


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A path for a temporary file, which replaces `path` if the block ends well, and is removed if it does not.

    Raises:
        CampaignError: `path` cannot be written.
    """
    path = path.resolve()
    with _plain_refusal(path), _temporary_folder(path.parent) as temporary:
        yield temporary / path.name
        _finish(temporary / path.name)
        (temporary / path.name).replace(path)
        _sync(path.parent)


@contextmanager
def _plain_refusal(path: Path) -> Iterator[None]:
    problem = None
    try:
        yield
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno else type(error).__name__
    if problem is not None:
        raise CampaignError(f"Cannot write {path}: {problem}. Nothing was changed there.")


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder with a hidden name that only its owner can read. A killed process leaves it; the next one removes it."""
    parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(parent)
    new = Path(tempfile.mkdtemp(prefix=".", dir=parent))
    with _locked(new):
        # It is named only now, so that no other process can take it for a leftover before it is locked.
        temporary = new.rename(new.with_name(TEMPORARY_PREFIX + new.name.removeprefix(".")))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _finish(path: Path) -> None:
    path.chmod(0o600)
    _sync(path)  # or a power cut could leave the file cut short


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(parent: Path) -> None:
    """Remove the temporary folders of killed processes: those that are not locked."""
    for folder in parent.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError), _locked(folder) as locked:
            if locked:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder until the block or the process ends; False if it is locked already, or cannot be here."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        locked = False
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        yield locked
    finally:
        os.close(descriptor)
