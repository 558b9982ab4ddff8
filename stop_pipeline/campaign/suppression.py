"""`suppress`: splits a campaign into rows that may be texted, rows that must not be, and rows without a phone number.

Numbers of the campaign and of the list are read by the same rules (`phone_numbers`), so all spellings of a number meet.
A spelling that cannot be read meets the same spelling on the list. Digits that a spreadsheet has rounded away are not
guessed: such a row is invalid.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from stop_pipeline.campaign.formats import NO_NUMBER, OWN_COLUMNS, as_text, find_column, open_campaign, wrong_type
from stop_pipeline.campaign.output import complete_folder
from stop_pipeline.errors import CampaignError
from stop_pipeline.phone_numbers import is_rounded, match_keys, read_phone_numbers
from stop_pipeline.table.reading import DEFAULT_MAX_AGE, Age, current_list
from stop_pipeline.table.store import Store

log = logging.getLogger(__name__)

# With `formats.NO_NUMBER` and `formats.RAGGED`, the reasons why a row is invalid.
ROUNDED = "rounded by a spreadsheet"
NOT_A_NUMBER = "no phone number of any country"

_BATCHES_PER_LINE = 8  # about a million rows


class Suppressed(NamedTuple):
    """A campaign in three parts, which together hold each of its rows once, in order; see `suppress`."""

    clean: pd.DataFrame
    blocked: pd.DataFrame
    invalid: pd.DataFrame


@dataclass(frozen=True)
class SuppressedFile:
    """What `suppress_file` did."""

    form: str  # what kind of file the campaign is, in words
    rows: int  # not counting the header
    parts: dict[str, tuple[Path, int]]  # path and number of rows of “clean”, “blocked” and “invalid”
    verified_at: datetime  # as in `CurrentList`
    unreadable_rows: int  # as in `CurrentList`


def suppress(
    df: pd.DataFrame,
    column: str | int = "phone",
    root: str | Path | None = None,
    account: str | None = None,
    max_age: Age = DEFAULT_MAX_AGE,
) -> Suppressed:
    """Split a campaign by the suppression list.

    All spellings of a number meet: `06 12 34 56 78`, `0033…`, `+33…`, `33…`, and what a spreadsheet makes of them
    (`612345678`, `612345678.0`, `6,12345678E+08`). The index and the columns of the campaign stay as they are.

    Args:
        df: The campaign.
        column: Name of the column of phone numbers, which are text, whole numbers or 64-bit floats. Case and
            surrounding spaces do not matter if no column has exactly this name.
        root: The data root; by default `STOP_PIPELINE_DATA`, else `data`.
        account: Account whose list is used. By default a number is blocked if it is on the list of any account.
        max_age: How long ago each list may have been verified (fetched, and found complete): a timedelta, or a text
            such as “24h”, “90m” or “2d”.

    Returns:
        The DataFrames `clean` (rows that may be texted), `blocked` (rows whose number has opted out, with
        `first_stop_at`, datetime64[us, UTC], null if no date is known) and `invalid` (rows without a phone number that
        can be checked, with the `reason`, str).

    Raises:
        OutdatedListError: There is no list, it is older than `max_age`, or it cannot be read.
        CampaignError: There is no such column, or it holds neither text nor numbers, or the campaign already has a
            column that the result needs.
        ValueError: `max_age` is not an age.
    """
    values = df.iloc[:, find_column(str(column), [str(name) for name in df.columns], "The campaign")]
    kind = values.cat.categories.dtype if isinstance(values.dtype, pd.CategoricalDtype) else values.dtype
    try:
        if kind == np.dtype(object):  # a spreadsheet's column may hold text and numbers
            values = values.astype(object).map(str, na_action="ignore")
        spellings = pa.array(values, from_pandas=True)
        values.take([])  # pandas has types of text that it cannot select rows from
    except (pa.ArrowException, TypeError, UnicodeError):
        raise wrong_type(kind) from None  # the error may quote a number
    first_stops = first_stops_by_key(current_list(root, account, max_age=max_age).numbers)
    checked = check(as_text(spellings), first_stops)
    part = checked["part"].to_numpy()
    return Suppressed(
        clean=df[part == "clean"],
        blocked=df.assign(first_stop_at=checked["first_stop_at"].array)[part == "blocked"],
        invalid=df.assign(reason=checked["reason"].array)[part == "invalid"],
    )


def suppress_file(
    path: Path, column: str, into: Path, *, root: str | Path | None, account: str | None, max_age: timedelta
) -> SuppressedFile:
    """Split a campaign's file (CSV or Parquet) into three of the same form in the folder `into`, as `suppress` does.

    A CampaignError also says that the folder is not empty, cannot be written or lies inside the data root.
    """
    listed = current_list(root, account, max_age=max_age)
    store = Store.existing(root)
    if store.files.encloses(into):
        raise CampaignError(f"{into} is inside the data root {store.root}: choose another folder.")
    campaign = open_campaign(path, column)
    first_stops = first_stops_by_key(listed.numbers)
    files = {name: f"{name}{campaign.suffix}" for name in OWN_COLUMNS}
    rows = dict.fromkeys(OWN_COLUMNS, 0)
    with complete_folder(into) as folder, ExitStack() as stack:
        write = {
            name: stack.enter_context(campaign.part(folder / files[name], own_columns))
            for name, own_columns in OWN_COLUMNS.items()
        }
        for number, (batch, spellings) in enumerate(campaign.batches(), start=1):
            checked = check(spellings, first_stops, campaign.null_reason)
            for name in OWN_COLUMNS:
                chosen = checked["part"] == name
                write[name](batch.filter(pa.array(chosen)), checked[chosen])
                rows[name] += int(chosen.sum())
            if number % _BATCHES_PER_LINE == 0:
                log.info("%s: %s rows so far", path, f"{sum(rows.values()):,}")
    parts = {name: (into / files[name], rows[name]) for name in OWN_COLUMNS}
    return SuppressedFile(campaign.form, sum(rows.values()), parts, listed.verified_at, listed.unreadable_rows)


def check(spellings: pd.Series, first_stops: pd.Series, null_reason: str = NO_NUMBER) -> pd.DataFrame:
    """Decide for each row of a campaign, given as text with a RangeIndex, which part it belongs to.

    Gives the columns `part` (“clean”, “blocked” or “invalid”), `first_stop_at` of blocked rows, and the `reason` of
    invalid ones, which is `null_reason` where there is no spelling.
    """
    readings = read_phone_numbers(spellings)
    keys = match_keys(readings["phone_number"])
    position = first_stops.index.get_indexer(pd.Index(keys))
    blocked = position >= 0
    reason = pd.Series(None, index=spellings.index, dtype="str")
    reason[readings["country"].isna()] = NOT_A_NUMBER
    reason[is_rounded(spellings)] = ROUNDED
    reason[keys == ""] = NO_NUMBER
    reason[spellings.isna()] = null_reason
    reason[blocked] = None  # also a listed spelling that is not a number anywhere
    part = np.select([blocked, reason.notna()], ["blocked", "invalid"], "clean")
    first_stop_at = first_stops.array.take(position, allow_fill=True)
    return pd.DataFrame({"part": part, "first_stop_at": first_stop_at, "reason": reason})


def first_stops_by_key(numbers: pd.DataFrame) -> pd.Series:
    """The earliest `first_stop_at` (null if no date is known) of each `phone_number` on one list or several, by key."""
    keys = match_keys(numbers["phone_number"])
    return numbers["first_stop_at"].groupby(keys[keys != ""]).min()  # a listed “-” must not match a blank cell
