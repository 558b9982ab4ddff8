"""Phone numbers inside longer texts and in malformed rows, where a spelling need not be one number.

Adding a number to the suppression list is always safe, so a mobile number of the French plan counts wherever its digits
stand, and so does any number of the plan after its country code. Of other numbers, those count that the phonenumbers
library finds and calls valid. Dates and times do not count.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import phonenumbers

from stop_pipeline.phone_numbers import HOME, read_phone_number, to_ascii

_BETWEEN_DIGITS = r"(?:[ .\-()]{0,2}|/)"  # wider, it would join two numbers into a third
_PLAN_CODE = rf"(?:33|262|508|590|594|596)(?:{_BETWEEN_DIGITS}0){{0,2}}{_BETWEEN_DIGITS}"
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


def find_phone_numbers(text: str) -> list[str]:
    """Every phone number in a text that need not be one number: in E.164, sorted, each once."""
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


def _plain(line: str) -> str:
    """The line with ASCII digits, its white space and underscores as spaces, and without invisible characters."""
    visible = (char for char in line if unicodedata.category(char) != "Cf")
    return "".join(" " if char.isspace() or char == "_" else to_ascii(char) for char in visible)


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
