"""XML responses: the document around the list, and the rows of the list, a block of text at a time.

All values are in `<entry>` elements and are told apart by their place alone.
"""

import re
from dataclasses import dataclass
from typing import Any
from xml.parsers.expat import ErrorString

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, XMLParser

from stop_pipeline.smspartner.envelope import Envelope, envelope_of_entries, whole_count
from stop_pipeline.smspartner.rows import FIELDS, Rows, check_rows

LIST_BEGINS = re.compile(rb"<result>\s*(?:<entry>[^<]*</entry>\s*){3}<entry>")
LIST_ENDS = b"</entry>"
SEPARATOR = b""
NOT_SUCCESS = "its first entry is neither true nor false"
NOT_A_LIST = "its fourth entry is not a list"

_FEED_BYTES = 1 << 20
_ROW_ENDS = re.compile(rb"</entry>\s*</entry>")
_MARKER = "rows"
_ENCODING = re.compile(rb"<\?xml[^>]*encoding\s*=\s*[\"']([^\"']+)")
_ROOT_DEPTH, _TOP_DEPTH, _ROW_DEPTH = 0, 1, 2


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
    ends = [match.end() for match in _ROW_ENDS.finditer(text)]
    return (ends[-1], ends[-1]) if ends else None


def read_block(block: bytes) -> Rows | None:
    """The rows of a block of the list's text; None if the block is not the content of an element by itself."""
    entries, problem = decode_whole(b"<result><entry>" + block + b"</entry></result>")
    if problem is not None or len(entries) != 1 or entries[0].text:
        return None
    return check_rows(entries[0].rows)


def decode_whole(body: bytes) -> tuple[list[TopEntry], str | None]:
    """The entries below the root, and what is wrong with the document, if anything."""
    entries = _Entries()
    parser = XMLParser(target=entries, forbid_dtd=True)
    try:
        for start in range(0, len(body), _FEED_BYTES):
            parser.feed(body[start : start + _FEED_BYTES])
        parser.close()
    except ParseError as error:
        return [], f"{ErrorString(error.code)} at line {error.position[0]:,}"
    except DefusedXmlException:
        return [], "it declares a document type, which may hide entities"
    except (LookupError, ValueError):
        return [], "its encoding is unknown"
    return entries.top, None if entries.root == "result" else "its root is not <result>"


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


class _Entries:
    """Builds the top entries while the XML streams by; an open element is its own text, in parts, and its children."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.top: list[TopEntry] = []
        self._open: list[tuple[list[str], list[Any]]] = []

    def start(self, tag: str, _attributes: dict[str, str], /) -> None:
        if not self._open:
            self.root = tag
        self._open.append(([], []))

    def data(self, text: str, /) -> None:
        # Between rows there is white space only, a string for each: it is not kept.
        if len(self._open) > _ROW_DEPTH or not text.isspace():
            self._open[-1][0].append(text)

    def end(self, tag: str, /) -> None:
        parts, children = self._open.pop()
        text = "".join(parts).strip()
        depth = len(self._open)
        if depth == _ROOT_DEPTH:
            return
        if depth == _TOP_DEPTH:
            if tag == "entry":
                self.top.append(TopEntry(text, children))
            return
        value: Any
        if depth == _ROW_DEPTH and len(children) == len(FIELDS) and not text:
            value = dict(zip(FIELDS, children, strict=True))
        elif depth == _ROW_DEPTH or children:
            value = [*children, text] if text else children
        else:
            value = text
        self._open[-1][1].append(value)

    def close(self) -> None:
        """Called at the end of the document."""
