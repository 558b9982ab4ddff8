"""A phone number as spelled → E.164 and country; and the masked form that may be shown.

What belongs here: everything that knows how numbers are written. What does not: which rows bear a usable number
(`snapshot`). Everything is pure.

A spelling is first made compact: separators out, digits to ASCII, a leading 00 to a plus. Then:

- `+33`, 6 or 7, and eight digits: taken as it is, valid or not (ranges open faster than libraries learn of them).
- A 0 and nine digits: that one of France and its overseas departments for which it is valid (`0692…` is Réunion). A
  French mobile spelling valid in none of them is `+33…` all the same, so that it meets the first rule: 06 39 98 xx xx,
  the range reserved for fiction, is one.
- Any other digits, with a plus or without: as the phonenumbers library reads them in France, if they are valid. Where
  it would take nothing off, its metadata alone give its answer, in a twentieth of its time (`_taken_apart`).
- All else stays as received. The library would read letters as digits, and extensions, and `tel:` addresses.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc

from stop_pipeline.columns import constant, in_one, scalar, strings

HOME = "FR"
NATIONAL_REGIONS = (HOME, "GP", "GF", "MQ", "RE", "YT")
"""Where a number spelled with a leading 0 can be, in the order tried."""

_MAX_LENGTH = 250
"""The library reads nothing longer."""

# Literal characters, not escapes: this class is given to two engines, `re` and Arrow's RE2, that escape differently.
_SEPARATORS = (
    "["
    "\t-\r\x1c-\x20\x85\xa0\u1680\u3000"  # spaces
    "\u2000-\u2015"  # spaces, zero-width ones, direction marks that copying leaves behind, hyphens and dashes
    "\u2028-\u202f\u205f-\u2060\u2066-\u2069\ufeff"  # more spaces, line ends and marks
    "\xad\u2212\ufe58\ufe63\uff0d\\-"  # hyphens and minus signs
    ".\uff0e()\uff08\uff09/\uff0f"
    "]+"
)
_AS_IT_IS = r"^\+33[67][0-9]{8}$"
_FRENCH_MOBILE = "^0[67][0-9]{8}$"


def _national_pattern(region: str, kind: str) -> str:
    """A regular expression that every valid national number of a region meets, by the library's own data."""
    metadata: Any = phonenumbers.PhoneMetadata.metadata_for_region(region)
    pattern: str = getattr(metadata, kind).national_number_pattern
    return f"(?:{pattern})"


_VALID_FRENCH_MOBILE = f"^0{_national_pattern(HOME, 'mobile')}$"
# By country code, which Guadeloupe shares with others.
_OVERSEAS = "|".join(
    f"^0{_national_pattern(sharing, 'general_desc')}$"
    for region in NATIONAL_REGIONS[1:]
    for sharing in phonenumbers.region_codes_for_country_code(phonenumbers.country_code_for_region(region))
)

_SEPARATORS_RE = re.compile(_SEPARATORS)
_AS_IT_IS_RE = re.compile(r"\+33[67][0-9]{8}")
_NATIONAL_RE = re.compile(r"0[1-9][0-9]{8}")
_DIGITS_RE = re.compile(r"\+?[0-9]+")
_E164_RE = re.compile(r"\+[1-9][0-9]{6,14}")
_COUNTRY_CODE_DIGITS = (1, 2, 3)
_NUMBER_TYPES = (
    "fixed_line",
    "mobile",
    "voip",
    "toll_free",
    "premium_rate",
    "shared_cost",
    "personal_number",
    "pager",
    "uan",
    "voicemail",
)
"""Those by which the library calls a number valid."""


def read_phone_number(spelling: str) -> tuple[str, str | None]:
    """The number in E.164 and its country (ISO 3166 alpha-2).

    A spelling that is no valid number anywhere is given back exactly as it came, without a country; a number without
    a country of its own (+800) has none either. Reading the result again gives the same result.
    """
    compact = _compact(spelling)
    if _AS_IT_IS_RE.fullmatch(compact):
        return compact, HOME
    if _NATIONAL_RE.fullmatch(compact):
        for region in NATIONAL_REGIONS:
            if found := _valid_number(compact, region):
                return found
        if compact[1] in "67":
            return f"+33{compact[1:]}", HOME
    elif _DIGITS_RE.fullmatch(compact) and (found := _valid_number(compact, HOME)):
        return found
    return spelling, None


def read_phone_numbers(spellings: pa.Array | pa.ChunkedArray, mobile: int = 0) -> tuple[pa.Array, pa.Array]:
    """`read_phone_number` of a whole column: E.164 numbers and countries; a null stays null.

    French mobile numbers, in whatever spelling, are read in Arrow; only other distinct spellings go through Python.

    Args:
        spellings: The column.
        mobile: How many, from the first, are known to be French mobile numbers in E.164.
    """
    if isinstance(spellings, pa.ChunkedArray):
        spellings = in_one(spellings)  # Arrow replaces under a mask in one piece only
    if mobile:
        numbers, countries = read_phone_numbers(spellings[mobile:])
        known = spellings[:mobile]
        return pa.concat_arrays([known, numbers]), pa.concat_arrays([constant(HOME, mobile), countries])
    to_read = pc.invert(pc.match_substring_regex(spellings, pattern=_AS_IT_IS))
    remaining = spellings.filter(to_read)
    distinct = pc.unique(remaining)
    indices = pc.index_in(remaining, value_set=distinct)
    numbers, countries = (column.take(indices) for column in _read_distinct(distinct))
    home = constant(HOME, len(spellings))
    if spellings.null_count:
        home = pc.if_else(pc.is_valid(spellings), home, scalar(None, pa.string()))
    return pc.replace_with_mask(spellings, to_read, numbers), pc.replace_with_mask(home, to_read, countries)


def compact_spellings(spellings: pa.Array) -> pa.Array:
    """The spellings without separators, their digits in ASCII, a leading 00 as a plus; a null stays null.

    Spellings that are equal in this form are read alike.
    """
    joined = pc.replace_substring_regex(spellings, pattern=_SEPARATORS, replacement="")
    compact = pc.replace_substring_regex(joined, pattern="^00", replacement="+")
    other_scripts = pc.invert(pc.string_is_ascii(compact))
    in_ascii = [_compact(spelling) for spelling in spellings.filter(other_scripts).to_pylist()]
    return pc.replace_with_mask(compact, other_scripts, strings(in_ascii))


def _read_distinct(spellings: pa.Array) -> tuple[pa.Array, pa.Array]:
    compact = compact_spellings(spellings)
    french, overseas, mobile = (
        pc.match_substring_regex(compact, pattern=pattern)
        for pattern in (_VALID_FRENCH_MOBILE, _OVERSEAS, _FRENCH_MOBILE)
    )
    national = pc.or_(french, pc.and_not(mobile, overseas))
    from_national = pc.binary_join_element_wise(scalar("+33"), pc.utf8_slice_codeunits(compact, start=1), scalar(""))
    numbers = pc.if_else(national, from_national, compact)
    other = pc.invert(pc.or_(national, pc.match_substring_regex(compact, pattern=_AS_IT_IS)))
    read = [read_phone_number(spelling) for spelling in spellings.filter(other).to_pylist()]
    return (
        pc.replace_with_mask(numbers, other, strings(number for number, _ in read)),
        pc.replace_with_mask(constant(HOME, len(spellings)), other, strings(country for _, country in read)),
    )


def mask(phone_number: str) -> str:
    """A phone number fit to be shown: “+33 6•• •• •• 12”.

    Country code, first digit and the last two; of what is no E.164 number, at most the last two characters.
    """
    if _E164_RE.fullmatch(phone_number):
        prefix = f"+{_country_code(phone_number)}"
        national = phone_number.removeprefix(prefix)
        hidden = f"{national[0]}{'•' * (len(national) - 3)}{national[-2:]}"
        if national != phone_number and len(national) > 6:  # noqa: PLR2004 – a shorter one would show half of itself
            return " ".join((prefix, hidden[:-6], hidden[-6:-4], hidden[-4:-2], hidden[-2:]))
    tail = phone_number[-2:]
    return f"•••• {tail}" if len(phone_number) > 5 and tail.isalnum() else "••••"  # noqa: PLR2004 – as above


def _compact(spelling: str) -> str:
    """The spelling without separators, its digits in ASCII, a leading 00 as a plus."""
    text = _SEPARATORS_RE.sub("", spelling)
    if not text.isascii() and len(text) <= _MAX_LENGTH:
        text = "".join(map(_to_ascii, text))
    return f"+{text[2:]}" if text.startswith("00") else text


def _to_ascii(char: str) -> str:
    """The ASCII digit or plus that a character of any script stands for, or the character."""
    if char == "＋":
        return "+"
    digit = unicodedata.decimal(char, None)
    return char if digit is None else str(digit)


def _valid_number(compact: str, region: str) -> tuple[str, str | None] | None:
    """The number in E.164 and its country, if it is valid when read in `region`."""
    if (apart := _taken_apart(compact, region)) is not None:
        code, national = apart
        country = _country_if_valid(code, national)
        return None if country is None else (f"+{code}{national}", country)
    number = _parse(compact, region)
    if number is None or not phonenumbers.is_valid_number(number):
        return None
    e164: str = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    # Some numbers do not survive: “+375 8 8106…” (Belarus) loses its trunk prefix at every reading.
    if e164 != compact and _parse(e164, region) != number:
        return None
    country = phonenumbers.region_code_for_number(number)
    return e164, None if country == phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY else country


def _taken_apart(compact: str, region: str) -> tuple[int, str] | None:
    """Country code and national number, where the library would take off no more than a plus or the 0 of `region`.

    None where its parser has to decide: a number of no country, or one that begins with what may be a trunk prefix.
    """
    if _NATIONAL_RE.fullmatch(compact):
        return phonenumbers.country_code_for_region(region), compact[1:]
    if not compact.startswith("+") or compact.startswith("+0"):
        return None
    for length in _COUNTRY_CODE_DIGITS:
        code, national = int(compact[1 : 1 + length] or 0), compact[1 + length :]
        if rules := _rules(code):
            prefix = rules[0].trunk_prefix
            return None if national.startswith("0") or (prefix and prefix.match(national)) else (code, national)
    return None


def _country_if_valid(code: int, national: str) -> str | None:
    """The country in which the library finds a national number valid, by the order of its own tests."""
    for rule in _rules(code):
        if rule.leading_digits is None:
            if rule.valid.fullmatch(national):
                return rule.country
        elif rule.leading_digits.match(national):
            return rule.country if rule.valid.fullmatch(national) else None
    return None


@dataclass(frozen=True)
class _Rule:
    """What the library's metadata say of the numbers of one country, as patterns of the national number."""

    country: str
    trunk_prefix: re.Pattern[str] | None
    leading_digits: re.Pattern[str] | None
    valid: re.Pattern[str]


@cache
def _rules(code: int) -> tuple[_Rule, ...]:
    """The countries of a country code, the main one first; none for a code that is no country's."""
    countries = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(code, ())
    if phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY in countries:
        return ()
    rules = []
    for country in countries:
        metadata: Any = phonenumbers.PhoneMetadata.metadata_for_region(country)
        types = [_pattern(description) for name in _NUMBER_TYPES if (description := getattr(metadata, name))]
        valid = f"(?={_pattern(metadata.general_desc)}\\Z)(?:{'|'.join(filter(None, types))})"
        patterns = (metadata.national_prefix_for_parsing, metadata.leading_digits)
        prefix, leading_digits = (re.compile(pattern) if pattern else None for pattern in patterns)
        rules.append(_Rule(country, prefix, leading_digits, re.compile(valid)))
    return tuple(rules)


def _pattern(description: Any) -> str:
    """The numbers of one type: those that fit its pattern in one of its lengths; empty if there are none."""
    if not description.national_number_pattern:
        return ""
    lengths = "|".join(f"[0-9]{{{length}}}" for length in description.possible_length)
    return f"(?:(?=(?:{lengths})\\Z)(?:{description.national_number_pattern}))"


def _parse(text: str, region: str) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None


def _country_code(e164: str) -> int | None:
    number = _parse(e164, HOME)
    return None if number is None else number.country_code
