"""What is known about one number is what the list's history says, and names the very responses that show it."""

import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stop_pipeline import lookup
from stop_pipeline.errors import OutdatedListError
from stop_pipeline.table.lookup import OptOut
from stop_pipeline_tests.support.histories import HISTORIES, NUMBERS, SPELLINGS, History, Step, spelled, synced
from stop_pipeline_tests.support.syncing import IN_MEMORY

ANY_AGE = timedelta.max
HOUR = timedelta(hours=1)
STOPPED, FREE = NUMBERS[1], NUMBERS[2]


def expected_opt_outs(history: History, number: str, on: datetime | None) -> Iterator[OptOut]:
    for period in history.periods:
        if number in period.entry.blocks:
            last = history.last_listed(period)
            is_last_of_all = last is history.responses[-1]
            yield OptOut(
                created_at=period.entry.created_at,
                origin=period.entry.blocks[number],
                first_seen_at=period.first.fetched_at,
                first_seen_sha256=period.first.sha256,
                last_listed_at=last.last_fetched_at if is_last_of_all else last.fetched_at,
                last_listed_sha256=last.sha256,
                removed_at=period.removed_at,
                in_force=period.covers(on),
            )


def compare(history: History, spelling: str, on: datetime | None) -> None:
    """Look every number up, and compare what is said with the model."""
    root, account = history.syncer.root, history.syncer.account
    begun = on is None or on >= history.responses[0].fetched_at
    blocked = history.numbers(on)
    for number in NUMBERS:
        found = lookup(spelled(number, spelling), on=on, root=root, account=account, max_age=ANY_AGE)
        answer = found.accounts[0]
        assert found.may_be_texted == answer.may_be_texted == (number not in blocked if begun else None)
        assert answer.known_since == history.responses[0].fetched_at
        assert set(answer.opt_outs) == set(expected_opt_outs(history, number, on))
        assert [row.first_seen_at for row in answer.opt_outs] == sorted(row.first_seen_at for row in answer.opt_outs)
        if on is None:
            assert answer.verified_at == history.verified_at


def look_at_history(root: Path, steps: list[Step], spelling: str, choice: int) -> None:
    history = synced(root, steps)
    times = list(history.times())
    for on in {None, times[choice % len(times)], times[0], times[-1]}:
        if on is None and history.verified_at is None:
            with pytest.raises(OutdatedListError, match="never complete"):
                lookup(STOPPED, root=root, max_age=ANY_AGE)
        else:
            compare(history, spelling, on)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HISTORIES, st.sampled_from(SPELLINGS), st.integers(0, 1000))
def test_lookup_agrees_with_a_model_of_the_history(steps: list[Step], spelling: str, choice: int) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        look_at_history(Path(folder), steps, spelling, choice)
