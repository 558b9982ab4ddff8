"""An XML document with a list: what stands around its rows, and the rows themselves, piece by piece or all at once.

What belongs here: what XML must be to be an answer. What does not: in which pieces it is read (`document`, `pieces`),
and which fields of a row are usable (`rows`).

All values are entries, told apart by their place alone. Wherever a cut falls, XML's grammar keeps it right: texts that
are the content of an element each by itself are so together.
"""

import io
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from xml.parsers.expat import ErrorString

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, XMLParser

from stop_pipeline.columns import as_arrow
from stop_pipeline.envelope import Envelope, refusal, unreadable, whole_code, whole_count
from stop_pipeline.errors import redact
from stop_pipeline.pieces import HEAD_BYTES, pattern
from stop_pipeline.plain_rows import Frame, read_plain_rows
from stop_pipeline.rows import FIELDS, Batch, NotAListError, batch_of

_BEGINNING_BYTES = 4096
_CHUNK_BYTES = 1 << 20

_LIST_BEGINS = pattern(rb"<result> W (?:<entry> [^<]* </entry> W){3} <entry>")
_ENCODING = pattern(rb"<\?xml [^>]* encoding W = W [\"\'] ([^\"\']+)")

# A text that is looked for has no white space at its ends: else it and the W beside it would share it in all ways.
_BETWEEN_TEXTS = rb"(?:W \]\]>)? W </entry> W <entry> W (?:<!\[CDATA\[ W)?"
_PLAIN_ROW = pattern(
    rb"(<entry> W <entry> W (?:<!\[CDATA\[ W)?) [0-9]+"
    rb"(%b) [+-9]* (%b) [0-9-]*\ [0-9:]*"
    rb"((?:W \]\]>)? W </entry> W </entry> W) (?=<entry>)" % (_BETWEEN_TEXTS, _BETWEEN_TEXTS)
)

_ROWS_MARK = "rows"


def find_list(file: BinaryIO) -> tuple[list["TopEntry"], int, int] | None:
    """The top entries with `_ROWS_MARK` in place of the rows, and where their text begins and ends; None if unsure."""
    size = os.fstat(file.fileno()).st_size
    head = os.pread(file.fileno(), HEAD_BYTES, 0)
    begins = _LIST_BEGINS.search(head)
    if begins is None:
        return None
    encoding = _ENCODING.search(head[: begins.start()])
    if encoding and encoding[1].lower() != b"utf-8":
        return None  # a piece would be read without the declaration
    tail_at = max(begins.end(), size - HEAD_BYTES)
    tail = os.pread(file.fileno(), size - tail_at, tail_at)
    ends_at = tail.rfind(b"</entry>")
    if ends_at < 0:
        return None
    mark = f"<entry>{_ROWS_MARK}</entry>".encode()
    entries, problem = _decode(io.BytesIO(head[: begins.end()] + mark + tail[ends_at:]))
    if problem is not None or [entry.rows for entry in entries[3:4]] != [[[_ROWS_MARK]]] or entries[3].text:
        return None
    return entries, begins.end(), tail_at + ends_at


def batches(text: bytes, *, is_last: bool) -> Iterator[Batch]:  # noqa: ARG001 – nothing stands between rows
    """The rows of a piece.

    Raises:
        NotAListError: it is no content of an element by itself, or holds text beside its rows.
    """
    looks_plain = _PLAIN_ROW.search(text)
    plain = read_plain_rows(text, Frame(*looks_plain.groups())) if looks_plain else None
    odd = _odd_rows(text, plain.others if plain else [(0, len(text))])
    if odd is None and plain:
        # What looks like a plain row may lie within another row, or a comment.
        plain, odd = None, _odd_rows(text, [(0, len(text))])
    if odd is None:
        raise NotAListError
    if plain and len(plain.ids):
        yield Batch(
            as_arrow(plain.ids),
            plain.spellings,
            as_arrow(plain.created_at_local),
            ids_are_texts=True,
            mobile=plain.mobile,
        )
    if odd:
        yield batch_of(odd)


def _odd_rows(text: bytes, places: list[tuple[int, int]]) -> list[Any] | None:
    """The rows that stand in these places, plain ones between them; None if one is no list of rows by itself."""
    rows: list[Any] = []
    for start, end in places:
        part = text[start:end]
        if part.isspace():
            continue
        entries, problem = _decode(io.BytesIO(b"<result><entry>" + part + b"</entry></result>"))
        if problem is not None or len(entries) != 1 or entries[0].text:
            return None
        rows += entries[0].rows
    return rows


def read_whole(file: BinaryIO, secrets: Collection[str]) -> tuple[int | None, int | None, Batch]:
    """Code, `nbData` and all rows of a document.

    Raises:
        UnreadableAnswerError: it is no XML, or holds no list.
        ApiError: it says that there is none.
    """
    head = file.read(_BEGINNING_BYTES)
    file.seek(0)
    entries, problem = _decode(file)
    if problem is not None:
        raise unreadable("xml", problem, head, secrets)
    code, nb_data = judge(entries, head, secrets)
    return code, nb_data, batch_of(entries[3].rows)


def judge(entries: list["TopEntry"], head: bytes, secrets: Collection[str]) -> tuple[int | None, int | None]:
    """Code and `nbData` of a document that says that it is a list.

    Args:
        entries: Its top entries; what its rows are does not matter.
        head: How it begins, to be quoted in an error.
        secrets: What an error must not quote.

    Raises:
        UnreadableAnswerError: it does not say what it is, or holds no list.
        ApiError: it says that there is none.
    """
    success, code, third, data = (*entries[:4], *[_ABSENT] * (4 - len(entries[:4])))
    envelope = Envelope(
        success={"true": True, "false": False}.get(success.text),
        code=whole_code(code.text),
        message=redact(third.text, secrets),
    )
    if envelope.refused:
        raise refusal(envelope)
    if envelope.success is None:
        raise unreadable("xml", "its first entry is neither true nor false", head, secrets)
    if data is _ABSENT or data.text:
        raise unreadable("xml", "its fourth entry is not a list", head, secrets)
    return envelope.code, whole_count(third.text)


def _decode(file: BinaryIO) -> tuple[list["TopEntry"], str | None]:
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
