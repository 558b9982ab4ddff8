"""What a killed or refused sync may leave, and what the next one must make of it.

A scenario is a data root and the sync that ends on it. `prepare` works out by undisturbed syncs what must come of it;
`judge` compares what an ended sync left, and what the next one made of it, with that.
"""

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stop_pipeline import read_rejected, read_stops, read_stops_per_day, read_suppression_list
from stop_pipeline.errors import OutdatedListError, StopPipelineError
from stop_pipeline.table.files import WORK_FOLDER
from stop_pipeline.table.reading import current_list
from stop_pipeline.table.store import Store
from stop_pipeline_tests.support import version_1
from stop_pipeline_tests.support.faults import ACCOUNT, Call, Ended, Plan, sync_in_a_process, whole_sync
from stop_pipeline_tests.support.syncing import PARIS, Row, response_body, rows, tree

OTHER_LEFTOVERS = (f"{WORK_FOLDER}/account=other/leftover", f"{WORK_FOLDER}/staged/account=other/leftover")
"""Temporary and staged files of another account, which may be syncing at the same time."""

PARQUET_TABLES = ("stops", "rejected", "commits", "snapshot", "suppression_list", "stops_per_day")
STATE_FILE = f"state/account={ACCOUNT}.json"

INTERRUPTED_AT = datetime(2026, 2, 1, 11, tzinfo=UTC)
KILLED_AT = datetime(2026, 2, 1, 12, tzinfo=UTC)
NEXT_AT = datetime(2026, 2, 1, 13, tzinfo=UTC)

Tree = dict[str, bytes]


@dataclass(frozen=True)
class Interrupted:
    """A sync that was killed before the one that a scenario is about."""

    body: bytes
    committed: bool


@dataclass(frozen=True)
class Scenario:
    """A data root, and the sync that is ended on it.

    Attributes:
        name: What is shown.
        killed: The response of the sync that is ended.
        another: A response that is neither the one before nor the killed one.
        before: The responses synced first, an hour apart.
        version_1: The data root of the earlier version to begin with instead.
        timezone_before: The zone in which those were read.
        interrupted: A sync that was killed just before, or just after, its commit, so that the sync in question begins
            with what it left.
    """

    name: str
    killed: bytes
    another: bytes
    before: tuple[bytes, ...] = ()
    version_1: str | None = None
    timezone_before: str = PARIS
    interrupted: Interrupted | None = None

    @property
    def rereads(self) -> bool:
        """Whether the sync reads stored rows again, in a commit of its own."""
        return self.version_1 is not None or self.timezone_before != PARIS


@dataclass(frozen=True)
class View:
    """What readers see, as text.

    Attributes:
        stops, rejected, suppression_list, stops_per_day: What `read_…` gives.
        current_list: The numbers that a campaign is checked against; None if it is refused.
    """

    stops: str
    rejected: str
    suppression_list: str
    stops_per_day: str
    current_list: tuple[str, ...] | None


@dataclass(frozen=True)
class Built:
    """A scenario's data root, and the sync on it as it runs undisturbed.

    Attributes:
        folder: Where the scenario's data roots are.
        base: The data root before the sync.
        undisturbed: The same, had an interrupted sync never run, or run to its end.
        calls: Those of the whole sync.
        uncounted: As in `Ended`.
        made_before: What readers saw before an interrupted sync.
    """

    folder: Path
    base: Path
    undisturbed: Path
    calls: tuple[Call, ...]
    uncounted: tuple[str, ...]
    made_before: tuple[View, ...]


@dataclass(frozen=True)
class Expected:
    """What a scenario must come to.

    Attributes:
        built: The scenario's data root.
        before: What readers may see until the sync commits: the commit before, read again or not.
        after: What they see after the sync.
        made_before: Derived tables that may still stand.
        committed: Each period of the last commit, with its end; the numbers of a row are not part of it.
        next_responses: What the next sync may get.
        trees: By (whether the sync had committed, the next response): what the next sync may end with.
    """

    built: Built
    before: tuple[View, ...]
    after: View
    made_before: tuple[View, ...]
    committed: dict[tuple[Any, ...], Any]
    next_responses: dict[str, bytes]
    trees: dict[tuple[bool, str], list[Tree]]


@dataclass(frozen=True)
class Left:
    """What one ended sync left.

    Attributes:
        plan: Where it was to end.
        ended: How it ended.
        root: The data root.
        digest: Of the whole data root.
        complete: Whether readers see all that the sync should have brought.
    """

    plan: Plan
    ended: Ended
    root: Path
    digest: str
    complete: bool


def _bad(number: int) -> dict[str, Any]:
    return {"id": f"x{number}", "phoneNumber": f"+3363998990{number}", "createdAt": "2025-02-30 10:00:00"}


def scenarios() -> tuple[Scenario, ...]:
    """Most responses have a malformed row; the sync that is ended brings another one."""
    listed = [row for month in range(1, 5) for row in rows(8, first_id=100 * month, month=f"2025-0{month}")]
    late = [Row(900, "+33639989900", "2024-11-30 23:59:59"), Row(901, "+33639989901", "2025-04-02 08:00:00")]
    moved = dataclasses.replace(listed[9], created_at="2025-06-01 00:00:00")
    appended = [*rows(2, first_id=500, month="2025-04"), *rows(2, first_id=502, month="2025-05")]

    base = response_body([*listed, _bad(1)])
    altered = response_body([*listed[:9], moved, *listed[10:], _bad(1), _bad(2)])
    another = response_body([*listed[1:-1], Row(950, "+33639989950", "2025-03-20 10:00:00"), _bad(3)])
    change = response_body([*listed[:3], *late, *listed[3:], _bad(1), _bad(2)])
    removal = response_body([*listed[2:9], *listed[10:], _bad(2)])
    only_a_few = response_body([*listed[:9], *late, _bad(2)])
    with_spellings = response_body([*listed, Row(501, "33639980051", "2025-02-10 08:00:00"), _bad(1)])
    growing = tuple(response_body([_bad(1), *listed, *appended[:count]]) for count in (0, 2, 4))
    before_base = response_body([*listed[:-1], _bad(4)])
    return (
        Scenario("a first load over four months", base, another),
        Scenario("a small change", change, another, (base,)),
        Scenario("a removal", removal, another, (base,)),
        Scenario("an altered row", altered, another, (base,)),
        Scenario("removals that are withheld", only_a_few, another, (base,)),
        Scenario("appended rows", growing[2], another, growing[:2]),
        Scenario("an unchanged list", base, another, (before_base, base)),
        Scenario(
            "after a sync killed before its commit",
            removal,
            another,
            (before_base, base),
            interrupted=Interrupted(altered, committed=False),
        ),
        Scenario(
            "after a sync killed before it published",
            removal,
            another,
            (before_base, base),
            interrupted=Interrupted(altered, committed=True),
        ),
        Scenario("a corrected time zone", change, another, (base,), timezone_before="UTC"),
        Scenario("an upgrade", with_spellings, another, version_1="several_months"),
        Scenario("an upgrade after a killed sync", change, another, version_1="killed_halfway"),
        Scenario("an upgrade after a killed first sync", with_spellings, another, version_1="first_sync_killed"),
    )


# What must come of a scenario


def build(scenario: Scenario, folder: Path) -> Built:
    """Make the scenario's data root, and record an undisturbed sync on a copy of it."""
    folder.mkdir(parents=True)
    base = folder / "base"
    if scenario.version_1:
        version_1.unpack(scenario.version_1, folder).rename(base)
    else:
        base.mkdir(mode=0o700)
    for number, body in enumerate(scenario.before):
        whole_sync(base, body, KILLED_AT.replace(hour=1 + number), scenario.timezone_before)
    for leftover in OTHER_LEFTOVERS:
        (base / leftover).parent.mkdir(parents=True)
        (base / leftover).write_bytes(b"of another account")
    undisturbed, made_before = base, []
    if scenario.interrupted:
        made_before = [view(base)]
        undisturbed = shutil.copytree(base, folder / "undisturbed")
        _interrupt(scenario.interrupted, base, undisturbed, folder)
    recorded = sync_in_a_process(_copy(base, folder), scenario.killed, KILLED_AT)
    assert recorded.error_type is None, recorded
    return Built(folder, base, undisturbed, recorded.calls, recorded.uncounted, tuple(made_before))


def _interrupt(interrupted: Interrupted, base: Path, undisturbed: Path, folder: Path) -> None:
    """Kill a sync on the data root; on the undisturbed one let it run to its end if it had committed."""
    calls = sync_in_a_process(_copy(base, folder), interrupted.body, INTERRUPTED_AT).calls
    commit = next(number for number, call in enumerate(calls) if call.to == STATE_FILE)
    plan = Plan(commit, "after" if interrupted.committed else "before")
    assert sync_in_a_process(base, interrupted.body, INTERRUPTED_AT, plan).killed
    assert any((base / WORK_FOLDER / "staged" / f"account={ACCOUNT}").iterdir())
    state = Store(base).state(ACCOUNT)
    assert (state.applied_at == INTERRUPTED_AT, bool(state.staged)) == (interrupted.committed,) * 2
    if interrupted.committed:
        whole_sync(undisturbed, interrupted.body, INTERRUPTED_AT)


def prepare(scenario: Scenario, folder: Path) -> Expected:
    """Build the scenario, and find out by undisturbed syncs what must come of it."""
    built = build(scenario, folder)
    last = _response_before(built.base)
    next_responses = {"the same": scenario.killed, **({"the one before": last} if last else {})}
    next_responses["another"] = scenario.another

    before = [view(built.undisturbed)]
    before.append(dataclasses.replace(before[0], current_list=view(built.base).current_list))
    starts = [(False, built.undisturbed)]
    if last and scenario.rereads:
        # The stored rows are first read again, in a commit of their own; an unchanged list does that and no more.
        reread = _copy(built.undisturbed, folder)
        whole_sync(reread, last, KILLED_AT)
        before.append(dataclasses.replace(view(reread), current_list=before[0].current_list))
        starts.append((False, reread))

    ran = _copy(built.undisturbed, folder)
    whole_sync(ran, scenario.killed, KILLED_AT)
    trees: dict[tuple[bool, str], list[Tree]] = {(run, name): [] for run in (False, True) for name in next_responses}
    for run, start in (*starts, (True, ran)):
        for name, body in next_responses.items():
            trees[run, name].append(_after_next_sync(start, folder, body))
            info = Store(start).snapshot_info(ACCOUNT)
            if info and info.builds_on:  # a snapshot of appended rows; one that was lost is made again of all rows
                trees[run, name].append(_after_next_sync(start, folder, body, without_snapshot=True))
    return Expected(
        built,
        before=tuple(before),
        after=view(ran),
        made_before=(*built.made_before, before[0]),
        committed=_periods(built.base),
        next_responses=next_responses,
        trees=trees,
    )


def _response_before(base: Path) -> bytes | None:
    """The response of the commit that stands."""
    sha256 = Store(base).state(ACCOUNT).sha256
    bodies = {hashlib.sha256(body).hexdigest(): body for body in version_1.responses(base)}
    return bodies[sha256] if sha256 else None


def _after_next_sync(start: Path, folder: Path, body: bytes, *, without_snapshot: bool = False) -> Tree:
    root = _copy(start, folder)
    if without_snapshot:
        shutil.rmtree(root / "snapshot")
    whole_sync(root, body, NEXT_AT)
    result = _result(root)
    shutil.rmtree(root.parent)
    return result


# One ended sync, judged


def end_a_sync(scenario: Scenario, expected: Expected, plan: Plan) -> Left:
    """Run the scenario's sync until it ends as planned."""
    root = _copy(expected.built.base, expected.built.folder)
    ended = sync_in_a_process(root, scenario.killed, KILLED_AT, plan)
    if ended.calls:
        ended = dataclasses.replace(ended, calls=ended.calls[plan.number : plan.number + 1])
    complete = ended.error_type is None and not ended.killed and is_complete(expected, root)
    return Left(plan, ended, root, digest(root), complete)


def is_complete(expected: Expected, root: Path) -> bool:
    """Whether readers see all that the sync should have brought."""
    return has_run(root) and view(root) == expected.after


def judge(expected: Expected, root: Path, next_response: str) -> list[str]:
    """What is wrong with what an ended sync left, and with what the next one makes of it; nothing, if all is well.

    The next one gets the response of that name. The data root is removed.
    """
    problems = torn(root)
    if problems:
        return problems
    try:
        problems = [*_judge_view(expected, root), *_judge_folder(expected, root)]
    except (StopPipelineError, ValueError) as error:
        return [f"what was left cannot be read: {error}"]
    problems += _judge_next(expected, root, next_response)
    shutil.rmtree(root.parent)
    return problems


def has_run(root: Path, at: datetime = KILLED_AT) -> bool:
    """Whether the sync that was ended had committed, or found the list unchanged."""
    file = root / STATE_FILE
    state = json.loads(file.read_bytes()) if file.exists() else {"applied_at": None, "verified_at": None}
    return at in [datetime.fromisoformat(time) for time in (state["applied_at"], state["verified_at"]) if time]


def _judge_view(expected: Expected, root: Path) -> list[str]:
    problems = []
    seen, committed = view(root), has_run(root)
    standing = (expected.after,) if committed else expected.before
    if (seen.stops, seen.rejected) not in {(each.stops, each.rejected) for each in standing}:
        problems.append(f"read_stops or read_rejected gives something else than the commit (committed: {committed})")
    # Made again after the commit: until then they are those of an earlier one.
    made = (*standing, *expected.made_before)
    problems += [
        f"{name} is that of no commit"
        for name in ("suppression_list", "stops_per_day")
        if getattr(seen, name) not in {getattr(each, name) for each in made}
    ]
    # A campaign is checked against all numbers of the commit; it may be refused once the commit is a new one.
    allowed = {each.current_list for each in standing} | ({None} if committed else set())
    if seen.current_list not in allowed:
        problems.append(f"a campaign would be checked against another list (committed: {committed})")
    return problems


def _judge_folder(expected: Expected, root: Path) -> list[str]:
    """Whoever reads the folder itself finds every committed period; an end may be a later sync's."""
    found, ends = _periods(root), {KILLED_AT, INTERRUPTED_AT}
    lost = [key for key in expected.committed if key not in found]
    altered = [
        key
        for key, end in expected.committed.items()
        if key in found and not (pd.isna(end) and (pd.isna(found[key]) or found[key] in ends)) and end != found[key]
    ]
    return [f"{len(lost)} committed periods are lost"] * bool(lost) + ["a committed end has changed"] * bool(altered)


def _judge_next(expected: Expected, root: Path, name: str) -> list[str]:
    committed, body = has_run(root), expected.next_responses[name]
    which = f"the next sync ({name}, committed: {committed})"
    try:
        whole_sync(root, body, NEXT_AT)
    except StopPipelineError as error:
        return [f"{which} fails: {error}"]
    problems = torn(root)
    result, wanted = _result(root), expected.trees[committed, name]
    if result not in wanted:
        differing = sorted(file for file in result.keys() | wanted[0].keys() if result.get(file) != wanted[0].get(file))
        problems.append(f"{which} ends with other files: {differing}")
    # A kept response is evidence, also if its sync was killed: raw/ may hold one more than if it had never run, so it
    # is not compared byte for byte. It must name the newest response, and hold no torn file (`torn`).
    latest = json.loads((root / f"raw/account={ACCOUNT}/latest.json").read_bytes())
    fetched_at = datetime.fromisoformat(latest["fetched_at"])
    if (fetched_at, latest["sha256"]) != (NEXT_AT, hashlib.sha256(body).hexdigest()):
        problems.append(f"latest.json is not of the newest response after {which}")
    if json.loads((root / f"accounts/account={ACCOUNT}.json").read_bytes())["retired_at"] is not None:
        problems.append(f"the account is not registered after {which}")
    work = root / WORK_FOLDER
    for folder in (work / f"account={ACCOUNT}", work / "staged" / f"account={ACCOUNT}"):
        if any(path.is_file() for path in folder.rglob("*")):
            problems.append(f"temporary files are left after {which}")
    if any((root / leftover).read_bytes() != b"of another account" for leftover in OTHER_LEFTOVERS):
        problems.append("another account's temporary files were touched")
    return problems


def view(root: Path) -> View:
    """What readers see."""
    return View(
        stops=_text(read_stops(root, history=True)) + _text(read_stops(root)),
        rejected=_text(read_rejected(root, history=True)) + _text(read_rejected(root)),
        suppression_list=_text(read_suppression_list(root)),
        stops_per_day=_text(read_stops_per_day(root)),
        current_list=_current_list(root),
    )


def _current_list(root: Path) -> tuple[str, ...] | None:
    try:
        found = current_list(root, ACCOUNT, max_age=timedelta(days=365), now=NEXT_AT)
    except OutdatedListError:
        return None
    return tuple(found.numbers["phone_number"])


def digest(root: Path) -> str:
    """Of every file and folder with its bytes, but for what no sync looks at: random names, times, temporary files."""
    state = (root / STATE_FILE).read_text() if (root / STATE_FILE).exists() else ""
    entries = {_looked_at(path.relative_to(root).as_posix(), path, state) for path in root.rglob("*")}
    return hashlib.sha256(repr(sorted(entries)).encode()).hexdigest()


def _looked_at(name: str, path: Path, state: str) -> tuple[str, bytes]:
    if path.is_dir():
        return name, b"folder"
    content = path.read_bytes()
    if name.startswith(WORK_FOLDER):
        return (f"{Path(name).parent}/staged", content) if name in state else (str(Path(name).parent), b"a file")
    if name.startswith("accounts/"):
        return name, re.sub(rb"[0-9]+", b"1", content)
    return name, re.sub(rb"(?<=/)[0-9a-f]{32}(?=\")", b"staged", content) if name == STATE_FILE else content


def warm_up() -> None:
    """Make this process one that syncs can be forked from: one thread of Arrow, everything loaded."""
    warnings.simplefilter("ignore", DeprecationWarning)  # Python's on forking beside threads; Arrow handles that itself
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        change = scenarios()[1]
        whole_sync(root, change.before[0], KILLED_AT)
        whole_sync(root, change.killed, NEXT_AT)
        view(root)


def _copy(root: Path, folder: Path) -> Path:
    return shutil.copytree(root, Path(tempfile.mkdtemp(dir=folder)) / "data")


def _text(frame: pd.DataFrame) -> str:
    return frame.to_csv(date_format="%Y-%m-%dT%H:%M:%S.%f", index=False)


def _result(root: Path) -> Tree:
    """All of the data root but raw/, accounts/ and .work/, with the months' folders, so that an empty one shows."""
    files = tree(root, *[name for name in (*PARQUET_TABLES, "state") if (root / name).exists()])
    folders = {path.relative_to(root).as_posix(): b"folder" for path in root.glob("*/account=*/created_month=*")}
    return files | folders


def _periods(root: Path) -> dict[tuple[Any, ...], Any]:
    """Each committed period's end, as one finds it who reads the folder directly."""
    if not any(root.glob("stops/**/*.parquet")):
        return {}
    stops = pd.read_parquet(root / "stops")
    applied_at = Store(root).state(ACCOUNT).applied_at
    stops = stops[stops["first_seen_at"] <= applied_at] if applied_at else stops.iloc[:0]
    ends = stops["removed_at"].mask(stops["removed_at"] > applied_at) if applied_at else stops["removed_at"]
    keys = zip(stops["id"], stops["created_at_local"], stops["first_seen_at"], strict=True)
    return dict(zip(keys, ends, strict=True))


def torn(root: Path) -> list[str]:
    """Files that are not finished, or not where they belong."""
    problems = []
    for table in PARQUET_TABLES:
        for path in (root / table).rglob("*"):
            if path.is_dir():
                continue
            if path.suffix != ".parquet":
                problems.append(f"{path.relative_to(root)} does not belong there")
                continue
            try:
                with pq.ParquetFile(path) as file:
                    file.read()
            except (OSError, pa.ArrowException) as error:
                problems.append(f"{path.relative_to(root)} is torn: {error}")
    for path in (root / "raw").rglob("*.zst"):
        with pa.input_stream(str(path), compression="zstd") as stream:
            if hashlib.sha256(stream.read()).hexdigest()[:12] != path.name.split("-")[1][:12]:
                problems.append(f"{path.relative_to(root)} is torn")
    named = [path.parent / json.loads(path.read_bytes())["file"] for path in (root / "raw").rglob("latest.json")]
    return problems + [f"latest.json names {path.name}, which is not there" for path in named if not path.exists()]
