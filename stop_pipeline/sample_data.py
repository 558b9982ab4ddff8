"""A data root for trying things out: an invented list that was fetched daily for some weeks."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import filelock

from stop_pipeline.errors import OutdatedListError, StoreError
from stop_pipeline.rebuild import replay
from stop_pipeline.settings import DEFAULT_ACCOUNT, PROVIDER_TIMEZONE, home_folder
from stop_pipeline.smspartner.sandbox import StopList
from stop_pipeline.sync import FetchedBefore, derive_tables
from stop_pipeline.table.reading import current_list
from stop_pipeline.table.store import Store

MARK = ".sample_data"
"""File that tells a folder of sample data, which may be removed, from any other."""
ROWS = 6_000
DAYS = 24
CHANGES_A_DAY = 3
MAX_AGE = timedelta(hours=12)  # `suppress` refuses a list that is a day old


def sample_root(folder: Path | None = None) -> Path:
    """A data root whose first sync was `DAYS` days ago and whose last was today.

    It is made in a few seconds, by default in `.stop_pipeline/sample_data` in the home folder, and made again in the
    same place when it is half a day old. It holds opt-outs that came and some that went; their phone numbers belong to
    nobody.

    Raises:
        StoreError: `folder` holds something else.
    """
    root = folder or home_folder() / ".stop_pipeline" / "sample_data"
    root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with filelock.FileLock(root.with_name(f".{root.name}.lock"), mode=0o600):
        try:
            current_list(root, DEFAULT_ACCOUNT, max_age=MAX_AGE)
        except OutdatedListError:  # or there is none that can be read
            if folder is not None and root.exists() and any(root.iterdir()) and not (root / MARK).exists():
                raise StoreError(
                    f"{root} holds other files: name a folder that is empty or does not exist yet."
                ) from None
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(mode=0o700)
            (root / MARK).touch()
            _make(Store(root))
    return root


def _make(store: Store) -> None:
    now = datetime.now(ZoneInfo(PROVIDER_TIMEZONE))
    times = [now - timedelta(days=ago) for ago in range(DAYS, -1, -1)]
    stop_list = StopList(ROWS, until=times[0].date())
    for time in times:
        bodies = [stop_list.next_response("json", today=time.date()) for _ in range(CHANGES_A_DAY)]
        response = FetchedBefore(bodies[-1], time.astimezone(UTC))
        replay(store, DEFAULT_ACCOUNT, response, timezone=PROVIDER_TIMEZONE)
    derive_tables(store, DEFAULT_ACCOUNT)
