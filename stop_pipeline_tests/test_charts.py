"""Charts: PNGs of a sensible size whatever the table holds, and figures that are those of the rows."""

import io
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stop_pipeline import charts
from stop_pipeline.columns import UTC_TIME
from stop_pipeline.schema import STOPS_PER_DAY

LAST_DAY = date(2026, 11, 23)
FIRST_LOAD = datetime(2026, 1, 1, tzinfo=UTC)
SMALLER_THAN = 75_000
"""Bytes of a PNG: in base64 it stays under 100 kB."""


def per_day(days: int, countries: list[str | None], stops: int = 7) -> pa.Table:
    rows = [(LAST_DAY - timedelta(days=day), country, stops) for day in range(days) for country in countries]
    return pa.Table.from_pylist([dict(zip(STOPS_PER_DAY.names, row, strict=True)) for row in rows], STOPS_PER_DAY.arrow)


def seen_after(*hours: float) -> pa.Table:
    """Rows that came after a first load of one row, so many hours after they were made."""
    first_seen_at = [FIRST_LOAD, *[FIRST_LOAD + timedelta(days=1)] * len(hours)]
    created_at = [FIRST_LOAD - timedelta(days=900), *(first_seen_at[-1] - timedelta(hours=h) for h in hours)]
    return pa.table(
        {
            "id": range(len(created_at)),
            "created_at": pa.array(created_at, UTC_TIME),
            "first_seen_at": pa.array(first_seen_at, UTC_TIME),
        }
    )


def size_of(png: bytes) -> tuple[int, int]:
    assert len(png) < SMALLER_THAN
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


@pytest.mark.parametrize(
    ("days", "countries"),
    [
        (0, []),
        (1, ["FR"]),
        (1, [None]),
        (28, ["FR"]),
        (29, ["FR", None]),
        (400, ["FR"]),
        (2_000, ["FR", "GB", None, *(f"{first}{second}" for first in "ABCDE" for second in "ABCDEFGHIJ")]),
    ],
)
def test_opt_outs_per_day_are_drawn_however_few_or_many(days: int, countries: list[str | None]) -> None:
    assert size_of(charts.stops_per_day_chart(per_day(days, countries))) == (880, 528)


def test_the_largest_countries_of_the_last_days_are_named_and_all_others_added_up() -> None:
    table = pa.concat_tables(
        [
            per_day(200, ["FR"], 50),
            per_day(200, [f"A{letter}" for letter in "ABCDEFGH"], 2),
            pa.table([[LAST_DAY - timedelta(days=150)], ["XX"], [1_000_000]], STOPS_PER_DAY.arrow),
        ]
    )
    days, by_country = charts.daily_counts(table)
    shown = charts.largest_countries(by_country)
    assert len(days) == 200
    assert list(shown) == ["FR", "AA", "AB", "AC", "AD", "other"]
    assert int(sum(stops.sum() for stops in shown.values())) == 90 * (50 + 8 * 2)


@pytest.mark.parametrize(
    "hours", [(), (5,), (0.001,), (-30, -1, 3), (47, 48, 49), (900, 30_000), tuple(np.geomspace(0.01, 60, 2_000))]
)
def test_delays_are_drawn_however_few_or_odd(hours: tuple[float, ...]) -> None:
    assert size_of(charts.delay_chart(charts.delays(seen_after(*hours), FIRST_LOAD))) == (880, 352)


def test_a_table_without_rows_has_a_chart_and_no_figures() -> None:
    empty = charts.delays(seen_after().slice(0, 0), FIRST_LOAD)
    assert empty.figures == {}
    size_of(charts.delay_chart(empty))


def test_delays_leave_out_what_the_first_load_brought() -> None:
    figures = charts.delays(seen_after(*range(1, 101)), FIRST_LOAD).figures
    assert figures == {
        "delay_median_hours": 50,
        "delay_p90_hours": 90,
        "delay_p99_hours": 99,
        "over_48_hours_percent": 52,
    }
    assert charts.delays(seen_after(), FIRST_LOAD).figures == {}


def test_an_opt_out_that_was_altered_or_came_back_counts_as_it_was_first_seen() -> None:
    first, second = seen_after(1, 2, 3), seen_after(700, 800, 900, 4)
    again = second.set_column(2, "first_seen_at", pc.add(second["first_seen_at"], timedelta(days=9)))
    delays = charts.delays(pa.concat_tables([first, again]), FIRST_LOAD)
    assert delays.hours.tolist() == [1, 2, 3, 4 + 9 * 24]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-48, 10_000), min_size=1, max_size=50))
def test_each_figure_is_the_delay_of_a_row_and_they_ascend(hours: list[float]) -> None:
    delays = charts.delays(seen_after(*hours), FIRST_LOAD)
    median, most, nearly_all, late = delays.figures.values()
    assert median <= most <= nearly_all
    assert {median, most, nearly_all} <= {round(float(hour), 2) for hour in delays.hours}
    assert late == round(sum(hour > 48 for hour in delays.hours) / len(hours) * 100, 2)


def test_matplotlib_is_loaded_when_a_chart_is_drawn_and_pyplot_never() -> None:
    code = (
        "import sys\nfrom stop_pipeline import definitions, charts\nimport pyarrow as pa\n"
        "print('matplotlib' in sys.modules)\ncharts.delay_chart(charts.Delays(__import__('numpy').array([1.0])))\n"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home())
    assert done.stdout.split() == ["False", "True", "False"]
