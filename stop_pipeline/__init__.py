"""SMS Partner's STOP list as a table: every opt-out exactly once, when it was made, and whether it still stands.

For a notebook: `read_stops` and its siblings, `lookup`, `read_changes` and `suppress`. None of them needs Dagster. What
they raise is in `stop_pipeline.errors`.

Read `defs/assets.py`, then `sync.py`, and you know the pipeline. The package from the outside in:

    cli, commands           the command `stop-pipeline`
    local_dagster           Dagster on this machine: one run, or the UI and its daemon
    process_group           a command that ends, with all it started, when the process that asked for it does
    definitions, defs/      what Dagster loads: assets, checks, schedules, alerts
    fleet/                  Dagster's configuration for many accounts
    sync                    one sync: fetch → parse → merge → derive
    results                 what its steps report
    snapshot                the newest response as a snapshot: all rows, or those that it appends
    smspartner/             the source: HTTP, JSON and XML, rows as DataFrames; a stand-in API
    table/                  the data root: merge, derive, the commit, files on disk or in a bucket, reading
    campaign/               a campaign file checked against the suppression list
    verify, rebuild         the data root checked; kept responses replayed
    sample_data             a data root of invented opt-outs, to try things out
    phone_numbers           spellings of numbers, read, found in longer texts, and masked
    times                   points in time that a person names, and `createdAt`
    schema, settings, errors
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "lookup": "stop_pipeline.table.lookup",
    "read_changes": "stop_pipeline.table.lookup",
    "read_rejected": "stop_pipeline.table.reading",
    "read_stops": "stop_pipeline.table.reading",
    "read_stops_per_day": "stop_pipeline.table.reading",
    "read_suppression_list": "stop_pipeline.table.reading",
    "suppress": "stop_pipeline.campaign.suppression",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a public function, and pandas with it, when it is first asked for: `stop-pipeline --help` needs none."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(_MODULES)
