"""XML responses: the document around the list, and the rows of the list, a block of text at a time.

All values are in `<entry>` elements and are told apart by their place alone.
"""

import re
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, ParseError
from xml.parsers.expat import ErrorString

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from stop_pipeline.smspartner.envelope import Envelope, envelope_of_entries, whole_count
from stop_pipeline.smspartner.rows import FIELDS, Rows, check_rows

LIST_BEGINS = re.compile(rb"<result>\s*(?:<entry>[^<]*</entry>\s*){3}<entry>")
LIST_ENDS = b"</entry>"
SEPARATOR = b""
NOT_SUCCESS = "its first entry is neither true nor false"
NOT_A_LIST = "its fourth entry is not a list"

_UNTIL_LAST_ROW = re.compile(rb".*</entry>\s*</entry>", re.DOTALL)
_MARKER = "rows"
_ENCODING = re.compile(rb"<\?xml[^>]*encoding\s*=\s*[\"']([^\"']+)")


@dataclass(frozen=True)
class TopEntry:
    """An entry right below the root: its own text, stripped, and what is inside it, as rows."""

    text: str
    rows: list[Any]


_ABSENT = TopEntry("", [])


def decode_around(before: bytes, after: bytes) -> list[TopEntry] | None:
    """The top entries with a marker in place of the rows; None if the marker is not where the rows are."""
    encoding = _ENCODING.search(before)
    if encoding and encoding[1].lower() != b"utf-8":
        return None  # a block would be read without the declaration
    entries, problem = decode_whole(before + f"<entry>{_MARKER}</entry>".encode() + after)
    return entries if problem is None and rows_of(entries) == [[_MARKER]] else None


def last_cut(text: bytes) -> tuple[int, int] | None:
    """Where the last row that ends in a text ends, which is where the next one begins; None if none is seen to end."""
    found = _UNTIL_LAST_ROW.match(text)
    return (found.end(), found.end()) if found else None


def read_block(block: bytes) -> Rows | None:
    """The rows of a block of the list's text; None if the block is not the content of an element by itself."""
    entries, problem = decode_whole(b"<result><entry>" + block + b"</entry></result>")
    if problem is not None or len(entries) != 1 or entries[0].text:
        return None
    return check_rows(entries[0].rows)


def decode_whole(body: bytes) -> tuple[list[TopEntry], str | None]:
    """The entries below the root, and what is wrong with the document, if anything."""
    try:
        root = fromstring(body.lstrip(), forbid_dtd=True)  # a blank line of PHP's may come first
        top = [TopEntry(_text(entry), [_row(row) for row in entry]) for entry in root if entry.tag == "entry"]
    except ParseError as error:
        return [], f"{ErrorString(error.code)} at line {error.position[0]:,}"
    except DefusedXmlException:
        return [], "it declares a document type, which may hide entities"
    except RecursionError:
        return [], "it is nested too deeply"
    except (LookupError, ValueError):
        return [], "its encoding is unknown"
    return top, None if root.tag == "result" else "its root is not <result>"


def envelope_of(entries: list[TopEntry]) -> Envelope:
    """What the document says about itself."""
    return envelope_of_entries([entry.text for entry in entries])


def count_of(entries: list[TopEntry]) -> int | None:
    """The number of rows that the document announces."""
    return whole_count(_entry(entries, 2).text)


def rows_of(entries: list[TopEntry]) -> list[Any] | None:
    """The rows of the document; None if it has no list."""
    data = _entry(entries, 3)
    return None if data is _ABSENT or data.text else data.rows


def _entry(entries: list[TopEntry], place: int) -> TopEntry:
    return entries[place] if place < len(entries) else _ABSENT


def _row(element: Element) -> Any:
    """A row: its fields by name, or whatever is in it."""
    value = _value(element)
    if isinstance(value, list) and len(value) == len(FIELDS) == len(element):
        return dict(zip(FIELDS, value, strict=True))
    return value if isinstance(value, list) else [value] if value else []


def _value(element: Element) -> Any:
    """The text of an element, or the values of its elements, and its own text, if any, after them."""
    values, text = [_value(inner) for inner in element], _text(element)
    return [*values, text] if values and text else values or text


def _text(element: Element) -> str:
    """The text right inside an element, without white space around it."""
    return "".join([element.text or "", *(inner.tail or "" for inner in element)]).strip()
