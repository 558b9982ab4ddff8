"""What a tick does where something changed: parsing, merging, deriving.

What belongs here: how the rooms work together on an answer, a snapshot or a commit that is new, under the account's
lock. What does not: whether there is anything to do (`tick`), and the work itself (`snapshot`, `difference`, `merge`,
`derive`, `tables`).
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from stop_pipeline import derive
from stop_pipeline.columns import in_one
from stop_pipeline.difference import Before, CannotTellError, difference, shared_pieces
from stop_pipeline.errors import ApiError, StoreError
from stop_pipeline.files import readable
from stop_pipeline.frames import Kept
from stop_pipeline.guard import Guard
from stop_pipeline.merge import MonthChange, bring_in, compare_month, judge, merge_rejected
from stop_pipeline.model import (
    Answer,
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
from stop_pipeline.snapshot import READER, parse
from stop_pipeline.store import Store
from stop_pipeline.tables import MonthInfo, any_held, figures_of, may_hold
from stop_pipeline.threads import in_threads

log = logging.getLogger(__name__)

_just_committed: dict[tuple[str, str, str | None], Mapping[str, MonthInfo]] = {}
"""What the months of the last commit hold, by data root, account and commit, so that whatever is made of it in the same
process need not look at every file again."""

_FEW_ROWS = 10_000
"""Up to so many, rows are put into the list number by number; beyond, it is made anew."""


def judge_answer(
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
            store.tables.read_malformed(account),
            listed=lambda month: store.tables.read_listed(account, info, month),
            lists_any=lambda ids: store.tables.lists_any(account, info, ids),
        )
        return difference(snapshot, left, now, _info(answer, now, timezone))
    except (CannotTellError, StoreError, ApiError):
        # Whatever is damaged, on disk or in the answer: all of it is to be parsed.
        return None


def parse_landed(store: Store, account: str, landed: Landed, *, fetched_at: datetime, timezone: str) -> SnapshotChange:
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


def apply(
    store: Store,
    account: str,
    state: State,
    info: SnapshotInfo,
    guard: Guard,
    settings: tuple[tuple[str, str], ...],
    *,
    parsed: dict[str, pa.Table],
) -> tuple[State, tuple[str, ...]]:
    """Merge, write what changed, commit; gives the new state and the months written.

    Args:
        store: Where.
        account: Whose.
        state: The commit that stands.
        info: The snapshot to be merged.
        guard: What may be taken away.
        settings: Those that bear on the result.
        parsed: Months of the snapshot that are in memory, by fingerprint: they are taken from here, and not read.

    Raises:
        ForeignListError: the list is likely another account's; nothing was changed.
        StoreError: the data root refuses.
    """
    stored = store.tables.months(account)
    months = info.months.keys() | {month for month, stood in stored.items() if stood.open_rows}
    same = {month for month in months if month in stored and stored[month].fingerprint == info.months.get(month)}
    # Months are read anew to be written: in memory at once there is what changes, and not what stays.
    differing = sorted(months - same)

    def known(month: str) -> pa.Table:
        return store.tables.read_month(account, month) if month in stored else STOPS.empty

    def compared(month: str) -> MonthChange:
        rows = parsed.pop(info.months.get(month, ""), None)
        listed = store.tables.read_listed(account, info, month) if rows is None else rows
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
    known_rejected = store.tables.read_rejected(account)
    rejected = merge_rejected(
        known_rejected,
        store.tables.read_malformed(account),
        fetched_at=info.fetched_at,
        sha256=info.sha256,
        removals_withheld=not info.whole or verdict.withheld_because is not None,
    )
    rejected_changed = not rejected.equals(known_rejected)

    if changed_months or rejected_changed:
        store.write_state(account, dataclasses.replace(state, pending=Pending(info.fetched_at, changed_months)))

    def periods(month: str) -> pa.Table:
        return bring_in(known(month), changes.pop(month), verdict, fetched_at=info.fetched_at)

    stored |= store.tables.write_months(account, changed_months, periods)
    if rejected_changed:
        store.tables.write_rejected(account, rejected)
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
        figures=_figures(stored, store, account, info),
        withheld_because=verdict.withheld_because,
        withheld_from=verdict.withheld_from,
        accepted_removals=guard.accept_removals,
        settings=settings,
    )
    store.write_state(account, committed)
    _just_committed.clear()
    _just_committed[store.root, account, committed.commit] = stored
    log.info(
        "Account %s: %s listed, %s new, %s removed, %d months written",
        account,
        f"{verdict.counts.listed:,}",
        f"{verdict.counts.new:,}",
        f"{verdict.counts.removed:,}",
        len(changed_months),
    )
    return committed, changed_months


def _figures(stored: Mapping[str, MonthInfo], store: Store, account: str, info: SnapshotInfo) -> Figures:
    """Take the figures of the table from what its files tell, not from what was meant to be written.

    Where every month's open rows are those of the snapshot, which has each id once, no id can be open twice; only
    otherwise, while something is withheld, need the ids be read.
    """
    as_listed = {month: stood.fingerprint for month, stood in stored.items() if stood.open_rows} == info.months
    doubled = 0
    if not as_listed:
        columns = store.tables.stops_columns(account, ("id", "removed_at"))
        ids = open_rows(columns)["id"]
        doubled = len(ids) - pc.count_distinct(ids).as_py()
    return figures_of(stored, doubled_open_ids=doubled)


def derive_table(schema: TableSchema, store: Store, account: str, state: State, made_from: str | None) -> pa.Table:
    """A derived table of the commit that stands.

    Args:
        schema: Which one.
        store: Where.
        account: Whose.
        state: The commit.
        made_from: The commit of the table on disk; None if there is none.
    """
    return _DERIVED[schema.name](store, account, state, made_from)


def _suppression_list(store: Store, account: str, state: State, made_from: str | None) -> pa.Table:
    """From the list of the commit before, if that is what lies there and few rows were first seen or ended since."""
    columns = ["phone_number", "created_at"]
    rejected = as_committed(store.tables.read_rejected(account), state.applied_at)
    if state.parent is not None and made_from == state.parent:
        since = commit_time(state.parent)
        stops_since, stops_ended = _since(
            _changed_months(store, account, state, _months(store, account, state), since), since
        )
        rejected_since, rejected_ended = _since(rejected, since)
        numbers = [*stops_ended["phone_number"].chunks, *rejected_ended["phone_number"].chunks]
        ended = pc.unique(pa.chunked_array(numbers, pa.string())).drop_null()
        if len(stops_since) + len(rejected_since) + len(ended) <= _FEW_ROWS:
            of_ended = rejected.filter(pc.is_in(rejected["phone_number"], value_set=ended))
            rejected_since = pa.concat_tables([_without(rejected_since, ended), of_ended])
            if len(ended):
                of_ended = _committed(store, account, state, columns, numbers=ended)
                stops_since = pa.concat_tables([_without(stops_since, ended).select(of_ended.column_names), of_ended])
            before = store.tables.read_derived(SUPPRESSION_LIST, account)
            return derive.updated_suppression_list(before, ended, stops_since, rejected_since)
    return derive.suppression_list(_committed(store, account, state, columns), rejected)


def _stops_per_day(store: Store, account: str, state: State, made_from: str | None) -> pa.Table:
    """From the counts of the commit before, if that is what lies there and no id first seen since was listed before."""
    columns = ["id", "country", "created_at_local"]
    if state.parent is not None and made_from == state.parent:
        since = commit_time(state.parent)
        months = _months(store, account, state)
        changed = _changed_months(store, account, state, months, since)
        began, _ = _since(changed, since)
        id_ranges = {month: stored.id_range for month, stored in months.items() if stored.changed_at <= since}
        ids = in_one(began["id"])
        known = _any_known(changed, since, ids)
        if not (known or any_held(ids, id_ranges, lambda month: store.tables.read_month(account, month))):
            before = store.tables.read_derived(STOPS_PER_DAY, account)
            return derive.updated_stops_per_day(before, began.select([*columns, "first_seen_at"]))
    return derive.stops_per_day(_committed(store, account, state, columns))


def since_first_load(store: Store, account: str, state: State, applied_at: datetime) -> tuple[pa.Table, datetime]:
    """All periods of the opt-outs first seen after the first load, among others, and when that was fetched.

    Of the table only `id`, `created_at` and `first_seen_at`; and only months that may hold such a period are read.

    Args:
        store: Where.
        account: Whose.
        state: The commit.
        applied_at: When it was fetched, which is the first load if there is no month.
    """
    columns = ("id", "created_at", "first_seen_at")
    months = _months(store, account, state)
    first_load = min((stored.first_seen_at for stored in months.values()), default=applied_at)
    changed = [month for month, stored in months.items() if stored.changed_at > first_load]
    periods = store.tables.stops_columns(account, columns, months=changed)
    ids = in_one(periods.filter(is_after(periods["first_seen_at"], first_load))["id"])
    # One that was altered may have been seen before in another month.
    others = [month for month in months if month not in changed and may_hold(months[month].id_range, ids)]
    return pa.concat_tables([periods, store.tables.stops_columns(account, columns, months=others)]), first_load


def _months(store: Store, account: str, state: State) -> Mapping[str, MonthInfo]:
    """What the months of a commit hold."""
    return _just_committed.get((store.root, account, state.commit)) or store.tables.months(account)


def _changed_months(
    store: Store, account: str, state: State, months: Mapping[str, MonthInfo], since: datetime
) -> pa.Table:
    """The committed periods of the months that were changed after a commit.

    Not by the last tick alone: the months may hold more than the commit's derived tables know of, where a backup
    brought back an older commit than theirs.
    """
    changed = [month for month, stored in months.items() if stored.changed_at > since]
    periods = [as_committed(store.tables.read_month(account, month), state.applied_at) for month in changed]
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

    return store.tables.stops_columns(account, (*columns, "first_seen_at", "removed_at"), each=committed)


_DERIVED = {SUPPRESSION_LIST.name: _suppression_list, STOPS_PER_DAY.name: _stops_per_day}
