"""An answer's bytes → what stands around its rows, and the rows in batches of plain columns.

What belongs here: how a document is read in pieces, several at once, and when it has to be read whole. What does not:
what a document must be (`json_document`, `xml_document`), which fields of a row are usable (`rows`), and rows that
repeat or contradict each other (`snapshot`).

A list of millions of rows must not become millions of Python objects. So the text of the list is read in pieces
(`pieces`), of which the rows that are written as the provider writes them become columns (`plain_rows`); what lies
between them goes through Python's parser. A piece that is no list by itself sends the whole document to that parser,
which then tells why.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from stop_pipeline import json_document, xml_document
from stop_pipeline.model import Format
from stop_pipeline.pieces import Span
from stop_pipeline.pieces import read as read_piece
from stop_pipeline.rows import Batch, NotAListError
from stop_pipeline.threads import in_threads

_BEGINNING_BYTES = 4096
_WHITE_SPACE = b" \t\n\r"
"""That of JSON and of XML; Python takes more for white space."""

T = TypeVar("T")


class _Grammar(Protocol):
    """What a form of documents has to tell."""

    def find_list(self, file: BinaryIO) -> tuple[Any, int, int] | None:
        """What stands around the rows, and where their text begins and ends; None if unsure."""

    def judge(self, document: Any, head: bytes, secrets: Collection[str], /) -> tuple[int | None, int | None]:
        """Code and `nbData`, by what stands around the rows, unless that says that there are none."""

    def batches(self, text: bytes, *, is_last: bool) -> Iterator[Batch]:
        """The rows of a piece."""

    def read_whole(self, file: BinaryIO, secrets: Collection[str]) -> tuple[int | None, int | None, Batch]:
        """Code, `nbData` and all rows."""


_GRAMMARS: dict[Format, _Grammar] = {"json": json_document, "xml": xml_document}


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
    grammar = _GRAMMARS[answer_format]
    with path.open("rb") as file:
        reading = _read_in_pieces(grammar, file, each, pieces, secrets)
        if reading is not None:
            return reading
        code, nb_data, rows = grammar.read_whole(file, secrets)
        return Reading(code, nb_data, [each(rows)], list_at=None)


def _read_in_pieces(
    grammar: _Grammar, file: BinaryIO, each: Callable[[Batch], T], pieces: Sequence[Span], secrets: Collection[str]
) -> Reading[T] | None:
    """The document by way of its pieces; None if only the parser of whole documents can tell what it is."""
    found = grammar.find_list(file)
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
            raise NotAListError
        if within == [piece] and not text.strip(_WHITE_SPACE):
            return []
        return list(map(each, grammar.batches(text, is_last=end == list_end)))

    try:
        batches = [made for batch in in_threads(read, within) for made in batch]
    except NotAListError:
        return None
    code, nb_data = grammar.judge(around, os.pread(file.fileno(), _BEGINNING_BYTES, 0), secrets)
    return Reading(code, nb_data, batches, list_at=(list_start, list_end))
