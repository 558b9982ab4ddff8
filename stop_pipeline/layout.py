"""Which file is which below the data root.

What belongs here: the names of the Parquet files. What does not: what is in them (`tables`), and the names that only
the store itself gives, to answers and commits.

    raw/account=A/…                                    answers as received, in pieces (`frames`), and latest.json
    snapshot/account=A/created_month=YYYY-MM/stop_snapshot.parquet
                                                       the newest answer, parsed; its malformed rows are of no month
    stops/account=A/created_month=YYYY-MM/stops.parquet
    rejected/account=A/rejected.parquet
    suppression_list/account=A/suppression_list.parquet
    stops_per_day/account=A/stops_per_day.parquet
    state/account=A.json                               the commit; written last
    .work/                                             locks and temporaries
"""

from pathlib import PurePosixPath

NO_MONTH = "none"
"""The month of malformed rows in the snapshot; a null key, as hive would have it, is one that pandas cannot read."""


def month_file(account: str, month: str) -> str:
    """Name of a month's file of `stops`; with `*` as the month, the pattern of all."""
    return f"stops/account={account}/created_month={month}/stops.parquet"


def snapshot_file(account: str, month: str) -> str:
    """Name of a month's file of the snapshot, or with `NO_MONTH`, that of its malformed rows; `*` as above."""
    return f"snapshot/account={account}/created_month={month}/stop_snapshot.parquet"


def single_file(table: str, account: str) -> str:
    """Name of the file of a table that has one for each account."""
    return f"{table}/account={account}/{table}.parquet"


def month_of(name: str) -> str:
    """The month of a file that lies by month."""
    return PurePosixPath(name).parent.name.removeprefix("created_month=")
