"""What is made from a commit: whom not to text, and how many opt-outs there were.

What belongs here: pure functions from the committed periods to the tables that people use. What does not: when they
are remade (`tick`), or where they lie (`store`).
"""

from bisect import bisect_left
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stop_pipeline.periods import open_rows
from stop_pipeline.schema import STOPS_PER_DAY, SUPPRESSION_LIST, UTC_TIME


def suppression_list(stops: pa.Table, rejected: pa.Table) -> pa.Table:
    """One row per number that must not be texted (`schema.SUPPRESSION_LIST`), sorted by number.

    Args:
        stops: Committed periods (`schema.STOPS`; `phone_number`, `created_at` and `removed_at` are used).
        rejected: Committed periods of malformed rows (`schema.REJECTED`): one that bears a number counts as well,
            without a date.
    """
    listed = open_rows(stops).select(["phone_number", "created_at"])
    malformed = open_rows(rejected).select(["phone_number"])
    malformed = malformed.filter(pc.is_valid(malformed["phone_number"]))
    rows = pa.table(
        {
            "phone_number": pa.chunked_array(
                listed["phone_number"].chunks + malformed["phone_number"].chunks, pa.string()
            ),
            "created_at": pa.chunked_array([*listed["created_at"].chunks, pa.nulls(malformed.num_rows, UTC_TIME)]),
            "listed": pa.chunked_array(
                [pa.repeat(value=True, size=listed.num_rows), pa.repeat(value=False, size=malformed.num_rows)]
            ),
        }
    )
    numbers = (
        rows.group_by("phone_number")
        .aggregate([("created_at", "min"), ("created_at", "max"), ([], "count_all"), ("listed", "max")])
        .sort_by("phone_number")
    )
    return pa.Table.from_arrays(
        [
            numbers["phone_number"],
            numbers["created_at_min"],
            numbers["created_at_max"],
            numbers["count_all"],
            pc.if_else(numbers["listed_max"], "listed", "rejected row"),
        ],
        names=SUPPRESSION_LIST.names,
    ).cast(SUPPRESSION_LIST.arrow)


def updated_suppression_list(before: pa.Table, touched: pa.Array, stops: pa.Table, rejected: pa.Table) -> pa.Table:
    """The list of a commit, from that of an earlier one; equal to `suppression_list` of all periods.

    Args:
        before: The earlier list (`schema.SUPPRESSION_LIST`), sorted.
        touched: At least the numbers of the rows first seen or ended since, each once.
        stops: Committed periods, at least all that bear one of these numbers, and none that bears another.
        rejected: The same of malformed rows.
    """
    fresh = suppression_list(stops, rejected)
    kept = before.filter(pc.invert(pc.is_in(before["phone_number"], value_set=touched)))
    numbers = kept["phone_number"].combine_chunks()
    places = [bisect_left(numbers, number, key=pa.StringScalar.as_py) for number in fresh["phone_number"].to_pylist()]
    pieces = []
    for row, (start, end) in enumerate(pairwise([0, *places, kept.num_rows])):
        pieces += [kept.slice(start, end - start), fresh.slice(row, 1)]
    return pa.concat_tables(pieces).combine_chunks()


def stops_per_day(stops: pa.Table) -> pa.Table:
    """Opt-outs per local day and country (`schema.STOPS_PER_DAY`), sorted.

    Each `id` counts once, on the day and in the country that it was last listed with, whether or not it still stands.

    Args:
        stops: Committed periods (`schema.STOPS`; `id`, `country`, `created_at_local` and `first_seen_at` are used).
    """
    ids = stops["id"].to_numpy()
    by_id = np.lexsort((stops["first_seen_at"].to_numpy(), ids))
    is_latest = np.ones(len(ids), dtype=bool)
    is_latest[by_id[:-1]] = ids[by_id[1:]] != ids[by_id[:-1]]
    counted = stops.filter(pa.array(is_latest))
    days = pa.table({"day": counted["created_at_local"].cast(pa.date32()), "country": counted["country"]})
    return (
        days.group_by(["day", "country"])
        .aggregate([([], "count_all")])
        .rename_columns(STOPS_PER_DAY.names)
        .cast(STOPS_PER_DAY.arrow)
        .sort_by([("day", "ascending"), ("country", "ascending")])
    )
