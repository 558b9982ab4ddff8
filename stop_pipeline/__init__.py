"""SMS Partner's STOP list as a table: every opt-out exactly once, when it was made, and whether it still stands.

For a notebook: `read_stops` and its siblings, and `suppress`. They need no Dagster.

The rooms of the house, from the outside in:

    cli            the command `stop-pipeline`
    definitions    what Dagster loads; defs/ holds its assets, checks, schedules, sensor, partitions and resources
    fleet/         Dagster's configuration for many accounts: PostgreSQL, and a cluster's run launcher
    tick           the steps of one tick, without Dagster        engine     what they do where something changed
    client         HTTP: the answer, or a typed error            envelope   the provider's codes
    snapshot       rows → typed rows and malformed rows          document   bytes → rows, in batches
    json_document, xml_document   what an answer must be         rows       a parser's rows → batches
    plain_rows     rows as the provider writes them → columns    words      eight characters at a time
    wall_clocks    `createdAt` → times                           phones     spellings → E.164
    pieces         where an answer is cut                        difference what it changes in the one before
    merge          committed + listed → what changes             guard      what an answer may take away
    periods        tables as of a commit                         derive     committed → suppression list, counts
    charts         tables → pictures                             preview    a dozen rows, masked
    incidents      what runs came to → what is told              webhook    telling it
    store          answers and commits                           tables     rows ↔ Parquet
    layout         which file is which                           footers    what a file says of itself
    files          atomic writes, the lock, on disk              objects    the same in a bucket
    frames         an answer as it is kept, piece by piece       threads    several things at once
    columns        values of Python and NumPy as Arrow's         roots      folder or bucket
    reading        what a notebook gets
    suppression    a campaign held against the list              campaign   its file, read and written in parts
    verify         whether the files hold together               rebuild    kept answers → a fresh root
    sandbox        a stand-in for SMS Partner                    practice   a root that has seen some weeks of it
    schema, model, settings, errors                              what the rooms share
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stop_pipeline.reading import read_rejected, read_stops, read_stops_per_day, read_suppression_list
    from stop_pipeline.suppression import suppress

__all__ = ["read_rejected", "read_stops", "read_stops_per_day", "read_suppression_list", "suppress"]


def __getattr__(name: str) -> Any:
    """Import these, and pandas with them, when first asked for: the command's help needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "suppress":
        from stop_pipeline.suppression import suppress  # noqa: PLC0415 – see above

        return suppress
    from stop_pipeline import reading  # noqa: PLC0415 – see above

    return getattr(reading, name)
