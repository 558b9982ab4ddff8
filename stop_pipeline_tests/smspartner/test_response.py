"""What becomes of every row of a response: kept, collapsed or rejected with a reason, and never lost."""

import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stop_pipeline.errors import UnreadableResponseError
from stop_pipeline.phone_numbers import read_phone_number
from stop_pipeline.schema import BAD_CREATED_AT, BAD_ID, BAD_PHONE_NUMBER, CONFLICTING_ID, NOT_AN_OBJECT
from stop_pipeline_tests.support.parsing import (
    FETCHED_AT,
    GOOD,
    NOON,
    NUMBER,
    holds_its_promises,
    json_document,
    only_rejected,
    read,
    read_rows,
    reasons,
    records,
    xml_document,
    xml_row,
)

ZONE = ZoneInfo("Europe/Paris")
ESCAPED = {"id": 99, "phoneNumber": "é", "createdAt": NOON}
"""A row that makes its block one that Python reads, not Arrow."""

# Rows


@pytest.mark.parametrize("row", [None, True, 7, 1.5, "text", [], [1, NOON], "2024-06-01 12:00:00"])
def test_a_row_that_is_not_an_object_is_rejected(row: Any) -> None:
    assert only_rejected(read_rows(row)) == (json.dumps(row, separators=(",", ":")), NOT_AN_OBJECT, None)


@pytest.mark.parametrize(
    "row", [NUMBER, "06 39 98 00 12", [1, NUMBER, NOON], [None, [], "0", NUMBER], ["612345678", NUMBER]]
)
def test_a_row_that_is_not_an_object_still_gives_the_phone_number_that_it_certainly_has(row: Any) -> None:
    _, reason, phone_number = only_rejected(read_rows(row))
    assert (reason, phone_number) == (NOT_AN_OBJECT, NUMBER)


@pytest.mark.parametrize("row_id", [1, 2**63 - 1, "1", "9223372036854775807"])
def test_an_id_is_a_whole_number_or_a_string_of_its_digits(row_id: Any) -> None:
    assert read_rows(GOOD | {"id": row_id}).listed["id"].tolist() == [int(row_id)]


BAD_IDS = [None, True, 0, -1, 1.0, 2**63, 10**400, "", "0", "01", "-1", "+1", " 1", "1.0", "١", "9" * 30, str(2**63)]


@pytest.mark.parametrize("row_id", [*BAD_IDS, [1], {}])
def test_any_other_id_is_not_usable_and_its_number_is_kept(row_id: Any) -> None:
    snapshot = read_rows(GOOD | {"id": row_id})
    assert only_rejected(snapshot)[1:] == (BAD_ID, NUMBER)
    holds_its_promises(snapshot)


@pytest.mark.parametrize("literal", ["9" * 5000, "-" + "9" * 5000, "1e999", "-1e999"])
def test_a_number_that_python_cannot_hold_rejects_its_row_alone(literal: str) -> None:
    snapshot = read(json_document([GOOD, GOOD | {"id": "?"}]).replace('"?"', literal))
    assert len(snapshot.listed) == 1
    assert only_rejected(snapshot) == (
        f'{{"createdAt":"{NOON}","id":"{literal}","phoneNumber":"{NUMBER}"}}',
        BAD_ID,
        NUMBER,
    )
    holds_its_promises(snapshot)


def test_a_phone_number_that_python_cannot_hold_is_not_usable() -> None:
    body = json_document([GOOD, GOOD | {"phoneNumber": "?"}]).replace('"?"', "9" * 5000)
    assert only_rejected(read(body))[1:] == (BAD_PHONE_NUMBER, None)


@pytest.mark.parametrize("phone_number", [None, "", "  ", "\xa0\t", 33.5, True, [NUMBER], {}, "\ud800", 0, -5])
def test_a_phone_number_is_a_string_that_is_not_blank_and_can_be_written(phone_number: Any) -> None:
    snapshot = read_rows(GOOD | {"phoneNumber": phone_number})
    assert only_rejected(snapshot)[1:] == (BAD_PHONE_NUMBER, None)
    holds_its_promises(snapshot)


@pytest.mark.parametrize("digits", [33639980012, 639980012])
def test_a_phone_number_written_as_an_integer_rejects_the_row_but_is_read_from_its_digits(digits: int) -> None:
    assert only_rejected(read_rows(GOOD | {"phoneNumber": digits}))[1:] == (BAD_PHONE_NUMBER, NUMBER)
    assert only_rejected(read_rows(GOOD | {"id": None, "phoneNumber": digits}))[1:] == (BAD_ID, NUMBER)


@pytest.mark.parametrize("beside", [[], [ESCAPED]], ids=["read by Arrow", "read by Python"])
@pytest.mark.parametrize("spelling", ["+336399800123", "+33739980012", "0033639980012", "-33639980012", "+3363998001-"])
def test_a_number_is_read_as_by_itself_whichever_parser_read_its_row(spelling: str, beside: list[Any]) -> None:
    row = records(read_rows(GOOD | {"id": 2, "phoneNumber": spelling}, GOOD, *beside).listed)[1]
    expected = read_phone_number(spelling)
    assert (row["phone_number"], row["country"]) == (expected.number, expected.country)


def test_a_phone_number_that_cannot_be_recognised_is_kept_as_received_but_for_white_space_around_it() -> None:
    (row,) = records(read_rows(GOOD | {"phoneNumber": " not a  number\n"}).listed)
    assert (row["phone_number"], row["country"]) == ("not a  number", None)


@pytest.mark.parametrize("beside", [[], [ESCAPED]], ids=["read by Arrow", "read by Python"])
def test_white_space_around_a_phone_number_is_kept_in_the_text_of_a_rejected_row(beside: list[Any]) -> None:
    misdated = GOOD | {"phoneNumber": f" {NUMBER} ", "createdAt": "bad"}
    assert only_rejected(read_rows(misdated, *beside)) == (
        f'{{"createdAt":"bad","id":1,"phoneNumber":" {NUMBER} "}}',
        BAD_CREATED_AT,
        NUMBER,
    )


@pytest.mark.parametrize(
    ("created_at", "listed", "too_late"),
    [
        ("2024-11-07 10:00:00", 1, False),  # two days after the fetch, in Paris
        ("2024-11-07 10:00:01", 0, True),
        ("1999-12-31 23:59:59", 0, False),
    ],
)
def test_created_at_is_at_most_two_days_after_the_fetch_and_a_later_one_is_said_to_be_too_late(
    created_at: str, listed: int, *, too_late: bool
) -> None:
    snapshot = read_rows(GOOD | {"createdAt": created_at})
    assert (len(snapshot.listed), snapshot.any_too_late) == (listed, too_late)


@pytest.mark.parametrize(
    "created_at",
    ["9999-12-31 23:59:59", "2023-02-29 12:00:00", "", " ", "\udfff", None, 1717236000, [NOON], {"date": NOON}],
)
def test_any_other_created_at_is_not_usable_and_its_number_is_kept(created_at: Any) -> None:
    snapshot = read_rows(GOOD | {"createdAt": created_at})
    assert only_rejected(snapshot)[1:] == (BAD_CREATED_AT, NUMBER)
    holds_its_promises(snapshot)


@pytest.mark.parametrize("missing", ["id", "phoneNumber", "createdAt"])
def test_a_row_that_lacks_a_field_is_rejected(missing: str) -> None:
    snapshot = read_rows({name: value for name, value in GOOD.items() if name != missing})
    expected = {"id": BAD_ID, "phoneNumber": BAD_PHONE_NUMBER, "createdAt": BAD_CREATED_AT}[missing]
    assert only_rejected(snapshot)[1:] == (expected, None if missing == "phoneNumber" else NUMBER)


def test_the_reason_is_the_first_that_applies() -> None:
    assert reasons(read_rows({"id": 0, "phoneNumber": "", "createdAt": ""})) == [BAD_ID]
    assert reasons(read_rows({"id": 1, "phoneNumber": "", "createdAt": ""})) == [BAD_PHONE_NUMBER]


def test_a_local_time_is_read_in_the_zone_given() -> None:
    body = json_document([GOOD | {"createdAt": "2024-03-31 02:30:00"}])
    for timezone, instant in (("Europe/Paris", "01:00"), ("UTC", "02:30"), ("America/New_York", "06:30")):
        (row,) = records(read(body, timezone=timezone).listed)
        assert f"{row['created_at']:%Y-%m-%d %H:%M}" == f"2024-03-31 {instant}"
        assert f"{row['created_at_local']:%Y-%m-%d %H:%M}" == "2024-03-31 02:30"


def test_undocumented_fields_of_a_row_are_ignored_and_named_sorted_with_digits_masked() -> None:
    snapshot = read_rows(
        GOOD | {"zone": None, NUMBER: 1},
        GOOD | {"id": 2, "zone": 1},
        {"id": 3, "phoneNumber": NUMBER, "reason": "a field in place of another"},
        {"operator": [[[]]]},
    )
    assert snapshot.extra_fields == ("+•••••••••••", "operator", "reason", "zone")
    assert len(snapshot.listed) == 2


def test_at_most_20_undocumented_fields_are_named_each_in_at_most_40_characters() -> None:
    names = [f"{letter * 50}\ud800" for letter in "abcdefghijklmnopqrstuvwxyz"]
    assert read_rows(GOOD | dict.fromkeys(names)).extra_fields == tuple(
        letter * 40 for letter in "abcdefghijklmnopqrst"
    )


@pytest.mark.parametrize("depth", [1, 50, *range(100, 1100, 40), 200_000])
def test_a_nested_row_is_kept_or_makes_the_response_unreadable_when_too_deep_to_be_kept(depth: int) -> None:
    row = "[" * depth + "]" * depth
    body = json_document([None]).replace("null", row)
    try:
        assert only_rejected(read(body)) == (row, NOT_AN_OBJECT, None)
        assert depth < 200_000
    except UnreadableResponseError as error:
        assert depth > 50  # how deep is too deep depends on the interpreter
        assert "nested too deeply" in str(error)


# Rows that repeat or contradict each other


def test_equal_rows_collapse_however_they_are_spelled() -> None:
    snapshot = read_rows(GOOD, GOOD, {**GOOD, "id": "1", "phoneNumber": "06 39 98 00 12", "more": 1})
    assert (snapshot.rows, len(snapshot.listed), len(snapshot.rejected), snapshot.duplicates) == (3, 1, 0, 2)


def test_equal_malformed_rows_collapse_whatever_the_order_of_their_fields() -> None:
    snapshot = read_rows({"id": 0, "a": 1}, {"a": 1, "id": 0}, {"id": 0, "a": 2})
    assert (snapshot.rows, len(snapshot.rejected), snapshot.duplicates) == (3, 2, 1)


def test_of_rows_that_share_an_id_the_smallest_by_date_then_number_is_kept() -> None:
    older = GOOD | {"createdAt": "2024-05-01 12:00:00", "phoneNumber": "+33639980099"}
    smaller = GOOD | {"createdAt": "2024-05-01 12:00:00", "phoneNumber": "+33639980013"}
    snapshot = read_rows(GOOD, older, smaller)
    assert snapshot.listed["phone_number"].tolist() == ["+33639980013"]
    assert reasons(snapshot) == [CONFLICTING_ID, CONFLICTING_ID]
    assert sorted(snapshot.rejected["phone_number"]) == [NUMBER, "+33639980099"]
    assert json.loads(snapshot.rejected["raw"][0]) == older
    holds_its_promises(snapshot)


def test_equal_rows_that_conflict_collapse_into_the_one_with_the_smallest_raw_text() -> None:
    kept = GOOD | {"createdAt": "2024-05-01 12:00:00"}
    spelled = GOOD | {"phoneNumber": "06 39 98 00 12"}
    for rows in ([kept, GOOD, spelled], [spelled, kept, GOOD], [GOOD, spelled, kept, kept]):
        for others in ([], [ESCAPED]):
            snapshot = read_rows(*rows, *others)
            raw, reason, number = only_rejected(snapshot)
            assert (json.loads(raw), reason, number) == (GOOD, CONFLICTING_ID, NUMBER)
            assert snapshot.duplicates == len(rows) - 2


# What could hang or overwhelm


def test_strings_of_many_megabytes_are_read_as_any_other() -> None:
    row = {"id": "1" * 2_000_000, "phoneNumber": "0" * 2_000_000, "createdAt": "2" * 2_000_000}
    snapshot = read_rows(row, GOOD | {"phoneNumber": "x " * 1_000_000}, GOOD | {"id": 2, "createdAt": "\x00" * 500_000})
    assert (len(snapshot.listed), len(snapshot.rejected)) == (1, 2)
    holds_its_promises(snapshot)


def test_what_looks_like_the_end_of_a_row_within_a_string_is_text() -> None:
    tricky = '"},{"id":2,"phoneNumber":"\\'
    snapshot = read_rows(GOOD | {"phoneNumber": tricky}, GOOD | {"id": 3, "createdAt": "},{"})
    assert snapshot.listed["phone_number"].tolist() == [tricky]
    assert reasons(snapshot) == [BAD_CREATED_AT]


# Against a model in plain Python


@dataclass
class Expected:
    """The parsing rules over plain rows, one at a time."""

    listed: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    duplicates: int = 0


def expected_of(rows: list[Any]) -> Expected:
    outcome = Expected()
    malformed: set[str] = set()
    good: dict[int, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        raw = json.dumps(row, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
        judged = judge(row)
        if not isinstance(judged, str):
            row_id, created_at, number = judged
            good[row_id][created_at, number].append(raw)
        elif raw in malformed:
            outcome.duplicates += 1
        else:
            malformed.add(raw)
            outcome.rejected.append({"raw": raw, "reason": judged, "phone_number": number_in(row)})
    for row_id, variants in good.items():
        keep = min(variants)
        for (created_at, number), raws in variants.items():
            outcome.duplicates += len(raws) - 1
            if (created_at, number) == keep:
                outcome.listed.append(typed(row_id, created_at, number))
            else:
                outcome.rejected.append({"raw": min(raws), "reason": CONFLICTING_ID, "phone_number": number})
    outcome.listed.sort(key=lambda row: (row["created_at_local"], row["id"]))
    outcome.rejected.sort(key=lambda row: row["raw"])
    return outcome


def judge(row: Any) -> str | tuple[int, str, str]:
    if not isinstance(row, dict):
        return NOT_AN_OBJECT
    row_id, phone_number, created_at = (row.get(name) for name in ("id", "phoneNumber", "createdAt"))
    if isinstance(row_id, bool) or not isinstance(row_id, int | str) or not re.fullmatch("[1-9][0-9]*", str(row_id)):
        return BAD_ID
    if int(row_id) > 2**63 - 1:
        return BAD_ID
    if not isinstance(phone_number, str) or not phone_number.strip() or "\ud800" in phone_number:
        return BAD_PHONE_NUMBER
    if not is_date(created_at):
        return BAD_CREATED_AT
    return int(row_id), created_at, read_phone_number(phone_number.strip()).number


def is_date(created_at: Any) -> TypeGuard[str]:
    if not isinstance(created_at, str) or not re.fullmatch("[0-9]{4}(-[0-9]{2}){2} [0-9]{2}(:[0-9]{2}){2}", created_at):
        return False
    try:
        moment = datetime.fromisoformat(created_at)
    except ValueError:
        return False
    return moment.year >= 2000 and instant_of(moment) <= FETCHED_AT + timedelta(days=2)


def instant_of(moment: datetime) -> datetime:
    instant = moment.replace(tzinfo=ZONE, fold=0).astimezone(UTC)
    if instant.astimezone(ZONE).replace(tzinfo=None) == moment:
        return instant  # the earlier of two, by `fold`
    return instant.replace(hour=1, minute=0, second=0)  # clocks in Paris go forward at 01:00 UTC


def number_in(row: Any) -> str | None:
    if isinstance(row, list):
        return next(filter(None, map(number_in, row)), None)
    if isinstance(row, str):
        return NUMBER if row == NUMBER else None
    phone_number = row.get("phoneNumber") if isinstance(row, dict) else None
    if type(phone_number) is int and phone_number > 0:
        phone_number = str(phone_number)
    if isinstance(phone_number, str) and phone_number.strip() and "\ud800" not in phone_number:
        return read_phone_number(phone_number.strip()).number
    return None


def typed(row_id: int, created_at: str, number: str) -> dict[str, Any]:
    moment = datetime.fromisoformat(created_at)
    return {
        "id": row_id,
        "phone_number": number,
        "country": read_phone_number(number).country,
        "created_at": instant_of(moment),
        "created_at_local": moment,
    }


TEXT_IDS = st.integers(1, 4).map(str) | st.sampled_from(["9223372036854775807", "0", "01", "1.0", "x", ""])
IDS: st.SearchStrategy[Any] = (
    st.integers(1, 4)
    | TEXT_IDS
    | st.sampled_from([0, -1, True, None, 1.0, 2**63 - 1, 2**63, 10**40])
    | st.just([1])
    | st.just({"id": 1})
)
TEXT_NUMBERS = st.sampled_from(
    [NUMBER, NUMBER, "06 39 98 00 12", "0033639980013", "+33xxxxxxxxx", "0692123456", "+447400123456", "x", "}, {", ""]
)
NUMBERS: st.SearchStrategy[Any] = TEXT_NUMBERS | st.sampled_from(
    [f" {NUMBER}\n", f" {NUMBER}", 33639980012, 612345678, None, "  ", "\ud800", "é", (), 1.5]
)
EDGES = ["2024-03-31 02:30:00", "2024-10-27 02:30:00", "2000-01-01 00:00:00", "2024-11-07 10:00:00"]
TIMES = st.datetimes(datetime(1999, 12, 1), datetime(2024, 11, 10)) | st.builds(  # noqa: DTZ001 – local times
    lambda edge, seconds: datetime.fromisoformat(edge) + timedelta(seconds=seconds),
    st.sampled_from(EDGES),
    st.integers(-7200, 7200),
)
TEXT_DATES = (
    st.sampled_from([NOON, NOON, "2024-05-01 12:00:00", "2024-02-30 00:00:00", "0000-00-00 00:00:00", "9999-12-31", ""])
    | TIMES.map(lambda time: f"{time:%Y-%m-%d %H:%M:%S}")
    | st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-6][0-9]:[0-6][0-9]", fullmatch=True)
)
DATES: st.SearchStrategy[Any] = TEXT_DATES | st.sampled_from(
    [None, 0, "2024-06-01T12:00:00", f"{NOON}Z", f" {NOON}", "\udfff", ()]
)
OBJECTS = st.fixed_dictionaries(
    {}, optional={"id": IDS, "phoneNumber": NUMBERS, "createdAt": DATES, "extra": st.none() | st.just({"id": [NUMBER]})}
)
COMPLETE = st.fixed_dictionaries({"id": IDS, "phoneNumber": NUMBERS, "createdAt": DATES})
MOSTLY_GOOD = st.fixed_dictionaries(
    {"id": st.integers(1, 3), "phoneNumber": TEXT_NUMBERS, "createdAt": st.sampled_from([NOON, "2024-05-01 12:00:00"])}
)
NOT_OBJECTS = st.sampled_from([None, 5, "x", [], [1, NUMBER, NOON], NUMBER, [[NOON]], "3", True])
ROWS = st.lists(COMPLETE | MOSTLY_GOOD | OBJECTS | NOT_OBJECTS, max_size=12) | st.lists(MOSTLY_GOOD, max_size=6)
TEXT_ROWS = st.lists(
    st.fixed_dictionaries({"id": TEXT_IDS, "phoneNumber": TEXT_NUMBERS, "createdAt": TEXT_DATES}), max_size=8
)


def check_against_model(rows: list[Any]) -> None:
    snapshot, expected = read(json_document(rows)), expected_of(rows)
    assert records(snapshot.listed) == expected.listed
    assert records(snapshot.rejected) == expected.rejected
    assert (snapshot.rows, snapshot.duplicates) == (len(rows), expected.duplicates)
    holds_its_promises(snapshot)


@settings(deadline=None, max_examples=50)
@given(ROWS)
@example([GOOD | {"createdAt": "2024-10-27 02:30:00"}, GOOD | {"createdAt": "2024-03-31 02:30:00"}])
@example([GOOD, GOOD | {"id": "1"}, GOOD | {"phoneNumber": "x"}, GOOD | {"phoneNumber": "x", "id": "1"}])
@example([GOOD | {"phoneNumber": f" {NUMBER}", "createdAt": ""}, GOOD | {"createdAt": ""}])
def test_a_response_becomes_what_the_rules_say_of_its_rows_one_by_one(rows: list[Any]) -> None:
    check_against_model(rows)


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(ROWS)
def test_many_responses_become_what_the_rules_say_of_their_rows_one_by_one(rows: list[Any]) -> None:
    check_against_model(rows)


@settings(deadline=None, max_examples=15)
@given(ROWS, st.randoms(use_true_random=False))
@example([GOOD, GOOD | {"createdAt": "2024-05-01 12:00:00"}, GOOD | {"phoneNumber": "x"}], random.Random(1))  # noqa: S311
def test_the_order_of_the_rows_changes_nothing(rows: list[Any], shuffle: random.Random) -> None:
    one, shuffled = read(json_document(rows)), rows.copy()
    shuffle.shuffle(shuffled)
    for other in (read(json_document(shuffled)), read(json_document(rows[::-1]))):
        pd.testing.assert_frame_equal(one.listed, other.listed)
        pd.testing.assert_frame_equal(one.rejected, other.rejected)
        assert (one.duplicates, one.extra_fields) == (other.duplicates, other.extra_fields)


@settings(deadline=None, max_examples=15)
@given(TEXT_ROWS)
def test_json_and_xml_of_the_same_rows_give_the_same_tables(rows: list[dict[str, str]]) -> None:
    xml_rows = "".join(xml_row(row["id"], row["phoneNumber"], row["createdAt"]) for row in rows)
    from_json, from_xml = read(json_document(rows)), read(xml_document(xml_rows), "xml")
    pd.testing.assert_frame_equal(from_xml.listed, from_json.listed)
    pd.testing.assert_frame_equal(from_xml.rejected, from_json.rejected)
    assert from_xml.duplicates == from_json.duplicates


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=15)
@given(st.lists(JSON_VALUES | st.fixed_dictionaries(dict.fromkeys(GOOD, JSON_VALUES)), max_size=5))
def test_any_json_values_may_stand_where_rows_do(rows: list[Any]) -> None:
    snapshot = read(json_document(rows))
    assert snapshot.rows == len(rows)
    holds_its_promises(snapshot)
