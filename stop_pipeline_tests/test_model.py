"""Any sequence of answers gives the table that a plain model in dicts gives, and each of its past states."""

import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stop_pipeline import charts, derive, engine, read_rejected, read_stops, tick
from stop_pipeline.errors import ForeignListError
from stop_pipeline.schema import STOPS, STOPS_PER_DAY, SUPPRESSION_LIST
from stop_pipeline.store import Store
from stop_pipeline_tests.ticking import IN_MEMORY, Row, Ticker, tree

Key = tuple[int, str, str]
STILL_LISTED = datetime.max.replace(tzinfo=UTC)


@dataclass
class Period:
    key: Any
    first_seen_at: datetime
    removed_at: datetime | None = None


@dataclass
class Model:
    """The rules of a tick in the plainest Python: every period ever, ended or not."""

    stops: list[Period] = field(default_factory=list)
    rejected: list[Period] = field(default_factory=list)
    withheld_from: int | None = None

    def tick(self, listed: set[Key], malformed: set[str], *, whole: bool, at: datetime, accepted: int | None) -> str:
        standing = [period for period in self.stops if period.removed_at is None]
        standing_ids, listed_ids = {period.key[0] for period in standing}, {key[0] for key in listed}
        if listed and len(standing) >= 20 and not standing_ids & listed_ids:
            return "refused"
        gone = [period for period in standing if period.key not in listed]
        stood = min(len(standing), self.withheld_from or len(standing))
        if accepted is not None:
            allowed = len(gone) <= accepted
        else:
            allowed = len(gone) <= max(stood * 0.05, 20) and len(gone) * 2 <= stood
        trusted = whole and (allowed or not gone)
        self.withheld_from = stood if gone and not trusted else None
        for key in sorted(listed - {period.key for period in standing}):
            self.stops.append(Period(key, at))
        standing_malformed = [period for period in self.rejected if period.removed_at is None]
        for raw in sorted(malformed - {period.key for period in standing_malformed}):
            self.rejected.append(Period(raw, at))
        if trusted:
            for period in gone:
                period.removed_at = at
            for period in standing_malformed:
                if period.key not in malformed:
                    period.removed_at = at
        return "applied"

    def known_at(self, moment: datetime) -> list[Key]:
        return sorted(
            period.key
            for period in self.stops
            if period.first_seen_at <= moment and (period.removed_at is None or period.removed_at > moment)
        )


@dataclass(frozen=True)
class Step:
    """One answer: which of 40 ids it lists, which of those are altered, what is malformed, whether it is whole."""

    listed: frozenset[int]
    altered: frozenset[int]
    malformed: frozenset[int]
    whole: bool
    accepted: int | None

    def rows(self) -> list[Row]:
        return [_row(number, altered=number in self.altered) for number in sorted(self.listed)]

    def malformed_rows(self) -> list[dict[str, Any]]:
        return [{"createdAt": "2025-01-01 00:00:00", "id": f"x{number}"} for number in sorted(self.malformed)]


def _row(number: int, *, altered: bool) -> Row:
    # Over three months; an alteration of an odd id moves it to another month, of an even one changes its number.
    month = 1 + number % 3
    if altered and number % 2:
        month += 1
    phone_number = f"+336399900{number:02}" if altered and number % 2 == 0 else f"+336399800{number:02}"
    return Row(number + 1, phone_number, f"2025-{month:02}-01 10:00:{number:02}")


NUMBERS = st.integers(0, 39)
MOST = st.frozensets(NUMBERS, max_size=12).map(lambda missing: frozenset(range(40)) - missing)
STEPS = st.builds(
    Step,
    listed=st.one_of(MOST, MOST, st.frozensets(NUMBERS)),
    altered=st.frozensets(NUMBERS, max_size=6),
    malformed=st.frozensets(st.integers(0, 3)),
    whole=st.sampled_from([True, True, True, False]),
    accepted=st.sampled_from([None, None, None, 5, 40]),
)
SEQUENCES = st.lists(STEPS, min_size=1, max_size=20)


def _keys(frame: Any) -> list[Key]:
    return sorted(zip(frame["id"], frame["phone_number"], frame["created_at_local"].astype(str), strict=True))


def _periods(frame: Any) -> list[tuple[Any, ...]]:
    ends = [STILL_LISTED if pd.isna(end) else end.to_pydatetime() for end in frame["removed_at"]]
    starts = [start.to_pydatetime() for start in frame["first_seen_at"]]
    columns = (frame["id"], frame["phone_number"], frame["created_at_local"].astype(str), starts, ends)
    return sorted(zip(*columns, strict=True))


def _run(root: Path, steps: list[Step]) -> None:
    ticker, model = Ticker(root), Model()
    states: list[tuple[datetime, list[Key]]] = []
    for step in steps:
        listed: list[Any] = [*step.rows(), *step.malformed_rows()]
        keys = {(row.id, row.phone_number, row.created_at) for row in step.rows()}
        malformed = {f'{{"createdAt":"2025-01-01 00:00:00","id":"x{number}"}}' for number in step.malformed}
        nb_data = len(listed) if step.whole else len(listed) + 1
        try:
            applied = ticker.tick(listed, nb_data=nb_data, accept_removals=step.accepted)
        except ForeignListError:
            applied = None
        expected = model.tick(keys, malformed, whole=step.whole, at=ticker.now, accepted=step.accepted)
        assert (applied is None) == (expected == "refused")
        if applied is not None:
            info = applied.info
            assert info.rows == info.listed + info.duplicates + info.rejected == len(listed)
            counts = applied.counts
            assert counts.listed == counts.unchanged + counts.new + counts.changed + counts.restored
            states.append((ticker.now, model.known_at(ticker.now)))
            _derived_as_if_made_anew(ticker.store)

    assert _periods(read_stops(root, history=True)) == sorted(
        (*period.key, period.first_seen_at, period.removed_at or STILL_LISTED) for period in model.stops
    )
    for moment, keys_then in states:
        assert _keys(read_stops(root, as_of=moment)) == keys_then
    if states:
        assert _keys(read_stops(root)) == states[-1][1]
    standing = sorted(period.key for period in model.rejected if period.removed_at is None)
    assert sorted(read_rejected(root)["raw"]) == standing


def _derived_as_if_made_anew(store: Store) -> None:
    """The tables that were brought up to date tick by tick are those that all periods give."""
    stops, rejected = store.tables.stops_columns("main", STOPS.names), store.tables.read_rejected("main")
    made_anew = derive.suppression_list(stops, rejected)
    assert store.tables.read_derived(SUPPRESSION_LIST, "main").to_pylist() == made_anew.to_pylist()
    assert store.tables.read_derived(STOPS_PER_DAY, "main").to_pylist() == derive.stops_per_day(stops).to_pylist()
    for _ in ("in the process that made the commit", "in another one"):
        periods, first_load = tick.read_since_first_load(store, "main")
        assert charts.delays(periods, first_load).hours.tolist() == charts.delays(stops, first_load).hours.tolist()
        assert pc.min(stops["first_seen_at"]).as_py() in (first_load, None)
        engine._just_committed.clear()  # noqa: SLF001


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SEQUENCES)
def test_any_sequence_of_answers_gives_the_table_of_the_model(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        _run(Path(folder), steps)


@settings(max_examples=20, deadline=None)
@given(SEQUENCES)
def test_the_same_sequence_gives_the_same_bytes(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as one, tempfile.TemporaryDirectory(dir=IN_MEMORY) as other:
        for folder in (one, other):
            ticker = Ticker(Path(folder))
            for step in steps:
                with suppress(ForeignListError):
                    ticker.tick([*step.rows(), *step.malformed_rows()], accept_removals=step.accepted)
        assert tree(Path(one)) == tree(Path(other))


def test_a_twenty_step_sequence_matches_the_model(tmp_path: Path) -> None:
    everything = frozenset(range(40))
    steps = [
        Step(
            listed=everything - frozenset(range(step % 7)) - ({39} if step % 3 else frozenset()),
            altered=frozenset({step % 11, 20}) if step % 4 == 1 else frozenset(),
            malformed=frozenset({step % 3}),
            whole=step % 5 != 4,
            accepted=None,
        )
        for step in range(20)
    ]
    _run(tmp_path, steps)
