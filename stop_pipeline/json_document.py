"""A JSON document with a list: what stands around its rows, and the rows themselves, piece by piece or all at once.

What belongs here: what JSON must be to be an answer. What does not: in which pieces it is read (`document`, `pieces`),
and which fields of a row are usable (`rows`).

Wherever a cut falls, JSON's grammar keeps it right: texts that are lists of values each by itself are, with commas
between, the list that they were cut from.
"""

import json
import math
import os
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from stop_pipeline.columns import as_arrow
from stop_pipeline.envelope import Envelope, refusal, unreadable, whole_code, whole_count
from stop_pipeline.errors import redact
from stop_pipeline.pieces import HEAD_BYTES, pattern
from stop_pipeline.plain_rows import Frame, read_plain_rows
from stop_pipeline.rows import Batch, NotAListError, NumberText, batch_of

_BEGINNING_BYTES = 4096
_WHITE_SPACE = b" \t\n\r"
"""JSON's; Python takes more for white space."""

_LIST_BEGINS = pattern(rb'"data" W : W \[')
_PLAIN_ROW = pattern(
    rb'(\{ W "id" W : W) [0-9]+ (W , W "phoneNumber" W : W ") [^"]* (" W , W "createdAt" W : W ") [^"]*'
    rb'(" W \} W , W) (?=\{)'
)

_ROWS_MARK = "rows"


def find_list(file: BinaryIO) -> tuple[dict[str, Any], int, int] | None:
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


def batches(text: bytes, *, is_last: bool) -> Iterator[Batch]:
    """The rows of a piece; a comma comes after them in the piece, unless it is the last.

    Raises:
        NotAListError: it is no list of values by itself.
    """
    looks_plain = _PLAIN_ROW.search(text)
    plain = read_plain_rows(text, Frame(*looks_plain.groups())) if looks_plain else None
    odd = _odd_rows(text, plain.others if plain else [(0, len(text))], is_last=is_last)
    if odd is None and plain:
        # What looks like a plain row may lie within another row.
        plain, odd = None, _odd_rows(text, [(0, len(text))], is_last=is_last)
    if odd is None:
        raise NotAListError
    if plain and len(plain.ids):
        yield Batch(as_arrow(plain.ids), plain.spellings, as_arrow(plain.created_at_local), mobile=plain.mobile)
    if odd:
        yield batch_of(odd)


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


def read_whole(file: BinaryIO, secrets: Collection[str]) -> tuple[int | None, int | None, Batch]:
    """Code, `nbData` and all rows of a document.

    Raises:
        UnreadableAnswerError: it is no JSON, or holds no list.
        ApiError: it says that there is none.
    """
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
        raise unreadable("json", problem, body[:_BEGINNING_BYTES], secrets)
    code, nb_data = judge(document, body[:_BEGINNING_BYTES], secrets)
    return code, nb_data, batch_of(document["data"])


def judge(document: dict[str, Any], head: bytes, secrets: Collection[str]) -> tuple[int | None, int | None]:
    """Code and `nbData` of a document that says that it is a list.

    Args:
        document: The document; what its rows are does not matter.
        head: How it begins, to be quoted in an error.
        secrets: What an error must not quote.

    Raises:
        UnreadableAnswerError: it does not say what it is, or holds no list.
        ApiError: it says that there is none.
    """
    success, message = document.get("success"), document.get("message")
    envelope = Envelope(
        success=success if isinstance(success, bool) else None,
        code=whole_code(document.get("code")),
        message=redact(message, secrets) if isinstance(message, str) else None,
    )
    if envelope.refused:
        raise refusal(envelope)
    if envelope.success is None:
        raise unreadable("json", "its “success” is neither true nor false", head, secrets)
    if not isinstance(document.get("data"), list):
        raise unreadable("json", "its “data” is not a list", head, secrets)
    return envelope.code, whole_count(document.get("nbData"))


def _decode_json(body: bytes) -> Any:
    """The document, which a byte order mark may precede; a number that Python cannot hold comes as a `NumberText`."""
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


def _float(text: str) -> float | NumberText:
    number = float(text)
    return number if math.isfinite(number) else NumberText(text)


def _int(text: str) -> int | NumberText:
    try:
        return int(text)
    except ValueError:
        return NumberText(text)
