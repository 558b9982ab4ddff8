"""The answers kept as received, replayed into a fresh data root: what they give by today's rules.

What belongs here: the order of the replay, and what is said of it. What does not: any step of a tick (`tick`), which is
used as it is. The data root replayed is only read, without its lock: an answer that is kept never changes.

What a replay can show, and what not:

- Only answers whose bytes differed from the last ones are kept, each once. Those that repeated the one before did
  nothing but move `verified_at`; `latest.json` tells when the newest came last, so that it is replayed at that time as
  well, and `verified_at` ends the same. Had removals of a repeated answer been withheld, each repetition was judged
  anew, and withheld them again; that is replayed for the newest only.
- Removals that a person accepted are withheld again, for that word is in no answer: the replay differs by them.
- It begins with the oldest answer kept (`STOP_PIPELINE_RAW_DAYS`), so `first_seen_at` is never earlier than that.
- An answer that landed, but whose tick was killed before it was applied, is applied here.
- An answer that is refused is skipped, as its tick failed then, and named.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from stop_pipeline import tick
from stop_pipeline.errors import ApiError, ForeignListError, StoreError, UnreadableAnswerError
from stop_pipeline.files import writable
from stop_pipeline.guard import Guard
from stop_pipeline.model import Answer, RawFile
from stop_pipeline.store import Store


@dataclass(frozen=True)
class Rebuilt:
    """What the replay of one account gave.

    Attributes:
        account: Its name.
        replayed: How many answers went in.
        skipped: File name and reason of each answer that was refused.
        rows: Periods in the table.
        open_rows: Periods that have not ended.
    """

    account: str
    replayed: int
    skipped: tuple[tuple[str, str], ...]
    rows: int
    open_rows: int


def fresh_root(into: str | Path, source: Store) -> Store:
    """A store to replay into.

    Raises:
        StoreError: `into` exists and is not an empty folder, or lies within the data root replayed.
    """
    target = Store(into)
    if not target.files.is_unused():
        raise StoreError(f"{into} is not empty: name a folder that is, or does not exist yet.")
    if source.files.encloses(target.files):
        raise StoreError(f"{into} lies within the data root {source.root}: name a folder outside it.")
    return target


def rebuild(source: Store, into: Store, account: str, *, timezone: str) -> Rebuilt:
    """Replay every answer of `account` that `source` keeps, in order of fetch time, into `into`.

    Raises:
        StoreError: `source` keeps no answer of the account, or one of the two refuses.
    """
    answers = source.answers(account)
    if not answers:
        raise StoreError(f"No answer of the account “{account}” is kept below {source.files.shown('raw')}.")
    replays = [_Replayed(source, account, answer, answer.fetched_at) for answer in answers]
    newest = source.newest_answer(account)
    if newest is not None and newest.file == answers[-1].file and newest.fetched_at > answers[-1].fetched_at:
        replays.append(_Replayed(source, account, answers[-1], newest.fetched_at))
    skipped: dict[str, str] = {}
    rows = open_rows = 0
    for replayed in replays:
        try:
            applied = _tick(into, account, replayed, timezone)
            rows, open_rows = applied.state.figures.rows, applied.state.figures.open_rows
        except (ApiError, ForeignListError) as error:
            skipped[replayed.file] = str(error)
    return Rebuilt(account, len(answers) - len(skipped), tuple(skipped.items()), rows, open_rows)


def _tick(store: Store, account: str, replayed: "_Replayed", timezone: str) -> tick.Applied:
    tick.fetch(store, account, replayed, timezone=timezone)
    tick.parse_newest(store, account, timezone=timezone)
    applied = tick.apply_newest(store, account, Guard())
    tick.derive_suppression_list(store, account)
    tick.derive_stops_per_day(store, account)
    return applied


class _Replayed:
    """An answer that is kept, in place of the client that once fetched it."""

    secrets: tuple[str, ...] = ()

    def __init__(self, source: Store, account: str, answer: RawFile, fetched_at: datetime) -> None:
        self._source = source
        self._account = account
        self._answer = answer
        self._fetched_at = fetched_at

    @property
    def file(self) -> str:
        """Name of the file that holds it."""
        return self._answer.file

    def fetch(self, into: Path, progress: Callable[[int], None] | None = None) -> Answer:  # noqa: ARG002 – no download
        """Write the bytes, which must be those that landed, to a new file."""
        body = self._body()
        with writable(into):
            into.write_bytes(body)
        sha256 = hashlib.sha256(body).hexdigest()
        if not sha256.startswith(self._answer.sha256_start):
            raise UnreadableAnswerError("Its bytes are not those that landed: restore it from a backup.")
        return Answer(into, self._answer.format, self._fetched_at, sha256, len(body), seconds=0.0)

    def _body(self) -> bytes:
        try:
            return self._source.read_answer(self._account, self._answer.file)
        except StoreError as error:
            damage = str(error)
        raise UnreadableAnswerError(damage)
