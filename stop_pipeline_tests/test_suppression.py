"""A campaign is split by the list: who opted out is blocked in every spelling, nobody else is, and no row is lost."""

import csv
import io
import itertools
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stop_pipeline import suppress
from stop_pipeline.campaign import RAGGED
from stop_pipeline.errors import CampaignError, UnfitListError
from stop_pipeline.phones import read_phone_number
from stop_pipeline.schema import SUPPRESSION_LIST
from stop_pipeline.store import Store
from stop_pipeline.suppression import (
    NO_NUMBER,
    NOT_A_NUMBER,
    ROUNDED,
    Listed,
    SuppressedFile,
    judge,
    parse_age,
    suppress_file,
)
from stop_pipeline_tests.commands import COMMAND, clean_environment, run_command
from stop_pipeline_tests.ticking import Row, Ticker

STOPPED, FREE = "+33639980001", "+33639980002"
FIRST_STOP_AT = pd.Timestamp("2025-06-01 08:00:00", tz="UTC")
DAY = timedelta(days=1)


def ticked(root: Path, *numbers: str, account: str = "main", ago: timedelta = timedelta(0)) -> Ticker:
    """A data root whose list of these numbers was fetched some time ago."""
    ticker = Ticker(root, account, start=datetime.now(UTC) - ago - timedelta(hours=1))
    ticker.tick([Row(n, number) for n, number in enumerate(numbers or [STOPPED], start=1)])
    return ticker


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root whose list is of now, and holds one number."""
    return ticked(tmp_path / "data").root


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for all examples of a property."""
    return ticked(tmp_path_factory.mktemp("shared") / "data").root


def listed(*numbers: str) -> Listed:
    rows = [
        {
            "phone_number": number,
            "first_stop_at": FIRST_STOP_AT,
            "last_stop_at": FIRST_STOP_AT,
            "stop_count": 1,
            "origin": "listed",
        }
        for number in numbers
    ]
    return Listed.of(pa.Table.from_pylist(rows, SUPPRESSION_LIST.arrow), datetime.now(UTC))


def verdict(spelling: str | None, *numbers: str) -> str:
    """“clean”, “blocked”, or why the spelling is invalid, when these numbers are listed."""
    verdicts = judge(pa.array([spelling], pa.string()), listed(*numbers))
    assert verdicts.clean.sum() + verdicts.blocked.sum() + verdicts.invalid.sum() == 1
    if verdicts.invalid[0]:
        return str(verdicts.reason[0])
    return "blocked" if verdicts.blocked[0] else "clean"


# How a number is spelled

SEPARATORS = st.text(" .-()/\u2011\xa0\u202f\u200b", max_size=2)
NUMBERS = st.from_regex(r"\+33[67][0-9]{8}", fullmatch=True) | st.sampled_from(
    ["+33123456789", "+590690001234", "+262692123456", "+447400123456", "+12423591234", "+41781234567"]
)
TRUNK = {"+33": "0", "+590": "0", "+262": "0"}
"""The country codes of numbers that are spelled nationally here."""


def _with_exponent(digits: str, *, comma: bool) -> str:
    return f"{digits[0]}{',' if comma else '.'}{digits[1:]}E+{len(digits) - 1:02}"


@st.composite
def spellings_of(draw: st.DrawFn, number: str) -> str:
    """A spelling of an E.164 number: one that people write, or what a spreadsheet makes of it."""
    international = number[1:]
    code = next((code for code in TRUNK if number.startswith(code)), None)
    people = [number, f"00{international}"]
    spreadsheet = [international]
    if code is not None:
        digits = number.removeprefix(code)
        if code == "+33" or read_phone_number(f"0{digits}")[0] == number:  # others are spelled so too, and come first
            people.append(f"0{digits}")
            spreadsheet.append(digits)
        people += [f"{code}(0){digits}"] if code == "+33" else []
    if draw(st.booleans()):
        spelled = "".join(char + draw(SEPARATORS) for char in draw(st.sampled_from(people)))
        return draw(st.sampled_from([spelled, f"'{spelled}", f'="{spelled}"']))
    digits = draw(st.sampled_from(spreadsheet))
    return draw(
        st.sampled_from(
            [
                digits,
                f"{digits}.0",
                f"{digits},00",
                _with_exponent(digits, comma=True),
                _with_exponent(digits, comma=False),
            ]
        )
    )


@settings(deadline=None)
@given(NUMBERS, st.data())
def test_any_spelling_of_a_listed_number_is_blocked(number: str, data: st.DataObject) -> None:
    assert verdict(data.draw(spellings_of(number)), FREE, number) == "blocked"


@settings(deadline=None)
@given(NUMBERS, st.lists(NUMBERS, max_size=5), st.data())
def test_no_number_that_is_not_listed_is_blocked(number: str, others: list[str], data: st.DataObject) -> None:
    assume(number not in others)
    assert verdict(data.draw(spellings_of(number)), *others) == "clean"


@settings(deadline=None)
@given(st.text(max_size=20) | st.from_regex(r"[+0-9 .eE,-]{0,14}", fullmatch=True))
def test_whatever_is_listed_blocks_itself(spelling: str) -> None:
    assume(verdict(spelling) != NO_NUMBER)
    assert verdict(spelling, spelling) == "blocked"


@pytest.mark.parametrize(
    ("number", "spelling"),
    [
        ("36665", " 3 66-65\xa0"),
        ("+999123456789", "00 999 123 456 789"),
        ("0400000000", "(0400) 00.00.00"),
        ("0400000000", "400000000.0"),
        ("639980012", "06 39 98 00 12"),
        ("06 39 98", "06.39.98"),
    ],
)
def test_a_listed_spelling_that_is_no_number_anywhere_blocks_its_other_spellings(number: str, spelling: str) -> None:
    assert read_phone_number(number) == (number, None)
    assert verdict(spelling, number) == "blocked"


@pytest.mark.parametrize("listed_as", ["+262692123456", "+33692123456", "0692123456"])
@pytest.mark.parametrize("spelling", ["+262692123456", "0692 12 34 56", "+33 (0)692 12 34 56", "692123456"])
def test_an_overseas_number_meets_itself_whichever_country_code_it_was_given(listed_as: str, spelling: str) -> None:
    assert verdict(spelling, listed_as) == "blocked"


@pytest.mark.parametrize(
    ("spelling", "outcome"),
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
        ("6.39980002E8", "clean"),
        ("639980002.5", NOT_A_NUMBER),
        ("0639980.002", "clean"),
        ("0639980.000", "clean"),
        ("0692 12 34 56", "clean"),
        ("692123456", "clean"),
    ],
)
def test_what_is_no_number_is_invalid_with_its_reason(spelling: str | None, outcome: str) -> None:
    assert verdict(spelling, STOPPED) == outcome


def test_a_reason_needs_no_quotes_in_any_csv() -> None:
    for reason in (NO_NUMBER, NOT_A_NUMBER, ROUNDED, RAGGED):
        assert not set(reason) & set(';,\t|"\r\n')


# A file


def split(
    root: Path, content: bytes | str, *, column: str = "phone"
) -> tuple[SuppressedFile, dict[str, list[list[str]]]]:
    """What comes of a CSV campaign: the report, and the rows of the three files."""
    folder = Path(tempfile.mkdtemp(dir=root.parent))
    path = folder / "campaign.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = suppress_file(path, column, folder / "out", root=root, account=None, max_age=DAY)
    parts = {}
    for name, (part, count) in done.parts.items():
        with part.open(encoding="utf-8-sig", newline="") as file:
            parts[name] = list(csv.reader(file, delimiter=";"))
        assert len(parts[name]) == count + 1
    return done, parts


def test_a_file_is_split_into_three_of_its_form(root: Path) -> None:
    done, parts = split(root, "nom;phone\na;0639980001\nb;0639980002\nc;\nd;06 39 98 00 01\ne\n")
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


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\ufeff"), max_size=5)
PHONES = st.one_of(
    spellings_of(STOPPED), spellings_of(FREE), st.sampled_from(["", "Dupont", "3,36123E+10"]), NUMBERS, CELL
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(CELL, PHONES, CELL), max_size=25))
def test_every_row_goes_into_one_part_in_order_and_untouched(
    shared_root: Path, rows: list[tuple[str, str, str]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";")
    writer.writerow(["n", "before", "phone", "after"])
    writer.writerows([str(n), *row] for n, row in enumerate(rows))
    done, parts = split(shared_root, text.getvalue())
    kept = [row[:4] for part in parts.values() for row in part[1:]]
    assert sorted(kept, key=lambda row: int(row[0])) == [[str(n), *row] for n, row in enumerate(rows)]
    for part in parts.values():
        order = [int(row[0]) for row in part[1:]]
        assert order == sorted(order)
    assert done.rows == len(rows) == sum(count for _, count in done.parts.values())


def test_a_parquet_campaign_is_split_with_its_types(root: Path, tmp_path: Path) -> None:
    table = pa.table({"phone": pa.array([639980001, 639980002, None, 12]), "n": pa.array([1, 2, 3, 4], pa.int8())})
    pq.write_table(table, tmp_path / "campaign.parquet")
    done = suppress_file(tmp_path / "campaign.parquet", "phone", tmp_path / "out", root=root, account=None, max_age=DAY)
    clean, blocked, invalid = (pq.read_table(path) for path, _ in done.parts.values())
    assert clean.equals(table.slice(1, 1))
    assert blocked.drop("first_stop_at").equals(table.slice(0, 1))
    assert blocked["first_stop_at"].to_pylist() == [FIRST_STOP_AT]
    assert invalid.drop("reason").equals(table.slice(2))
    assert invalid["reason"].to_pylist() == [NO_NUMBER, NOT_A_NUMBER]


def test_a_campaign_that_breaks_midway_leaves_nothing(root: Path, tmp_path: Path) -> None:
    (tmp_path / "campaign.csv").write_text('nom;phone\na;0639980001\nb;"0639980002\n')
    with pytest.raises(CampaignError, match="near line 3"):
        suppress_file(tmp_path / "campaign.csv", "phone", tmp_path / "out", root=root, account=None, max_age=DAY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["campaign.csv", "data"]


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
        pd.Series(["0639980001", "0639980002"], dtype="category"),
        pd.Series(["0639980001", "0639980002", None], dtype="string"),
        pd.concat([pd.Series(["0639980001"]), pd.Series(["0639980002"]), pd.Series(["x"])], ignore_index=True),
    ],
)
def test_a_column_of_numbers_or_of_both_is_read_as_its_text(root: Path, phones: "pd.Series[str]") -> None:
    clean, blocked, invalid = suppress(pd.DataFrame({"n": range(len(phones)), "mobile": phones}), "mobile", root=root)
    assert list(clean["n"]) == [1]
    assert list(blocked["n"]) == [0, 3][: len(blocked)]
    assert list(invalid["n"]) == [2][: len(invalid)]


def test_a_frame_without_rows_gives_three_without(root: Path) -> None:
    parts = suppress(pd.DataFrame({"phone": []}), root=root)
    assert [list(part.columns) for part in parts] == [["phone"], ["phone", "first_stop_at"], ["phone", "reason"]]
    assert not any(map(len, parts))


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (pd.DataFrame({"tel": ["1"]}), "The campaign has no column “phone”; its columns are “tel”"),
        (pd.DataFrame({"phone": ["1"], "reason": ["x"]}), "has a column “reason” already"),
        (pd.DataFrame({"phone": pd.to_datetime(["2026-01-01"])}), "must be text or whole numbers"),
    ],
)
def test_a_frame_that_cannot_be_split_is_told_why(root: Path, frame: pd.DataFrame, sentence: str) -> None:
    with pytest.raises(CampaignError, match=sentence):
        suppress(frame, root=root)


# Whether the list is fit


def refusal(root: Path, *, account: str | None = None, max_age: timedelta | str = DAY) -> str:
    with pytest.raises(UnfitListError) as caught:
        suppress(pd.DataFrame({"phone": [FREE]}), root=root, account=account, max_age=max_age)
    return str(caught.value)


def test_without_a_list_nothing_is_split(tmp_path: Path) -> None:
    assert "There is no data root" in refusal(tmp_path / "data")
    (tmp_path / "data").mkdir()
    assert "run “stop-pipeline run” first" in refusal(tmp_path / "data")


def test_an_old_list_is_refused_by_its_age(tmp_path: Path) -> None:
    root = ticked(tmp_path / "data", ago=timedelta(hours=5)).root
    assert len(suppress(pd.DataFrame({"phone": [FREE]}), root=root).clean) == 1
    assert len(suppress(pd.DataFrame({"phone": [FREE]}), root=root, max_age="301m").clean) == 1
    sentence = refusal(root, max_age="4h")
    assert "longer than 4 h ago" in sentence
    assert "run “stop-pipeline run --account main” first" in sentence


def test_a_list_that_was_found_unchanged_is_as_fresh_as_that(tmp_path: Path) -> None:
    ticker = ticked(tmp_path / "data", ago=timedelta(hours=30))
    refusal(ticker.root)
    ticker.tick([Row(1, STOPPED)], at=datetime.now(UTC))
    assert len(suppress(pd.DataFrame({"phone": [STOPPED]}), root=ticker.root).blocked) == 1


def test_a_list_never_proven_whole_is_refused(tmp_path: Path) -> None:
    ticker = Ticker(tmp_path, start=datetime.now(UTC) - timedelta(hours=1))
    ticker.tick([Row(1)], nb_data=2)
    assert "never proven whole" in refusal(tmp_path)


def test_a_list_behind_its_commit_is_refused(root: Path) -> None:
    store = Store(root)
    store.write_state("main", replace(store.state("main"), sha256="0" * 64))
    assert "behind its last commit" in refusal(root)


def test_a_list_from_the_future_means_a_wrong_clock(tmp_path: Path) -> None:
    assert "set this machine's clock" in refusal(ticked(tmp_path / "data", ago=-timedelta(hours=1)).root)


def test_a_damaged_list_is_refused(root: Path) -> None:
    (root / "suppression_list/account=main/suppression_list.parquet").write_bytes(b"no Parquet")
    assert "damaged" in refusal(root)


def test_a_number_that_any_account_lists_is_blocked_unless_one_is_named(root: Path) -> None:
    ticked(root, FREE, account="lyon")
    campaign = pd.DataFrame({"phone": [STOPPED, FREE]})
    assert len(suppress(campaign, root=root).blocked) == 2
    assert list(suppress(campaign, root=root, account="lyon").blocked["phone"]) == [FREE]
    assert "no list of the account “nice”" in refusal(root, account="nice")


def test_one_account_whose_list_is_old_or_missing_stops_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMSPARTNER_ACCOUNTS", "main,nice")
    assert "no list of the account “nice”" in refusal(root)
    monkeypatch.delenv("SMSPARTNER_ACCOUNTS")
    ticked(root, FREE, account="lyon", ago=timedelta(days=2))
    assert "account “lyon” was last verified" in refusal(root)
    assert len(suppress(pd.DataFrame({"phone": [FREE]}), root=root, account="main").clean) == 1


def test_of_two_accounts_the_earlier_opt_out_is_given(root: Path) -> None:
    ticker = Ticker(root, "lyon", start=datetime.now(UTC) - timedelta(hours=1))
    ticker.tick([Row(9, STOPPED, "2024-01-01 01:00:00")])
    blocked = suppress(pd.DataFrame({"phone": [STOPPED]}), root=root).blocked
    assert list(blocked["first_stop_at"]) == [pd.Timestamp("2024-01-01", tz="UTC")]


def test_the_number_of_a_malformed_row_is_blocked_without_a_date(tmp_path: Path) -> None:
    ticker = Ticker(tmp_path, start=datetime.now(UTC) - timedelta(hours=1))
    ticker.tick([{"id": 1, "phoneNumber": STOPPED}])
    blocked = suppress(pd.DataFrame({"phone": [STOPPED]}), root=tmp_path).blocked
    assert blocked["first_stop_at"].isna().all()


@pytest.mark.parametrize(
    ("text", "age"),
    [("24h", timedelta(hours=24)), ("90m", timedelta(minutes=90)), (" 2d ", timedelta(days=2))],
)
def test_an_age_is_a_number_and_a_unit(text: str, age: timedelta) -> None:
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1.5h", "24 hours", "9999999d", "٢h"])
def test_anything_else_is_no_age(text: str) -> None:
    with pytest.raises(ValueError, match="such as 24h, 90m or 2d"):
        parse_age(text)


MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Started from a process as large as pytest, a command would seem to be as large as that."""


@pytest.mark.slow
def test_a_file_ten_times_as_long_takes_no_more_memory(root: Path, tmp_path: Path) -> None:
    thousand_rows = "".join(f"{n:040};06399800{1 + n % 10:02}\n" for n in range(1_000))
    peaks = []
    for thousands in (300, 3_000):
        path = tmp_path / f"{thousands}.csv"
        with path.open("w") as file:
            file.write("nom;phone\n")
            file.writelines(itertools.repeat(thousand_rows, thousands))
        arguments = [COMMAND, "suppress", path, "--out", tmp_path / f"out-{thousands}"]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *map(str, arguments)],
            env=clean_environment(STOP_PIPELINE_DATA=str(root)),
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.25 * peaks[0]
    with (tmp_path / "out-3000" / "blocked.csv").open() as file:
        assert sum(1 for _ in file) == 300_001


# The command

Ran: TypeAlias = "subprocess.CompletedProcess[str]"


def command(root: Path, *arguments: str, content: str = "nom;phone\na;0639980001\nb;0639980002\nc;x\n") -> Ran:
    """`stop-pipeline suppress` of a campaign that lies beside the data root."""
    (root.parent / "campaign.csv").write_text(content)
    done = run_command(
        "suppress", "campaign.csv", "--out", "out", *arguments, cwd=root.parent, STOP_PIPELINE_DATA=str(root)
    )
    assert "Traceback" not in done.stderr
    assert "3998" not in done.stdout + done.stderr
    return done


def test_the_command_says_that_no_row_is_lost_and_where_the_files_are(root: Path) -> None:
    done = command(root)
    assert done.returncode == 0, done.stderr
    first, second, *files = done.stdout.splitlines()
    assert first == ("campaign.csv (CSV with “;” between columns, UTF-8): 3 rows = 1 clean + 1 blocked + 1 invalid.")
    assert second.startswith("The list was verified at ")
    assert [name.strip() for name in files] == ["clean.csv", "blocked.csv", "invalid.csv"]
    out = root.parent / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted(name.strip() for name in files)
    assert (out / "clean.csv").read_text() == "nom;phone\nb;0639980002\n"


def test_the_command_exits_3_with_one_sentence_and_no_file_when_the_list_is_old(tmp_path: Path) -> None:
    root = ticked(tmp_path / "data", ago=timedelta(hours=25)).root
    done = command(root)
    assert done.returncode == 3
    (sentence,) = done.stderr.splitlines()
    assert "run “stop-pipeline run --account main” first" in sentence
    assert not (root.parent / "out").exists()
    assert command(root, "--max-age", "2d").returncode == 0


def test_the_command_exits_3_without_a_list(tmp_path: Path) -> None:
    assert command(tmp_path / "data").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "content", "code", "sentence"),
    [
        (("--column", "mobile"), "nom;phone\na;0639980001\n", 1, "its columns are “nom”, “phone”"),
        ((), "a;0639980001\nb;0639980002\n", 1, "its first line looks like data"),
        ((), 'phone\n"0639980001\n', 1, "near line 2"),
        (("--max-age", "soon"), "phone\n", 2, "such as 24h, 90m or 2d"),
    ],
)
def test_the_command_tells_other_trouble_by_another_code(
    root: Path, arguments: tuple[str, ...], content: str, code: int, sentence: str
) -> None:
    done = command(root, *arguments, content=content)
    assert done.returncode == code
    assert sentence in done.stderr
    assert not (root.parent / "out").exists()


def test_the_command_leaves_an_earlier_result_alone(root: Path) -> None:
    assert command(root).returncode == 0
    again = command(root)
    assert again.returncode == 1
    assert "is not empty" in again.stderr
