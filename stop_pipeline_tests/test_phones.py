"""How a spelling becomes a number, a country and a mask.

Numbers are from the range reserved for fiction (06 39 98 xx xx) or published examples of the phonenumbers library.
"""

from collections.abc import Iterable

import phonenumbers
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stop_pipeline.phones import (
    NATIONAL_REGIONS,
    _taken_apart,
    _valid_number,
    compact_spellings,
    mask,
    read_phone_number,
    read_phone_numbers,
)

FICTIONAL = "+33639980012"
NO_BREAK, NARROW_NO_BREAK = "\xa0", "\u202f"


def examples(regions: Iterable[str]) -> list[str]:
    found = {
        phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        for region in regions
        for number_type in range(11)
        if (number := phonenumbers.example_number_for_type(region, number_type))
    }
    return sorted(found)


EXAMPLES = examples(phonenumbers.SUPPORTED_REGIONS)
NATIONAL_EXAMPLES = [
    number for number in examples(NATIONAL_REGIONS) if len(str(phonenumbers.parse(number).national_number)) == 9
]


@pytest.mark.parametrize("number", [FICTIONAL, "+33612345678", "+33692123456", "+33700000000"])
def test_a_french_mobile_number_is_taken_as_it_is_whether_or_not_the_library_finds_it_valid(number: str) -> None:
    assert read_phone_number(number) == (number, "FR")


@pytest.mark.parametrize(
    "spelling",
    [
        "06 39 98 00 12",
        "06.39.98.00.12",
        "06-39-98-00-12",
        "06\u201339\u201198\u221200\u201412",
        "06/39/98/00/12",
        "(06) 39 98 00 12",
        f"06{NO_BREAK}39{NARROW_NO_BREAK}98{NO_BREAK}00{NARROW_NO_BREAK}12",
        "\t0639980012\n",
        "0033639980012",
        "00 33 6 39 98 00 12",
        "(00) 33 6 39 98 00 12",
        "+33 6 39 98 00 12",
        "(+33) 6-39-98-00-12",
        "\u202a+33 6 39 98 00 12\u202c",
    ],
)
def test_every_spelling_of_a_fictional_number_meets_its_e164_form(spelling: str) -> None:
    assert read_phone_number(spelling) == (FICTIONAL, "FR")


@pytest.mark.parametrize(
    ("spelling", "number", "country"),
    [
        ("06 12 34 56 78", "+33612345678", "FR"),
        ("01 23 45 67 89", "+33123456789", "FR"),
        ("0690 00 12 34", "+590690001234", "GP"),
        ("0590 27 12 34", "+590590271234", "BL"),
        ("0694 20 12 34", "+594694201234", "GF"),
        ("0696 20 12 34", "+596696201234", "MQ"),
        ("0692 12 34 56", "+262692123456", "RE"),
        ("0639 01 23 45", "+262639012345", "YT"),
        ("0269 60 12 34", "+33269601234", "FR"),  # valid in Mayotte too: France comes first
    ],
)
def test_a_national_spelling_is_read_where_it_is_valid_and_the_country_is_that_of_the_number(
    spelling: str, number: str, country: str
) -> None:
    assert read_phone_number(spelling) == (number, country)


@pytest.mark.parametrize("spelling", ["612345678", "33612345678", "+33 (0)6 12 34 56 78", "+330612345678"])
def test_the_library_repairs_a_lost_or_spare_leading_zero(spelling: str) -> None:
    assert read_phone_number(spelling) == ("+33612345678", "FR")


@pytest.mark.parametrize(
    ("spelling", "number", "country"),
    [
        ("+44 7400 123456", "+447400123456", "GB"),
        ("0044 7400 123456", "+447400123456", "GB"),
        ("+1 (242) 359-1234", "+12423591234", "BS"),
        ("+800 1234 5678", "+80012345678", None),
    ],
)
def test_a_foreign_number_keeps_its_country_and_one_of_no_country_has_none(
    spelling: str, number: str, country: str | None
) -> None:
    assert read_phone_number(spelling) == (number, country)


@pytest.mark.parametrize("spelling", ["٠٦٣٩٩٨٠٠١٢", "+٣٣٦٣٩٩٨٠٠١٢", "０６３９９８００１２", "＋３３６３９９８００１２"])
def test_decimal_digits_of_any_script_are_digits(spelling: str) -> None:
    assert read_phone_number(spelling) == (FICTIONAL, "FR")


@pytest.mark.parametrize(
    "spelling",
    [
        "+33xxxxxxxxx",
        "0800 FLOWERS",
        "tel:+33612345678",
        "+33612345678;ext=5",
        "+33612345678 x5",
        "06 12 34 56 78#5",
        "06+12345678",
        "++33612345678",
        "²612345678",
        "06 12 34 56 78 / 06 39 98 00 12",
        "36665",
        "112",
        "+999123456789",
        "0012",
        " 5 ",
        "+",
        "",
        "\x00",
        "0" * 100_000,
        "é6" * 1000,
    ],
)
def test_what_is_no_valid_number_stays_exactly_as_received_without_a_country(spelling: str) -> None:
    assert read_phone_number(spelling) == (spelling, None)


def test_a_number_that_the_library_cannot_read_back_stays_as_received() -> None:
    assert read_phone_number("+375 88 106 105 887") == ("+375 88 106 105 887", None)


SEPARATORS = st.text(" .-()/\u2011\u2013\u2212\xa0\u202f\u200b", max_size=2)


@st.composite
def spaced(draw: st.DrawFn, numbers: st.SearchStrategy[str]) -> str:
    return "".join(char + draw(SEPARATORS) for char in draw(numbers))


SPELLINGS = (
    spaced(st.sampled_from([*EXAMPLES, FICTIONAL]))
    | st.from_regex(r"(00|\+|0|\+33|0033|\+375 ?8|\+262)?[0-9]{1,15}", fullmatch=True)
    | st.from_regex(r"0[67][0-9]{8}", fullmatch=True)
    | st.text("0123456789+ .-()/x;#٠６", max_size=16)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)


@settings(deadline=None)
@given(SPELLINGS)
def test_reading_what_was_read_changes_nothing(spelling: str) -> None:
    number, country = read_phone_number(spelling)
    assert read_phone_number(number) == (number, country)


@settings(deadline=None)
@given(st.sampled_from(EXAMPLES), st.data())
def test_all_international_spellings_of_a_valid_number_meet(number: str, data: st.DataObject) -> None:
    assert read_phone_number(number)[0] == number
    for spelling in (number, f"00{number[1:]}"):
        assert read_phone_number(data.draw(spaced(st.just(spelling)))) == read_phone_number(number)


@settings(deadline=None)
@given(st.sampled_from(NATIONAL_EXAMPLES), st.data())
def test_the_national_spelling_of_a_valid_number_meets_that_of_the_first_region_where_it_is_valid(
    number: str, data: st.DataObject
) -> None:
    national = f"0{phonenumbers.parse(number).national_number}"
    readings = [phonenumbers.parse(national, region) for region in NATIONAL_REGIONS]
    first = next(reading for reading in readings if phonenumbers.is_valid_number(reading))
    international = phonenumbers.format_number(first, phonenumbers.PhoneNumberFormat.E164)
    assert read_phone_number(data.draw(spaced(st.just(national)))) == read_phone_number(international)


@st.composite
def altered(draw: st.DrawFn) -> str:
    """A valid number with other digits at its end, perhaps more or fewer."""
    number = draw(st.sampled_from(EXAMPLES))
    kept = draw(st.integers(2, len(number)))
    return number[:kept] + draw(st.text("0123456789", max_size=len(number) - kept + 1))


@settings(max_examples=1000, deadline=None)
@given(altered() | st.from_regex(r"\+[0-9]{1,16}|0[1-9][0-9]{8}", fullmatch=True), st.sampled_from(NATIONAL_REGIONS))
@example("+07301000000", "FR")
def test_what_metadata_settle_is_what_the_parser_of_the_library_says(compact: str, region: str) -> None:
    try:
        number = phonenumbers.parse(compact, region)
    except phonenumbers.NumberParseException:
        number = None
    if _taken_apart(compact, region) is None:
        return
    if number is None or not phonenumbers.is_valid_number(number):
        assert _valid_number(compact, region) is None
    else:
        e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        assert _valid_number(compact, region) == (e164, phonenumbers.region_code_for_number(number))


def test_metadata_settle_most_valid_numbers() -> None:
    settled = [number for number in EXAMPLES if _taken_apart(number, "FR")]
    assert len(settled) > 0.9 * len(EXAMPLES)


@settings(deadline=None)
@given(st.lists(SPELLINGS | st.none(), max_size=20), st.integers(0, 20))
@example([FICTIONAL, "033639980012", "06123456780012", "33639980012", "063998001", None], 2)
def test_a_column_is_read_as_each_of_its_values(spellings: list[str | None], cut: int) -> None:
    expected = [(None, None) if spelling is None else read_phone_number(spelling) for spelling in spellings]
    whole = pa.array(spellings, pa.string())
    in_chunks = pa.chunked_array([whole[:cut], whole[cut:]], pa.string())
    for column in (whole, in_chunks):
        numbers, countries = read_phone_numbers(column)
        assert numbers.type == countries.type == pa.string()
        assert list(zip(numbers.to_pylist(), countries.to_pylist(), strict=True)) == expected


def test_a_column_of_national_mobile_numbers_of_every_range_is_read_as_each_of_its_values() -> None:
    spellings = [f"0{prefix}0012" for prefix in range(60_000, 80_000, 3)]
    numbers, countries = read_phone_numbers(pa.array(spellings))
    expected = [read_phone_number(spelling) for spelling in spellings]
    assert list(zip(numbers.to_pylist(), countries.to_pylist(), strict=True)) == expected
    assert len(set(countries.to_pylist())) > 4


@settings(deadline=None)
@given(SPELLINGS)
def test_a_spelling_is_read_as_its_compact_form_is(spelling: str) -> None:
    (compact,) = compact_spellings(pa.array([spelling])).to_pylist()
    assert compact_spellings(pa.array([compact])).to_pylist() == [compact]
    number, country = read_phone_number(spelling)
    assert read_phone_number(compact) == (compact if number == spelling else number, country)


@pytest.mark.parametrize(
    ("phone_number", "masked"),
    [
        (FICTIONAL, "+33 6•• •• •• 12"),
        ("+447400123456", "+44 7••• •• •• 56"),
        ("+262692123456", "+262 6•• •• •• 56"),
        ("+12423591234", "+1 2••• •• •• 34"),
        ("+33xxxxxxxxx", "•••• xx"),
        ("06 39 98 00 12", "•••• 12"),
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
    number, _ = read_phone_number(spelling)
    for text in (spelling, number):
        masked = mask(text)
        assert masked.isprintable()
        prefix, _, rest = masked.partition(" ")
        if prefix == "••••":
            assert len(rest) <= 2
        else:
            shown = [char for char in rest if char not in "• "]
            assert len(shown) == 3
            assert prefix == f"+{phonenumbers.parse(text, 'FR').country_code}"
            assert len(prefix) + len(rest.replace(" ", "")) == len(text)
