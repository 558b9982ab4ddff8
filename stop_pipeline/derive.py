"""What is made from a commit: whom not to text, and how many opt-outs there were.

What belongs here: pure functions from the committed periods to the tables that people use. What does not: when they
are remade (`tick`), or where they lie (`layout`).
"""

import itertools
from bisect import bisect_left
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stop_pipeline.columns import UTC_TIME, as_arrow, as_numpy, constant, in_one, repeats, scalar
from stop_pipeline.periods import open_rows
from stop_pipeline.schema import STOPS_PER_DAY, SUPPRESSION_LIST

_ASKED = pa.schema([*SUPPRESSION_LIST.arrow][:-1]).append(pa.field("listed", pa.bool_()))
"""`schema.SUPPRESSION_LIST` with `listed` in place of `origin`, so that numbers can be added up."""
_EVER, _NEVER = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""Earlier and later than any opt-out."""


def suppression_list(stops: pa.Table, rejected: pa.Table) -> pa.Table:
    """One row per number that must not be texted (`schema.SUPPRESSION_LIST`), sorted by number.

    Args:
        stops: Committed periods (`schema.STOPS`; `phone_number`, `created_at` and `removed_at` are used).
        rejected: Committed periods of malformed rows (`schema.REJECTED`): one that bears a number counts as well,
            without a date.
    """
    return _numbers(_asked(stops, rejected))


def updated_suppression_list(before: pa.Table, recounted: pa.Array, stops: pa.Table, rejected: pa.Table) -> pa.Table:
    """The list of a commit, from that of an earlier one; equal to `suppression_list` of all periods.

    Args:
        before: The earlier list (`schema.SUPPRESSION_LIST`), sorted.
        recounted: Numbers of which a row has ended since, so that they are counted anew.
        stops: Committed periods: all of those numbers, and of all others the ones first seen since.
        rejected: The same of malformed rows.
    """
    asked = _asked(stops, rejected)
    numbers = in_one(before["phone_number"])
    touched = sorted({*asked["phone_number"].to_pylist(), *recounted.to_pylist()})
    places = [bisect_left(numbers, number, key=pa.StringScalar.as_py) for number in touched]
    stood = [
        place < len(numbers) and numbers[place].as_py() == number for number, place in zip(touched, places, strict=True)
    ]
    rows = before.take(as_arrow(np.array([*itertools.compress(places, stood)], np.int64)))
    counted = rows.filter(pc.invert(pc.is_in(rows["phone_number"], value_set=recounted)))
    fresh = _numbers(pa.concat_tables([asked, _asked_before(counted)]))
    place_of = {number: row for row, number in enumerate(fresh["phone_number"].to_pylist())}
    # What lies between the rows of numbers that were touched stays in one piece.
    pieces, start = [], 0
    for number, place, stands in zip(touched, places, stood, strict=True):
        pieces.append(before.slice(start, place - start))
        if number in place_of:
            pieces.append(fresh.slice(place_of[number], 1))
        start = place + stands
    return pa.concat_tables([*pieces, before.slice(start)])


def _asked(stops: pa.Table, rejected: pa.Table) -> pa.Table:
    """The numbers of open rows (`_ASKED`), one row each."""
    listed = open_rows(stops)
    malformed = open_rows(rejected)["phone_number"].drop_null()
    undated = pa.nulls(len(malformed), UTC_TIME)
    rows = len(listed) + len(malformed)
    times = pa.chunked_array([*listed["created_at"].chunks, undated])
    numbers = pa.chunked_array(listed["phone_number"].chunks + malformed.chunks, pa.string())
    is_listed = as_arrow(np.arange(rows) < len(listed))
    return pa.Table.from_arrays([numbers, times, times, constant(1, rows), is_listed], schema=_ASKED)


def _asked_before(numbers: pa.Table) -> pa.Table:
    """Of an earlier list the same, one row for all that a number counts."""
    return numbers.drop_columns("origin").append_column("listed", pc.equal(numbers["origin"], scalar("listed")))


def _numbers(asked: pa.Table) -> pa.Table:
    """`schema.SUPPRESSION_LIST` of `_ASKED`."""
    asked = asked.combine_chunks().sort_by("phone_number")
    starts = np.flatnonzero(~repeats(asked, "phone_number"))
    undated = as_arrow(_per_run(np.logical_and, as_numpy(pc.is_null(asked["first_stop_at"])), starts))

    def of_dated(reduce: np.ufunc, times: pa.ChunkedArray, if_undated: datetime) -> pa.Array:
        values = as_numpy(pc.fill_null(times, scalar(if_undated, UTC_TIME)))
        found = as_arrow(_per_run(reduce, values, starts)).cast(UTC_TIME)
        return pc.if_else(undated, scalar(None, UTC_TIME), found)

    is_listed = as_arrow(_per_run(np.logical_or, as_numpy(asked["listed"]), starts))
    columns = [
        asked["phone_number"].take(as_arrow(starts)),
        of_dated(np.minimum, asked["first_stop_at"], _NEVER),
        of_dated(np.maximum, asked["last_stop_at"], _EVER),
        as_arrow(_per_run(np.add, as_numpy(asked["stop_count"]), starts)),
        pc.if_else(is_listed, scalar("listed"), scalar("rejected row")),
    ]
    return pa.Table.from_arrays(columns, schema=SUPPRESSION_LIST.arrow)


def stops_per_day(stops: pa.Table) -> pa.Table:
    """Opt-outs per local day and country (`schema.STOPS_PER_DAY`), sorted.

    Each `id` counts once, on the day and in the country that it was last listed with, whether or not it still stands.

    Args:
        stops: Committed periods (`schema.STOPS`; `id`, `country`, `created_at_local` and `first_seen_at` are used).
    """
    ids = as_numpy(stops["id"])
    by_id = np.lexsort((as_numpy(stops["first_seen_at"]), ids))
    is_latest = np.ones(len(ids), dtype=bool)
    is_latest[by_id[:-1]] = ids[by_id[1:]] != ids[by_id[:-1]]
    counted = stops.filter(as_arrow(is_latest))
    days, countries = counted["created_at_local"].cast(pa.date32()), counted["country"]
    return _days(pa.Table.from_arrays([days, countries, constant(1, len(counted))], names=STOPS_PER_DAY.names))


def updated_stops_per_day(before: pa.Table, stops: pa.Table) -> pa.Table:
    """The counts of a commit, from those of an earlier one; equal to `stops_per_day` of all periods.

    Args:
        before: The earlier counts (`schema.STOPS_PER_DAY`).
        stops: The periods first seen since, none of whose ids was listed before.
    """
    return _days(pa.concat_tables([before, stops_per_day(stops)]))


def _days(counts: pa.Table) -> pa.Table:
    """`schema.STOPS_PER_DAY`, summed up."""
    counts = counts.combine_chunks().sort_by([("day", "ascending"), ("country", "ascending")])
    starts = np.flatnonzero(~repeats(counts, "day", "country"))
    days = counts.select(["day", "country"]).take(as_arrow(starts))
    stops = as_arrow(_per_run(np.add, as_numpy(counts["stops"]), starts))
    return days.append_column("stops", stops).cast(STOPS_PER_DAY.arrow)


def _per_run(reduce: np.ufunc, values: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[Any]:
    """The values of each run of rows, which begins at one of these places and ends at the next, as one."""
    return reduce.reduceat(values, starts) if len(starts) else values[:0]
