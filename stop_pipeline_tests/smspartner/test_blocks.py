"""A response that is read block by block gives what it gives when it is parsed as one, wherever the blocks begin."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stop_pipeline.errors import ApiError, UnreadableResponseError
from stop_pipeline.settings import Format
from stop_pipeline.smspartner import document as document_module
from stop_pipeline.smspartner.document import blocks, open_list
from stop_pipeline.smspartner.response import parse, parse_span
from stop_pipeline_tests.support.parsing import DATA, FETCHED_AT, records
from stop_pipeline_tests.support.syncing import IN_MEMORY, PARIS

Outcome = dict[str, Any] | tuple[type[ApiError], str]


def read(path: Path, response_format: Format, *, block_bytes: int, end_bytes: int) -> Outcome:
    """What becomes of a response, if its blocks and the ends by which it is judged have so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_module, "_BLOCK_BYTES", block_bytes)
        patch.setattr(document_module, "_END_BYTES", end_bytes)
        try:
            document = open_list(path, response_format)
            snapshot = parse(document, fetched_at=FETCHED_AT, timezone=PARIS)
        except ApiError as error:
            return type(error), str(error)
    return {
        "envelope": (document.code, document.nb_data),
        "listed": records(snapshot.listed),
        "rejected": records(snapshot.rejected),
        "counts": (snapshot.rows, snapshot.duplicates, snapshot.any_too_late, snapshot.extra_fields),
    }


def check_blocks(text: str, response_format: Format, block_bytes: int, end_bytes: int) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder) / "response"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        as_one = read(path, response_format, block_bytes=1, end_bytes=1)  # the ends are too short to show a list
        in_blocks = read(path, response_format, block_bytes=block_bytes, end_bytes=end_bytes)
    if in_blocks != as_one:  # the ends say that this is not a list; as one, it is told first that it is broken
        assert isinstance(in_blocks, tuple)
        assert isinstance(as_one, tuple)
        assert as_one[0] is UnreadableResponseError


SIZES = {"block_bytes": st.integers(1, 400), "end_bytes": st.sampled_from([65_536, 65_536, 300, 150])}

# JSON


def plain(row_id: int, number: str = "+33639980001", created_at: str = "2024-06-01 10:00:00") -> str:
    return f'{{"id": {row_id}, "phoneNumber": "{number}", "createdAt": "{created_at}"}}'


PLAIN = plain(1)
TRICKY = ["},{", '"},{"', "}, {", "\\", "\n", "é", "\ud800", "data", "]}", '"data": [', " ", "", "+33639980012", "0"]
TEXTS = st.sampled_from(TRICKY) | st.text(max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PLAIN_ROWS = st.builds(
    plain,
    st.integers(1, 9) | st.integers(-1, 2**63 + 1),
    st.sampled_from(["+33639980001", "0639980002"]) | st.text("+0123456789 ", max_size=13),
    st.sampled_from(["2024-06-01 10:00:00", "2024-02-30 10:00:00"]) | st.text("0123456789-: ", min_size=1, max_size=20),
)
ODD_ROWS = st.builds(
    json.dumps,
    VALUES
    | st.fixed_dictionaries({"id": VALUES, "phoneNumber": TEXTS, "createdAt": TEXTS}, optional={"more": VALUES})
    | st.fixed_dictionaries({"createdAt": TEXTS, "id": st.integers(1, 9), "phoneNumber": TEXTS}),
    ensure_ascii=st.booleans(),
)
RAW_TEXTS = st.sampled_from(
    [
        *("null", "NaN", "1,", "", "{", '"', PLAIN.replace(" ", ""), PLAIN.replace(", ", " ,\n\t")),
        *(PLAIN.replace("1,", text) for text in ("01,", "1.0,", '1, "id": 2,', "0x1,")),
        *(PLAIN.replace("+33", text) for text in ("\\u002b33", "\x01", '"},{"id', " +33")),
        PLAIN.replace("phoneNumber", "phonenumber"),
    ]
)
AROUND = [
    '{"success": true, "code": 200, "nbData": 2, "data": [%s]}',
    '{"data":[%s],"nbData":"2","code":"200","success":true}',
    ' { "success" : true , "data" : [ %s ] } \n',
    '{"success": true, "extra": {"data": [%s]}, "data": []}',
    '{"success": true, "extra": {"data": []}, "data": [%s]}',
    '{"success": true, "data": [1], "data": [%s]}',
    '{"success": true, "data": [%s], "data": ["rows"]}',
    '{"success": true, "data": ["rows"], "data": [%s]}',
    '{"success": true, "note": "\\"data\\": [", "data": [%s]}',
    '{"success": true, "note": "data", "data": [%s]}',
    '{"success": true, "data": [%s], "more": [1]}',
    '{"success": true, "data": [[%s]]}',
    '{"success": true, "data": [%s,]}',
    '{"success": true, "data": [%s]',
    '{"success": true, "data": [%s]} x',
    '{"success": true, "data": [%s]}\nNotice: in [/www/list.php]',
    '{"success": true, "data": {"0": [%s]}}',
    '{"success": false, "code": 10, "data": [%s]}',
    '{"code": 200, "data": [%s]}',
    '\ufeff{"success": true, "data": [%s]}',
    '["data": [%s]]',
    '{"success": true, "d\\u0061ta": 1, "data": [%s]}',
    '{"success": true, "data": [%s], "d\\u0061ta": [1]}',
]
JSON_TEXTS = st.builds(
    lambda around, separator, rows: around.replace("%s", separator.join(rows)),
    st.sampled_from(AROUND[:3]) | st.sampled_from(AROUND),
    st.sampled_from([",", ", "]) | st.sampled_from([",", " ,\n", ",\r\n\t", ", null, ", ",,", " "]),
    st.lists(PLAIN_ROWS | ODD_ROWS, max_size=8) | st.lists(PLAIN_ROWS | ODD_ROWS | RAW_TEXTS, max_size=12),
)
FIVE = ", ".join([PLAIN] * 5)
CONFLICT = ",".join([PLAIN, PLAIN.replace("+33", '"},{"id'), PLAIN])


@settings(max_examples=15, deadline=None)
@given(text=JSON_TEXTS, **SIZES)
@example(text=AROUND[0].replace("%s", FIVE), block_bytes=90, end_bytes=65_536)
@example(text=AROUND[0].replace("%s", CONFLICT), block_bytes=60, end_bytes=65_536)
@example(text=AROUND[0].replace("%s", f"{PLAIN},"), block_bytes=60, end_bytes=65_536)
def test_wherever_json_is_cut_it_gives_what_it_gives_as_one(text: str, block_bytes: int, end_bytes: int) -> None:
    check_blocks(text, "json", block_bytes, end_bytes)


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(text=JSON_TEXTS, **SIZES)
def test_wherever_any_json_is_cut_it_gives_what_it_gives_as_one(text: str, block_bytes: int, end_bytes: int) -> None:
    check_blocks(text, "json", block_bytes, end_bytes)


def test_a_row_longer_than_a_block_is_read_as_any_other(tmp_path: Path) -> None:
    long = plain(5, number="1" * 300_000)
    check_blocks(AROUND[0].replace("%s", ", ".join([plain(1), long, plain(2)])), "json", 50, 65_536)


def test_a_list_in_which_no_row_is_seen_to_end_is_one_block() -> None:
    check_blocks(AROUND[0].replace("%s", ",".join(["[1]"] * 30_000)), "json", 1_000, 65_536)


# XML


def xml_row(*texts: str, frame: str = "<entry>\n      <entry>%s</entry>\n    </entry>", cdata: bool = True) -> str:
    written = [text if text.isdigit() or not cdata else f"<![CDATA[{text}]]>" for text in texts]
    return frame.replace("%s", "</entry>\n      <entry>".join(written))


XML_PLAIN = xml_row("1", "+33639980001", "2024-06-01 10:00:00")
XML_PLAIN_ROWS = st.builds(
    xml_row,
    st.integers(1, 9).map(str) | st.integers(-1, 2**63 + 1).map(str),
    st.text("+0123456789 ", max_size=13),
    st.text("0123456789-: ", min_size=1, max_size=20) | st.just("2024-06-01 10:00:00"),
    cdata=st.booleans(),
)
IN_ONE_LINE = "<entry><entry>%s</entry></entry>"
XML_RAW_TEXTS = st.sampled_from(
    [
        *(
            "",
            "<entry/>",
            "<entry>7</entry>",
            "stray",
            "\u00a0",
            "&amp;",
            "&#49;",
            "&bogus;",
            "<b/>",
            "<!-- -- >",
            "<!--",
        ),
        *("-->", f"<!-- {XML_PLAIN} -->", f"<entry>{XML_PLAIN}</entry>", "<![CDATA[", "]]>", "<entry>", "</entry>"),
        *("</entry><entry>", "</entry></result>", "<?of no interest?>", '<?xml version="1.0"?>', "<!DOCTYPE result>"),
        *(XML_PLAIN.replace(">1<", text) for text in (">01<", ">1<b/><", "> 1\n<")),
        *(XML_PLAIN.replace("+33", text) for text in ("&#43;33", "+33]]", "<!-- -->+33", " \u00a0+33")),
        XML_PLAIN.replace("<entry>", '<entry id="1">', 1),
        XML_PLAIN.replace("\n", "\r\n"),
        XML_PLAIN.replace("10:00:00", "10:00:00]]><![CDATA["),
        xml_row("1", "+33639980001", "2024-06-01 10:00:00", frame=IN_ONE_LINE),
        xml_row("1", "+33639980001", "2024-06-01 10:00:00", frame="<entry><entry>%s</entry><entry/></entry>"),
    ]
)
ENTRIES = "<entry>true</entry>\n<entry>200</entry>\n<entry>2</entry>\n"
XML_AROUND = [
    f'<?xml version="1.0" encoding="UTF-8"?>\n<result>{ENTRIES}<entry>\n  %s\n</entry></result>\n',
    f"<result>{ENTRIES}<entry>%s</entry></result>",
    f"<?xml version='1.0' encoding = 'us-ascii'?><result>{ENTRIES}<entry>%s</entry></result>",
    f'<?xml version="1.0" encoding="iso-8859-1"?><result>{ENTRIES}<entry>%s</entry></result>',
    f'<?xml version="1.0" encoding="utf-16"?><result>{ENTRIES}<entry>%s</entry></result>',
    f'<?xml version="1.0" encoding="none"?><result>{ENTRIES}<entry>%s</entry></result>',
    f"\ufeff<result>{ENTRIES}<entry>%s</entry></result>",
    f"<!-- <result>{ENTRIES}<entry> --><result>{ENTRIES}<entry>%s</entry></result>",
    f"<result>{ENTRIES}<entry>%s</entry><entry>more</entry></result>",
    f"<result>{ENTRIES}<entry>%s</entry><entry></entry></result><!-- </entry> -->",
    f"<result>{ENTRIES}<entry>%s</entry><other></other></result>",
    f"<result>{ENTRIES}<entry>text %s</entry></result>",
    f"<result>{ENTRIES}<entry>%s text</entry></result>",
    f"<result>{ENTRIES}<entry><![CDATA[%s]]></entry></result>",
    f"<result>{ENTRIES}<entry><entry>%s</entry></entry></result>",
    f"<result>{ENTRIES}<entry>%s</entry>",
    f"<result>{ENTRIES}<entry>%s",
    f"<result>{ENTRIES}<entry>%s</entry></result> x",
    f"<other>{ENTRIES}<entry>%s</entry></other>",
    f"<other><result>{ENTRIES}<entry>%s</entry></result></other>",
    f'<result xmlns="x">{ENTRIES}<entry>%s</entry></result>',
    f"<!DOCTYPE result><result>{ENTRIES}<entry>%s</entry></result>",
    "<result><entry>false</entry><entry>10</entry><entry>no</entry><entry>%s</entry></result>",
    "<result><entry>true</entry><entry>%s</entry></result>",
]
XML_TEXTS = st.builds(
    lambda around, between, rows: around.replace("%s", between.join(rows)),
    st.sampled_from(XML_AROUND[:2]) | st.sampled_from(XML_AROUND),
    st.sampled_from(["", "\n    ", " ", "\r\n\t", "\n\u2003", "text"]),
    st.lists(XML_PLAIN_ROWS | st.just(XML_PLAIN), max_size=8)
    | st.lists(XML_PLAIN_ROWS | XML_RAW_TEXTS | st.just(XML_PLAIN), max_size=12),
)


@settings(max_examples=15, deadline=None)
@given(text=XML_TEXTS, **SIZES)
@example(text=XML_AROUND[0].replace("%s", "\n    ".join([XML_PLAIN] * 5)), block_bytes=300, end_bytes=65_536)
@example(
    text=XML_AROUND[1].replace("%s", "\n".join([XML_PLAIN, f"<!-- {XML_PLAIN}", f"{XML_PLAIN} -->", XML_PLAIN])),
    block_bytes=200,
    end_bytes=65_536,
)
@example(
    text=XML_AROUND[1].replace("%s", f"{XML_PLAIN}\n</entry><entry>\n{XML_PLAIN}\n{XML_PLAIN}\n{XML_PLAIN}"),
    block_bytes=400,
    end_bytes=65_536,
)
def test_wherever_xml_is_cut_it_gives_what_it_gives_as_one(text: str, block_bytes: int, end_bytes: int) -> None:
    check_blocks(text, "xml", block_bytes, end_bytes)


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(text=XML_TEXTS, **SIZES)
def test_wherever_any_xml_is_cut_it_gives_what_it_gives_as_one(text: str, block_bytes: int, end_bytes: int) -> None:
    check_blocks(text, "xml", block_bytes, end_bytes)


# Both formats

PLAIN_XML_ROWS = [XML_PLAIN.replace(">1<", f">{number}<") for number in range(1, 200)]
PLAIN_JSON_ROWS = [plain(number) for number in range(1, 200)]


@pytest.mark.parametrize(
    ("response_format", "around"),
    [*(("json", around) for around in AROUND), *(("xml", around) for around in XML_AROUND)],
)
def test_whatever_surrounds_the_rows_they_are_found_or_the_document_is_parsed_as_one(
    response_format: Format, around: str
) -> None:
    rows = ", ".join(PLAIN_JSON_ROWS[:3]) if response_format == "json" else "\n".join(PLAIN_XML_ROWS[:2])
    check_blocks(around.replace("%s", rows), response_format, 100, 65_536)


@pytest.mark.parametrize(
    ("response_format", "around", "between", "rows"),
    [
        *(("json", AROUND[0], between, PLAIN_JSON_ROWS) for between in (",", ", ")),
        *(("xml", XML_AROUND[0], between, PLAIN_XML_ROWS) for between in ("", "\n    ", "\r\n")),
    ],
)
def test_a_list_of_plain_rows_is_read_in_blocks_of_the_size_wanted(
    response_format: Format, around: str, between: str, rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "response"
    path.write_text(around.replace("%s", between.join(rows)))
    monkeypatch.setattr(document_module, "_BLOCK_BYTES", 1_000)
    document = open_list(path, response_format)
    assert document.span
    assert len(list(blocks(document, document.span))) > path.stat().st_size / 1_200
    snapshot = parse(document, fetched_at=FETCHED_AT, timezone=PARIS)
    assert snapshot.span == document.span, "the list was parsed as one"
    assert snapshot.listed["id"].tolist() == list(range(1, 200))


def test_the_documented_xml_shows_where_its_list_is() -> None:
    assert open_list(DATA / "sample-list.xml", "xml").span


def test_a_part_of_a_list_is_read_if_it_is_a_list_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "response"
    path.write_text(AROUND[0].replace("%s", f"{plain(1)},{plain(2)}"))
    document = open_list(path, "json")
    assert document.span
    start, end = document.span
    second = (start + len(plain(1)) + 1, end)
    part = parse_span(document, second, fetched_at=FETCHED_AT, timezone=PARIS)
    assert part is not None
    assert part.listed["id"].tolist() == [2]
    for no_list in ((start + 1, end), (start, end - 1), (start, second[0]), (second[0] - 1, end)):
        assert parse_span(document, no_list, fetched_at=FETCHED_AT, timezone=PARIS) is None
