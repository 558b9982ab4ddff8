"""An answer as it is kept: compressed piece by piece, so that a piece which the next answer has as well is copied.

What belongs here: the layout of such a file. What does not: where pieces begin (`pieces`), and where files lie
(`store`).

It is a Zstandard file of many frames, which every program for such files unpacks. The last frame is one of those that
they skip (RFC 8878, section 3.1.2): it lists the others.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from stop_pipeline.pieces import Piece, Span, read

if TYPE_CHECKING:
    import pyarrow as pa

_SKIPPABLE = 0x184D2A50
_FRAME_HEADER = struct.Struct("<II")
"""Magic number, and how many bytes follow."""
_ENTRY = struct.Struct("<QQI32s")
"""Lengths of the frame and of the piece, the CRC-32 of the frame, and the name of the piece."""
_END = struct.Struct("<II4s")
"""How many entries come before it, their CRC-32, and a mark."""
_MARK = b"STOP"


@dataclass(frozen=True)
class Frame:
    """One piece, compressed.

    Attributes:
        piece: Where it lies in the answer, and its name.
        place: Where the frame lies in the file, in bytes.
        crc32: Of the frame.
    """

    piece: Piece
    place: Span
    crc32: int


@dataclass(frozen=True)
class Kept:
    """An answer kept so: its file, open, and its frames in order; none, if the file does not list them."""

    file: pa.NativeFile
    frames: tuple[Frame, ...]

    def read(self, frame: Frame) -> bytes:
        """A frame as it lies in the file; several threads may ask."""
        start, end = frame.place
        return bytes(self.file.read_at(end - start, start))


def opened(file: pa.NativeFile) -> Kept:
    """What a file holds, whichever version of this package wrote it."""
    size = file.size()
    if size < _END.size:
        return Kept(file, ())
    count, crc32, mark = _END.unpack(file.read_at(_END.size, size - _END.size))
    length = count * _ENTRY.size
    if mark != _MARK or length > size - _END.size:
        return Kept(file, ())
    listed = file.read_at(length, size - _END.size - length)
    if zlib.crc32(listed) != crc32:
        return Kept(file, ())
    entries = list(_ENTRY.iter_unpack(listed))
    places = _one_after_the_other(size for size, *_ in entries)
    spans = _one_after_the_other(length for _, length, *_ in entries)
    frames = (
        Frame(Piece(span, name), place, crc32)
        for (_, _, crc32, name), place, span in zip(entries, places, spans, strict=True)
    )
    return Kept(file, tuple(frames))


def _one_after_the_other(lengths: Iterable[int]) -> list[Span]:
    return list(pairwise(accumulate(lengths, initial=0)))


def compress(path: Path, pieces: Sequence[Piece], known: Kept | None, into: Path) -> None:
    """Compress a document's pieces into a new file, but for those that are copied from one kept before."""
    codec = _codec()
    frames = {frame.piece.name: frame for frame in known.frames} if known else {}
    entries = b""
    with path.open("rb") as file, into.open("xb") as sink:
        for piece in pieces:
            compressed = _copied(known, frames.get(piece.name))
            if compressed is None:
                compressed = codec.compress(read(file, piece.span), asbytes=True)
            sink.write(compressed)
            start, end = piece.span
            entries += _ENTRY.pack(len(compressed), end - start, zlib.crc32(compressed), piece.name)
        ending = _END.pack(len(pieces), zlib.crc32(entries), _MARK)
        sink.write(_FRAME_HEADER.pack(_SKIPPABLE, len(entries) + len(ending)) + entries + ending)


def _codec() -> pa.Codec:
    import pyarrow as pa  # noqa: PLC0415 – an answer that is kept already is not compressed again

    return pa.Codec("zstd")


def _copied(known: Kept | None, frame: Frame | None) -> bytes | None:
    """A frame as it lies in a file kept before, if it does, undamaged."""
    if known is None or frame is None:
        return None
    compressed = b""
    with suppress(OSError):
        compressed = known.read(frame)
    return compressed if zlib.crc32(compressed) == frame.crc32 else None


def unpack(known: Kept, without: frozenset[bytes], into: Path) -> list[Span]:
    """Write the pieces that do not have one of these names, one after the other; gives where each lies.

    Raises:
        ArrowException, OSError, ValueError: the file is damaged.
    """
    codec = _codec()
    lengths = []
    with into.open("xb") as sink:
        for frame in known.frames:
            if frame.piece.name not in without:
                start, end = frame.piece.span
                text = codec.decompress(known.read(frame), end - start, asbytes=True)
                if hashlib.sha256(text).digest() != frame.piece.name:
                    raise ValueError(frame)
                lengths.append(sink.write(text))
    return _one_after_the_other(lengths)
