"""An answer as it is kept: compressed piece by piece, so that a piece which the next answer has as well is copied.

What belongs here: the layout of such a file. What does not: where pieces begin (`pieces`), and where files lie
(`store`).

It is a Zstandard file of many frames, which every program for such files unpacks. The last frame is one of those that
they skip (RFC 8878, section 3.1.2): it lists the others.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import pyarrow as pa

from stop_pipeline.pieces import Piece, Span, read

_SKIPPABLE = 0x184D2A50
_FRAME_HEADER = struct.Struct("<II")
"""Magic number, and how many bytes follow."""
_ENTRY = struct.Struct("<QQI32s")
_END = struct.Struct("<II4s")
"""How many entries come before it, their CRC-32, and a mark."""
_MARK = b"STOP"


@dataclass(frozen=True)
class Frame:
    """One piece, compressed.

    Attributes:
        size: Of the frame, in bytes.
        length: Of the piece, in bytes.
        crc32: Of the frame.
        name: Of the piece.
    """

    size: int
    length: int
    crc32: int
    name: bytes


@dataclass(frozen=True)
class Kept:
    """An answer kept so: its file, open, and its pieces in order; none, if the file does not list them."""

    file: pa.NativeFile
    frames: tuple[Frame, ...]

    def compressed(self) -> Iterator[tuple[Frame, Span]]:
        """Each frame, and where it lies."""
        places = accumulate((frame.size for frame in self.frames), initial=0)
        return zip(self.frames, pairwise(places), strict=True)

    @property
    def spans(self) -> list[Span]:
        """Where each piece begins and ends in the answer."""
        return list(pairwise(accumulate((frame.length for frame in self.frames), initial=0)))

    def bytes_at(self, span: Span) -> bytes:
        """Some of the file's bytes; several threads may ask."""
        start, end = span
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
    entries = file.read_at(length, size - _END.size - length)
    return Kept(
        file, tuple(Frame(*entry) for entry in _ENTRY.iter_unpack(entries)) if zlib.crc32(entries) == crc32 else ()
    )


def compress(path: Path, pieces: Sequence[Piece], known: Kept | None, into: Path) -> None:
    """Compress a document's pieces into a new file, but for those that are copied from one kept before."""
    codec = pa.Codec("zstd")
    places = {frame.name: (frame, place) for frame, place in known.compressed()} if known else {}
    entries = b""
    with path.open("rb") as file, into.open("xb") as sink:
        for piece in pieces:
            compressed = _copied(known, places.get(piece.name))
            if compressed is None:
                compressed = codec.compress(read(file, piece.span), asbytes=True)
            sink.write(compressed)
            start, end = piece.span
            entries += _ENTRY.pack(len(compressed), end - start, zlib.crc32(compressed), piece.name)
        ending = _END.pack(len(pieces), zlib.crc32(entries), _MARK)
        sink.write(_FRAME_HEADER.pack(_SKIPPABLE, len(entries) + len(ending)) + entries + ending)


def _copied(known: Kept | None, found: tuple[Frame, Span] | None) -> bytes | None:
    """A piece as it lies in a file kept before, if it does, undamaged."""
    if known is None or found is None:
        return None
    frame, place = found
    compressed = b""
    with suppress(OSError):
        compressed = known.bytes_at(place)
    return compressed if zlib.crc32(compressed) == frame.crc32 else None


def unpack(known: Kept, without: frozenset[bytes], into: Path) -> list[Span]:
    """Write the pieces that do not have one of these names, one after the other; gives where each lies.

    Raises:
        ArrowException, OSError, ValueError: the file is damaged.
    """
    codec = pa.Codec("zstd")
    lengths = []
    with into.open("xb") as sink:
        for frame, place in known.compressed():
            if frame.name not in without:
                text = codec.decompress(known.bytes_at(place), frame.length, asbytes=True)
                if hashlib.sha256(text).digest() != frame.name:
                    raise ValueError(frame)
                sink.write(text)
                lengths.append(frame.length)
    return list(pairwise(accumulate(lengths, initial=0)))
