"""A suppression list brought up to date is the one made anew, whatever a tick did to the rows of a number."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stop_pipeline.derive import suppression_list, updated_suppression_list
from stop_pipeline.schema import REJECTED, STOPS, SUPPRESSION_LIST

BEFORE, NOW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
# By code points, a smiley comes after the last letter of the plane below, though UTF-16 would have it before.
NUMBERS = ["+33639980001", "+33639980002", "+447400123456", "0", "00", "\uffee", "\U0001f600"]
DATES = [datetime(2025, month, 1, tzinfo=UTC) for month in range(1, 5)]


@dataclass(frozen=True)
class Asked:
    """A row that bears a number, of `stops` or malformed, and in which of two commits it stands."""

    number: str | None
    created_at: datetime | None
    stands: tuple[bool, bool]

    def removed_at(self, commit: int) -> datetime | None:
        return None if self.stands[commit] else BEFORE if commit == 0 else NOW


STANDS = st.tuples(st.booleans(), st.booleans())
GOOD = st.builds(Asked, st.sampled_from(NUMBERS), st.sampled_from(DATES), STANDS)
MALFORMED = st.builds(Asked, st.none() | st.sampled_from(NUMBERS), st.none(), STANDS)


def as_stops(rows: list[Asked], commit: int) -> pa.Table:
    """Of `schema.STOPS` what the list is made from."""
    names = ("phone_number", "created_at", "removed_at")
    columns = (
        [row.number for row in rows],
        [row.created_at for row in rows],
        [row.removed_at(commit) for row in rows],
    )
    schema = pa.schema([STOPS.arrow.field(name) for name in names])
    return pa.table(dict(zip(names, columns, strict=True)), schema=schema)


def as_rejected(rows: list[Asked], commit: int) -> pa.Table:
    """Of `schema.REJECTED` what the list is made from."""
    names = ("phone_number", "removed_at")
    columns = ([row.number for row in rows], [row.removed_at(commit) for row in rows])
    schema = pa.schema([REJECTED.arrow.field(name) for name in names])
    return pa.table(dict(zip(names, columns, strict=True)), schema=schema)


@settings(max_examples=300, deadline=None)
@given(good=st.lists(GOOD, max_size=12), malformed=st.lists(MALFORMED, max_size=6))
def test_a_list_brought_up_to_date_is_the_one_made_anew(good: list[Asked], malformed: list[Asked]) -> None:
    before, anew = (suppression_list(as_stops(good, commit), as_rejected(malformed, commit)) for commit in (0, 1))
    ended = {row.number for row in (*good, *malformed) if row.number and row.stands == (True, False)}

    def to_give(rows: list[Asked]) -> list[Asked]:
        return [row for row in rows if row.number in ended or row.stands == (False, True)]

    updated = updated_suppression_list(
        before, pa.array(sorted(ended), pa.string()), as_stops(to_give(good), 1), as_rejected(to_give(malformed), 1)
    )

    assert updated.schema.equals(SUPPRESSION_LIST.arrow)
    assert updated.equals(anew)
    assert anew.to_pylist() == plainly(good, malformed)


def plainly(good: list[Asked], malformed: list[Asked]) -> list[dict[str, object]]:
    """The list that stands now, by its rules in plain Python."""
    asked = defaultdict[str, list[datetime | None]](list)
    for row in (*good, *malformed):
        if row.stands[1] and row.number is not None:
            asked[row.number].append(row.created_at)
    return [
        {
            "phone_number": number,
            "first_stop_at": min(filter(None, asked[number]), default=None),
            "last_stop_at": max(filter(None, asked[number]), default=None),
            "stop_count": len(asked[number]),
            "origin": "listed" if any(asked[number]) else "rejected row",
        }
        for number in sorted(asked)
    ]
