"""What the steps of a sync report."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from stop_pipeline.smspartner.client import Response
from stop_pipeline.table.state import Counts, DerivedInfo, KeptResponse, SnapshotInfo, State

Outcome = Literal["merged", "unchanged", "older"]


@dataclass(frozen=True)
class Fetched:
    """What `fetch` did.

    Attributes:
        response: As the client gave it; its file is gone by now.
        kept: The newest response kept.
        changed: Whether its bytes differ from those kept before.
        in_order: False if a response that was fetched at the same time or later is kept already; then this one was not.
    """

    response: Response
    kept: KeptResponse
    changed: bool
    in_order: bool


@dataclass(frozen=True)
class Parsed:
    """What `parse` did: the snapshot on disk, and whether it had to be made for that."""

    info: SnapshotInfo
    parsed: bool


@dataclass(frozen=True)
class Merged:
    """What `merge` did.

    Attributes:
        info: The snapshot that was looked at.
        state: The commit that stands now.
        outcome: “merged”; “unchanged”, if the response was merged before; “older”, if it is older than the last one.
        counts: What was changed; nothing unless the response was merged.
        months_written: Months whose file was written for the response.
        reread: Whether stored rows were first brought up to date, in a commit of their own.
    """

    info: SnapshotInfo
    state: State
    outcome: Outcome
    counts: Counts
    months_written: tuple[str, ...]
    reread: bool


@dataclass(frozen=True)
class Derived:
    """What a derived table is now.

    Attributes:
        info: What its file says about itself.
        merged_at: Fetch time of the commit's response.
        remade: Whether it had to be made again.
    """

    info: DerivedInfo
    merged_at: datetime
    remade: bool
