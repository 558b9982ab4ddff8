"""What an XML document must be to be an answer: what stands around its rows, and the rows themselves.

What belongs here: XML, a document whole or a part of its list; `document.Grammar` tells what each piece is for. What
does not: how a document is read in parts (`document`), and which fields of a row are usable (`rows`).

All values are entries, told apart by their place alone. Wherever a cut falls, XML's grammar keeps it right: texts that
are the content of an element each by itself are so together.
"""

import io
from dataclasses import dataclass
from typing import Any, BinaryIO
from xml.parsers.expat import ErrorString

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, XMLParser

from stop_pipeline.envelope import Envelope, whole_code, whole_count
from stop_pipeline.pieces import Span, pattern
from stop_pipeline.rows import FIELDS

_CHUNK_BYTES = 1 << 20

LIST_BEGINS = pattern(rb"<result> W (?:<entry> [^<]* </entry> W){3} <entry>")
LIST_ENDS = b"</entry>"
_ENCODING = pattern(rb"<\?xml [^>]* encoding W = W [\"\'] ([^\"\']+)")

# A text that is looked for has no white space at its ends: else it and the W beside it would share it in all ways.
_BETWEEN_TEXTS = rb"(?:W \]\]>)? W </entry> W <entry> W (?:<!\[CDATA\[ W)?"
PLAIN_ROW = pattern(
    rb"(<entry> W <entry> W (?:<!\[CDATA\[ W)?) [0-9]+"
    rb"(%b) [+-9]* (%b) [0-9-]*\ [0-9:]*"
    rb"((?:W \]\]>)? W </entry> W </entry> W) (?=<entry>)" % (_BETWEEN_TEXTS, _BETWEEN_TEXTS)
)
IDS_ARE_TEXTS = True
NOT_SUCCESS, NOT_A_LIST = "its first entry is neither true nor false", "its fourth entry is not a list"

_ROWS_MARK = "rows"


def decode_around(before: bytes, after: bytes) -> list["TopEntry"] | None:
    """The top entries with one value in place of the rows; None if that value is not where the rows are."""
    encoding = _ENCODING.search(before)
    if encoding and encoding[1].lower() != b"utf-8":
        return None  # a piece would be read without the declaration
    entries, problem = decode_whole(io.BytesIO(before + f"<entry>{_ROWS_MARK}</entry>".encode() + after))
    return entries if problem is None and rows_of(entries) == [[_ROWS_MARK]] else None


def decode_rows(text: bytes, places: list[Span], *, is_last: bool) -> list[Any] | None:  # noqa: ARG001 – nothing stands between rows
    """The rows that stand in these places of a piece, plain ones between them; None if one is no list by itself."""
    rows: list[Any] = []
    for start, end in places:
        part = text[start:end]
        if part.isspace():
            continue
        entries, problem = decode_whole(io.BytesIO(b"<result><entry>" + part + b"</entry></result>"))
        if problem is not None or len(entries) != 1 or entries[0].text:
            return None
        rows += entries[0].rows
    return rows


def decode_whole(file: BinaryIO) -> tuple[list["TopEntry"], str | None]:
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


def envelope_of(entries: list["TopEntry"]) -> Envelope:
    """What it says of itself, by position: success, code, then a message, where a list has its `nbData`."""
    success, code, third = (_entry(entries, place).text for place in range(3))
    return Envelope({"true": True, "false": False}.get(success), whole_code(code), third)


def count_of(entries: list["TopEntry"]) -> int | None:
    """Its `nbData`."""
    return whole_count(_entry(entries, 2).text)


def rows_of(entries: list["TopEntry"]) -> list[Any] | None:
    """Its rows; None if it has no list."""
    data = _entry(entries, 3)
    return None if data is _ABSENT or data.text else data.rows


def _entry(entries: list["TopEntry"], place: int) -> "TopEntry":
    return entries[place] if place < len(entries) else _ABSENT


@dataclass(frozen=True)
class TopEntry:
    """An entry right below the root: its own text, stripped, and what is inside it as rows."""

    text: str
    rows: list[Any]


_ABSENT = TopEntry("", [])


class _Entries:
    """Builds the top entries while the XML streams by; an open element is its own text, in pieces, and its children."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.top: list[TopEntry] = []
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
                self.top.append(TopEntry(text, children))
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
