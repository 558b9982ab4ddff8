"""JSON responses: the document around the list, and the rows of the list, a block of text at a time."""

import json
import math
import re
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.json

from stop_pipeline.schema import RAW_STOP_LIST
from stop_pipeline.smspartner.envelope import Document, envelope_of_object, whole_count
from stop_pipeline.smspartner.rows import NumberText, Rows, check_rows

LIST_BEGINS = re.compile(rb'"data"[ \t\n\r]*:[ \t\n\r]*\[')
LIST_ENDS = b"]"
SEPARATOR = b","

_ROW_OPTIONS = pyarrow.json.ParseOptions(explicit_schema=RAW_STOP_LIST.arrow, unexpected_field_behavior="error")
_MALFORMED_DOCUMENT = (UnicodeDecodeError, json.JSONDecodeError, RecursionError)


class RepeatedKeys(list[list[Any]]):
    """An object that repeats a key, as its keys and values: as a `dict` it would lose some."""


def read_around(before: bytes, after: bytes) -> Document | None:
    """The document with a marker in place of its rows; None if the marker is not where the rows are."""
    around = before + b'"rows"' + after
    # Without a backslash, the only "data" is either a key or a value; and only as the key of the list at the top does
    # it lead to the marker.
    if b"\\" in around or around.count(b'"data"') != 1:
        return None
    document = read_document(around)
    return document if document.rows == ["rows"] else None


def last_cut(text: bytes) -> int:
    """Where the last row ends that is seen to end in a text, with a separator after it; 0 if none is."""
    return text.rfind(b"},") + 1


def read_block(block: bytes) -> Rows | None:
    """The rows of a block of the list's text; None if the block is not a list of rows by itself.

    The text may have been cut at any comma: if each block is a list by itself, then together they are the list.
    """
    plain = _read_plain(block)
    if plain is not None:
        return Rows(plain)
    try:
        rows = _loads(b"[" + block + b"]")
    except _MALFORMED_DOCUMENT:
        return None
    return check_rows(rows) if rows else None


def _read_plain(block: bytes) -> pd.DataFrame | None:
    """The rows of a block, if each has just the documented fields in the documented types; read by Arrow."""
    lines = _row_lines(block)
    if lines is None:
        return None
    try:
        table = pyarrow.json.read_json(pa.BufferReader(lines), parse_options=_ROW_OPTIONS).combine_chunks()
    except pa.ArrowInvalid:
        return None
    if table.num_rows != lines.count(b"\n") + 1 or any(column.null_count for column in table.columns):
        return None
    frame: pd.DataFrame = table.to_pandas().set_axis(["id", "spelling", "created_at_text"], axis=1)
    spelling = frame["spelling"]
    # White space around a number is not part of it, but it is part of the row as JSON text.
    if (frame["id"] < 1).any() or (spelling == "").any() or (spelling != spelling.str.strip()).any():
        return None
    return frame.assign(raw=pd.Series(None, index=frame.index, dtype="str"))


def _row_lines(block: bytes) -> bytes | None:
    """The rows of a block, one a line; None if Arrow must not read them.

    Arrow's reader crashes on a leading null row and takes rows without a comma between them. So it gets only blocks
    that are ASCII without a backslash and have as many opening and closing braces as rows, and must find these rows.
    """
    if not block.isascii() or b"\\" in block or b"\n" in block:
        return None
    lines = block.replace(b"}, {", b"}\n {").replace(b"},{", b"}\n{")
    one_object_a_row = block.count(b"{") == block.count(b"}") == lines.count(b"\n") + 1
    return lines if block[:1] == b"{" and block[-1:] == b"}" and one_object_a_row else None


def read_document(body: bytes) -> Document:
    """The whole document, or why it is not a list."""
    try:
        document = _loads(body)
    except UnicodeDecodeError as error:
        problem = f"it is not UTF-8 at byte {error.start:,} of {len(body):,}"
    except json.JSONDecodeError as error:
        problem = _problem(error, body)
    except RecursionError:
        problem = "it is nested too deeply"
    else:
        match document:
            case RepeatedKeys():
                problem = "it repeats a key"
            case {"data": RepeatedKeys()}:
                problem = "its “data” repeats a key, so that rows would be lost"
            case dict():
                return _document(document)
            case _:
                problem = "it is not an object"
    return Document(problem=problem)


def _problem(error: json.JSONDecodeError, body: bytes) -> str:
    if error.msg == "Extra data":
        return f"other text follows the document after {error.pos:,} characters"
    if body.strip()[:1] == b"{" and body.strip()[-1:] != b"}":
        return f"it is cut off after {len(error.doc):,} characters"
    return f"{error.msg} at character {error.pos:,} of {len(error.doc):,}"


def _document(document: dict[str, Any]) -> Document:
    """PHP writes an array with gaps as an object with whole numbers as keys, and an empty one in several ways."""
    envelope, nb_data, data = envelope_of_object(document), whole_count(document.get("nbData")), document.get("data")
    if isinstance(data, dict) and data and all(re.fullmatch("0|[1-9][0-9]{0,18}", key) for key in data):
        data = list(data.values())
    elif "data" in document and data in ({}, None, "") and nb_data == 0:
        data = []
    if envelope.success is None:
        return Document(envelope, problem="its “success” is neither true nor false")
    if not isinstance(data, list):
        return Document(envelope, problem="its “data” is not a list")
    return Document(envelope, nb_data, data)


def _loads(body: bytes) -> Any:
    """A JSON value, which a byte order mark may precede.

    An object that repeats a key becomes its `RepeatedKeys`, and a number that Python cannot hold a `NumberText`.
    """
    text = body.decode("utf-8-sig")

    def refuse(name: str) -> None:
        raise json.JSONDecodeError(f"{name} is not JSON", text, 0)

    return json.loads(text, object_pairs_hook=_object, parse_constant=refuse, parse_float=_float, parse_int=_int)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | RepeatedKeys:
    found = dict(pairs)
    return found if len(found) == len(pairs) else RepeatedKeys(map(list, pairs))


def _float(text: str) -> float | NumberText:
    number = float(text)
    return number if math.isfinite(number) else NumberText(text)


def _int(text: str) -> int | NumberText:
    try:
        return int(text)
    except ValueError:  # it has more digits than Python converts
        return NumberText(text)
