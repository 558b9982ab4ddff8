"""Small charts of the tables: DataFrames in, SVG text out. No clock, no disk.

Dagster's asset pages show a picture where they stand, without a click, if its Markdown is shorter than 1,000
characters, and the database holds each materialization three times. So a chart has few elements, short numbers and
named colours. It has a white ground of its own, which is readable on light pages and on dark ones.
"""

from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pandas as pd

RECENT_DAYS = 90
RECENT_MONTHS = 60
COUNTRIES_SHOWN = 5
LATE_HOURS = 48  # SMS Partner says that an opt-out is listed within this time

DELAY_FIGURES = ("delay_median_hours", "delay_p90_hours", "delay_p99_hours", "over_48_hours_percent")

# The area of a chart, in pixels.
_LEFT, _BASE, _TALL, _WIDE = 12, 132, 90, 270
_RIGHT, _TOP = _LEFT + _WIDE, _BASE - _TALL - 8

_DELAY_TICKS = {0.02: "1 min", 1: "1 h", 6: "6 h", LATE_HOURS: "48 h", 24 * 14: "14 d"}
_CURVE_STEPS = 45  # from 1.2 minutes on, so that one of them begins at 48 h
_NOT_ENCODED = " ',/:;="


def markdown(title: str, svg: str) -> str:
    """An SVG as a Markdown image that holds its own data."""
    return f"![{title}](<data:image/svg+xml,{quote(svg, safe=_NOT_ENCODED)}>)"


def delays(stops: pd.DataFrame) -> "pd.Series[float]":
    """How long opt-outs took from `created_at` to `first_seen_at`, in hours, ascending, from all periods of `stops`.

    Only those count that came after the first load, whose opt-outs had long been listed. An opt-out that was
    altered, or came back, counts with its first period.
    """
    firsts = stops.sort_values("first_seen_at", kind="stable").drop_duplicates("id")
    later = firsts[firsts["first_seen_at"] > firsts["first_seen_at"].min()]
    hours: pd.Series[float] = (later["first_seen_at"] - later["created_at"]) / pd.Timedelta(hours=1)
    return hours.sort_values(ignore_index=True)


def delay_figures(hours: "pd.Series[float]") -> dict[str, float]:
    """Median, 90 % and 99 % quantiles, and the percentage over 48 hours (`DELAY_FIGURES`); none without rows."""
    if hours.empty:
        return {}
    quantiles = np.quantile(hours, (0.5, 0.9, 0.99), method="inverted_cdf")
    figures = [*quantiles, (hours > LATE_HOURS).mean() * 100]
    return {name: round(float(figure), 2) for name, figure in zip(DELAY_FIGURES, figures, strict=True)}


def delay_chart(hours: "pd.Series[float]") -> str:
    """The share of opt-outs that were first seen within a time, on a logarithmic scale from a minute to 14 days."""
    if hours.empty:
        return _svg("No opt-out has come in since the first load")
    first, last = min(_DELAY_TICKS), max(_DELAY_TICKS)

    def place(hour: float) -> int:
        return _LEFT + round(_WIDE * float(np.log(hour / first) / np.log(last / first)))

    ticks = [_text(min(place(hour), _RIGHT - 24), _BASE + 15, label) for hour, label in _DELAY_TICKS.items()]
    late = f"<path stroke='darkorange' d='M{place(LATE_HOURS)} {_BASE}v-{_TALL}'/>"
    median, _, nearly_all, _ = delay_figures(hours).values()
    title = f"Half listed within {_span(median)}, 99% within {_span(nearly_all)}"
    begins = np.geomspace(first, last, _CURVE_STEPS, endpoint=False)
    shares = np.searchsorted(hours, begins, side="right") / len(hours)
    return _svg(title, _area(shares), late, _text(_LEFT, _TOP, "100%"), *ticks)


def day_chart(stops_per_day: pd.DataFrame) -> str:
    """Opt-outs of each of the last 90 days (`schema.STOPS_PER_DAY`), to the last day that has any."""
    recent = _latest(stops_per_day, "D", RECENT_DAYS)
    return _bars(f"{recent.sum():,} opt-outs in the last {RECENT_DAYS} days", recent)


def month_chart(stops_per_day: pd.DataFrame) -> str:
    """Opt-outs of each month (`schema.STOPS_PER_DAY`), of the last five years."""
    recent = _latest(stops_per_day, "M", RECENT_MONTHS)
    return _bars(f"{stops_per_day['stops'].sum():,} opt-outs in all, by month", recent)


def countries(stops_per_day: pd.DataFrame) -> str:
    """The countries of the last 90 days' opt-outs with their shares, largest first."""
    since = stops_per_day["day"].max() - pd.Timedelta(days=RECENT_DAYS - 1)
    recent = stops_per_day[stops_per_day["day"] >= since]
    counts = recent["stops"].groupby(recent["country"].fillna("no country")).sum()
    counts = counts.sort_values(ascending=False, kind="stable")
    shown, others = counts.iloc[:COUNTRIES_SHOWN], counts.iloc[COUNTRIES_SHOWN:]
    parts = [*shown.items(), *([("other", others.sum())] if len(others) else [])]
    return ", ".join(f"{name} {100 * count / counts.sum():.1f}%" for name, count in parts) or "none"


def _latest(stops_per_day: pd.DataFrame, unit: str, periods: int) -> "pd.Series[int]":
    """Opt-outs of each of the last days (“D”) or months (“M”), to the last that has any; empty if none has."""
    counts = stops_per_day.groupby(stops_per_day["day"].dt.to_period(unit))["stops"].sum()
    if counts.empty:
        return counts
    return counts.reindex(pd.period_range(end=counts.index.max(), periods=periods, freq=unit), fill_value=0)


def _bars(title: str, counts: "pd.Series[int]") -> str:
    if counts.empty:
        return _svg("There are no opt-outs yet")
    highest, first, last = int(counts.max()), str(counts.index[0]), str(counts.index[-1])
    return _svg(
        title,
        _area(counts.to_numpy() / max(highest, 1)),
        _text(_LEFT, _TOP, f"{highest:,}"),
        _text(_LEFT, _BASE + 15, first),
        _text(_RIGHT - 6 * len(last), _BASE + 15, last),
    )


def _area(shares: npt.NDArray[np.float64]) -> str:
    """A step for each share of the height, all as wide, filled to the base line."""
    heights = np.round(shares * _TALL).astype(int)
    path, flat = "", 0.0
    for step in np.diff(heights, prepend=0):
        if step:
            path += f"h{flat:g}v{-step}" if flat else f"v{-step}"
            flat = 0
        flat += _WIDE / len(shares)
    return f"<path fill='steelblue' d='M{_LEFT} {_BASE}{path}h{flat:g}V{_BASE}'/>"


def _text(x: int, y: int, text: str) -> str:
    return f"<text x='{x}' y='{y}'>{text}</text>"


def _span(hours: float) -> str:
    """A delay as people say it; one below a minute, or below zero by clocks that differ, is within one minute."""
    if hours < 1:
        return f"{max(hours * 60, 1):.0f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours / 24:,.0f} days"  # noqa: PLR2004 – four days and a bit


def _svg(title: str, *elements: str) -> str:
    return (
        "<svg xmlns='http://www.w3.org/2000/svg' width='294' height='156' font-family='Arial' font-size='11'>"
        "<path fill='white' d='M0 0h294v156H0'/>"
        f"<text x='{_LEFT}' y='18' font-weight='bold'>{title}</text>{''.join(elements)}</svg>"
    )
