"""The lock that lets one process at a time write an account."""

import logging
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import filelock

from stop_pipeline.errors import StoreError

log = logging.getLogger(__name__)


class AccountLock:
    """A file lock that says who holds it. The system frees the lock of a process that dies.

    Args:
        folder: Folder on the local disk that holds the lock.
        account: Account name.
    """

    def __init__(self, folder: Path, account: str) -> None:
        self._account = account
        self._lock = filelock.FileLock(folder / f"account={account}.lock", mode=0o600)
        self._holder = folder / f"account={account}.holder"

    def acquire(self, timeout_seconds: float) -> None:
        """Take the lock; a wait is logged with the process that holds it.

        Raises:
            StoreError: it was not free within `timeout_seconds`.
            OSError: the folder cannot be written.
        """
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            self._wait(timeout_seconds)
        try:
            self._holder.touch(mode=0o600)
            self._holder.write_text(f"process {os.getpid()} (since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC)")
        except OSError:
            self._lock.release()
            raise

    def release(self) -> None:
        """Let the next process in."""
        self._lock.release()

    def _wait(self, timeout_seconds: float) -> None:
        holder = "another process"
        with suppress(OSError):
            holder = self._holder.read_text() or holder
        log.warning("Account %s: waiting for %s, which is syncing it", self._account, holder)
        expired = False
        try:
            self._lock.acquire(timeout=timeout_seconds)
        except filelock.Timeout:
            expired = True
        if expired:
            raise StoreError(
                f"The account “{self._account}” has been locked by {holder} for {timeout_seconds:g} s: wait for that "
                f"process to end, or end it, and run again (lock: {self._lock.lock_file})."
            )
