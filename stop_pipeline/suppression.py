"""A campaign held against the suppression list: whom to text, whom not, and what is no phone number.

What belongs here: whether the list is fit for that, how a number is read that a spreadsheet has been at, and the split.
What does not: how a campaign's file is read and written (`campaign`), and how numbers are spelled (`phones`).

A spreadsheet takes a phone number for a number. It drops the zero or the plus before it, adds a decimal point, or
shows it with an exponent; all that is undone here and not in `phones`, since the provider's answers have been in no
spreadsheet. What it has rounded away is not guessed: such a row is invalid.

The listed numbers are read by the same rules as those of the campaign, so two spellings that are read alike meet,
whether or not they are a number anywhere.
"""

import logging
import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stop_pipeline.campaign import appearing_whole, as_text, open_campaign, position_of, refuse_taken_names
from stop_pipeline.columns import UTC_TIME
from stop_pipeline.errors import StoreError, UnfitListError
from stop_pipeline.phones import compact_spellings, read_phone_numbers
from stop_pipeline.reading import existing_store
from stop_pipeline.schema import SUPPRESSION_LIST
from stop_pipeline.settings import Settings
from stop_pipeline.store import Store

log = logging.getLogger(__name__)

DEFAULT_MAX_AGE = timedelta(hours=24)
CLOCK_TOLERANCE = timedelta(minutes=10)

FIRST_STOP_AT = pa.field("first_stop_at", UTC_TIME)
REASON = pa.field("reason", pa.string())

NO_NUMBER = "no phone number"
ROUNDED = "rounded by a spreadsheet"
NOT_A_NUMBER = "no phone number of any country"
"""With `campaign.RAGGED`, why a row is invalid."""

_AGE = re.compile(r"([0-9]{1,6})([mhd])")
_AGE_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_FORCED_TEXT = '^(?:\'|="([^"]*)"$)'
_WHOLE_WITH_DECIMALS = r"^([1-9][0-9]{8,14})[.,]0+$"  # with a 0 or + before it, it is text, and the dot a separator
_WITH_EXPONENT = r"^(?P<first>[1-9])(?:[.,](?P<rest>[0-9]+))?[eE]\+?(?P<exponent>[0-9]{1,2})$"
_LOST_ZERO = "^[1-9][0-9]{8}$"
_LOST_PLUS = "^[1-9][0-9]{9,14}$"
_AFTER_33 = r"^\+330?([1-9][0-9]{8})$"
_PROGRESS_ROWS = 1_000_000


class Suppressed(NamedTuple):
    """A campaign in three parts; together they hold each of its rows once, in order.

    Attributes:
        clean: Whom to text.
        blocked: Who has opted out, with `first_stop_at` (UTC; null where no date is known).
        invalid: What bears no number that could be held against the list, with the `reason`.
    """

    clean: pd.DataFrame
    blocked: pd.DataFrame
    invalid: pd.DataFrame


@dataclass(frozen=True)
class SuppressedFile:
    """What came of a campaign's file.

    Attributes:
        form: What the file is, in words.
        rows: How many rows it has, its header aside.
        parts: The path and the rows of “clean”, “blocked” and “invalid”.
        verified_at: When the list was last proven whole; of several accounts, the earliest time.
    """

    form: str
    rows: int
    parts: dict[str, tuple[Path, int]]
    verified_at: datetime


@dataclass(frozen=True)
class Listed:
    """Whom not to text, over some accounts.

    Attributes:
        keys: What the numbers are read as, each once.
        first_stop_at: The earliest opt-out of each; null where no date is known.
        verified_at: When the list was last proven whole; of several accounts, the earliest time.
    """

    keys: "pd.Index[str]"
    first_stop_at: pa.Array
    verified_at: datetime

    @classmethod
    def of(cls, suppression_list: pa.Table, verified_at: datetime) -> "Listed":
        """The numbers of a table with the columns of `schema.SUPPRESSION_LIST`, of one account or several."""
        numbers = pa.table(
            {
                "key": read(suppression_list["phone_number"].combine_chunks()).keys,
                "first_stop_at": suppression_list["first_stop_at"],
            }
        )
        earliest = numbers.group_by("key").aggregate([("first_stop_at", "min")]).combine_chunks()
        return cls(_index(earliest["key"]), earliest["first_stop_at_min"].combine_chunks(), verified_at)


@dataclass(frozen=True)
class Readings:
    """What spellings are read as, row by row.

    Attributes:
        keys: Equal for spellings of the same number; null for null.
        numbers: Whether it is the number of a country.
        rounded: Whether digits are missing.
    """

    keys: pa.Array
    numbers: pa.Array
    rounded: pa.Array


@dataclass(frozen=True)
class Verdicts:
    """What becomes of rows, one by one: one of the three holds for each.

    Attributes:
        clean, blocked, invalid: Whether this is the one.
        first_stop_at: Of the rows that are blocked, in order.
        reason: Of the rows that are invalid, in order.
    """

    clean: NDArray[np.bool_]
    blocked: NDArray[np.bool_]
    invalid: NDArray[np.bool_]
    first_stop_at: pa.Array
    reason: pa.Array


def read(spellings: pa.Array) -> Readings:
    """Read phone numbers that a spreadsheet may have been at.

    Nine digits have lost their zero, more their plus. Digits with an exponent count if none is missing. What follows
    +33 is read as if it followed a zero.
    """
    text = pc.utf8_trim_whitespace(spellings)
    text = pc.replace_substring_regex(text, pattern=_FORCED_TEXT, replacement=r"\1")
    text = pc.replace_substring_regex(text, pattern=_WHOLE_WITH_DECIMALS, replacement=r"\1")
    parts = pc.extract_regex(text, pattern=_WITH_EXPONENT)
    first, rest, exponent = (pc.struct_field(parts, name) for name in ("first", "rest", "exponent"))
    exact = pc.fill_null(pc.equal(pc.utf8_length(rest), exponent.cast(pa.int32())), fill_value=False)
    text = pc.if_else(exact, pc.binary_join_element_wise(first, rest, ""), text)
    bare = compact_spellings(text)
    lost_zero = pc.match_substring_regex(bare, pattern=_LOST_ZERO)
    lost_plus = pc.match_substring_regex(bare, pattern=_LOST_PLUS)
    lost = pc.if_else(lost_zero, "0", pc.if_else(lost_plus, "+", ""))
    found = pc.binary_join_element_wise(lost, bare, "")
    # Who knows of one France only writes +33 before an overseas number: +33 692… is 0692… is +262 692…
    found = pc.replace_substring_regex(found, pattern=_AFTER_33, replacement=r"0\1")
    numbers, countries = read_phone_numbers(found)
    return Readings(
        keys=compact_spellings(numbers),
        numbers=pc.is_valid(countries),
        rounded=pc.and_(pc.is_valid(parts), pc.invert(exact)),
    )


def judge(spellings: pa.Array, listed: Listed, faults: pa.Array | None = None) -> Verdicts:
    """Hold a campaign's phone numbers against the list.

    Args:
        spellings: The numbers as text; null if there is none.
        listed: Whom not to text.
        faults: Why a row cannot be read, which makes it invalid; null for all others. Such a row has no spelling.
    """
    readings = read(spellings)
    position = listed.keys.get_indexer(_index(readings.keys))
    reason = pc.if_else(readings.numbers, None, NOT_A_NUMBER)
    reason = pc.if_else(readings.rounded, ROUNDED, reason)
    reason = pc.if_else(pc.fill_null(pc.equal(readings.keys, ""), fill_value=True), NO_NUMBER, reason)
    # Last: of a listed spelling that is no number anywhere, the list is right.
    reason = pc.if_else(pa.array(position >= 0), None, reason)
    if faults is not None:
        reason = pc.coalesce(faults, reason)
    blocked = position >= 0
    invalid = np.asarray(reason.is_valid())
    return Verdicts(
        clean=~blocked & ~invalid,
        blocked=blocked,
        invalid=invalid,
        first_stop_at=listed.first_stop_at.take(pa.array(position[blocked])),
        reason=reason.drop_null(),
    )


def suppress(
    df: pd.DataFrame,
    column: str = "phone",
    root: str | Path | None = None,
    account: str | None = None,
    max_age: timedelta | str = DEFAULT_MAX_AGE,
) -> Suppressed:
    """Split a campaign into whom to text, who has opted out, and what is no phone number.

    All spellings of a number meet: `06 12 34 56 78`, `0033…`, `+33…`, `33…`, and what a spreadsheet makes of them
    (`612345678`, `612345678.0`, `6,12345678E+08`). The index and the other columns are carried along untouched.

    Args:
        df: The campaign.
        column: The column of its phone numbers, of text or of numbers.
        root: As in `read_stops`.
        account: Block what this account's list holds. By default a number on the list of any account is blocked: of
            those below the data root, and those that `SMSPARTNER_ACCOUNTS` names.
        max_age: How long ago each list may have been verified (fetched, and proven whole): a timedelta, or a text such
            as “24h”, “90m” or “2d”.

    Returns:
        Three DataFrames, `clean`, `blocked` and `invalid`.

    Raises:
        UnfitListError: there is no list, it is older than `max_age`, or it is behind the last commit.
        CampaignError: there is no such column, it is neither text nor numbers, or the result's columns are there.
        ValueError: `max_age` is no age.
    """
    columns = [str(name) for name in df.columns]
    values = df.iloc[:, position_of(column, columns, "The campaign")]
    refuse_taken_names(columns, (FIRST_STOP_AT.name, REASON.name), "The campaign")
    if values.dtype == object:
        values = values.map(str, na_action="ignore")  # a spreadsheet's column may hold text and numbers
    age = max_age if isinstance(max_age, timedelta) else parse_age(max_age)
    listed = current_list(root, account, max_age=age)
    verdicts = judge(as_text(pa.array(values, from_pandas=True)), listed)
    return Suppressed(
        clean=df[verdicts.clean],
        blocked=_with_column(df[verdicts.blocked], FIRST_STOP_AT, verdicts.first_stop_at),
        invalid=_with_column(df[verdicts.invalid], REASON, verdicts.reason),
    )


def suppress_file(
    path: Path, column: str, into: Path, *, root: str | Path | None, account: str | None, max_age: timedelta
) -> SuppressedFile:
    """Split a campaign's file into three of the same form, in a folder that appears once all are complete.

    Args:
        path: A file that `campaign.open_campaign` can read.
        column: The column of its phone numbers.
        into: The folder to make.
        root: As in `suppress`.
        account: As in `suppress`.
        max_age: As in `suppress`.

    Raises:
        UnfitListError: as in `suppress`.
        CampaignError: the file cannot be read or has no such column, or the folder is not empty or cannot be written.
    """
    listed = current_list(root, account, max_age=max_age)
    campaign = open_campaign(path, column, (FIRST_STOP_AT.name, REASON.name))
    names = {name: f"{name}{campaign.suffix}" for name in Suppressed._fields}
    rows = dict.fromkeys(names, 0)
    with appearing_whole(into) as folder, ExitStack() as stack:
        clean, blocked, invalid = (
            stack.enter_context(campaign.part(folder / names[name], added))
            for name, added in zip(names, (None, FIRST_STOP_AT, REASON), strict=True)
        )
        total = 0
        for batch in campaign.batches():
            verdicts = judge(batch.spellings, listed, batch.faults)
            clean.write(batch.rows, verdicts.clean)
            blocked.write(batch.rows, verdicts.blocked, verdicts.first_stop_at)
            invalid.write(batch.rows, verdicts.invalid, verdicts.reason)
            for name in names:
                rows[name] += int(getattr(verdicts, name).sum())
            if (total + len(batch.spellings)) // _PROGRESS_ROWS > total // _PROGRESS_ROWS:
                log.info("%s: %s rows so far", path, f"{total + len(batch.spellings):,}")
            total += len(batch.spellings)
    parts = {name: (into / names[name], rows[name]) for name in names}
    return SuppressedFile(campaign.form, total, parts, listed.verified_at)


def current_list(root: str | Path | None, account: str | None, *, max_age: timedelta) -> Listed:
    """The suppression list of one account, or of all together, if it can be relied on now.

    Raises:
        UnfitListError: there is no list of an account, it was verified longer than `max_age` ago, or it is behind the
            account's last commit.
    """
    problem = None
    try:
        store = existing_store(root)
        now = datetime.now(UTC)
        accounts = _accounts(store) if account is None else [account]
        verified_at = [_verified_at(store, name, now=now, max_age=max_age) for name in accounts]
        lists = [store.tables.read_derived(SUPPRESSION_LIST, name) for name in accounts]
    except StoreError as error:
        problem = str(error)
    if problem is not None:
        raise UnfitListError(problem)
    if not accounts:
        raise UnfitListError(f"There is no list below {store.root} yet: run “stop-pipeline run” first.")
    return Listed.of(pa.concat_tables(lists), min(verified_at))


def parse_age(text: str) -> timedelta:
    """The length of time that a text such as “24h”, “90m” or “2d” names.

    Raises:
        ValueError: it names none.
    """
    parts = _AGE.fullmatch(text.strip())
    if parts is None:
        raise ValueError(f"{text!r} is no age: write a number and m, h or d, such as 24h, 90m or 2d.")
    return timedelta(**{_AGE_UNITS[parts[2]]: int(parts[1])})


def _accounts(store: Store) -> list[str]:
    """The accounts that the data root holds anything of, and those that the environment names."""
    named = Settings.from_environment().accounts if os.environ.get("SMSPARTNER_ACCOUNTS") else ()
    return sorted({*store.accounts_seen(), *named})


def _verified_at(store: Store, account: str, *, now: datetime, max_age: timedelta) -> datetime:
    """When the account's list was last proven whole, if that is not too long ago and the list is that of the commit."""
    state = store.state(account)
    tick = f"run “stop-pipeline run --account {account}” first"
    if state.commit is None:
        raise UnfitListError(f"There is no list of the account “{account}” below {store.root}: {tick}.")
    if state.verified_at is None:
        raise UnfitListError(f"The list of the account “{account}” was never proven whole: {tick}.")
    if state.verified_at > now + CLOCK_TOLERANCE:
        raise UnfitListError(
            f"The list of the account “{account}” was verified at {state.verified_at:%Y-%m-%d %H:%M} UTC, which is yet "
            "to come: set this machine's clock."
        )
    if now - state.verified_at > max_age:
        raise UnfitListError(
            f"The list of the account “{account}” was last verified at {state.verified_at:%Y-%m-%d %H:%M} UTC, longer "
            f"than {max_age / timedelta(hours=1):g} h ago: {tick}, or allow more with --max-age."
        )
    derived = store.derived(SUPPRESSION_LIST, account)
    if derived is None or derived.commit != state.commit:
        raise UnfitListError(
            f"The suppression_list of the account “{account}” is behind its last commit: {tick}, or let the tick end "
            "that is running."
        )
    return state.verified_at


def _index(keys: pa.Array) -> "pd.Index[str]":
    strings: pd.Series[str] = keys.to_pandas()
    return pd.Index(strings)


def _with_column(rows: pd.DataFrame, field: pa.Field, values: pa.Array) -> pd.DataFrame:
    return rows.assign(**{field.name: pd.Series(values.to_pandas().array, index=rows.index)})
