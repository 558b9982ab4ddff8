"""Tables made from a commit: the numbers that must not be texted, and counts per day. Pure functions."""

from typing import NamedTuple

import pandas as pd

from stop_pipeline.phone_numbers import compact_spellings, find_phone_numbers, find_phone_numbers_in_row, is_e164
from stop_pipeline.schema import FOUND_ORIGIN, LISTED_ORIGIN, REJECTED_ORIGIN, STOPS_PER_DAY, SUPPRESSION_LIST

_DIGITS = r"\+?[0-9]{6,18}"

ORIGINS = (LISTED_ORIGIN, REJECTED_ORIGIN, FOUND_ORIGIN)
"""From the strongest to the weakest; a number has the strongest of its rows."""


class SuppressionList(NamedTuple):
    """The numbers that must not be texted."""

    numbers: pd.DataFrame
    unreadable_rows: int  # rows in which nothing like a phone number was found, so that they block nobody


def blocked_numbers(stops: pd.DataFrame, rejected: pd.DataFrame) -> SuppressionList:
    """Find the numbers that rows block: one row for each number and each row that blocks it.

    It has `phone_number`, the other columns of that row, and `origin`, the place of its origin in `ORIGINS`.

    A row blocks the number that it has, and every number found in a text that is not one number: in a spelling that
    cannot be read, or anywhere in a malformed row.

    Args:
        stops: Rows of `stops`: `phone_number`, `country`, and any other columns.
        rejected: Rows of `rejected`: `raw`, `phone_number`, and other columns; those that `stops` lacks are dropped.
    """
    unknown = stops[stops["country"].isna()]  # numbers of no country, and texts that are not one number
    unreadable = unknown[~is_e164(unknown["phone_number"])]
    found = [(unreadable, unreadable["phone_number"].map(find_phone_numbers)), (rejected, _found_in_rows(rejected))]
    searched = [(rows, numbers) for rows, numbers in found if len(rows)]
    by_origin = [(rejected, 1)] if len(rejected) else []
    by_origin += [(rows.assign(phone_number=numbers).explode("phone_number"), 2) for rows, numbers in searched]
    dtypes = {**stops.dtypes, "origin": "int64"}
    rows = pd.concat(
        [
            part.dropna(subset="phone_number").assign(origin=origin).reindex(columns=list(dtypes)).astype(dtypes)
            for part, origin in [(stops, 0), *by_origin]
        ],
        ignore_index=True,
    )
    return SuppressionList(rows, sum(_blocking_nobody(part["phone_number"], numbers) for part, numbers in searched))


def suppression_list(stops: pd.DataFrame, rejected: pd.DataFrame) -> SuppressionList:
    """Derive the suppression list from the open rows of a commit.

    Args:
        stops: Open rows of `stops`: `phone_number`, `country` and `created_at`.
        rejected: Open rows of `rejected`: `raw` and `phone_number`.
    """
    blocked = blocked_numbers(stops[["phone_number", "country", "created_at"]], rejected)
    numbers = blocked.numbers.groupby("phone_number", as_index=False).agg(
        first_stop_at=("created_at", "min"),
        last_stop_at=("created_at", "max"),
        stop_count=("origin", "size"),
        origin=("origin", "min"),
    )
    names = numbers["origin"].map(dict(enumerate(ORIGINS)))
    return SuppressionList(numbers.assign(origin=names).astype(SUPPRESSION_LIST.dtypes), blocked.unreadable_rows)


def stops_per_day(stops: pd.DataFrame) -> pd.DataFrame:
    """Opt-outs per local day and country (`schema.STOPS_PER_DAY`), sorted.

    Each `id` counts once, on the day and in the country that it was last listed with, whether or not it still stands.

    Args:
        stops: All periods of `stops`: `id`, `country`, `created_at_local`, `first_seen_at` and `removed_at`.
    """
    in_order = stops.sort_values(["removed_at", "first_seen_at"])  # those that have not ended come last
    latest = in_order.drop_duplicates("id", keep="last")
    days = latest.assign(day=latest["created_at_local"].dt.floor("D"))
    counts = days.groupby(["day", "country"], dropna=False).size().rename("stops").reset_index()
    return counts.astype(STOPS_PER_DAY.dtypes)


def _blocking_nobody(numbers: pd.Series, found: pd.Series) -> int:
    """How many rows have no number, and no number was found in them.

    Digits that are no number anywhere still block whoever is written with the same digits.
    """
    blocking = compact_spellings(numbers).str.fullmatch(_DIGITS)
    return int((~blocking & (found.str.len() == 0)).sum())


def _found_in_rows(rejected: pd.DataFrame) -> pd.Series:
    """The numbers found in malformed rows, other than the number that the row is known by."""
    found = [
        [number for number in find_phone_numbers_in_row(raw) if number != own]
        for raw, own in zip(rejected["raw"], rejected["phone_number"], strict=True)
    ]
    return pd.Series(found, index=rejected.index, dtype=object)
