"""Text in a known form, from many places at once: eight bytes of each as one 64-bit word, and reckoned with as such.

What belongs here: taking bytes from where they stand, comparing them, and what digits are worth. What does not: what
the text means (`plain_rows`, `wall_clocks`). Everything is pure.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BYTES = 8
"""Of a word."""

Positions = NDArray[np.int64]
Words = NDArray[np.uint64]
"""Eight characters each, the first in the lowest byte."""

_HIGH_BITS = 0x8080_8080_8080_8080


def gathered(text: bytes, positions: Positions, dtype: str) -> NDArray[Any]:
    """Of each position in a text the bytes from there on, as one value of this type; all must lie within."""
    size = np.dtype(dtype).itemsize
    if not len(positions):
        return np.empty(0, dtype)
    # Whatever begins anywhere, as an array that overlaps itself.
    return np.ndarray((len(text) - size + 1,), dtype, text, strides=(1,))[positions]


def words_at(text: bytes, positions: Positions) -> Words:
    """The word at each position of a text."""
    return gathered(text, positions, "<u8")


def stands_at(text: bytes, positions: Positions, wanted: bytes) -> NDArray[np.bool_]:
    """At which positions of a text these bytes stand, none of them zero."""
    same: NDArray[np.bool_] = gathered(text, positions, f"S{len(wanted)}") == wanted
    return same


def digits(words: Words, form: bytes) -> tuple[Words, Words]:
    """The values of the digits, one a byte, and words with a bit wherever a text is not as `form`.

    Args:
        words: Texts of eight characters.
        form: What they should be like, with a 0 where a digit stands. In each word the first difference is marked
            rightly, by the highest bit of its byte; what comes after it may be not.
    """
    values = words ^ np.frombuffer(form, "<u8")
    # What is added brings a byte to 128 if it is more than 9 where a digit stands, more than 0 where none does.
    room = np.frombuffer(bytes(128 - 10 if char == ord("0") else 128 - 1 for char in form), "<u8")
    return values, ((values + room) | values) & _HIGH_BITS


def byte(words: Words, place: int) -> NDArray[np.int64]:
    """One byte of each word."""
    return ((words >> (8 * place)) & 0xFF).view(np.int64)


def leading_number(words: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number that the digits at the beginning of each word write, and how many there are."""
    values, others = digits(words, b"0" * BYTES)
    first_other = others & (~others + 1)
    count = np.bitwise_count(first_other - 1) >> 3
    # Moved to the end of the word, with zeros before them, the digits are joined: by twos, by fours, all eight.
    values <<= 8 * (BYTES - count.astype(np.uint64))
    for places, joined in ((1, 0x00FF_00FF_00FF_00FF), (2, 0x0000_FFFF_0000_FFFF), (4, 0xFFFF_FFFF)):
        values = (values * np.uint64(10**places) + (values >> np.uint64(8 * places))) & np.uint64(joined)
    return values.view(np.int64), count.astype(np.int64)
