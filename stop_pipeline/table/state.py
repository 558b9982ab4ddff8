"""What a data root records about one account: the commit, the kept responses, the snapshot and the derived tables.

Plain frozen values, stored as JSON. Times are timezone-aware UTC with microseconds. A fingerprint is that of
`periods.fingerprint`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar, cast

from pydantic import AfterValidator, AwareDatetime, TypeAdapter
from pydantic_core import to_json

from stop_pipeline.schema import SCHEMA_VERSION

Time: TypeAlias = Annotated[AwareDatetime, AfterValidator(lambda time: time.astimezone(UTC))]
Value = TypeVar("Value")

SUCCESS_CODE = 200
_SEAL = "state_sha256"
TIME_FORMAT = "%Y%m%dT%H%M%S.%fZ"
"""Times in names of commits and kept responses."""


@dataclass(frozen=True)
class ListText:
    """The text of the rows of a response, between the brackets of its list."""

    format: str  # “json” or “xml”
    size: int  # in bytes
    sha256: str


@dataclass(frozen=True)
class KeptResponse:
    """The newest response kept: the content of `raw/account=…/latest.json`."""

    fetched_at: Time  # when a response with these bytes was last fetched
    sha256: str  # of the uncompressed body
    size_bytes: int  # of the uncompressed body
    file: str  # name of the compressed file, in the same folder

    @property
    def format(self) -> str:
        """“json” or “xml”, from the name of the file."""
        return self.file.split(".")[-2]


@dataclass(frozen=True)
class RawFile:
    """A response kept as received, as its file name describes it."""

    file: str
    fetched_at: Time  # when a response with these bytes was first fetched
    sha256_start: str  # the first 12 digits
    format: str  # “json” or “xml”


@dataclass(frozen=True)
class SnapshotInfo:
    """What is known about the snapshot without reading its rows."""

    fetched_at: Time  # of the response; when read from the store, of the newest response with its bytes
    sha256: str  # of the response
    timezone: str  # in which `createdAt` was read
    reading_rules: str  # version of the rules by which phone numbers were read
    rows: int  # in the response; always listed + rejected + duplicates
    listed: int  # good rows
    rejected: int  # malformed rows
    duplicates: int  # rows equal to another one
    code: int | None  # the provider's; None if the response has none
    nb_data: int | None  # rows that the provider announced; None if the response has no number
    extra_fields: tuple[str, ...] = ()  # names of undocumented row fields, sorted, their digits masked
    any_too_late: bool = False  # whether a row was rejected because its `createdAt` was still too far ahead
    text: ListText | None = None  # of the response's rows; None if it could not be told apart from the rest
    builds_on: str | None = None  # commit whose response this one extends; the snapshot has only the added rows then
    months: Mapping[str, str] = field(default_factory=dict)  # fingerprint of the good rows of each month in it

    @property
    def complete(self) -> bool:
        """Whether the response is complete: the code of success, and exactly `nbData` rows."""
        return self.code == SUCCESS_CODE and self.nb_data == self.rows


@dataclass(frozen=True)
class Counts:
    """What one sync did to the open rows of `stops`."""

    listed: int = 0  # good rows in the response
    new: int = 0  # added under an `id` that was not open
    changed: int = 0  # added because the provider altered the row of an open `id`
    restored: int = 0  # added, and had ended before
    unchanged: int = 0  # listed as before
    removed: int = 0  # ended because they are no longer listed
    withheld: int = 0  # ends that the removal policy withheld, those of altered and of malformed rows included
    withheld_altered: int = 0  # how many of these belong to altered rows


@dataclass(frozen=True)
class Removal:
    """Ends that one sync applied without a person's word."""

    at: Time  # fetch time of the response
    rows: int  # that ended
    open_rows: int  # before


@dataclass(frozen=True)
class MonthInfo:
    """One file of `stops` or `rejected`, as the commit records it."""

    rows: int  # periods
    open_rows: int  # periods that have not ended
    fingerprint: str  # of the open rows


@dataclass(frozen=True)
class State:
    """The commit of one account: the content of `state/account=….json`."""

    schema_version: int = SCHEMA_VERSION  # of the data root
    applied_at: Time | None = None  # fetch time of the last response merged; None before the first
    parent: str | None = None  # name of the commit before this one
    # Of the last response merged; the fields down to `accepted_removals` describe it and its merge.
    sha256: str | None = None
    complete: bool = False
    verified_at: Time | None = None  # fetch time of the last complete response, merged or found unchanged
    rows: int = 0
    rejected: int = 0  # malformed rows
    duplicates: int = 0  # rows equal to another one
    extra_fields: tuple[str, ...] = ()  # as in `SnapshotInfo`
    counts: Counts = field(default=Counts())
    doubled_open_ids: int = 0  # open rows beyond the first of their `id`
    withheld_because: str | None = None  # why removals were withheld, as a part of a sentence; None if none were
    withheld_from: int | None = None  # open rows when withholding began; None while nothing is withheld
    accepted_removals: int | None = None  # the largest number of removals that a person allowed
    removals: tuple[Removal, ...] = ()  # of the last 24 hours
    settings: Mapping[str, str] = field(default_factory=dict)  # those that bear on the result, as text
    reading_rules: str | None = None  # version of the rules by which the stored phone numbers were read
    text: ListText | None = None  # of the rows merged last; None if the next response has to be parsed as a whole
    largest_id: int = 0  # ever merged
    months: Mapping[str, MonthInfo] = field(default_factory=dict)  # the files of `stops`
    rejected_file: MonthInfo | None = None  # the file of `rejected`; None if there is none
    commits: int = 0  # rows of the file of `commits`
    staged: Mapping[str, str | None] = field(default_factory=dict)
    """Files that this commit has not published yet: their place, and the staged file (None: to be removed)."""

    @property
    def commit(self) -> str | None:
        """Name of the commit, which derived tables carry; None before the first."""
        if self.applied_at is None or self.sha256 is None:
            return None
        return f"{self.applied_at:{TIME_FORMAT}}-{self.sha256[:12]}"

    @property
    def settled(self) -> bool:
        """Whether the last response was complete and is merged entirely: no removal is withheld."""
        return self.complete and self.withheld_because is None

    @property
    def last_response_at(self) -> Time | None:
        """Fetch time of the last response that was merged or found unchanged; None before the first."""
        return max((time for time in (self.applied_at, self.verified_at) if time), default=None)

    @property
    def total_rows(self) -> int:
        """Periods in `stops`."""
        return sum(month.rows for month in self.months.values())

    @property
    def open_rows(self) -> int:
        """Periods in `stops` that have not ended."""
        return sum(month.open_rows for month in self.months.values())


@dataclass(frozen=True)
class DerivedInfo:
    """A derived table, as its file describes it."""

    commit: str  # that it was made from
    rows: int
    reading_rules: str | None = None  # version of the rules by which it was made; None if schema version 1 made it
    unreadable_rows: int = 0  # listed rows that contain no phone number and so block nobody; `suppression_list` only
    timezone: str | None = None  # in which `createdAt` was read; None if schema version 1 made it

    def is_of(self, state: State) -> bool:
        """Whether it was made from this commit, as its rows were read; otherwise it has to be made again."""
        timezone = state.settings.get("timezone")
        same_zone = self.timezone == timezone or self.reading_rules is None  # version 1 recorded neither
        return same_zone and (self.commit, self.reading_rules) == (state.commit, state.reading_rules)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def from_document(kind: type[Value], document: Any) -> Value:
    """The value of a class that a JSON object stands for; a ValueError says that it is none, or has other types."""
    # As JSON, for only there does strictness know a time as text and a tuple as an array.
    adapter: TypeAdapter[Value] = _adapter(cast("Any", kind))
    return adapter.validate_json(to_json(document), strict=True)


def sealed(state: State) -> dict[str, Any]:
    """The content of a state file: every field, and a SHA-256 that shows whether they are as they were written."""
    return {_SEAL: hashlib.sha256(to_json(state)).hexdigest(), **vars(state)}


def state_from_document(document: Mapping[str, Any]) -> State:
    """The state that was `sealed`; version 2 had no SHA-256. A ValueError says that it is none, or was damaged."""
    content = {name: value for name, value in document.items() if name != _SEAL}
    known_version = document.get("schema_version") in range(2, SCHEMA_VERSION + 1)
    if not known_version or content.keys() != {field.name for field in fields(State)}:
        raise ValueError("The state has another version, or other fields.")
    state = from_document(State, content)
    if _SEAL in document and document[_SEAL] != sealed(state)[_SEAL]:
        raise ValueError("The state has other values than were written.")
    return state


def state_of_version_1(
    document: Mapping[str, Any], months: Mapping[str, MonthInfo], rejected_file: MonthInfo | None
) -> State:
    """The state that a document of schema version 1 describes; KeyError, TypeError or ValueError if it is none.

    Version 1 recorded neither what its files hold, which is what they themselves say now, nor the rules by which they
    were read. A sync that was killed may have left rows in them that were never committed.
    """
    return from_document(
        State,
        {
            **document,
            "complete": document["whole"],
            "doubled_open_ids": document.get("figures", {}).get("doubled_open_ids", 0),
            "months": months,
            "rejected_file": rejected_file,
        },
    )
