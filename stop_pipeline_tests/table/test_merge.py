"""Rows split by month and merged month by month, without a file, give the set difference in plain Python."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stop_pipeline.errors import ForeignListError
from stop_pipeline.schema import LISTED, REJECTED, REJECTED_ROWS, STOPS
from stop_pipeline.table.merge import Diff, MergePlan, RemovalPolicy, apply, compare, merge_rejected, plan_merge
from stop_pipeline.table.periods import STOPS_ORDER, split_by_month
from stop_pipeline.table.state import Removal, State
from stop_pipeline_tests.support.parsing import records

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
NUMBERS = ["+33639980001", "+33639980002", "0033"]
DAYS = [datetime(2025, month, day) for month in (1, 2) for day in (1, 31 if month == 1 else 28)]  # noqa: DTZ001 – local times


class Listed(NamedTuple):
    id: int
    phone_number: str
    created_at_local: datetime


class Period(NamedTuple):
    row: Listed
    first_seen_at: datetime
    removed_at: datetime | None


LISTED_ROWS = st.builds(Listed, st.integers(1, 30), st.sampled_from(NUMBERS), st.sampled_from(DAYS))
RESPONSES = st.lists(LISTED_ROWS, max_size=40, unique_by=lambda row: row.id)


def renumbered(rows: Collection[Listed], by: int) -> list[Listed]:
    return [row._replace(id=row.id + by) for row in rows]


@st.composite
def histories(draw: st.DrawFn) -> list[Period]:
    """Periods that syncs can have left, ends withheld or not: of each row one at most is open, none overlap."""
    periods: dict[Listed, Period] = {}
    ended: list[Period] = []
    for hour, response in enumerate(draw(st.lists(RESPONSES, max_size=3))):
        at = NOW - timedelta(hours=10 - hour)
        if draw(st.booleans()):
            ended += [periods.pop(row)._replace(removed_at=at) for row in periods.keys() - set(response)]
        for row in response:
            periods.setdefault(row, Period(row, at, None))
    return [*periods.values(), *ended]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Period], list[Listed]]:
    """A history, and a response: any, or most of the open rows under other ids."""
    known = draw(histories())
    standing = sorted({period.row for period in known if period.removed_at is None})
    if not draw(st.integers(0, 3)):
        gone = draw(st.sets(st.integers(0, 40), max_size=20))
        by_id = {row.id: row for at, row in enumerate(standing) if at not in gone}
        return known, renumbered(by_id.values(), 100)
    return known, draw(RESPONSES)


def as_stops(periods: Collection[Period]) -> pd.DataFrame:
    """`schema.STOPS`, sorted."""
    frame = pd.DataFrame(
        {
            "id": [period.row.id for period in periods],
            "phone_number": [period.row.phone_number for period in periods],
            "country": pd.Series([None for _ in periods], dtype="str"),
            "created_at": pd.to_datetime([period.row.created_at_local for period in periods], utc=True),
            "created_at_local": [period.row.created_at_local for period in periods],
            "first_seen_at": [period.first_seen_at for period in periods],
            "removed_at": pd.Series([period.removed_at for period in periods], dtype=STOPS.dtypes["removed_at"]),
        }
    )
    return frame.astype(STOPS.dtypes).sort_values(STOPS_ORDER, ignore_index=True)


def as_listed(rows: Collection[Listed]) -> pd.DataFrame:
    """`schema.LISTED`, sorted."""
    return as_stops([Period(row, NOW, None) for row in rows])[list(LISTED.names)]


def as_periods(stops: pd.DataFrame) -> list[Period]:
    names = ("id", "phone_number", "created_at_local", "first_seen_at", "removed_at")
    return [
        Period(
            Listed(row[0], row[1], row[2].to_pydatetime()),
            row[3].to_pydatetime(),
            None if pd.isna(row[4]) else row[4].to_pydatetime(),
        )
        for row in stops[list(names)].itertuples(index=False, name=None)
    ]


def compared(known: Collection[Period], response: Collection[Listed]) -> Diff:
    return compare(as_stops(known), as_listed(response))


def planned(
    diff: Diff,
    *,
    elsewhere: int = 0,
    complete: bool = True,
    policy: RemovalPolicy = RemovalPolicy(max_removed_share=1.0),  # noqa: B008 – it is frozen
    state: State = State(),  # noqa: B008
) -> MergePlan:
    return plan_merge(
        diff, unchanged_elsewhere=elsewhere, complete=complete, policy=policy, state=state, fetched_at=NOW
    )


POLICIES = st.builds(RemovalPolicy, st.sampled_from([0.0, 0.05, 1.0]), st.none() | st.integers(0, 40))
STATES = st.builds(
    lambda withheld_from, removals: State(withheld_from=withheld_from, removals=tuple(removals)),
    st.none() | st.integers(1, 60),
    st.lists(
        st.builds(
            lambda hours, rows, of: Removal(NOW - timedelta(hours=hours), rows, of),
            st.integers(1, 30),
            st.integers(1, 10),
            st.integers(20, 60),
        ),
        max_size=2,
    ),
)


@settings(max_examples=30, deadline=None)
@given(case=cases(), complete=st.booleans(), policy=POLICIES, state=STATES)
def test_the_merge_is_the_set_difference_of_all_rows(
    case: tuple[list[Period], list[Listed]], *, complete: bool, policy: RemovalPolicy, state: State
) -> None:
    known, response = case
    standing = {period.row for period in known if period.removed_at is None}
    ended = {period.row for period in known if period.removed_at is not None}
    added, gone = set(response) - standing, standing - set(response)

    def altered(row: Listed, others: set[Listed]) -> bool:
        return any(row.id == other.id or row[1:] == other[1:] for other in others)

    diff = compared(known, response)
    shared = {row.id for row in response} & {row.id for row in standing}
    same_rows = [row for row in standing if row[1:] in {other[1:] for other in response}]
    foreign = bool(response) and len(standing) >= 20 and not shared and len(same_rows) * 2 <= len(standing)
    if foreign:
        with pytest.raises(ForeignListError):
            planned(diff, complete=complete, policy=policy, state=state)
        return

    plan = planned(diff, complete=complete, policy=policy, state=state)

    changed = [row for row in added if altered(row, gone)]
    restored = [row for row in added if row in ended and row not in changed]
    vanished = [row for row in gone if not altered(row, added)]
    recent = tuple(removal for removal in state.removals if removal.at > NOW - timedelta(hours=24))
    objection = policy.objection(
        ends=len(gone),
        altered=len(gone) - len(vanished),
        malformed=0,
        complete=complete,
        open_rows=len(standing),
        withheld_from=state.withheld_from,
        recent=recent,
    )
    counts = plan.counts
    assert (counts.listed, counts.unchanged) == (len(response), len(standing - gone))
    assert (counts.changed, counts.restored) == (len(changed), len(restored))
    assert counts.new == len(added) - len(changed) - len(restored)
    assert plan.withheld_because == objection
    assert plan.withheld_from == (min(len(standing), state.withheld_from or len(standing)) if objection else None)
    assert (counts.withheld, counts.withheld_altered) == (
        (len(gone), len(gone) - len(vanished)) if objection else (0, 0)
    )
    assert counts.removed == (0 if objection else len(vanished))
    went = [Removal(NOW, len(gone), len(standing))] if gone and not objection and policy.accept_removals is None else []
    assert plan.removals == (*recent, *went)

    ends = {period: period._replace(removed_at=NOW) for period in known if period.row in gone and not objection}
    expected = [period if period.removed_at else ends.get(period, period) for period in known]
    expected += [Period(row, NOW, None) for row in added]
    assert after(known, diff, plan) == sorted(expected, key=in_order)


def after(known: Collection[Period], diff: Diff, plan: MergePlan) -> list[Period]:
    """All periods after the sync, in the order in which they are written; only months that change are given anew."""
    before = as_stops(known)
    merged = apply(before, diff, plan, fetched_at=NOW)
    assert {name: str(dtype) for name, dtype in merged.dtypes.items()} == STOPS.dtypes
    assert merged.index.equals(pd.RangeIndex(len(merged)))
    old, new = split_by_month(before), split_by_month(merged)
    assert all(not rows.reset_index(drop=True).equals(old.get(month, STOPS.empty)) for month, rows in new.items())
    return [period for _, rows in sorted({**old, **new}.items()) for period in as_periods(rows)]


def in_order(period: Period) -> tuple[datetime, int, datetime, str]:
    row = period.row
    return row.created_at_local, row.id, period.first_seen_at, row.phone_number


@settings(max_examples=15, deadline=None)
@given(case=cases(), complete=st.booleans())
def test_months_that_are_left_out_since_nothing_changed_in_them_change_nothing(
    case: tuple[list[Period], list[Listed]], *, complete: bool
) -> None:
    known, response = case
    before, listed = split_by_month(as_stops(known)), split_by_month(as_listed(response))
    empty = (STOPS.empty, LISTED.empty)
    by_month = {
        month: (before.get(month, empty[0]), listed.get(month, empty[1])) for month in sorted({*before, *listed})
    }
    same = {month: compare(*rows) for month, rows in by_month.items()}
    same = {month: diff for month, diff in same.items() if diff.added.empty and diff.ended.empty}
    differ = [rows for month, rows in by_month.items() if month not in same]
    stops, rows = (pd.concat([none, *parts], ignore_index=True) for none, *parts in zip(empty, *differ, strict=True))

    def plan(diff: Diff, elsewhere: int) -> MergePlan | str:
        try:
            return planned(diff, elsewhere=elsewhere, complete=complete, policy=RemovalPolicy())
        except ForeignListError as error:
            return str(error)

    unchanged = sum(diff.open_rows for diff in same.values())
    assert plan(compare(stops, rows), unchanged) == plan(compared(known, response), 0)


# Another account's list, and one that was renumbered


def rows_of(count: int, *, first_id: int = 1) -> list[Listed]:
    start = datetime(2025, 1, 1)  # noqa: DTZ001 – a local time
    return [
        Listed(first_id + at, f"+3363998{at:04}", start + timedelta(days=at % 28, hours=at // 28))
        for at in range(count)
    ]


def open_periods(rows: list[Listed]) -> list[Period]:
    return [Period(row, NOW - timedelta(days=9), None) for row in rows]


@pytest.mark.parametrize(("same", "accepted"), [(0, False), (5, False), (10, False), (11, True), (20, True)])
def test_a_list_of_other_ids_is_this_accounts_if_it_has_most_open_rows_numbers_and_times(
    same: int, *, accepted: bool
) -> None:
    known = rows_of(20)
    response = [*renumbered(known[:same], 100), *rows_of(20, first_id=500)[same:]]
    response = [row if row.id < 500 else row._replace(phone_number="+33639989999") for row in response]
    diff = compared(open_periods(known), response)
    if not accepted:
        with pytest.raises(ForeignListError, match="shares no id with the 20 open rows"):
            planned(diff)
        return
    counts = planned(diff, policy=RemovalPolicy(accept_removals=20)).counts
    assert (counts.changed, counts.new) == (same, 20 - same)
    assert counts.removed == 20 - same


@pytest.mark.parametrize(("stored", "refused"), [(19, False), (20, True)])
def test_fewer_than_twenty_open_rows_say_nothing_about_whose_list_it_is(stored: int, *, refused: bool) -> None:
    response = [row._replace(phone_number="+33639989999") for row in rows_of(19, first_id=1_000)]
    diff = compared(open_periods(rows_of(stored)), response)
    if refused:
        with pytest.raises(ForeignListError):
            planned(diff)
    else:
        assert planned(diff).counts.new == 19


# Malformed rows

RAWS = st.frozensets(st.sampled_from(["1", "2", "[3]", '{"id":4}']))


def as_malformed(raws: Collection[str]) -> pd.DataFrame:
    frame = pd.DataFrame({"raw": sorted(raws), "reason": "no usable id", "phone_number": None})
    return frame.astype(REJECTED_ROWS.dtypes)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(RAWS, st.booleans()), max_size=5))
def test_malformed_rows_are_kept_as_the_set_difference_by_their_raw_text(
    steps: list[tuple[frozenset[str], bool]],
) -> None:
    rejected, model = REJECTED.empty, list[tuple[str, datetime, datetime | None, str]]()
    for hour, (raws, withheld) in enumerate(steps):
        at, sha256 = NOW + timedelta(hours=hour), f"sha{hour}"
        rejected = merge_rejected(
            rejected, as_malformed(raws), fetched_at=at, sha256=sha256, removals_withheld=withheld
        )
        standing = {raw for raw, _, removed_at, _ in model if removed_at is None}
        if not withheld:
            model = [
                (raw, seen, at if removed is None and raw not in raws else removed, sha)
                for raw, seen, removed, sha in model
            ]
        model += [(raw, at, None, sha256) for raw in raws - standing]
        assert {name: str(dtype) for name, dtype in rejected.dtypes.items()} == REJECTED.dtypes
        assert [
            (row["raw"], row["first_seen_at"], row["removed_at"], row["snapshot_sha256"]) for row in records(rejected)
        ] == sorted(model, key=lambda row: row[:2])
