"""What campaigns of every kind share: which column holds the phone numbers, those as text, and errors of reading."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from stop_pipeline.errors import CampaignError, excerpt
from stop_pipeline.phone_numbers import read_phone_number

BATCH_ROWS = 131_072
"""Memory holds so many rows, whatever the size of the file."""
NO_NUMBER = "no phone number"
"""Why a row with an empty cell is invalid."""
OWN_COLUMNS = {
    "clean": None,
    "blocked": pa.field("first_stop_at", pa.timestamp("us", tz="UTC")),
    "invalid": pa.field("reason", pa.string()),
}
"""The parts of a campaign, and the column that each has after those of the campaign."""

WriteRows = Callable[[Any, "pd.Series | None"], None]
"""Adds rows of a batch to a part of a campaign, with the values of the part's own column if it has one."""

_LARGEST_EXACT = 2**53
"""Above it, not every whole number is a float."""
_DIGITS_OF_A_NUMBER = 6


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn any failure to read a campaign's file into a CampaignError."""
    try:
        yield
    except (OSError, UnicodeError, pa.ArrowException) as error:
        plain = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else None
        problem = plain or "it is damaged, or a kind of Parquet file that is not supported"
        raise CampaignError(f"Cannot read {path}: {problem}.") from None  # the error may quote the file


def positions_of(column: str, names: Sequence[str]) -> list[int]:
    """The positions of the columns of that name; if there is none, case and surrounding spaces do not matter."""
    for form in (_composed, _simplified):
        if found := [position for position, name in enumerate(names) if form(name) == form(column)]:
            return found
    return []


def find_column(column: str, names: Sequence[str], where: str) -> int:
    """The position of the one column that `positions_of` finds; `where` says what has the columns.

    Raises:
        CampaignError: There is none, or more than one; the names look like data and are therefore not shown; or one of
            them is a name of `OWN_COLUMNS`.
    """
    found = positions_of(column, names)
    wanted = f"column “{excerpt(column)}”"
    shown = [f"“{''.join(filter(str.isprintable, name))[:40]}”" for name in names]
    has_digits = any(sum(map(str.isdigit, name)) >= _DIGITS_OF_A_NUMBER for name in names)
    taken = [own.name for own in OWN_COLUMNS.values() if own is not None and own.name in names]
    if holds_phone_number(names) or (has_digits and not found):
        problem = "no line of column names, because its first line looks like data: put one above it"
    elif not found:
        columns = ", ".join(shown[:20]) or "none"
        problem = f"no {wanted}; its columns are {columns}: name the one that holds the phone numbers"
    elif len({_composed(names[position]) for position in found}) > 1:
        columns = " and ".join(shown[position] for position in found)
        problem = f"no {wanted} exactly, but {columns}: name the one that holds the phone numbers"
    elif len(found) > 1:
        problem = f"more than one {wanted}: rename all but the one that holds the phone numbers"
    elif taken:
        problem = f"a column “{taken[0]}” already, which the result needs: rename it first"
    else:
        return found[0]
    raise CampaignError(f"{where} has {problem}.")


def holds_phone_number(texts: Iterable[str]) -> bool:
    """Whether one of the texts is a phone number."""
    return any(read_phone_number(text).readable for text in texts)


def as_text(values: pa.Array | pa.ChunkedArray) -> pd.Series:
    """Phone numbers as text (`str`) from a column of text or of numbers; a null stays null.

    Raises:
        CampaignError: They are of another type. A 32-bit float has already rounded a phone number.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_float64(kind):
        return pd.Series(values.to_pandas().map(_float_as_text, na_action="ignore"), dtype="str")
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (is_text or pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)):
        raise CampaignError(f"The column of phone numbers is of type {kind}: it must be text or whole numbers.")
    return pd.Series(values.cast(pa.string()).to_pandas(), dtype="str")


def _float_as_text(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < _LARGEST_EXACT else str(number)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _simplified(name: str) -> str:
    return _composed(_composed(name).replace("\ufeff", "").strip().casefold())
