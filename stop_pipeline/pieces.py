"""An answer's text in pieces that stay what they are from one answer to the next.

What belongs here: where the text is cut, and the name by which a piece is known again. What does not: what it says
(`document`), and how it is kept (`frames`). The file given is all that is read.

Each answer is the whole list, and nearly all of it is as it was in the one before. So a piece begins with a row whose
id ends in `_ROUND`: wherever rows come and go, the pieces that they are not in are the same bytes as before. Where a
cut falls is a guess, and only has to fall there again; whether a piece is a list by itself is for `document` to prove.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import BinaryIO

from stop_pipeline.model import Format
from stop_pipeline.threads import in_threads

PIECE_BYTES = 4 << 20
"""How much text a piece holds at most, if it can be cut; it is what a thread has in memory at a time."""

HEAD_BYTES = 64 << 10
"""How far from the beginning of a document the first row of its list is looked for."""

Span = tuple[int, int]
"""Where a part of a document begins and ends, in bytes."""


@dataclass(frozen=True)
class Piece:
    """A piece of a document: where it lies, and its name, the same only for the same bytes (their SHA-256)."""

    span: Span
    name: bytes


_ROUND = b"0000"
"""One row of ten thousand: some 800 KB of text. Smaller pieces would be read and compressed less well."""
_MOST_DIGITS = 19
_MOST_BEGINNING_BYTES = 200
"""Of a row, up to the name of its second field: longer ones would be slow to look for."""
_WINDOW_BYTES = 8 << 20
_CUT_WINDOW_BYTES = 64 << 10


def pattern(written: bytes) -> re.Pattern[bytes]:
    """A pattern in which W stands for the white space of JSON and XML, and blanks mean nothing."""
    return re.compile(written.replace(b"W", rb"[\ \t\n\r]*"), re.VERBOSE)


_ROW_BEGINS: dict[Format, re.Pattern[bytes]] = {
    "json": pattern(rb'(\{ W "id" W : W) [0-9]+ (W , W "[^"]*")'),
    "xml": pattern(rb"(<entry> W <entry> W (?:<!\[CDATA\[ W)?) [0-9]+ ((?:W \]\]>)? W </entry> W <entry>)"),
}
_BETWEEN_ROWS: dict[Format, re.Pattern[bytes]] = {
    "json": pattern(rb"\} W , W (\{)"),
    "xml": pattern(rb"</entry> W </entry> W (<entry>) W <entry>"),
}


def cut(path: Path, answer_format: Format) -> Iterator[Span]:
    """The pieces of a document, which follow each other from its first byte to its last; one of an empty document."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        yield from pairwise(chain([0], _cuts(file, size, answer_format), [size]))


def named(path: Path, answer_format: Format) -> list[Piece]:
    """The pieces of a document, as `cut` gives them, with their names."""
    with path.open("rb") as file:
        # While the next cut is looked for, threads are at the pieces before it.
        return in_threads(lambda span: Piece(span, hashlib.sha256(read(file, span)).digest()), cut(path, answer_format))


def read(file: BinaryIO, span: Span) -> bytes:
    """The bytes of a piece; fewer only if the file ends."""
    start, end = span
    text = os.pread(file.fileno(), end - start, start)
    while len(text) < end - start:  # systems read no more than 2 GiB at once
        more = os.pread(file.fileno(), end - start - len(text), start + len(text))
        if not more:
            break
        text += more
    return text


def _cuts(file: BinaryIO, size: int, answer_format: Format) -> Iterator[int]:
    """Where the second piece of a document begins, and all that follow."""
    start = 0
    for place in chain(_row_cuts(file, _ROW_BEGINS[answer_format]), [size]):
        yield from _size_cuts(file, start, place, _BETWEEN_ROWS[answer_format])
        if place < size:
            yield place
        start = place


def _row_cuts(file: BinaryIO, row_begins: re.Pattern[bytes]) -> Iterator[int]:
    """Where what looks like a row with a round id begins, written as the first row is, and not the first row itself."""
    first = row_begins.search(os.pread(file.fileno(), HEAD_BYTES, 0))
    if first is None or len(first[0]) > _MOST_BEGINNING_BYTES:
        return
    before, after = first.groups()
    wanted, longest = _ROUND + after, len(before) + _MOST_DIGITS + len(after)
    last = first.start()
    window_at = last
    while len(window := os.pread(file.fileno(), _WINDOW_BYTES, window_at)) > longest:
        found = window.find(wanted)
        while found >= 0:
            row = window.rfind(before, max(0, found - longest), found)
            if row >= 0 and window[row + len(before) : found].isdigit() and window_at + row > last:
                last = window_at + row
                yield last
            found = window.find(wanted, found + 1)
        # What lies across the end of a window lies whole in the next.
        window_at += len(window) - longest


def _size_cuts(file: BinaryIO, start: int, end: int, between_rows: re.Pattern[bytes]) -> Iterator[int]:
    """Where pieces of `PIECE_BYTES` or less begin, but for the first: before what looks like a row."""
    reach = start + PIECE_BYTES
    while reach < end:
        window_at = max(start, reach - _CUT_WINDOW_BYTES)
        place = _last(between_rows.finditer(os.pread(file.fileno(), reach - window_at, window_at)))
        if place is not None:
            start = reach = window_at + place
            yield start
        reach += PIECE_BYTES


def _last(rows: Iterable[re.Match[bytes]]) -> int | None:
    place = None
    for row in rows:
        place = row.start(1)
    return place
