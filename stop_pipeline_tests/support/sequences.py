"""Random sequences of responses, for properties that must hold after any of them."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from stop_pipeline_tests.support.syncing import Row, response_body


@dataclass(frozen=True)
class RandomResponse:
    """A response: which of 40 ids it lists, which of those are altered, what is malformed, and whether it is complete.

    Attributes:
        listed: Numbers of the listed rows.
        altered: Numbers of the rows that are listed otherwise than usual.
        malformed: Numbers of malformed rows.
        complete: Whether `nbData` is right.
        accepted: How many removals a person accepts.
    """

    listed: frozenset[int]
    altered: frozenset[int]
    malformed: frozenset[int]
    complete: bool
    accepted: int | None

    def body(self) -> bytes:
        rows: list[Any] = [_row(number, altered=number in self.altered) for number in sorted(self.listed)]
        rows += [{"createdAt": "2025-01-01 00:00:00", "id": f"x{number}"} for number in sorted(self.malformed)]
        return response_body(rows, nb_data=len(rows) + (not self.complete))


def _row(number: int, *, altered: bool) -> Row:
    """A row in one of four months; an alteration gives an odd row another month, and an even one another number."""
    month = 1 + number % 3
    if altered and number % 2:
        month += 1
    phone_number = f"+336399900{number:02}" if altered and number % 2 == 0 else f"+336399800{number:02}"
    return Row(number + 1, phone_number, f"2025-{month:02}-01 10:00:{number:02}")


_NUMBERS = st.integers(0, 39)
_MOST = st.frozensets(_NUMBERS, max_size=12).map(lambda missing: frozenset(range(40)) - missing)
RESPONSES = st.builds(
    RandomResponse,
    listed=st.one_of(_MOST, _MOST, st.frozensets(_NUMBERS)),
    altered=st.frozensets(_NUMBERS, max_size=6),
    malformed=st.frozensets(st.integers(0, 3)),
    complete=st.sampled_from([True, True, True, False]),
    accepted=st.sampled_from([None, None, None, 5, 40]),
)
