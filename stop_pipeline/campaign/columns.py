"""The columns of a campaign: which of them holds the phone numbers, and those as text."""

import unicodedata
from collections.abc import Iterable, Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stop_pipeline.errors import CampaignError, excerpt
from stop_pipeline.phone_numbers import read_phone_number

NO_NUMBER = "no phone number"
"""Why a row with an empty cell is invalid."""
OWN_COLUMNS = {
    "clean": None,
    "blocked": pa.field("first_stop_at", pa.timestamp("us", tz="UTC")),
    "invalid": pa.field("reason", pa.string()),
}
"""The parts of a campaign, and the column that each has after those of the campaign."""

_LARGEST_EXACT = 2**53
"""Above it, not every whole number is a float."""
_MOST_NAMES = 20
_LONGEST_NAME = 40
_DIGITS_OF_A_NUMBER = 6


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
    digits = max((sum(map(str.isdigit, name)) for name in names), default=0)
    if holds_phone_number(names) or (digits >= _DIGITS_OF_A_NUMBER and not found):
        problem = "no line of column names, because its first line looks like data: put one above it"
    elif not found:
        shown = ", ".join(map(_shown, names[:_MOST_NAMES])) or "none"
        problem = f"no {wanted}; its columns are {shown}: name the one that holds the phone numbers"
    elif len({_composed(names[position]) for position in found}) > 1:
        shown = " and ".join(_shown(names[position]) for position in found)
        problem = f"no {wanted} exactly, but {shown}: name the one that holds the phone numbers"
    elif len(found) > 1:
        problem = f"more than one {wanted}: rename all but the one that holds the phone numbers"
    elif taken := [own.name for own in OWN_COLUMNS.values() if own is not None and own.name in names]:
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
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_exact = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    if pa.types.is_float64(kind):
        # Whole floats as whole numbers: the text of a large float has an exponent.
        whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), _LARGEST_EXACT))
        text = pc.coalesce(pc.if_else(whole, values, None).cast(pa.int64()).cast(pa.string()), values.cast(pa.string()))
    elif is_text or is_exact or pa.types.is_null(kind):
        text = values.cast(pa.string())
    else:
        raise CampaignError(f"The column of phone numbers is of type {kind}: it must be text or whole numbers.")
    return pd.Series(text.to_pandas(), dtype="str")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _simplified(name: str) -> str:
    return _composed(_composed(name).replace("\ufeff", "").strip().casefold())


def _shown(name: str) -> str:
    return f"“{''.join(filter(str.isprintable, name))[:_LONGEST_NAME]}”"
