"""How a spelling becomes a number and a country, which numbers a longer text holds, and what a masked number shows.

Numbers are from the ranges reserved for fiction (06 39 98 and 01 99 00), published examples of the phonenumbers
library, or made up to test an overseas prefix, most of them in blocks that the library does not know.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import pandas as pd
import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stop_pipeline.phone_numbers import (
    READING_RULES,
    compact,
    compact_spellings,
    find_phone_numbers,
    find_phone_numbers_in_row,
    is_e164,
    mask,
    match_keys,
    read_phone_number,
    read_phone_numbers,
)

FICTIONAL = "+33639980012"
NO_BREAK, NARROW_NO_BREAK = "\xa0", "\u202f"
PLAN_CODES = (33, 262, 508, 590, 594, 596)
OVERSEAS_CODES = PLAN_CODES[1:]


def examples(regions: Iterable[str]) -> list[str]:
    found = {
        phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        for region in regions
        for number_type in range(11)
        if (number := phonenumbers.example_number_for_type(region, number_type))
    }
    return sorted(found)


EXAMPLES = examples(phonenumbers.SUPPORTED_REGIONS)
FOREIGN_EXAMPLES = [number for number in EXAMPLES if not number.startswith(tuple(f"+{code}" for code in PLAN_CODES))]


def read(spelling: str) -> tuple[str, str | None]:
    reading = read_phone_number(spelling)
    assert reading.readable or (reading.number, reading.country) == (spelling, None)
    return reading.number, reading.country


def text(values: Iterable[str | None], index: Any = None) -> "pd.Series[str]":
    return pd.Series(list(values), index=index, dtype="str")


def with_none(values: "pd.Series[str]") -> list[str | None]:
    return [None if pd.isna(value) else value for value in values]


def metadata_codes(national: str) -> list[int]:
    """The codes of the French plan under which phonenumbers' metadata call nine national digits a valid number."""
    return [
        code
        for code in PLAN_CODES
        if phonenumbers.is_valid_number(phonenumbers.PhoneNumber(country_code=code, national_number=int(national)))
    ]


# One spelling


@pytest.mark.parametrize(
    "spelling",
    [
        # with and without prefix
        *("+33639980012", "33639980012", "639980012", "0639980012", "0033639980012", "033639980012"),
        # in groups
        *("06 39 98 00 12", "06.39.98.00.12", "06-39-98-00-12", "06/39/98/00/12", "(06) 39 98 00 12", "\t0639980012\n"),
        "06\u201339\u201198\u221200\u201412",
        f"06{NO_BREAK}39{NARROW_NO_BREAK}98{NO_BREAK}00{NARROW_NO_BREAK}12",
        # in groups, with the country
        *("+033 6 39 98 00 12", "00 33 6 39 98 00 12", "(00) 33 6 39 98 00 12", "+33 6 39 98 00 12"),
        *("(+33) 6-39-98-00-12", "+33 (0)6 39 98 00 12", "+33 (0)06 39 98 00 12", "0033 (0) 6 39 98 00 12"),
        *("33 (0)6 39 98 00 12", "\u202a+33 6 39 98 00 12\u202c", "+33 6\u200b39\u200b98\u200b00\u200b12"),
        # in the digits of another script
        *("٠٦٣٩٩٨٠٠١٢", "+٣٣٦٣٩٩٨٠٠١٢", "０６３９９８００１２", "＋３３６３９９８００１２"),
    ],
)
def test_every_spelling_that_people_use_meets_the_e164_form(spelling: str) -> None:
    assert read(spelling) == (FICTIONAL, "FR")


@pytest.mark.parametrize(
    "spelling",
    [
        # marks of text
        *("'0639980012", "'+33 6 39 98 00 12", '="0639980012"', ' ="+33639980012" '),
        # decimals, also after thousands
        *("639980012.0", "639980012,00", "33639980012.0", "'639980012.0"),
        *("639 980 012,00", "639\u00a0980\u00a0012.00", "639\u202f980\u202f012.0"),
        # exponents
        *("6,39980012E+08", "6.39980012E8", "6.39980012e+08", "3,3639980012E+10", '="6,39980012E+08"'),
    ],
)
def test_what_a_spreadsheet_did_to_a_number_is_undone_if_no_digit_is_missing(spelling: str) -> None:
    assert read(spelling) == (FICTIONAL, "FR")


@pytest.mark.parametrize(
    ("spelling", "number", "country"),
    [
        ("06 12 34 56 78", "+33612345678", "FR"),
        ("+33700000000", "+33700000000", "FR"),  # a mobile number of the plan, whatever the metadata know
        ("+33695000000", "+33695000000", "FR"),
        ("+33709380000", "+33709380000", "FR"),
        ("01 99 00 00 01", "+33199000001", "FR"),
        ("199000001", "+33199000001", "FR"),
        ("+44 7400 123456", "+447400123456", "GB"),
        ("0044 7400 123456", "+447400123456", "GB"),
        ("447400123456", "+447400123456", "GB"),
        ("447400123456.0", "+447400123456", "GB"),
        ("+1 (242) 359-1234", "+12423591234", "BS"),
        ("12423591234", "+12423591234", "BS"),
        ("+800 1234 5678", "+80012345678", None),
    ],
)
def test_a_mainland_or_foreign_number_has_the_code_and_country_of_its_own(
    spelling: str, number: str, country: str | None
) -> None:
    assert read_phone_number(spelling).readable
    assert read(spelling) == (number, country)


@pytest.mark.parametrize(
    "spelling",
    [
        # masked, too short, too long
        *("+33xxxxxxxxx", "+33639xxxx01", "+33639980", "+336399800123", "06399800012", "36665", "112", "0012", " 5 "),
        # with something else, or several
        *("0800 FLOWERS", "tel:+33612345678", "+33612345678;ext=5", "+33612345678 x5", "0639980007 poste 2"),
        *("06 12 34 56 78#5", "06+12345678", "++33612345678", "²612345678", "06_39_98_00_09"),
        *("06 12 34 56 78 / 06 39 98 00 12", "+33639980004;+33639980005"),
        # rounded, or not a whole number
        *("6,12E+08", "639980002.5"),
        # of no country; phonenumbers cannot read its own E.164 form of the second back
        *("+999123456789", "+375 88 106 105 887"),
        *("", "+", "'", '=""', "\x00", "0" * 100_000, "é6" * 1000),
    ],
)
def test_what_is_not_exactly_one_number_stays_exactly_as_received(spelling: str) -> None:
    reading = read_phone_number(spelling)
    assert (reading.number, reading.country, reading.readable) == (spelling, None, False)


def test_the_version_of_the_rules_follows_the_library() -> None:
    assert phonenumbers.__version__ in READING_RULES


# The French plan


def spellings_of_nine_digits(national: str) -> list[str]:
    bare = [national, f"0{national}", f"33{national}", f"33 (0){national}", f"{national}.0"]
    coded = [f"{prefix}{code}{zero}{national}" for prefix in ("+", "00") for code in PLAN_CODES for zero in ("", "(0)")]
    return bare + coded + [f"{code}{national}" for code in OVERSEAS_CODES]


@pytest.mark.parametrize(
    ("prefix", "country", "nationals"),
    [
        ("+33", "FR", ["639980012", "639989999", "709340001", "709380001"]),
        ("+33", "FR", ["400000000"]),  # of the plan, though no metadata know it
        ("+262", "YT", ["639970000", "639990000", "639012345", "709350001", "709370001", "269601234"]),
        ("+262", "RE", ["692123456", "693990001", "709200001", "709290001", "262990001"]),
        ("+590", "GP", ["691990001", "690001234", "709000001", "709090001", "590990001"]),
        ("+590", "BL", ["590271234"]),
        ("+594", "GF", ["694201234", "694990001", "709300001", "709330001", "594101234"]),
        ("+596", "MQ", ["696201234", "697990001", "709100001", "709190001", "596301234"]),
        ("+508", "PM", ["708401234", "708990001"]),
        ("+", "PM", ["508551234", "508991234"]),  # in E.164 it has six digits after the code
    ],
)
def test_nine_national_digits_are_one_number_whichever_code_stands_before_them(
    prefix: str, country: str, nationals: list[str]
) -> None:
    for national in nationals:
        for spelling in spellings_of_nine_digits(national):
            assert read(spelling) == (f"{prefix}{national}", country), spelling


@pytest.mark.parametrize(
    "spelling",
    [
        "0508 55 12 34",
        "508551234",
        "+33 508 55 12 34",
        "+33 (0)508 551234",
        "+508 55 12 34",
        "00508551234",
        "+508 0551234",
    ],
)
def test_six_and_nine_digits_of_saint_pierre_are_one_number(spelling: str) -> None:
    assert read(spelling) == ("+508551234", "PM")


@pytest.mark.parametrize(
    ("spelling", "number", "country"),
    [
        ("0976 22 00 00", "+33976220000", "FR"),
        ("+262 976 22 00 00", "+262976220000", "RE"),
        ("+596 976 22 00 00", "+33976220000", "FR"),  # not valid in Martinique
        ("+262 939 80 00 00", "+262939800000", "YT"),
        ("+590 806 12 34 56", "+590806123456", "GP"),
        ("0806 12 34 56", "+33806123456", "FR"),
    ],
)
def test_a_number_that_departments_share_keeps_the_code_it_was_written_with_where_it_is_valid_there(
    spelling: str, number: str, country: str
) -> None:
    assert read(spelling) == (number, country)
    national = compact(spelling)[-9:]
    assert set(match_keys(text([number, read(national)[0]]))) == {f"+33{national}"}


NINE_DIGITS = st.from_regex(
    "[1-9][0-9]{8}|(26[239]|59[046]|69[0-7]|70[89]|639|508|976|93[0-9]|80[0-9])[0-9]{6}", fullmatch=True
)


@settings(deadline=None)
@given(NINE_DIGITS)
def test_all_spellings_of_nine_national_digits_meet(national: str) -> None:
    readings = [read_phone_number(spelling) for spelling in spellings_of_nine_digits(national)]
    assert all(reading.readable for reading in readings)
    numbers = {reading.number for reading in readings}
    assert len(set(match_keys(text(numbers)))) == 1
    assert len(numbers) == 1 or len(metadata_codes(national)) > 1


@settings(deadline=None)
@given(NINE_DIGITS)
def test_a_number_that_is_valid_under_one_code_only_gets_that_code(national: str) -> None:
    codes = metadata_codes(national)
    if len(codes) == 1 and not national.startswith("508"):
        country = phonenumbers.region_code_for_number(phonenumbers.parse(f"+{codes[0]}{national}"))
        assert read(f"+590{national}") == (f"+{codes[0]}{national}", country)


OVERSEAS_MOBILE = ("690", "691", "692", "693", "694", "696", "697", "708", "7090", "7091", "7092")
OVERSEAS_7093 = ("70930", "70931", "70932", "70933", "70935", "70936", "70937")


def test_a_mobile_number_is_overseas_exactly_if_its_first_digits_are() -> None:
    nationals = text(f"{prefix}0012" for prefix in range(60_000, 80_000))
    numbers = read_phone_numbers("+33" + nationals)["phone_number"]
    overseas = nationals.str.startswith(OVERSEAS_MOBILE + OVERSEAS_7093) | (
        nationals.str.startswith("639") & ~nationals.str.startswith("63998")
    )
    assert (numbers.str.startswith("+33") == ~overseas).all()
    assert (numbers.str[-9:] == nationals).all()


def test_the_metadata_know_no_overseas_mobile_number_whose_first_digits_the_plan_calls_mainland() -> None:
    """If an update of phonenumbers breaks this, the plan's table of first digits is out of date."""
    for prefix in range(60_000, 80_000):
        national = f"{prefix}0012"
        if read_phone_number(national).number.startswith("+33"):
            assert metadata_codes(national) in ([], [33]), national


# Any spelling

SEPARATORS = st.text(" .-()/\u2011\u2013\u2212\xa0\u202f\u200b", max_size=2)


@st.composite
def spaced(draw: st.DrawFn, numbers: st.SearchStrategy[str]) -> str:
    return "".join(char + draw(SEPARATORS) for char in draw(numbers))


SPELLINGS = (
    spaced(st.sampled_from([*EXAMPLES, FICTIONAL]))
    | st.from_regex(r"(00|\+|0|\+?330{0,3}|0033|\+375 ?8|\+?(262|508|590)0?)?[0-9]{1,15}([.,]0{1,3})?", fullmatch=True)
    | st.from_regex(r"0[67][0-9]{8}", fullmatch=True)
    | st.from_regex(r"('|=\")?[1-9]([.,][0-9]{1,12})?[eE]\+?[0-9]{1,2}\"?", fullmatch=True)
    | st.text("0123456789+ .-()/x;#٠６", max_size=16)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)


@settings(deadline=None, max_examples=300)
@given(SPELLINGS)
def test_reading_what_was_read_changes_nothing(spelling: str) -> None:
    reading = read_phone_number(spelling)
    assert read_phone_number(reading.number) == reading
    assert (reading.number, reading.country) == read(spelling)


@settings(deadline=None)
@given(st.sampled_from(FOREIGN_EXAMPLES), st.data())
def test_all_international_spellings_of_a_foreign_number_meet(number: str, data: st.DataObject) -> None:
    assert read_phone_number(number).number == number
    for spelling in (number, f"00{number[1:]}"):
        assert read_phone_number(data.draw(spaced(st.just(spelling)))) == read_phone_number(number)


@pytest.mark.parametrize(
    ("spelling", "stored"),
    [
        ("33 (0)06 12 34 56 78", "+33612345678"),
        ("+330612345678", "+33612345678"),
        ("336123456.00", "+33612345600"),
        ("3361234567.0", "+33612345670"),
        ("330010000001.0", "+33100000010"),
        ("0691990001", "+33691990001"),
        ("+262 0692 12 34 56", "+262692123456"),
        ("0269601234", "+33269601234"),
        ("508551234", "+33508551234"),
        ("+33 639 01 23 45", "+33639012345"),
        ("+262 976 22 00 00", "+262976220000"),
        ("0596161234", "+33596161234"),
    ],
)
def test_a_number_that_version_1_of_the_rules_stored_is_read_again_as_its_spelling_is(
    spelling: str, stored: str
) -> None:
    assert read_phone_number(stored) == read_phone_number(spelling)


# A column


@settings(deadline=None, max_examples=50)
@given(st.lists(SPELLINGS | st.none(), max_size=20), st.booleans())
@example([FICTIONAL, "033639980012", "06123456780012", "33639980012", "063998001", f"{FICTIONAL}\n", None], False)  # noqa: FBT003
@example([None], True)  # noqa: FBT003
@example(["x"], True)  # noqa: FBT003
@example([], False)  # noqa: FBT003
def test_a_column_is_read_as_each_of_its_values(spellings: list[str | None], one_label: bool) -> None:  # noqa: FBT001
    index = pd.Index(["row"] * len(spellings)) if one_label else pd.RangeIndex(len(spellings))
    column = text(spellings, index)
    frame = read_phone_numbers(column)
    pd.testing.assert_index_equal(frame.index, index)
    assert [str(dtype) for dtype in frame.dtypes] == ["str", "str"]
    readings = [None if spelling is None else read_phone_number(spelling) for spelling in spellings]
    assert with_none(frame["phone_number"]) == [reading and reading.number for reading in readings]
    assert with_none(frame["country"]) == [reading and reading.country for reading in readings]
    assert is_e164(frame["phone_number"]).tolist() == [bool(reading and reading.readable) for reading in readings]
    assert with_none(compact_spellings(column)) == [None if one is None else compact(one) for one in spellings]
    pd.testing.assert_index_equal(match_keys(column).index, index)


@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_a_column_of_another_text_type_is_read_as_well(dtype: Any) -> None:
    frame = read_phone_numbers(pd.Series(["06 39 98 00 12", None, "x"], dtype=dtype))
    assert with_none(frame["phone_number"]) == [FICTIONAL, None, "x"]
    assert with_none(frame["country"]) == ["FR", None, None]


def test_reading_a_column_leaves_the_column_alone() -> None:
    column = text(["06 39 98 00 12", FICTIONAL, None])
    before = column.copy(deep=True)
    read_phone_numbers(column)
    match_keys(column)
    compact_spellings(column)
    pd.testing.assert_series_equal(column, before)


def test_a_number_in_e164_form_is_one_that_can_be_read() -> None:
    numbers = [FICTIONAL, "+262692123456", "+33692123456", "+508551234", "+80012345678", "+49800123456351500"]
    others = ["0639980012", "+33639980", "+999123456789", "+33639xxxx01", "", None]
    assert is_e164(text(numbers + others)).tolist() == [True] * len(numbers) + [False] * len(others)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(EXAMPLES), min_size=2, max_size=30, unique=True))
def test_different_numbers_have_different_keys(numbers: list[str]) -> None:
    read_as = read_phone_numbers(text(numbers))["phone_number"].drop_duplicates()
    foreign = read_as[~read_as.str.startswith(tuple(f"+{code}" for code in OVERSEAS_CODES))]
    assert match_keys(foreign).tolist() == foreign.tolist()


# Numbers inside longer texts


@pytest.mark.parametrize(
    ("listed", "numbers"),
    [
        ("+33639xxxx01", []),
        ("+336 39 98 xx 01", []),
        ("tel:+33639980003", ["+33639980003"]),
        ("+33639980004;+33639980005", ["+33639980004", "+33639980005"]),
        ("+33639980005+33639980004", ["+33639980004", "+33639980005"]),
        ("0639980004/0639980005", ["+33639980004", "+33639980005"]),
        ("06 39 98 00 04 06 39 98 00 05", ["+33639980004", "+33639980005"]),
        ("0639980007 poste 2", ["+33639980007"]),
        ("0639980007#5", ["+33639980007"]),
        ("06_39_98_00_09", ["+33639980009"]),
        ("06 39 98 00 07 ou 0639980007", ["+33639980007"]),
        ("mobile : 06\u202f39\u202f98\u202f00\u202f07", ["+33639980007"]),
        ("mobile ٠٦٣٩٩٨٠٠٠٧", ["+33639980007"]),
        ("tel0639980007", ["+33639980007"]),
        ("33639980003 (mobile)", ["+33639980003"]),
        ("639980003 perso", ["+33639980003"]),
        ("+33 (0)6 39 98 00 07 bis", ["+33639980007"]),
        ("0691990001 poste 3", ["+590691990001"]),
        ("+590 590 99 00 01 (bureau)", ["+590590990001"]),
        ("+508 551234 poste 3", ["+508551234"]),
        ("01 99 00 00 01 (bureau), 06 39 98 00 01 (mobile)", ["+33199000001", "+33639980001"]),
        ("+44 7400 123456 x2", ["+447400123456"]),
        ("447400123456 UK", ["+447400123456"]),
        ("06 39 98 00 01 le 05.06.2025", ["+33639980001"]),
        ("0639980012", [FICTIONAL]),
        ("'639980012.0", [FICTIONAL]),
        ("6,12E+08", []),
        ("ref 123456789", []),
        ("Dupont", []),
        ("tel: 06 39 98 00 06\n06 39 98 00 00 (client)", ["+33639980000", "+33639980006"]),
        ("", []),
        ("\ud800", []),
    ],
)
def test_every_number_in_a_text_is_found(listed: str, numbers: list[str]) -> None:
    assert find_phone_numbers(listed) == numbers


@settings(deadline=None)
@given(
    st.lists(st.from_regex("63998[0-9]{4}", fullmatch=True), min_size=1, max_size=4),
    st.sampled_from(["; ", ";", ", ", " / ", "|", " ou ", " et ", "\n", "; tel:", " -- "]),
    st.data(),
)
def test_numbers_are_found_however_they_are_spelled_and_joined(
    nationals: list[str], between: str, data: st.DataObject
) -> None:
    pair = data.draw(st.sampled_from(["", " ", ".", "-", "_", "\xa0", "\u202f"]))
    spelled = []
    for national in nationals:
        prefix = data.draw(st.sampled_from(["0", "+33", "0033", "+33 (0)", "33"]))
        spelled.append(prefix + national[0] + "".join(pair + national[n : n + 2] for n in range(1, 9, 2)))
    found = find_phone_numbers(f"tel: {between.join(spelled)} (client)")
    assert found == sorted({f"+33{national}" for national in nationals})


@settings(deadline=None)
@given(SPELLINGS, SPELLINGS)
def test_what_is_found_is_in_the_form_that_reading_gives(one: str, other: str) -> None:
    found = find_phone_numbers(f"{one} | {other}")
    assert found == sorted(set(found))
    for number in found:
        assert (read_phone_number(number).number, read_phone_number(number).readable) == (number, True)
    if (reading := read_phone_number(one)).readable:
        assert find_phone_numbers(one) == [reading.number]


@settings(deadline=None)
@given(
    st.datetimes(datetime(1995, 1, 1), datetime(2035, 12, 31)),  # noqa: DTZ001 – as the provider writes them
    st.sampled_from(
        ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ", "%d/%m/%Y %H:%M", "%d.%m.%Y", "%d-%m-%Y %H:%M:%S"]
    ),
)
def test_a_date_is_not_a_number(moment: datetime, form: str) -> None:
    written = moment.strftime(form)
    assert find_phone_numbers(written) == []
    assert find_phone_numbers(f"le {written} par SMS") == []
    assert find_phone_numbers_in_row(json.dumps({"id": 7, "phoneNumber": None, "createdAt": written})) == []


@pytest.mark.parametrize(
    ("raw", "numbers"),
    [
        ('{"id": 7, "phoneNumber": 3.3639980003e10, "createdAt": "2025-06-01 08:00:00"}', ["+33639980003"]),
        ('{"id": 7, "phoneNumber": 33639980003.0}', ["+33639980003"]),
        ('{"id": 7, "phoneNumber": 639980003}', ["+33639980003"]),
        ('{"id": 7, "phoneNumber": ["+33639980008"]}', ["+33639980008"]),
        ('{"id": 7, "phoneNumber": ["33639980007", 33639980008]}', ["+33639980007", "+33639980008"]),
        ('{"id": 7, "phoneNumber": {"number": "+33639980007"}}', ["+33639980007"]),
        ('{"id": 7, "phoneNumber": {"+33639980007": true}}', ["+33639980007"]),
        ('["+33639980008"]', ["+33639980008"]),
        ('{"number": "+33639980007"}', ["+33639980007"]),
        ('"+33639980007"', ["+33639980007"]),
        ("33639980007", ["+33639980007"]),
        ('{"phoneNumber": "0639980001", "phoneNumber": "0639980002"}', ["+33639980001", "+33639980002"]),
        ('{"id": "19", "phoneNumber": "tel:0639980003;0639980004"}', ["+33639980003", "+33639980004"]),
        ('{"id": "+33639980005", "phoneNumber": "", "createdAt": ""}', ["+33639980005"]),
        ('{"id": 639980001, "phoneNumber": null, "createdAt": "2025-06-01 08:00:00"}', []),
        ('{"ID": "639980001", "phoneNumber": "+33639xxxx01"}', []),
        ('[639980001, "+33639980008", "2025-06-01 08:00:00"]', ["+33639980008"]),
        ('["639980001", "+33639980008", "2025-06-01 08:00:00"]', ["+33639980008"]),
        ('{"id": 7, "phoneNumber": true, "createdAt": 1748757600}', []),
        ('{"id": 7, "phoneNumber": NaN, "createdAt": 1e400}', []),
        ('{"id": 7, "phoneNumber": 639980001.5}', []),
        ("null", []),
        ("{}", []),
        ('{"phoneNumber": "0639980001"', ["+33639980001"]),  # cut off
        ("9" * 5000, []),
        ("[" * 100_000, []),
    ],
)
def test_every_number_in_a_malformed_row_is_found_and_no_id_or_date(raw: str, numbers: list[str]) -> None:
    assert find_phone_numbers_in_row(raw) == numbers


# Masks


@pytest.mark.parametrize(
    ("phone_number", "masked"),
    [
        (FICTIONAL, "+33 6•• •• •• 12"),
        ("+447400123456", "+44 7••• •• •• 56"),
        ("+262692123456", "+262 6•• •• •• 56"),
        ("+12423591234", "+1 2••• •• •• 34"),
        ("+33xxxxxxxxx", "•••• xx"),
        ("06 39 98 00 12", "•••• 12"),
        ("+508551234", "•••• 34"),
        ("+29012345", "•••• 45"),
        ("36665", "••••"),
        ("12", "••••"),
        ("", "••••"),
        ("+33639980\n1", "••••"),
    ],
)
def test_a_mask_shows_country_code_first_digit_and_last_two_and_of_anything_else_at_most_the_last_two(
    phone_number: str, masked: str
) -> None:
    assert mask(phone_number) == masked


@settings(deadline=None)
@given(SPELLINGS)
def test_a_mask_hides_all_but_a_country_code_and_three_digits(spelling: str) -> None:
    for shown in (spelling, read_phone_number(spelling).number):
        masked = mask(shown)
        assert masked.isprintable()
        prefix, _, rest = masked.partition(" ")
        if prefix == "••••":
            assert len(rest) <= 2
        else:
            assert len([char for char in rest if char not in "• "]) == 3
            assert prefix == f"+{phonenumbers.parse(shown, 'FR').country_code}"
            assert len(prefix) + len(rest.replace(" ", "")) == len(shown)


def test_the_metadata_look_no_further_than_the_first_five_national_digits_of_the_plan() -> None:
    """Numbers are read by them, so an update of the metadata that looks further must not pass unnoticed."""
    for first in range(10_000, 100_000, 7):
        for code in PLAN_CODES:
            regions = {
                phonenumbers.region_code_for_number(phonenumbers.PhoneNumber(code, int(f"{first}{end}")))
                for end in ("0000", "9999")
            }
            assert len(regions) == 1, (code, first)
