"""The document around a list: is it one, and where is the text of its rows?

A document is judged by its two ends, so that a large list need not be read for that. If they do not show where the list
is, the whole document is parsed.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stop_pipeline.errors import UnreadableResponseError, excerpt
from stop_pipeline.smspartner import json_rows, xml_rows
from stop_pipeline.smspartner.envelope import Document, refusal
from stop_pipeline.smspartner.rows import Rows

_END_BYTES = 64 * 1024
_BLOCK_BYTES = 16_000_000
_COPY_BYTES = 1 << 20
_BEGINNING_BYTES = 4096
_WHITE_SPACE = b" \t\n\r"
"""That of JSON and XML; Python calls more characters white space."""


class FormatModule(Protocol):
    """What reads one format: a module that has these names."""

    LIST_BEGINS: re.Pattern[bytes]  # at the beginning of a document, up to its first row
    LIST_ENDS: bytes  # the last such bytes of a document come right after its last row
    SEPARATOR: bytes  # between two rows, but for white space; so it cannot be white space itself

    def read_around(self, before: bytes, after: bytes) -> Document | None:
        """The document with a marker in place of its rows; None if the marker is not where the rows are."""

    def last_cut(self, text: bytes) -> int:
        """Where the last row ends that is seen to end in a text; 0 if none is."""

    def read_block(self, block: bytes) -> Rows | None:
        """The rows of a block of the list's text; None if the block is not a list of rows by itself."""

    def read_document(self, body: bytes) -> Document:
        """The whole document, or why it is not a list."""


MODULES: dict[str, FormatModule] = {"json": json_rows, "xml": xml_rows}
"""What reads each format of `settings.Format`."""


@dataclass(frozen=True)
class ListDocument:
    """What surrounds the rows of a response."""

    path: Path  # the body, uncompressed
    format: str  # “json” or “xml”
    code: int | None  # the provider's; None if the response has none
    nb_data: int | None  # rows that it announces; None if it has no number
    span: tuple[int, int] | None  # the bytes of its rows, without white space around them; None if that was not seen


def open_list(path: Path, response_format: str, *, secrets: Collection[str] | None = None) -> ListDocument:
    """Judge a response by what surrounds its rows.

    Args:
        path: The body, uncompressed.
        response_format: “json” or “xml”.
        secrets: What an error must not quote, such as the API key: a web page may echo the address that was requested.
            By default they are not known, and an error quotes nothing.

    Raises:
        UnreadableResponseError: it is cut off, or not a list; an unreadable response is never taken for an empty list.
        ApiError: it says that there is no list.
    """
    document, span = _find_list(path, MODULES[response_format]) or (_load(path, response_format, secrets), None)
    return ListDocument(path, response_format, document.envelope.code, document.nb_data, span)


def load_rows(document: ListDocument) -> list[Any]:
    """All rows of a response, as its parser gives them. Errors are those of `open_list`, but quote nothing."""
    return _load(document.path, document.format, None).rows or []


def text_sha256(document: ListDocument, span: tuple[int, int]) -> str:
    """SHA-256 of a part of a response's text."""
    digest = hashlib.sha256()
    with document.path.open("rb") as file:
        file.seek(span[0])
        for start in range(*span, _COPY_BYTES):
            digest.update(file.read(min(_COPY_BYTES, span[1] - start)))
    return digest.hexdigest()


def appended_span(document: ListDocument, *, size: int, sha256: str) -> tuple[int, int] | None:
    """The span of the rows that a list has before or after the text of an earlier list, of that size and SHA-256.

    None if that text is not there unchanged, or there are no such rows, too many, or not separated as rows are.
    """
    if document.span is None:
        return None
    separator = MODULES[document.format].SEPARATOR
    start, end = document.span
    for earlier, first, last in (((end - size, end), start, end - size), ((start, start + size), start + size, end)):
        if not 0 < last - first <= _BLOCK_BYTES:
            continue
        with document.path.open("rb") as file:
            text = os.pread(file.fileno(), last - first, first)
        rows = text.strip(_WHITE_SPACE)
        separated = rows.endswith(separator) if first == start else rows.startswith(separator)
        if rows and separated and text_sha256(document, earlier) == sha256:
            begin, width = first + text.index(rows), len(separator)
            return (begin, begin + len(rows) - width) if first == start else (begin + width, begin + len(rows))
    return None


def blocks(document: ListDocument, span: tuple[int, int]) -> Iterator[bytes]:
    """A part of the text in blocks that end where a row ends; a block in which no end is seen grows."""
    module = MODULES[document.format]
    (start, end), text = span, b""
    with document.path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(min(_BLOCK_BYTES, end - file.tell())):
            text += chunk
            if file.tell() < end and (cut := module.last_cut(text)):
                yield text[:cut].strip(_WHITE_SPACE)
                text = text[cut:].removeprefix(module.SEPARATOR)
    if text:
        yield text.strip(_WHITE_SPACE)


def _find_list(path: Path, module: FormatModule) -> tuple[Document, tuple[int, int]] | None:
    """The document without its rows, and the span of their text; None if the two ends do not show it."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = os.pread(file.fileno(), _END_BYTES, 0)
        begins = module.LIST_BEGINS.search(head)
        if begins is None:
            return None
        tail_at = max(begins.end(), size - _END_BYTES)
        tail = os.pread(file.fileno(), size - tail_at, tail_at)
    ends_at = tail.rfind(module.LIST_ENDS)
    if ends_at < 0:
        return None
    around = module.read_around(head[: begins.end()], tail[ends_at:])
    if around is None or around.envelope.refused:
        return None
    first, last = head[begins.end() :], tail[:ends_at]
    start = begins.end() + len(first) - len(first.lstrip(_WHITE_SPACE))
    end = tail_at + len(last.rstrip(_WHITE_SPACE))
    return around, (start, max(start, end))


def _load(path: Path, response_format: str, secrets: Collection[str] | None) -> Document:
    """The whole document, which is a list."""
    body = path.read_bytes()
    document = MODULES[response_format].read_document(body)
    if document.envelope.refused:
        quoted = dataclasses.replace(document.envelope, message=None) if secrets is None else document.envelope
        raise refusal(quoted, secrets=secrets or ())
    if document.problem is None:
        return document
    begins = ""
    if secrets is not None:
        start = excerpt(body[:_BEGINNING_BYTES].decode("utf-8", "replace"), secrets)
        begins = f" (it begins “{start}”)" if start else " (it is blank)"
    raise UnreadableResponseError(
        f"SMS Partner's response is not a list of stops in {response_format.upper()}: {document.problem}{begins}. "
        "Nothing was changed; a later sync may succeed."
    )
