"""The folder that a campaign's parts are written to: it appears with all of them, or not at all."""

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

    It is made beside `folder`, under a hidden name, and only its owner can read it. A killed process leaves it there;
    the next one removes it.

    Raises:
        CampaignError: `folder` exists and is not an empty folder, or cannot be written.
    """
    folder = folder.resolve()
    problem = None
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise CampaignError(f"{folder} is not empty: name a folder that is empty or does not exist yet.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder.parent)
        new = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        with _locked(new):
            # It is named only now, so that no other process can take it for a leftover before it is locked.
            temporary = new.rename(new.with_name(TEMPORARY_PREFIX + new.name.removeprefix(".")))
            try:
                yield temporary
                for path in temporary.iterdir():
                    path.chmod(0o600)
                    with path.open("rb") as file:
                        os.fsync(file.fileno())  # or a power cut could leave the folder with files cut short
                temporary.replace(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno else type(error).__name__
    if problem is not None:
        raise CampaignError(f"Cannot write {folder}: {problem}. Nothing was left there.")


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
