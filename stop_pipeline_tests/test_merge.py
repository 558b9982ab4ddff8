"""Rows split by month and merged month by month, without a file, give the set difference in plain Python."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stop_pipeline.errors import ForeignListError
from stop_pipeline.guard import Guard
from stop_pipeline.merge import MonthChange, Verdict, bring_in, compare_month, judge
from stop_pipeline.periods import STOPS_ORDER, split_by_month
from stop_pipeline.schema import LISTED, STOPS

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
NUMBERS = ["+33639980001", "+33639980002", "0033"]
DAYS = [datetime(2025, month, day) for month in (1, 2) for day in (1, 31 if month == 1 else 28)]  # noqa: DTZ001 – wall clocks


class Listed(NamedTuple):
    id: int
    phone_number: str
    created_at_local: datetime

    @property
    def month(self) -> str:
        return f"{self.created_at_local:%Y-%m}"


class Period(NamedTuple):
    row: Listed
    first_seen_at: datetime
    removed_at: datetime | None


LISTED_ROWS = st.builds(Listed, st.integers(1, 30), st.sampled_from(NUMBERS), st.sampled_from(DAYS))
ANSWERS = st.lists(LISTED_ROWS, max_size=40, unique_by=lambda row: row.id)


@st.composite
def histories(draw: st.DrawFn) -> list[Period]:
    """Periods that ticks can have left, ends withheld or not: of each row one at most is open, none overlap."""
    periods: dict[Listed, Period] = {}
    ended: list[Period] = []
    for hour, answer in enumerate(draw(st.lists(ANSWERS, max_size=3))):
        at = NOW - timedelta(hours=10 - hour)
        if draw(st.booleans()):
            ended += [periods.pop(row)._replace(removed_at=at) for row in periods.keys() - set(answer)]
        for row in answer:
            periods.setdefault(row, Period(row, at, None))
    return [*periods.values(), *ended]


def as_stops(periods: list[Period]) -> pa.Table:
    """`schema.STOPS`, sorted."""
    columns = {
        "id": [period.row.id for period in periods],
        "phone_number": [period.row.phone_number for period in periods],
        "country": [None for _ in periods],
        "created_at": [period.row.created_at_local.replace(tzinfo=UTC) for period in periods],
        "created_at_local": [period.row.created_at_local for period in periods],
        "first_seen_at": [period.first_seen_at for period in periods],
        "removed_at": [period.removed_at for period in periods],
    }
    return pa.table(columns, schema=STOPS.arrow).sort_by([(name, "ascending") for name in STOPS_ORDER])


def as_listed(rows: list[Listed]) -> pa.Table:
    """`schema.LISTED`, sorted."""
    return as_stops([Period(row, NOW, None) for row in rows]).select(LISTED.names).cast(LISTED.arrow)


def as_periods(stops: pa.Table) -> list[Period]:
    names = ("id", "phone_number", "created_at_local", "first_seen_at", "removed_at")
    rows = zip(*(stops[name].to_pylist() for name in names), strict=True)
    return [Period(Listed(*row[:3]), *row[3:]) for row in rows]


def months(table: pa.Table) -> dict[str, pa.Table]:
    return dict(split_by_month(table))


@settings(max_examples=300, deadline=None)
@given(
    known=histories(),
    answer=ANSWERS,
    whole=st.booleans(),
    guard=st.builds(Guard, st.sampled_from([0.0, 0.05, 1.0]), st.none() | st.integers(0, 40)),
    withheld_from=st.none() | st.integers(1, 60),
)
def test_the_merge_month_by_month_is_the_set_difference_of_all_rows(
    known: list[Period], answer: list[Listed], *, whole: bool, guard: Guard, withheld_from: int | None
) -> None:
    standing = {period.row for period in known if period.removed_at is None}
    ended = {period.row for period in known if period.removed_at is not None}
    added, gone = set(answer) - standing, standing - set(answer)
    gone_ids, added_ids = {row.id for row in gone}, {row.id for row in added}
    stood = len(standing) if withheld_from is None else min(len(standing), withheld_from)
    objection = guard.objection(removals=len(gone), measured_against=stood, whole=whole)

    by_month, listed = months(as_stops(known)), months(as_listed(answer))
    empty, nothing = STOPS.arrow.empty_table(), LISTED.arrow.empty_table()
    changes: dict[str, MonthChange] = {
        month: compare_month(by_month.get(month, empty), listed.get(month, nothing))
        for month in by_month.keys() | listed.keys()
    }
    try:
        verdict = judge(
            list(changes.values()), unchanged_elsewhere=0, whole=whole, guard=guard, withheld_from=withheld_from
        )
    except ForeignListError:
        assert answer
        assert len(standing) >= 20
        assert not {row.id for row in answer} & {row.id for row in standing}
        return
    assert len(standing) < 20 or not answer or {row.id for row in answer} & {row.id for row in standing}

    counts = verdict.counts
    changed = [row for row in added if row.id in gone_ids]
    restored = [row for row in added if row in ended and row.id not in gone_ids]
    assert (counts.listed, counts.unchanged) == (len(answer), len(standing - gone))
    assert (counts.changed, counts.restored) == (len(changed), len(restored))
    assert counts.new == len(added) - len(changed) - len(restored)
    assert (verdict.withheld_because, verdict.withheld_from) == (objection, stood if objection else None)
    assert counts.withheld == (len(gone) if objection else 0)
    assert counts.removed == (0 if objection else len([row for row in gone if row.id not in added_ids]))

    ends = {period: period._replace(removed_at=NOW) for period in known if period.row in gone and not objection}
    expected = [period if period.removed_at else ends.get(period, period) for period in known]
    expected += [Period(row, NOW, None) for row in added]
    assert after(changes, by_month, verdict) == sorted(expected, key=in_order)


def after(changes: dict[str, MonthChange], known: dict[str, pa.Table], verdict: Verdict) -> list[Period]:
    """All periods after the tick, each month in the order in which it is written."""
    periods: list[Period] = []
    for month in sorted(changes):
        before = known.get(month, STOPS.arrow.empty_table())
        brought_in = bring_in(before, changes[month], verdict, fetched_at=NOW)
        assert brought_in.schema.equals(STOPS.arrow)
        assert verdict.alters(changes[month]) is not brought_in.equals(before)
        periods += as_periods(brought_in)
    return periods


def in_order(period: Period) -> tuple[datetime, int, datetime, str]:
    row = period.row
    return row.created_at_local, row.id, period.first_seen_at, row.phone_number


@settings(max_examples=200, deadline=None)
@given(known=histories(), answer=ANSWERS, whole=st.booleans())
def test_months_that_are_left_out_since_nothing_changed_in_them_change_nothing(
    known: list[Period], answer: list[Listed], *, whole: bool
) -> None:
    by_month, listed = months(as_stops(known)), months(as_listed(answer))
    changes, unchanged_elsewhere, left_out = [], 0, []
    for month in sorted(by_month.keys() | listed.keys()):
        change = compare_month(
            by_month.get(month, STOPS.arrow.empty_table()), listed.get(month, LISTED.arrow.empty_table())
        )
        changes.append(change)
        if change.added.num_rows or len(change.unlisted):
            left_out.append(change)
        else:
            unchanged_elsewhere += change.open_rows

    def verdict(of: list[MonthChange], elsewhere: int) -> Verdict | str:
        try:
            return judge(of, unchanged_elsewhere=elsewhere, whole=whole, guard=Guard())
        except ForeignListError as error:
            return str(error)

    assert verdict(left_out, unchanged_elsewhere) == verdict(changes, 0)


@given(rows=st.lists(LISTED_ROWS, max_size=12), cuts=st.lists(st.integers(0, 12)))
def test_rows_are_split_by_month_however_they_lie_in_chunks(rows: list[Listed], cuts: list[int]) -> None:
    table = as_listed(rows)
    bounds = sorted({0, table.num_rows, *(min(cut, table.num_rows) for cut in cuts)})
    pieces = [table.slice(start, end - start) for start, end in pairwise(bounds)]
    in_chunks = pa.concat_tables([table.slice(0, 0), *pieces, table.slice(0, 0)])

    split = list(split_by_month(in_chunks))

    assert [month for month, _ in split] == sorted({row.month for row in rows})
    for month, part in split:
        assert part.schema.equals(LISTED.arrow)
        assert part.to_pylist() == [row for row in table.to_pylist() if f"{row['created_at_local']:%Y-%m}" == month]
