"""What a data root records about one account: the commit, the kept responses and the snapshot.

Plain frozen values. Times are timezone-aware UTC with microseconds.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

SUCCESS_CODE = 200
TIME_FORMAT = "%Y%m%dT%H%M%S.%fZ"
"""Times in names of commits and kept responses."""


@dataclass(frozen=True)
class ListText:
    """The text of the rows of a response, between the brackets of its list.

    Attributes:
        format: “json” or “xml”.
        size: Its length in bytes.
        sha256: Its SHA-256.
    """

    format: str
    size: int
    sha256: str


@dataclass(frozen=True)
class KeptResponse:
    """The newest response kept: the content of `raw/account=…/latest.json`.

    Attributes:
        fetched_at: When a response with these bytes was last fetched.
        sha256: SHA-256 of the uncompressed body.
        size_bytes: Size of the uncompressed body.
        file: Name of the file that holds it, compressed, in the same folder.
    """

    fetched_at: datetime
    sha256: str
    size_bytes: int
    file: str

    @property
    def format(self) -> str:
        """“json” or “xml”, from the name of the file."""
        return self.file.split(".")[-2]


@dataclass(frozen=True)
class RawFile:
    """A response kept as received, as its file name describes it.

    Attributes:
        file: Name of the file, in the account's folder of `raw`.
        fetched_at: When a response with these bytes was first fetched.
        sha256_start: The first 12 digits of its SHA-256.
        format: “json” or “xml”.
    """

    file: str
    fetched_at: datetime
    sha256_start: str
    format: str


@dataclass(frozen=True)
class SnapshotInfo:
    """What is known about the snapshot without reading its rows.

    Attributes:
        fetched_at: Fetch time of the response; when the snapshot is read from the store, of the newest with its bytes.
        sha256: SHA-256 of the response.
        timezone: Zone in which `createdAt` was read.
        reading_rules: Version of the rules by which phone numbers were read.
        rows: Rows in the response; always `listed` + `rejected` + `duplicates`.
        listed: Good rows.
        rejected: Malformed rows.
        duplicates: Rows equal to another one.
        code: The provider's code; None if the response has none.
        nb_data: The number of rows that the provider announced; None if the response has none.
        extra_fields: Names of undocumented row fields, sorted, their digits masked.
        any_too_late: Whether a row was rejected because its `createdAt` was still too far ahead.
        text: The text of the response's rows; None if it could not be told apart from the rest.
        builds_on: Commit to whose response this one only appends rows; the snapshot then holds these rows alone.
        months: Fingerprint (`merge.fingerprint`) of the good rows of each month that the snapshot holds.
    """

    fetched_at: datetime
    sha256: str
    timezone: str
    reading_rules: str
    rows: int
    listed: int
    rejected: int
    duplicates: int
    code: int | None
    nb_data: int | None
    extra_fields: tuple[str, ...] = ()
    any_too_late: bool = False
    text: ListText | None = None
    builds_on: str | None = None
    months: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the response is complete: the code of success, and exactly `nbData` rows."""
        return self.code == SUCCESS_CODE and self.nb_data == self.rows

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        text = document["text"]
        return cls(
            **{
                **document,
                "fetched_at": parse_time(document["fetched_at"]),
                "extra_fields": tuple(document["extra_fields"]),
                "text": text and ListText(**text),
            }
        )


@dataclass(frozen=True)
class Counts:
    """What one sync did to the open rows of `stops`.

    Attributes:
        listed: Good rows in the response.
        new: Rows added under an `id` that was not open.
        changed: Rows added because the provider altered the row of an open `id`.
        restored: Rows added that had ended before.
        unchanged: Rows listed as before.
        removed: Rows ended because they are no longer listed.
        withheld: Ends that the removal policy withheld, altered rows included.
        withheld_altered: How many of these belong to altered rows.
    """

    listed: int = 0
    new: int = 0
    changed: int = 0
    restored: int = 0
    unchanged: int = 0
    removed: int = 0
    withheld: int = 0
    withheld_altered: int = 0


@dataclass(frozen=True)
class Removal:
    """Ends that one sync applied without a person's word.

    Attributes:
        at: Fetch time of the response.
        rows: How many rows ended.
        open_rows: How many rows were open before.
    """

    at: datetime
    rows: int
    open_rows: int


@dataclass(frozen=True)
class MonthInfo:
    """One file of `stops` or `rejected`, as the commit records it.

    Attributes:
        rows: Periods.
        open_rows: Periods that have not ended.
        fingerprint: Fingerprint of the open rows.
    """

    rows: int
    open_rows: int
    fingerprint: str


@dataclass(frozen=True)
class State:
    """The commit of one account: the content of `state/account=….json`.

    Attributes:
        schema_version: Version of the data root that wrote it.
        applied_at: Fetch time of the last response merged; None before the first.
        parent: Name of the commit before this one.
        sha256: SHA-256 of the last response merged.
        complete: Whether that response was complete.
        verified_at: Fetch time of the last complete response, merged or found unchanged.
        rows, rejected, duplicates: How many rows that response had, how many malformed, how many equal to another.
        extra_fields: Names of its undocumented row fields, as in `SnapshotInfo`.
        counts: What merging it did.
        doubled_open_ids: Open rows beyond the first of their `id`.
        withheld_because: Why removals were withheld, as a sentence; None if none were.
        withheld_from: Open rows when withholding began; None while nothing is withheld.
        accepted_removals: The largest number of removals that a person allowed in that sync.
        removals: Removals of the last 24 hours.
        settings: Settings that bear on the result, as text.
        reading_rules: Version of the rules by which the stored phone numbers were read.
        text: The text of the rows merged last, if a response that only appends to it can be merged by itself.
        largest_id: The largest `id` ever merged.
        months: The files of `stops`, by month.
        rejected_file: The file of `rejected`; None if there is none.
        commits: How many rows the file of `commits` has.
        staged: Files that this commit has not published yet: their place, and the staged file (None: to be removed).
    """

    schema_version: int = 2
    applied_at: datetime | None = None
    parent: str | None = None
    sha256: str | None = None
    complete: bool = False
    verified_at: datetime | None = None
    rows: int = 0
    rejected: int = 0
    duplicates: int = 0
    extra_fields: tuple[str, ...] = ()
    counts: Counts = field(default=Counts())
    doubled_open_ids: int = 0
    withheld_because: str | None = None
    withheld_from: int | None = None
    accepted_removals: int | None = None
    removals: tuple[Removal, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    reading_rules: str | None = None
    text: ListText | None = None
    largest_id: int = 0
    months: Mapping[str, MonthInfo] = field(default_factory=dict)
    rejected_file: MonthInfo | None = None
    commits: int = 0
    staged: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def commit(self) -> str | None:
        """Name of the commit, which derived tables carry; None before the first."""
        if self.applied_at is None or self.sha256 is None:
            return None
        return f"{self.applied_at:{TIME_FORMAT}}-{self.sha256[:12]}"

    @property
    def total_rows(self) -> int:
        """Periods in `stops`."""
        return sum(month.rows for month in self.months.values())

    @property
    def open_rows(self) -> int:
        """Periods in `stops` that have not ended."""
        return sum(month.open_rows for month in self.months.values())

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        text, rejected_file = document["text"], document["rejected_file"]
        return cls(
            **{
                **document,
                "applied_at": parse_time(document["applied_at"]),
                "verified_at": parse_time(document["verified_at"]),
                "extra_fields": tuple(document["extra_fields"]),
                "counts": Counts(**document["counts"]),
                "removals": tuple(
                    Removal(**{**removal, "at": parse_time(removal["at"])}) for removal in document["removals"]
                ),
                "text": text and ListText(**text),
                "months": {name: MonthInfo(**month) for name, month in document["months"].items()},
                "rejected_file": rejected_file and MonthInfo(**rejected_file),
            }
        )


@dataclass(frozen=True)
class DerivedInfo:
    """A derived table, as its file describes it.

    Attributes:
        commit: The commit that it was made from.
        rows: How many it holds.
        reading_rules: Version of the rules by which it was made; None if schema version 1 made it.
        unreadable_rows: Listed rows that contain no phone number and so block nobody; `suppression_list` only.
        timezone: Zone in which `createdAt` was read.
    """

    commit: str
    rows: int
    reading_rules: str | None = None
    unreadable_rows: int = 0
    timezone: str | None = None


def to_json(value: Any) -> dict[str, Any]:
    """One of these values as a document; times become ISO 8601 texts when it is written."""
    return dataclasses.asdict(value)


def parse_time(text: str | None) -> Any:
    """A time as a document holds it.

    Raises:
        ValueError: it has no time zone.
    """
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(text)
    return time.astimezone(UTC)
