"""An answer's bytes → what stands around its rows, and the rows in batches of plain columns.

What belongs here: what a JSON or XML document with a list must be, and which fields of a row are usable. What does not:
rows that repeat or contradict each other (`snapshot`); what a code means (`envelope`).

A list of millions of rows must not become millions of Python objects. So the text of the list is read in pieces
(`pieces`), of which the rows that are written as the provider writes them become columns (`plain_rows`); what lies
between them goes through Python's parser. Wherever a cut falls, JSON's grammar keeps it right: texts that are lists of
values each by itself are, with commas between, the list that they were cut from. A piece that is no such list sends the
whole document to Python's parser, which then tells why.
"""

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar
from xml.parsers.expat import ErrorString

import numpy as np
import pyarrow as pa
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, XMLParser

from stop_pipeline.columns import as_arrow, as_numpy, strings
from stop_pipeline.envelope import Envelope, refusal
from stop_pipeline.errors import UnreadableAnswerError, excerpt, redact
from stop_pipeline.model import BAD_CREATED_AT, BAD_ID, BAD_PHONE_NUMBER, NOT_AN_OBJECT, Format
from stop_pipeline.phones import read_phone_number
from stop_pipeline.pieces import HEAD_BYTES, Span, json_pattern
from stop_pipeline.pieces import read as read_piece
from stop_pipeline.plain_rows import Frame, read_plain_rows
from stop_pipeline.threads import in_threads
from stop_pipeline.wall_clocks import FORM, read_wall_clocks

FIELDS = ("id", "phoneNumber", "createdAt")
"""Of a row; in XML, in this order."""

MAX_ID = 2**63 - 1

_CANONICAL_DIGITS = re.compile(r"[1-9][0-9]{0,18}")
_MAX_CODE_DIGITS = 6
_MAX_COUNT_DIGITS = 18
_BEGINNING_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_WHITE_SPACE = b" \t\n\r"
"""JSON's; Python takes more for white space."""


_LIST_BEGINS = json_pattern(rb'"data" W : W \[')
_PLAIN_ROW = json_pattern(
    rb'(\{ W "id" W : W) [0-9]+ (W , W "phoneNumber" W : W ") [^"]* (" W , W "createdAt" W : W ") [^"]*'
    rb'(" W \} W , W) (?=\{)'
)

_ROWS_MARK = "rows"

T = TypeVar("T")


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
        mobile: How many rows, from the first, are known to bear a French mobile number as `phones` keeps it.
    """

    ids: pa.Array
    spellings: pa.Array
    created_at_local: pa.Array
    malformed: tuple[Malformed, ...] = ()
    extra_fields: frozenset[str] = field(default=frozenset())
    objects: tuple[Any, ...] | None = None
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
        return _raw(dict(zip(FIELDS, (row_id, spelling, time.strftime(FORM)), strict=True)))


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What an answer with a list holds.

    Attributes:
        code: None if it gives none.
        nb_data: None if it gives none.
        batches: What became of each batch.
        list_at: Where its list begins and ends, if each piece of it proved to be a list by itself; None if not: then
            the rows of all the document are given, whatever pieces were asked for.
    """

    code: int | None
    nb_data: int | None
    batches: list[T]
    list_at: Span | None


@dataclass(frozen=True)
class _Literal:
    """A JSON number that Python cannot hold, as written."""

    text: str


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=lambda literal: literal.text)
"""All ASCII, so that half of a surrogate pair can be written; a `_Literal` becomes a string."""


class _NotAListError(Exception):
    """A piece of the list is no list of values by itself."""


def read_document(
    path: Path,
    answer_format: Format,
    each: Callable[[Batch], T],
    *,
    pieces: Sequence[Span],
    secrets: Collection[str] = (),
) -> Reading[T]:
    """Read a document and give its rows, batch by batch, to `each`, which several threads may call.

    Args:
        path: The answer's body, as received.
        answer_format: What was asked for, `json` or `xml`.
        each: What to make of a batch. A document that proves unreadable late is given up, and with it what was made.
        pieces: Which of its pieces (`pieces.cut`) to read, in order: all that do not lie wholly within its list.
        secrets: What an error must not quote, such as the API key: a web page may echo the address it was asked for.

    Raises:
        UnreadableAnswerError: the document is cut, or no such document, or holds no list; never an empty list instead.
        ApiError: the document says that there is no list, by `success` or by a known code of error (`refusal`).
    """
    if answer_format == "xml":
        return _read_xml(path, each, secrets)
    with path.open("rb") as file:
        return _read_json_in_pieces(file, each, pieces, secrets) or _read_whole_json(file, each, secrets)


# JSON, piece by piece.


def _read_json_in_pieces(
    file: BinaryIO, each: Callable[[Batch], T], pieces: Sequence[Span], secrets: Collection[str]
) -> Reading[T] | None:
    """The document by way of its pieces; None if only the parser of whole documents can tell what it is."""
    found = _find_list(file)
    if found is None:
        return None
    around, list_start, list_end = found
    size = os.fstat(file.fileno()).st_size
    ends, starts = [0, *(end for _, end in pieces)], [*(start for start, _ in pieces), size]
    left_out = [(end, start) for end, start in zip(ends, starts, strict=True) if end != start]
    if not all(list_start <= start < end < list_end for start, end in left_out):
        return None
    within = [(max(start, list_start), min(end, list_end)) for start, end in pieces]
    within = [(start, end) for start, end in within if start < end] or [(list_start, list_end)]

    def read(piece: Span) -> list[T]:
        start, end = piece
        text = read_piece(file, piece)
        if len(text) < end - start:
            raise _NotAListError
        if within == [piece] and not text.strip(_WHITE_SPACE):
            return []
        return list(map(each, _batches(text, is_last=end == list_end)))

    try:
        batches = [made for batch in in_threads(read, within) for made in batch]
    except _NotAListError:
        return None
    code, nb_data = _judge_json(around, os.pread(file.fileno(), _BEGINNING_BYTES, 0), secrets)
    return Reading(code, nb_data, batches, list_at=(list_start, list_end))


def _find_list(file: BinaryIO) -> tuple[dict[str, Any], int, int] | None:
    """The document with `_ROWS_MARK` in place of its rows, and where their text begins and ends; None if unsure."""
    size = os.fstat(file.fileno()).st_size
    head = os.pread(file.fileno(), HEAD_BYTES, 0)
    begins = _LIST_BEGINS.search(head)
    if begins is None:
        return None
    tail_at = max(begins.end(), size - HEAD_BYTES)
    tail = os.pread(file.fileno(), size - tail_at, tail_at)
    ends_at = tail.rfind(b"]")
    around = head[: begins.end()] + json.dumps(_ROWS_MARK).encode() + tail[ends_at:]
    # Without a backslash in it, the one "data" there is a key or a value of the document; and only as the key of the
    # list at its top does it bring the mark there.
    if ends_at < 0 or b"\\" in around or around.count(b'"data"') != 1:
        return None
    try:
        document = _decode_json(around)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("data") != [_ROWS_MARK]:
        return None
    return document, begins.end(), tail_at + ends_at


def _batches(text: bytes, *, is_last: bool) -> Iterator[Batch]:
    """The rows of a piece; a comma comes after them in the piece, unless it is the last.

    Raises:
        _NotAListError: it is no list of values by itself.
    """
    looks_plain = _PLAIN_ROW.search(text)
    plain = read_plain_rows(text, Frame(*looks_plain.groups())) if looks_plain else None
    odd = _odd_rows(text, plain.others if plain else [(0, len(text))], is_last=is_last)
    if odd is None and plain:
        # What looks like a plain row may lie within another row.
        plain, odd = None, _odd_rows(text, [(0, len(text))], is_last=is_last)
    if odd is None:
        raise _NotAListError
    if plain and len(plain.ids):
        yield Batch(as_arrow(plain.ids), plain.spellings, as_arrow(plain.created_at_local), mobile=plain.mobile)
    if odd:
        yield _batch(odd)


def _odd_rows(text: bytes, places: list[tuple[int, int]], *, is_last: bool) -> list[Any] | None:
    """The rows that stand in these places, plain ones between them; None if one is no list of values by itself."""
    if is_last and (not places or places[-1][1] < len(text)):
        return None  # it ends with a plain row, after which a comma comes
    rows: list[Any] = []
    for start, end in places:
        part = text[start:end].strip(_WHITE_SPACE)
        if not part and start == 0 and end < len(text):
            continue
        if not (is_last and end == len(text)):
            if not part.endswith(b","):
                return None
            part = part[:-1]
        try:
            found = _decode_json(b"[" + part + b"]")
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            return None
        if not found:
            return None
        rows += found
    return rows


# JSON, whole.


def _read_whole_json(file: BinaryIO, each: Callable[[Batch], T], secrets: Collection[str]) -> Reading[T]:
    body = file.read()
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
        raise _unreadable("json", problem, body[:_BEGINNING_BYTES], secrets)
    code, nb_data = _judge_json(document, body[:_BEGINNING_BYTES], secrets)
    return Reading(code, nb_data, [each(_batch(document["data"]))], list_at=None)


def _judge_json(document: dict[str, Any], head: bytes, secrets: Collection[str]) -> tuple[int | None, int | None]:
    """Code and `nbData` of a document that says that it is a list."""
    success, message = document.get("success"), document.get("message")
    envelope = Envelope(
        success=success if isinstance(success, bool) else None,
        code=_whole_number(document.get("code"), _MAX_CODE_DIGITS),
        message=redact(message, secrets) if isinstance(message, str) else None,
    )
    if envelope.refused:
        raise refusal(envelope)
    if envelope.success is None:
        raise _unreadable("json", "its “success” is neither true nor false", head, secrets)
    if not isinstance(document.get("data"), list):
        raise _unreadable("json", "its “data” is not a list", head, secrets)
    return envelope.code, _whole_number(document.get("nbData"), _MAX_COUNT_DIGITS)


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


# XML.


def _read_xml(path: Path, each: Callable[[Batch], T], secrets: Collection[str]) -> Reading[T]:
    with path.open("rb") as file:
        head = file.read(_BEGINNING_BYTES)
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
    nb_data = _whole_number(third.text, _MAX_COUNT_DIGITS)
    return Reading(envelope.code, nb_data, [each(_batch(data.rows))], list_at=None)


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


# Rows become plain columns.


def _batch(rows: list[Any]) -> Batch:
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
