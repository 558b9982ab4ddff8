"""A campaign is split by the list: who opted out is blocked in every spelling, nobody else is, and no row is lost."""

import csv
import io
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stop_pipeline.campaign.formats import NO_NUMBER, RAGGED
from stop_pipeline.campaign.suppression import (
    NOT_A_NUMBER,
    ROUNDED,
    SuppressedFile,
    check,
    first_stops_by_key,
    suppress,
)
from stop_pipeline.errors import CampaignError
from stop_pipeline.phone_numbers import read_phone_number, read_phone_numbers
from stop_pipeline_tests.campaign.lists import CELLS, FREE, STOPPED, split
from stop_pipeline_tests.support.syncing import Row, Syncer

FIRST_STOP_AT = pd.Timestamp("2025-06-01 08:00:00", tz="UTC")


def outcomes(spellings: Sequence[str | None], *listed: str) -> list[str]:
    """Of each spelling “clean”, “blocked”, or why it is invalid, if these numbers are listed."""
    numbers = pd.DataFrame({"phone_number": pd.Series(listed, dtype="str"), "first_stop_at": FIRST_STOP_AT})
    numbers["phone_number"] = read_phone_numbers(numbers["phone_number"])["phone_number"]
    checked = check(pd.Series(spellings, dtype="str"), first_stops_by_key(numbers))
    assert (checked["reason"].notna() == (checked["part"] == "invalid")).all()
    assert (checked["first_stop_at"].notna() == (checked["part"] == "blocked")).all()
    return list(checked["reason"].fillna(checked["part"]))


def outcome(spelling: str | None, *listed: str) -> str:
    return outcomes([spelling], *listed)[0]


# How a number is spelled

SEPARATORS = st.text(" .-()/\u2011\xa0\u202f\u200b", max_size=2)
NUMBERS = st.from_regex(r"\+33[67][0-9]{8}", fullmatch=True) | st.sampled_from(
    ["+33123456789", "+590690001234", "+262692123456", "+447400123456", "+12423591234", "+41781234567"]
)
NATIONAL_CODES = ("+33", "+590", "+262")
"""The country codes of numbers that are spelled nationally here."""


def _with_exponent(digits: str, *, comma: bool) -> str:
    return f"{digits[0]}{',' if comma else '.'}{digits[1:]}E+{len(digits) - 1:02}"


@st.composite
def spellings_of(draw: st.DrawFn, number: str) -> str:
    """A spelling of an E.164 number: one that people write, or what a spreadsheet makes of it."""
    international = number[1:]
    people = [number, f"00{international}"]
    spreadsheet = [international]
    code = next((code for code in NATIONAL_CODES if number.startswith(code)), None)
    if code is not None:
        digits = number.removeprefix(code)
        people += [f"0{digits}", f"{code}(0){digits}", f"+33{digits}"]
        spreadsheet.append(digits)
    if draw(st.booleans()):
        spelled = "".join(char + draw(SEPARATORS) for char in draw(st.sampled_from(people)))
        return draw(st.sampled_from([spelled, f"'{spelled}", f'="{spelled}"']))
    digits = draw(st.sampled_from(spreadsheet))
    exponents = [_with_exponent(digits, comma=comma) for comma in (True, False)]
    return draw(st.sampled_from([digits, f"{digits}.0", f"{digits},00", *exponents]))


SPELLED = NUMBERS.flatmap(lambda number: st.tuples(st.just(number), spellings_of(number)))


@settings(deadline=None, max_examples=20)
@given(st.lists(SPELLED, min_size=1, max_size=8))
def test_any_spelling_in_a_campaign_meets_any_spelling_on_the_list(pairs: list[tuple[str, str]]) -> None:
    numbers, spellings = zip(*pairs, strict=True)
    assert set(outcomes(spellings, FREE, *numbers)) == {"blocked"}
    assert set(outcomes(numbers, FREE, *spellings)) == {"blocked"}


@settings(deadline=None, max_examples=20)
@given(st.lists(SPELLED, min_size=1, max_size=8), st.lists(NUMBERS, max_size=5))
def test_no_number_that_is_not_listed_is_blocked(pairs: list[tuple[str, str]], others: list[str]) -> None:
    readings = {read_phone_number(other).number for other in others}
    spellings = [spelling for number, spelling in pairs if read_phone_number(number).number not in readings]
    assert set(outcomes(spellings, *others)) <= {"clean"}


@settings(deadline=None, max_examples=20)
@given(st.lists(st.text(max_size=20) | st.from_regex(r"[+0-9 .eE,-]{0,14}", fullmatch=True), min_size=1, max_size=20))
def test_whatever_is_listed_blocks_itself(spellings: list[str]) -> None:
    expected = ["blocked" if before != NO_NUMBER else NO_NUMBER for before in outcomes(spellings)]
    listed = [spelling for spelling, after in zip(spellings, expected, strict=True) if after == "blocked"]
    assert outcomes(spellings, *listed) == expected


@pytest.mark.parametrize(
    ("number", "spelling"),
    [
        ("36665", " 3 66-65\xa0"),
        ("+999123456789", "00 999 123 456 789"),
        ("06 39 98", "06.39.98"),
        ("Dupont", "Dupont"),
    ],
)
def test_a_listed_spelling_that_is_not_a_number_anywhere_blocks_its_other_spellings(number: str, spelling: str) -> None:
    assert not read_phone_number(number).readable
    assert outcome(spelling, number) == "blocked"


@pytest.mark.parametrize(
    ("number", "spelling"),
    [("0976 12 34 56", "+590 976 12 34 56"), ("+596976123456", "0976123456"), ("+33976220000", "+262976220000")],
)
def test_a_number_that_departments_share_meets_itself_under_any_of_their_codes(number: str, spelling: str) -> None:
    assert outcome(spelling, number) == outcome(number, spelling) == "blocked"


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        (None, NO_NUMBER),
        ("", NO_NUMBER),
        ("\xa0 -", NO_NUMBER),
        ("Dupont", NOT_A_NUMBER),
        ("36665", NOT_A_NUMBER),
        ("06 39 98 00", NOT_A_NUMBER),
        ("06 39 98 00 01 / 06 39 98 00 02", NOT_A_NUMBER),
        ("3,36123E+10", ROUNDED),
        ("6.4E8", ROUNDED),
        ("6E+08", ROUNDED),
        ("6.3998E+08", ROUNDED),
        ("'6.3998E+08", ROUNDED),
        ("6.399800125E+08", ROUNDED),
        ("6.39980002E8", "clean"),
        ("Estelle", NOT_A_NUMBER),
        ("639980002.5", NOT_A_NUMBER),
        ("0639980.002", "clean"),
        ("0639980.000", "clean"),
        ("0692 12 34 56", "clean"),
        ("692123456", "clean"),
    ],
)
def test_what_is_not_a_number_is_invalid_with_its_reason(spelling: str | None, expected: str) -> None:
    assert outcome(spelling, STOPPED) == expected


def test_a_listed_spelling_without_a_digit_does_not_block_blank_cells(tmp_path: Path) -> None:
    Syncer(tmp_path / "data").sync([Row(1, "-"), Row(2, "0639980002")], at=datetime.now(UTC))
    campaign = pd.DataFrame({"phone": ["", " ", "-", "06 39 98 00 02"]})
    clean, blocked, invalid = suppress(campaign, root=tmp_path / "data")
    assert clean.empty
    assert blocked.index.tolist() == [3]
    assert invalid["reason"].tolist() == [NO_NUMBER] * 3


def test_a_reason_needs_no_quotes_in_any_csv() -> None:
    for reason in (NO_NUMBER, NOT_A_NUMBER, ROUNDED, RAGGED):
        assert not set(reason) & set(';,\t|"\r\n')


# A file


def split_csv(root: Path, content: str) -> tuple[SuppressedFile, dict[str, list[list[str]]]]:
    """What comes of a CSV campaign: the result, and the rows of the three files."""
    folder = Path(tempfile.mkdtemp(dir=root.parent))
    path = folder / "campaign.csv"
    path.write_bytes(content.encode())
    done = split(path, folder / "out", root=root)
    parts = {}
    for name, (part, count) in done.parts.items():
        with part.open(encoding="utf-8-sig", newline="") as file:
            parts[name] = list(csv.reader(file, delimiter=";"))
        assert len(parts[name]) == count + 1
    return done, parts


def test_a_file_is_split_into_three_of_its_form(root: Path) -> None:
    done, parts = split_csv(root, "nom;phone\na;0639980001\nb;0639980002\nc;\nd;06 39 98 00 01\ne\n")
    assert parts == {
        "clean": [["nom", "phone"], ["b", "0639980002"]],
        "blocked": [
            ["nom", "phone", "first_stop_at"],
            ["a", "0639980001", "2025-06-01T08:00:00Z"],
            ["d", "06 39 98 00 01", "2025-06-01T08:00:00Z"],
        ],
        "invalid": [["nom", "phone", "reason"], ["c", "", NO_NUMBER], ["e", RAGGED]],
    }
    assert done.rows == 5
    assert done.form == "CSV with “;” between columns, UTF-8"
    assert done.unreadable_rows == 0


PHONES = st.one_of(
    spellings_of(STOPPED), spellings_of(FREE), st.sampled_from(["", "Dupont", "3,36123E+10"]), NUMBERS, CELLS
)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(CELLS, PHONES, CELLS), max_size=25))
def test_every_row_goes_into_one_part_in_order_and_untouched(root: Path, rows: list[tuple[str, str, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";")
    writer.writerow(["n", "before", "phone", "after"])
    writer.writerows([str(n), *row] for n, row in enumerate(rows))
    done, parts = split_csv(root, text.getvalue())
    kept = [row[:4] for part in parts.values() for row in part[1:]]
    assert sorted(kept, key=lambda row: int(row[0])) == [[str(n), *row] for n, row in enumerate(rows)]
    for part in parts.values():
        order = [int(row[0]) for row in part[1:]]
        assert order == sorted(order)
    assert done.rows == len(rows) == sum(count for _, count in done.parts.values())


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.float64(), pa.decimal128(11, 0), pa.string(), pa.string_view()], ids=str
)
def test_a_parquet_campaign_is_split_with_its_types(root: Path, tmp_path: Path, kind: pa.DataType) -> None:
    phones = pa.array([639980001, 639980002, None, 12]).cast(pa.float64() if kind == pa.float64() else pa.string())
    table = pa.table({"phone": phones.cast(kind), "n": pa.array([1, 2, 3, 4], pa.int8())})
    pq.write_table(table, tmp_path / "campaign.parquet")
    done = split(tmp_path / "campaign.parquet", tmp_path / "out", root=root)
    clean, blocked, invalid = (pq.read_table(path) for path, _ in done.parts.values())
    assert clean.equals(table.slice(1, 1))
    assert blocked.drop("first_stop_at").equals(table.slice(0, 1))
    assert blocked["first_stop_at"].to_pylist() == [FIRST_STOP_AT]
    assert invalid.drop("reason").equals(table.slice(2))
    assert invalid["reason"].to_pylist() == [NO_NUMBER, NOT_A_NUMBER]


def test_a_campaign_that_breaks_midway_leaves_nothing(root: Path, tmp_path: Path) -> None:
    (tmp_path / "campaign.csv").write_text('nom;phone\na;0639980001\nb;"0639980002\n')
    with pytest.raises(CampaignError, match="near line 3"):
        split(tmp_path / "campaign.csv", tmp_path / "out", root=root)
    assert [path.name for path in tmp_path.iterdir()] == ["campaign.csv"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04rest of a workbook", "is a workbook: save it as “CSV UTF-8”"),
        (b"\xd0\xcf\x11\xe0rest of an older one", "is a workbook: save it as “CSV UTF-8”"),
        (b"\x1f\x8brest of a compressed file", "is compressed: unpack it first"),
        (b"PAR1 and no more", "it is damaged, or a kind of Parquet file that is not supported"),
        (b"nom;phone;reason\n", "has a column “reason” already, which the result needs"),
        (None, r"Cannot read .*campaign: No such file"),
    ],
)
def test_a_file_that_is_not_a_campaign_is_refused(
    root: Path, tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "campaign").write_bytes(content)
    with pytest.raises(CampaignError, match=sentence):
        split(tmp_path / "campaign", tmp_path / "out", root=root)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_inside_the_data_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "campaign.csv").write_text("phone\n0639980001\n")
    before = sorted(root.rglob("*"))
    for into in (root / "checked", root / "stops" / "checked", tmp_path / "link" / "checked"):
        with pytest.raises(CampaignError, match=r"is inside the data root .*: choose another folder"):
            split(tmp_path / "campaign.csv", into, root=root)
    assert sorted(root.rglob("*")) == before


# A DataFrame


def test_a_frame_is_split_with_its_index_and_types(root: Path) -> None:
    campaign = pd.DataFrame(
        {
            "phone": ["06 39 98 00 01", "06 39 98 00 02", None, "12"],
            "spent": [1.5, 2.5, 3.5, 4.5],
            "city": pd.Categorical(["a", "b", "a", "b"]),
        },
        index=[40, 30, 30, 10],
    )
    clean, blocked, invalid = suppress(campaign, root=root)
    pd.testing.assert_frame_equal(clean, campaign.iloc[[1]])
    pd.testing.assert_frame_equal(blocked.drop(columns="first_stop_at"), campaign.iloc[[0]])
    assert list(blocked["first_stop_at"]) == [FIRST_STOP_AT]
    assert str(blocked["first_stop_at"].dtype) == "datetime64[us, UTC]"
    pd.testing.assert_frame_equal(invalid.drop(columns="reason"), campaign.iloc[[2, 3]])
    assert list(invalid["reason"]) == [NO_NUMBER, NOT_A_NUMBER]


@pytest.mark.parametrize(
    "phones",
    [
        pd.Series([639980001, 639980002]),
        pd.Series([639980001.0, 639980002.0, None]),
        pd.Series([33639980001, 33639980002, None], dtype="Int64"),
        pd.Series([639980001, "06 39 98 00 02", None, 639980001.0], dtype=object),
        pd.Series([Decimal(639980001), Decimal(639980002), None], dtype=object),
        pd.Series([Decimal(639980001), Decimal(639980002), None], dtype=pd.ArrowDtype(pa.decimal128(9, 0))),
        pd.Series(["0639980001", "0639980002"], dtype="category"),
        pd.Series([639980001, 639980002, None], dtype="Int64").astype("category"),
        pd.Series([639980001.0, 639980002.0, None]).astype("category"),
        pd.Series([639980001, "06 39 98 00 02", None], dtype="category"),
        pd.Series(["0639980001", "0639980002", None], dtype="string"),
        pd.Series(["0639980001", "0639980002", None], dtype=pd.ArrowDtype(pa.large_string())),
        pd.concat([pd.Series(["0639980001"]), pd.Series(["0639980002"]), pd.Series(["x"])], ignore_index=True),
    ],
)
def test_a_column_of_numbers_or_of_both_is_read_as_its_text(root: Path, phones: "pd.Series[str]") -> None:
    clean, blocked, invalid = suppress(pd.DataFrame({"n": range(len(phones)), "mobile": phones}), "mobile", root=root)
    assert list(clean["n"]) == [1]
    assert list(blocked["n"]) == [0, 3][: len(blocked)]
    assert list(invalid["n"]) == [2][: len(invalid)]


def test_the_label_of_the_column_may_be_a_number_or_differ_in_case_and_spaces(root: Path) -> None:
    unnamed = pd.DataFrame([["a", "0639980001"], ["b", "0639980002"]])
    assert list(suppress(unnamed, 1, root=root).clean[0]) == ["b"]
    assert len(suppress(pd.DataFrame({" Phone": [STOPPED]}), root=root).blocked) == 1


@pytest.mark.parametrize(
    ("phones", "kind"),
    [
        (pd.Series([639980001 + 1j]), "complex128"),
        (pd.Series([639980001], dtype="Sparse[int64]"), "Sparse.int64, 0."),
        (pd.Series([639980001], dtype="float32").astype("category"), "float"),  # it has rounded the number
        (pd.Series(["\udcff0639980001"], dtype=object), "object"),
        (pd.Series(["0639980001"], dtype=pd.ArrowDtype(pa.string_view())), "string_view.pyarrow."),
        (pd.Series(pd.to_datetime(["2026-01-01"])), "timestamp"),
    ],
)
def test_a_column_of_another_type_is_refused_and_not_shown(root: Path, phones: "pd.Series[Any]", kind: str) -> None:
    with pytest.raises(CampaignError, match=f"is of type {kind}.*: it must be text or whole numbers") as refused:
        suppress(pd.DataFrame({"phone": phones}), root=root)
    assert "98" not in str(refused.value)


def test_a_frame_without_rows_gives_three_without(root: Path) -> None:
    parts = suppress(pd.DataFrame({"phone": []}), root=root)
    assert [list(part.columns) for part in parts] == [["phone"], ["phone", "first_stop_at"], ["phone", "reason"]]
    assert not any(map(len, parts))


def test_a_frame_without_the_column_or_with_one_that_the_result_adds_is_refused(root: Path) -> None:
    with pytest.raises(CampaignError, match="The campaign has no column “phone”; its columns are “tel”"):
        suppress(pd.DataFrame({"tel": ["1"]}), root=root)
    with pytest.raises(CampaignError, match="has a column “reason” already, which the result needs"):
        suppress(pd.DataFrame({"phone": ["1"], "reason": ["x"]}), root=root)
