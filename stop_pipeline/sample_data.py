"""A data root for trying things out: an invented list that was fetched daily for some weeks."""

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import filelock

from stop_pipeline import sync
from stop_pipeline.errors import StoreError
from stop_pipeline.settings import DEFAULT_ACCOUNT, PROVIDER_TIMEZONE
from stop_pipeline.smspartner.sandbox import StopList
from stop_pipeline.table.merge import RemovalPolicy
from stop_pipeline.table.store import Store

ROWS = 6_000
DAYS = 24
CHANGES_A_DAY = 3
MAX_AGE = timedelta(hours=12)  # `suppress` refuses a list that is a day old


def sample_root(folder: Path | None = None) -> Path:
    """A data root whose first sync was `DAYS` days ago and whose last was today.

    It is made in a few seconds, by default in `.stop_pipeline/sample_data` in the home folder, and made again in the
    same place when it is half a day old. It holds opt-outs that came and some that went; their phone numbers belong to
    nobody.
    """
    root = folder or Path.home() / ".stop_pipeline" / "sample_data"
    root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with filelock.FileLock(root.with_name(f".{root.name}.lock"), mode=0o600):
        if not _is_recent(Store(root)):
            shutil.rmtree(root, ignore_errors=True)
            _make(Store(root))
    return root


def _is_recent(store: Store) -> bool:
    try:
        verified_at = store.state(DEFAULT_ACCOUNT).verified_at
    except StoreError:
        return False
    return verified_at is not None and timedelta(0) <= datetime.now(UTC) - verified_at < MAX_AGE


def _make(store: Store) -> None:
    now = datetime.now(UTC)
    times = [now - timedelta(days=ago) for ago in range(DAYS, -1, -1)]
    stop_list = StopList(ROWS, until=_day(times[0]))
    for fetched_at in times:
        bodies = [stop_list.next_response("json", today=_day(fetched_at)) for _ in range(CHANGES_A_DAY)]
        sync.fetch(store, DEFAULT_ACCOUNT, sync.FetchedBefore(bodies[-1], fetched_at))
        sync.parse(store, DEFAULT_ACCOUNT, timezone=PROVIDER_TIMEZONE)
        sync.merge(store, DEFAULT_ACCOUNT, RemovalPolicy())
    sync.derive_suppression_list(store, DEFAULT_ACCOUNT)
    sync.derive_stops_per_day(store, DEFAULT_ACCOUNT)


def _day(time: datetime) -> date:
    return time.astimezone(ZoneInfo(PROVIDER_TIMEZONE)).date()
