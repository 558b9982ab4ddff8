"""What the steps of a sync report."""

from dataclasses import dataclass
from typing import Literal

from stop_pipeline.smspartner.client import Response
from stop_pipeline.table.state import Counts, DerivedInfo, KeptResponse, SnapshotInfo, State

Outcome = Literal["merged", "unchanged", "older"]
"""“unchanged”: the response was merged before; “older”: it is older than the last one merged."""


@dataclass(frozen=True)
class Fetched:
    """What `fetch` did."""

    response: Response  # as the client gave it; its file is gone by now
    kept: KeptResponse  # the newest response kept
    changed: bool  # whether its bytes differ from those kept before
    in_order: bool  # False if one fetched at the same time or later is kept already; then this one is left out


@dataclass(frozen=True)
class Parsed:
    """What `parse` did."""

    info: SnapshotInfo  # the snapshot on disk
    parsed: bool  # whether it had to be made for that


@dataclass(frozen=True)
class Merged:
    """What `merge` did."""

    info: SnapshotInfo  # the snapshot that was looked at
    state: State  # the commit that stands now
    outcome: Outcome
    counts: Counts  # what was changed; nothing unless the response was merged
    months_written: tuple[str, ...]  # months whose file was written for the response
    reread: bool  # whether stored rows were first brought up to date, in a commit of their own


@dataclass(frozen=True)
class Derived:
    """What a derived table is now."""

    info: DerivedInfo  # what its file says about itself
    remade: bool  # whether it had to be made again
