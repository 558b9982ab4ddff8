"""What a JSON document must be to be an answer: what stands around its rows, and the rows themselves.

What belongs here: JSON, a document whole or a part of its list; `document.Grammar` tells what each piece is for. What
does not: how a document is read in parts (`document`), and which fields of a row are usable (`rows`).

Wherever a cut falls, JSON's grammar keeps it right: texts that are lists of values each by itself are, with commas
between, the list that they were cut from.
"""

import json
import math
from typing import Any, BinaryIO

from stop_pipeline.envelope import Envelope, whole_code, whole_count
from stop_pipeline.pieces import Span, pattern
from stop_pipeline.rows import NumberText

_WHITE_SPACE = b" \t\n\r"
"""JSON's; Python takes more for white space."""

LIST_BEGINS = pattern(rb'"data" W : W \[')
LIST_ENDS = b"]"
PLAIN_ROW = pattern(
    rb'(\{ W "id" W : W) [0-9]+ (W , W "phoneNumber" W : W ") [^"]* (" W , W "createdAt" W : W ") [^"]*'
    rb'(" W \} W , W) (?=\{)'
)
IDS_ARE_TEXTS = False
NOT_SUCCESS, NOT_A_LIST = "its “success” is neither true nor false", "its “data” is not a list"

_ROWS_MARK = "rows"


def decode_around(before: bytes, after: bytes) -> dict[str, Any] | None:
    """The document with one value in place of its rows; None if that value is not where the rows are."""
    around = before + json.dumps(_ROWS_MARK).encode() + after
    # Without a backslash in it, the one "data" there is a key or a value of the document; and only as the key of the
    # list at its top does it bring the mark there.
    if b"\\" in around or around.count(b'"data"') != 1:
        return None
    try:
        document = _decode_json(around)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return None
    return document if isinstance(document, dict) and document.get("data") == [_ROWS_MARK] else None


def decode_rows(text: bytes, places: list[Span], *, is_last: bool) -> list[Any] | None:
    """The rows that stand in these places of a piece, plain ones between them; None if one is no list by itself.

    A comma comes after the rows of a piece, unless it is the last.
    """
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


def decode_whole(file: BinaryIO) -> tuple[Any, str | None]:
    """The document, and what is wrong with it, if anything."""
    body = file.read()
    try:
        document = _decode_json(body)
    except UnicodeDecodeError as error:
        return None, f"it is not UTF-8 at byte {error.start:,} of {len(body):,}"
    except json.JSONDecodeError as error:
        if body.strip()[:1] == b"{" and body.strip()[-1:] != b"}":
            return None, f"it is cut after {len(error.doc):,} characters"
        return None, f"{error.msg} at character {error.pos:,} of {len(error.doc):,}"
    except RecursionError:
        return None, "it is nested too deeply"
    return document, None if isinstance(document, dict) else "it is not an object"


def envelope_of(document: dict[str, Any]) -> Envelope:
    """What it says of itself."""
    success, message = document.get("success"), document.get("message")
    return Envelope(
        success=success if isinstance(success, bool) else None,
        code=whole_code(document.get("code")),
        message=message if isinstance(message, str) else None,
    )


def count_of(document: dict[str, Any]) -> int | None:
    """Its `nbData`."""
    return whole_count(document.get("nbData"))


def rows_of(document: dict[str, Any]) -> list[Any] | None:
    """Its rows; None if it has no list."""
    rows = document.get("data")
    return rows if isinstance(rows, list) else None


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
