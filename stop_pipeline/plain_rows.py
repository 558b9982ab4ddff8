"""Rows written the way the provider writes them → columns, without an object for each row.

What belongs here: the frame that such rows share, and how their fields are taken out of it. What does not: all other
rows, and where a document has its rows (`document`); what a time is (`wall_clocks`), what a number is (`phones`).

A row is four fixed texts around three fields. A row is plain if every byte of it is accounted for: it is compared with
the frame, or is a digit of the id, a character of a number, a part of a real time. So nothing is left to be guessed.
Fields are taken from all rows at once (`words`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stop_pipeline import wall_clocks
from stop_pipeline.wall_clocks import read_wall_clock_words
from stop_pipeline.words import BYTES, Positions, digits, gathered, leading_number, stands_at, words_at

_MOST_ID_DIGITS = 15
"""A longer id is odd: it might be more than 2⁶³−1."""
_MOST_NUMBER_BYTES = 20
_MOBILE_BYTES = len("+33600000000")
_POWERS_OF_TEN = 10 ** np.arange(BYTES + 1)
_FIRST_CHAR, _LAST_CHAR = b"+9"
"""Between them lie the digits, plus, minus, full stop and slash, and nothing that could end a text or escape."""


@dataclass(frozen=True)
class Frame:
    """What stands around the fields of a row, in ASCII; the next row begins right after the last of it."""

    before_id: bytes
    before_number: bytes
    before_time: bytes
    after_time: bytes

    @property
    def shortest_row(self) -> int:
        """Bytes of a row with the shortest fields."""
        frame = len(self.before_id) + len(self.before_number) + len(self.before_time) + len(self.after_time)
        return frame + 1 + 1 + wall_clocks.LENGTH


@dataclass(frozen=True)
class PlainRows:
    """The plain rows of a text, in no order.

    Attributes:
        ids: int64, from 1.
        spellings: Phone numbers as spelled (string).
        created_at_local: `createdAt`, datetime64[us].
        mobile: How many of them, from the first, are French mobile numbers written as `phones` keeps them.
        others: Where the text of all other rows begins and ends, in order; no plain row is within.
    """

    ids: NDArray[np.int64]
    spellings: pa.StringArray
    created_at_local: NDArray[np.datetime64]
    mobile: int
    others: list[tuple[int, int]]


def read_plain_rows(text: bytes, frame: Frame) -> PlainRows:
    """The rows of a text that stand in this frame."""
    starts = _occurrences(text, frame.before_id)
    ends = np.append(starts[1:], len(text))
    long_enough = ends - starts >= frame.shortest_row
    starts, ends = starts[long_enough], ends[long_enough]

    ids, ids_end, plain = _read_ids(text, starts + len(frame.before_id))
    numbers_start = ids_end + len(frame.before_number)
    times_start = ends - (len(frame.after_time) + wall_clocks.LENGTH)
    numbers_end = times_start - len(frame.before_time)
    lengths = numbers_end - numbers_start
    plain &= (lengths > 0) & (lengths <= _MOST_NUMBER_BYTES)
    plain &= stands_at(text, ids_end, frame.before_number)
    plain &= stands_at(text, numbers_end, frame.before_time)
    plain &= stands_at(text, ends - len(frame.after_time), frame.after_time)
    created_at_local, are_times = read_wall_clock_words(
        *(words_at(text, times_start + offset) for offset in (0, BYTES, wall_clocks.LENGTH - BYTES))
    )
    plain &= are_times

    mobile = np.flatnonzero(plain & (lengths == _MOBILE_BYTES))
    mobile = mobile[_are_mobile(text, numbers_start[mobile])]
    chosen, spellings = [mobile], [_strings(gathered(text, numbers_start[mobile], f"V{_MOBILE_BYTES}"))]
    to_choose = plain.copy()
    to_choose[mobile] = False
    for length in np.flatnonzero(np.bincount(lengths[to_choose])):
        rows = np.flatnonzero(to_choose & (lengths == length))
        numbers = gathered(text, numbers_start[rows], f"V{length}")
        usable = _are_numbers(numbers)
        plain[rows[~usable]] = False
        chosen.append(rows[usable])
        spellings.append(_strings(numbers[usable]))
    order = np.concatenate(chosen)
    others = list(_gaps(starts[plain], ends[plain], len(text)))
    return PlainRows(ids[order], pa.concat_arrays(spellings), created_at_local[order], len(mobile), others)


def _occurrences(text: bytes, wanted: bytes) -> Positions:
    """Where a text occurs, with room for it."""
    room = np.frombuffer(text, np.uint8)[: max(0, len(text) - len(wanted) + 1)]
    found = np.flatnonzero(room == wanted[0])
    return found[stands_at(text, found, wanted)]


def _read_ids(text: bytes, starts: Positions) -> tuple[NDArray[np.int64], Positions, NDArray[np.bool_]]:
    """The ids that begin at these positions, where they end, and which of them are canonical and short enough."""
    ids, digits = leading_number(words_at(text, starts))
    canonical = (digits > 0) & (gathered(text, starts, "u1") != ord("0"))
    going_on = digits == BYTES
    if going_on.any():
        more, more_digits = leading_number(words_at(text, starts[going_on] + BYTES))
        ids[going_on] = ids[going_on] * _POWERS_OF_TEN[more_digits] + more
        digits[going_on] += more_digits
    return ids, starts + digits, canonical & (digits <= _MOST_ID_DIGITS)


def _are_mobile(text: bytes, starts: Positions) -> NDArray[np.bool_]:
    """At which positions “+336” or “+337” and eight digits stand."""
    mobile: NDArray[np.bool_] = stands_at(text, starts, b"+336") | stands_at(text, starts, b"+337")
    _, odd = digits(words_at(text, starts + len(b"+336")), b"0" * BYTES)
    mobile &= odd == 0
    return mobile


def _are_numbers(numbers: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which texts, of equal length, are written with no more than digits and `+,-./`."""
    chars = numbers.view(np.uint8).reshape(len(numbers), -1)
    usable: NDArray[np.bool_] = np.all((chars >= _FIRST_CHAR) & (chars <= _LAST_CHAR), axis=1)
    return usable


def _strings(texts: NDArray[np.void]) -> pa.StringArray:
    """Texts of equal length as an Arrow array over the same memory."""
    offsets = np.arange(len(texts) + 1, dtype=np.int32) * texts.itemsize
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(texts))


def _gaps(starts: Positions, ends: Positions, size: int) -> Iterator[tuple[int, int]]:
    """What lies between 0 and `size` but in none of these ranges, which are in order."""
    gap_starts, gap_ends = np.append(0, ends), np.append(starts, size)
    gaps = gap_starts < gap_ends
    yield from zip(gap_starts[gaps].tolist(), gap_ends[gaps].tolist(), strict=True)
