"""One tick, step by step, without Dagster.

What belongs here: the order in which the rooms are called for each asset, under the account's lock, and what each step
reports. What does not: the work itself (`client`, `snapshot`, `merge`, `derive`, `store`) and how it is shown (`defs`).

Each step can be repeated, or killed at any point, and run again: it looks at what is on disk, not at who called it.
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from stop_pipeline import derive
from stop_pipeline.columns import in_one
from stop_pipeline.difference import Before, CannotTellError, difference, shared_pieces
from stop_pipeline.errors import ApiError, KeyRefusedError, StoreError
from stop_pipeline.files import readable
from stop_pipeline.frames import Kept
from stop_pipeline.merge import Guard, MonthChange, bring_in, compare_month, judge, merge_rejected
from stop_pipeline.model import (
    Answer,
    Counts,
    Figures,
    Landed,
    Pending,
    Snapshot,
    SnapshotChange,
    SnapshotInfo,
    State,
    commit_time,
)
from stop_pipeline.periods import as_committed, is_after, open_rows, split_by_month
from stop_pipeline.pieces import Piece, named
from stop_pipeline.schema import STOPS, STOPS_PER_DAY, SUPPRESSION_LIST, TableSchema
from stop_pipeline.settings import key_variable
from stop_pipeline.snapshot import READER, parse
from stop_pipeline.store import MonthInfo, Store, any_held, figures_of
from stop_pipeline.threads import in_threads

log = logging.getLogger(__name__)

PROGRESS_BYTES = 20_000_000
"""How often a long download says how far it has come."""

_FEW_ROWS = 10_000
"""Up to so many, rows are put into the list number by number; beyond, it is made anew."""


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
            compressed, change = _judge(store, account, answer, newest, timezone=timezone, secrets=client.secrets)
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
            change = _parse_landed(store, account, landed, fetched_at=read_as_of, timezone=timezone)
        info = store.write_snapshot(account, change)
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
            outcome = "applied"
            state, months_written = _apply(store, account, state, info, guard, settings)
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
    return _derive(store, account, SUPPRESSION_LIST, _suppression_list)


def derive_stops_per_day(store: Store, account: str) -> Derived:
    """Remake `stops_per_day` if its commit is not the one that stands.

    Raises:
        StoreError: nothing is committed yet, or the data root refuses.
    """
    return _derive(store, account, STOPS_PER_DAY, _stops_per_day)


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


def _judge(
    store: Store, account: str, answer: Answer, newest: Landed | None, *, timezone: str, secrets: Collection[str]
) -> tuple[Path, SnapshotChange]:
    """Compress an answer and parse it, as far as the newest one landed does not tell."""
    with readable(answer.path, damage=()):
        pieces = named(answer.path, answer.format)

        def parsed(chosen: Sequence[Piece]) -> Snapshot:
            return parse(
                answer.path,
                answer.format,
                fetched_at=answer.fetched_at,
                timezone=timezone,
                pieces=[piece.span for piece in chosen],
                secrets=secrets,
            )

        kept = nullcontext() if newest is None else store.kept(account, newest)
        # Compressing takes half as long as parsing, and another processor.
        with kept as known, ThreadPoolExecutor(1) as pool:
            compressing = pool.submit(store.compress, account, answer, pieces, known)
            change = None
            if newest is not None and known is not None:
                change = _change(store, account, answer, pieces, (newest, known), parsed, timezone=timezone)
            if change is None:
                change = _all_new(answer, parsed(pieces), timezone)
            return compressing.result(), change


def _change(
    store: Store,
    account: str,
    answer: Answer,
    pieces: Sequence[Piece],
    before: tuple[Landed, Kept],
    parsed: Callable[[Sequence[Piece]], Snapshot],
    *,
    timezone: str,
) -> SnapshotChange | None:
    """What an answer makes of the snapshot of the one before, by the pieces that differ; None if they do not tell."""
    newest, known = before
    try:
        info = store.snapshot_info(account)
        if info is None or (info.sha256, info.timezone, info.pieces_read_by) != (newest.sha256, timezone, READER):
            return None
        list_start, list_end = info.list_at or (0, 0)
        known_pieces = [frame.piece for frame in known.frames]
        within = [piece.name for piece in known_pieces if list_start <= piece.span[0] and piece.span[1] < list_end]
        shared = shared_pieces(within, [piece.name for piece in pieces])
        differing = [piece for piece in pieces if piece.name not in shared]
        if sum(end - start for start, end in (piece.span for piece in differing)) > answer.size_bytes // 2:
            return None  # both parts would be as long as the whole
        now = parsed(differing)
        path, spans = store.unpack_pieces(account, known, shared)
        with readable(path, damage=()):
            left = parse(path, newest.format, fetched_at=info.fetched_at, timezone=timezone, pieces=spans)
        snapshot = Before(
            info,
            store.read_malformed(account),
            listed=lambda month: store.read_listed(account, info, month),
            lists_any=lambda ids: store.lists_any(account, info, ids),
        )
        return difference(snapshot, left, now, _info(answer, now, timezone))
    except (CannotTellError, StoreError, ApiError):
        # Whatever is damaged, on disk or in the answer: all of it is to be parsed.
        return None


def _parse_landed(store: Store, account: str, landed: Landed, *, fetched_at: datetime, timezone: str) -> SnapshotChange:
    """Parse an answer that has landed, piece by piece as it is kept."""
    path = store.unpack(account, landed)
    with store.kept(account, landed) as known:
        pieces = [frame.piece.span for frame in known.frames] if known and known.frames else None
    with readable(path, damage=()):
        snapshot = parse(path, landed.format, fetched_at=fetched_at, timezone=timezone, pieces=pieces)
    return _all_new(dataclasses.replace(landed, fetched_at=fetched_at), snapshot, timezone)


def _all_new(answer: Answer | Landed, snapshot: Snapshot, timezone: str) -> SnapshotChange:
    """The snapshot of an answer that was parsed whole, whatever lies on disk."""
    months = dict(split_by_month(snapshot.listed))
    return SnapshotChange(None, _info(answer, snapshot, timezone), months, snapshot.rejected)


def _info(answer: Answer | Landed, snapshot: Snapshot, timezone: str) -> SnapshotInfo:
    return SnapshotInfo.of(
        snapshot,
        fetched_at=answer.fetched_at,
        sha256=answer.sha256,
        size_bytes=answer.size_bytes,
        timezone=timezone,
    )


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


def _apply(
    store: Store,
    account: str,
    state: State,
    info: SnapshotInfo,
    guard: Guard,
    settings: tuple[tuple[str, str], ...],
) -> tuple[State, tuple[str, ...]]:
    """Merge, write what changed, commit; gives the new state and the months written."""
    stored = store.months(account)
    months = info.months.keys() | {month for month, stood in stored.items() if stood.open_rows}
    same = {month for month in months if month in stored and stored[month].fingerprint == info.months.get(month)}
    # Months are read anew to be written: in memory at once there is what changes, and not what stays.
    differing = sorted(months - same)

    def known(month: str) -> pa.Table:
        return store.read_month(account, month) if month in stored else STOPS.empty

    def compared(month: str) -> MonthChange:
        rows = _just_parsed.pop((info.timezone, info.months.get(month, "")), None)
        listed = store.read_listed(account, info, month) if rows is None else rows
        return compare_month(known(month), listed)

    changes = dict(zip(differing, in_threads(compared, differing), strict=True))
    verdict = judge(
        list(changes.values()),
        unchanged_elsewhere=sum(stored[month].open_rows for month in same),
        whole=info.whole,
        guard=guard,
        withheld_from=state.withheld_from,
    )
    changed_months = tuple(month for month, change in changes.items() if verdict.alters(change))
    known_rejected = store.read_rejected(account)
    rejected = merge_rejected(
        known_rejected,
        store.read_malformed(account),
        fetched_at=info.fetched_at,
        sha256=info.sha256,
        removals_withheld=not info.whole or verdict.withheld_because is not None,
    )
    rejected_changed = not rejected.equals(known_rejected)

    if changed_months or rejected_changed:
        store.write_state(account, dataclasses.replace(state, pending=Pending(info.fetched_at, changed_months)))

    def periods(month: str) -> pa.Table:
        return bring_in(known(month), changes.pop(month), verdict, fetched_at=info.fetched_at)

    store.write_months(account, changed_months, periods)
    if rejected_changed:
        store.write_rejected(account, rejected)
    committed = State(
        applied_at=info.fetched_at,
        parent=state.commit,
        sha256=info.sha256,
        whole=info.whole,
        verified_at=info.fetched_at if info.whole else state.verified_at,
        rows=info.rows,
        rejected=info.rejected,
        duplicates=info.duplicates,
        counts=verdict.counts,
        figures=_figures(stored | store.months(account, only=changed_months), store, account, info),
        withheld_because=verdict.withheld_because,
        withheld_from=verdict.withheld_from,
        accepted_removals=guard.accept_removals,
        settings=settings,
    )
    store.write_state(account, committed)
    log.info(
        "Account %s: %s listed, %s new, %s removed, %d months written",
        account,
        f"{verdict.counts.listed:,}",
        f"{verdict.counts.new:,}",
        f"{verdict.counts.removed:,}",
        len(changed_months),
    )
    return committed, changed_months


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


def _figures(stored: Mapping[str, MonthInfo], store: Store, account: str, info: SnapshotInfo) -> Figures:
    """Take the figures of the table from what its files tell, not from what was meant to be written.

    Where every month's open rows are those of the snapshot, which has each id once, no id can be open twice; only
    otherwise, while something is withheld, need the ids be read.
    """
    as_listed = {month: stood.fingerprint for month, stood in stored.items() if stood.open_rows} == info.months
    doubled = 0
    if not as_listed:
        columns = store.stops_columns(account, ("id", "removed_at"))
        ids = open_rows(columns)["id"]
        doubled = len(ids) - pc.count_distinct(ids).as_py()
    return figures_of(stored, doubled_open_ids=doubled)


def _derive(
    store: Store, account: str, schema: TableSchema, make: Callable[[Store, str, State, str | None], pa.Table]
) -> Derived:
    with store.locked(account):
        state = store.state(account)
        commit, applied_at = state.commit, state.applied_at
        if commit is None or applied_at is None:
            raise StoreError(f"Nothing is committed yet for the account “{account}”: materialise stops first.")
        made_from = store.derived_commit(schema, account)
        if made_from == commit:
            rows = store.derived_rows(schema, account)
            return Derived(commit, applied_at, rows, remade=False, read=lambda: store.read_derived(schema, account))
        table = make(store, account, state, made_from)
        store.write_derived(schema, account, table, commit)
        return Derived(commit, applied_at, table.num_rows, remade=True, read=lambda: table)


def _suppression_list(store: Store, account: str, state: State, made_from: str | None) -> pa.Table:
    """From the list of the commit before, if that is what lies there and few rows were first seen or ended since."""
    columns = ["phone_number", "created_at"]
    rejected = as_committed(store.read_rejected(account), state.applied_at)
    if state.parent is not None and made_from == state.parent:
        since = commit_time(state.parent)
        stops_since, stops_ended = _since(_changed_months(store, account, state, store.months(account), since), since)
        rejected_since, rejected_ended = _since(rejected, since)
        numbers = [*stops_ended["phone_number"].chunks, *rejected_ended["phone_number"].chunks]
        ended = pc.unique(pa.chunked_array(numbers, pa.string())).drop_null()
        if len(stops_since) + len(rejected_since) + len(ended) <= _FEW_ROWS:
            of_ended = rejected.filter(pc.is_in(rejected["phone_number"], value_set=ended))
            rejected_since = pa.concat_tables([_without(rejected_since, ended), of_ended])
            if len(ended):
                of_ended = _committed(store, account, state, columns, numbers=ended)
                stops_since = pa.concat_tables([_without(stops_since, ended).select(of_ended.column_names), of_ended])
            before = store.read_derived(SUPPRESSION_LIST, account)
            return derive.updated_suppression_list(before, ended, stops_since, rejected_since)
    return derive.suppression_list(_committed(store, account, state, columns), rejected)


def _stops_per_day(store: Store, account: str, state: State, made_from: str | None) -> pa.Table:
    """From the counts of the commit before, if that is what lies there and no id first seen since was listed before."""
    columns = ["id", "country", "created_at_local"]
    if state.parent is not None and made_from == state.parent:
        since = commit_time(state.parent)
        months = store.months(account)
        changed = _changed_months(store, account, state, months, since)
        began, _ = _since(changed, since)
        id_ranges = {month: stored.id_range for month, stored in months.items() if stored.changed_at <= since}
        ids = in_one(began["id"])
        known = _any_known(changed, since, ids)
        if not (known or any_held(ids, id_ranges, lambda month: store.read_month(account, month))):
            before = store.read_derived(STOPS_PER_DAY, account)
            return derive.updated_stops_per_day(before, began.select([*columns, "first_seen_at"]))
    return derive.stops_per_day(_committed(store, account, state, columns))


def _changed_months(
    store: Store, account: str, state: State, months: Mapping[str, MonthInfo], since: datetime
) -> pa.Table:
    """The committed periods of the months that were changed after a commit.

    Not by the last tick alone: the months may hold more than the commit's derived tables know of, where a backup
    brought back an older commit than theirs.
    """
    changed = [month for month, stored in months.items() if stored.changed_at > since]
    periods = [as_committed(store.read_month(account, month), state.applied_at) for month in changed]
    return pa.concat_tables([STOPS.empty, *periods])


def _since(periods: pa.Table, commit: datetime) -> tuple[pa.Table, pa.Table]:
    """The periods first seen after a commit, and those that it knew and that have ended after it."""
    began, ended = (is_after(periods[name], commit) for name in ("first_seen_at", "removed_at"))
    return periods.filter(began), periods.filter(pc.and_not(ended, began))


def _without(periods: pa.Table, numbers: pa.Array) -> pa.Table:
    return periods.filter(pc.invert(pc.is_in(periods["phone_number"], value_set=numbers)))


def _any_known(periods: pa.Table, commit: datetime, ids: pa.Array) -> bool:
    """Whether a commit knew a period of any of these ids."""
    known = periods.filter(pc.invert(is_after(periods["first_seen_at"], commit)))
    return bool(pc.any(pc.is_in(known["id"], value_set=ids)).as_py())


def _committed(
    store: Store, account: str, state: State, columns: list[str], *, numbers: pa.Array | None = None
) -> pa.Table:
    """Periods through the commit: a tick that was killed may have left rows behind that the next one takes back.

    Args:
        store: Where.
        account: Whose.
        state: Its commit.
        columns: Which columns, beside those of the period.
        numbers: Only of rows with one of these numbers.
    """

    def committed(periods: pa.Table) -> pa.Table:
        if numbers is not None:
            periods = periods.filter(pc.is_in(periods["phone_number"], value_set=numbers))
        return as_committed(periods, state.applied_at)

    return store.stops_columns(account, (*columns, "first_seen_at", "removed_at"), each=committed)
