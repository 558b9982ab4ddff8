"""How fast a sync is, compared with the tools that one would otherwise use.

    python benchmarks/speed.py                    # everything, at 1 M and 10 M rows; writes RESULTS.md
    python benchmarks/speed.py --only "append"    # scenarios whose names contain this text; can be given again
    python benchmarks/speed.py --small            # 10,000 rows, measured once: shows that the benchmark works

This file says what is compared, against what, and with which target; `measuring` says how, and `report` shows it. The
contenders of a scenario take turns; a ratio is the median of the ratios within the turns. After each turn the rows that
stand are counted, and the new ones looked for.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from measuring import HERE, NEXT_FETCHED_AT, Measured, Side, Taken, Workshop, serving, take_turns
from report import Results, Scenario, Target, as_markdown

RESULTS = HERE / "RESULTS.md"
SMALL, LARGE, TRIAL = 1_000_000, 10_000_000, 10_000
"""Rows of the lists; `TRIAL` is for `--small`."""
NEW = 1_000

LABELS = {
    "core": "stop_pipeline, core of a sync",
    "whole": "stop_pipeline, whole sync",
    "stops alone": "stop_pipeline, `stops` alone",
    "delta": "delta-rs script: orjson and MERGE, by month",
    "naive": "pandas script: json and `to_parquet`, by month",
    "dlt": "dlt, merge into Delta",
}


def append(shop: Workshop, rows: int) -> Measured:
    """The response has 1,000 rows more, made in the last two days; the others are as they were."""
    peers = ("delta",) if rows == LARGE else ("delta", "naive", "dlt")
    return _compare(shop, "append", rows, ("core", *peers, "whole"), new=NEW)


def parse_everything(shop: Workshop, rows: int) -> Measured:
    """The same 1,000 rows more, but the others are in another order, so that everything is parsed."""
    return _compare(shop, "everything parsed", rows, ("core", "delta"), new=NEW, reordered=True)


def change_all_over(shop: Workshop, rows: int) -> Measured:
    """The response has 1,000 rows more, lacks 100, and shows another number for 100, all over the list."""
    return _compare(shop, "changes all over", rows, ("core", "delta"), new=NEW, gone=100, altered=100)


def first_load(shop: Workshop, rows: int) -> Measured:
    """The first response. The core of a sync also keeps what makes the next one fast: the response and its snapshot."""
    response = shop.response(rows)
    sides = [
        Side(name, LABELS[name], partial(shop.sync, name, None, response, rows=rows))
        for name in ("stops alone", "delta", "core", "whole")
    ]
    return take_turns(f"{rows:,} rows, first load", sides, shop.repeats)


def unchanged(shop: Workshop, rows: int) -> Measured:
    """The response is the same, byte for byte."""
    return _compare(shop, "unchanged", rows, ("whole", "delta"))


def xml(shop: Workshop, rows: int) -> Measured:
    """The response is XML and has 1,000 rows more: appended first, then with all others in another order."""
    base = shop.response(rows, form="xml")
    sides = []
    for name, label, reordered in (("append", "appended", False), ("parse", "everything parsed", True)):
        response = shop.response(rows, new=NEW, reordered=reordered, form="xml")
        turn = partial(shop.sync, "core", base, response, rows=rows + NEW)
        sides.append(Side(name, f"{LABELS['core']}, {label}", turn))
    return take_turns(f"{rows:,} rows, XML", sides, shop.repeats)


def command(shop: Workshop, rows: int) -> Measured:
    """The command as cron calls it, Dagster and HTTP included, compared with Dagster alone."""
    rows, new = rows // 10, NEW // 10
    base, following = shop.response(rows), shop.response(rows, new=new)
    programs = Path(sys.executable).parent
    home, empty = shop.work / "command", shop.work / "three-empty-assets"

    def run(folder: Path, response: Path) -> Taken:
        with serving(response) as base_url:
            return shop.run(
                programs / "stop-pipeline", "run", cwd=folder, SMSPARTNER_BASE_URL=base_url, SMSPARTNER_API_KEY="a-key"
            )

    def materialize(folder: Path) -> Taken:
        arguments = ("asset", "materialize", "--select", "*", "-f", HERE / "three_empty_assets.py")
        return shop.run(programs / "dagster", *arguments, cwd=folder, DAGSTER_HOME=str(folder))

    def turn(response: Path, standing: int) -> Taken:
        with shop.copied(home) as folder:
            taken = run(folder, response)
            shop.check("whole", folder / "data", response, standing)
        return taken

    def empty_turn() -> Taken:
        with shop.copied(empty) as folder:
            return materialize(folder)

    home.mkdir()
    run(home, base)
    empty.mkdir()
    (empty / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    if not shop.trial:
        materialize(empty)  # makes Dagster's database, as the first run of the command did
    sides = [
        Side("run", f"`stop-pipeline run`, {rows:,} rows, {new} new", lambda: turn(following, rows + new)),
        Side("unchanged", f"`stop-pipeline run`, {rows:,} rows, unchanged", lambda: turn(base, rows)),
        Side("dagster", "`dagster asset materialize`, three empty assets", empty_turn),
    ]
    return take_turns("command", sides, shop.repeats)


def disk(shop: Workshop, rows: int) -> Measured:
    """The size of `stops`, and the time to read one month of it, compared with reading that month's file alone."""
    state = shop.state("whole", shop.response(rows))
    sides = [
        Side("filter", "`read_stops` with a filter", lambda: shop.python("storage.py", "read", state, "filter")),
        Side("file", "pandas, the month's file alone", lambda: shop.python("storage.py", "read", state, "file")),
    ]
    read = take_turns(f"{rows:,} rows, one month read", sides, shop.repeats)
    size = Side("size", "both written", lambda: shop.python("storage.py", "size", state, shop.work / "scratch"))
    sized = take_turns(f"{rows:,} rows, size", [size], 1)
    return Measured(read.sides | sized.sides, read.turns | sized.turns, read.failures | sized.failures)


def profile(shop: Workshop, rows: int) -> Measured:
    """One whole sync with 1,000 appended rows, step by step, and what single calls of fast libraries take."""
    base, following = shop.response(rows), shop.response(rows, new=NEW)

    def turn(script: str, last: Callable[[Path], str | Path]) -> Taken:
        with shop.copied(shop.state("whole", base)) as state:
            return shop.python(script, state, following, last(state))

    sides = [
        Side("stages", "step", lambda: turn("stages.py", lambda _: NEXT_FETCHED_AT)),
        Side("floors", "one call", lambda: turn("floors.py", lambda state: state)),
    ]
    return take_turns(f"{rows:,} rows, step by step", sides, 1)


def _compare(shop: Workshop, title: str, rows: int, contenders: tuple[str, ...], **options: int) -> Measured:
    """Contenders that bring the same response into the state that the list of `rows` rows left."""
    base, following = shop.response(rows), shop.response(rows, **options)
    standing = rows + options.get("new", 0) - options.get("gone", 0)
    sides = [Side(name, LABELS[name], partial(shop.sync, name, base, following, rows=standing)) for name in contenders]
    return take_turns(f"{rows:,} rows, {title}", sides, shop.repeats)


SCENARIOS = (
    Scenario("append", "Appended rows", append, SMALL),
    Scenario("everything parsed", "Everything parsed", parse_everything, SMALL),
    Scenario("changes all over", "Changes all over the list", change_all_over, SMALL),
    Scenario("first load", "First load", first_load, SMALL),
    Scenario("unchanged", "Unchanged", unchanged, SMALL),
    Scenario("xml", "XML", xml, SMALL),
    Scenario("command", "The command", command, SMALL),
    Scenario("profile", "Step by step", profile, SMALL),
    Scenario("large append", "Appended rows", append, LARGE),
    Scenario("large everything parsed", "Everything parsed", parse_everything, LARGE),
    Scenario("large first load", "First load", first_load, LARGE),
    Scenario("large disk", "On disk", disk, LARGE),
)


TRIAL_SCENARIOS = ("append", "changes all over", "first load", "xml", "command", "profile", "large disk")
"""Those of `--small`; the others run the same code."""


def _seconds(taken: Taken) -> float:
    return taken.seconds


def _peak_memory(taken: Taken) -> float:
    return taken.peak_mb


def _read_seconds(taken: Taken) -> float:
    return float(taken.printed["seconds"])


def _size_ratio(taken: Taken) -> float:
    return float(taken.printed["ours"] / taken.printed["pandas"])


def _ratio(side: str, other: str, of: Callable[[Taken], float] = _seconds) -> Callable[[Measured], float | None]:
    return lambda measured: measured.ratio(side, other, of)


APPENDED, ADDED = "1 M rows, 1,000 appended", "1 M rows, 1,000 added, 100 removed, 100 altered all over"
REORDERED = "1 M rows, 1,000 new, the others reordered (everything is parsed)"
DELTA, DAGSTER = "delta-rs script", "three empty assets by `dagster asset materialize`"
IMPORTS = "ordinary imports, and steps that each read what the one before has stored"
IN_PANDAS = "reading and checking every row, and its phone number, in pandas"
AS_WHOLE = "derived tables that are made anew, by one function each"
READING = "looking up the commit, and two columns from the names of folders"
STORING = "keeping the response and its snapshot"
TARGETS = (
    Target(f"core, {APPENDED}", DELTA, 0.35, IMPORTS, "append", _ratio("core", "delta")),
    Target("the same, 10 M rows", DELTA, 0.20, IMPORTS, "large append", _ratio("core", "delta")),
    Target(f"core, {REORDERED}", DELTA, 0.75, IN_PANDAS, "everything parsed", _ratio("core", "delta")),
    Target(f"core, {ADDED}", DELTA, 0.25, IN_PANDAS, "changes all over", _ratio("core", "delta")),
    Target(
        f"whole sync, {APPENDED} (the script writes one table)",
        DELTA,
        1.0,
        AS_WHOLE,
        "append",
        _ratio("whole", "delta"),
    ),
    Target("first load, 1 M rows, `stops` alone", DELTA, 0.8, IN_PANDAS, "first load", _ratio("stops alone", "delta")),
    Target("the same, 10 M rows", DELTA, 0.8, IN_PANDAS, "large first load", _ratio("stops alone", "delta")),
    Target(
        "peak memory, 10 M rows, 1,000 appended",
        DELTA,
        0.05,
        STORING,
        "large append",
        _ratio("core", "delta", _peak_memory),
    ),
    Target(
        "the same, everything parsed",
        DELTA,
        0.35,
        STORING,
        "large everything parsed",
        _ratio("core", "delta", _peak_memory),
    ),
    Target("`stop-pipeline run`, 100,000 rows, 100 new", DAGSTER, 0.40, IMPORTS, "command", _ratio("run", "dagster")),
    Target(
        "size of `stops`, 10 M rows",
        "pandas' default Parquet",
        0.40,
        STORING,
        "large disk",
        lambda measured: measured.median("size", _size_ratio),
    ),
    Target(
        "reading one month by a filter, 10 M rows",
        "that month's file alone",
        1.5,
        READING,
        "large disk",
        _ratio("filter", "file", _read_seconds),
    ),
)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"{TRIAL:,} rows instead, one turn each")
    parser.add_argument("--only", action="append", default=[], help=f"of: {', '.join(s.name for s in SCENARIOS)}")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contender (5)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds that one process may take (900)")
    parser.add_argument("--results", type=Path, help="where to write the results; RESULTS.md for a full run")
    arguments = parser.parse_args()

    chosen = [s for s in SCENARIOS if not arguments.only or any(text in s.name for text in arguments.only)]
    if arguments.small:
        chosen = [s for s in chosen if s.name in TRIAL_SCENARIOS]
    full = len(chosen) == len(SCENARIOS)
    path = arguments.results or (RESULTS if full and arguments.repeats >= 5 else None)  # noqa: PLR2004
    repeats, targets = (1, ()) if arguments.small else (arguments.repeats, TARGETS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ctrl-C: gigabytes are not left behind
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="speed-") as work:
        shop = Workshop(Path(work), repeats, arguments.timeout, trial=arguments.small)
        for scenario in chosen:
            results[scenario] = scenario.measure(shop, TRIAL if arguments.small else scenario.rows)
            if path is not None:
                path.write_text(as_markdown(results, targets, repeats))
    print(as_markdown(results, targets, repeats))
    if failed := [side for measured in results.values() for side in measured.failures]:
        sys.exit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
