"""How fast a tick is, beside the tools that a user would otherwise pick.

    python benchmarks/speed.py                       # everything, 1 M and 10 M rows; some hours, 20 GB of disk
    python benchmarks/speed.py --only "new rows"     # scenarios whose names hold this text; may be given again
    python benchmarks/speed.py --small               # 10,000 rows, each once: shows that the benchmark still runs

What belongs here: what is measured, against what, with which target, and how it is shown. What does not: the answers
(`workload`), the contenders, what each stage takes (`stages`) and what lies on disk (`storage`).

Every figure is of a process of its own: wall-clock and CPU seconds from its start to its end, imports included, and its
peak memory, as the kernel counts them. The contenders of a scenario take turns, each on a fresh copy of the state
before, which is synced to disk first and not timed; a ratio is the median of the ratios within the turns. After each
turn the rows that stand are counted, and the new ones looked for. This process imports nothing heavy: a child's peak
memory begins with its parent's.
"""

import argparse
import functools
import http.server
import inspect
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
TRIED = HERE / "tried.md"
"""What was tried and did not pay: written by hand, shown at the end."""

BASE_FETCHED_AT = "2026-01-01T12:00:00+00:00"
NEXT_FETCHED_AT = "2026-01-01T13:00:00+00:00"
NEW_ROWS = 1_000
AIMED_AT = (1_000_000, 10_000_000)
"""The sizes that the targets are for."""

LEAST_SHARE, MOST_DEPTH = 0.02, 4
"""Of the lines that the stages are shown in."""

VERSIONS_OF = ("dagster", "pandas", "pyarrow", "numpy", "deltalake", "dlt", "orjson", "pysimdjson")


# What one process takes


@dataclass(frozen=True)
class Taken:
    """What one process took, and the JSON that it printed, if any."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    printed: Any


class FailedError(Exception):
    """A process failed or took too long."""


@dataclass(frozen=True)
class Runner:
    """Starts processes and waits for them, each for a limited time."""

    work: Path
    timeout_seconds: float

    def run(self, *command: str | Path, cwd: Path | None = None, **variables: str) -> Taken:
        """Run to the end, with nothing of this machine's settings of ours, and modules compiled once, as ever.

        Raises:
            FailedError: it ended badly, or not in time.
        """
        # Where Python may not keep what it compiles, it compiles this package anew each time; the peers' came compiled
        # from their installation.
        ours = ("SMSPARTNER_", "STOP_PIPELINE_", "DAGSTER_", "DLT_", "RUNTIME__", "PYTHONDONTWRITEBYTECODE")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environment |= {"RUNTIME__DLTHUB_TELEMETRY": "false", **variables}
        with tempfile.TemporaryFile(dir=self.work) as stdout, tempfile.TemporaryFile(dir=self.work) as stderr:
            started = time.perf_counter()
            process = subprocess.Popen(  # noqa: S603 – programs named below
                list(map(str, command)),
                cwd=cwd or self.work,
                env=environment,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            late = threading.Timer(self.timeout_seconds, os.killpg, (process.pid, signal.SIGKILL))
            late.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:  # Ctrl-C does not reach it, in a session of its own
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
            finally:
                late.cancel()
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            stdout.seek(0)
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip().splitlines()
            printed = stdout.read().decode(errors="replace").strip()
        if process.returncode == -signal.SIGKILL and seconds >= self.timeout_seconds:
            raise FailedError(f"no end after {self.timeout_seconds:g} s")
        if process.returncode:
            raise FailedError(said[-1] if said else f"exit code {process.returncode}")
        return Taken(
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            # Linux counts kilobytes, macOS bytes.
            peak_mb=usage.ru_maxrss / (1e3 if sys.platform == "linux" else 1e6),
            printed=json.loads(printed) if printed[:1] in ("{", "[") else None,
        )

    def python(self, script: str, *arguments: str | Path) -> Taken:
        """Run one of the scripts beside this one."""
        return self.run(sys.executable, HERE / script, *arguments)


# What is put before the contenders


@dataclass
class Workshop:
    """Answers and states, each made once and then copied.

    Attributes:
        runner: Starts the processes.
        sizes: Rows of the lists, the small one and the large one.
        repeats: How often each contender takes its turn.
        ticks: How many ticks in a row are.
    """

    runner: Runner
    sizes: tuple[int, int]
    repeats: int
    ticks: int
    _new_ids: dict[Path, list[int]] = field(default_factory=dict)

    def answer(self, rows: int, **options: Any) -> Path:
        """The answer that `workload.write_answer` writes for these arguments."""
        name = "-".join(str(value).replace(" ", "_") for value in (rows, *options.values()))
        path = self.runner.work / f"answer-{name}.{options.get('form', 'json')}"
        if not path.exists():
            taken = self.runner.python("workload.py", path, json.dumps({"rows": rows, **options}))
            self._new_ids[path] = taken.printed
        return path

    def new_ids(self, answer: Path) -> list[int]:
        """The ids that an answer lists on top."""
        return self._new_ids[answer]

    def state(self, contender: str, answer: Path | None) -> Path:
        """The state after a contender's first tick, with this answer; without one, before it."""
        path = self.runner.work / f"state-{contender.replace(' ', '_')}-{answer.stem if answer else 'empty'}"
        if path.exists():
            return path
        if answer is None:
            path.mkdir()
            return path
        with self.copied(self.state(contender, None)) as copy:
            self.runner.python("contenders.py", "tick", contender, copy, answer, BASE_FETCHED_AT)
            copy.rename(path)  # whole, or not there: who fails may be asked again
        return path

    @contextmanager
    def copied(self, state: Path) -> Iterator[Path]:
        """A copy of a state, on disk, for as long as the block runs."""
        copy = self.runner.work / "now"
        shutil.copytree(state, copy, symlinks=True)
        os.sync()  # else a contender that syncs what it writes would wait for our copy as well
        try:
            yield copy
        finally:
            shutil.rmtree(copy, ignore_errors=True)


@dataclass(frozen=True)
class Side:
    """One of those that take turns.

    Attributes:
        name: As the targets call it.
        says: What it is, in a table.
        turn: One turn; what is not timed happens before and after the process that is.
    """

    name: str
    says: str
    turn: Callable[[], Taken]


@dataclass
class Measured:
    """What the turns of one scenario took, by the sides' names; a side that failed has the reason instead."""

    sides: dict[str, Side]
    turns: dict[str, list[Taken]]
    failures: dict[str, str]

    def ratio(self, side: str, other: str, of: Callable[[Taken], float] = lambda taken: taken.seconds) -> float | None:
        """The median over the turns of what `side` took by what `other` took; None if either failed."""
        pairs = list(zip(self.turns.get(side, []), self.turns.get(other, []), strict=False))
        if not pairs or {side, other} & self.failures.keys():
            return None
        return statistics.median(of(one) / of(two) for one, two in pairs)

    def median(self, side: str, of: Callable[[Taken], float] = lambda taken: taken.seconds) -> float | None:
        """The median over the turns; None if it failed."""
        taken = self.turns.get(side, [])
        return None if side in self.failures or not taken else statistics.median(map(of, taken))


def take_turns(title: str, sides: Sequence[Side], repeats: int) -> Measured:
    """A B C, A B C, … as often as asked for; who fails once is left out from then on."""
    measured = Measured({side.name: side for side in sides}, {side.name: [] for side in sides}, {})
    for repeat in range(repeats):
        for side in sides:
            if side.name in measured.failures:
                continue
            try:
                taken = side.turn()
            except FailedError as failure:
                measured.failures[side.name] = str(failure)
                print(f"{title} · {side.says}: {failure}", file=sys.stderr, flush=True)
                continue
            measured.turns[side.name].append(taken)
            figures = f"{taken.seconds:.2f} s, {taken.peak_mb:,.0f} MB"
            print(f"{title} · {repeat + 1} of {repeats} · {side.says}: {figures}", file=sys.stderr, flush=True)
    return measured


# The scenarios


SHOWN = {
    "ours": "stop_pipeline, whole tick",
    "ours core": "stop_pipeline, core of a tick",
    "ours alone": "stop_pipeline, `stops` alone",
    "naive": "json + pandas + `to_parquet` by month",
    "delta": "orjson + delta-rs MERGE, by month",
    "dlt merge": "dlt, merge into Delta",
    "dlt append": "dlt, append above the last id",
    "parse pyarrow": "parse alone: pyarrow, pieces of 16 MB",
    "parse simdjson": "parse alone: simdjson, no values taken",
}
WITHOUT_STATE = ("parse pyarrow", "parse simdjson")
PEERS_OF_SMALL = ("naive", "delta", "dlt merge", "dlt append")
PEERS_OF_LARGE = ("naive", "delta")


def tick_of(shop: Workshop, contender: str, before: Path | None, answer: Path, *, rows: int) -> Side:
    """The tick that brings `answer` into the state that `before` left; then `rows` rows must stand."""

    def turn() -> Taken:
        family = "ours" if contender.startswith("ours") else contender
        with shop.copied(shop.state(family, None if contender in WITHOUT_STATE else before)) as state:
            taken = shop.runner.python("contenders.py", "tick", contender, state, answer, NEXT_FETCHED_AT)
            if contender in WITHOUT_STATE:
                counted = (taken.printed or {}).get("rows")
                if counted != rows:
                    raise FailedError(f"{rows:,} rows were due, and {counted:,} were counted")
            else:
                ids = json.dumps(shop.new_ids(answer))
                shop.runner.python("contenders.py", "check", contender, state, "-", str(rows), ids)
        return taken

    return Side(contender, SHOWN[contender], turn)


def new_rows(shop: Workshop, rows: int) -> Measured:
    """A tick whose answer lists 1,000 rows more, made in the last two days."""
    base, following = shop.answer(rows), shop.answer(rows, new=NEW_ROWS)
    peers = PEERS_OF_SMALL if rows == shop.sizes[0] else PEERS_OF_LARGE
    sides = [tick_of(shop, name, base, following, rows=rows + NEW_ROWS) for name in ("ours core", *peers, "ours")]
    sides += [tick_of(shop, name, None, following, rows=rows + NEW_ROWS) for name in WITHOUT_STATE]
    return take_turns(f"{rows:,} rows, {NEW_ROWS:,} new", sides, shop.repeats)


def first_load(shop: Workshop, rows: int) -> Measured:
    """The first answer, into nothing: parsed, merged, and `stops` written.

    The core of a tick keeps the answer and its snapshot as well, so that the next one reads no more than what differs.
    """
    answer = shop.answer(rows)
    peers = ("naive", "delta") if rows == shop.sizes[0] else ("delta",)
    sides = [tick_of(shop, name, None, answer, rows=rows) for name in ("ours alone", *peers, "ours core", "ours")]
    return take_turns(f"{rows:,} rows, first load", sides, shop.repeats)


def unchanged(shop: Workshop, rows: int) -> Measured:
    """A tick whose answer is the same, byte for byte."""
    answer = shop.answer(rows)
    sides = [tick_of(shop, name, answer, answer, rows=rows) for name in ("ours", "naive", "delta")]
    return take_turns(f"{rows:,} rows, unchanged", sides, shop.repeats)


def all_months(shop: Workshop, rows: int) -> Measured:
    """A tick whose 1,000 new rows lie in all 120 months, so that every file is touched."""
    base, following = shop.answer(rows), shop.answer(rows, new=NEW_ROWS, new_in="all months")
    sides = [tick_of(shop, name, base, following, rows=rows + NEW_ROWS) for name in ("ours core", "naive", "delta")]
    return take_turns(f"{rows:,} rows, 120 months touched", sides, shop.repeats)


def changes(shop: Workshop, rows: int) -> Measured:
    """A tick whose answer lists 1,000 rows more, lacks 100, and shows another number for 100, all over the list."""
    base, following = shop.answer(rows), shop.answer(rows, new=NEW_ROWS, gone=100, altered=100)
    left = rows + NEW_ROWS - 100
    sides = [tick_of(shop, name, base, following, rows=left) for name in ("ours core", "naive", "delta")]
    return take_turns(f"{rows:,} rows, changes", sides, shop.repeats)


def reordered(shop: Workshop, rows: int) -> Measured:
    """The tick with 1,000 new rows, the others in another order than before: no part of the text is known."""
    base, following = shop.answer(rows), shop.answer(rows, new=NEW_ROWS, reordered=True)
    sides = [tick_of(shop, name, base, following, rows=rows + NEW_ROWS) for name in ("ours core", "naive", "delta")]
    return take_turns(f"{rows:,} rows, reordered", sides, shop.repeats)


def xml(shop: Workshop, rows: int) -> Measured:
    """The tick with 1,000 new rows, from XML."""
    base, following = shop.answer(rows, new=0, form="xml"), shop.answer(rows, new=NEW_ROWS, form="xml")
    sides = [tick_of(shop, name, base, following, rows=rows + NEW_ROWS) for name in ("ours core", "ours")]
    return take_turns(f"{rows:,} rows in XML", sides, shop.repeats)


def many_ticks(shop: Workshop, rows: int) -> Measured:
    """Many ticks in a row, each with ten rows more: whether one costs more than the one before."""
    rows //= 10
    answer = shop.answer(rows)

    def turn() -> Taken:
        with shop.copied(shop.state("ours", answer)) as state:
            taken = shop.runner.python(
                "contenders.py", "ticks", "ours", state, answer, NEXT_FETCHED_AT, str(shop.ticks)
            )
            shop.runner.python("contenders.py", "check", "ours", state, "-", str(rows + 10 * shop.ticks), "[]")
        return taken

    return take_turns(f"{rows:,} rows, {shop.ticks} ticks", [Side("ticks", "stop_pipeline, whole ticks", turn)], 1)


def command(shop: Workshop, rows: int) -> Measured:
    """The command as cron calls it, Dagster and HTTP included, beside Dagster alone."""
    rows //= 10
    base, following = shop.answer(rows), shop.answer(rows, new=NEW_ROWS // 10)
    nothing = shop.answer(0)
    script = Path(sys.executable).parent

    def run(folder: Path, answer: Path) -> Taken:
        with serving(answer) as base_url:
            return shop.runner.run(
                script / "stop-pipeline", "run", cwd=folder, SMSPARTNER_BASE_URL=base_url, SMSPARTNER_API_KEY="a-key"
            )

    def ran(answer: Path) -> Path:
        folder = shop.runner.work / f"ran-{answer.stem}"
        if not folder.exists():
            folder.mkdir()
            run(folder, answer)
        return folder

    def turn(before: Path, answer: Path, standing: int) -> Taken:
        with shop.copied(ran(before)) as folder:
            taken = run(folder, answer)
            if standing:
                ids = json.dumps(shop.new_ids(answer))
                shop.runner.python("contenders.py", "check", "ours", folder / "data", "-", str(standing), ids)
        return taken

    def empty_assets() -> Taken:
        home = shop.runner.work / "three-empty-assets"
        arguments = ("asset", "materialize", "--select", "*", "-f", HERE / "three_empty_assets.py")

        def materialize(folder: Path) -> Taken:
            return shop.runner.run(script / "dagster", *arguments, cwd=folder, DAGSTER_HOME=str(folder))

        if not home.exists():
            home.mkdir()
            (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
            materialize(home)
        with shop.copied(home) as folder:
            return materialize(folder)

    new = NEW_ROWS // 10
    sides = [
        Side("run", f"`stop-pipeline run`, {rows:,} rows, {new} new", lambda: turn(base, following, rows + new)),
        Side("run empty", EMPTY_LIST, lambda: turn(nothing, nothing, 0)),
        Side("run unchanged", f"`stop-pipeline run`, {rows:,} rows, unchanged", lambda: turn(base, base, rows)),
        Side("three assets", EMPTY_ASSETS, empty_assets),
    ]
    return take_turns("command", sides, shop.repeats)


def disk(shop: Workshop, rows: int) -> Measured:
    """What `stops` takes, and what reading one month of it costs beside that month's file alone."""
    state = shop.state("ours", shop.answer(rows))
    scratch = shop.runner.work / "scratch"

    def sized() -> Taken:
        try:
            return shop.runner.python("storage.py", "size", state, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    sides = [
        Side("filter", "`read_stops` with a filter", lambda: shop.runner.python("storage.py", "read", state, "filter")),
        Side("file", "pandas, the month's file", lambda: shop.runner.python("storage.py", "read", state, "file")),
    ]
    measured = take_turns(f"{rows:,} rows, one month read", sides, shop.repeats)
    sizes = take_turns(f"{rows:,} rows on disk", [Side("size", "both written", sized)], 1)
    return Measured(measured.sides | sizes.sides, measured.turns | sizes.turns, measured.failures | sizes.failures)


def profile(shop: Workshop, rows: int) -> Measured:
    """One whole tick with 1,000 new rows, stage by stage, and what single calls of fast libraries take for the same."""
    base, following = shop.answer(rows), shop.answer(rows, new=NEW_ROWS)

    def turn() -> Taken:
        with shop.copied(shop.state("ours", base)) as state:
            return shop.runner.python("stages.py", state, following, NEXT_FETCHED_AT)

    def floors() -> Taken:
        with shop.copied(shop.state("ours", base)) as state:
            return shop.runner.python("floors.py", state, following, state)

    sides = [Side("stages", SHOWN["ours"], turn), Side("floors", "single calls", floors)]
    return take_turns(f"{rows:,} rows, stage by stage", sides, 1)


Scenario = Callable[[Workshop, int], Measured]
SMALL, LARGE = 0, 1
SCENARIOS: dict[str, tuple[Scenario, int]] = {
    "small: new rows": (new_rows, SMALL),
    "small: first load": (first_load, SMALL),
    "small: unchanged": (unchanged, SMALL),
    "small: all months": (all_months, SMALL),
    "small: changes": (changes, SMALL),
    "small: reordered": (reordered, SMALL),
    "small: xml": (xml, SMALL),
    "small: many ticks": (many_ticks, SMALL),
    "small: profile": (profile, SMALL),
    "command": (command, SMALL),
    "large: new rows": (new_rows, LARGE),
    "large: first load": (first_load, LARGE),
    "large: disk": (disk, LARGE),
    "large: profile": (profile, LARGE),
}

Results = dict[str, Measured]


# The targets


@dataclass(frozen=True)
class Target:
    """A ratio to stay below.

    Attributes:
        work: What is done; “{small}”, “{large}” and “{tenth}” stand for the lists' rows.
        against: What it is measured against.
        limit: The ratio.
        measured: Finds it in the results; None if a side failed, KeyError if a scenario was left out.
    """

    work: str
    against: str
    limit: float
    measured: Callable[[Results], float | None]


def _ratio(scenario: str, side: str, other: str, of: str = "seconds") -> Callable[[Results], float | None]:
    return lambda results: results[scenario].ratio(side, other, lambda taken: float(getattr(taken, of)))


def _size(results: Results) -> float | None:
    return results["large: disk"].median("size", lambda taken: float(taken.printed["ours"] / taken.printed["pandas"]))


def _read(results: Results) -> float | None:
    return results["large: disk"].ratio("filter", "file", lambda taken: float(taken.printed["seconds"]))


def _growth(results: Results) -> float | None:
    """How many times the seconds grew, by how many times the rows did, which the parser counted."""
    per_row = []
    for name in ("small: new rows", "large: new rows"):
        seconds = results[name].median("ours core")
        rows = results[name].median("parse simdjson", lambda taken: float(taken.printed["rows"]))
        if seconds is None or rows is None:
            return None
        per_row.append(seconds / rows)
    return per_row[1] / per_row[0]


DELTA, NAIVE = "delta-rs script", "naive pandas script"
EMPTY_LIST, EMPTY_ASSETS = "`stop-pipeline run`, an empty list", "`dagster asset materialize`, three empty assets"
TARGETS = (
    Target("core of a tick, {small} rows, 1,000 new", DELTA, 0.35, _ratio("small: new rows", "ours core", "delta")),
    Target("the same", NAIVE, 0.20, _ratio("small: new rows", "ours core", "naive")),
    Target("core of a tick, {large} rows, 1,000 new", DELTA, 0.25, _ratio("large: new rows", "ours core", "delta")),
    Target("whole tick, {small} rows, 1,000 new", DELTA, 0.60, _ratio("small: new rows", "ours", "delta")),
    Target("first load, {small} rows", DELTA, 0.70, _ratio("small: first load", "ours alone", "delta")),
    Target("first load, {large} rows", DELTA, 0.70, _ratio("large: first load", "ours alone", "delta")),
    Target("peak memory, {large} rows", DELTA, 0.20, _ratio("large: new rows", "ours core", "delta", "peak_mb")),
    Target("answer unchanged, {small} rows", NAIVE, 0.05, _ratio("small: unchanged", "ours", "naive")),
    Target("`stop-pipeline run`, {tenth} rows, 100 new", EMPTY_LIST, 1.25, _ratio("command", "run", "run empty")),
    Target("the same", EMPTY_ASSETS, 0.40, _ratio("command", "run", "three assets")),
    Target("size of `stops` on disk, {large} rows", "pandas' default Parquet", 0.60, _size),
    Target("reading one month by a filter, {large} rows", "that month's file alone", 1.5, _read),
    Target("core of a tick, from {small} to {large} rows", "the rows' growth", 1.1, _growth),
)


# How it is shown


def shown(results: Results, sizes: tuple[int, int], repeats: int) -> str:
    """Everything that was measured, as Markdown."""
    told = (
        "Written by `python benchmarks/speed.py`, which says how it measures. Seconds are of whole processes, imports "
    )
    told += f"included: medians of {repeats}. A ratio is that of the first line to the line it stands in."
    parts = ["# How fast a tick is", "", told, "", _machine(), _targets(results, sizes)]
    for name, measured in results.items():
        scenario, size = SCENARIOS[name]
        heading = f"## {name.split(': ')[-1].capitalize()}, {sizes[size]:,} rows" if ": " in name else "## The command"
        described = inspect.cleandoc(scenario.__doc__ or "")
        parts.append(f"{heading}\n\n{described}\n\n{DETAILS.get(scenario, _table)(measured)}")
    if TRIED.exists():
        parts.append(TRIED.read_text())
    return "\n".join(parts)


def _machine() -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in VERSIONS_OF)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{os.cpu_count()} cores ({_cpu_model()}), {memory:.0f} GB of memory, {platform.system()}; "
        f"Python {platform.python_version()}, {versions}.\n"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _targets(results: Results, sizes: tuple[int, int]) -> str:
    """Each target beside what was measured; at other sizes than they are for, they are not judged."""
    names = {"small": f"{sizes[0]:,}", "large": f"{sizes[1]:,}", "tenth": f"{sizes[0] // 10:,}"}
    lines = ["| work | against | target | measured | reached |", "|---|---|---|---|---|"]
    for target in TARGETS:
        try:
            measured = target.measured(results)
        except KeyError:
            measured = None
        reached = "" if measured is None or sizes != AIMED_AT else "yes" if measured <= target.limit else "no"
        figure = "" if measured is None else f"{measured:.2f}"
        lines.append(f"| {target.work.format(**names)} | {target.against} | ≤ {target.limit} | {figure} | {reached} |")
    return "\n".join(["## Targets", "", *lines, ""])


def _table(measured: Measured) -> str:
    """Each side's figures; ratios are to the first side."""
    first = next(iter(measured.sides))
    lines = ["| | seconds | min | max | CPU seconds | peak MB | ratio |", "|---|---|---|---|---|---|---|"]
    for name, side in measured.sides.items():
        if name in measured.failures:
            lines.append(f"| {side.says} | {measured.failures[name]} | | | | | |")
            continue
        turns = measured.turns[name]
        seconds = [taken.seconds for taken in turns]
        ratio = measured.ratio(first, name)
        figures = [
            *(f"{figure:.2f}" for figure in (statistics.median(seconds), min(seconds), max(seconds))),
            f"{statistics.median(taken.cpu_seconds for taken in turns):.2f}",
            f"{max(taken.peak_mb for taken in turns):,.0f}",
            "" if ratio is None else f"{ratio:.2f}",
        ]
        lines.append(f"| {side.says} | {' | '.join(figures)} |")
    return "\n".join([*lines, ""])


def _disk_table(measured: Measured) -> str:
    lines = ["| | milliseconds | rows |", "|---|---|---|"]
    for name in ("filter", "file"):
        taken = measured.turns[name]
        if taken:
            milliseconds = 1e3 * statistics.median(one.printed["seconds"] for one in taken)
            lines.append(f"| {measured.sides[name].says} | {milliseconds:.1f} | {taken[0].printed['rows']:,} |")
    if measured.turns["size"]:
        printed = measured.turns["size"][0].printed
        per_row = {name: printed[name] / printed["rows"] for name in ("ours", "pandas")}
        lines += ["", "| | MB | bytes per row |", "|---|---|---|"]
        lines += [
            f"| {says} | {printed[name] / 1e6:,.1f} | {per_row[name]:.1f} |"
            for name, says in (("ours", "`stops`"), ("pandas", "pandas' default, one file"))
        ]
    return "\n".join([*lines, *(f"\n{reason}" for reason in measured.failures.values()), ""])


def _many_ticks_table(measured: Measured) -> str:
    if measured.failures:
        return _table(measured)
    printed = measured.turns["ticks"][0].printed
    seconds, files = printed["seconds"], printed["files"]
    return (
        "| | seconds per tick | files below `stops` |\n|---|---|---|\n"
        f"| first ten | {statistics.median(seconds[:10]):.3f} | {files[9]:,} |\n"
        f"| last ten of {len(seconds)} | {statistics.median(seconds[-10:]):.3f} | {files[-1]:,} |\n"
    )


def _stages_table(measured: Measured) -> str:
    """The functions that took some time, each below the one that called it."""
    if measured.failures:
        return _table(measured)
    printed = measured.turns["stages"][0].printed
    total = printed["seconds"]
    seconds = {tuple(line[:-1]): line[-1] for line in printed["lines"]}
    # In the order of the calls' weight, each with what is below it.
    weights = {line: [seconds[line[: depth + 1]] for depth in range(len(line))] for line in seconds}
    ordered = sorted(
        (line for line in seconds if seconds[line] >= LEAST_SHARE * total and len(line) <= MOST_DEPTH),
        key=lambda line: [part for depth in range(len(line)) for part in (-weights[line][depth], line[depth])],
    )
    lines = ["| | seconds | share |", "|---|---|---|"]
    for line in ordered:
        label = "&emsp;" * (len(line) - 1) + f"`{line[-1]}`"
        lines.append(f"| {label} | {seconds[line]:.2f} | {seconds[line] / total:.0%} |")
    lines += [f"| all, without imports | {total:.2f} | 100% |", "", "| one call | seconds |", "|---|---|"]
    floors = measured.turns["floors"][0].printed
    return "\n".join([*lines, *(f"| {what} | {took:.2f} |" for what, took in floors.items()), ""])


DETAILS: dict[Scenario, Callable[[Measured], str]] = {
    disk: _disk_table,
    many_ticks: _many_ticks_table,
    profile: _stages_table,
}


# The provider, and the command line


class _OneAnswer(http.server.BaseHTTPRequestHandler):
    """Answers every request with one file."""

    protocol_version = "HTTP/1.1"

    def __init__(self, answer: Path, *arguments: Any) -> None:
        self._answer = answer
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(self._answer.stat().st_size))
        self.end_headers()
        with self._answer.open("rb") as file:
            shutil.copyfileobj(file, self.wfile, 1 << 20)

    def log_message(self, *_: Any) -> None:
        """The address holds the key."""


@contextmanager
def serving(answer: Path) -> Iterator[str]:
    """Serve an answer on loopback; gives the API's base URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_OneAnswer, answer)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()


def _each_once(scenarios: dict[str, tuple[Scenario, int]]) -> dict[str, tuple[Scenario, int]]:
    """Those whose function no earlier one has: at one size the others would be the same."""
    first = {scenario: name for name, (scenario, _) in reversed(scenarios.items())}
    return {name: scenarios[name] for name in scenarios if name in first.values()}


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append", help="rows of the list; give it twice (1 M and 10 M)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contender (5)")
    parser.add_argument("--only", action="append", default=[], help=f"of: {', '.join(SCENARIOS)}")
    parser.add_argument("--small", action="store_true", help="10,000 rows, each scenario once, one turn each")
    parser.add_argument("--timeout", type=float, default=900, help="seconds that one process may take (900)")
    parser.add_argument("--results", type=Path, help="where to write them; RESULTS.md if everything is measured")
    arguments = parser.parse_args()

    small, *more = [10_000] if arguments.small else sorted(arguments.rows or AIMED_AT)
    sizes = (small, more[-1] if more else small)
    repeats = 1 if arguments.small else arguments.repeats
    scenarios = _each_once(SCENARIOS) if arguments.small else SCENARIOS
    chosen = {
        name: scenario
        for name, scenario in scenarios.items()
        if not arguments.only or any(text in name for text in arguments.only)
    }
    everything = sizes == AIMED_AT and chosen == SCENARIOS
    written = arguments.results or (RESULTS if everything else None)
    results: Results = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ctrl-C: gigabytes are not left behind
    with tempfile.TemporaryDirectory(prefix="speed-") as work:
        ticks = 20 if arguments.small else 100
        shop = Workshop(Runner(Path(work), arguments.timeout), sizes, repeats, ticks)
        for name, (scenario, size) in chosen.items():
            results[name] = scenario(shop, sizes[size])
            if written is not None:
                written.write_text(shown(results, sizes, repeats))
    print(shown(results, sizes, repeats))
    if failed := [side for measured in results.values() for side in measured.failures]:
        sys.exit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
