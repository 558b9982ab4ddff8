"""What surrounds the rows of a response: which documents are lists, and the sentence about each that is not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stop_pipeline.errors import (
    ApiError,
    KeyRefusedError,
    TransientApiError,
    UnreadableResponseError,
)
from stop_pipeline.phone_numbers import find_phone_numbers_in_row
from stop_pipeline.schema import NOT_AN_OBJECT
from stop_pipeline.settings import Format
from stop_pipeline.smspartner.document import open_list
from stop_pipeline.smspartner.response import parse
from stop_pipeline_tests.support.parsing import (
    DATA,
    FETCHED_AT,
    GOOD,
    NOON,
    NUMBER,
    holds_its_promises,
    json_document,
    read,
    read_document,
    read_file,
    records,
    xml_document,
    xml_entry,
    xml_row,
)
from stop_pipeline_tests.support.syncing import PARIS

ONE_ROW = xml_document(xml_row("1", NUMBER, NOON))

# The documented responses


@pytest.mark.parametrize("response_format", ["json", "xml"])
def test_the_documented_list_is_read_and_its_masked_number_is_kept_as_received(response_format: Format) -> None:
    document, snapshot = read_file(DATA / f"sample-list.{response_format}", response_format)
    (row,) = records(snapshot.listed)
    assert (row["id"], row["phone_number"], row["country"]) == (19, "+33xxxxxxxxx", None)
    assert str(row["created_at"]) == "2015-07-20 08:19:45+00:00"
    assert str(row["created_at_local"]) == "2015-07-20 10:19:45"
    # The XML says 3 and shows 1, so it is not complete.
    assert (document.code, document.nb_data, snapshot.rows) == (200, 1 if response_format == "json" else 3, 1)
    holds_its_promises(snapshot)


@pytest.mark.parametrize("response_format", ["json", "xml"])
def test_the_documented_error_is_a_refusal_of_the_key(response_format: Format) -> None:
    with pytest.raises(KeyRefusedError, match="Clé API incorrecte"):
        open_list(DATA / f"sample-error.{response_format}", response_format, secrets=())


@pytest.mark.parametrize("response_format", ["json", "xml"])
def test_a_response_cut_anywhere_is_unreadable(response_format: Format) -> None:
    body = (DATA / f"sample-list.{response_format}").read_bytes().rstrip()
    for end in range(len(body)):
        with pytest.raises(UnreadableResponseError):
            read(body[:end], response_format)


def test_a_document_of_any_number_of_rows_is_judged_without_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "response"
    path.write_text(json_document([GOOD] * 3).replace(NOON, "\x00"))  # which no JSON may hold
    document = open_list(path, "json")
    assert (document.code, document.nb_data) == (200, 3)
    with pytest.raises(UnreadableResponseError, match="Invalid control character"):
        parse(document, fetched_at=FETCHED_AT, timezone=PARIS)


# What is not a list


def test_an_empty_list_has_no_rows() -> None:
    for document, snapshot in (
        read_document(json_document([])),
        read_document(json_document([]).replace("[]", "[ \n ]")),
        read_document(xml_document("", nb_data="0"), "xml"),
    ):
        assert (document.nb_data, snapshot.rows, len(snapshot.listed)) == (0, 0, 0)
        holds_its_promises(snapshot)


LIST = json_document([GOOD])
EMPTY = json_document([])
NOTICE_OF_PHP = "\n<br />\n<b>Notice</b>: Undefined index in <b>/www/list.php</b> on line <b>7</b>"
JSON = {
    "empty": ("", r"Expecting value at character 0 of 0 \(it is blank"),
    "blank": (" \n", r"Expecting value at character 2 of 2 \(it is blank"),
    "HTML": ("<html><body>Bad gateway</body></html>", "Expecting value"),
    "cut within a row": (LIST[: LIST.index("[") + 10], "it is cut off after 62 characters"),
    "cut after its last row": (LIST[:-1], "it is cut off after"),
    "a brace too many": (EMPTY + "}", "other text follows"),
    "two documents": (LIST + LIST, "other text follows"),
    "a notice after the end": (LIST + NOTICE_OF_PHP, "other text follows"),
    "a warning that ends in a bracket": (LIST + "\nPHP Warning:  unlink(): in [/www/cache]", "other text follows"),
    "a name without quotes": (LIST.replace('"id"', "id"), "Expecting property name"),
    "a letter of Latin-1": (b'{"success": true, "x": "caf\xe9", "data": []}', "it is not UTF-8 at byte 27 of 42"),
    "half a letter": (b'{"success": true, "x": "caf\xc3", "data": []}', "it is not UTF-8 at byte 27 of 42"),
    "UTF-16": (LIST.encode("utf-16"), "it is not UTF-8 at byte 0 of"),
    "half a surrogate pair as UTF-8": (b'{"success":true,"data":[],"x":"\xed\xa0\x80"}', "it is not UTF-8 at byte 31"),
    "NaN": (EMPTY.replace("200", "NaN"), "NaN is not JSON"),
    "Infinity": (EMPTY.replace("200", "-Infinity"), "-Infinity is not JSON"),
    "nested too deeply": ("[" * 200_000, "it is nested too deeply"),
    "nested too deeply, and closed": ("[" * 200_000 + "]" * 200_000, "it is nested too deeply"),
    "a list at the top": ("[1]", "it is not an object"),
    "null": ("null", "it is not an object"),
    "no success": ('{"code":200,"nbData":0,"data":[]}', "its “success” is neither true nor false"),
    "success null": (EMPTY.replace("true", "null"), "its “success” is neither true nor false"),
    "success as a string": (json_document([], success="true"), "its “success” is neither true nor false"),
    "success as a number": (json_document([], success=1), "its “success” is neither true nor false"),
    "no data, and nbData 0": ('{"success":true,"code":200,"nbData":0}', "its “data” is not a list"),
    "data a number": (json_document([], data=0), "its “data” is not a list"),
    "data a text": (json_document([], data="none"), "its “data” is not a list"),
    "data false": (json_document([], data=False), "its “data” is not a list"),
    "data one row instead of a list": (json_document([], data=GOOD, nbData=1), "its “data” is not a list"),
    "a form feed among no rows": (EMPTY.replace("[]", "[\f]"), "Expecting value"),
    "a form feed among rows": (LIST.replace("]", "\f]"), "Expecting ',' delimiter"),
    "a comma after the last row": (LIST.replace("]", ",]"), "[A-Z].* at character"),  # as the version of Python says it
    "a comma before the first row": (LIST.replace("[", "[,"), "Expecting value"),
    "two lists of one name, the last not a list": (f'{LIST[:-1]}, "data": 1}}', "it repeats a key"),
}
ENTITIES = '<!DOCTYPE result [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
DECLARES = "it declares a document type, which may hide entities"
XML = {
    "empty": ("", r"no element found at line 1 \(it is blank"),
    "JSON": (EMPTY, "not well-formed"),
    "cut": (ONE_ROW[:-20], "no element found|unclosed token|mismatched"),
    "an element too many": (f"{ONE_ROW}<entry/>", "junk after document element"),
    "entities": (ONE_ROW.replace("<result>", f"{ENTITIES}<result>").replace(NUMBER, "&b;"), DECLARES),
    "a document type": (ONE_ROW.replace("<result>", '<!DOCTYPE result SYSTEM "file:///etc/passwd"><result>'), DECLARES),
    "an unknown entity": (ONE_ROW.replace(NUMBER, "&phone;"), "undefined entity"),
    "an unknown encoding": (ONE_ROW.replace("UTF-8", "x-nobody"), "its encoding is unknown|unknown encoding"),
    "not in its encoding": (ONE_ROW.replace(NUMBER, "é").encode("latin-1"), "not well-formed"),
    "another root": (ONE_ROW.replace("result>", "html>"), "its root is not <result>"),
    "nothing in it": ("<result/>", "its first entry is neither true nor false"),
    "success in capitals": (ONE_ROW.replace("true", "TRUE"), "its first entry is neither true nor false"),
    "success as a number": (ONE_ROW.replace("true", "1"), "its first entry is neither true nor false"),
    "no list": (f"<result>{xml_entry('true')}{xml_entry('200')}{xml_entry('0')}</result>", "its fourth entry is not"),
    "a text instead of a list": (xml_document("none"), "its fourth entry is not a list"),
    "text beside the rows": (xml_document(f"text{xml_row('1', NUMBER, NOON)}"), "its fourth entry is not a list"),
    "a row nested too deeply": (xml_document("<entry>" * 100_000 + "</entry>" * 100_000), "it is nested too deeply"),
}


@pytest.mark.parametrize(
    ("response_format", "body", "problem"),
    [
        pytest.param(response_format, *unreadable, id=f"{response_format}: {name}")
        for response_format, table in (("json", JSON), ("xml", XML))
        for name, unreadable in table.items()
    ],
)
def test_a_response_that_is_not_a_list_is_unreadable_and_never_an_empty_list(
    response_format: Format, body: bytes | str, problem: str
) -> None:
    with pytest.raises(UnreadableResponseError) as raised:
        read(body, response_format)
    sentence = f"SMS Partner's response is not a list of stops in {response_format.upper()}: ({problem})"
    assert re.match(sentence, str(raised.value))
    assert str(raised.value).endswith(". Nothing was changed; a later sync may succeed.")
    assert raised.value.__context__ is None  # a decoder's error holds the whole document


@pytest.mark.parametrize(
    ("body", "response_format"),
    [
        (json_document([GOOD], message=NUMBER) + NUMBER, "json"),
        (json_document([GOOD])[:-5], "json"),
        (NUMBER, "json"),
        (f'{{"success":"{NUMBER}"}}', "json"),
        (f'{{"success":false,"code":{NUMBER[1:]},"message":"{NUMBER}"}}', "json"),
        (f"<result>{NUMBER}", "xml"),
        (f"<result><entry>{NUMBER}</entry></result>", "xml"),
        (f"<result>&n{NUMBER[1:]};</result>", "xml"),
    ],
)
def test_an_error_shows_how_the_response_begins_but_no_phone_number(body: str, response_format: Format) -> None:
    with pytest.raises(ApiError) as raised:
        read(body, response_format)
    assert "39980012" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("padding", range(60, 81))
@pytest.mark.parametrize("response_format", ["json", "xml"])
def test_a_secret_that_a_response_echoes_is_not_quoted_not_even_in_part(
    padding: int, response_format: Format, tmp_path: Path
) -> None:
    path = tmp_path / "page"
    path.write_text("<" * padding + "apikey-of-mine</html>")
    with pytest.raises(UnreadableResponseError) as error:
        open_list(path, response_format, secrets=["apikey-of-mine"])
    assert "apik" not in str(error.value)


def test_a_secret_in_the_message_of_a_refusal_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "response"
    path.write_text('{"success": false, "code": 10, "message": "unknown key: apikey-of-mine"}')
    with pytest.raises(KeyRefusedError, match=r"unknown key: \[redacted\]"):
        open_list(path, "json", secrets=["apikey-of-mine"])


def test_a_response_whose_rows_turn_out_to_be_broken_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "response"
    path.write_text('{"url": "?apiKey=apikey-of-mine", "success": true, "code": 200, "nbData": 1, "data": [{"id": 1]}')
    document = open_list(path, "json", secrets=["apikey-of-mine"])
    with pytest.raises(UnreadableResponseError, match="delimiter at character") as error:
        parse(document, fetched_at=FETCHED_AT, timezone=PARIS)
    assert "apik" not in str(error.value)


@pytest.mark.parametrize("body", ["<html>apikey-of-mine</html>", '{"code": 10, "message": "unknown: apikey-of-mine"}'])
def test_where_the_secrets_are_not_known_nothing_is_quoted(body: str, tmp_path: Path) -> None:
    path = tmp_path / "response"
    path.write_text(body)
    with pytest.raises(ApiError, match=r"character 0 of 27\. Nothing was changed|\(code 10\)") as error:
        open_list(path, "json")
    assert "apik" not in str(error.value)


# Refusals


def test_a_refusal_goes_by_a_known_code_even_beside_success_true() -> None:
    with pytest.raises(KeyRefusedError):
        read(json_document([], code=10))
    with pytest.raises(KeyRefusedError):
        read(json_document([GOOD], code="10"))
    with pytest.raises(TransientApiError):
        read(xml_document("", code="500"), "xml")
    with pytest.raises(ApiError, match="does not allow this machine's IP address"):
        read(json_document({"1": GOOD}, code=96))


def test_a_refusal_without_a_known_code_is_still_not_a_list() -> None:
    for body in (
        '{"success": false}',
        json_document([GOOD], success=False),
        json_document([], success=False, code="?"),
    ):
        with pytest.raises(ApiError):
            read(body)


# Code and `nbData`


@pytest.mark.parametrize(("code", "nb_data"), [(200, 1_234_567), ("200", "1234567"), ("200", "0")])
def test_code_and_nb_data_are_whole_numbers_or_their_digits(code: Any, nb_data: Any) -> None:
    document, _ = read_document(json_document([GOOD], code=code, nbData=nb_data))
    assert (document.code, document.nb_data) == (200, int(nb_data))


@pytest.mark.parametrize("value", [None, True, 1.0, "", "one", " 1", "1.0", "١", -1, [1], 10**30, "9" * 5000])
def test_code_and_nb_data_of_a_wrong_type_are_unknown(value: Any) -> None:
    assert read_document(json_document([GOOD], nbData=value))[0].nb_data is None
    assert read_document(json_document([GOOD], code=value))[0].code is None


def test_code_and_nb_data_may_be_missing() -> None:
    document, _ = read_document('{"success":true,"data":[]}')
    assert (document.code, document.nb_data) == (None, None)


def test_the_rows_beside_an_unknown_code_and_success_true_are_read() -> None:
    document, snapshot = read_document(json_document([GOOD], code=201))
    assert (document.code, len(snapshot.listed)) == (201, 1)


# Forms that a list may have


def test_a_byte_order_mark_before_the_document_is_tolerated() -> None:
    assert len(read(b"\xef\xbb\xbf" + json_document([GOOD]).encode()).listed) == 1
    assert len(read(b"\xef\xbb\xbf" + ONE_ROW.encode(), "xml").listed) == 1


@pytest.mark.parametrize("number", ["numéro", "numÃ©ro"])  # of which the second would be the first in UTF-8
def test_xml_may_be_in_any_encoding_that_it_declares(number: str) -> None:
    body = xml_document(xml_row("1", number, NOON)).replace("UTF-8", "ISO-8859-1").encode("latin-1")
    assert read(body, "xml").listed["phone_number"].tolist() == [number]


def test_undocumented_fields_at_the_top_are_ignored() -> None:
    assert len(read(json_document([GOOD], pages={"next": None}, id=7)).listed) == 1
    assert len(read(ONE_ROW.replace("</result>", "<entry>more</entry></result>"), "xml").listed) == 1
    assert len(read(ONE_ROW.replace("<result>", "<result><note>more</note>"), "xml").listed) == 1


def test_lists_of_other_names_and_depths_are_not_taken_for_the_list() -> None:
    other = GOOD | {"id": 9}
    for around in ({"pages": {"data": [other]}}, {"pages": [other]}, {"note": '"data": [1]'}):
        for body in (json_document([GOOD], **around), json.dumps(around | json.loads(json_document([GOOD])))):
            assert read(body).listed["id"].tolist() == [1]


def test_a_row_that_repeats_a_key_is_rejected_and_all_its_numbers_are_kept() -> None:
    other = "+33639980077"
    body = json_document([GOOD, GOOD | {"id": 2}]).replace('"id": 2', f'"id": 2, "phoneNumber": "{other}"')
    snapshot = read(body)
    assert snapshot.listed["id"].tolist() == [1]
    assert snapshot.rejected["reason"].tolist() == [NOT_AN_OBJECT]
    assert find_phone_numbers_in_row(snapshot.rejected["raw"].iloc[0]) == sorted([other, NUMBER])


@pytest.mark.parametrize("repeated", ['"data": []', '"nbData": 1', '"success": true'])
def test_a_document_that_repeats_a_key_is_refused_since_rows_could_be_lost(repeated: str) -> None:
    with pytest.raises(UnreadableResponseError, match="it repeats a key"):
        read(f"{json_document([GOOD])[:-1]}, {repeated}}}")
    with pytest.raises(UnreadableResponseError):
        read(json_document([GOOD]).replace("{", f"{{{repeated}, ", 1))


def test_blank_lines_before_an_xml_document_do_no_harm() -> None:
    assert read(f"\n \n{ONE_ROW}", "xml").listed["id"].tolist() == [1]


# PHP's ways of writing a list


@pytest.mark.parametrize(
    "data", [{"0": GOOD}, {"3": GOOD}, {"3": GOOD, "7": GOOD | {"id": 2}}, {"0": GOOD, "1": GOOD | {"id": 2}}]
)
def test_an_array_with_gaps_which_php_writes_as_an_object_is_a_list_of_its_values(data: dict[str, Any]) -> None:
    document, snapshot = read_document(json_document([], data=data, nbData=len(data)))
    assert snapshot.listed["id"].tolist() == list(range(1, len(data) + 1))
    assert (document.nb_data, snapshot.rows) == (len(data), len(data))
    holds_its_promises(snapshot)


@pytest.mark.parametrize("keys", [("x",), ("0", "x"), ("-1",), ("01",), ("1.0",), ("",), ("١",), ("9" * 30,)])
def test_an_object_with_any_other_key_is_not_a_list(keys: tuple[str, ...]) -> None:
    with pytest.raises(UnreadableResponseError, match="its “data” is not a list"):
        read(json_document([], data=dict.fromkeys(keys, GOOD), nbData=len(keys)))


@pytest.mark.parametrize("second", ['"3"', '"\\u0033"'])
def test_an_object_that_repeats_a_key_is_refused_since_rows_would_be_lost(second: str) -> None:
    row = json.dumps(GOOD)
    body = json_document([], nbData=2).replace("[]", f'{{"3": {row}, {second}: {row}}}')
    with pytest.raises(UnreadableResponseError, match="its “data” repeats a key, so that rows would be lost"):
        read(body)


@pytest.mark.parametrize("nb_data", [0, "0"])
@pytest.mark.parametrize("data", [{}, None, "", []])
def test_with_nb_data_0_every_way_in_which_php_writes_nothing_is_the_empty_list(data: Any, nb_data: Any) -> None:
    document, snapshot = read_document(json_document([], data=data, nbData=nb_data))
    assert (document.nb_data, snapshot.rows) == (0, 0)


@pytest.mark.parametrize("nb_data", [1, None, "", False])
@pytest.mark.parametrize("data", [{}, None, ""])
def test_without_nb_data_0_they_are_not_a_list(data: Any, nb_data: Any) -> None:
    with pytest.raises(UnreadableResponseError, match="its “data” is not a list"):
        read(json_document([], data=data, nbData=nb_data))


@pytest.mark.parametrize("depth", [*range(100, 1100, 15), 100_000])
def test_a_nested_row_in_an_object_of_rows_ends_in_rows_or_in_one_sentence(depth: int) -> None:
    row = "[" * depth + "]" * depth
    try:
        holds_its_promises(read(json_document([], nbData=1).replace("[]", f'{{"3": {row}}}')))
    except UnreadableResponseError as error:
        assert "nested too deeply" in str(error)
