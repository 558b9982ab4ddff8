"""One answer's rows → typed rows and malformed rows.

What belongs here: how late a `createdAt` may be, and what becomes of rows that repeat or contradict each other. What
does not: what a document and its fields must be (`document`), how a phone number is read (`phones`), and what changed
since the last answer (`merge`). Everything is pure: the file given is all that is read.

The outcome does not depend on the order of the rows. Rows are typed batch by batch while the document is read, and then
gathered month by month.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stop_pipeline.columns import UTC_TIME, WALL_CLOCK, as_arrow, as_numpy, repeats, scalar, strings
from stop_pipeline.document import read_document
from stop_pipeline.errors import excerpt
from stop_pipeline.model import BAD_CREATED_AT, CONFLICTING_ID, REASONS, Format, Snapshot
from stop_pipeline.periods import month_numbers
from stop_pipeline.phones import read_phone_numbers
from stop_pipeline.pieces import Span, cut
from stop_pipeline.rows import Batch, Malformed
from stop_pipeline.schema import LISTED, REJECTED_ROWS
from stop_pipeline.threads import in_threads
from stop_pipeline.wall_clocks import instants

READER = f"rules 1, phonenumbers {phonenumbers.__version__}"
"""What else than its text bears on what a row is read as; a change of these rooms' rules raises the number."""

LATEST_AHEAD = timedelta(days=2)
"""How far after the fetch a `createdAt` may lie: room for a wrong clock or zone, not for a wrong year."""
_A_DAY = timedelta(days=1)

_FEW_ROWS = 200_000
"""Up to so many are sorted at once, and not month by month."""
_MOST_IDS_FOR_EACH = 8
"""How many ids may lie between the first and the last for each of them, for repeated ones to be sought by marks."""

MAX_EXTRA_FIELDS = 20
MAX_EXTRA_FIELD_LENGTH = 40

_KEPT = [name for name in LISTED.names if name != "created_at"]
"""What is held of a good row until all are read; `created_at` follows from the wall clock."""
_BY_ID = [(name, "ascending") for name in ("id", "created_at_local", "phone_number")]


@dataclass(frozen=True)
class _Typed:
    """One batch: its good rows (`_KEPT`), ordered by month, repeats not yet looked for, and its malformed ones."""

    listed: pa.Table
    malformed: tuple[Malformed, ...]
    any_late: bool
    rows: int
    extra_fields: frozenset[str]


def parse(
    path: Path,
    answer_format: Format,
    *,
    fetched_at: datetime,
    timezone: str,
    pieces: Sequence[Span] | None = None,
    secrets: Collection[str] = (),
) -> Snapshot:
    """The rows of one answer, typed, good and malformed ones apart.

    White space around a phone number is not part of it (the documented XML has some around every text).

    Args:
        path: The answer's body, as received.
        answer_format: What was asked for, `json` or `xml`.
        fetched_at: When it was fetched; a `createdAt` well after that is no usable one.
        timezone: IANA name of the zone that `createdAt` is read in; an hour that happens twice means the earlier
            instant, one that never happens the next valid instant.
        pieces: Which of its pieces to read, if not all: see `document.read_document`.
        secrets: What an error must not quote, such as the API key: a web page may echo the address it was asked for.

    Raises:
        UnreadableAnswerError: the document is cut, or no such document, or holds no list; never an empty list instead.
        ApiError: the document says that there is no list, by `success` or by a known code of error (`refusal`).
    """
    latest = fetched_at.astimezone(UTC) + LATEST_AHEAD

    def typed(batch: Batch) -> _Typed:
        columns = _columns(batch)
        usable = _dated(columns, latest, timezone)
        misdated: tuple[Malformed, ...] = ()
        if not pc.all(usable).as_py():
            misdated = tuple(_set_aside(columns.filter(pc.invert(usable)), BAD_CREATED_AT, batch))
            columns = columns.filter(usable)
        return _Typed(columns.select(_KEPT), batch.malformed + misdated, bool(misdated), batch.rows, batch.extra_fields)

    pieces = list(cut(path, answer_format)) if pieces is None else pieces
    reading = read_document(path, answer_format, typed, pieces=pieces, secrets=secrets)
    malformed = [row for batch in reading.batches for row in batch.malformed]
    rows = sum(batch.rows for batch in reading.batches)
    extra_fields = frozenset[str]().union(*(batch.extra_fields for batch in reading.batches))
    any_late = any(batch.any_late for batch in reading.batches)
    tables = [batch.listed for batch in reading.batches]
    del reading.batches[:]  # so that `tables` alone holds them

    tables, shared, scattered = _collapsed(tables)
    if len(shared):
        # Rare, so what these rows said word for word is read again instead of being kept for all.
        def of_shared_ids(batch: Batch) -> tuple[pa.Table, list[Malformed]]:
            columns = _columns(batch)
            usable = pc.and_(_dated(columns, latest, timezone), pc.is_in(columns["id"], value_set=shared))
            columns = columns.filter(usable)
            return columns, _set_aside(columns, CONFLICTING_ID, batch)

        again = read_document(path, answer_format, of_shared_ids, pieces=pieces, secrets=secrets).batches
        kept, conflicting = _one_row_per_id(
            pa.concat_tables([columns for columns, _ in again]), [row for _, rows in again for row in rows]
        )
        tables = [*_without(tables, shared), kept.select(_KEPT)]
        malformed += conflicting

    listed = _gathered(tables, timezone)
    rejected = _rejected(malformed)
    duplicates = rows - listed.num_rows - rejected.num_rows
    return Snapshot(
        listed=listed,
        rejected=rejected,
        rows=rows,
        duplicates=duplicates,
        code=reading.code,
        nb_data=reading.nb_data,
        extra_fields=shown_fields(extra_fields),
        pieces_read_by=None if any_late or scattered or len(malformed) > len(rejected) else READER,
        list_at=reading.list_at,
    )


def shown_fields(extra_fields: Iterable[str]) -> tuple[str, ...]:
    """Names of fields, sorted, as many as a person reads, without what may be somebody's number."""
    names = {excerpt(name)[:MAX_EXTRA_FIELD_LENGTH] for name in extra_fields}
    return tuple(sorted(names)[:MAX_EXTRA_FIELDS])


def _columns(batch: Batch) -> pa.Table:
    """`_KEPT` of each row; with it `spelling`, and `row`, its place."""
    phone_numbers, countries = read_phone_numbers(batch.spellings, batch.mobile)
    return pa.table(
        {
            "id": batch.ids,
            "phone_number": phone_numbers,
            "country": countries,
            "created_at_local": batch.created_at_local,
            "spelling": batch.spellings,
            "row": as_arrow(np.arange(len(batch.ids))),
        }
    )


def _dated(columns: pa.Table, latest: datetime, timezone: str) -> pa.ChunkedArray:
    """Whether each row's `createdAt` is not too late."""
    # No zone is a day away from UTC, so only the last times need be placed in theirs.
    surely = pc.less(columns["created_at_local"], scalar(latest.replace(tzinfo=None) - _A_DAY, WALL_CLOCK))
    if pc.all(surely).as_py():
        return surely
    return pc.less_equal(instants(columns["created_at_local"], timezone), scalar(latest, UTC_TIME))


def _repeated_ids(tables: list[pa.Table]) -> pa.Array:
    """The ids that more than one row bears."""
    ids = np.concatenate([np.empty(0, np.int64), *(as_numpy(table["id"]) for table in tables)])
    if not np.all(ids[1:] > ids[:-1]):
        first, span = ids.min(), np.ptp(ids) + 1
        if span <= _MOST_IDS_FOR_EACH * len(ids):  # one mark for each that may be takes a tenth of the time of sorting
            marks = np.zeros(span, bool)
            marks[ids - first] = True
            if np.count_nonzero(marks) == len(ids):
                return as_arrow(ids[:0])
        ids.sort()
    return as_arrow(np.unique(ids[1:][ids[1:] == ids[:-1]]))


def _collapsed(tables: list[pa.Table]) -> tuple[list[pa.Table], pa.Array, bool]:
    """Of equal rows one; the ids that rows which differ share; and whether rows of one id are in several tables."""
    repeated = _repeated_ids(tables)
    if not len(repeated):
        return tables, repeated, False
    rows = [table.filter(pc.is_in(table["id"], value_set=repeated)) for table in tables]
    scattered = sum(len(pc.unique(table["id"])) for table in rows) > len(repeated)
    ordered = pa.concat_tables(rows).sort_by(_BY_ID)
    distinct = ordered.filter(as_arrow(~repeats(ordered, "id", "created_at_local", "phone_number")))
    return [*_without(tables, repeated), distinct], _repeated_ids([distinct]), scattered


def _without(tables: list[pa.Table], ids: pa.Array) -> list[pa.Table]:
    """The tables without the rows of these ids."""
    return [table.filter(pc.invert(pc.is_in(table["id"], value_set=ids))) for table in tables]


def _one_row_per_id(columns: pa.Table, malformed: list[Malformed]) -> tuple[pa.Table, list[Malformed]]:
    """Of each id the row with the smallest (`createdAt`, phone number); the others that differ from it, as malformed.

    Equal rows collapse into one; where it is a malformed one, into that with the smallest raw text.

    Args:
        columns: All rows of some ids.
        malformed: The same rows as malformed ones.
    """
    columns = columns.drop_columns("row").append_column("row", as_arrow(np.arange(columns.num_rows)))
    ordered = columns.sort_by(_BY_ID)
    same_id = repeats(ordered, "id")
    same_row = repeats(ordered, "id", "created_at_local", "phone_number")
    run = np.cumsum(~same_row) - 1
    conflicts = np.flatnonzero(same_id[~same_row][run])
    smallest: dict[int, Malformed] = {}
    positions = as_numpy(ordered["row"])[conflicts]
    for number, position in zip(run[conflicts].tolist(), positions.tolist(), strict=True):
        row = malformed[position]
        if number not in smallest or row.raw < smallest[number].raw:
            smallest[number] = row
    return ordered.filter(as_arrow(~same_id)), list(smallest.values())


def _set_aside(columns: pa.Table, reason: str, batch: Batch) -> list[Malformed]:
    return [
        Malformed(batch.raw(position), reason, spelling)
        for position, spelling in zip(columns["row"].to_pylist(), columns["spelling"].to_pylist(), strict=True)
    ]


def _gathered(tables: list[pa.Table], timezone: str) -> pa.Table:
    """`LISTED` of all tables, which are emptied, sorted by `created_at_local`, `id`; each month lies in one chunk."""
    if not any(map(len, tables)):
        return LISTED.empty
    rows = pa.concat_tables(tables).combine_chunks()
    tables.clear()
    months = month_numbers(rows)
    # Of 16 bits, for those NumPy sorts digit by digit.
    since_first = (months - months.min()).astype(np.uint16)
    by_month = np.argsort(since_first, kind="stable")
    if len(months) <= _FEW_ROWS:
        parts = [by_month]
    else:
        parts = np.split(by_month, np.flatnonzero(np.diff(since_first[by_month])) + 1)

    def gathered(places: NDArray[np.int64]) -> pa.Table:
        table = rows.take(as_arrow(_by_time(rows, places)))
        table = table.append_column("created_at", instants(table["created_at_local"], timezone))
        return table.select(LISTED.names).cast(LISTED.arrow)

    return pa.concat_tables(in_threads(gathered, parts))


def in_order(rows: pa.Table) -> pa.Table:
    """`rows`, whose ids differ, by `created_at_local`, `id`."""
    places = np.arange(len(rows))
    ordered = _by_time(rows, places)
    return rows if ordered is places else rows.take(as_arrow(ordered))


def _by_time(rows: pa.Table, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of rows whose ids differ, by `created_at_local`, `id`; the array that was given, if in order."""
    # Times as whole numbers, which NumPy sorts several times as fast.
    times, ids = as_numpy(rows["created_at_local"]).view(np.int64)[places], as_numpy(rows["id"])[places]
    in_order = (times[1:] > times[:-1]) | ((times[1:] == times[:-1]) & (ids[1:] > ids[:-1]))
    if in_order.all():
        return places
    order = np.argsort(times)
    same_as_next = times[order[1:]] == times[order[:-1]]
    of_same_time = np.append(same_as_next, False) | np.append(False, same_as_next)
    # These rows are few, and keep their places among themselves when they are sorted by time again.
    few = order[of_same_time]
    order[of_same_time] = few[np.lexsort((ids[few], times[few]))]
    return places[order]


def _rejected(malformed: Iterable[Malformed]) -> pa.Table:
    """`REJECTED_ROWS`: each raw text once, sorted by it."""
    by_raw: dict[str, Malformed] = {}
    for row in sorted(malformed, key=lambda row: (REASONS.index(row.reason), row.spelling is None, row.spelling or "")):
        by_raw.setdefault(row.raw, row)
    rows = [by_raw[raw] for raw in sorted(by_raw)]
    phone_numbers, _ = read_phone_numbers(strings(row.spelling for row in rows))
    return pa.table(
        [
            strings(row.raw for row in rows),
            strings(row.reason for row in rows),
            phone_numbers,
        ],
        schema=REJECTED_ROWS.arrow,
    )
