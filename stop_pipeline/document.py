"""An answer's bytes → what stands around its rows, and the rows in batches of plain columns.

What belongs here: how a document is read in pieces, several at once, and when it has to be read whole. What does not:
what a document must be (`json_document`, `xml_document`), which fields of a row are usable (`rows`), and rows that
repeat or contradict each other (`snapshot`).

A list of millions of rows must not become millions of Python objects. So the text of the list is read in pieces
(`pieces`), of which the rows that are written as the provider writes them become columns (`plain_rows`); what lies
between them goes through Python's parser. A piece that is no list by itself sends the whole document to that parser,
which then tells why.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from stop_pipeline import json_document, xml_document
from stop_pipeline.columns import as_arrow
from stop_pipeline.envelope import Envelope, refusal
from stop_pipeline.errors import UnreadableAnswerError, excerpt, redact
from stop_pipeline.model import Format
from stop_pipeline.pieces import HEAD_BYTES, Span
from stop_pipeline.pieces import read as read_piece
from stop_pipeline.plain_rows import Frame, read_plain_rows
from stop_pipeline.rows import Batch, batch_of
from stop_pipeline.threads import in_threads

_BEGINNING_BYTES = 4096
_WHITE_SPACE = b" \t\n\r"
"""That of JSON and of XML; Python takes more for white space."""

T = TypeVar("T")


class Grammar(Protocol):
    """What a form of documents, JSON or XML, has to tell."""

    LIST_BEGINS: re.Pattern[bytes]
    """How the text before the first row ends."""

    LIST_ENDS: bytes
    """How the text after the last row begins."""

    PLAIN_ROW: re.Pattern[bytes]
    """A row as the provider writes it, the four parts of its frame as groups (`plain_rows.Frame`)."""

    IDS_ARE_TEXTS: bool
    """Whether the id of a row is a text."""

    NOT_SUCCESS: str
    """What is wrong with a document that does not say whether it is a success."""

    NOT_A_LIST: str
    """What is wrong with a document that has no list."""

    def decode_around(self, before: bytes, after: bytes) -> Any | None:
        """The document, given without the text of its rows; None if that was not its list."""

    def decode_rows(self, text: bytes, places: list[Span], *, is_last: bool) -> list[Any] | None:
        """The rows in these places of a piece, plain ones between them; None if one is no list of rows by itself."""

    def decode_whole(self, file: BinaryIO) -> tuple[Any, str | None]:
        """The document, and what is wrong with it, if anything."""

    def envelope_of(self, document: Any, /) -> Envelope:
        """What a document says of itself."""

    def count_of(self, document: Any, /) -> int | None:
        """How many rows it says that it has."""

    def rows_of(self, document: Any, /) -> list[Any] | None:
        """Its rows; None if it has no list."""


_GRAMMARS: dict[Format, Grammar] = {"json": json_document, "xml": xml_document}


class _NotAListError(Exception):
    """A piece of a list is no list of rows by itself."""


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
    with path.open("rb") as file:
        return _read_in_pieces(file, answer_format, each, pieces, secrets) or _read_whole(
            file, answer_format, each, secrets
        )


def _read_in_pieces(
    file: BinaryIO, form: Format, each: Callable[[Batch], T], pieces: Sequence[Span], secrets: Collection[str]
) -> Reading[T] | None:
    """The document by way of its pieces; None if only the parser of whole documents can tell what it is."""
    grammar = _GRAMMARS[form]
    found = _find_list(file, grammar)
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
        return list(map(each, _batches(text, grammar, is_last=end == list_end)))

    try:
        batches = [made for batch in in_threads(read, within) for made in batch]
    except _NotAListError:
        return None
    code, nb_data = _judge(around, file, form, secrets)
    return Reading(code, nb_data, batches, list_at=(list_start, list_end))


def _read_whole(file: BinaryIO, form: Format, each: Callable[[Batch], T], secrets: Collection[str]) -> Reading[T]:
    grammar = _GRAMMARS[form]
    document, problem = grammar.decode_whole(file)
    if problem is not None:
        raise _unreadable(file, form, problem, secrets)
    code, nb_data = _judge(document, file, form, secrets)
    return Reading(code, nb_data, [each(batch_of(grammar.rows_of(document) or []))], list_at=None)


def _find_list(file: BinaryIO, grammar: Grammar) -> tuple[Any, int, int] | None:
    """The document without its rows, and where their text begins and ends; None if unsure."""
    size = os.fstat(file.fileno()).st_size
    head = os.pread(file.fileno(), HEAD_BYTES, 0)
    begins = grammar.LIST_BEGINS.search(head)
    if begins is None:
        return None
    tail_at = max(begins.end(), size - HEAD_BYTES)
    tail = os.pread(file.fileno(), size - tail_at, tail_at)
    ends_at = tail.rfind(grammar.LIST_ENDS)
    if ends_at < 0:
        return None
    around = grammar.decode_around(head[: begins.end()], tail[ends_at:])
    return None if around is None else (around, begins.end(), tail_at + ends_at)


def _batches(text: bytes, grammar: Grammar, *, is_last: bool) -> Iterator[Batch]:
    """The rows of a piece.

    Raises:
        _NotAListError: it is no list of rows by itself.
    """
    looks_plain = grammar.PLAIN_ROW.search(text)
    plain = read_plain_rows(text, Frame(*looks_plain.groups())) if looks_plain else None
    odd = grammar.decode_rows(text, plain.others if plain else [(0, len(text))], is_last=is_last)
    if odd is None and plain:
        # What looks like a plain row may lie within another row, or a comment.
        plain, odd = None, grammar.decode_rows(text, [(0, len(text))], is_last=is_last)
    if odd is None:
        raise _NotAListError
    if plain and len(plain.ids):
        yield Batch(
            as_arrow(plain.ids),
            plain.spellings,
            as_arrow(plain.created_at_local),
            ids_are_texts=grammar.IDS_ARE_TEXTS,
            mobile=plain.mobile,
        )
    if odd:
        yield batch_of(odd)


def _judge(document: Any, file: BinaryIO, form: Format, secrets: Collection[str]) -> tuple[int | None, int | None]:
    """Code and `nbData` of a document that says that it is a list."""
    grammar = _GRAMMARS[form]
    envelope = grammar.envelope_of(document)
    if envelope.refused:
        message = envelope.message and redact(envelope.message, secrets)
        raise refusal(dataclasses.replace(envelope, message=message))
    if envelope.success is None:
        raise _unreadable(file, form, grammar.NOT_SUCCESS, secrets)
    if grammar.rows_of(document) is None:
        raise _unreadable(file, form, grammar.NOT_A_LIST, secrets)
    return envelope.code, grammar.count_of(document)


def _unreadable(file: BinaryIO, form: Format, problem: str, secrets: Collection[str]) -> UnreadableAnswerError:
    head = os.pread(file.fileno(), _BEGINNING_BYTES, 0)
    # Struck out before the text is cut: half a key would not be found any more.
    begins = excerpt(redact(head.decode("utf-8", "replace"), secrets))
    return UnreadableAnswerError(
        f"SMS Partner's answer is no list of stops in {form.upper()}: {problem} "
        f"({f'it begins “{begins}”' if begins else 'it is blank'}); a later tick may find a whole one."
    )
