"""Charts: small enough to be shown without a click whatever the table holds, and figures that are those of the rows."""

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from defusedxml import ElementTree
from hypothesis import given, settings
from hypothesis import strategies as st

from stop_pipeline.defs import charts
from stop_pipeline.schema import STOPS_PER_DAY

LAST_DAY = pd.Timestamp("2026-11-23")
SHOWN_WITHOUT_A_CLICK = 999  # characters of Markdown
FIRST_LOAD = pd.Timestamp(datetime(2026, 1, 1, tzinfo=UTC))


def per_day(days: int, countries: list[str | None], stops: int = 7) -> pd.DataFrame:
    table = [(LAST_DAY - timedelta(days=day), country, stops) for day in range(days) for country in countries]
    return pd.DataFrame(table, columns=list(STOPS_PER_DAY.names)).astype(STOPS_PER_DAY.dtypes)


def seen_after(*hours: float) -> pd.DataFrame:
    """Rows that came after a first load of one row, so many hours after they were made."""
    first_seen_at = [FIRST_LOAD, *[FIRST_LOAD + timedelta(days=1)] * len(hours)]
    created_at = [FIRST_LOAD - timedelta(days=900), *(first_seen_at[-1] - timedelta(hours=h) for h in hours)]
    return pd.DataFrame({"id": range(len(created_at)), "created_at": created_at, "first_seen_at": first_seen_at})


def drawn(svg: str) -> tuple[str, list[int]]:
    """The title of a chart, and the heights of its area; fails if the page would not show it, or the area leaves it."""
    markdown = charts.markdown("Title", svg)
    assert len(markdown) <= SHOWN_WITHOUT_A_CLICK
    link = re.fullmatch(r"!\[Title\]\(<data:image/svg\+xml,([^<>()\"#\\]*)>\)", markdown)
    assert link is not None
    assert unquote(link[1]) == svg
    image = ElementTree.fromstring(svg)
    (title,) = [element.text for element in image if element.get("font-weight") == "bold"]
    heights: list[int] = []
    for element in image:
        if element.get("fill") == "steelblue":
            height, steps = 0, re.findall(r"([hvV])(-?[0-9.]+)", str(element.get("d")))
            for command, length in steps:
                height -= int(length) if command == "v" else 0
                heights += [height] if command == "h" else []
            assert sum(float(length) for command, length in steps if command == "h") == pytest.approx(270)
    assert all(0 <= height <= 90 for height in heights)
    return str(title), heights


@pytest.mark.parametrize("days", [0, 1, 28, 400, 2_500])
def test_opt_outs_are_drawn_however_few_or_many_days_there_are(days: int) -> None:
    table = per_day(days, ["FR", None, "GB"])
    for chart, shown in ((charts.day_chart(table), min(days, 90) * 21), (charts.month_chart(table), days * 21)):
        title, heights = drawn(chart)
        assert f"{shown:,} opt-outs" in title if days else title == "There are no opt-outs yet"
        assert not days or max(heights) == 90


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 5, 40, 1_000, 10**9]), min_size=1, max_size=2_000), st.randoms())
def test_a_chart_of_any_counts_is_small(counts: list[int], random: np.random.Generator) -> None:
    random.shuffle(counts)
    table = per_day(len(counts), ["FR"]).assign(stops=counts)
    for chart in (charts.day_chart(table), charts.month_chart(table)):
        drawn(chart)


def test_bars_have_the_heights_of_the_counts() -> None:
    table = per_day(3, ["FR"]).assign(stops=[20, 10, 0])  # newest first
    title, heights = drawn(charts.day_chart(table))
    assert title == "30 opt-outs in the last 90 days"
    assert heights == [0, 45, 90]


def test_the_largest_countries_of_the_last_days_are_named_and_all_others_added_up() -> None:
    table = pd.concat(
        [
            per_day(200, ["FR"], 84),
            per_day(200, [None, *(f"A{letter}" for letter in "ABCDEFG")], 2),
            per_day(1, ["XX"], 1_000_000).assign(day=LAST_DAY - timedelta(days=150)),
        ]
    )
    assert charts.countries(table) == "FR 84.0%, AA 2.0%, AB 2.0%, AC 2.0%, AD 2.0%, other 8.0%"
    assert charts.countries(per_day(1, [None])) == "no country 100.0%"
    assert charts.countries(per_day(0, [])) == "none"


@pytest.mark.parametrize(
    "hours", [(), (5,), (0.001,), (-30, -1, 3), (47, 48, 49), (900, 30_000), tuple(np.geomspace(0.01, 60, 2_000))]
)
def test_delays_are_drawn_however_few_or_odd(hours: tuple[float, ...]) -> None:
    title, heights = drawn(charts.delay_chart(charts.delays(seen_after(*hours))))
    assert title.startswith("Half listed within" if hours else "No opt-out has come in")
    assert heights == sorted(heights)


def test_a_table_without_rows_has_a_chart_and_no_figures() -> None:
    empty = charts.delays(seen_after().head(0))
    assert charts.delay_figures(empty) == {}
    drawn(charts.delay_chart(empty))


def test_delays_leave_out_what_the_first_load_brought() -> None:
    assert charts.delay_figures(charts.delays(seen_after(*range(1, 101)))) == {
        "delay_median_hours": 50,
        "delay_p90_hours": 90,
        "delay_p99_hours": 99,
        "over_48_hours_percent": 52,
    }
    assert charts.delays(seen_after()).empty


def test_an_opt_out_that_was_altered_or_came_back_counts_as_it_was_first_seen() -> None:
    first, second = seen_after(1, 2, 3), seen_after(700, 800, 900, 4)
    again = second.assign(first_seen_at=second["first_seen_at"] + timedelta(days=9))
    assert charts.delays(pd.concat([first, again])).tolist() == [1, 2, 3, 4 + 9 * 24]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-48, 10_000), min_size=1, max_size=50))
def test_each_figure_is_the_delay_of_a_row_and_they_ascend(hours: list[float]) -> None:
    delays = charts.delays(seen_after(*hours))
    median, most, nearly_all, late = charts.delay_figures(delays).values()
    assert median <= most <= nearly_all
    assert {median, most, nearly_all} <= {round(float(hour), 2) for hour in delays}
    assert late == round(sum(hour > 48 for hour in delays) / len(hours) * 100, 2)
    drawn(charts.delay_chart(delays))


@pytest.mark.parametrize(("hours", "is_late"), [(0.5, False), (47.5, False), (48.0, False), (48.5, True), (60.0, True)])
def test_only_a_delay_of_more_than_48_hours_is_drawn_beyond_the_line(hours: float, is_late: bool) -> None:  # noqa: FBT001
    svg = charts.delay_chart(charts.delays(seen_after(hours)))
    line = re.search(r"stroke='darkorange' d='M(\d+) ", svg)
    area = re.search(r"fill='steelblue' d='M(\d+) 132(?:h([\d.]+))?v", svg)
    assert line is not None
    assert area is not None
    assert (int(area[1]) + float(area[2] or 0) > int(line[1])) == is_late
