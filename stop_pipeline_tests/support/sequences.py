"""Random sequences of responses, for properties that must hold after any of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from stop_pipeline_tests.support.syncing import START, Row, response_body


@dataclass(frozen=True)
class Step:
    """One response: which of 40 rows it lists, which of those are altered, what is malformed, whether it is complete.

    Or, as `appended` or `prepended`, the response before with some new rows after or before its own.
    """

    listed: frozenset[int]
    altered: frozenset[int] = frozenset()
    malformed: frozenset[int] = frozenset()
    complete: bool = True
    accepted: int | None = None
    hours: int = 1
    renumbered: bool = False
    appended: int = 0
    prepended: int = 0

    def rows(self, before: list[Any], number: int) -> list[Any]:
        """The rows of the response, the malformed ones last, if so many responses have come before."""
        if before and (self.appended or self.prepended):
            new = [_new_row(number * 10 + place) for place in range(self.appended + self.prepended)]
            return [*new[self.appended :], *before, *new[: self.appended]]
        by = 5_000 if self.renumbered else 0
        good = [_row(place, altered=place in self.altered, by=by) for place in sorted(self.listed)]
        return [*good, *({"createdAt": "2025-01-01 00:00:00", "id": f"x{number}"} for number in sorted(self.malformed))]


def _row(number: int, *, altered: bool, by: int = 0) -> Row:
    # Over three months; an alteration of an odd row moves it to another month, of an even one changes its number.
    month = 1 + number % 3
    if altered and number % 2:
        month += 1
    phone_number = f"+336399801{number:02}" if altered and number % 2 == 0 else f"+336399800{number:02}"
    return Row(number + 1 + by, phone_number, f"2025-{month:02}-01 10:00:{number:02}")


def _new_row(number: int) -> Row:
    return Row(100_000 + number, f"+3363998{1_000 + number}", f"2025-{1 + number % 3:02}-02 10:00:00")


_NUMBERS = st.integers(0, 39)
_MOST = st.frozensets(_NUMBERS, max_size=12).map(lambda missing: frozenset(range(40)) - missing)
STEPS = st.builds(
    Step,
    listed=st.one_of(_MOST, _MOST, st.frozensets(_NUMBERS)),
    altered=st.frozensets(_NUMBERS, max_size=6),
    malformed=st.frozensets(st.integers(0, 3)),
    complete=st.sampled_from([True, True, True, False]),
    accepted=st.sampled_from([None, None, None, 5, 40]),
    hours=st.sampled_from([1, 1, 10, 30]),
    renumbered=st.sampled_from([False] * 5 + [True]),
    appended=st.sampled_from([0, 0, 0, 2]),
    prepended=st.sampled_from([0, 0, 0, 0, 1]),
)


@dataclass(frozen=True)
class Response:
    """The response of a step, fetched at a time."""

    step: Step
    rows: list[Any]
    at: datetime

    @property
    def body(self) -> bytes:
        return response_body(self.rows, nb_data=len(self.rows) + (not self.step.complete))


def responses(steps: Sequence[Step]) -> Iterator[Response]:
    """The response of each step."""
    rows, at = list[Any](), START
    for number, step in enumerate(steps):
        rows, at = step.rows(rows, number), at + timedelta(hours=step.hours)
        yield Response(step, rows, at)
