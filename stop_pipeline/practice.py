"""A data root with a past, for whoever has none yet: the stand-in's list, fetched daily for some weeks.

What belongs here: which answers there were, and when. What does not: the list itself (`sandbox`), and how answers
become tables, for which they are replayed (`rebuild`).
"""

import hashlib
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from stop_pipeline.model import Answer
from stop_pipeline.rebuild import rebuild
from stop_pipeline.sandbox import StopList
from stop_pipeline.settings import DEFAULT_ACCOUNT, PROVIDER_TIMEZONE
from stop_pipeline.store import Store

ROWS = 6_000
DAYS = 24
CHANGES_A_DAY = 3
"""How often the list lives on between two fetches."""


def practice_root(*, now: datetime | None = None) -> Path:
    """A new data root in a temporary folder, whose last tick was now and whose first was `DAYS` days ago.

    It holds opt-outs that came and some that went, of numbers that are nobody's. It takes some seconds to make.
    """
    folder = Path(tempfile.mkdtemp(prefix="stop-pipeline-"))
    last = now or datetime.now(UTC)
    times = [last - timedelta(days=ago) for ago in range(DAYS, -1, -1)]
    answers = Store(folder / "answers")
    stop_list = StopList(ROWS, until=times[0].astimezone(ZoneInfo(PROVIDER_TIMEZONE)).date())
    with answers.locked(DEFAULT_ACCOUNT):
        for fetched_at in times:
            answers.land(DEFAULT_ACCOUNT, _answer(answers, stop_list, fetched_at))
    root = folder / "data"
    rebuild(answers, Store(root), DEFAULT_ACCOUNT, timezone=PROVIDER_TIMEZONE)
    return root


def _answer(answers: Store, stop_list: StopList, fetched_at: datetime) -> Answer:
    """What the list answered at that time, as the client would hand it over."""
    today = fetched_at.astimezone(ZoneInfo(PROVIDER_TIMEZONE)).date()
    body = b"".join([stop_list.answer("json", today=today) for _ in range(CHANGES_A_DAY)][-1])
    path = answers.temporary(DEFAULT_ACCOUNT)
    path.write_bytes(body)
    return Answer(path, "json", fetched_at, hashlib.sha256(body).hexdigest(), len(body), seconds=0.0)
