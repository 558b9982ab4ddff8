"""The plain values that travel between the rooms.

What belongs here: frozen dataclasses and the closed sets that several rooms name. What does not: anything that reads,
writes or decides. Times are timezone-aware UTC with microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the command's help loads this module, and must not load Arrow
    import pyarrow as pa

Format = Literal["json", "xml"]

SUCCESS_CODE = 200

_COMMIT_TIME = "%Y%m%dT%H%M%S.%fZ"

MAX_REMOVED_SHARE = 0.05
"""Of the open rows, how many one answer may take away without a person's word."""

NOT_AN_OBJECT = "not an object"
BAD_ID = "no usable id"
BAD_PHONE_NUMBER = "no usable phone number"
BAD_CREATED_AT = "no usable createdAt"
CONFLICTING_ID = "conflicts with another row of the same id"
REASONS = (NOT_AN_OBJECT, BAD_ID, BAD_PHONE_NUMBER, BAD_CREATED_AT, CONFLICTING_ID)
"""Why a row is rejected: the first of these that applies."""

DELAY_FIGURES = ("delay_median_hours", "delay_p90_hours", "delay_p99_hours", "over_48_hours_percent")
"""What is told of the time from `created_at` to `first_seen_at`."""


@dataclass(frozen=True)
class Answer:
    """One answer of the API, on disk as received.

    Attributes:
        path: The body, uncompressed.
        format: What was asked for.
        fetched_at: When the answer began to arrive.
        sha256: Of the body, 64 hexadecimal digits.
        size_bytes: Of the body, uncompressed.
        seconds: From sending the request to the last byte, retries included.
    """

    path: Path
    format: Format
    fetched_at: datetime
    sha256: str
    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class Snapshot:
    """One answer, parsed.

    Attributes:
        listed: The good rows (`schema.LISTED`), each `id` once, sorted by `created_at_local`, `id`.
        rejected: The malformed rows (`schema.REJECTED_ROWS`), each `raw` once, sorted by `raw`.
        rows: How many rows the answer held; always `listed` + `rejected` + `duplicates`.
        duplicates: How many rows were collapsed into an equal one.
        code: The provider's code, None if it gave none.
        nb_data: How many rows the provider said would follow, None if it did not say.
        extra_fields: Names of row fields that are not documented, sorted, their digits masked.
        pieces_read_by: What they were read by, if each piece of the answer (`pieces`) gives some of these rows,
            whatever the others are, and would at any later time; None if a row bears on one of another piece, or is
            dated too late to be believed yet.
        list_at: Where the list begins and ends in the answer, in bytes, if it was read in pieces; None if not.
    """

    listed: pa.Table
    rejected: pa.Table
    rows: int
    duplicates: int
    code: int | None
    nb_data: int | None
    extra_fields: tuple[str, ...] = field(default=())
    pieces_read_by: str | None = None
    list_at: tuple[int, int] | None = None

    @property
    def whole(self) -> bool:
        """Whether the answer is proven whole: the code of success, and as many rows as `nbData`."""
        return self.code == SUCCESS_CODE and self.nb_data == self.rows


@dataclass(frozen=True)
class SnapshotInfo:
    """What is known of the snapshot on disk without reading its rows.

    Attributes:
        fetched_at: Of the newest answer with these bytes.
        sha256: Of the answer.
        size_bytes: Of the answer, uncompressed.
        timezone: In which `createdAt` was read.
        listed: How many good rows it holds.
        rejected: How many malformed rows it holds.
        months: Fingerprint of the good rows of each month (`periods.fingerprint`).
        rows, duplicates, code, nb_data, extra_fields, pieces_read_by, list_at: As in `Snapshot`.
    """

    fetched_at: datetime
    sha256: str
    size_bytes: int
    timezone: str
    listed: int
    rejected: int
    months: Mapping[str, str]
    rows: int
    duplicates: int
    code: int | None
    nb_data: int | None
    extra_fields: tuple[str, ...]
    pieces_read_by: str | None = None
    list_at: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, snapshot: Snapshot, *, fetched_at: datetime, sha256: str, size_bytes: int, timezone: str
    ) -> SnapshotInfo:
        """What is known of a snapshot that is not written yet, and so has no fingerprints."""
        return cls(
            fetched_at=fetched_at,
            sha256=sha256,
            size_bytes=size_bytes,
            timezone=timezone,
            listed=snapshot.listed.num_rows,
            rejected=snapshot.rejected.num_rows,
            months={},
            rows=snapshot.rows,
            duplicates=snapshot.duplicates,
            code=snapshot.code,
            nb_data=snapshot.nb_data,
            extra_fields=snapshot.extra_fields,
            pieces_read_by=snapshot.pieces_read_by,
            list_at=snapshot.list_at,
        )

    @property
    def whole(self) -> bool:
        """As `Snapshot.whole`."""
        return self.code == SUCCESS_CODE and self.nb_data == self.rows


@dataclass(frozen=True)
class SnapshotChange:
    """What makes the snapshot on disk that of another answer.

    Attributes:
        before: The snapshot that it starts from; None if it starts from none, and `months` are all.
        info: What is known of the new one; of its months those that stay as they are.
        months: The good rows of all other months (`schema.LISTED`), sorted.
        rejected: All malformed rows (`schema.REJECTED_ROWS`), sorted by `raw`.
    """

    before: SnapshotInfo | None
    info: SnapshotInfo
    months: Mapping[str, pa.Table]
    rejected: pa.Table


@dataclass(frozen=True)
class Counts:
    """What one tick did to the open rows of `stops`, in rows.

    Attributes:
        listed: In the answer, after equal rows collapsed and malformed ones were set aside.
        new: Added, under an id that is not open.
        changed: Added, because the provider altered the row of an id that is open.
        restored: Added, because a row that had ended is back.
        unchanged: Listed as before.
        removed: Ended, other than by an alteration that this answer brings.
        withheld: Removals and ends of altered rows that the guard did not let through.
    """

    listed: int = 0
    new: int = 0
    changed: int = 0
    restored: int = 0
    unchanged: int = 0
    removed: int = 0
    withheld: int = 0


@dataclass(frozen=True)
class Figures:
    """How `stops` stands, as its files tell.

    Attributes:
        rows: Periods.
        open_rows: Periods that have not ended.
        doubled_open_ids: Open rows beyond the first of their `id`.
        nulls: Nulls in `id`, `phone_number` and `created_at`.
    """

    rows: int = 0
    open_rows: int = 0
    doubled_open_ids: int = 0
    nulls: int = 0


@dataclass(frozen=True)
class Pending:
    """What a tick was about to do: the mark that it sets before its first write."""

    fetched_at: datetime
    months: tuple[str, ...]


@dataclass(frozen=True)
class State:
    """The commit of one account: what was applied last.

    Attributes:
        applied_at: Fetch time of the last answer applied; None before the first.
        parent: Name of the commit before this one; None before the second.
        sha256: Of that answer.
        whole: Whether that answer was proven whole.
        verified_at: Fetch time of the last answer proven whole, applied or recognised.
        rows: How many rows that answer held.
        rejected: How many of them were malformed.
        duplicates: How many of them repeated another.
        counts: What applying it did.
        figures: How the table stood then.
        withheld_because: Why removals were withheld; None if none were.
        withheld_from: How many rows stood open when withholding began; None while nothing is withheld.
        accepted_removals: The most removals that a person accepted for that tick.
        settings: Those that bear on the result, as text.
        pending: Set while a tick is writing.
    """

    applied_at: datetime | None = None
    parent: str | None = None
    sha256: str | None = None
    whole: bool = False
    verified_at: datetime | None = None
    rows: int = 0
    rejected: int = 0
    duplicates: int = 0
    counts: Counts = field(default=Counts())
    figures: Figures = field(default=Figures())
    withheld_because: str | None = None
    withheld_from: int | None = None
    accepted_removals: int | None = None
    settings: tuple[tuple[str, str], ...] = ()
    pending: Pending | None = None

    @property
    def commit(self) -> str | None:
        """A name for the commit, by which derived files say what they were made from."""
        if self.applied_at is None or self.sha256 is None:
            return None
        return f"{self.applied_at:{_COMMIT_TIME}}-{self.sha256[:12]}"


def commit_time(commit: str) -> datetime:
    """The `applied_at` that the name of a commit tells."""
    return datetime.strptime(commit.partition("-")[0], _COMMIT_TIME).replace(tzinfo=UTC)


@dataclass(frozen=True)
class DerivedInfo:
    """What is known of a derived table on disk without reading its rows: the commit it was made from, and how many."""

    commit: str
    rows: int


@dataclass(frozen=True)
class RawFile:
    """One answer kept as received: what its file's name says.

    Attributes:
        file: Name of the file, in the account's folder of `raw`.
        fetched_at: When an answer with these bytes landed.
        sha256_start: The first 12 digits of the answer's SHA-256.
        format: Of the answer.
    """

    file: str
    fetched_at: datetime
    sha256_start: str
    format: Format


@dataclass(frozen=True)
class Landed:
    """The newest answer landed: what `raw/account=…/latest.json` says.

    Attributes:
        fetched_at: When an answer with these bytes was last fetched.
        sha256: Of the answer.
        size_bytes: Of the answer, uncompressed.
        file: Name of the file that holds it, compressed, in the same folder.
    """

    fetched_at: datetime
    sha256: str
    size_bytes: int
    file: str

    @property
    def format(self) -> Format:
        """The answer's format, from the file's name."""
        return "xml" if self.file.endswith(".xml.zst") else "json"
