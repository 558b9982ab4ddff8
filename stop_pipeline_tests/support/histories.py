"""Any history of a list, synced for real, and beside it a model in plain Python that remembers every response."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from stop_pipeline.schema import FOUND_ORIGIN, LISTED_ORIGIN, REJECTED_ORIGIN
from stop_pipeline_tests.support.syncing import START, Syncer, response_body

NUMBERS = tuple(f"+3363998000{digit}" for digit in range(10))
NEVER_LISTED = NUMBERS[9]
SPELLINGS = ("{0}", "0033{1}", "0{1}", "33{1}", "{1}", "+33 (0){1}", "06 {2} {3} {4} {5}", "+33\u00a06.{2}-{3} {4}/{5}")
EVERYTHING = 10_000
"""More removals than there are."""


def spelled(number: str, spelling: str) -> str:
    """A number, +336…, in one of `SPELLINGS`."""
    national = number.removeprefix("+33")
    return spelling.format(number, national, *(national[at : at + 2] for at in (1, 3, 5, 7)))


@dataclass(frozen=True)
class Entry:
    """What one place of the list can hold: a row, and the numbers that it blocks, with their origins."""

    row: Mapping[str, Any]
    blocks: Mapping[str, str]
    created_at: datetime | None


def _good(row_id: int, spelling: str, day: int, *numbers: str, origin: str = LISTED_ORIGIN) -> Entry:
    row = {"id": row_id, "phoneNumber": spelling, "createdAt": f"2025-0{1 + day % 2}-{day:02} 10:00:00"}
    return Entry(row, dict.fromkeys(numbers, origin), datetime(2025, 1 + day % 2, day, 9, tzinfo=UTC))


def _malformed(origin: str, number: str, **values: str) -> Entry:
    return Entry({"id": "x", **values}, {number: origin}, None)


PLACES: tuple[tuple[Entry, Entry], ...] = (
    *((_good(n, NUMBERS[n], n, NUMBERS[n]), _good(n, NUMBERS[n], n + 9, NUMBERS[n])) for n in range(1, 4)),
    (_good(4, NUMBERS[4], 4, NUMBERS[4]), _good(4, "06 39 98 00 05", 4, NUMBERS[5])),  # altered to another number
    (_good(5, NUMBERS[1], 6, NUMBERS[1]), _good(5, "0033639980001", 7, NUMBERS[1])),  # the number of another row
    (
        _good(6, f"{NUMBERS[2]} poste 12", 8, NUMBERS[2], origin=FOUND_ORIGIN),
        _good(6, f"{NUMBERS[6]};{NUMBERS[7]}", 9, NUMBERS[6], NUMBERS[7], origin=FOUND_ORIGIN),
    ),
    (
        _malformed(REJECTED_ORIGIN, NUMBERS[3], phoneNumber="06 39 98 00 03", createdAt="n/a"),
        _malformed(FOUND_ORIGIN, NUMBERS[8], note="rappeler le 06 39 98 00 08"),
    ),
)
ABSENT = 2


@dataclass(frozen=True)
class Step:
    """One response.

    Attributes:
        places: Which of its two entries each place holds; `ABSENT` for none.
        complete: Whether the response is complete.
        accepted: Whether its removals are accepted, so that they are not withheld.
        hours: Time since the response before.
        repeated: Whether it is the response before once more.
    """

    places: tuple[int, ...]
    complete: bool = True
    accepted: bool = True
    hours: int = 1
    repeated: bool = False


STEPS = st.builds(
    Step,
    places=st.tuples(*[st.sampled_from([0, 0, 1, ABSENT])] * len(PLACES)),
    complete=st.sampled_from([True, True, True, False]),
    accepted=st.sampled_from([True, True, True, False]),
    hours=st.integers(1, 30),
    repeated=st.sampled_from([False, False, False, True]),
)
HISTORIES = st.lists(STEPS, min_size=1, max_size=6)

A_MALFORMED_ROW_VANISHES = [Step((0, 0, 0, 0, 0, 0, 1)), Step((0, 0, 0, 0, 0, 0, 0), accepted=False)]
VARIED = [
    Step((0, 0, 0, 0, 0, 0, 0)),
    Step((1, 0, ABSENT, 1, 0, 1, 1)),
    Step((1, 0, ABSENT, 1, 0, 1, 1), repeated=True),
    Step((ABSENT, 0, 0, 1, ABSENT, 0, 1), complete=False),
    Step((ABSENT, 0, 0, 1, ABSENT, 0, ABSENT), accepted=False),
    Step((ABSENT, 0, 0, 0, ABSENT, ABSENT, 0)),
    Step((0, 0, 0, 0, 1, ABSENT, 0)),
    Step((0, 0, 0, 0, 1, ABSENT, 0), repeated=True),
]
"""Rows that are altered, leave and come back; a repeated, an incomplete and a withheld response."""


@dataclass
class Response:
    """A response that was merged.

    Attributes:
        fetched_at: When it was fetched.
        sha256: Its SHA-256.
        complete: Whether it is complete.
        withheld: Whether removals were withheld, so that open rows need not be in it.
        last_fetched_at: When it was fetched last, if that was the last fetch of all.
    """

    fetched_at: datetime
    sha256: str
    complete: bool
    withheld: bool
    last_fetched_at: datetime


@dataclass
class Period:
    """An entry that is listed, from its first response until it ends."""

    entry: Entry
    first: Response
    removed_at: datetime | None = None

    def covers(self, moment: datetime | None) -> bool:
        """Whether it was known, and had not ended, at a time; None for now."""
        if moment is None:
            return self.removed_at is None
        return self.first.fetched_at <= moment and (self.removed_at is None or self.removed_at > moment)


@dataclass
class History:
    """One account's syncs and their model."""

    syncer: Syncer
    periods: list[Period] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    verified_at: datetime | None = None
    listed: list[Entry] = field(default_factory=list)
    complete: bool = True

    def sync(self, step: Step) -> None:
        if not (step.repeated and self.responses):
            self.listed = [PLACES[place][choice] for place, choice in enumerate(step.places) if choice != ABSENT]
            self.complete = step.complete
        rows = [entry.row for entry in self.listed]
        body = response_body(rows, nb_data=len(rows) + (not self.complete))
        at = self.syncer.now + timedelta(hours=step.hours)
        self.syncer.sync(body, at=at, accept_removals=EVERYTHING if step.accepted else 0)
        if self.complete:
            self.verified_at = at
        self._merge(at, hashlib.sha256(body).hexdigest(), accepted=step.accepted)

    def _merge(self, at: datetime, sha256: str, *, accepted: bool) -> None:
        last = self.responses[-1] if self.responses else None
        if last is not None and last.sha256 == sha256 and not last.withheld:
            last.last_fetched_at = at if last.complete else last.fetched_at
            return
        standing = [period for period in self.periods if period.removed_at is None]
        gone = [period for period in standing if period.entry not in self.listed]
        gone_entries = [period.entry for period in gone]
        still_blocked = {number for entry in self.listed for number in entry.blocks}
        # A malformed row may go if its numbers stay.
        rows_gone = any(entry.created_at or not still_blocked.issuperset(entry.blocks) for entry in gone_entries)
        response = Response(at, sha256, self.complete, rows_gone and not (self.complete and accepted), at)
        for period in gone if self.complete and not response.withheld else []:
            period.removed_at = at
        standing_entries = [period.entry for period in standing]
        self.periods += [Period(entry, response) for entry in self.listed if entry not in standing_entries]
        self.responses.append(response)

    def numbers(self, moment: datetime | None) -> set[str]:
        """The numbers on the list at a time; None for now."""
        return {number for period in self.periods if period.covers(moment) for number in period.entry.blocks}

    def last_listed(self, period: Period) -> Response:
        """The last response that is known to list a period's entry."""
        known = [
            response
            for response in self.responses
            if response.complete
            and not response.withheld
            and response.fetched_at >= period.first.fetched_at
            and (period.removed_at is None or response.fetched_at < period.removed_at)
        ]
        return known[-1] if known else period.first

    def times(self) -> Iterator[datetime]:
        """Times at which, just before which and between which something was fetched."""
        for response in self.responses:
            for offset in (timedelta(microseconds=-1), timedelta(0), timedelta(minutes=20)):
                yield response.fetched_at + offset


def synced(root: Path, steps: list[Step], account: str = "main", start: datetime = START) -> History:
    """A data root with an account that went through some steps."""
    history = History(Syncer(root, account, start=start))
    for step in steps:
        history.sync(step)
    return history
