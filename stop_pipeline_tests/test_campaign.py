"""A campaign's file comes back in parts: every row once, in order, byte for byte, and all parts or none."""

import codecs
import csv
import errno
import io
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stop_pipeline import campaign
from stop_pipeline.campaign import RAGGED, appearing_whole, as_text, open_campaign
from stop_pipeline.errors import CampaignError

NUMBER = "06 39 98 00 01"
ADDED = pa.field("reason", pa.string())
ENCODINGS = {
    "UTF-8": (b"", "utf-8"),
    "UTF-8 with a mark": (codecs.BOM_UTF8, "utf-8"),
    "Windows-1252": (b"", "cp1252"),
    "UTF-16, as “Unicode text”": (codecs.BOM_UTF16_LE, "utf-16-le"),
    "UTF-16, big-endian": (codecs.BOM_UTF16_BE, "utf-16-be"),
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    """Puts bytes into a campaign's file."""

    def write(content: bytes) -> Path:
        path = tmp_path / "campaign.csv"
        path.write_bytes(content)
        return path

    return write


def numbers_in(path: Path, column: str = "phone") -> list[str | None]:
    """The phone numbers of a campaign; of a row that cannot be read, None."""
    found: list[str | None] = []
    for batch in open_campaign(path, column, ()).batches():
        found += batch.spellings.to_pylist()
    return found


def copied(path: Path, *, added: bool = False) -> bytes:
    """The bytes of a part that every row goes into."""
    source = open_campaign(path, "phone", ())
    copy = path.with_name("copy")
    with source.part(copy, ADDED if added else None) as part:
        for batch in source.batches():
            count = len(batch.spellings)
            part.write(batch.rows, np.ones(count, bool), pa.array(["why"] * count) if added else None)
    return copy.read_bytes()


@pytest.mark.parametrize("ending", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_whatever_a_spreadsheet_writes_is_read_and_comes_back_byte_for_byte(
    written: Callable[[bytes], Path], encoding: str, delimiter: str, ending: str
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
    assert copied(path, added=True) == mark + (ending.join(longer) + ending).encode(codec)


def test_a_file_is_said_to_be_what_it_is(written: Callable[[bytes], Path]) -> None:
    assert open_campaign(written(b"phone;a\n"), "phone", ()).form == "CSV with “;” between columns, UTF-8"
    assert open_campaign(written("phone\tété\n".encode("cp1252")), "phone", ()).form == (
        "CSV with tabs between columns, Windows-1252"
    )


def test_the_delimiter_is_the_one_by_which_there_is_the_column(written: Callable[[bytes], Path]) -> None:
    path = written(b"a,b,c;phone;d,e,f\n1,2;0639980001;3\n")
    assert numbers_in(path) == ["0639980001"]
    assert numbers_in(written(b"phone\n0639980001\n")) == ["0639980001"]


def test_a_letter_that_is_no_utf8_in_the_last_line_makes_all_of_it_windows_1252(
    written: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "_READ_CHARACTERS", 64)
    content = b"phone;nom\n" + b"0639980001;a\n" * 50 + "0639980002;é\n".encode("cp1252")
    path = written(content)
    assert numbers_in(path)[-1] == "0639980002"
    assert copied(path) == content


def test_a_last_row_without_a_line_end_gets_its_column_all_the_same(written: Callable[[bytes], Path]) -> None:
    path = written(b"nom;phone\r\na;0639980001")
    assert copied(path) == b"nom;phone\r\na;0639980001"
    assert copied(path, added=True) == b"nom;phone;reason\r\na;0639980001;why\r\n"


def test_a_row_with_too_few_or_too_many_fields_is_kept_as_a_fault(written: Callable[[bytes], Path]) -> None:
    path = written(b"nom;phone\na\nb;0639980001\nc;0639980002;\n")
    (batch,) = open_campaign(path, "phone", ()).batches()
    assert batch.spellings.to_pylist() == [None, "0639980001", None]
    assert batch.faults.to_pylist() == [RAGGED, None, RAGGED]


def test_blank_lines_are_no_rows_wherever_they_stand(written: Callable[[bytes], Path]) -> None:
    path = written(b"\n\nnom;phone\r\n\r\na;1\r\n\r\n\r\nb;2\r\n\r\n")
    assert numbers_in(path) == ["1", "2"]
    assert copied(path) == b"\n\nnom;phone\r\na;1\r\nb;2\r\n"


def test_a_quote_within_plain_text_is_a_letter(written: Callable[[bytes], Path]) -> None:
    content = b'taille;phone\n5" 2;0639980001\n6";0639980002\n'
    path = written(content)
    assert numbers_in(path) == ["0639980001", "0639980002"]
    assert copied(path) == content


@pytest.mark.parametrize("end", [b'"c;0639980003\n', b'"c"d;0639980003\n', b'"' + b"x\n" * 100_000])
def test_a_quote_that_could_hide_rows_is_refused_with_the_line(written: Callable[[bytes], Path], end: bytes) -> None:
    path = written(b"nom;phone\na;0639980001\nb;0639980002\n" + end)
    with pytest.raises(CampaignError, match=r"near line \d[\d,]* .*look there for a quote") as caught:
        numbers_in(path)
    assert "0639" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no column “phone”; its columns are none"),
        (b"nom;Telephone\na;0639980001\n", "no column “phone”; its columns are “nom”, “Telephone”: name the one"),
        (b"phone;nom;phone\n", "more than one column “phone”"),
        (b"Dupont;0639980001\nMartin;0639980002\n", "its first line looks like data: put a line of names above"),
        (b"PK\x03\x04rest of a workbook", "is a workbook: save it as “CSV UTF-8”"),
        (b"nom;phone\n\x81\x8d;1\n", "text in no encoding that spreadsheets write"),
        (codecs.BOM_UTF8 + "nom;phone\né;1\n".encode("cp1252"), "text in no encoding that spreadsheets write"),
        (b"nom;phone;reason\n", "a column “reason” already"),
        (b"PAR1 and no more", "it is damaged, or no such Parquet file"),
    ],
)
def test_a_file_that_cannot_be_split_is_refused_in_one_sentence(
    written: Callable[[bytes], Path], content: bytes, sentence: str
) -> None:
    with pytest.raises(CampaignError, match=sentence) as caught:
        open_campaign(written(content), "phone", ("reason",))
    assert "0639" not in str(caught.value)
    assert "Dupont" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match=r"Cannot read .*nothing\.csv: No such file"):
        open_campaign(tmp_path / "nothing.csv", "phone", ())


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\ufeff"), max_size=6)
TABLES = st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=30))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        patch.setattr(campaign, "BATCH_ROWS", batch_rows)
        assert numbers_in(path) == ["0639980001"] * len(table)
        assert copied(path) == path.read_bytes()


def parquet(tmp_path: Path, phones: pa.Array) -> Path:
    path = tmp_path / "campaign.parquet"
    table = pa.table({"phone": phones, "tags": pa.array([["a", None]] * len(phones))})
    pq.write_table(table.replace_schema_metadata({"made": "by hand"}), path)
    return path


@pytest.mark.parametrize(
    ("phones", "expected"),
    [
        (pa.array([NUMBER, None]), [NUMBER, None]),
        (pa.array([NUMBER, None], pa.large_string()), [NUMBER, None]),
        (pa.array([NUMBER, None]).dictionary_encode(), [NUMBER, None]),
        (pa.array([639980001, None]), ["639980001", None]),
        (pa.array([33639980000.0, 639980001.0, None]), ["33639980000", "639980001", None]),
        (pa.array([1e300, 0.5]), ["1e+300", "0.5"]),
        (pa.array([None, None]), [None, None]),
    ],
)
def test_a_parquet_column_of_text_or_numbers_is_read_and_comes_back(
    tmp_path: Path, phones: pa.Array, expected: list[str | None]
) -> None:
    path = parquet(tmp_path, phones)
    assert numbers_in(path) == expected
    copied(path)
    assert pq.read_table(path.with_name("copy")).equals(pq.read_table(path), check_metadata=True)
    copied(path, added=True)
    longer = pq.read_table(path.with_name("copy"))
    assert longer.schema.equals(pq.read_schema(path).append(ADDED))
    assert longer["reason"].to_pylist() == ["why"] * len(phones)


@pytest.mark.parametrize("phones", [pa.array([1.0], pa.float32()), pa.array([True]), pa.array([["06"]])])
def test_a_parquet_column_of_another_type_is_refused(tmp_path: Path, phones: pa.Array) -> None:
    with pytest.raises(CampaignError, match="must be text or whole numbers"):
        open_campaign(parquet(tmp_path, phones), "phone", ())


def test_a_float_is_read_as_the_whole_number_that_it_is() -> None:
    assert as_text(pa.array([float(n) for n in (33639980000, 10**15)])).to_pylist() == ["33639980000", str(10**15)]


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder to be made; afterwards nothing hidden may lie beside it."""
    folder = tmp_path / "runs" / "out"
    yield folder
    assert [path.name for path in folder.parent.iterdir() if path != folder] == []


def test_a_folder_appears_with_all_its_files_for_its_owner_only(out: Path) -> None:
    with appearing_whole(out) as folder:
        (folder / "clean.csv").write_text("a")
        (folder / "blocked.csv").write_text("b")
        assert not out.exists()
    assert sorted(path.name for path in out.iterdir()) == ["blocked.csv", "clean.csv"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}


def test_an_empty_folder_is_taken_and_a_full_one_is_left_alone(out: Path) -> None:
    out.mkdir(parents=True)
    with appearing_whole(out) as folder:
        (folder / "clean.csv").write_text("new")
    with pytest.raises(CampaignError, match="is not empty"), appearing_whole(out):
        pytest.fail("it was taken")
    assert (out / "clean.csv").read_text() == "new"


def fail_midway(out: Path, error: BaseException) -> None:
    with appearing_whole(out) as folder:
        (folder / "clean.csv").write_text("half")
        raise error


def test_after_a_failure_there_is_nothing(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_midway(out, KeyboardInterrupt())
    assert not out.exists()


def test_a_disk_that_refuses_is_told_in_one_sentence(out: Path) -> None:
    with pytest.raises(CampaignError, match=r"Cannot write .*: No space left on device\."):
        fail_midway(out, OSError(errno.ENOSPC, "full"))
    assert not out.exists()
