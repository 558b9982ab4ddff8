"""One tick, step by step, without Dagster.

What belongs here: for each asset whether there is anything to do, under the account's lock, and what the step reports.
What does not: doing it (`engine`, which is loaded where something changed, and Arrow with it) and how it is shown
(`defs`).

Each step can be repeated, or killed at any point, and run again: it looks at what is on disk, not at who called it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from stop_pipeline.errors import KeyRefusedError, StoreError
from stop_pipeline.guard import Guard
from stop_pipeline.model import Answer, Counts, Landed, SnapshotChange, SnapshotInfo, State
from stop_pipeline.schema import STOPS_PER_DAY, SUPPRESSION_LIST, TableSchema
from stop_pipeline.settings import key_variable
from stop_pipeline.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

PROGRESS_BYTES = 20_000_000
"""How often a long download says how far it has come."""


class Client(Protocol):
    """What a tick needs of `client.StopListClient`."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The spellings of the API key, to be struck from whatever is shown."""

    def fetch(self, into: Path, progress: Callable[[int], None] | None = None) -> Answer:
        """Get the whole list into a new file."""


Outcome = Literal["applied", "recognised", "older"]


@dataclass(frozen=True)
class Fetched:
    """What `fetch` did: the answer, and how it stands to those landed before.

    Attributes:
        answer: As the client gave it; its path is gone by now.
        landed: The newest answer on disk.
        changed: Whether its bytes differ from the last ones landed.
        in_order: False if an answer fetched at the same time or later is landed already; then this one was not.
    """

    answer: Answer
    landed: Landed
    changed: bool
    in_order: bool


@dataclass(frozen=True)
class Parsed:
    """What `parse_newest` did: the snapshot on disk, and whether it had to be parsed for that."""

    info: SnapshotInfo
    parsed: bool


@dataclass(frozen=True)
class Applied:
    """What `apply_newest` did.

    Attributes:
        info: The snapshot that was looked at.
        state: The commit that stands now.
        outcome: “applied”; “recognised”, if it was the answer applied last; “older”, if it came before that one.
        counts: What this tick did; nothing, unless it applied the answer.
        months_written: Months whose file was written.
    """

    info: SnapshotInfo
    state: State
    outcome: Outcome
    counts: Counts
    months_written: tuple[str, ...]


@dataclass(frozen=True)
class Derived:
    """What a derived table is now.

    Attributes:
        commit: The commit that it is made from.
        applied_at: Fetch time of that commit's answer.
        rows: How many it holds.
        remade: Whether it had to be remade for the commit.
        read: Gives the table; from memory, if it was remade.
    """

    commit: str
    applied_at: datetime
    rows: int
    remade: bool
    read: Callable[[], pa.Table]


_just_judged: dict[tuple[str, datetime, str], SnapshotChange] = {}
"""The answer that `fetch` parsed to judge it, so that `parse_newest` in the same process need not parse it again."""

_just_parsed: dict[tuple[str, str], pa.Table] = {}
"""The months that `parse_newest` wrote, by time zone and fingerprint: `apply_newest` need not read them again."""


def fetch(store: Store, account: str, client: Client, *, timezone: str) -> Fetched:
    """Get the list and land it, once it is known to be one.

    Raises:
        KeyRefusedError: the API key is refused; the message names its variable.
        ApiError: there was no list, or not a readable one; nothing was landed.
        StoreError: the data root refuses.
    """
    with store.locked(account):
        answer = _request(client, store.temporary(account), account)
        newest = store.newest_answer(account)
        if newest is not None and answer.fetched_at <= newest.fetched_at:
            log.warning(
                "Account %s: this answer was fetched at %s, no later than the one of %s, and is left out; "
                "look at this machine's clock.",
                account,
                answer.fetched_at,
                newest.fetched_at,
            )
            return Fetched(answer, newest, changed=False, in_order=False)
        changed = newest is None or newest.sha256 != answer.sha256
        compressed = None
        if changed:
            from stop_pipeline import engine

            compressed, change = engine.judge_answer(
                store, account, answer, newest, timezone=timezone, secrets=client.secrets
            )
            _just_judged.clear()
            _just_judged[answer.sha256, answer.fetched_at, timezone] = change
        landed = store.land(account, answer, compressed)
    log.info("Account %s: fetched %s bytes in %.2f s", account, f"{answer.size_bytes:,}", answer.seconds)
    return Fetched(answer, landed, changed=changed, in_order=True)


def parse_newest(store: Store, account: str, *, timezone: str) -> Parsed:
    """Parse the newest answer landed, unless that is what the snapshot is already.

    What counts as a usable date depends on when an answer was fetched. One that is applied already is read as it was
    then, any other as of its own fetch time: so the snapshot never depends on a tick that was killed in between.

    Raises:
        UnreadableAnswerError: it is no such document.
        StoreError: no answer has landed yet, or the data root refuses.
    """
    with store.locked(account):
        landed = store.newest_answer(account)
        if landed is None:
            raise StoreError(f"No answer of the account “{account}” has landed yet: materialise raw_stop_list first.")
        read_as_of = _applied_as_of(store.state(account), landed, timezone) or landed.fetched_at
        info = store.snapshot_info(account)
        if info is not None and (info.sha256, info.timezone, info.fetched_at) == (landed.sha256, timezone, read_as_of):
            return Parsed(dataclasses.replace(info, fetched_at=landed.fetched_at), parsed=False)
        change = _just_judged.pop((landed.sha256, read_as_of, timezone), None)
        if change is None or change.before not in (None, info):
            from stop_pipeline import engine

            change = engine.parse_landed(store, account, landed, fetched_at=read_as_of, timezone=timezone)
        info = store.tables.write_snapshot(account, change)
        _just_parsed.clear()
        written = ((info.months.get(month), rows) for month, rows in change.months.items())
        _just_parsed.update({(timezone, fingerprint): rows for fingerprint, rows in written if fingerprint})
    log.info("Account %s: parsed %s rows, %s malformed", account, f"{info.rows:,}", f"{info.rejected:,}")
    return Parsed(dataclasses.replace(info, fetched_at=landed.fetched_at), parsed=True)


def apply_newest(store: Store, account: str, guard: Guard, *, raw_days: int | None = None) -> Applied:
    """Bring the newest snapshot into `stops` and `rejected`, commit, and let old answers go.

    Args:
        store: Where.
        account: Whose.
        guard: What may be taken away.
        raw_days: For how many days before the commit answers are kept as received; None keeps them all.

    Raises:
        ForeignListError: the list is likely another account's; nothing was changed.
        StoreError: no answer is parsed yet, or the data root refuses.
    """
    with store.locked(account):
        info = _newest_snapshot(store, account)
        state = store.take_back(account, store.state(account))
        settings = (("timezone", info.timezone), ("max_removed_share", repr(guard.max_removed_share)))
        outcome: Outcome = "recognised"
        counts = Counts(listed=info.listed, unchanged=info.listed)
        months_written: tuple[str, ...] = ()
        if _is_known(state, info):
            log.info("Account %s: this answer is applied already", account)
            if guard.accept_removals is not None and state.withheld_because is not None:
                log.warning(
                    "Account %s: what was withheld is accepted with the next answer: materialise all assets.",
                    account,
                )
        elif not _is_newer(state, info):
            outcome, counts = "older", Counts()
            log.warning(
                "Account %s: the answer fetched at %s is no later than the one applied, and is left out.",
                account,
                info.fetched_at,
            )
        elif _is_same_answer(state, info, settings):
            log.info("Account %s: the list is unchanged", account)
            if state.whole:
                state = dataclasses.replace(state, verified_at=info.fetched_at)
                store.write_state(account, state)
        else:
            from stop_pipeline import engine

            outcome = "applied"
            parsed = {
                fingerprint: rows for (zone, fingerprint), rows in list(_just_parsed.items()) if zone == info.timezone
            }
            _just_parsed.clear()  # the only reference from now on is one that is let go of month by month
            state, months_written = engine.apply(store, account, state, info, guard, settings, parsed=parsed)
            counts = state.counts
        if raw_days is not None:
            _forget_old_answers(store, account, state, timedelta(days=raw_days))
        _just_parsed.clear()
        return Applied(info, state, outcome, counts, months_written)


def derive_suppression_list(store: Store, account: str) -> Derived:
    """Remake `suppression_list` if its commit is not the one that stands.

    Raises:
        StoreError: nothing is committed yet, or the data root refuses.
    """
    return _derive(store, account, SUPPRESSION_LIST)


def derive_stops_per_day(store: Store, account: str) -> Derived:
    """Remake `stops_per_day` if its commit is not the one that stands.

    Raises:
        StoreError: nothing is committed yet, or the data root refuses.
    """
    return _derive(store, account, STOPS_PER_DAY)


def read_since_first_load(store: Store, account: str) -> tuple[pa.Table, datetime]:
    """The periods that tell how long opt-outs took to be listed; see `engine.since_first_load`.

    Raises:
        StoreError: nothing is committed yet, or the data root refuses.
    """
    from stop_pipeline import engine

    with store.locked(account):
        state = store.state(account)
        _, applied_at = _committed(state, account)
        return engine.since_first_load(store, account, state, applied_at)


def _committed(state: State, account: str) -> tuple[str, datetime]:
    """The commit and its fetch time."""
    if state.commit is None or state.applied_at is None:
        raise StoreError(f"Nothing is committed yet for the account “{account}”: materialise stops first.")
    return state.commit, state.applied_at


def _request(client: Client, into: Path, account: str) -> Answer:
    shown = 0

    def progress(size_bytes: int) -> None:
        nonlocal shown
        if size_bytes - shown >= PROGRESS_BYTES:
            shown = size_bytes
            log.info("Account %s: fetching, %d MB so far", account, size_bytes // 1_000_000)

    log.info("Account %s: fetching the list", account)
    try:
        return client.fetch(into, progress)
    except KeyRefusedError as error:
        failure = KeyRefusedError(
            f"{error} The key of the account “{account}” is read from {key_variable(account)}, or from "
            "SMSPARTNER_ACCOUNTS_FILE where that is set."
        )
    raise failure


def _applied_as_of(state: State, landed: Landed, timezone: str) -> datetime | None:
    """When the answer was applied, if it is the one applied last and nothing of it is left undone."""
    done = state.withheld_because is None and ("timezone", timezone) in state.settings
    return state.applied_at if done and state.sha256 == landed.sha256 else None


def _newest_snapshot(store: Store, account: str) -> SnapshotInfo:
    """What the snapshot is, with the time at which its bytes were last fetched."""
    info = store.snapshot_info(account)
    if info is None:
        raise StoreError(f"No answer of the account “{account}” is parsed yet: materialise stop_snapshot first.")
    landed = store.newest_answer(account)
    if landed is not None and landed.sha256 == info.sha256:
        return dataclasses.replace(info, fetched_at=max(info.fetched_at, landed.fetched_at))
    return info


def _is_known(state: State, info: SnapshotInfo) -> bool:
    """Whether this very answer was applied or recognised before: the step is being repeated."""
    return state.sha256 == info.sha256 and info.fetched_at in (state.applied_at, state.verified_at)


def _is_newer(state: State, info: SnapshotInfo) -> bool:
    return all(info.fetched_at > time for time in (state.applied_at, state.verified_at) if time is not None)


def _is_same_answer(state: State, info: SnapshotInfo, settings: tuple[tuple[str, str], ...]) -> bool:
    """Whether applying the answer could change nothing: the same bytes and settings, and nothing left undone."""
    return state.sha256 == info.sha256 and state.settings == settings and state.withheld_because is None


def _forget_old_answers(store: Store, account: str, state: State, kept_for: timedelta) -> None:
    """Remove answers landed longer than `kept_for` before the last one that was applied or recognised.

    Never the newest landed, and never the one that the commit was made from. A disk that refuses is a warning: the
    commit stands, and the tables made from it must not wait for this.
    """
    last = max((time for time in (state.applied_at, state.verified_at) if time), default=None)
    try:
        newest, answers = store.newest_answer(account), store.answers(account)
        committed = [answer.file for answer in answers if state.sha256 and state.sha256.startswith(answer.sha256_start)]
        kept = {newest and newest.file, *committed[-1:]}
        for answer in answers:
            if last is not None and last - answer.fetched_at > kept_for and answer.file not in kept:
                store.forget_answer(account, answer)
    except StoreError as error:
        log.warning("Account %s: an answer past its time stays. %s", account, error)


def _derive(store: Store, account: str, schema: TableSchema) -> Derived:
    def stored() -> pa.Table:
        return store.tables.read_derived(schema, account)

    with store.locked(account):
        state = store.state(account)
        commit, applied_at = _committed(state, account)
        made = store.derived(schema, account)
        if made is not None and made.commit == commit:
            return Derived(commit, applied_at, made.rows, remade=False, read=stored)
        from stop_pipeline import engine

        table = engine.derive_table(schema, store, account, state, made.commit if made else None)
        store.tables.write_derived(schema, account, table, commit)
        return Derived(commit, applied_at, table.num_rows, remade=True, read=lambda: table)
