"""What a response changes: the set difference between the open rows and the listed rows, and how much of it may happen.

A row is (`id`, `phone_number`, `created_at_local`). A listed row that is not open is added; an open row that is not
listed ends. Pure functions: `compare` finds the difference, `plan_merge` decides by the removal policy what of it may
happen, and `apply` makes it happen.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd

from stop_pipeline.errors import ConfigurationError, ForeignListError, counted
from stop_pipeline.phone_numbers import is_e164
from stop_pipeline.schema import REJECTED, REJECTED_ROWS, STOPS, TableSchema
from stop_pipeline.table.derive import blocked_numbers
from stop_pipeline.table.periods import REJECTED_ORDER, ROW, STOPS_ORDER, open_rows
from stop_pipeline.table.state import Counts, Removal, State

MAX_REMOVED_SHARE = 0.05
ALWAYS_ALLOWED = 20
WINDOW = timedelta(hours=24)

_SPELLED_ID = re.compile(r"0*([0-9]+)(?:\.0)?")

FOREIGN_LIST_ROWS = 20
"""With this many open rows, a list that shares no `id` with them belongs to another account."""


@dataclass(frozen=True)
class RemovalPolicy:
    """How many open rows may end without approval.

    Within 24 hours `max_removed_share` of the rows that were open before the first of these ends may end, or
    `ALWAYS_ALLOWED` rows if that is more, but never more than half. Malformed rows count too, if a number leaves the
    list with them. An id that is still listed, but without a number that can be read, shows no removal: then none may
    end.
    """

    max_removed_share: float = MAX_REMOVED_SHARE
    accept_removals: int | None = None  # the largest number of ends that a person allows this once

    def __post_init__(self) -> None:
        if not 0 <= self.max_removed_share <= 1:
            raise ConfigurationError(f"max_removed_share is {self.max_removed_share}: it must be between 0 and 1.")
        if self.accept_removals is not None and self.accept_removals < 0:
            raise ConfigurationError(f"accept_removals is {self.accept_removals}: it must be 0 or more.")

    def objection(
        self,
        *,
        ends: int,
        altered: int,
        malformed: int,
        complete: bool,
        open_rows: int,
        withheld_from: int | None,
        recent: Sequence[Removal],
    ) -> str | None:
        """Why the ends must be withheld, as a part of a sentence; None if they can be applied.

        Of the rows that would end, `altered` ones are listed under their `id` with another number or time, `malformed`
        ones in a form that is rejected, and the others are not listed. `open_rows` is the number of open rows before
        this response, and `withheld_from` the one when withholding began (None if nothing is withheld): what has been
        added since does not raise the allowance, or the next response would remove what this one may not. `recent` are
        the removals of the last 24 hours.
        """
        if ends == 0:
            return None
        if not complete:
            return "the response is not complete"
        vanished = ends - altered - malformed
        parts = {"no longer listed": vanished, "altered": altered, "no longer well-formed": malformed}
        what = " and ".join(f"{counted(rows, 'row')} {how}" for how, rows in parts.items() if rows)
        if self.accept_removals is not None:
            if ends <= self.accept_removals:
                return None
            return f"{what}, more than the {self.accept_removals:,} accepted"
        used = sum(removal.rows for removal in recent)
        before = used + (open_rows if withheld_from is None else min(open_rows, withheld_from))
        measured_against = min(before, recent[0].open_rows) if recent else before
        share = int(self.max_removed_share * measured_against)
        allowed = min(max(share, ALWAYS_ALLOWED), measured_against // 2)
        if ends + used <= allowed:
            return None
        already = f", after {counted(used, 'row')} that ended already" if used else ""
        return f"{what}{already}, more than the {allowed:,} of {measured_against:,} that may end within 24 hours"


def recent_removals(removals: Sequence[Removal], at: datetime) -> tuple[Removal, ...]:
    """The removals of the 24 hours before a time."""
    return tuple(removal for removal in removals if removal.at > at - WINDOW)


@dataclass(frozen=True)
class Diff:
    """How listed rows differ from open rows."""

    added: pd.DataFrame  # listed rows that are not open (`schema.LISTED`), and `restored`: whether the row ended before
    ended: pd.DataFrame  # open rows that are not listed (`schema.STOPS`), under their index in the table compared
    open_rows: int
    shares_ids: bool  # whether the list has the `id` of any open row


@dataclass(frozen=True)
class MergePlan:
    """What a response does to an account."""

    counts: Counts
    withheld_because: str | None  # why ends are withheld; None if none are
    withheld_from: int | None  # open rows when withholding began; None if nothing is withheld
    removals: tuple[Removal, ...]  # of the last 24 hours, those of this response included


def compare(stops: pd.DataFrame, listed: pd.DataFrame) -> Diff:
    """Compare periods (`schema.STOPS`) with listed rows (`schema.LISTED`, each `id` once)."""
    standing = open_rows(stops)
    pairs = standing[ROW].reset_index().merge(listed[ROW].reset_index(), on="id", suffixes=("", "_listed"))
    unchanged = pairs.query("phone_number == phone_number_listed and created_at_local == created_at_local_listed")
    added = listed[~listed.index.isin(unchanged["index_listed"])]
    return Diff(
        added=added.assign(restored=_is_in(added, stops[stops["removed_at"].notna()])),
        ended=standing[~standing.index.isin(unchanged["index"])],
        open_rows=len(standing),
        shares_ids=not pairs.empty,
    )


def plan_merge(
    diff: Diff,
    *,
    unchanged_elsewhere: int,
    complete: bool,
    policy: RemovalPolicy,
    state: State,
    fetched_at: datetime,
    standing: pd.DataFrame | None = None,
    malformed: pd.DataFrame = REJECTED_ROWS.empty,
    malformed_vanished: pd.DataFrame = REJECTED_ROWS.empty,
) -> MergePlan:
    """Decide what a response may do, whose list differs so from the months compared.

    `unchanged_elsewhere` counts the open rows of the other months, all listed. `standing` is all open rows, if removals
    are withheld: what replaces an altered row is open already then. `malformed` are the response's malformed rows, and
    `malformed_vanished` earlier ones that are no longer listed, and neither is a number that they block.

    Raises:
        ForeignListError: the list belongs to another account.
    """
    added, ended = diff.added, diff.ended
    open_total = unchanged_elsewhere + diff.open_rows
    replaced = _counterparts(ended, added)
    replacing = added if standing is None else pd.concat([added, standing[~_is_in(standing, ended)]])
    is_altered = _counterparts(ended, replacing)
    altered, rejected = int(is_altered.sum()), int(_ids_of(ended[~is_altered]).isin(_ids_of(malformed)).sum())
    ends = len(ended) + len(malformed_vanished)
    changed = _counterparts(added, ended)
    if not (unchanged_elsewhere or diff.shares_ids):
        _refuse_foreign_list(len(added), open_total, int(replaced.sum()))
    recent = recent_removals(state.removals, fetched_at)
    objection = policy.objection(
        ends=ends,
        altered=altered,
        malformed=rejected,
        complete=complete,
        open_rows=open_total,
        withheld_from=state.withheld_from,
        recent=recent,
    )
    removals = [Removal(fetched_at, ends, open_total)] if ends and policy.accept_removals is None else []
    if removals and objection is None:
        objection = _still_listed(ended, malformed_vanished, replacing, malformed)
    withheld_from = open_total if state.withheld_from is None else min(open_total, state.withheld_from)
    return MergePlan(
        counts=Counts(
            listed=open_total - len(ended) + len(added),
            new=int((~changed & ~added["restored"]).sum()),
            changed=int(changed.sum()),
            restored=int((~changed & added["restored"]).sum()),
            unchanged=open_total - len(ended),
            removed=0 if objection else int((~replaced).sum()),
            withheld=ends if objection else 0,
            withheld_altered=altered if objection else 0,
        ),
        withheld_because=objection,
        withheld_from=withheld_from if objection else None,
        removals=recent if objection else (*recent, *removals),
    )


def apply(stops: pd.DataFrame, diff: Diff, plan: MergePlan, *, fetched_at: datetime) -> pd.DataFrame:
    """Every period of the months that change (`schema.STOPS`), sorted, given all periods that were compared."""
    moment = pd.Timestamp(fetched_at).as_unit("us")
    ended = diff.ended if plan.withheld_because is None else diff.ended.iloc[:0]
    months, *changed = (rows["created_at_local"].dt.to_period("M") for rows in (stops, diff.added, ended))
    periods = stops[months.isin(pd.concat(changed))]
    periods = periods.assign(removed_at=periods["removed_at"].mask(periods.index.isin(ended.index), moment))
    return _with_added(periods, diff.added.assign(first_seen_at=moment), STOPS, STOPS_ORDER)


def merge_rejected(
    rejected: pd.DataFrame,
    malformed: pd.DataFrame,
    *,
    fetched_at: datetime,
    sha256: str,
    removals_withheld: bool,
) -> pd.DataFrame:
    """The same set difference for malformed rows, by their raw text: all periods after the merge, sorted.

    `rejected` and the result are `schema.REJECTED`, `malformed` the rows of the response (`schema.REJECTED_ROWS`). Rows
    that are no longer listed stay open if removals are withheld.
    """
    moment = pd.Timestamp(fetched_at).as_unit("us")
    is_open = rejected["removed_at"].isna()
    added = malformed[~malformed["raw"].isin(rejected.loc[is_open, "raw"])]
    if not removals_withheld:
        ends = is_open & ~rejected["raw"].isin(malformed["raw"])
        rejected = rejected.assign(removed_at=rejected["removed_at"].mask(ends, moment))
    added = added.assign(first_seen_at=moment, snapshot_sha256=pd.Series(sha256, index=added.index, dtype="str"))
    return _with_added(rejected, added, REJECTED, REJECTED_ORDER)


def _refuse_foreign_list(listed: int, standing: int, replaced: int) -> None:
    """Refuse a list under other ids, unless it has most of the numbers and times: then the provider has renumbered."""
    if listed and standing >= FOREIGN_LIST_ROWS and 2 * replaced <= standing:
        raise ForeignListError(
            f"The list of {counted(listed, 'row')} shares no id with the {standing:,} open rows: it probably belongs "
            "to another account. Nothing was changed; check which API key belongs to which account. If it is the right "
            "one, and its list began anew, sync it under a new account name and “stop-pipeline retire” this one, whose "
            "numbers then stay blocked."
        )


def _still_listed(
    ended: pd.DataFrame, malformed_ended: pd.DataFrame, listed: pd.DataFrame, malformed: pd.DataFrame
) -> str | None:
    """How many of the ended rows are listed without their number, as a part of a sentence; None if none are.

    They are so if their id is listed, but no longer blocks a phone number. `listed` are the good rows that the others
    could have become.
    """
    were = _with_ids(ended, malformed_ended)
    ids = pd.concat(were)["id"].dropna()  # a malformed row may have none
    are = [rows[rows["id"].isin(ids)] for rows in _with_ids(listed, malformed)]
    blocked, blocking = (blocked_numbers(*rows).numbers for rows in (were, are))
    before, now = (numbers.loc[is_e164(numbers["phone_number"]), "id"] for numbers in (blocked, blocking))
    rows = before[before.isin(pd.concat(are)["id"]) & ~before.isin(now)].nunique()
    if rows == 0:
        return None
    still = "is still listed, but without a number" if rows == 1 else "are still listed, but without numbers"
    return f"{counted(rows, 'row')} {still} that can be read"


def _with_ids(good: pd.DataFrame, malformed: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Good and malformed rows as `blocked_numbers` takes them, with their ids as text."""
    return (
        good[["phone_number", "country"]].assign(id=_ids_of(good)),
        malformed.assign(id=_ids_of(malformed)),
    )


def _ids_of(rows: pd.DataFrame) -> "pd.Series[str]":
    """The ids of good or of malformed rows as text; null where a malformed row has none."""
    if "id" in rows:
        return rows["id"].astype("str")
    return rows["raw"].map(_id_of_malformed).astype("str")


def _id_of_malformed(raw: str) -> str | None:
    """The id in a malformed row, which may be spelled in a way that makes it unusable, or come first in a list."""
    with suppress(ValueError, RecursionError):
        match json.loads(raw, parse_int=str, parse_float=str):
            case {"id": str(spelled)} | [str(spelled), *_]:
                found = _SPELLED_ID.fullmatch(spelled)
                return found[1] if found else None
    return None


def _counterparts(rows: pd.DataFrame, others: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each row is in the other table under the same `id`, or with the same number and time."""
    return rows["id"].isin(others["id"]) | _is_in(rows, others, ROW[1:])


def _is_in(rows: pd.DataFrame, others: pd.DataFrame, on: list[str] = ROW) -> "pd.Series[bool]":
    """Whether each row is in the other table."""
    if rows.empty or others.empty:
        return pd.Series(False, index=rows.index)  # noqa: FBT003 – a value
    side = rows[on].merge(others[on].drop_duplicates(), how="left", on=on, indicator=True)["_merge"]
    return pd.Series(side.eq("both").to_numpy(), index=rows.index)


def _with_added(periods: pd.DataFrame, added: pd.DataFrame, schema: TableSchema, order: list[str]) -> pd.DataFrame:
    added = added.assign(removed_at=pd.Series(pd.NaT, index=added.index, dtype=schema.dtypes["removed_at"]))
    added = added[list(schema.names)]
    if periods.empty or added.empty:
        return (added if periods.empty else periods).reset_index(drop=True)
    return pd.concat([periods, added]).sort_values(order, ignore_index=True)
