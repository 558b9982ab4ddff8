"""What a Parquet file says of itself, read without Arrow.

What belongs here: the note that this package leaves in each footer, and the two facts that a tick wants of a file whose
rows it does not need: that note, and how many rows there are. What does not: rows (`tables`).

Most ticks find the list unchanged, and are done once they know that each file is of the commit that stands; to load
Arrow for that takes longer than all else they do. A footer is a Thrift structure in the compact protocol, of which this
reads as much as Parquet uses (parquet-format: README.md, “File format”, and parquet.thrift, `FileMetaData`). Apache's
thrift package cannot: it decodes what it passes over as UTF-8, and fails on the smallest and largest numbers.

Nothing else of a footer is looked at: where it is damaged elsewhere, that shows when rows are read, or in `verify`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

METADATA_KEY = b"stop_pipeline"
"""Under which the note stands among the file's key-value metadata."""

_MAGIC = b"PAR1"
_END_BYTES = 8
"""The footer's length in four bytes, and the magic number."""
_NUM_ROWS, _KEY_VALUE_METADATA = 3, 5
_KEY, _VALUE = 1, 2
"""Numbers of fields in parquet.thrift."""
_INTEGER_BITS, _MORE = 64, 0x80
"""How long a Thrift integer is at most, and what marks each of its bytes but the last."""
_LONG_LIST = 15
"""In place of a list's length, which then follows."""


@dataclass(frozen=True)
class Footer:
    """What is wanted of a footer.

    Attributes:
        rows: How many the file has.
        note: What this package wrote into it.
    """

    rows: int
    note: dict[str, Any]


def as_json(document: Mapping[str, Any]) -> str:
    """A document as this package writes it, times in ISO 8601."""
    return json.dumps(document, indent=2, default=datetime.isoformat)


def note_in(metadata: Mapping[bytes, bytes | None] | None) -> dict[str, Any]:
    """The note among a file's key-value metadata.

    Raises:
        KeyError, ValueError: it is a file of another program.
    """
    return dict(json.loads((metadata or {})[METADATA_KEY] or b""))


def footer_bytes(end: bytes) -> int:
    """How many bytes at the end of a Parquet file are its footer, as the last ones tell."""
    return int.from_bytes(end[-_END_BYTES : -len(_MAGIC)], "little") + _END_BYTES


def read_footer(end: bytes) -> Footer:
    """The footer of a Parquet file, from the end of it.

    Raises:
        KeyError, ValueError: it is none, or that of another program's file.
    """
    size_bytes = footer_bytes(end)
    if not end.endswith(_MAGIC) or size_bytes > len(end):
        raise ValueError("no Parquet footer")
    try:
        fields = _Compact(end[-size_bytes:-_END_BYTES]).struct()
        # A pair may lack its value; this package's never does.
        metadata = {pair[_KEY]: pair.get(_VALUE) for pair in fields.get(_KEY_VALUE_METADATA, ())}
        rows = fields[_NUM_ROWS]
        if type(rows) is int and rows >= 0:
            return Footer(rows, note_in(metadata))
        failure = ValueError("no Parquet footer: no number of rows")
    except (IndexError, TypeError, AttributeError, RecursionError) as error:
        failure = ValueError(f"no Parquet footer: {type(error).__name__}")
    raise failure


class _Compact:
    """Thrift's compact protocol: values one after the other, each read by the kind that was announced for it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def struct(self) -> dict[int, Any]:
        """The fields of a structure by their numbers."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = divmod(head, 16)
            number = number + step if step else self._integer()
            # A field's truth is told by its kind, and takes no byte.
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        match kind:
            case 1 | 2 | 3:  # a truth, as it stands in a list, and a byte
                return self._byte()
            case 4 | 5 | 6:  # integers of 16, 32 and 64 bits
                return self._integer()
            case 7:  # a double
                return self._bytes(8)
            case 8:  # bytes or text
                return self._bytes(self._natural())
            case 9 | 10:  # a list, a set
                count, kind = divmod(self._byte(), 16)
                return [self._value(kind) for _ in range(self._natural() if count == _LONG_LIST else count)]
            case 12:  # a structure
                return self.struct()
        raise ValueError(f"a Thrift value of kind {kind}, which no Parquet footer has")

    def _integer(self) -> int:
        number = self._natural()
        return number >> 1 ^ -(number & 1)

    def _natural(self) -> int:
        number = 0
        for shift in range(0, _INTEGER_BITS, 7):
            byte = self._byte()
            number |= (byte & ~_MORE) << shift
            if not byte & _MORE:
                return number
        raise ValueError("a Thrift integer that does not end")

    def _byte(self) -> int:
        byte = self._data[self._place]
        self._place += 1
        return byte

    def _bytes(self, count: int) -> bytes:
        start, self._place = self._place, self._place + count
        if self._place > len(self._data):
            raise IndexError(count)
        return self._data[start : self._place]
