"""The results of `speed.py` as Markdown: the targets, then a table for each scenario."""

import inspect
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from measuring import Measured, Workshop

HEAD = """# How fast a sync is

Written by `python benchmarks/speed.py`, which says how it measures. Seconds are of whole processes, imports included,
{}. A ratio is that of the table's first line to the line it is in.
"""
VERSIONS_OF = ("dagster", "pandas", "pyarrow", "numpy", "deltalake", "dlt", "orjson")


@dataclass(frozen=True)
class Scenario:
    """One comparison.

    Attributes:
        name: As `--only` takes it.
        title: As its heading says it.
        measure: Measures it, for a number of rows; its docstring describes it.
        rows: Number of rows of the list.
    """

    name: str
    title: str
    measure: Callable[[Workshop, int], Measured]
    rows: int


Results = dict[Scenario, Measured]


@dataclass(frozen=True)
class Target:
    """A ratio not to exceed.

    Attributes:
        work: What is done.
        against: What it is compared with.
        limit: The ratio.
        price_of: What is bought with the time or the space, where the limit is not kept.
        scenario: Name of the scenario in which both are measured.
        measured: The ratio in what was measured there; None if a side failed.
    """

    work: str
    against: str
    limit: float
    price_of: str
    scenario: str
    measured: Callable[[Measured], float | None]


def as_markdown(results: Results, targets: Sequence[Target], repeats: int) -> str:
    """Everything that was measured.

    Args:
        results: What was measured.
        targets: What was to be reached; empty for a trial with small lists.
        repeats: How many turns each contender took.
    """
    medians = f"medians of {repeats}" if repeats > 1 else "measured once"
    parts = [
        HEAD.format(medians),
        _machine(),
        *([_targets(results, targets)] if targets else []),
    ]
    for scenario, measured in results.items():
        rows = f", {scenario.rows:,} rows" if targets and scenario.name != "command" else ""
        described = inspect.getdoc(scenario.measure)
        table = _special_table(measured) or _table(measured)
        parts.append(f"## {scenario.title}{rows}\n\n{described}\n\n{table}\n")
    return "\n".join(parts)


def _machine() -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in VERSIONS_OF)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GB of memory, {platform.system()}; Python "
        f"{platform.python_version()},\n{versions}.\n"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _targets(results: Results, targets: Sequence[Target]) -> str:
    measured_in = {scenario.name: measured for scenario, measured in results.items()}
    lines = ["## Targets\n", "| work | against | target | measured | reached |", "|---|---|---|---|---|"]
    for target in targets:
        measured = measured_in.get(target.scenario)
        ratio = target.measured(measured) if measured else None
        reached = "" if ratio is None else "yes" if ratio <= target.limit else f"no, the price of {target.price_of}"
        figure = "" if ratio is None else f"{ratio:.2f}"
        lines.append(f"| {target.work} | {target.against} | ≤ {target.limit} | {figure} | {reached} |")
    return "\n".join([*lines, ""])


def _table(measured: Measured) -> str:
    """The figures of each side; ratios are to the first side."""
    first = next(iter(measured.sides))
    lines = ["| | seconds | min | max | CPU seconds | peak MB | ratio |", "|---|---|---|---|---|---|---|"]
    for name, side in measured.sides.items():
        if name in measured.failures:
            lines.append(f"| {side.label} | {measured.failures[name]} | | | | | |")
            continue
        turns = measured.turns[name]
        seconds = [taken.seconds for taken in turns]
        ratio = measured.ratio(first, name, lambda taken: taken.seconds)
        figures = [
            *(f"{figure:.2f}" for figure in (statistics.median(seconds), min(seconds), max(seconds))),
            f"{statistics.median(taken.cpu_seconds for taken in turns):.2f}",
            f"{max(taken.peak_mb for taken in turns):,.0f}",
            "" if ratio is None else f"{ratio:.2f}",
        ]
        lines.append(f"| {side.label} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _special_table(measured: Measured) -> str | None:
    """For a scenario whose processes print figures of their own; None for any other, and for one that failed."""
    if measured.failures:
        return None
    if "stages" in measured.turns:
        return "\n\n".join(_printed_table(measured, name) for name in ("stages", "floors"))
    return _disk_table(measured) if "size" in measured.turns else None


def _printed_table(measured: Measured, name: str) -> str:
    lines = [f"| {measured.sides[name].label} | seconds |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {took:.2f} |" for what, took in measured.turns[name][0].printed.items())])


def _disk_table(measured: Measured) -> str:
    lines = ["| | milliseconds | rows |", "|---|---|---|"]
    for name in ("filter", "file"):
        milliseconds = 1e3 * (measured.median(name, lambda taken: float(taken.printed["seconds"])) or 0)
        rows = measured.turns[name][0].printed["rows"]
        lines.append(f"| {measured.sides[name].label} | {milliseconds:.1f} | {rows:,} |")
    sizes = measured.turns["size"][0].printed
    lines += ["", "| | MB | bytes per row |", "|---|---|---|"]
    for name, label in (("ours", "`stops`"), ("pandas", "pandas' default, one file")):
        lines.append(f"| {label} | {sizes[name] / 1e6:,.1f} | {sizes[name] / sizes['rows']:.1f} |")
    return "\n".join(lines)
