"""Rows of XML responses, whose fields are told apart by their place alone."""

import pytest

from stop_pipeline.schema import BAD_ID, BAD_PHONE_NUMBER, NOT_AN_OBJECT
from stop_pipeline_tests.support.parsing import (
    NOON,
    NUMBER,
    holds_its_promises,
    only_rejected,
    read,
    read_document,
    xml_document,
    xml_entry,
    xml_row,
)


def test_rows_are_read_by_position_and_stripped() -> None:
    rows = xml_row("7", "06 39 98 00 12", NOON) + xml_entry(
        "<entry>8</entry><entry><![CDATA[+336]]><!-- split --><![CDATA[39980013]]></entry>" + xml_entry(NOON)
    )
    document, snapshot = read_document(xml_document(rows, nb_data="2"), "xml")
    assert snapshot.listed["id"].tolist() == [7, 8]
    assert snapshot.listed["phone_number"].tolist() == [NUMBER, "+33639980013"]
    assert document.nb_data == snapshot.rows == 2
    holds_its_promises(snapshot)


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
def test_a_row_without_exactly_three_entries_is_not_an_object_and_its_texts_are_kept(
    row: str, raw: str, phone_number: str | None
) -> None:
    assert only_rejected(read(xml_document(row), "xml")) == (raw, NOT_AN_OBJECT, phone_number)


def test_a_malformed_row_is_kept_as_an_object_with_the_names_of_the_json_form() -> None:
    raw, reason, phone_number = only_rejected(read(xml_document(xml_row("07", NUMBER, NOON)), "xml"))
    assert raw == f'{{"createdAt":"{NOON}","id":"07","phoneNumber":"{NUMBER}"}}'
    assert (reason, phone_number) == (BAD_ID, NUMBER)


def test_a_field_with_elements_in_it_is_not_a_text() -> None:
    row = xml_entry("<entry>7</entry><entry><b>x</b>y</entry>" + xml_entry(NOON))
    raw, reason, _ = only_rejected(read(xml_document(row), "xml"))
    assert (raw, reason) == (f'{{"createdAt":"{NOON}","id":"7","phoneNumber":["x","y"]}}', BAD_PHONE_NUMBER)


@pytest.mark.parametrize("field", range(3))
def test_megabytes_of_white_space_are_read_as_any_other(field: int) -> None:
    texts = ["1", NUMBER, NOON]
    texts[field] += " " * 3_000_000 + "<b/>"
    entries = "".join(f"<entry>{text}</entry>" for text in texts)
    snapshot = read(xml_document(f"<entry>{entries}</entry>" + xml_row("2", NUMBER, NOON)), "xml")
    assert snapshot.rows == 2
    assert snapshot.listed["id"].tolist() == [2]
    holds_its_promises(snapshot)


def test_a_text_that_ends_a_row_in_a_comment_or_cdata_is_text() -> None:
    row = xml_row("1", NUMBER, NOON)
    other = f"<entry><entry>2</entry><entry><![CDATA[</entry></entry>]]></entry>{xml_entry(NOON)}</entry>"
    rows = f"<!-- {row} -->{row}{other}"
    assert read(xml_document(rows), "xml").listed["phone_number"].tolist() == [NUMBER, "</entry></entry>"]
