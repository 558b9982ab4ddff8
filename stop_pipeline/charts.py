"""Pictures of the tables: tables in, PNG bytes out.

What belongs here: the figures that a chart shows, and how it is drawn. What does not: when one is drawn, and where it
is shown (`defs.pictures`). Everything is pure: no clock, no disk, and none of pyplot's global state.

A chart stands on a pale card of its own, since the same picture is shown on light pages and on dark ones. Matplotlib is
imported when the first chart is drawn: most ticks find an unchanged list and draw none.
"""

import io
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stop_pipeline.columns import as_arrow, as_numpy, in_one, repeats, scalar
from stop_pipeline.model import DELAY_FIGURES
from stop_pipeline.periods import is_after

RECENT_DAYS = 90
MEAN_DAYS = 28
COUNTRIES_SHOWN = 5
"""Each by its name; the opt-outs of all others are added up."""

LATE = timedelta(hours=48)
"""SMS Partner says that an opt-out is listed by then."""

_CARD, _INK, _FAINT, _GRID = "#fbfbfd", "#2b3440", "#5c6773", "#e3e6ea"
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")
"""Okabe and Ito's, which people tell apart whatever colours they see."""

_OTHER_COLOUR = "#aab2bc"
_WIDTH_INCHES, _DPI, _FONT_POINTS = 8.0, 110, 9.5
_SHORTEST_HOURS, _LONGEST_HOURS = 1 / 60, 24 * 14
"""Where the scale of delays begins, and where it ends unless one is longer."""

_POINTS_DRAWN = 400
"""Of a curve: more are not seen."""

_DELAY_TICKS = {1 / 60: "1 min", 1 / 4: "15 min", 1: "1 h", 6: "6 h", 48: "48 h", 336: "14 days", 2160: "90 days"}


@dataclass(frozen=True)
class Delays:
    """How long opt-outs took from `created_at` to `first_seen_at`, in hours, ascending."""

    hours: npt.NDArray[np.float64]

    @property
    def figures(self) -> dict[str, float]:
        """Median, 90 % and 99 % quantiles, and the percentage over 48 hours (`DELAY_FIGURES`); none without rows."""
        if not len(self.hours):
            return {}
        median, most, nearly_all = np.quantile(self.hours, (0.5, 0.9, 0.99), method="inverted_cdf")
        late = np.mean(self.hours > LATE / timedelta(hours=1)) * 100
        figures = (round(float(figure), 2) for figure in (median, most, nearly_all, late))
        return dict(zip(DELAY_FIGURES, figures, strict=True))


def delays(stops: pa.Table, first_load: datetime) -> Delays:
    """The delays of the opt-outs that came after the first load: what that one brought had been listed for long.

    One that was altered, or came back, was seen before: each `id` counts with its first period only.

    Args:
        stops: Periods (`schema.STOPS`; `id`, `created_at`, `first_seen_at` are used), at least all of those opt-outs.
        first_load: When the first load was fetched.
    """
    came_later = stops.filter(is_after(stops["first_seen_at"], first_load))["id"]
    periods = stops.filter(pc.is_in(stops["id"], value_set=in_one(came_later)))
    periods = periods.sort_by([("id", "ascending"), ("first_seen_at", "ascending")])
    firsts = periods.filter(as_arrow(~repeats(periods, "id")))
    firsts = firsts.filter(is_after(firsts["first_seen_at"], first_load))
    spans = as_numpy(firsts["first_seen_at"]) - as_numpy(firsts["created_at"])
    return Delays(np.sort(spans / np.timedelta64(1, "h")))


def delay_chart(delays: Delays) -> bytes:
    """Which share of the opt-outs was first seen within how long, as a PNG."""
    figure, (axes,) = _figure([3.2])
    if len(delays.hours):
        _draw_delays(axes, delays)
    else:
        _title(axes, "No opt-out has come in since the first load")
    axes.axvline(LATE / timedelta(hours=1), color=_COLOURS[1], linewidth=1.3, linestyle="--", zorder=1)
    axes.set_xscale("log")
    longest = max([_LONGEST_HOURS, *delays.hours[-1:]]) * 1.2
    axes.set_xlim(_SHORTEST_HOURS, longest)
    ticks = {hours: text for hours, text in _DELAY_TICKS.items() if hours < longest}
    axes.set_xticks(list(ticks), labels=list(ticks.values()))
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 104)
    axes.set_xlabel("time from created_at to first_seen_at")
    axes.set_ylabel("opt-outs seen by then (%)")
    return _png(figure)


def stops_per_day_chart(stops_per_day: pa.Table) -> bytes:
    """Opt-outs per day since the first, and those of the last 90 days by country, as a PNG.

    Args:
        stops_per_day: As in `schema.STOPS_PER_DAY`.
    """
    figure, panels = _figure([2.2, 2.6])
    if stops_per_day.num_rows:
        days, by_country = daily_counts(stops_per_day)
        _draw_every_day(panels[0], days, np.sum(list(by_country.values()), axis=0))
        _draw_by_country(panels[1], days[-RECENT_DAYS:], largest_countries(by_country))
    else:
        _title(panels[0], "There are no opt-outs yet")
        _title(panels[1], f"Last {RECENT_DAYS} days by country")
        for axes in panels:
            axes.set_xticks([])
    for axes in panels:
        axes.set_ylim(bottom=0)
        axes.set_ylabel("opt-outs per day")
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=5)
        axes.yaxis.set_major_formatter("{x:,.0f}")
    panels[1].set_xlabel("local day")
    return _png(figure)


def daily_counts(stops_per_day: pa.Table) -> tuple[npt.NDArray[np.datetime64], dict[str, npt.NDArray[np.int64]]]:
    """Every day from the first to the last, and the opt-outs of each, by country."""
    day = as_numpy(stops_per_day["day"]).astype("datetime64[D]")
    days = np.arange(day.min(), day.max() + 1)
    stops = as_numpy(stops_per_day["stops"])
    country = np.array(pc.fill_null(stops_per_day["country"], scalar("no country")).to_pylist())
    return days, {
        name: np.bincount((day - days[0]).astype(int), stops * (country == name), len(days)).astype(int)
        for name in np.unique(country)
    }


def largest_countries(by_country: dict[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.int64]]:
    """The opt-outs of the last days, of the countries that had most, largest first; of all others as “other”."""
    recent = {name: stops[-RECENT_DAYS:] for name, stops in by_country.items() if stops[-RECENT_DAYS:].any()}
    names = sorted(recent, key=lambda name: (-recent[name].sum(), name))
    shown = {name: recent[name] for name in names[:COUNTRIES_SHOWN]}
    others = [recent[name] for name in names[COUNTRIES_SHOWN:]]
    return shown | {"other": np.sum(others, axis=0)} if others else shown


def _draw_every_day(axes: Any, days: npt.NDArray[np.datetime64], stops: npt.NDArray[np.int64]) -> None:
    if len(days) <= MEAN_DAYS:
        axes.bar(days, stops, width=0.85, color=_COLOURS[0])
        _title(axes, f"{stops.sum():,} opt-outs, day by day")
    else:
        mean = np.convolve(stops, np.full(MEAN_DAYS, 1 / MEAN_DAYS), "valid")
        axes.fill_between(days, stops, step="mid", color=_COLOURS[4], alpha=0.8, linewidth=0, label="each day")
        axes.plot(days[MEAN_DAYS - 1 :], mean, color=_COLOURS[0], linewidth=1.8, label=f"mean of {MEAN_DAYS} days")
        _legend(axes)
        _title(axes, f"{stops.sum():,} opt-outs since {days[0]}", above_legend=True)
    _dates(axes, days, MEAN_DAYS)


def _draw_by_country(axes: Any, days: npt.NDArray[np.datetime64], by_country: dict[str, npt.NDArray[np.int64]]) -> None:
    below = np.zeros(len(days))
    midnights = np.append(days, days[-1] + 1) - np.timedelta64(12, "h")
    for (name, stops), colour in zip(by_country.items(), (*_COLOURS, _OTHER_COLOUR), strict=False):
        # One shape for each country: a bar for each day as well takes twice the time of the whole chart.
        axes.stairs(below + stops, midnights, baseline=below, fill=True, color=colour, label=f"{name} {stops.sum():,}")
        below = below + stops
    _legend(axes)
    _title(axes, f"Last {RECENT_DAYS} days by country, to {days[-1]}", above_legend=True)
    _dates(axes, days, RECENT_DAYS)


def _draw_delays(axes: Any, delays: Delays) -> None:
    median, most, nearly_all, late = delays.figures.values()
    _title(
        axes,
        f"Half were seen within {_span(median)}, 99 % within {_span(nearly_all)}; {late:.1f} % took over 48 h",
    )
    count = len(delays.hours)
    places = np.unique(np.linspace(0, count - 1, _POINTS_DRAWN).astype(int))
    hours = np.maximum(delays.hours[places], _SHORTEST_HOURS)
    shares = (places + 1) / count * 100
    axes.step([hours[0], *hours], [0, *shares], where="post", color=_COLOURS[0], linewidth=2)
    for share, value in ((50, median), (90, most), (99, nearly_all)):
        near_the_edge = value < 1 / 4
        axes.plot(max(value, _SHORTEST_HOURS), share, "o", color=_INK, markersize=4, zorder=3, clip_on=False)
        axes.annotate(
            f"{share} %: {_span(value)}",
            (max(value, _SHORTEST_HOURS), share),
            xytext=(8 if near_the_edge else -8, 0),
            textcoords="offset points",
            ha="left" if near_the_edge else "right",
            va="center",
            color=_INK,
            fontsize=_FONT_POINTS,
            bbox={"facecolor": _CARD, "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )


def _span(hours: float) -> str:
    """A delay as people say it; one below a minute, or below zero by clocks that differ, is within one minute."""
    if hours < 1:
        return f"{max(hours * 60, 1):.0f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours / 24:,.0f} days"  # noqa: PLR2004 – four days and a bit


def _figure(heights_inches: list[float]) -> tuple[Any, list[Any]]:
    """An empty card with one panel below the other."""
    from matplotlib.figure import Figure  # noqa: PLC0415 – see above
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.13)
    figure = Figure((_WIDTH_INCHES, sum(heights_inches)), dpi=_DPI, facecolor=_CARD, layout=layout)
    panels = figure.subplots(len(heights_inches), squeeze=False, height_ratios=heights_inches)[:, 0]
    for axes in panels:
        axes.set_facecolor(_CARD)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_FAINT)
        axes.grid(axis="y", color=_GRID)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_FAINT, labelsize=_FONT_POINTS, left=False)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=_FAINT, fontsize=_FONT_POINTS)
    return figure, list(panels)


def _legend(axes: Any) -> None:
    """In one line between the title and what is drawn, where it can hide nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=COUNTRIES_SHOWN + 1,
        frameon=False,
        labelcolor=_INK,
        fontsize=_FONT_POINTS,
        borderaxespad=0.2,
        handlelength=1,
        handleheight=0.8,
        handletextpad=0.4,
        columnspacing=1.2,
    ).set_in_layout(False)


def _title(axes: Any, text: str, *, above_legend: bool = False) -> None:
    pad = 24 if above_legend else 9
    axes.set_title(text, loc="left", color=_INK, fontsize=_FONT_POINTS + 1.5, fontweight="bold", pad=pad)


def _dates(axes: Any, days: npt.NDArray[np.datetime64], at_least: int) -> None:
    """A scale of days that reaches to the last of `days`, and is no shorter than `at_least` days."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415 – see above

    locator = AutoDateLocator(minticks=3, maxticks=9)
    first = min(days[0], days[-1] - (at_least - 1))
    axes.set_xlim(first - np.timedelta64(18, "h"), days[-1] + np.timedelta64(18, "h"))
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))


def _png(figure: Any) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    return sink.getvalue()
