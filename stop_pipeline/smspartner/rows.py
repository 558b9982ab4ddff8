"""Rows as a JSON or XML parser gives them: which fields are usable, and what is kept of a malformed row."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from stop_pipeline.errors import UnreadableResponseError
from stop_pipeline.phone_numbers import read_phone_number
from stop_pipeline.schema import BAD_CREATED_AT, BAD_ID, BAD_PHONE_NUMBER, NOT_AN_OBJECT, RAW_STOP_LIST, REJECTED_ROWS

FIELDS = RAW_STOP_LIST.names
"""Fields of a row; in XML, in this order."""

MAX_ID = 2**63 - 1

_CANONICAL_DIGITS = re.compile(r"[1-9][0-9]{0,18}")


class NumberText(str):
    """A JSON number that Python cannot hold, as written; as JSON text it becomes a string."""

    __slots__ = ()


@dataclass(frozen=True)
class Rows:
    """Some rows of a response."""

    usable: pd.DataFrame  # `id` (int64, from 1), `spelling` and `created_at_text` (str), and `raw` (str): the row as
    # JSON text, null where it follows from the other three
    # The rows without a usable `id` or phone number (`schema.REJECTED_ROWS`), the number as spelled.
    malformed: pd.DataFrame = field(default_factory=lambda: REJECTED_ROWS.empty)
    extra_fields: frozenset[str] = field(default=frozenset())  # names of undocumented fields


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
"""All ASCII, so that half of a surrogate pair can be written."""


def raw_text(row: Any) -> str:
    """A row as JSON text, the same for rows that differ only in the order of their fields.

    Raises:
        UnreadableResponseError: it is nested too deeply.
    """
    try:
        return _ENCODER.encode(row)
    except RecursionError:
        pass
    raise UnreadableResponseError(
        "SMS Partner's response contains a row that is nested too deeply. Nothing was changed; a later sync may "
        "succeed."
    )


def check_rows(rows: Iterable[Any]) -> Rows:
    """Separate rows with a usable `id`, phone number and text in `createdAt` from malformed ones.

    White space around a phone number is not part of it: the documented XML has some around every text.

    Raises:
        UnreadableResponseError: a malformed row is nested too deeply to be kept.
    """
    usable: list[tuple[int, str, str, str]] = []
    malformed: list[tuple[str, str, str | None]] = []
    extra_fields: set[str] = set()
    for row in rows:
        raw = raw_text(row)
        if type(row) is not dict:
            malformed.append((raw, NOT_AN_OBJECT, _spelling_within(row)))
            continue
        extra_fields.update(row.keys() - set(FIELDS))
        row_id, phone_number, created_at = (row.get(name) for name in FIELDS)
        number, spelling = usable_id(row_id), usable_spelling(phone_number)
        digits = str(phone_number) if type(phone_number) is int and phone_number > 0 else None  # it stays malformed
        if number is None:
            malformed.append((raw, BAD_ID, spelling or digits))
        elif spelling is None:
            malformed.append((raw, BAD_PHONE_NUMBER, digits))
        elif not isinstance(created_at, str) or usable_spelling(created_at) is None:
            malformed.append((raw, BAD_CREATED_AT, spelling))
        else:
            usable.append((number, spelling, created_at, raw))
    dtypes = {"id": "int64", "spelling": "str", "created_at_text": "str", "raw": "str"}
    rejected = pd.DataFrame(malformed, columns=list(REJECTED_ROWS.names), dtype="str")
    return Rows(pd.DataFrame(usable, columns=list(dtypes)).astype(dtypes), rejected, frozenset(extra_fields))


def raw_of_fields(row_id: int, spelling: str, created_at_text: str) -> str:
    """The JSON text of a row that has just the documented fields."""
    return raw_text(dict(zip(FIELDS, (row_id, spelling, created_at_text), strict=True)))


def usable_id(value: Any) -> int | None:
    """A whole number from 1 to 2⁶³−1, or a string of its digits; None for anything else."""
    if type(value) is str and _CANONICAL_DIGITS.fullmatch(value):
        value = int(value)
    return value if type(value) is int and 0 < value <= MAX_ID else None


def usable_spelling(value: Any) -> str | None:
    """A string that is not blank and that a file can hold, without white space around it; None for anything else."""
    if type(value) is not str:
        return None
    spelling = value.strip()
    try:
        spelling.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return spelling or None


def _spelling_within(row: Any) -> str | None:
    """The first text of a row that is not an object, if any, that is certainly a phone number: no id, no date."""
    for value in row if type(row) is list else [row]:
        spelling = usable_spelling(value)
        if spelling and spelling[0] in "+0" and read_phone_number(spelling).country:
            return spelling
    return None
