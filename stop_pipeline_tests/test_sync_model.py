"""Any sequence of responses gives the table that a plain model in dicts gives, and each of its past states."""

import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stop_pipeline import read_rejected, read_stops, read_stops_per_day, read_suppression_list, sync
from stop_pipeline.errors import ForeignListError
from stop_pipeline_tests.support.sequences import STEPS, Step, responses
from stop_pipeline_tests.support.syncing import IN_MEMORY, Row, Syncer, tree

Key = tuple[int, str, str]
STILL_LISTED = datetime.max.replace(tzinfo=UTC)


@dataclass
class Period:
    key: Any
    first_seen_at: datetime
    removed_at: datetime | None = None


@dataclass
class Model:
    """The rules of a sync in the plainest Python: every period ever, ended or not."""

    stops: list[Period] = field(default_factory=list)
    rejected: list[Period] = field(default_factory=list)
    withheld_from: int | None = None
    removals: list[tuple[datetime, int, int]] = field(default_factory=list)

    def sync(
        self, listed: set[Key], malformed: set[str], *, complete: bool, at: datetime, accepted: int | None
    ) -> Counter[str] | None:
        """What the response did to the open rows; None if it was refused."""
        standing = [period for period in self.stops if period.removed_at is None]
        standing_keys = {period.key for period in standing}
        if self._belongs_to_another_account(standing_keys, listed):
            return None
        gone = [period for period in standing if period.key not in listed]
        added = listed - standing_keys
        open_rows = len(standing)
        trusted = not gone or (complete and self._may_go(len(gone), open_rows, at, accepted))
        self.withheld_from = None if trusted else min(open_rows, self.withheld_from or open_rows)
        if trusted and gone and accepted is None:
            self.removals.append((at, len(gone), open_rows))

        gone_keys = {period.key for period in gone}
        ended_before = {period.key for period in self.stops if period.removed_at is not None}
        altered = [key for key in added if _has_counterpart(key, gone_keys)]
        counts = Counter(
            new=len([key for key in added if key not in ended_before and key not in altered]),
            changed=len(altered),
            unchanged=len(standing_keys & listed),
            removed=len([key for key in gone_keys if not _has_counterpart(key, added)]) if trusted else 0,
            withheld=0 if trusted else len(gone),
        )
        self.stops += [Period(key, at) for key in added]
        standing_malformed = [period for period in self.rejected if period.removed_at is None]
        self.rejected += [Period(raw, at) for raw in malformed - {period.key for period in standing_malformed}]
        for period in gone if trusted else []:
            period.removed_at = at
        for period in standing_malformed if trusted and complete else []:
            if period.key not in malformed:
                period.removed_at = at
        return counts

    def _may_go(self, ends: int, open_rows: int, at: datetime, accepted: int | None) -> bool:
        if accepted is not None:
            return ends <= accepted
        recent = [removal for removal in self.removals if removal[0] > at - timedelta(hours=24)]
        used = sum(rows for _, rows, _ in recent)
        at_the_beginning = min(open_rows, self.withheld_from or open_rows) + used
        if recent:
            at_the_beginning = min(at_the_beginning, recent[0][2])
        most = max(at_the_beginning * 0.05, 20)
        return ends + used <= most and (ends + used) * 2 <= at_the_beginning

    @staticmethod
    def _belongs_to_another_account(standing: set[Key], listed: set[Key]) -> bool:
        if len(standing) < 20 or not listed or {key[0] for key in standing} & {key[0] for key in listed}:
            return False
        rows = {key[1:] for key in listed}
        return len([key for key in standing if key[1:] in rows]) * 2 <= len(standing)

    def known_at(self, moment: datetime) -> list[Key]:
        return sorted(
            period.key
            for period in self.stops
            if period.first_seen_at <= moment and (period.removed_at is None or period.removed_at > moment)
        )


def _has_counterpart(key: Key, others: set[Key]) -> bool:
    return any(key[0] == other[0] or key[1:] == other[1:] for other in others)


def _keys(frame: pd.DataFrame) -> list[Key]:
    return sorted(zip(frame["id"], frame["phone_number"], frame["created_at_local"].astype(str), strict=True))


def _periods(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    ends = [STILL_LISTED if pd.isna(end) else end.to_pydatetime() for end in frame["removed_at"]]
    starts = [start.to_pydatetime() for start in frame["first_seen_at"]]
    columns = (frame["id"], frame["phone_number"], frame["created_at_local"].astype(str), starts, ends)
    return sorted(zip(*columns, strict=True))


def _run(root: Path, steps: list[Step]) -> int:
    """Sync each step and compare; gives how many responses were parsed as far as they were new only."""
    syncer, model = Syncer(root), Model()
    states: list[tuple[datetime, list[Key]]] = []
    built_upon = 0
    for response in responses(steps):
        rows, step, at = response.rows, response.step, response.at
        keys = {(row.id, row.phone_number, row.created_at) for row in rows if isinstance(row, Row)}
        malformed = {
            f'{{"createdAt":"2025-01-01 00:00:00","id":"{row["id"]}"}}' for row in rows if isinstance(row, dict)
        }
        merged = None
        with suppress(ForeignListError):
            merged = syncer.up_to_stops(response.body, at=at, accept_removals=step.accepted)
        expected = model.sync(keys, malformed, complete=step.complete, at=at, accepted=step.accepted)
        assert (merged is None) == (expected is None)
        if merged is not None and expected is not None:
            info, counts = merged.info, merged.counts
            assert info.rows == info.listed + info.duplicates + info.rejected == len(rows)
            assert counts.listed == counts.unchanged + counts.new + counts.changed + counts.restored
            if merged.outcome == "merged":
                assert {name: getattr(counts, name) for name in expected} == expected
            built_upon += info.builds_on is not None
            states.append((at, model.known_at(at)))
    if states:
        sync.derive_tables(syncer.store, "main")
    _compare(root, model, states)
    return built_upon


def _compare(root: Path, model: Model, states: list[tuple[datetime, list[Key]]]) -> None:
    periods = read_stops(root, history=True)
    assert _periods(periods) == sorted(
        (*period.key, period.first_seen_at, period.removed_at or STILL_LISTED) for period in model.stops
    )
    for moment, keys_then in states:
        known = periods[(periods["first_seen_at"] <= moment) & ~(periods["removed_at"] <= moment)]
        assert _keys(known) == keys_then
    for moment, keys_then in states[-2:]:
        assert _keys(read_stops(root, as_of=moment)) == keys_then
    open_keys = states[-1][1] if states else []
    assert _keys(read_stops(root)) == open_keys
    standing = sorted(period.key for period in model.rejected if period.removed_at is None)
    assert sorted(read_rejected(root)["raw"]) == standing
    assert dict(read_suppression_list(root)[["phone_number", "stop_count"]].itertuples(index=False)) == Counter(
        key[1] for key in open_keys
    )
    assert read_stops_per_day(root)["stops"].sum() == len({period.key[0] for period in model.stops})


def _run_in_memory(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        _run(Path(folder), steps)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=1, max_size=6))
def test_any_sequence_of_responses_gives_the_table_of_the_model(steps: list[Step]) -> None:
    _run_in_memory(steps)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=1, max_size=20))
def test_any_long_sequence_of_responses_gives_the_table_of_the_model(steps: list[Step]) -> None:
    _run_in_memory(steps)


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=2, max_size=5))
def test_the_same_sequence_gives_the_same_bytes(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as one, tempfile.TemporaryDirectory(dir=IN_MEMORY) as other:
        for folder in (one, other):
            syncer = Syncer(Path(folder))
            for response in responses(steps):
                with suppress(ForeignListError):
                    syncer.sync(response.body, at=response.at, accept_removals=response.step.accepted)
        first, second = tree(Path(one)), tree(Path(other))
        registered = "accounts/account=main.json"  # holds the time of the clock
        assert first.keys() == second.keys()
        assert {name: data for name, data in first.items() if name != registered} == {
            name: data for name, data in second.items() if name != registered
        }


def test_a_sequence_of_everything_matches_the_model(tmp_path: Path) -> None:
    everything = frozenset(range(40))
    steps = [
        Step(
            listed=everything - frozenset(range(number % 7)) - ({39} if number % 3 else frozenset()),
            altered=frozenset({number % 11, 20}) if number % 4 == 1 else frozenset(),
            malformed=frozenset({number % 3}),
            complete=number % 5 != 4,
            appended=2 * (number in (3, 8)),
            prepended=int(number == 9),
        )
        for number in range(10)
    ]
    renumbering = [Step(everything, renumbered=True), Step(everything, renumbered=True, accepted=60)]
    assert _run(tmp_path, [Step(everything), Step(everything, appended=3), *steps, *renumbering]) > 1


@pytest.mark.slow
def test_a_slow_drain_matches_the_model_and_may_go_on_day_by_day(tmp_path: Path) -> None:
    sizes = [40, 30, 20, 15, 10, 9, 8, 5, 4, 3, 2, 1]
    _run(tmp_path, [Step(frozenset(range(size)), hours=5) for size in sizes])
