"""SMS Partner's STOP list as a table: every opt-out exactly once, when it was made, and whether it still stands.

For a notebook: `read_stops` and its siblings. They need no Dagster. The rooms of the house, from the outside in:

    cli            the command `stop-pipeline`
    definitions    what Dagster loads; defs/ holds its assets, checks, schedules, partitions and resources
    fleet/         Dagster's configuration for many accounts: PostgreSQL, and a cluster's run launcher
    tick           the steps of one tick, without Dagster
    client         HTTP: the answer, or a typed error            envelope   the provider's codes
    snapshot       bytes → typed rows and malformed rows         phones     spellings → E.164
    merge          committed + listed → what changes             periods    tables as of a commit
    derive         committed → suppression list, counts
    store          where tables lie                              files      atomic writes, the lock
    reading        what a notebook gets
    verify         whether the files hold together               rebuild    kept answers → a fresh root
    sandbox        a stand-in for SMS Partner
    schema, model, settings, errors                              what the rooms share
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stop_pipeline.reading import read_rejected, read_stops, read_stops_per_day, read_suppression_list

__all__ = ["read_rejected", "read_stops", "read_stops_per_day", "read_suppression_list"]


def __getattr__(name: str) -> Any:
    """Import the readers, and pandas with them, when first asked for: the command's help needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stop_pipeline import reading  # noqa: PLC0415 – see above

    return getattr(reading, name)
