"""A document read in pieces is the document read whole, wherever it is cut; and plain rows never become objects."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stop_pipeline import document, pieces
from stop_pipeline.document import Reading, read_document
from stop_pipeline.errors import ApiError
from stop_pipeline.model import Format
from stop_pipeline.pieces import cut
from stop_pipeline.rows import Batch, Malformed

Row = tuple[int, str, str, str]
Outcome = tuple[int | None, int | None, list[Row], list[Malformed], frozenset[str]]

PLAIN = '{"id": 1, "phoneNumber": "+33639980001", "createdAt": "2025-06-01 10:00:00"}'


def plain(row_id: int, number: str = "+33639980001", created_at: str = "2025-06-01 10:00:00") -> str:
    return f'{{"id": {row_id}, "phoneNumber": "{number}", "createdAt": "{created_at}"}}'


def answer(rows: list[str], between: str = ", ") -> str:
    return f'{{"success": true, "code": 200, "nbData": {len(rows)}, "data": [{between.join(rows)}]}}'


@contextmanager
def read(text: str | bytes, *, piece_bytes: int) -> Iterator[Path]:
    """A document to be read in pieces of so many bytes."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", piece_bytes)
        path = Path(folder) / "answer"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        yield path


def as_outcome(reading: Reading[Batch]) -> Outcome:
    rows: list[Row] = []
    malformed: list[Malformed] = []
    extra_fields = frozenset[str]()
    for batch in reading.batches:
        times = batch.created_at_local.cast(pa.string()).to_pylist()
        columns = (batch.ids.to_pylist(), batch.spellings.to_pylist(), times)
        rows += [(*values, batch.raw(place)) for place, values in enumerate(zip(*columns, strict=True))]
        malformed += batch.malformed
        extra_fields |= batch.extra_fields
    malformed.sort(key=lambda row: (row.raw, row.reason))
    return reading.code, reading.nb_data, sorted(rows), malformed, extra_fields


def in_pieces(path: Path, form: Format = "json") -> Reading[Batch]:
    return read_document(path, form, lambda batch: batch, pieces=list(cut(path, form)))


def whole(path: Path, form: Format = "json") -> Reading[Batch]:
    with path.open("rb") as file:
        return document._read_whole(file, form, lambda batch: batch, ())  # noqa: SLF001 – what pieces are held against


def outcome_or_error(
    path: Path, reader: Callable[[Path, Format], Reading[Batch]], form: Format = "json"
) -> Outcome | tuple[type[ApiError], str]:
    try:
        return as_outcome(reader(path, form))
    except ApiError as error:
        return type(error), str(error)


def objects(reading: Reading[Batch]) -> int:
    """How many rows became Python objects."""
    return sum(batch.rows for batch in reading.batches if batch.objects is not None or batch.malformed)


TRICKY = ["},{", '"},{"', "}, {", "\\", "\n", "é", "\ud800", "data", "]}", '"data": [', " ", "", "+33639980012", "0"]
TEXTS = st.sampled_from(TRICKY) | st.text(max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PLAIN_ROWS = st.builds(
    plain,
    st.integers(-1, 2**63 + 1),
    st.text("+0123456789 ", max_size=13),
    st.text("0123456789-: ", min_size=1, max_size=20),
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
        "null",
        "NaN",
        "1,",
        "",
        "{",
        '"',
        PLAIN.replace(" ", ""),
        PLAIN.replace(", ", " ,\n\t"),
        PLAIN.replace("1,", "01,"),
        PLAIN.replace("1,", "1.0,"),
        PLAIN.replace("1,", '1, "id": 2,'),
        PLAIN.replace("1,", "0x1,"),
        PLAIN.replace("+33", "\\u002b33"),
        PLAIN.replace("+33", "\x01"),
        PLAIN.replace("phoneNumber", "phonenumber"),
    ]
)
SEPARATORS = st.sampled_from([",", ", ", " ,\n", ",\r\n\t", ", null, ", ",,", " "])
AROUND = st.sampled_from(
    [
        '{"success": true, "code": 200, "nbData": 2, "data": [%s]}',
        '{"data":[%s],"nbData":"2","code":"200","success":true}',
        ' { "success" : true , "data" : [ %s ] } \n',
        '{"success": true, "extra": {"data": [%s]}, "data": []}',
        '{"success": true, "extra": {"data": []}, "data": [%s]}',
        '{"success": true, "data": [1], "data": [%s]}',
        '{"success": true, "data": [%s], "data": ["rows"]}',
        '{"success": true, "note": "\\"data\\": [", "data": [%s]}',
        '{"success": true, "data": [%s], "more": [1]}',
        '{"success": true, "data": [[%s]]}',
        '{"success": true, "data": [%s,]}',
        '{"success": true, "data": [%s]',
        '{"success": true, "data": [%s]} x',
        '{"success": false, "code": 10, "data": [%s]}',
        '{"code": 200, "data": [%s]}',
        '\ufeff{"success": true, "data": [%s]}',
        '["data": [%s]]',
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    rows=st.lists(PLAIN_ROWS | ODD_ROWS | RAW_TEXTS, max_size=12),
    separator=SEPARATORS,
    around=AROUND,
    piece_bytes=st.integers(1, 400),
)
@example(rows=[PLAIN] * 5, separator=", ", around='{"success": true, "data": [%s]}', piece_bytes=90)
@example(
    rows=[PLAIN, PLAIN.replace("+33", '"},{"id'), PLAIN],
    separator=",",
    around='{"success": true, "data": [%s]}',
    piece_bytes=60,
)
def test_wherever_a_document_is_cut_it_gives_what_the_parser_of_whole_documents_gives(
    rows: list[str], separator: str, around: str, piece_bytes: int
) -> None:
    text = around.replace("%s", separator.join(rows))
    with read(text, piece_bytes=piece_bytes) as path:
        assert outcome_or_error(path, in_pieces) == outcome_or_error(path, whole)


@pytest.mark.parametrize("between", [",", ", ", " ,\r\n "])
def test_no_plain_row_but_the_last_becomes_an_object_however_many_pieces_there_are(between: str) -> None:
    rows = [plain(number) for number in range(1, 500)]
    with read(answer(rows, between), piece_bytes=1000) as path:
        reading = in_pieces(path)
    assert len(reading.batches) > 20
    assert objects(reading) == 1
    assert [row[0] for row in as_outcome(reading)[2]] == list(range(1, 500))


@pytest.mark.parametrize("odd", ["null", '{"id": 7}', PLAIN.replace("+33", "\\u002b33"), plain(9, "06\u00a0")])
def test_an_odd_row_takes_one_neighbour_at_most_with_it_through_pythons_parser(odd: str) -> None:
    rows = [plain(number) for number in range(1, 1000)]
    with read(answer([*rows[:600], odd, *rows[600:]]), piece_bytes=20_000) as path:
        reading = in_pieces(path)
    assert 2 <= objects(reading) <= 3  # it, the last row, and one before what is no object
    assert sum(batch.rows for batch in reading.batches) == 1000


def test_a_row_longer_than_a_piece_is_read_as_any_other() -> None:
    long: dict[str, Any] = {"id": 5, "phoneNumber": "1" * 300_000, "createdAt": "2025-06-01 10:00:00"}
    rows = [plain(1), json.dumps(long), plain(2)]
    with read(answer(rows), piece_bytes=50) as path:
        assert as_outcome(in_pieces(path)) == as_outcome(whole(path))


@pytest.mark.parametrize("ending", [",", ", ", ",\n"])
def test_a_comma_after_the_last_row_makes_no_list(ending: str) -> None:
    with read(answer([plain(1), plain(2), plain(3) + ending]), piece_bytes=1000) as path, pytest.raises(ApiError):
        in_pieces(path)


@pytest.mark.parametrize("chosen", [slice(1, None), slice(None, -1), slice(1, -1)])
def test_pieces_without_the_first_or_the_last_are_not_taken_for_a_list(chosen: slice) -> None:
    rows = [plain(number) for number in range(1, 100)]
    with read(answer(rows), piece_bytes=1000) as path:
        spans = list(cut(path, "json"))[chosen]
        reading = read_document(path, "json", lambda batch: batch, pieces=spans)
        assert reading.list_at is None
        assert as_outcome(reading) == as_outcome(whole(path))


def test_a_piece_that_the_system_reads_a_part_of_only_is_not_taken_for_the_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = ["[1]"] * 100_000  # between which there is no cut
    most = len(",".join(rows[:50_000]))
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, start: pread(file, min(size, most), start))
    with read(answer(rows, ","), piece_bytes=1000) as path:
        assert sum(batch.rows for batch in in_pieces(path).batches) == len(rows)


# XML.


def xml_row(*texts: str, frame: str = "<entry>\n      <entry>%s</entry>\n    </entry>", cdata: bool = True) -> str:
    written = [text if text.isdigit() or not cdata else f"<![CDATA[{text}]]>" for text in texts]
    return frame.replace("%s", "</entry>\n      <entry>".join(written))


XML_PLAIN = xml_row("1", "+33639980001", "2025-06-01 10:00:00")
XML_PLAIN_ROWS = st.builds(
    xml_row,
    st.integers(-1, 2**63 + 1).map(str),
    st.text("+0123456789 ", max_size=13),
    st.text("0123456789-: ", min_size=1, max_size=20),
    cdata=st.booleans(),
)
XML_RAW_TEXTS = st.sampled_from(
    [
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
        "-->",
        f"<!-- {XML_PLAIN} -->",
        f"<entry>{XML_PLAIN}</entry>",
        "<![CDATA[",
        "]]>",
        "<entry>",
        "</entry>",
        "</entry><entry>",
        "</entry></result>",
        "<?of no interest?>",
        '<?xml version="1.0"?>',
        "<!DOCTYPE result>",
        XML_PLAIN.replace(">1<", ">01<"),
        XML_PLAIN.replace(">1<", ">1<b/><"),
        XML_PLAIN.replace(">1<", "> 1\n<"),
        XML_PLAIN.replace("+33", "&#43;33"),
        XML_PLAIN.replace("+33", "+33]]"),
        XML_PLAIN.replace("+33", "<!-- -->+33"),
        XML_PLAIN.replace("+33", " \u00a0+33"),
        XML_PLAIN.replace("<entry>", '<entry id="1">', 1),
        XML_PLAIN.replace("\n", "\r\n"),
        XML_PLAIN.replace("10:00:00", "10:00:00]]><![CDATA["),
        xml_row("1", "+33639980001", "2025-06-01 10:00:00", frame="<entry><entry>%s</entry></entry>"),
        xml_row("1", "+33639980001", "2025-06-01 10:00:00", frame="<entry><entry>%s</entry><entry/></entry>"),
    ]
)
XML_ENTRIES = "<entry>true</entry>\n<entry>200</entry>\n<entry>2</entry>\n"
XML_AROUND = st.sampled_from(
    [
        f'<?xml version="1.0" encoding="UTF-8"?>\n<result>{XML_ENTRIES}<entry>\n  %s\n</entry></result>\n',
        f"<result>{XML_ENTRIES}<entry>%s</entry></result>",
        f"<?xml version='1.0' encoding = 'us-ascii'?><result>{XML_ENTRIES}<entry>%s</entry></result>",
        f'<?xml version="1.0" encoding="iso-8859-1"?><result>{XML_ENTRIES}<entry>%s</entry></result>',
        f'<?xml version="1.0" encoding="utf-16"?><result>{XML_ENTRIES}<entry>%s</entry></result>',
        f'<?xml version="1.0" encoding="none"?><result>{XML_ENTRIES}<entry>%s</entry></result>',
        f"\ufeff<result>{XML_ENTRIES}<entry>%s</entry></result>",
        f"<!-- <result>{XML_ENTRIES}<entry> --><result>{XML_ENTRIES}<entry>%s</entry></result>",
        f"<result>{XML_ENTRIES}<entry>%s</entry><entry>more</entry></result>",
        f"<result>{XML_ENTRIES}<entry>%s</entry><entry></entry></result><!-- </entry> -->",
        f"<result>{XML_ENTRIES}<entry>%s</entry><other></other></result>",
        f"<result>{XML_ENTRIES}<entry>text %s</entry></result>",
        f"<result>{XML_ENTRIES}<entry>%s text</entry></result>",
        f"<result>{XML_ENTRIES}<entry><![CDATA[%s]]></entry></result>",
        f"<result>{XML_ENTRIES}<entry><entry>%s</entry></entry></result>",
        f"<result>{XML_ENTRIES}<entry>%s</entry>",
        f"<result>{XML_ENTRIES}<entry>%s",
        f"<result>{XML_ENTRIES}<entry>%s</entry></result> x",
        f"<other>{XML_ENTRIES}<entry>%s</entry></other>",
        f"<other><result>{XML_ENTRIES}<entry>%s</entry></result></other>",
        f'<result xmlns="x">{XML_ENTRIES}<entry>%s</entry></result>',
        f"<!DOCTYPE result><result>{XML_ENTRIES}<entry>%s</entry></result>",
        "<result><entry>false</entry><entry>10</entry><entry>no</entry><entry>%s</entry></result>",
        "<result><entry>true</entry><entry>%s</entry></result>",
    ]
)


@settings(max_examples=600, deadline=None)
@given(
    rows=st.lists(XML_PLAIN_ROWS | XML_RAW_TEXTS | st.just(XML_PLAIN), max_size=12),
    between=st.sampled_from(["", "\n    ", " ", "\r\n\t", "\u2003", "text"]),
    around=XML_AROUND,
    piece_bytes=st.integers(1, 600),
)
@example(
    rows=[XML_PLAIN] * 5,
    between="\n    ",
    around=f"<result>{XML_ENTRIES}<entry>\n    %s\n  </entry>\n</result>",
    piece_bytes=300,
)
@example(
    rows=[XML_PLAIN, f"<!-- {XML_PLAIN}", f"{XML_PLAIN} -->", XML_PLAIN],
    between="\n    ",
    around=f"<result>{XML_ENTRIES}<entry>%s</entry></result>",
    piece_bytes=600,
)
def test_wherever_an_xml_document_is_cut_it_gives_what_the_parser_of_whole_documents_gives(
    rows: list[str], between: str, around: str, piece_bytes: int
) -> None:
    text = around.replace("%s", between.join(rows))
    with read(text, piece_bytes=piece_bytes) as path:
        assert outcome_or_error(path, in_pieces, "xml") == outcome_or_error(path, whole, "xml")


@pytest.mark.parametrize("between", ["", "\n    ", "\r\n"])
def test_no_plain_row_of_xml_but_the_last_becomes_an_object_however_many_pieces_there_are(between: str) -> None:
    rows = [xml_row(str(number), "+33639980001", "2025-06-01 10:00:00") for number in range(1, 500)]
    text = f"<result>{XML_ENTRIES}<entry>{between}{between.join(rows)}\n</entry>\n</result>"
    with read(text, piece_bytes=2000) as path:
        reading = in_pieces(path, "xml")
    assert reading.list_at
    assert len(reading.batches) > 20
    assert objects(reading) <= 1
    assert [row[0] for row in as_outcome(reading)[2]] == list(range(1, 500))


def test_the_documented_xml_is_read_in_pieces() -> None:
    path = Path(__file__).parent / "data" / "sample-list.xml"
    assert in_pieces(path, "xml").list_at
