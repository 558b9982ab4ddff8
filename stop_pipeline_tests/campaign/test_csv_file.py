"""A campaign in CSV comes back in parts: every row once, in order, byte for byte."""

import codecs
import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stop_pipeline.campaign import formats
from stop_pipeline.campaign.formats import HEADER_WITHIN, CsvCampaign, open_campaign
from stop_pipeline.errors import CampaignError
from stop_pipeline_tests.campaign.lists import CELLS

NUMBER = "06 39 98 00 01"
REASON = pa.field("reason", pa.string())
ENCODINGS = {
    "UTF-8": (b"", "utf-8"),
    "UTF-8 with a mark": (codecs.BOM_UTF8, "utf-8"),
    "Windows-1252": (b"", "cp1252"),
    "UTF-16, as “Unicode text”": (codecs.BOM_UTF16_LE, "utf-16-le"),
    "UTF-16, big-endian": (codecs.BOM_UTF16_BE, "utf-16-be"),
    "UTF-16 without a mark": (b"", "utf-16-le"),
    "UTF-16 without a mark, big-endian": (b"", "utf-16-be"),
}

Written = Callable[[bytes], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes bytes to a campaign's file."""

    def write(content: bytes) -> Path:
        path = tmp_path / "campaign.csv"
        path.write_bytes(content)
        return path

    return write


def numbers_in(path: Path, column: str = "phone") -> list[str | None]:
    """The phone numbers of a campaign; None for a row that cannot be read."""
    batches = [spellings for _, spellings in CsvCampaign(path, column).batches()]
    return [None if pd.isna(spelling) else spelling for spellings in batches for spelling in spellings]


def copied(path: Path, *, own_columns: Sequence[pa.Field] = (), column: str = "phone") -> bytes:
    """The bytes of a part that every row goes into."""
    source = CsvCampaign(path, column)
    copy = path.with_name("copy")
    with source.part(copy, own_columns) as write:
        for rows, spellings in source.batches():
            write(rows, pd.DataFrame({"reason": pd.Series(["why"] * len(spellings), dtype="str")}))
    return copy.read_bytes()


@pytest.mark.parametrize("ending", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_whatever_a_spreadsheet_writes_is_read_and_comes_back_byte_for_byte(
    written: Written, encoding: str, delimiter: str, ending: str
) -> None:
    mark, codec = ENCODINGS[encoding]
    rows = [
        ["nom", "phone", "Prix en €"],
        ["Lefèvre", NUMBER, "007"],
        ["", f"06{chr(0xA0)}39{chr(0xA0)}98", f'"a{delimiter} ""b""{ending}c"'],
        ['"D\'Été"', '"0639980001"', " 1 "],
    ]
    content = mark + (ending.join(delimiter.join(row) for row in rows) + ending).encode(codec)
    path = written(content)
    assert numbers_in(path) == [NUMBER, f"06{chr(0xA0)}39{chr(0xA0)}98", "0639980001"]
    assert copied(path) == content
    longer = [f"{delimiter.join(row)}{delimiter}{'why' if n else 'reason'}" for n, row in enumerate(rows)]
    assert copied(path, own_columns=[REASON]) == mark + (ending.join(longer) + ending).encode(codec)


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"phone;a\n", "CSV with “;” between columns, UTF-8"),
        (b"phone\n", "CSV with one column, UTF-8"),
        ("phone\tété\n".encode("cp1252"), "CSV with tabs between columns, Windows-1252"),
        ("phone,été\n".encode("utf-16-le"), "CSV with “,” between columns, UTF-16"),
        (b"sep=|\nphone|a\n", "CSV with “|” between columns, UTF-8"),
        (b"Clients\nphone;a\n", "CSV with “;” between columns, UTF-8, 1 title line skipped"),
        (b"Clients\n\nmai\nphone;a\n", "CSV with “;” between columns, UTF-8, 2 title lines skipped"),
    ],
)
def test_the_form_of_a_file_is_described(written: Written, content: bytes, form: str) -> None:
    assert CsvCampaign(written(content), "phone").form == form


def test_the_delimiter_is_the_one_by_which_the_header_has_the_column(written: Written) -> None:
    assert numbers_in(written(b"a,b,c;phone;d,e,f\n1,2;0639980001;3\n")) == ["0639980001"]
    assert numbers_in(written(b"phone\n0639980001\n")) == ["0639980001"]


def test_a_letter_that_is_no_utf8_in_the_last_line_makes_all_of_it_windows_1252(written: Written) -> None:
    content = b"phone;nom\n" + b"0639980001;a\n" * 10_000 + "0639980002;é\n".encode("cp1252")
    path = written(content)
    assert numbers_in(path)[-1] == "0639980002"
    assert copied(path) == content


def test_a_few_zero_bytes_do_not_make_it_utf16(written: Written) -> None:
    content = b"phone;nom\n" + b"0639980001;a\x00b\n" * 3
    path = written(content)
    assert numbers_in(path) == ["0639980001"] * 3
    assert copied(path) == content


def test_a_last_row_without_an_end_of_line_gets_its_column_all_the_same(written: Written) -> None:
    path = written(b"nom;phone\r\na;0639980001")
    assert copied(path) == b"nom;phone\r\na;0639980001"
    assert copied(path, own_columns=[REASON]) == b"nom;phone;reason\r\na;0639980001;why\r\n"


def test_a_row_with_too_few_or_too_many_fields_is_kept_without_its_number(written: Written) -> None:
    content = b"nom;phone\na\nb;0639980001\nc;0639980002;\n"
    path = written(content)
    assert numbers_in(path) == [None, "0639980001", None]
    assert copied(path) == content


def test_empty_cells_that_excel_leaves_out_at_the_end_of_a_row_are_no_fault(written: Written) -> None:
    path = written(b"nom;phone;ville;note\r\na;0639980001\r\nb;0639980002;Nice;\r\nc;0639980003;Lille\nd;0639980004")
    assert numbers_in(path) == ["0639980001", "0639980002", "0639980003", "0639980004"]
    filled = b"a;0639980001;;\r\nb;0639980002;Nice;\r\nc;0639980003;Lille;\nd;0639980004;;"
    assert copied(path) == b"nom;phone;ville;note\r\n" + filled
    assert b"\r\na;0639980001;;;why\r\n" in copied(path, own_columns=[REASON])


def test_a_pipe_is_refused_at_once_because_it_can_be_read_only_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CampaignError, match="pipe is not a regular file: save the campaign to a file first"):
        open_campaign(tmp_path / "pipe", "phone")


def test_blank_lines_are_not_rows_wherever_they_are(written: Written) -> None:
    path = written(b"\n\nnom;phone\r\n\r\na;1\r\n\r\n\r\nb;2\r\n\r\n")
    assert numbers_in(path) == ["1", "2"]
    assert copied(path) == b"nom;phone\r\na;1\r\nb;2\r\n"


def test_a_quote_within_plain_text_is_a_letter(written: Written) -> None:
    content = b'taille;phone\n5" 2;0639980001\n6";0639980002\n'
    path = written(content)
    assert numbers_in(path) == ["0639980001", "0639980002"]
    assert copied(path) == content


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;", "sep=;;;"])
def test_the_line_that_names_the_delimiter_is_kept_in_the_parts_and_is_not_a_row(written: Written, line: str) -> None:
    content = f"{line}\r\nnom,x;phone\r\na;0639980001\r\n".encode("utf-8-sig")
    path = written(content)
    assert numbers_in(path) == ["0639980001"]
    assert copied(path) == content


def test_the_line_that_names_the_delimiter_can_name_any_and_can_be_wrong(written: Written) -> None:
    assert numbers_in(written(b"sep=^\nnom^phone\na^0639980001\n")) == ["0639980001"]
    assert numbers_in(written(b"sep=,\nnom;phone\na;0639980001\n")) == ["0639980001"]


@pytest.mark.parametrize(
    "titles",
    [
        "Clients\n",
        "\nClients à contacter;;\n;;\n",
        '"Campagne ""été"" du\n28/11/2026";;\n',
        '"Clients" de mai\n',
        "Export, du 28/11/2026 13:45, 1 204 lignes\n",
        "Service clients : 06 39 98 00 00\n",
    ],
)
def test_titles_above_the_header_are_skipped(written: Written, titles: str) -> None:
    path = written(f"{titles}nom;phone;ville\na;0639980001;Lyon\nb;0639980002;Nice\n".encode())
    assert numbers_in(path) == ["0639980001", "0639980002"]
    assert copied(path) == b"nom;phone;ville\na;0639980001;Lyon\nb;0639980002;Nice\n"


def test_a_row_is_never_taken_for_a_title(written: Written) -> None:
    for row in (b"a;0639980001;phone", b"a;;phone", b";;phone", b"phone;;"):
        path = written(b"nom;tel;appareil\n" + row + b"\nb;0639980002;phone\n")
        with pytest.raises(
            CampaignError, match="no column “phone”; its columns are “nom”, “tel”, “appareil”: name the one"
        ):
            CsvCampaign(path, "phone")
    assert numbers_in(written(b"Clients\nphone\n0639980001\n")) == ["0639980001"]
    path = written(b"a;0639980001\nb;06 39 98 00 02\nnom;phone\nc;0639980003\n")
    with pytest.raises(CampaignError, match="has phone numbers above its line of column names") as caught:
        CsvCampaign(path, "phone")
    assert "39" not in str(caught.value).removeprefix(str(path))
    path = written(b"titre\n" * HEADER_WITHIN + b"nom;phone\na;0639980001\n")
    with pytest.raises(CampaignError, match="no column “phone”"):
        CsvCampaign(path, "phone")


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("nom;Phone", "phone"),
        ("nom;\u200bphone", "phone"),
        ("nom;N° de  phone", "n° de phone"),
        ("nom; PHONE ", "phone"),
        ("nom;phone", " Phone"),
        ("nom;te\u0301le\u0301phone", "téléphone"),
        ("nom;TÉLÉPHONE", "te\u0301le\u0301phone"),
        ("nom;\ufeffPhone", "phone"),
        ("Phone;phone", "phone"),
    ],
)
def test_column_names_meet_in_any_unicode_form_case_and_spaces(written: Written, header: str, column: str) -> None:
    content = f"{header}\na;0639980001\n".encode()
    path = written(content)
    assert numbers_in(path, column) == ["0639980001"]
    assert copied(path, column=column) == content


@pytest.mark.parametrize("end", [b'"c;0639980003\n', b'"c"d;0639980003\n', b'"' + b"x\n" * 100_000])
def test_a_quote_that_could_hide_rows_is_refused_with_the_line(written: Written, end: bytes) -> None:
    path = written(b"nom;phone\na;0639980001\nb;0639980002\n" + end)
    with pytest.raises(CampaignError, match=r"near line \d[\d,]* .*look there for an extra or missing quote") as caught:
        numbers_in(path)
    assert "0639" not in str(caught.value)


def test_the_line_of_a_quote_is_counted_from_the_top_of_the_file(written: Written) -> None:
    path = written(b'sep=;\nClients\n\nnom;phone\na;0639980001\nb;"0639980002"x\n')
    with pytest.raises(CampaignError, match="near line 6 "):
        numbers_in(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no column “phone”; its columns are none"),
        (b"nom;Telephone\na;0639980001\n", "no column “phone”; its columns are “nom”, “Telephone”: name the one"),
        (b"Clients\nnom;Telephone\na;0639980001\n", "no column “phone”; its columns are “nom”, “Telephone”: name the"),
        (b"sep=;\nTelephone\n0639980001\n", "no column “phone”; its columns are “Telephone”: name the"),
        (b"phone;nom;phone\n", "more than one column “phone”, “phone” and “phone”: give .* or rename the others"),
        (b"Phone;nom;PHONE \n", "more than one column “phone”, “Phone” and “PHONE ”: give the exact name of one"),
        (b"Dupont;0639980001\nMartin;0639980002\n", "its first line looks like data; add one above it"),
        (b"Dupont;063998\nMartin;063999\n", "its first line looks like data; add one above it"),
        (b"nom;phone\n\x81\x8d;1\n", "not in an encoding that spreadsheets use"),
        (codecs.BOM_UTF8 + "nom;phone\né;1\n".encode("cp1252"), "not in an encoding that spreadsheets use"),
    ],
)
def test_a_file_that_cannot_be_split_is_refused_in_one_sentence(
    written: Written, content: bytes, sentence: str
) -> None:
    with pytest.raises(CampaignError, match=sentence) as caught:
        CsvCampaign(written(content), "phone")
    assert "0639" not in str(caught.value)
    assert "Dupont" not in str(caught.value)


TABLES = st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=30))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TABLES, st.sampled_from(";,\t|"), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.integers(1, 7))
def test_any_text_in_the_other_columns_comes_back_in_order(
    tmp_path: Path, table: list[list[str]], delimiter: str, quoting: int, batch_rows: int
) -> None:
    width = len(table[0]) if table else 1
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow([f"column {n}" for n in range(width)] + ["phone"])
    writer.writerows([*row, "0639980001"] for row in table)
    path = tmp_path / "campaign.csv"
    path.write_bytes(text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "BATCH_ROWS", batch_rows)
        assert numbers_in(path) == ["0639980001"] * len(table)
        assert copied(path) == path.read_bytes()
