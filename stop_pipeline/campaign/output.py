"""Folders and files for other programs: each appears complete, readable by its owner only, or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stop_pipeline.errors import CampaignError
from stop_pipeline.table.files import sync_to_disk

TEMPORARY_PREFIX = ".stop-pipeline-suppress-"


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """As `complete_file`, for a folder to fill; a CampaignError also says that `folder` is there and is not empty."""
    with complete_file(folder) as temporary:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise CampaignError(f"{folder.absolute()} is not empty: name a folder that is empty or does not exist yet.")
        temporary.mkdir()
        yield temporary


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A temporary path, which replaces `path` if the block ends well; if it does not, what is there is removed.

    A CampaignError says that `path` cannot be written.
    """
    path = Path(os.path.realpath(path))  # which, unlike `resolve`, leaves a loop of links to whoever writes
    with _temporary_folder(beside=path) as temporary:
        made = temporary / path.name
        yield made
        for file in (made, *made.rglob("*")):
            file.chmod(0o700 if file.is_dir() else 0o600)
            sync_to_disk(file)  # or a power cut could leave it cut short
        made.replace(path)
        sync_to_disk(path.parent)


@contextmanager
def _temporary_folder(beside: Path) -> Iterator[Path]:
    """A folder with a hidden name that only its owner can read. A killed process leaves it; the next one removes it."""
    parent = beside.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.glob(f"{TEMPORARY_PREFIX}*"):
            with suppress(OSError), _locked(leftover) as is_locked:
                if is_locked:  # so the process that made it has ended
                    shutil.rmtree(leftover, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix=".", dir=parent))
        with _locked(new):
            # It is named only now, so that no other process can take it for a leftover before it is locked.
            temporary = new.rename(new.with_name(TEMPORARY_PREFIX + new.name.removeprefix(".")))
            try:
                yield temporary
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno else type(error).__name__
        raise CampaignError(f"Cannot write {beside}: {problem}. Nothing was changed there.") from error


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder until the block or the process ends; False if it is locked already, or cannot be here."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        is_locked = False
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        yield is_locked
    finally:
        os.close(descriptor)
