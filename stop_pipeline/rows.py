"""Rows of a document, as its parser gives them → batches of plain columns.

What belongs here: which fields of a row are usable, and how a row that is not is kept. What does not: where a document
has its rows (`document`, `json_document`, `xml_document`), and rows that repeat or contradict each other (`snapshot`).
Everything is pure.
"""

import json
import re
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa

from stop_pipeline.columns import as_arrow, as_numpy, strings
from stop_pipeline.errors import UnreadableAnswerError
from stop_pipeline.model import BAD_CREATED_AT, BAD_ID, BAD_PHONE_NUMBER, NOT_AN_OBJECT
from stop_pipeline.phones import read_phone_number
from stop_pipeline.wall_clocks import FORM, read_wall_clocks

FIELDS = ("id", "phoneNumber", "createdAt")
"""Of a row; in XML, in this order."""

MAX_ID = 2**63 - 1

_CANONICAL_DIGITS = re.compile(r"[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class Malformed:
    """A row to set aside: its JSON text, why, and the spelling of the number that it bears, if any."""

    raw: str
    reason: str
    spelling: str | None


@dataclass(frozen=True)
class Batch:
    """Some rows of an answer, in no order: columns of equal length of those with usable fields, and all others.

    Attributes:
        ids: int64, from 1.
        spellings: Phone numbers as spelled (string), without white space around them.
        created_at_local: `createdAt`, a real time from 2000 on (`schema.WALL_CLOCK`).
        malformed: The rows without a usable `id`, phone number or `createdAt`.
        extra_fields: Names of row fields that are not documented.
        objects: The rows of the columns as Python objects; None where the columns tell all that was written.
        ids_are_texts: Whether the ids of rows without objects were written as texts, as in XML.
        mobile: How many rows, from the first, are known to bear a French mobile number as `phones` keeps it.
    """

    ids: pa.Array
    spellings: pa.Array
    created_at_local: pa.Array
    malformed: tuple[Malformed, ...] = ()
    extra_fields: frozenset[str] = field(default=frozenset())
    objects: tuple[Any, ...] | None = None
    ids_are_texts: bool = False
    mobile: int = 0

    @property
    def rows(self) -> int:
        """How many rows of the answer these are."""
        return len(self.ids) + len(self.malformed)

    def raw(self, position: int) -> str:
        """A row of the columns as JSON text, the same for rows that differ only in the order of their fields."""
        if self.objects is not None:
            return _raw(self.objects[position])
        row_id, spelling, time = (
            column[position].as_py() for column in (self.ids, self.spellings, self.created_at_local)
        )
        written = str(row_id) if self.ids_are_texts else row_id
        return _raw(dict(zip(FIELDS, (written, spelling, time.strftime(FORM)), strict=True)))


@dataclass(frozen=True)
class NumberText:
    """A JSON number that Python cannot hold, as written."""

    text: str


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=lambda number: number.text)
"""All ASCII, so that half of a surrogate pair can be written; a `NumberText` becomes a string."""


def batch_of(rows: list[Any]) -> Batch:
    """Rows as Python objects, as a batch."""
    ids: list[int] = []
    spellings: list[str] = []
    created_at: list[str] = []
    objects: list[Any] = []
    malformed: list[Malformed] = []
    extra_fields: set[str] = set()
    known_fields = set(FIELDS)
    for row in rows:
        if type(row) is not dict:
            malformed.append(Malformed(_raw(row), NOT_AN_OBJECT, _spelling_within(row)))
            continue
        row_id = _usable_id(row.get("id"))
        phone_number = row.get("phoneNumber")
        spelling = _usable_spelling(phone_number)
        wall_clock = row.get("createdAt")
        if row.keys() != known_fields:
            extra_fields.update(row.keys() - known_fields)
        if row_id is None:
            malformed.append(Malformed(_raw(row), BAD_ID, spelling or _digits_of(phone_number)))
        elif spelling is None:
            malformed.append(Malformed(_raw(row), BAD_PHONE_NUMBER, _digits_of(phone_number)))
        elif type(wall_clock) is not str or not wall_clock.isascii():
            malformed.append(Malformed(_raw(row), BAD_CREATED_AT, spelling))
        else:
            ids.append(row_id)
            spellings.append(spelling)
            created_at.append(wall_clock)
            objects.append(row)
    created_at_local = read_wall_clocks(strings(created_at))
    misdated = np.flatnonzero(as_numpy(created_at_local.is_null()))
    malformed += [Malformed(_raw(objects[place]), BAD_CREATED_AT, spellings[place]) for place in misdated]
    usable = created_at_local.is_valid()
    return Batch(
        as_arrow(np.array(ids, np.int64)).filter(usable),
        strings(spellings).filter(usable),
        created_at_local.filter(usable),
        tuple(malformed),
        frozenset(extra_fields),
        tuple(compress(objects, usable.to_pylist())),
    )


def _usable_id(value: Any) -> int | None:
    """A whole number from 1 to 2⁶³−1, or a string of its digits."""
    if type(value) is str and _CANONICAL_DIGITS.fullmatch(value):
        value = int(value)
    return value if type(value) is int and 0 < value <= MAX_ID else None


def _usable_spelling(value: Any) -> str | None:
    """A string that is not blank and that a file can hold (half of a surrogate pair cannot be written)."""
    if type(value) is not str:
        return None
    spelling = value.strip()
    return spelling if spelling and (spelling.isascii() or _is_unicode(spelling)) else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digits_of(phone_number: Any) -> str | None:
    """The spelling that a number written as a JSON integer bears; the row stays malformed."""
    return str(phone_number) if type(phone_number) is int and phone_number > 0 else None


def _spelling_within(row: Any) -> str | None:
    """The first text in a row that is no object, if any, that is surely a phone number: no bare id, no date."""
    for value in row if type(row) is list else [row]:
        spelling = _usable_spelling(value)
        if spelling and spelling[0] in "+0" and read_phone_number(spelling)[1]:
            return spelling
    return None


def _raw(row: Any) -> str:
    """The row as JSON text, the same for rows that differ only in the order of their fields."""
    try:
        return _ENCODER.encode(row)
    except RecursionError:
        pass
    raise UnreadableAnswerError(
        "SMS Partner's answer holds a row that is nested too deeply; a later tick may find none in it."
    )
