"""One sentence, a StoreError, in place of what the operating system or a damaged file raises."""

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from stop_pipeline.errors import StoreError

RESTORE = "Restore it from a backup."
MADE_AGAIN = "The next sync makes it again."

_DAMAGE = (pa.ArrowException, KeyError, ValueError, TypeError)
"""What reading a file raises if it is damaged or belongs to another program."""


def writing(where: str) -> AbstractContextManager[None]:
    """Turn a refusal of the operating system into a sentence."""
    return _told(f"Cannot write {where}", where, "The last commit is unharmed.")


def reading(where: str, advice: str = RESTORE) -> AbstractContextManager[None]:
    """Turn a file that cannot be read, or does not hold what it should, into a sentence that ends in the advice."""
    return _told(f"Cannot read {where}", where, advice, damage=_DAMAGE)


def reading_temporary(path: Path) -> AbstractContextManager[None]:
    """Turn the refusal to read a temporary file into a sentence."""
    return _told(f"Cannot read {path}", str(path), "Nothing was changed, and a later sync may succeed.")


@contextmanager
def _told(failure: str, where: str, advice: str, damage: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    refusal = None
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
    # Not within `except`: the error may hold what was read, and would be the context of this one.
    if refusal is not None:
        raise StoreError(f"{failure}: {refusal}. {advice}")


def _permission_advice(where: str) -> str:
    """Who may do it, and who asked: most often one run by root left files that the service user cannot use."""
    owner = "nobody"
    for path in (Path(where), *Path(where).parents):
        with suppress(OSError, KeyError):
            owner = f"user {path.stat().st_uid}"
            break
    return f"It belongs to {owner}, and this process runs as user {os.getuid()}: run as its owner, or change the owner."
