"""The rows of a response → a snapshot: DataFrames of good and malformed rows.

Rows are read block by block. The outcome does not depend on their order.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from stop_pipeline.errors import excerpt
from stop_pipeline.phone_numbers import read_phone_numbers
from stop_pipeline.schema import BAD_CREATED_AT, CONFLICTING_ID, LISTED, REASONS, REJECTED_ROWS
from stop_pipeline.smspartner.document import MODULES, ListDocument, blocks, load_rows
from stop_pipeline.smspartner.rows import Rows, check_rows, raw_of_fields
from stop_pipeline.times import FORM, local_to_utc, read_local_times

LATEST_AHEAD = timedelta(days=2)
"""How far after the fetch a `createdAt` may be: room for a wrong clock or zone, not for a wrong year."""

MAX_EXTRA_FIELDS = 20
MAX_EXTRA_FIELD_LENGTH = 40

_SAME_ID = ["id", "created_at_local", "phone_number"]


@dataclass(frozen=True)
class Snapshot:
    """The rows of one response."""

    listed: pd.DataFrame  # the good rows (`schema.LISTED`), each `id` once, sorted by `created_at_local`, `id`
    rejected: pd.DataFrame  # the malformed rows (`schema.REJECTED_ROWS`), each `raw` once, sorted by `raw`
    rows: int  # in the response; always `listed` + `rejected` + `duplicates`
    duplicates: int  # rows equal to another one
    extra_fields: tuple[str, ...]  # names of undocumented row fields, sorted, their digits masked
    any_too_late: bool  # whether a row was rejected because its `createdAt` was still too far ahead
    span: tuple[int, int] | None  # the part of the text that holds just these rows; None if that was not seen


def parse(document: ListDocument, *, fetched_at: datetime, timezone: str) -> Snapshot:
    """Read all rows of a response.

    Args:
        document: What `open_list` found.
        fetched_at: When it was fetched, UTC; a `createdAt` well after that is not usable.
        timezone: IANA name of the zone in which `createdAt` is read.

    Raises:
        UnreadableResponseError: it is not a list of rows.
    """
    span = document.span
    if span and (snapshot := parse_span(document, span, fetched_at=fetched_at, timezone=timezone)):
        return snapshot
    rows = check_rows(load_rows(document))
    return _snapshot([_typed(rows, ZoneInfo(timezone), fetched_at + LATEST_AHEAD)], span=None)


def parse_span(
    document: ListDocument, span: tuple[int, int], *, fetched_at: datetime, timezone: str
) -> Snapshot | None:
    """As `parse`, for the rows in a part of the list's text; None if that is not a list of rows by itself."""
    parts = []
    for block in blocks(document, span):
        rows = MODULES[document.format].read_block(block)
        if rows is None:
            return None
        parts.append(_typed(rows, ZoneInfo(timezone), fetched_at + LATEST_AHEAD))
    return _snapshot(parts, span)


def shown_fields(extra_fields: Collection[str]) -> tuple[str, ...]:
    """Names of fields, sorted, as many as a person reads, their digits masked."""
    names = {excerpt(name)[:MAX_EXTRA_FIELD_LENGTH] for name in extra_fields}
    return tuple(sorted(names)[:MAX_EXTRA_FIELDS])


@dataclass(frozen=True)
class _Part:
    """The rows of one block."""

    good: pd.DataFrame  # `schema.LISTED`; with it `spelling`, null where it is the phone number, and `raw` as in `Rows`
    malformed: pd.DataFrame  # all others, as in `Rows`
    extra_fields: frozenset[str]
    any_too_late: bool


def _typed(rows: Rows, zone: ZoneInfo, latest: datetime) -> _Part:
    """The rows with numbers and times in place of texts; those without a usable `createdAt` are malformed."""
    usable = rows.usable
    local = read_local_times(usable["created_at_text"])
    instants = local_to_utc(local, zone)
    too_late = instants > latest
    dated = instants.notna() & ~too_late
    misdated = _malformed(usable[~dated], BAD_CREATED_AT)
    numbers = read_phone_numbers(usable["spelling"])
    good = pd.DataFrame(
        {
            "id": usable["id"],
            "phone_number": numbers["phone_number"],
            "country": numbers["country"],
            "created_at": instants,
            "created_at_local": local,
            "spelling": usable["spelling"].mask(usable["spelling"] == numbers["phone_number"]),
            "raw": usable["raw"],
        }
    )
    good = good if dated.all() else good[dated]
    return _Part(good, pd.concat([rows.malformed, misdated]), rows.extra_fields, bool(too_late.any()))


def _snapshot(parts: Sequence[_Part], span: tuple[int, int] | None) -> Snapshot:
    """The rows of all blocks, each `id` once."""
    good = pd.concat([part.good for part in parts], ignore_index=True) if parts else LISTED.empty
    malformed = pd.concat([REJECTED_ROWS.empty, *(part.malformed for part in parts)])
    rows = len(good) + len(malformed)
    repeated = good["id"].duplicated(keep=False)
    if repeated.any():
        kept, conflicting = _one_row_per_id(good[repeated])
        good = pd.concat([good[~repeated], kept])
        malformed = pd.concat([malformed, conflicting])
    listed = good[list(LISTED.names)].iloc[np.lexsort((good["id"], good["created_at_local"]))].reset_index(drop=True)
    rejected = _rejected(malformed)
    return Snapshot(
        listed=listed,
        rejected=rejected,
        rows=rows,
        duplicates=rows - len(listed) - len(rejected),
        extra_fields=shown_fields(frozenset().union(*(part.extra_fields for part in parts))),
        any_too_late=any(part.any_too_late for part in parts),
        span=span,
    )


def _one_row_per_id(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of each `id` the row with the smallest (`createdAt`, phone number); rows that differ from it conflict with it.

    Equal rows collapse; where they conflict, into the one with the smallest raw text.
    """
    distinct = rows.drop_duplicates(_SAME_ID).sort_values(_SAME_ID)
    kept = distinct.drop_duplicates("id")
    others = distinct.drop(kept.index)[_SAME_ID]
    conflicting = rows.merge(others, on=_SAME_ID)
    conflicting = conflicting.assign(
        spelling=conflicting["spelling"].fillna(conflicting["phone_number"]),
        created_at_text=conflicting["created_at_local"].dt.strftime(FORM),
    )
    malformed = _malformed(conflicting, CONFLICTING_ID).sort_values("raw")
    smallest = conflicting.loc[malformed.index].drop_duplicates(_SAME_ID).index
    return kept, malformed.loc[smallest]


def _rejected(malformed: pd.DataFrame) -> pd.DataFrame:
    """`schema.REJECTED_ROWS`: each raw text once, sorted by it, with the first of its reasons."""
    ranked = malformed.assign(rank=malformed["reason"].map(REASONS.index))
    first = ranked.sort_values(["raw", "rank", "phone_number"]).drop_duplicates("raw", ignore_index=True)
    numbers = read_phone_numbers(first["phone_number"])["phone_number"]
    return first[list(REJECTED_ROWS.names)].assign(phone_number=numbers)


def _malformed(rows: pd.DataFrame, reason: str) -> pd.DataFrame:
    """Usable rows as malformed ones; where `raw` is null, it follows from `id`, `spelling` and `created_at_text`."""
    texts = [
        raw if isinstance(raw, str) else raw_of_fields(*fields)
        for raw, *fields in zip(*(rows[name] for name in ("raw", "id", "spelling", "created_at_text")), strict=True)
    ]
    columns = {"raw": texts, "reason": reason, "phone_number": rows["spelling"]}
    return pd.DataFrame(columns, rows.index, dtype="str")
