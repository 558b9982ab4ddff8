"""Tables made from a commit: which numbers must not be texted, how many rows block nobody, and counts per day."""

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stop_pipeline.phone_numbers import find_phone_numbers, read_phone_number
from stop_pipeline.schema import REJECTED, STOPS, STOPS_PER_DAY, SUPPRESSION_LIST
from stop_pipeline.table.derive import SuppressionList, stops_per_day, suppression_list
from stop_pipeline_tests.support.parsing import records

FIRST, LATER = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC)


def frame(columns: dict[str, list[Any]], dtypes: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(values, dtype=dtypes[name]) for name, values in columns.items()})


def stops_of(*rows: tuple[str, datetime]) -> pd.DataFrame:
    """What the suppression list is made from: numbers as they were read, and when they were listed."""
    readings = [read_phone_number(spelling) for spelling, _ in rows]
    return frame(
        {
            "phone_number": [reading.number for reading in readings],
            "country": [reading.country for reading in readings],
            "created_at": [created_at for _, created_at in rows],
        },
        STOPS.dtypes,
    )


def rejected_of(*rows: tuple[str, str | None]) -> pd.DataFrame:
    return frame({"raw": [raw for raw, _ in rows], "phone_number": [number for _, number in rows]}, REJECTED.dtypes)


def derived(*listed: str, rejected: Any = ()) -> SuppressionList:
    return suppression_list(stops_of(*((spelling, FIRST) for spelling in listed)), rejected_of(*rejected))


def origins(made: SuppressionList) -> dict[str, str]:
    return dict(zip(made.numbers["phone_number"], made.numbers["origin"], strict=True))


def test_without_rows_the_list_is_empty_with_the_declared_types() -> None:
    made = derived()
    assert made.numbers.empty
    assert {name: str(dtype) for name, dtype in made.numbers.dtypes.items()} == SUPPRESSION_LIST.dtypes
    assert made.unreadable_rows == 0


def test_a_number_is_listed_once_with_its_first_and_last_opt_out() -> None:
    made = suppression_list(
        stops_of(("+33639980001", LATER), ("06 39 98 00 01", FIRST), ("+33639980002", LATER)), rejected_of()
    )
    assert records(made.numbers) == [
        {
            "phone_number": "+33639980001",
            "first_stop_at": FIRST,
            "last_stop_at": LATER,
            "stop_count": 2,
            "origin": "listed",
        },
        {
            "phone_number": "+33639980002",
            "first_stop_at": LATER,
            "last_stop_at": LATER,
            "stop_count": 1,
            "origin": "listed",
        },
    ]


@pytest.mark.parametrize(
    ("spelling", "numbers"),
    [
        ("tel:+33639980003", ["+33639980003"]),
        ("+33639980004;+33639980005", ["+33639980004", "+33639980005"]),
        ("0639980007 poste 2", ["+33639980007"]),
        ("STOP 06 39 98 00 08 merci", ["+33639980008"]),
    ],
)
def test_every_number_in_a_spelling_that_is_not_one_number_is_blocked_beside_the_spelling(
    spelling: str, numbers: list[str]
) -> None:
    made = derived(spelling)
    assert origins(made) == {spelling: "listed", **dict.fromkeys(numbers, "found in text")}
    assert made.numbers["first_stop_at"].tolist() == [pd.Timestamp(FIRST)] * len(made.numbers)
    assert made.unreadable_rows == 0


@pytest.mark.parametrize(
    "row",
    [
        {"id": 5, "phoneNumber": 3.3639980003e10, "createdAt": "2025-06-01 10:00:00"},
        {"id": 5, "phoneNumber": ["+33639980003"], "createdAt": "2025-06-01 10:00:00"},
        {"id": 5, "phoneNumber": {"number": "+33639980003"}, "createdAt": "2025-06-01 10:00:00"},
        {"id": 5, "number": "0639980003"},
        ["5", "06 39 98 00 03", "2025-06-01 10:00:00", "more"],
        "tel:0639980003",
    ],
)
def test_a_number_anywhere_in_a_malformed_row_is_blocked(row: Any) -> None:
    made = derived(rejected=[(json.dumps(row), None)])
    assert origins(made) == {"+33639980003": "found in text"}
    assert made.numbers["first_stop_at"].isna().all()
    assert made.unreadable_rows == 0


def test_a_malformed_row_blocks_the_number_that_it_has_and_the_others_in_it() -> None:
    row = {"id": 0, "phoneNumber": "+33639980001", "createdAt": "or 06 39 98 00 02"}
    made = derived(rejected=[(json.dumps(row), "+33639980001")])
    assert origins(made) == {"+33639980001": "rejected row", "+33639980002": "found in text"}
    assert made.numbers["stop_count"].tolist() == [1, 1]


def test_of_several_origins_the_strongest_is_given_and_all_rows_are_counted() -> None:
    number = "+33639980001"
    made = derived(
        f"tel:{number}", number, rejected=[(f'{{"id":0,"phoneNumber":"{number}"}}', number), (f'["{number}"]', None)]
    )
    row = made.numbers.set_index("phone_number").loc[number]
    assert (row["origin"], row["stop_count"], row["first_stop_at"]) == ("listed", 4, FIRST)
    by_rejected = derived(f"x {number}", rejected=[(f'{{"id":0,"phoneNumber":"{number}"}}', number)])
    assert origins(by_rejected)[number] == "rejected row"


@pytest.mark.parametrize("spelling", ["+33xxxxxxxxx", "no number", "n/a", "x"])
def test_a_listed_row_in_which_no_number_is_found_is_counted(spelling: str) -> None:
    assert derived(spelling, "+33639980001").unreadable_rows == 1
    assert derived(spelling, spelling, "+33639980001").unreadable_rows == 2


@pytest.mark.parametrize("spelling", ["0123456", "+999123456789"])
def test_digits_that_are_not_a_number_anywhere_still_block_the_same_digits(spelling: str) -> None:
    made = derived(spelling)
    assert origins(made) == {spelling: "listed"}
    assert made.unreadable_rows == 0


@pytest.mark.parametrize(
    ("raw", "number", "counted"),
    [
        ('{"createdAt":"bad","id":1,"phoneNumber":""}', None, True),
        ("null", None, True),
        ('{"createdAt":"bad","id":1,"phoneNumber":"n/a"}', "n/a", True),
        ('{"createdAt":"bad","id":1,"phoneNumber":"0123456"}', "0123456", False),
        ('{"createdAt":"bad","id":1,"phoneNumber":"+33639980001"}', "+33639980001", False),
        ('{"createdAt":"bad","id":1,"phoneNumber":["0639980001"]}', None, False),
        ('{"createdAt":"bad","id":1,"phoneNumber":"n/a","mobile":"0639980001"}', "n/a", False),
    ],
)
def test_a_malformed_row_in_which_no_number_is_found_is_counted_too(
    raw: str, number: str | None, *, counted: bool
) -> None:
    assert derived(rejected=[(raw, number)]).unreadable_rows == counted


# By code points, a smiley comes after the last letter of the plane below, though UTF-16 would have it before.
SPELLINGS = [
    "+33639980001",
    "+33639980002",
    "+447400123456",
    "0",
    "00",
    "\uffee",
    "\U0001f600",
    "tel:0639980001",
    "n/a",
]
LISTED = st.lists(st.tuples(st.sampled_from(SPELLINGS), st.sampled_from([FIRST, LATER])), max_size=10)
MALFORMED = st.lists(
    st.sampled_from(
        [
            ("null", None),
            ('["0639980002"]', None),
            ('{"id":0,"phoneNumber":"+33639980001"}', "+33639980001"),
            ('{"id":0,"phoneNumber":"n/a"}', "n/a"),
        ]
    ),
    max_size=4,
    unique=True,
)


@settings(max_examples=25, deadline=None)
@given(LISTED, MALFORMED)
def test_the_list_is_what_its_rules_say_of_each_row(
    listed: list[tuple[str, datetime]], malformed: list[tuple[str, str | None]]
) -> None:
    asked = defaultdict[str, list[tuple[int, datetime | None]]](list)
    for spelling, created_at in listed:
        reading = read_phone_number(spelling)
        asked[reading.number].append((0, created_at))
        for number in [] if reading.readable else find_phone_numbers(spelling):
            asked[number].append((2, created_at))
    for raw, own in malformed:
        if own:
            asked[own].append((1, None))
        for number in set(find_phone_numbers(raw)) - {own}:
            asked[number].append((2, None))
    made = suppression_list(stops_of(*listed), rejected_of(*malformed)).numbers
    assert records(made) == [
        {
            "phone_number": number,
            "first_stop_at": min((at for _, at in asked[number] if at), default=None),
            "last_stop_at": max((at for _, at in asked[number] if at), default=None),
            "stop_count": len(asked[number]),
            "origin": ("listed", "rejected row", "found in text")[min(origin for origin, _ in asked[number])],
        }
        for number in sorted(asked)
    ]


PERIODS = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.sampled_from(["FR", "GB", None]),
        st.datetimes(datetime(2025, 1, 1), datetime(2025, 1, 4)),  # noqa: DTZ001 – local times
    ),
    max_size=10,
)


@settings(max_examples=25, deadline=None)
@given(PERIODS)
def test_each_id_counts_once_on_the_day_and_in_the_country_it_was_last_listed_with(
    periods: list[tuple[int, str | None, datetime]],
) -> None:
    seen = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in range(len(periods))]
    stops = frame(
        {
            "id": [row_id for row_id, _, _ in periods],
            "country": [country for _, country, _ in periods],
            "created_at_local": [time for _, _, time in periods],
            "first_seen_at": seen,
            "removed_at": [*seen, None][1:],
        },
        STOPS.dtypes,
    ).sample(frac=1, random_state=1)
    last = {row_id: (time.date(), country) for row_id, country, time in periods}
    counts = stops_per_day(stops)
    assert {name: str(dtype) for name, dtype in counts.dtypes.items()} == STOPS_PER_DAY.dtypes
    rows = [(row["day"].date(), row["country"], row["stops"]) for row in records(counts)]
    assert {(day, country): count for day, country, count in rows} == Counter(last.values())
    assert rows == sorted(rows, key=lambda row: (row[0], row[1] is None, row[1] or ""))


def test_a_period_that_stands_tells_the_day_even_if_another_one_was_first_seen_later() -> None:
    stops = frame(
        {
            "id": [1, 1],
            "country": ["FR", "FR"],
            "created_at_local": [datetime(2026, 10, 1, 9), datetime(2026, 10, 2, 9)],  # noqa: DTZ001 – local times
            "first_seen_at": [datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)],
            "removed_at": [None, datetime(2026, 11, 3, tzinfo=UTC)],
        },
        STOPS.dtypes,
    )
    assert [str(row["day"].date()) for row in records(stops_per_day(stops))] == ["2026-10-01"]
