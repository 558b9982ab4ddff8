"""One answer's bytes → typed rows and malformed rows.

What belongs here: what a document, an `id` and a `createdAt` must be, and what becomes of rows that repeat or
contradict each other. What does not: how a phone number is read (`phones`), what a code means (`envelope`), and what
changed since the last answer (`merge`). Everything is pure: the file given is all that is read.

Three steps: a document becomes its rows (JSON or XML); rows become plain columns, and those that cannot are set aside;
columns become typed in Arrow. The outcome does not depend on the order of the rows.
"""

import json
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers.expat import ErrorString

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, XMLParser
from numpy.typing import NDArray

from stop_pipeline.envelope import Envelope, refusal
from stop_pipeline.errors import UnreadableAnswerError, excerpt, redact
from stop_pipeline.model import (
    BAD_CREATED_AT,
    BAD_ID,
    BAD_PHONE_NUMBER,
    CONFLICTING_ID,
    NOT_AN_OBJECT,
    REASONS,
    Format,
    Snapshot,
)
from stop_pipeline.phones import read_phone_number, read_phone_numbers
from stop_pipeline.schema import LISTED, REJECTED_ROWS, UTC_TIME, WALL_CLOCK

FIELDS = ("id", "phoneNumber", "createdAt")
"""Of a row; in XML, in this order."""

EARLIEST_CREATED_AT = datetime(2000, 1, 1)  # noqa: DTZ001 – a wall clock
LATEST_AHEAD = timedelta(days=2)
"""How far after the fetch a `createdAt` may lie: room for a wrong clock or zone, not for a wrong year."""

MAX_ID = 2**63 - 1
MAX_EXTRA_FIELDS = 20
MAX_EXTRA_FIELD_LENGTH = 40

_CREATED_AT_FORM = "%Y-%m-%d %H:%M:%S"
_CANONICAL_DIGITS = re.compile(r"[1-9][0-9]{0,18}")
_MAX_CODE_DIGITS = 6
_MAX_COUNT_DIGITS = 18
_HEAD_BYTES = 4096
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class _Document:
    """What an answer with a list holds: JSON values, XML rows having become such."""

    code: int | None
    nb_data: int | None
    rows: list[Any]


@dataclass(frozen=True)
class _Malformed:
    """A row to set aside: its JSON text, why, and the spelling of the number that it bears, if any."""

    raw: str
    reason: str
    spelling: str | None


@dataclass(frozen=True)
class _Columns:
    """The rows whose fields have usable types, as columns of equal length, and all others."""

    ids: list[int]
    spellings: list[str]
    created_at: list[str]
    rows: list[Any]
    malformed: list[_Malformed]
    extra_fields: set[str]


@dataclass(frozen=True)
class _Literal:
    """A JSON number that Python cannot hold, as written."""

    text: str


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=lambda literal: literal.text)
"""All ASCII, so that half of a surrogate pair can be written; a `_Literal` becomes a string."""


def parse(
    path: Path, answer_format: Format, *, fetched_at: datetime, timezone: str, secrets: Collection[str] = ()
) -> Snapshot:
    """The rows of one answer, typed, good and malformed ones apart.

    White space around a phone number is not part of it (the documented XML has some around every text).

    Args:
        path: The answer's body, as received.
        answer_format: What was asked for, `json` or `xml`.
        fetched_at: When it was fetched; a `createdAt` well after that is no usable one.
        timezone: IANA name of the zone that `createdAt` is read in; an hour that happens twice means the earlier
            instant, one that never happens the next valid instant.
        secrets: What an error must not quote, such as the API key: a web page may echo the address it was asked for.

    Raises:
        UnreadableAnswerError: the document is cut, or no such document, or holds no list; never an empty list instead.
        ApiError: the document says that there is no list, by `success` or by a known code of error (`refusal`).
    """
    document = _read_xml(path, secrets) if answer_format == "xml" else _read_json(path, secrets)
    columns = _columns(document.rows)
    typed = _typed(columns, timezone)
    usable = _dated(typed, fetched_at)
    misdated = _set_aside(typed.filter(pc.invert(usable)), BAD_CREATED_AT, columns.rows)
    kept, conflicting = _one_row_per_id(typed.filter(usable), columns.rows)
    rejected = _rejected([*columns.malformed, *misdated, *conflicting])
    listed = kept.select(LISTED.names).sort_by([("created_at_local", "ascending"), ("id", "ascending")])
    return Snapshot(
        listed=listed.cast(LISTED.arrow),
        rejected=rejected,
        rows=len(document.rows),
        duplicates=len(document.rows) - listed.num_rows - rejected.num_rows,
        code=document.code,
        nb_data=document.nb_data,
        extra_fields=_shown(columns.extra_fields),
    )


# Step 1: a document becomes its rows.


def _read_json(path: Path, secrets: Collection[str]) -> _Document:
    body = path.read_bytes()
    document: Any = None
    problem = None
    try:
        document = _decode_json(body)
    except UnicodeDecodeError as error:
        problem = f"it is not UTF-8 at byte {error.start:,} of {len(body):,}"
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at character {error.pos:,} of {len(error.doc):,}"
        if body.strip()[:1] == b"{" and body.strip()[-1:] != b"}":
            problem = f"it is cut after {len(error.doc):,} characters"
    except RecursionError:
        problem = "it is nested too deeply"
    if problem is None and not isinstance(document, dict):
        problem = "it is not an object"
    if problem is not None:  # raised out here: the decoder's errors hold the whole document
        raise _unreadable("json", problem, body[:_HEAD_BYTES], secrets)

    success, message = document.get("success"), document.get("message")
    envelope = Envelope(
        success=success if isinstance(success, bool) else None,
        code=_whole_number(document.get("code"), _MAX_CODE_DIGITS),
        message=redact(message, secrets) if isinstance(message, str) else None,
    )
    if envelope.refused:
        raise refusal(envelope)
    if envelope.success is None:
        raise _unreadable("json", "its “success” is neither true nor false", body[:_HEAD_BYTES], secrets)
    rows = document.get("data")
    if not isinstance(rows, list):
        raise _unreadable("json", "its “data” is not a list", body[:_HEAD_BYTES], secrets)
    return _Document(envelope.code, _whole_number(document.get("nbData"), _MAX_COUNT_DIGITS), rows)


def _decode_json(body: bytes) -> Any:
    """The document, which a byte order mark may precede; a number that Python cannot hold comes as a `_Literal`."""
    text = body.decode("utf-8-sig")

    def refuse_constant(name: str) -> None:
        raise json.JSONDecodeError(f"{name} is not JSON", text, 0)

    try:
        return json.loads(text, parse_constant=refuse_constant, parse_float=_float)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than Python converts; `parse_int` would slow down every answer
        pass
    return json.loads(text, parse_constant=refuse_constant, parse_float=_float, parse_int=_int)


def _float(text: str) -> float | _Literal:
    number = float(text)
    return number if math.isfinite(number) else _Literal(text)


def _int(text: str) -> int | _Literal:
    try:
        return int(text)
    except ValueError:
        return _Literal(text)


def _read_xml(path: Path, secrets: Collection[str]) -> _Document:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
        entries, problem = _decode_xml(file)
    if problem is not None:
        raise _unreadable("xml", problem, head, secrets)

    success, code, third, data = (*entries[:4], *[_ABSENT] * (4 - len(entries[:4])))
    envelope = Envelope(
        success={"true": True, "false": False}.get(success.text),
        code=_whole_number(code.text, _MAX_CODE_DIGITS),
        message=redact(third.text, secrets),
    )
    if envelope.refused:
        raise refusal(envelope)
    if envelope.success is None:
        raise _unreadable("xml", "its first entry is neither true nor false", head, secrets)
    if data is _ABSENT or data.text:
        raise _unreadable("xml", "its fourth entry is not a list", head, secrets)
    return _Document(envelope.code, _whole_number(third.text, _MAX_COUNT_DIGITS), data.rows)


def _decode_xml(file: BinaryIO) -> tuple[list["_TopEntry"], str | None]:
    """The entries below the root, and what is wrong with the document, if anything."""
    entries = _Entries()
    parser = XMLParser(target=entries, forbid_dtd=True)
    try:
        while chunk := file.read(_CHUNK_BYTES):
            parser.feed(chunk)
        parser.close()
    except ParseError as error:
        return [], f"{ErrorString(error.code)} at line {error.position[0]:,}"
    except DefusedXmlException:
        return [], "it declares a document type, which may hide entities"
    except (LookupError, ValueError):
        return [], "its encoding is unknown"
    return entries.top, None if entries.root == "result" else "its root is not <result>"


@dataclass(frozen=True)
class _TopEntry:
    """An entry right below the root: its own text, stripped, and what is inside it as rows."""

    text: str
    rows: list[Any]


_ABSENT = _TopEntry("", [])


class _Entries:
    """Builds the top entries while the XML streams by; an open element is its own text, in pieces, and its children."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.top: list[_TopEntry] = []
        self._open: list[tuple[list[str], list[Any]]] = []

    def start(self, tag: str, _attributes: dict[str, str], /) -> None:
        if not self._open:
            self.root = tag
        self._open.append(([], []))

    def data(self, text: str, /) -> None:
        # Between rows there is white space only, a string for each: not kept.
        if len(self._open) > 2 or not text.isspace():  # noqa: PLR2004 – root and top entry
            self._open[-1][0].append(text)

    def end(self, tag: str, /) -> None:
        pieces, children = self._open.pop()
        text = "".join(pieces).strip()
        depth = len(self._open)
        if depth == 0:
            return
        if depth == 1:
            if tag == "entry":
                self.top.append(_TopEntry(text, children))
            return
        value: Any
        if depth == 2 and len(children) == len(FIELDS) and not text:  # noqa: PLR2004 – below a top entry: a row
            value = dict(zip(FIELDS, children, strict=True))
        elif depth == 2 or children:  # noqa: PLR2004
            value = [*children, text] if text else children
        else:
            value = text
        self._open[-1][1].append(value)

    def close(self) -> None:
        """Called at the end of the document."""


def _whole_number(value: Any, max_digits: int) -> int | None:
    """A number around the rows, or a string of its digits; None for anything else and for what is absurdly long."""
    digits = str(value) if type(value) is int else value
    if isinstance(digits, str) and digits.isascii() and digits.isdigit() and len(digits) <= max_digits:
        return int(digits)
    return None


def _unreadable(answer_format: Format, problem: str, head: bytes, secrets: Collection[str]) -> UnreadableAnswerError:
    # Struck out before the text is cut: half a key would not be found any more.
    begins = excerpt(redact(head.decode("utf-8", "replace"), secrets))
    return UnreadableAnswerError(
        f"SMS Partner's answer is no list of stops in {answer_format.upper()}: {problem} "
        f"({f'it begins “{begins}”' if begins else 'it is blank'}); a later tick may find a whole one."
    )


# Step 2: rows become plain columns.


def _columns(rows: list[Any]) -> _Columns:
    ids: list[int] = []
    spellings: list[str] = []
    created_at: list[str] = []
    plain_rows: list[Any] = []
    malformed: list[_Malformed] = []
    extra_fields: set[str] = set()
    known_fields = set(FIELDS)
    for row in rows:
        if type(row) is not dict:
            malformed.append(_Malformed(_raw(row), NOT_AN_OBJECT, _spelling_within(row)))
            continue
        row_id = _usable_id(row.get("id"))
        phone_number = row.get("phoneNumber")
        spelling = _usable_spelling(phone_number)
        wall_clock = row.get("createdAt")
        if row.keys() != known_fields:
            extra_fields.update(row.keys() - known_fields)
        if row_id is None:
            malformed.append(_Malformed(_raw(row), BAD_ID, spelling or _digits_of(phone_number)))
        elif spelling is None:
            malformed.append(_Malformed(_raw(row), BAD_PHONE_NUMBER, _digits_of(phone_number)))
        elif type(wall_clock) is not str or not wall_clock.isascii():
            malformed.append(_Malformed(_raw(row), BAD_CREATED_AT, spelling))
        else:
            ids.append(row_id)
            spellings.append(spelling)
            created_at.append(wall_clock)
            plain_rows.append(row)
    return _Columns(ids, spellings, created_at, plain_rows, malformed, extra_fields)


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


def _shown(extra_fields: Iterable[str]) -> tuple[str, ...]:
    names = {excerpt(name)[:MAX_EXTRA_FIELD_LENGTH] for name in extra_fields}
    return tuple(sorted(names)[:MAX_EXTRA_FIELDS])


# Step 3: columns become typed.


def _typed(columns: _Columns, timezone: str) -> pa.Table:
    """`LISTED`, both times null where `createdAt` is no such date; with it `spelling`, and the `row` it comes from."""
    spellings = pa.array(columns.spellings, pa.string())
    phone_numbers, countries = read_phone_numbers(spellings)
    wall_clocks = _wall_clocks(pa.array(columns.created_at, pa.string()))
    instants = pc.assume_timezone(wall_clocks, timezone, ambiguous="earliest", nonexistent="latest")
    return pa.table(
        {
            "id": pa.array(columns.ids, pa.int64()),
            "phone_number": phone_numbers,
            "country": countries,
            "created_at": instants.cast(UTC_TIME),
            "created_at_local": wall_clocks,
            "spelling": spellings,
            "row": pa.array(np.arange(len(columns.rows))),
        }
    )


def _wall_clocks(created_at: pa.Array) -> pa.Array:
    """The times that these strings write in exactly the provider's form, null for others.

    `strptime` takes 30 February for 1 March and skips what it cannot use, so a time must survive being formatted back.
    """
    moments = pc.strptime(created_at, format=_CREATED_AT_FORM, unit="s", error_is_null=True)
    survives = pc.equal(moments.cast(pa.string()), created_at)
    recent = pc.greater_equal(moments, pa.scalar(EARLIEST_CREATED_AT, pa.timestamp("s")))
    return pc.if_else(pc.and_(survives, recent), moments, None).cast(WALL_CLOCK)


def _dated(typed: pa.Table, fetched_at: datetime) -> pa.ChunkedArray:
    """Whether each row has a usable `createdAt`."""
    latest = pa.scalar(fetched_at.astimezone(UTC) + LATEST_AHEAD, UTC_TIME)
    return pc.less_equal(typed["created_at"], latest).fill_null(False)  # noqa: FBT003 – Arrow takes it by position


def _one_row_per_id(typed: pa.Table, rows: list[Any]) -> tuple[pa.Table, list[_Malformed]]:
    """Of each id the row with the smallest (`createdAt`, phone number); the others that differ from it, as malformed.

    Equal rows collapse into one; where it is a malformed one, into that with the smallest raw text.
    """
    ordered = typed.sort_by([(name, "ascending") for name in ("id", "created_at_local", "phone_number")])
    same_id = _repeats(ordered["id"])
    same_row = same_id & _repeats(ordered["created_at_local"]) & _repeats(ordered["phone_number"])
    if not same_id.any():
        return ordered, []
    run = np.cumsum(~same_row) - 1
    conflicts = np.flatnonzero(same_id[~same_row][run])
    smallest: dict[int, _Malformed] = {}
    for number, row in zip(
        run[conflicts].tolist(), _set_aside(ordered.take(conflicts), CONFLICTING_ID, rows), strict=True
    ):
        if number not in smallest or row.raw < smallest[number].raw:
            smallest[number] = row
    return ordered.filter(~same_id), list(smallest.values())


def _repeats(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Whether each value equals the one before it."""
    repeats = np.zeros(len(column), dtype=np.bool_)
    repeats[1:] = np.asarray(pc.equal(column.slice(1), column.slice(0, len(column) - 1)))
    return repeats


def _set_aside(typed: pa.Table, reason: str, rows: list[Any]) -> list[_Malformed]:
    return [
        _Malformed(_raw(rows[position]), reason, spelling)
        for position, spelling in zip(typed["row"].to_pylist(), typed["spelling"].to_pylist(), strict=True)
    ]


def _raw(row: Any) -> str:
    """The row as JSON text, the same for rows that differ only in the order of their fields."""
    try:
        return _ENCODER.encode(row)
    except RecursionError:
        pass
    raise UnreadableAnswerError(
        "SMS Partner's answer holds a row that is nested too deeply; a later tick may find none in it."
    )


def _rejected(malformed: Iterable[_Malformed]) -> pa.Table:
    """`REJECTED_ROWS`: each raw text once, sorted by it."""
    by_raw: dict[str, _Malformed] = {}
    for row in sorted(malformed, key=lambda row: (REASONS.index(row.reason), row.spelling is None, row.spelling or "")):
        by_raw.setdefault(row.raw, row)
    rows = [by_raw[raw] for raw in sorted(by_raw)]
    phone_numbers, _ = read_phone_numbers(pa.array([row.spelling for row in rows], pa.string()))
    return pa.table(
        [
            pa.array([row.raw for row in rows], pa.string()),
            pa.array([row.reason for row in rows], pa.string()),
            phone_numbers,
        ],
        schema=REJECTED_ROWS.arrow,
    )
