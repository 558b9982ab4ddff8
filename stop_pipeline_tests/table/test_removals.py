"""The removal policy: what may go within 24 hours without a person's word."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stop_pipeline.table.merge import RemovalPolicy, recent_removals
from stop_pipeline.table.state import Removal
from stop_pipeline_tests.support.syncing import START

HOUR = timedelta(hours=1)


def objection(
    ends: int,
    of: int,
    *,
    altered: int = 0,
    malformed: int = 0,
    complete: bool = True,
    withheld_from: int | None = None,
    recent: Sequence[Removal] = (),
    policy: RemovalPolicy = RemovalPolicy(),  # noqa: B008 – it is frozen
) -> str | None:
    return policy.objection(
        ends=ends,
        altered=altered,
        malformed=malformed,
        complete=complete,
        open_rows=of,
        withheld_from=withheld_from,
        recent=recent,
    )


def ended(rows: int, of: int, *, hours_ago: float = 1) -> Removal:
    return Removal(START - HOUR * hours_ago, rows, of)


@pytest.mark.parametrize(
    ("open_rows", "allowed"),
    [
        (1_000_000, 50_000),
        (1_000, 50),  # the share
        (420, 21),
        (400, 20),  # twenty rows may always go
        (40, 20),
        (39, 19),  # but never more than half
        (21, 10),
        (2, 1),
        (1, 0),
    ],
)
def test_a_share_may_go_and_twenty_rows_always_but_never_more_than_half(open_rows: int, allowed: int) -> None:
    assert objection(allowed, open_rows) is None
    assert objection(allowed + 1, open_rows) is not None


def test_nothing_that_ends_needs_no_permission() -> None:
    assert objection(0, 100, complete=False) is None
    assert objection(0, 0, recent=[ended(50, of=50)]) is None


def test_the_share_is_a_setting() -> None:
    assert objection(100, 1_000, policy=RemovalPolicy(max_removed_share=0.1)) is None
    assert objection(21, 1_000, policy=RemovalPolicy(max_removed_share=0.0)) is not None
    assert objection(501, 1_000, policy=RemovalPolicy(max_removed_share=1.0)) is not None


def test_what_went_within_24_hours_counts() -> None:
    assert objection(25, 975, recent=[ended(25, of=1_000)]) is None
    assert objection(26, 975, recent=[ended(25, of=1_000)]) is not None
    assert objection(1, 950, recent=[ended(25, of=1_000), ended(25, of=975)]) is not None


def test_the_share_is_one_of_the_rows_that_were_open_when_the_24_hours_began() -> None:
    # Rows that came meanwhile do not raise it.
    assert objection(26, 9_975, recent=[ended(25, of=1_000)]) is not None
    assert objection(51, 2_000, recent=[ended(1, of=1_000, hours_ago=20), ended(1, of=2_000)]) is not None
    # Of 1,000 rows a person has accepted the end of 875: the others are not to follow at the pace of 1,000.
    assert objection(1, 100, recent=[ended(25, of=1_000)]) is not None


@pytest.mark.parametrize(("hours_ago", "counts"), [(0, True), (23.999, True), (24, False), (100, False)])
def test_what_went_24_hours_ago_counts_no_more(hours_ago: float, *, counts: bool) -> None:
    removal = ended(20, of=100, hours_ago=hours_ago)
    assert recent_removals([removal], START) == ((removal,) if counts else ())


def test_what_came_while_removals_are_withheld_does_not_raise_what_may_go() -> None:
    assert objection(21, 521, withheld_from=400) is not None
    assert objection(20, 521, withheld_from=400) is None
    assert objection(25, 1_475, withheld_from=975, recent=[ended(25, of=1_000)]) is None
    assert objection(26, 1_475, withheld_from=975, recent=[ended(25, of=1_000)]) is not None


def test_an_acceptance_counts_for_all_ends_or_for_none() -> None:
    policy = RemovalPolicy(accept_removals=60)
    assert objection(60, 60, policy=policy) is None
    assert objection(60, 60, policy=policy, recent=[ended(40, of=100)]) is None
    assert objection(61, 100_000, policy=policy) is not None
    assert objection(61, 1_000, altered=30, policy=policy) is not None


def test_the_sentence_counts_vanished_and_altered_rows_apart() -> None:
    assert objection(60, 100, altered=59) == (
        "1 row no longer listed and 59 rows altered, more than the 20 of 100 that may end within 24 hours"
    )
    assert objection(1_001, 2_000, altered=1, recent=[ended(1, of=2_001)]) == (
        "1,000 rows no longer listed and 1 row altered, after 1 row that ended already, more than the 100 of 2,001 "
        "that may end within 24 hours"
    )
    assert objection(2, 100, policy=RemovalPolicy(accept_removals=1)) == (
        "2 rows no longer listed, more than the 1 accepted"
    )
    assert objection(2, 100, complete=False) == "the response is not complete"
    assert objection(60, 100, altered=1, malformed=59) == (
        "1 row altered and 59 rows no longer well-formed, more than the 20 of 100 that may end within 24 hours"
    )


@given(
    st.integers(0, 2_000),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.floats(0, 30)), max_size=25),
)
def test_never_more_than_the_share_goes_within_any_24_hours(
    open_rows: int, steps: list[tuple[int, int, float]]
) -> None:
    history: list[Removal] = []
    now = START
    for ends, added, hours in steps:
        now += HOUR * hours
        gone = min(ends, open_rows)
        if gone and objection(gone, open_rows, recent=recent_removals(history, now)) is None:
            history.append(Removal(now, gone, open_rows))
            open_rows -= gone
        open_rows += added
    for first in history:
        within = [later.rows for later in history if first.at <= later.at < first.at + timedelta(hours=24)]
        assert sum(within) <= max(20, first.open_rows * 0.05)
        assert sum(within) * 2 <= first.open_rows
