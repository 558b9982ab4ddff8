"""What becomes of every row of an answer, and of every answer that is none."""

import json
import random
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeGuard
from xml.sax.saxutils import escape
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stop_pipeline.errors import ApiError, KeyRefusedError, TransientApiError, UnreadableAnswerError
from stop_pipeline.model import (
    BAD_CREATED_AT,
    BAD_ID,
    BAD_PHONE_NUMBER,
    CONFLICTING_ID,
    NOT_AN_OBJECT,
    Format,
    Snapshot,
)
from stop_pipeline.phones import read_phone_number
from stop_pipeline.rows import Batch
from stop_pipeline.schema import LISTED, REJECTED_ROWS
from stop_pipeline.snapshot import parse

DATA = Path(__file__).parent / "data"
FETCHED_AT = datetime(2024, 11, 5, 9, 0, 0, tzinfo=UTC)
PARIS = ZoneInfo("Europe/Paris")
NUMBER = "+33639980012"
NOON = "2024-06-01 12:00:00"
GOOD = {"id": 1, "phoneNumber": NUMBER, "createdAt": NOON}


def read(body: bytes | str, answer_format: Format = "json", timezone: str = "Europe/Paris") -> Snapshot:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer"
        path.write_bytes(body if isinstance(body, bytes) else body.encode())
        return parse(path, answer_format, fetched_at=FETCHED_AT, timezone=timezone)


def document(rows: list[Any], **around: Any) -> str:
    return json.dumps({"success": True, "code": 200, "nbData": len(rows), "data": rows} | around)


def read_rows(*rows: Any) -> Snapshot:
    return read(document(list(rows)))


def xml_entry(content: str) -> str:
    return f"<entry>{content}</entry>\n"


def xml_row(*texts: str) -> str:
    return xml_entry("".join(xml_entry(f"\n  {escape(text)}\n") for text in texts))


def xml_document(rows: str, *, success: str = "true", code: str = "200", nb_data: str = "1") -> str:
    around = "".join(map(xml_entry, (success, code, nb_data)))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<result>\n{around}{xml_entry(rows)}</result>\n'


def wall_clock(text: str) -> datetime:
    return datetime.fromisoformat(text)


def reasons(snapshot: Snapshot) -> list[str]:
    return [reason.as_py() for reason in snapshot.rejected["reason"]]


def only_rejected(snapshot: Snapshot) -> tuple[str, str, str | None]:
    (row,) = snapshot.rejected.to_pylist()
    return row["raw"], row["reason"], row["phone_number"]


def holds_its_promises(snapshot: Snapshot) -> None:
    assert snapshot.rows == snapshot.listed.num_rows + snapshot.rejected.num_rows + snapshot.duplicates
    assert snapshot.duplicates >= 0
    assert snapshot.listed.schema.equals(LISTED.arrow)
    assert snapshot.rejected.schema.equals(REJECTED_ROWS.arrow)
    snapshot.listed.validate(full=True)
    snapshot.rejected.validate(full=True)
    for table in (snapshot.listed, snapshot.rejected):
        assert not any(table[column.name].null_count for column in table.schema if not column.nullable)
    listed = list(zip(snapshot.listed["created_at_local"].to_pylist(), snapshot.listed["id"].to_pylist(), strict=True))
    assert listed == sorted(listed)
    assert len({row_id for _, row_id in listed}) == len(listed)
    raws = snapshot.rejected["raw"].to_pylist()
    assert raws == sorted(set(raws))


# The documented answers.


def test_the_documented_json_is_read_and_its_masked_number_is_kept_as_received() -> None:
    snapshot = parse(DATA / "sample-list.json", "json", fetched_at=FETCHED_AT, timezone="Europe/Paris")
    assert snapshot.listed.to_pylist() == [
        {
            "id": 19,
            "phone_number": "+33xxxxxxxxx",
            "country": None,
            "created_at": datetime(2015, 7, 20, 8, 19, 45, tzinfo=UTC),
            "created_at_local": wall_clock("2015-07-20 10:19:45"),
        }
    ]
    assert (snapshot.code, snapshot.nb_data, snapshot.rows, snapshot.whole) == (200, 1, 1, True)
    holds_its_promises(snapshot)


def test_the_documented_xml_gives_the_same_rows_and_is_not_whole_since_it_says_3_and_shows_1() -> None:
    snapshot = parse(DATA / "sample-list.xml", "xml", fetched_at=FETCHED_AT, timezone="Europe/Paris")
    from_json = parse(DATA / "sample-list.json", "json", fetched_at=FETCHED_AT, timezone="Europe/Paris")
    assert snapshot.listed.equals(from_json.listed)
    assert (snapshot.code, snapshot.nb_data, snapshot.rows, snapshot.whole) == (200, 3, 1, False)


@pytest.mark.parametrize("answer_format", ["json", "xml"])
def test_the_documented_error_is_a_refusal_of_the_key(answer_format: Format) -> None:
    path = DATA / f"sample-error.{answer_format}"
    with pytest.raises(KeyRefusedError, match="Clé API incorrecte"):
        parse(path, answer_format, fetched_at=FETCHED_AT, timezone="Europe/Paris")


@pytest.mark.parametrize("answer_format", ["json", "xml"])
def test_an_answer_cut_anywhere_is_unreadable(answer_format: Format) -> None:
    body = (DATA / f"sample-list.{answer_format}").read_bytes().rstrip()
    for end in range(len(body)):
        with pytest.raises(UnreadableAnswerError):
            read(body[:end], answer_format)


# Around the rows.


def test_an_empty_list_is_a_snapshot_of_no_rows() -> None:
    for snapshot in (read(document([])), read(xml_document("", nb_data="0"), "xml")):
        assert (snapshot.rows, snapshot.listed.num_rows, snapshot.whole) == (0, 0, True)
        holds_its_promises(snapshot)


UNREADABLE_JSON = {
    "empty": b"",
    "blank": b" \n",
    "HTML": b"<html><body>Bad gateway</body></html>",
    "garbage after the end": document([]).encode() + b"}",
    "two documents": document([]).encode() * 2,
    "not UTF-8": document([GOOD], message="caf").encode().replace(b"caf", b"caf\xe9"),
    "UTF-16": document([GOOD]).encode("utf-16"),
    "half a surrogate pair as UTF-8": b'{"success":true,"data":[],"x":"\xed\xa0\x80"}',
    "NaN": document([]).replace("200", "NaN").encode(),
    "Infinity": document([]).replace("200", "-Infinity").encode(),
    "nested too deeply": b"[" * 200_000,
    "nested too deeply, and ended": b"[" * 200_000 + b"]" * 200_000,
    "a list at the top": b"[]",
    "null": b"null",
    "no success": b'{"code":200,"nbData":0,"data":[]}',
    "success as a string": document([], success="true").encode(),
    "success as a number": document([], success=1).encode(),
    "no data": b'{"success":true,"code":200,"nbData":0}',
    "data null": document([], data=None).encode(),
    "data an object": document([], data={}).encode(),
    "data a string": document([], data="").encode(),
    "a form feed among no rows": document([]).replace("[]", "[\f]").encode(),
    "a form feed among rows": document([GOOD]).replace("]", "\f]").encode(),
}


@pytest.mark.parametrize("body", UNREADABLE_JSON.values(), ids=UNREADABLE_JSON.keys())
def test_a_json_answer_that_is_no_list_is_unreadable_and_never_an_empty_list(body: bytes) -> None:
    with pytest.raises(UnreadableAnswerError) as raised:
        read(body)
    assert raised.value.__context__ is None  # a decoder's error holds the whole document


BOMB = '<!DOCTYPE result [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
ONE_ROW = xml_document(xml_row("1", NUMBER, NOON))
UNREADABLE_XML = {
    "empty": b"",
    "JSON": document([]).encode(),
    "garbage after the end": ONE_ROW.encode() + b"<entry/>",
    "entities": ONE_ROW.replace("<result>", f"{BOMB}<result>").replace(NUMBER, "&b;").encode(),
    "a document type": ONE_ROW.replace("<result>", '<!DOCTYPE result SYSTEM "file:///etc/passwd"><result>').encode(),
    "an unknown entity": ONE_ROW.replace(NUMBER, "&phone;").encode(),
    "an unknown encoding": ONE_ROW.replace("UTF-8", "x-nobody").encode(),
    "not in its encoding": ONE_ROW.replace(NUMBER, "é").encode("latin-1"),
    "another root": ONE_ROW.replace("result>", "html>").encode(),
    "nothing in it": b"<result/>",
    "no list": f"<result>{xml_entry('true')}{xml_entry('200')}{xml_entry('0')}</result>".encode(),
    "a text for a list": xml_document("none").encode(),
    "success in capitals": ONE_ROW.replace("true", "TRUE").encode(),
    "success as a number": ONE_ROW.replace("true", "1").encode(),
    "a row nested too deeply": xml_document("<entry>" * 100_000 + "</entry>" * 100_000).encode(),
}


@pytest.mark.parametrize("body", UNREADABLE_XML.values(), ids=UNREADABLE_XML.keys())
def test_an_xml_answer_that_is_no_list_or_declares_anything_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableAnswerError) as raised:
        read(body, "xml")
    assert raised.value.__context__ is None


@pytest.mark.parametrize("depth", [1, 50, *range(100, 1100, 20), 200_000])
def test_a_nested_row_is_kept_or_makes_the_answer_unreadable_when_too_deep_to_be_kept(depth: int) -> None:
    row = "[" * depth + "]" * depth
    body = document([None]).replace("null", row)
    if depth <= 50:
        assert only_rejected(read(body)) == (row, NOT_AN_OBJECT, None)
    elif depth == 200_000:
        with pytest.raises(UnreadableAnswerError, match="nested too deeply"):
            read(body)
    else:  # how deep is too deep depends on the interpreter
        ends_well(body.encode(), "json")


@pytest.mark.parametrize(
    ("body", "answer_format"),
    [
        (document([GOOD], message=NUMBER) + NUMBER, "json"),
        (document([GOOD])[:-5], "json"),
        (NUMBER, "json"),
        (f'{{"success":"{NUMBER}"}}', "json"),
        (f'{{"success":false,"code":{NUMBER[1:]},"message":"{NUMBER}"}}', "json"),
        (f"<result>{NUMBER}", "xml"),
        (f"<result><entry>{NUMBER}</entry></result>", "xml"),
        (f"<result>&n{NUMBER[1:]};</result>", "xml"),
    ],
)
def test_an_error_shows_how_the_answer_begins_but_no_phone_number(body: str, answer_format: Format) -> None:
    with pytest.raises(ApiError) as raised:
        read(body, answer_format)
    assert "39980012" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_refusal_goes_by_a_known_code_even_beside_success_true() -> None:
    with pytest.raises(KeyRefusedError):
        read(document([], code=10))
    with pytest.raises(KeyRefusedError):
        read(document([GOOD], code="10"))
    with pytest.raises(TransientApiError):
        read(xml_document("", code="500"), "xml")


def test_a_refusal_without_a_known_code_is_still_no_list() -> None:
    for body in ('{"success": false}', document([GOOD], success=False), document([], success=False, code="?")):
        with pytest.raises(ApiError):
            read(body)


@pytest.mark.parametrize("value", ["200", 200])
def test_code_and_nb_data_may_be_strings_of_digits(value: Any) -> None:
    snapshot = read(document([GOOD], code=value, nbData=str(1)))
    assert (snapshot.code, snapshot.nb_data, snapshot.whole) == (200, 1, True)


@pytest.mark.parametrize("value", [None, True, 1.0, "", "one", " 1", "1.0", "١", -1, [1], 10**30, "9" * 5000])
def test_code_and_nb_data_of_a_wrong_type_are_unknown_and_the_answer_is_not_whole(value: Any) -> None:
    assert read(document([GOOD], nbData=value)).nb_data is None
    assert not read(document([GOOD], nbData=value)).whole
    assert read(document([GOOD], code=value)).code is None
    assert not read(document([GOOD], code=value)).whole


def test_code_and_nb_data_may_be_missing_and_then_the_answer_is_not_whole() -> None:
    snapshot = read('{"success":true,"data":[]}')
    assert (snapshot.code, snapshot.nb_data, snapshot.whole) == (None, None, False)


def test_an_unknown_code_beside_success_true_is_not_whole_but_its_rows_are_read() -> None:
    snapshot = read(document([GOOD], code=201))
    assert (snapshot.code, snapshot.listed.num_rows, snapshot.whole) == (201, 1, False)


def test_a_byte_order_mark_before_the_document_is_tolerated() -> None:
    assert read(b"\xef\xbb\xbf" + document([GOOD]).encode()).listed.num_rows == 1
    assert read(b"\xef\xbb\xbf" + ONE_ROW.encode(), "xml").listed.num_rows == 1


def test_xml_may_be_in_any_encoding_that_it_declares() -> None:
    body = xml_document(xml_row("1", "numéro", NOON)).replace("UTF-8", "ISO-8859-1").encode("latin-1")
    assert read(body, "xml").listed["phone_number"].to_pylist() == ["numéro"]


def test_extra_fields_at_the_top_are_ignored() -> None:
    assert read(document([GOOD], pages={"next": None}, id=7)).whole
    assert read(ONE_ROW.replace("</result>", "<entry>more</entry></result>"), "xml").whole
    assert read(ONE_ROW.replace("<result>", "<result><note>more</note>"), "xml").whole


def test_of_a_key_that_comes_twice_the_last_one_counts_as_json_readers_do() -> None:
    snapshot = read(document([GOOD]).replace('"id": 1', '"id": 5, "id": 6'))
    assert snapshot.listed["id"].to_pylist() == [6]


# Rows.


@pytest.mark.parametrize("row", [None, True, 7, 1.5, "text", [], [1, NOON], "2024-06-01 12:00:00"])
def test_a_row_that_is_not_an_object_is_rejected(row: Any) -> None:
    assert only_rejected(read_rows(row)) == (json.dumps(row, separators=(",", ":")), NOT_AN_OBJECT, None)


@pytest.mark.parametrize(
    "row", [NUMBER, "06 39 98 00 12", [1, NUMBER, NOON], [None, [], "0", NUMBER], ["612345678", NUMBER]]
)
def test_a_row_that_is_no_object_still_gives_up_the_phone_number_that_it_surely_bears(row: Any) -> None:
    _, reason, phone_number = only_rejected(read_rows(row))
    assert (reason, phone_number) == (NOT_AN_OBJECT, NUMBER)


@pytest.mark.parametrize("row_id", [1, 2**63 - 1, "1", "9223372036854775807"])
def test_an_id_is_a_whole_number_or_a_string_of_its_digits(row_id: Any) -> None:
    assert read_rows(GOOD | {"id": row_id}).listed["id"].to_pylist() == [int(row_id)]


@pytest.mark.parametrize(
    "row_id",
    [
        None,
        True,
        0,
        -1,
        1.0,
        2**63,
        10**400,
        "",
        "0",
        "01",
        "-1",
        "+1",
        " 1",
        "1.0",
        "١",
        "9" * 30,
        str(2**63),
        [1],
        {},
    ],
)
def test_any_other_id_is_not_usable_and_its_number_is_kept(row_id: Any) -> None:
    snapshot = read_rows(GOOD | {"id": row_id})
    assert only_rejected(snapshot)[1:] == (BAD_ID, NUMBER)
    holds_its_promises(snapshot)


def test_a_number_that_python_cannot_hold_rejects_its_row_alone() -> None:
    for literal in ("9" * 5000, "-" + "9" * 5000, "1e999", "-1e999"):
        snapshot = read(document([GOOD, GOOD | {"id": "?"}]).replace('"?"', literal))
        assert snapshot.listed.num_rows == 1
        assert only_rejected(snapshot) == (
            f'{{"createdAt":"{NOON}","id":"{literal}","phoneNumber":"{NUMBER}"}}',
            BAD_ID,
            NUMBER,
        )
        holds_its_promises(snapshot)


def test_a_phone_number_that_python_cannot_hold_is_not_usable() -> None:
    body = document([GOOD, GOOD | {"phoneNumber": "?"}]).replace('"?"', "9" * 5000)
    assert only_rejected(read(body))[1:] == (BAD_PHONE_NUMBER, None)


@pytest.mark.parametrize("phone_number", [None, "", "  ", "\xa0\t", 33.5, True, [NUMBER], {}, "\ud800", 0, -5])
def test_a_phone_number_is_a_string_that_is_not_blank_and_can_be_written(phone_number: Any) -> None:
    snapshot = read_rows(GOOD | {"phoneNumber": phone_number})
    assert only_rejected(snapshot)[1:] == (BAD_PHONE_NUMBER, None)
    holds_its_promises(snapshot)


@pytest.mark.parametrize(("digits", "number"), [(33639980012, "33639980012"), (612345678, "+33612345678")])
def test_a_phone_number_written_as_an_integer_rejects_the_row_but_is_read_from_its_digits(
    digits: int, number: str
) -> None:
    assert only_rejected(read_rows(GOOD | {"phoneNumber": digits}))[1:] == (BAD_PHONE_NUMBER, number)
    assert only_rejected(read_rows(GOOD | {"id": None, "phoneNumber": digits}))[1:] == (BAD_ID, number)


@pytest.mark.parametrize("prefix", ["+336", "+337", "+338", "+330", "+346", "-336", "0336"])
@pytest.mark.parametrize("rest", ["39980012", "49999999", "3998001-", "-9980012", "39/80012", "3.980012", "+9980012"])
def test_what_is_nearly_a_french_mobile_number_is_read_as_by_itself(prefix: str, rest: str) -> None:
    snapshot = read_rows(GOOD | {"id": 2, "phoneNumber": prefix + rest}, GOOD)  # the last row is no plain one
    row = snapshot.listed.to_pylist()[1]
    assert (row["phone_number"], row["country"]) == read_phone_number(prefix + rest)


def test_a_phone_number_that_cannot_be_recognised_is_kept_as_received_but_for_white_space_around_it() -> None:
    snapshot = read_rows(GOOD | {"phoneNumber": " not a  number\n"})
    assert snapshot.listed.select(["phone_number", "country"]).to_pylist() == [
        {"phone_number": "not a  number", "country": None}
    ]


@pytest.mark.parametrize(
    "created_at", ["2000-01-01 00:00:00", "2024-02-29 23:59:59", "2024-11-07 10:00:00", "2023-12-31 00:00:00"]
)
def test_created_at_is_a_real_date_from_2000_to_two_days_after_the_fetch(created_at: str) -> None:
    assert [str(value) for value in read_rows(GOOD | {"createdAt": created_at}).listed["created_at_local"]] == [
        created_at
    ]


@pytest.mark.parametrize(
    "created_at",
    [
        "1999-12-31 23:59:59",
        "2024-11-07 10:00:01",  # two days and a second after the fetch, in Paris
        "9999-12-31 23:59:59",
        "0000-01-01 00:00:00",
        "0001-01-01 00:00:00",
        "2023-02-29 12:00:00",
        "2024-02-30 12:00:00",
        "2024-04-31 12:00:00",
        "2024-00-10 12:00:00",
        "2024-13-10 12:00:00",
        "2024-06-01 24:00:00",
        "2024-06-01 23:60:00",
        "2024-06-01 23:59:60",
        "2024-06-01T12:00:00",
        "2024-06-01 12:00",
        "2024-06-01 12:00:00.0",
        "2024-06-01 12:00:00Z",
        "2024-6-1 12:00:00",
        "2024-06-01  12:00:00",
        " 2024-06-01 12:00:00",
        "2024-06-01 12:00:00 ",
        "2024-06-01 12:00:00\x00",
        "２０２４-06-01 12:00:00",
        "+2024-06-01 12:00:00",
        "01/06/2024 12:00:00",
        "",
        "\udfff",
        None,
        1717236000,
        ["2024-06-01 12:00:00"],
        {"date": "2024-06-01 12:00:00"},
    ],
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


@pytest.mark.parametrize(
    ("timezone", "created_at", "instant"),
    [
        ("Europe/Paris", "2024-01-15 12:00:00", "2024-01-15 11:00:00"),
        ("Europe/Paris", "2024-07-15 12:00:00", "2024-07-15 10:00:00"),
        ("Europe/Paris", "2024-10-27 02:30:00", "2024-10-27 00:30:00"),  # happens twice: the earlier
        ("Europe/Paris", "2024-10-27 03:00:00", "2024-10-27 02:00:00"),
        ("Europe/Paris", "2024-03-31 02:00:00", "2024-03-31 01:00:00"),  # never happens: the next valid instant
        ("Europe/Paris", "2024-03-31 02:30:00", "2024-03-31 01:00:00"),
        ("America/Sao_Paulo", "2018-11-04 00:30:00", "2018-11-04 03:00:00"),
        ("UTC", "2024-03-31 02:30:00", "2024-03-31 02:30:00"),
    ],
)
def test_a_wall_clock_is_read_in_the_zone_given(timezone: str, created_at: str, instant: str) -> None:
    listed = read(document([GOOD | {"createdAt": created_at}]), timezone=timezone).listed
    assert listed["created_at"].cast(pa.timestamp("s")).cast(pa.string()).to_pylist() == [instant]
    assert listed["created_at_local"].cast(pa.timestamp("s")).cast(pa.string()).to_pylist() == [created_at]


def test_extra_fields_of_a_row_are_ignored_and_named_sorted_with_digits_masked() -> None:
    snapshot = read_rows(
        GOOD | {"zone": None, NUMBER: 1},
        GOOD | {"id": 2, "zone": 1},
        {"id": 3, "phoneNumber": NUMBER, "reason": "a field in place of another"},
        {"operator": [[[]]]},
    )
    assert snapshot.extra_fields == ("+•••••••••••", "operator", "reason", "zone")
    assert snapshot.listed.num_rows == 2


def test_at_most_20_extra_fields_are_named_each_in_at_most_40_characters() -> None:
    names = [f"{letter * 50}\ud800" for letter in "abcdefghijklmnopqrstuvwxyz"]
    snapshot = read_rows(GOOD | dict.fromkeys(names))
    assert snapshot.extra_fields == tuple(letter * 40 for letter in "abcdefghijklmnopqrst")


# Rows that repeat or contradict each other.


def test_equal_rows_collapse_however_they_are_spelled() -> None:
    snapshot = read_rows(GOOD, GOOD, {**GOOD, "id": "1", "phoneNumber": "06 39 98 00 12", "more": 1})
    assert (snapshot.rows, snapshot.listed.num_rows, snapshot.rejected.num_rows, snapshot.duplicates) == (3, 1, 0, 2)


def test_equal_rows_collapse_without_being_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    raw = Batch.raw

    def noted(batch: Batch, position: int) -> str:
        texts.append(raw(batch, position))
        return texts[-1]

    monkeypatch.setattr(Batch, "raw", noted)
    differs = GOOD | {"phoneNumber": "+33639980013"}

    assert read_rows(*[GOOD | {"id": number} for number in (1, 2, 3) * 100]).duplicates == 297
    assert texts == []
    assert read_rows(GOOD, GOOD | {"id": 2}, GOOD | {"id": 2}, differs).duplicates == 1
    assert {json.loads(text)["id"] for text in texts} == {1}


def test_equal_malformed_rows_collapse_whatever_the_order_of_their_fields() -> None:
    snapshot = read_rows({"id": 0, "a": 1}, {"a": 1, "id": 0}, {"id": 0, "a": 2})
    assert (snapshot.rows, snapshot.rejected.num_rows, snapshot.duplicates) == (3, 2, 1)


def test_of_rows_that_share_an_id_the_smallest_by_date_then_number_is_kept() -> None:
    older = GOOD | {"createdAt": "2024-05-01 12:00:00", "phoneNumber": "+33639980099"}
    smaller = GOOD | {"createdAt": "2024-05-01 12:00:00", "phoneNumber": "+33639980013"}
    snapshot = read_rows(GOOD, older, smaller)
    assert snapshot.listed["phone_number"].to_pylist() == ["+33639980013"]
    assert reasons(snapshot) == [CONFLICTING_ID, CONFLICTING_ID]
    assert sorted(snapshot.rejected["phone_number"].to_pylist()) == [NUMBER, "+33639980099"]
    assert json.loads(snapshot.rejected["raw"][0].as_py()) == older
    holds_its_promises(snapshot)


def test_equal_rows_that_conflict_collapse_into_the_one_with_the_smallest_raw_text() -> None:
    kept = GOOD | {"createdAt": "2024-05-01 12:00:00"}
    spelled = GOOD | {"phoneNumber": "06 39 98 00 12"}
    for rows in ([kept, GOOD, spelled], [spelled, kept, GOOD], [GOOD, spelled, kept, kept]):
        snapshot = read_rows(*rows)
        raw, reason, number = only_rejected(snapshot)
        assert (json.loads(raw), reason, number) == (GOOD, CONFLICTING_ID, NUMBER)
        assert snapshot.duplicates == len(rows) - 2


# XML.


def test_xml_rows_are_read_by_position_and_stripped() -> None:
    rows = xml_row("7", "06 39 98 00 12", NOON) + xml_entry(
        "<entry>8</entry><entry><![CDATA[+336]]><!-- split --><![CDATA[39980013]]></entry>" + xml_entry(NOON)
    )
    snapshot = read(xml_document(rows, nb_data="2"), "xml")
    assert list(zip(snapshot.listed["id"].to_pylist(), snapshot.listed["phone_number"].to_pylist(), strict=True)) == [
        (7, NUMBER),
        (8, "+33639980013"),
    ]
    assert snapshot.whole


@pytest.mark.parametrize(
    ("row", "raw", "phone_number"),
    [
        ("<entry/>", "[]", None),
        ("<entry>7</entry>", '["7"]', None),
        (xml_row("7", NUMBER), f'["7","{NUMBER}"]', NUMBER),
        (xml_row("7", NUMBER, NOON, "more"), f'["7","{NUMBER}","{NOON}","more"]', NUMBER),
        (
            f"<entry>stray{xml_row('7', NUMBER, NOON).removeprefix('<entry>')}",
            f'["7","{NUMBER}","{NOON}","stray"]',
            NUMBER,
        ),
    ],
)
def test_an_xml_row_without_exactly_three_entries_is_no_object_and_its_texts_are_kept(
    row: str, raw: str, phone_number: str | None
) -> None:
    assert only_rejected(read(xml_document(row), "xml")) == (raw, NOT_AN_OBJECT, phone_number)


def test_a_malformed_xml_row_is_kept_as_an_object_with_the_names_of_the_json_form() -> None:
    raw, reason, phone_number = only_rejected(read(xml_document(xml_row("07", NUMBER, NOON)), "xml"))
    assert raw == f'{{"createdAt":"{NOON}","id":"07","phoneNumber":"{NUMBER}"}}'
    assert (reason, phone_number) == (BAD_ID, NUMBER)


def test_an_xml_field_with_elements_in_it_is_no_text() -> None:
    row = xml_entry("<entry>7</entry><entry><b>x</b>y</entry>" + xml_entry(NOON))
    raw, reason, _ = only_rejected(read(xml_document(row), "xml"))
    assert (raw, reason) == (f'{{"createdAt":"{NOON}","id":"7","phoneNumber":["x","y"]}}', BAD_PHONE_NUMBER)


# What could hang or overwhelm.


def test_strings_of_many_megabytes_are_read_as_any_other() -> None:
    row = {"id": "1" * 5_000_000, "phoneNumber": "0" * 5_000_000, "createdAt": "2" * 5_000_000}
    snapshot = read_rows(row, GOOD | {"phoneNumber": "x " * 2_500_000}, GOOD | {"id": 2, "createdAt": "\x00" * 500_000})
    assert (snapshot.listed.num_rows, snapshot.rejected.num_rows) == (1, 2)
    holds_its_promises(snapshot)


@pytest.mark.parametrize("field", range(3))
def test_megabytes_of_white_space_in_xml_are_read_as_any_other(field: int) -> None:
    texts = ["1", NUMBER, NOON]
    texts[field] += " " * 3_000_000 + "<b/>"
    entries = "".join(f"<entry>{text}</entry>" for text in texts)
    snapshot = read(xml_document(f"<entry>{entries}</entry>" + xml_row("2", NUMBER, NOON), nb_data="2"), "xml")
    assert snapshot.whole
    assert 2 in snapshot.listed["id"].to_pylist()


def test_what_looks_like_the_end_of_a_row_within_a_string_is_text() -> None:
    tricky = '"},{"id":2,"phoneNumber":"\\'
    snapshot = read_rows(GOOD | {"phoneNumber": tricky}, GOOD | {"id": 3, "createdAt": "},{"})
    assert snapshot.listed["phone_number"].to_pylist() == [tricky]
    assert reasons(snapshot) == [BAD_CREATED_AT]


# Against a model in plain Python.


@dataclass
class Expected:
    """The rules of parsing over plain rows, one at a time."""

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
        if isinstance(judged, str):
            if raw in malformed:
                outcome.duplicates += 1
            else:
                malformed.add(raw)
                outcome.rejected.append({"raw": raw, "reason": judged, "phone_number": number_in(row)})
        else:
            row_id, created_at, number = judged
            good[row_id][created_at, number].append(raw)
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
    return int(row_id), created_at, read_phone_number(phone_number.strip())[0]


def is_date(created_at: Any) -> TypeGuard[str]:
    if not isinstance(created_at, str) or not re.fullmatch("[0-9]{4}(-[0-9]{2}){2} [0-9]{2}(:[0-9]{2}){2}", created_at):
        return False
    try:
        moment = wall_clock(created_at)
    except ValueError:
        return False
    return moment.year >= 2000 and instant_of(moment) <= FETCHED_AT + timedelta(days=2)


def instant_of(moment: datetime) -> datetime:
    instant = moment.replace(tzinfo=PARIS, fold=0).astimezone(UTC)
    if instant.astimezone(PARIS).replace(tzinfo=None) == moment:
        return instant  # the earlier of two, by `fold`
    return instant.replace(hour=1, minute=0, second=0)  # Paris leaps at 01:00 UTC


def number_in(row: Any) -> str | None:
    if isinstance(row, list):
        return next(filter(None, map(number_in, row)), None)
    if isinstance(row, str):
        return NUMBER if row == NUMBER else None
    phone_number = row.get("phoneNumber") if isinstance(row, dict) else None
    if type(phone_number) is int:
        return read_phone_number(str(phone_number))[0]
    if isinstance(phone_number, str) and phone_number.strip() and "\ud800" not in phone_number:
        return read_phone_number(phone_number.strip())[0]
    return None


def typed(row_id: int, created_at: str, number: str) -> dict[str, Any]:
    moment = wall_clock(created_at)
    return {
        "id": row_id,
        "phone_number": number,
        "country": read_phone_number(number)[1],
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
    [f" {NUMBER}\n", 33639980012, 612345678, None, "  ", "\ud800", "é", (), 1.5]
)
EDGES = ["2024-03-31 02:30:00", "2024-10-27 02:30:00", "2000-01-01 00:00:00", "2024-11-07 10:00:00"]
CLOCKS = st.datetimes(wall_clock("1999-12-01"), wall_clock("2024-11-10")) | st.builds(
    lambda edge, seconds: wall_clock(edge) + timedelta(seconds=seconds),
    st.sampled_from(EDGES),
    st.integers(-7200, 7200),
)
TEXT_DATES = (
    st.sampled_from([NOON, NOON, "2024-05-01 12:00:00", "2024-02-30 00:00:00", "0000-00-00 00:00:00", "9999-12-31", ""])
    | CLOCKS.map(lambda clock: f"{clock:%Y-%m-%d %H:%M:%S}")
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
NO_OBJECTS = st.sampled_from([None, 5, "x", [], [1, NUMBER, NOON], NUMBER, [[NOON]], "3", True])
ROWS = st.lists(COMPLETE | MOSTLY_GOOD | OBJECTS | NO_OBJECTS, max_size=12)
TEXT_ROWS = st.lists(
    st.fixed_dictionaries({"id": TEXT_IDS, "phoneNumber": TEXT_NUMBERS, "createdAt": TEXT_DATES}), max_size=8
)


@settings(deadline=None, max_examples=400)
@given(ROWS)
@example([GOOD | {"createdAt": "2024-10-27 02:30:00"}, GOOD | {"createdAt": "2024-03-31 02:30:00"}])
@example([GOOD, GOOD | {"id": "1"}, GOOD | {"phoneNumber": "x"}, GOOD | {"phoneNumber": "x", "id": "1"}])
def test_an_answer_becomes_what_the_rules_say_of_its_rows_one_by_one(rows: list[Any]) -> None:
    snapshot, expected = read(document(rows)), expected_of(rows)
    assert snapshot.listed.to_pylist() == expected.listed
    assert snapshot.rejected.to_pylist() == expected.rejected
    assert (snapshot.rows, snapshot.duplicates) == (len(rows), expected.duplicates)
    assert snapshot.whole
    holds_its_promises(snapshot)


@settings(deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(rows: list[Any], shuffle: random.Random) -> None:
    shuffled = rows.copy()
    shuffle.shuffle(shuffled)
    one, other = read(document(rows)), read(document(shuffled))
    assert one.listed.equals(other.listed)
    assert one.rejected.equals(other.rejected)
    assert (one.duplicates, one.extra_fields) == (other.duplicates, other.extra_fields)


@settings(deadline=None)
@given(TEXT_ROWS)
def test_json_and_xml_of_the_same_rows_give_the_same_tables(rows: list[dict[str, str]]) -> None:
    from_json = read(document(rows))
    from_xml = read(as_xml(rows), "xml")
    assert from_xml.listed.equals(from_json.listed)
    assert from_xml.rejected.equals(from_json.rejected)
    assert (from_xml.duplicates, from_xml.whole) == (from_json.duplicates, from_json.whole)


def ends_well(body: bytes, answer_format: Format) -> None:
    try:
        snapshot = read(body, answer_format)
    except ApiError as error:
        assert "39980012" not in str(error)
    else:
        holds_its_promises(snapshot)


def as_json(rows: list[dict[str, str]]) -> bytes:
    return document(rows).encode()


def as_xml(rows: list[dict[str, str]]) -> bytes:
    xml_rows = "".join(xml_row(row["id"], row["phoneNumber"], row["createdAt"]) for row in rows)
    return xml_document(xml_rows, nb_data=str(len(rows))).encode()


PIECES = st.binary(max_size=4) | st.sampled_from(
    [
        *(b"{", b"}", b"[", b"]", b",", b'"', b"null", b"true", b"9" * 5000, b"1e999", b"NaN", b"\\ud800", b"\\u0000"),
        *(b"<entry>", b"</entry>", b"<entry/>", b"<!DOCTYPE x>", b"&lt;", b"<![CDATA[", b"]]>", b"-", b"\xff", b"\xc3"),
    ]
)


@pytest.mark.parametrize(("write", "answer_format"), [(as_json, "json"), (as_xml, "xml")], ids=["json", "xml"])
def test_any_bytes_end_in_a_snapshot_that_adds_up_or_in_an_error_of_the_api(
    write: Callable[[list[dict[str, str]]], bytes], answer_format: Format
) -> None:
    @settings(deadline=None, max_examples=300)
    @given(TEXT_ROWS, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.1), PIECES), max_size=4), st.floats(0.5, 1.5))
    def mutated(rows: list[dict[str, str]], edits: list[tuple[float, float, bytes]], end: float) -> None:
        body = write(rows)
        for where, length, piece in edits:
            start = int(where * len(body))
            body = body[:start] + piece + body[start + int(length * len(body)) :]
        ends_well(body[: int(end * len(body))], answer_format)

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def arbitrary(body: bytes) -> None:
        ends_well(body, answer_format)

    mutated()
    arbitrary()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(JSON_VALUES | st.fixed_dictionaries(dict.fromkeys(GOOD, JSON_VALUES)), max_size=5))
def test_any_json_values_may_stand_where_rows_do(rows: list[Any]) -> None:
    snapshot = read(document(rows))
    assert snapshot.rows == len(rows)
    holds_its_promises(snapshot)


@pytest.mark.parametrize("padding", range(60, 81))
@pytest.mark.parametrize("answer_format", ["json", "xml"])
def test_a_secret_that_an_answer_echoes_is_not_quoted_not_even_in_part(
    padding: int, answer_format: Format, tmp_path: Path
) -> None:
    path = tmp_path / "page"
    path.write_text("<" * padding + "apikey-of-mine</html>")
    with pytest.raises(UnreadableAnswerError) as error:
        parse(path, answer_format, fetched_at=FETCHED_AT, timezone="Europe/Paris", secrets=["apikey-of-mine"])
    assert "apik" not in str(error.value)
