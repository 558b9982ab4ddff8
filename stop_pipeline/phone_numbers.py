"""Phone numbers as people, spreadsheets and SMS Partner write them, read as E.164 numbers with their country.

One reader serves the list and campaigns. It reads a spelling in this order:

1. Separators are dropped, digits of any script become ASCII, and a leading 00 becomes a plus.
2. Nine digits belong to the French plan if they stand alone or after 0, +33, 33, 033, or the code of an overseas
   department (+262, +508, +590, +594, +596). They are read whether or not phonenumbers' metadata know them, because
   ranges open faster than metadata follow. A 0 after the country code, as in “+33 (0)6…”, is not part of the number.
3. What a spreadsheet did to the number is undone: text marks, decimals (also after groups of thousands), an exponent, a
   lost plus or zero.
4. Any other digits are read as the phonenumbers library reads them in France, if they are a valid number.
5. Everything else stays exactly as received.

Longer texts and malformed rows, which need not be one number, are searched for numbers. Adding a number to the
suppression list is always safe, so a mobile number of the French plan counts wherever its digits stand, and so does any
number of the plan after its country code. Of other numbers, those count that the phonenumbers library finds and calls
valid. Dates and times do not count.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

import pandas as pd
import phonenumbers

READING_RULES = f"5, phonenumbers {phonenumbers.__version__}"
"""Version of the reading rules. It changes whenever a spelling may be read differently."""
HOME = "FR"
"""Where a number without a country code is read."""

# Literal characters, not escapes: both `re` and Arrow's RE2 read this class, and they escape differently.
_SEPARATORS = (
    "["
    "\t-\r\x1c-\x20\x85\xa0\u1680\u3000"  # spaces
    "\u2000-\u2015"  # spaces, zero-width ones, direction marks that copying leaves behind, hyphens and dashes
    "\u2028-\u202f\u205f-\u2060\u2066-\u2069\ufeff"  # more spaces, line ends and marks
    "\xad\u2212\ufe58\ufe63\uff0d\\-"  # hyphens and minus signs
    ".\uff0e()\uff08\uff09/\uff0f"
    "]+"
)
_SEPARATORS_RE = re.compile(_SEPARATORS)
_DIGITS_RE = re.compile(r"\+?[0-9]{1,250}")  # phonenumbers refuses longer texts
_E164 = r"\+[1-9][0-9]{5,18}"  # longer than the standard allows, because some numbers in the metadata are

# The French plan. Sources: Arcep's numbering plan and phonenumbers' metadata.
_PLAN_COUNTRIES = {33: HOME, 262: "RE", 508: "PM", 590: "GP", 594: "GF", 596: "MQ"}
"""Country codes of the plan, and the country of a number that the metadata do not know."""
_OVERSEAS = "262|508|590|594|596"
_MAYOTTE = re.compile("269|639|7093[5-7]")
_CODES_BY_FIRST_DIGITS = {
    262: re.compile("26[239]|639(?!98)|69[23]|7092|7093[5-7]"),  # 06 39 98 is reserved for fiction
    590: re.compile("590|69[01]|7090"),
    594: re.compile("594|694|7093[0-3]"),
    596: re.compile("596|69[67]|7091"),
    508: re.compile("708"),
}
_DECIDING_DIGITS = 5
"""So many of the nine national digits decide the country code and the country; a test holds the metadata to it."""
_MAINLAND_MOBILE = (
    "(?:6(?:[0-24-8][0-9]{3}|3[0-8][0-9]{2}|3998|9[589][0-9]{2})"
    "|7(?:[1-9][0-9]{3}|0[0-7][0-9]{2}|09[4-9][0-9]|093[489]))[0-9]{4}"
)
"""National digits that begin with 6 or 7 and with nothing in `_CODES_BY_FIRST_DIGITS`; RE2 has no lookahead."""
_PLAIN = rf"\+33{_MAINLAND_MOBILE}"
_IN_PLAN = rf"\+(?:33|{_OVERSEAS})[1-9][0-9]{{8}}"
_MOBILE_BY_ANOTHER_PREFIX = r"^(?:0|\+?0?330{0,2})?([67][0-9]{8})$"
_PLAN_RE = re.compile(rf"(?:0|\+?0?330{{0,2}}|\+(?P<code>{_OVERSEAS})0{{0,2}})?(?P<national>[1-9][0-9]{{8}})")
_SAINT_PIERRE_SHORT_RE = re.compile(r"\+5080?([0-9]{6})")
_OVERSEAS_NINE_DIGITS = rf"^\+(?:{_OVERSEAS})([1-9][0-9]{{8}})$"

# What spreadsheets do to numbers.
_FORCED_TEXT_RE = re.compile(r"'(?P<quoted>.*)|=\"(?P<formula>[^\"]*)\"", re.DOTALL)
_WHOLE_WITH_DECIMALS_RE = re.compile(r"([1-9][0-9]{8,14})[.,]0+")  # after a 0 or + it is text, the dot a separator
_BLANKS_RE = re.compile(r"\s+")  # between thousands
_WITH_EXPONENT_RE = re.compile(r"(?P<first>[1-9])(?:[.,](?P<rest>[0-9]+))?[eE]\+?(?P<exponent>[0-9]{1,2})")
_LOST_PLUS_RE = re.compile(r"[1-9][0-9]{9,14}")

# Numbers inside longer texts.
_BETWEEN_DIGITS = r"(?:[ .\-()]{0,2}|/)"  # wider, it would join two numbers into a third
_PLAN_CODE = rf"(?:33|{_OVERSEAS})(?:{_BETWEEN_DIGITS}0){{0,2}}{_BETWEEN_DIGITS}"
_PLAN_NUMBER = re.compile(  # overlapping matches: any of them may be the number
    rf"(?=((?:(?:\+|(?<![0-9])00){_PLAN_CODE}[1-9]|(?<![0-9])(?:{_PLAN_CODE}|0{_BETWEEN_DIGITS})[67])"
    rf"(?:{_BETWEEN_DIGITS}[0-9]){{8}}(?![0-9])))"
)
_BARE_NUMBER = re.compile(r"(?<![+0-9A-Za-z])(?:[67][0-9]{8}|[1-9][0-9]{9,14})(?![0-9A-Za-z])")
_DATE = re.compile(
    r"(?<![0-9])(?<![0-9][-/.])(?:(?:19|20)[0-9]{2}([-/.])[01]?[0-9]\1[0-3]?[0-9]|[0-3]?[0-9]([-/.])[01]?[0-9]\2(?:19|20)[0-9]{2})"
    r"(?:[ T]+[0-2]?[0-9][:h][0-5][0-9](?::[0-5][0-9])?)?(?![-/.]?[0-9])"
)
_LONGEST_SEARCHED = 100_000
"""Characters of one text that are searched for numbers; a row of the list has about a hundred."""
_ID = re.compile("[1-9][0-9]*")

_LEAST_MASKED = 6
"""A shorter number would show half of itself."""


class PhoneNumber(NamedTuple):
    """A spelling as it was read."""

    number: str  # in E.164, or the spelling as received if it cannot be read as exactly one number
    country: str | None  # ISO 3166 alpha-2; None if the spelling is not readable or the number is of no country (+800)
    readable: bool  # whether `number` is in E.164: valid by phonenumbers' metadata, or of the French plan


def read_phone_number(spelling: str) -> PhoneNumber:
    """Read one spelling; reading the resulting number again gives the same result."""
    digits = compact(spelling)
    if not _PLAN_RE.fullmatch(digits):
        digits = compact(_undo_spreadsheet(spelling))
        if _LOST_PLUS_RE.fullmatch(digits) and not _PLAN_RE.fullmatch(digits):
            digits = f"+{digits}"
    found = _read_plan(digits) or (_read_by_library(digits) if _DIGITS_RE.fullmatch(digits) else None)
    return PhoneNumber(*found, readable=True) if found else PhoneNumber(spelling, None, readable=False)


def read_phone_numbers(spellings: "pd.Series[str]") -> pd.DataFrame:
    """Read a column of spellings as `read_phone_number` reads each of them.

    Mainland mobile numbers are read as a column. Of other numbers of the French plan, whose last four digits decide
    nothing, each distinct beginning is read once, and so is each distinct spelling of whatever is left.

    Returns:
        A frame with the same index and the columns `phone_number` (str) and `country` (str, nullable). Nulls stay null.
    """
    rows = spellings.astype("str").reset_index(drop=True)
    others = rows[~rows.str.fullmatch(_PLAIN)]
    numbers = compact_spellings(others).str.replace(_MOBILE_BY_ANOTHER_PREFIX, r"+33\1", regex=True)
    in_plan = numbers.str.fullmatch(_IN_PLAN)
    unread = others.mask(in_plan, numbers.str[:-4] + "0000")[~numbers.str.fullmatch(_PLAIN)]
    distinct = unread.dropna().unique()
    readings = pd.DataFrame(map(read_phone_number, distinct), distinct, PhoneNumber._fields, dtype="str")
    readings = readings.reindex(unread).set_axis(unread.index)
    numbers[unread.index] = readings["number"].mask(in_plan, readings["number"].str[:-4] + numbers.str[-4:])
    read = pd.DataFrame({"phone_number": rows, "country": pd.Series(HOME, index=rows.index, dtype="str")})
    read.loc[numbers.index, "phone_number"] = numbers
    read.loc[unread.index, "country"] = readings["country"]
    return read.set_index(spellings.index)


def find_phone_numbers(text: str) -> list[str]:
    """Every phone number in a text that need not be one number: in E.164, sorted, each once."""
    if not any(map(str.isdigit, text)):
        return []
    if (whole := read_phone_number(text)).readable:
        return [whole.number]
    lines = text[:_LONGEST_SEARCHED].splitlines()  # no number goes on in the next line, or two would make a third
    plain = _DATE.sub(";", ";".join(map(_plain, lines)))
    spelled = {found[1] for found in _PLAN_NUMBER.finditer(plain)}
    spelled |= {found[0] for found in _BARE_NUMBER.finditer(plain)}
    for match in phonenumbers.PhoneNumberMatcher(plain, HOME, leniency=phonenumbers.Leniency.VALID):
        spelled.add(phonenumbers.format_number(match.number, phonenumbers.PhoneNumberFormat.E164))
    readings = map(read_phone_number, spelled)
    return sorted({reading.number for reading in readings if reading.readable})


def find_phone_numbers_in_row(raw: str) -> list[str]:
    """Every phone number in a malformed row, given as JSON text: in E.164, sorted, each once.

    Strings, and the digits of whole numbers, are searched as `find_phone_numbers` does. Bare digits under the key `id`
    are an id, and so are those that come first in a list of three (id, number, date).
    """
    try:
        row = json.loads(raw, object_pairs_hook=tuple)  # pairs, so that no value of a repeated key is lost
        match row:
            case list([row_id, number, date]):
                row = (("id", row_id), ("", [number, date]))
        texts = list(_texts_within(row))
    except (ValueError, RecursionError):
        texts = [raw]
    return sorted({number for text in texts for number in find_phone_numbers(text)})


def compact(spelling: str) -> str:
    """The spelling without separators, its digits in ASCII, a leading 00 as a plus."""
    text = _SEPARATORS_RE.sub("", spelling)
    if not text.isascii():
        text = "".join(map(to_ascii, text))
    return f"+{text[2:]}" if text.startswith("00") else text


def compact_spellings(spellings: "pd.Series[str]") -> "pd.Series[str]":
    """`compact` of each value of a column; nulls stay null."""
    compacted = spellings.str.replace(_SEPARATORS, "", regex=True).str.replace("^00", "+", regex=True)
    other = ~compacted.str.isascii() & compacted.notna()
    compacted[other] = spellings[other].map(compact).array
    return compacted


def match_keys(phone_numbers: "pd.Series[str]") -> "pd.Series[str]":
    """Keys that are equal for two numbers, as read, if they reach the same subscriber; nulls stay null.

    Nine national digits of the French plan name one subscriber, also where E.164 keeps the code that they were written
    with (0976, 093x and 080x are valid under several). Spellings that cannot be read are equal in their compact form.
    """
    keys = phone_numbers.astype("str").reset_index(drop=True)
    other = ~keys.str.fullmatch(_PLAIN)
    keys[other] = compact_spellings(keys[other]).str.replace(_OVERSEAS_NINE_DIGITS, r"+33\1", regex=True)
    return keys.set_axis(phone_numbers.index)


def is_e164(phone_numbers: "pd.Series[str]") -> "pd.Series[bool]":
    """Which values are readable numbers in E.164 form; False for nulls."""
    candidates = phone_numbers[phone_numbers.str.fullmatch(_E164)].unique()
    return phone_numbers.isin([number for number in candidates if read_phone_number(number).readable])


def is_rounded(spellings: "pd.Series[str]") -> "pd.Series[bool]":
    """Which spellings a spreadsheet has rounded, as in “6,12E+08”: digits are missing, so they are not readable."""
    candidates = spellings[spellings.str.contains("[eE]", regex=True)].unique()
    powers = ((spelling, _WITH_EXPONENT_RE.fullmatch(_without_text_marks(spelling))) for spelling in candidates)
    return spellings.isin([spelling for spelling, power in powers if power and not _has_all_digits(power)])


def to_ascii(char: str) -> str:
    """The ASCII digit or plus that a character of any script stands for, or the character."""
    digit = unicodedata.decimal(char, None)
    return ("+" if char == "＋" else char) if digit is None else str(digit)


def mask(phone_number: str) -> str:
    """A phone number fit to be shown: “+33 6•• •• •• 12”.

    Country code, first digit and the last two; of anything that is not E.164, at most the last two characters.
    """
    if re.fullmatch(_E164, phone_number) and (parsed := _parse(phone_number)):
        prefix = f"+{parsed.country_code}"
        national = phone_number.removeprefix(prefix)
        hidden = f"{national[0]}{'•' * (len(national) - 3)}{national[-2:]}"
        if len(national) > _LEAST_MASKED:
            return " ".join((prefix, hidden[:-6], hidden[-6:-4], hidden[-4:-2], hidden[-2:]))
    tail = phone_number[-2:]
    return f"•••• {tail}" if len(phone_number) >= _LEAST_MASKED and tail.isalnum() else "••••"


def _read_plan(digits: str) -> tuple[str, str] | None:
    """A number of the French plan in E.164 and its country; None for other digits."""
    if short := _SAINT_PIERRE_SHORT_RE.fullmatch(digits):
        return f"+508{short[1]}", "PM"
    plan = _PLAN_RE.fullmatch(digits)
    if plan is None:
        return None
    national = plan["national"]
    if national.startswith("508"):
        return f"+{national}", "PM"
    code, country = _place_in_plan(national[:_DECIDING_DIGITS], int(plan["code"] or 33))
    return f"+{code}{national}", country


@cache
def _place_in_plan(first_digits: str, written: int) -> tuple[int, str]:
    """The country code that E.164 gives a number of the plan, and its country.

    The code is the only one under which the metadata call the number valid. If there is none or several, the first
    digits decide, then the overseas code that it was written with, if it is valid there.
    """
    national = f"{first_digits}0000"
    if re.fullmatch(_MAINLAND_MOBILE, national):
        return 33, HOME
    numbers = {code: phonenumbers.PhoneNumber(code, int(national)) for code in _PLAN_COUNTRIES}
    valid = [code for code, number in numbers.items() if phonenumbers.is_valid_number(number)]
    by_first_digits = [code for code, digits in _CODES_BY_FIRST_DIGITS.items() if digits.match(national)]
    code = next(iter(by_first_digits), written if written in valid else 33)
    if len(valid) == 1:
        (code,) = valid
    by_plan = "YT" if _MAYOTTE.match(national) else _PLAN_COUNTRIES[code]
    return code, phonenumbers.region_code_for_number(numbers[code]) or by_plan


@lru_cache(maxsize=100_000)  # it takes 40 µs, and a list that is read block by block repeats its foreign numbers
def _read_by_library(digits: str) -> tuple[str, str | None] | None:
    """The number in E.164 and its country if phonenumbers, in France, reads the digits as a valid number."""
    number = _parse(digits)
    if number is None:
        return None
    country = phonenumbers.region_code_for_number(number)
    if country is None or not phonenumbers.is_valid_number_for_region(number, country):
        return None
    e164: str = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    # Some numbers do not survive: “+375 8 8106…” (Belarus) loses its trunk prefix at every reading.
    if e164 != digits and _parse(e164) != number:
        return None
    return _read_plan(e164) or (e164, None if country == phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY else country)


def _parse(digits: str) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(digits, HOME)
    except phonenumbers.NumberParseException:
        return None


def _undo_spreadsheet(spelling: str) -> str:
    """The text that was in a spreadsheet's cell before it was marked as text or taken for a number."""
    text = _without_text_marks(spelling)
    if whole := _WHOLE_WITH_DECIMALS_RE.fullmatch(_BLANKS_RE.sub("", text)):
        return whole[1]
    if (power := _WITH_EXPONENT_RE.fullmatch(text)) and _has_all_digits(power):
        return f"{power['first']}{power['rest'] or ''}"
    return text


def _without_text_marks(spelling: str) -> str:
    """The spelling without the apostrophe or the formula that makes a spreadsheet keep it as text."""
    text = spelling.strip()
    marked = _FORCED_TEXT_RE.fullmatch(text)
    return text if marked is None else marked["quoted"] or marked["formula"] or ""


def _has_all_digits(power: re.Match[str]) -> bool:
    return len(power["rest"] or "") == int(power["exponent"])


def _plain(line: str) -> str:
    """The line with ASCII digits, its white space and underscores as spaces, and without invisible characters."""
    visible = (char for char in line if unicodedata.category(char) != "Cf")
    return "".join(" " if char.isspace() or char == "_" else to_ascii(char) for char in visible)


def _texts_within(value: Any, key: str = "") -> Iterator[str]:
    """The texts in a JSON value and the digits of its whole numbers, except ids. Objects are tuples of pairs."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, tuple):
        for name, inner in value:
            yield name
            yield from _texts_within(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts_within(inner, key)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        text = str(value)
        if not (key.lower() == "id" and _ID.fullmatch(text)):
            yield text
