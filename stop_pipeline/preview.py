"""A dozen rows fit to be shown: the youngest ones, their phone numbers masked.

What belongs here: which rows of a table a person sees first, and that no number is among them. What does not: how they
are shown (`defs.metadata`).
"""

import pyarrow as pa
import pyarrow.compute as pc

from stop_pipeline.columns import strings
from stop_pipeline.periods import set_column
from stop_pipeline.phones import mask
from stop_pipeline.schema import STOPS
from stop_pipeline.store import Store

ROWS = 12
STOPS_COLUMNS = ("phone_number", "country", "created_at", "first_seen_at", "removed_at")


def of_stops(store: Store, account: str) -> pa.Table:
    """The youngest opt-outs in `stops`, masked, with the columns that a look is for.

    Reads no more months than it takes to find them.
    """
    youngest = STOPS.empty
    for month in reversed(store.tables.month_names(account)):
        if youngest.num_rows >= ROWS:
            break
        youngest = pa.concat_tables([youngest, store.tables.read_month(account, month)])
    return _youngest(youngest, "created_at").select(STOPS_COLUMNS)


def of_suppression_list(suppression_list: pa.Table) -> pa.Table:
    """The numbers (`schema.SUPPRESSION_LIST`) with the youngest opt-outs, masked."""
    return _youngest(suppression_list, "last_stop_at")


def _youngest(table: pa.Table, time: str) -> pa.Table:
    places = pc.select_k_unstable(table, k=ROWS, sort_keys=[(time, "descending")])
    rows = table.take(places)
    return set_column(rows, "phone_number", strings(map(mask, rows["phone_number"].to_pylist())))
