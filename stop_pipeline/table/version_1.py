"""States that schema version 1 wrote; the first sync upgrades them (`upgrade`)."""

from collections.abc import Mapping
from typing import Any

from stop_pipeline.table.state import Counts, MonthInfo, State, parse_time


def state_of_version_1(
    document: Mapping[str, Any], months: Mapping[str, MonthInfo], rejected_file: MonthInfo | None
) -> State:
    """The state that a document of schema version 1 describes; KeyError, TypeError or ValueError if it is none.

    It recorded neither what its files hold, which is what they themselves say now, nor the rules by which they were
    read. A sync that was killed may have left rows in them that were never committed.
    """
    return State(
        schema_version=1,
        applied_at=parse_time(document["applied_at"]),
        parent=document["parent"],
        sha256=document["sha256"],
        complete=document["whole"],
        verified_at=parse_time(document["verified_at"]),
        rows=document["rows"],
        rejected=document["rejected"],
        duplicates=document["duplicates"],
        counts=Counts(**document["counts"]),
        doubled_open_ids=document.get("figures", {}).get("doubled_open_ids", 0),
        withheld_because=document["withheld_because"],
        withheld_from=document.get("withheld_from"),
        accepted_removals=document["accepted_removals"],
        settings=document["settings"],
        months=months,
        rejected_file=rejected_file,
    )
