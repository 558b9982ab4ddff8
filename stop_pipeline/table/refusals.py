"""One sentence in place of what the operating system or a damaged file raises."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from stop_pipeline.errors import StoreError

DAMAGE = (pa.ArrowException, KeyError, ValueError, TypeError)
"""What reading a file raises if it is damaged or belongs to another program."""


@contextmanager
def writing(where: str) -> Iterator[None]:
    """Turn a refusal of the operating system into one sentence.

    Raises:
        StoreError: in place of an OSError.
    """
    refusal = None
    try:
        yield
    except OSError as error:
        refusal = _reason(error) or type(error).__name__
        advice = _permission_advice(where) if _is_permission(error) else "The last commit is unharmed."
    if refusal is not None:
        raise StoreError(f"Cannot write {where}: {refusal}. {advice}")


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn a file that cannot be read, or does not hold what it should, into one sentence.

    Raises:
        StoreError: in place of an OSError, or of what a damaged file raises.
    """
    refusal = None
    advice = "Restore it from a backup."
    try:
        yield
    except OSError as error:
        refusal = _reason(error) or "it is damaged"
        if _is_permission(error):
            advice = _permission_advice(where)
    except DAMAGE:
        refusal = "it is damaged, or was written by another program"
    if refusal is not None:
        raise StoreError(f"Cannot read {where}: {refusal}. {advice}")


@contextmanager
def reading_temporary(path: Path) -> Iterator[None]:
    """Turn the refusal to read a temporary file into one sentence.

    Raises:
        StoreError: in place of an OSError.
    """
    refusal = None
    try:
        yield
    except OSError as error:
        refusal = _reason(error) or type(error).__name__
    if refusal is not None:
        raise StoreError(f"Cannot read {path}: {refusal}. Nothing was changed, and a later sync may succeed.")


def _is_permission(error: OSError) -> bool:
    return error.errno in (errno.EACCES, errno.EPERM)


def _permission_advice(where: str) -> str:
    """Who may do it, and who asked: most often one run by root left files that the service user cannot use."""
    owner = "nobody"
    for path in (Path(where), *Path(where).parents):
        with suppress(OSError, KeyError):
            owner = f"user {path.stat().st_uid}"
            break
    return f"It belongs to {owner}, and this process runs as user {os.getuid()}: run as its owner, or change the owner."


def _reason(error: OSError) -> str | None:
    """The system's own words; Arrow puts its message, path included, into `strerror`."""
    return os.strerror(error.errno) if error.errno else None
