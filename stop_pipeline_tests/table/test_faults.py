"""Syncs killed, or refused by the disk, at every file-system call: nothing is lost, and the next sync mends it."""

import errno
import multiprocessing
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import pytest

from stop_pipeline_tests.conftest import Figures
from stop_pipeline_tests.support.fault_scenarios import (
    KILLED_AT,
    STATE_FILE,
    Built,
    Expected,
    Left,
    Scenario,
    build,
    end_a_sync,
    is_complete,
    judge,
    prepare,
    scenarios,
    warm_up,
)
from stop_pipeline_tests.support.faults import Call, How, Plan, sync_in_a_process
from stop_pipeline_tests.support.power_cuts import power_cuts, write_tree
from stop_pipeline_tests.support.random_kills import kill_again_and_again
from stop_pipeline_tests.support.syncing import IN_MEMORY

ALL = {scenario.name: scenario for scenario in scenarios()}
REFUSED = [name for name, scenario in ALL.items() if not scenario.rereads or scenario.version_1 == "killed_halfway"]
ORDERED = ("a small change", "appended rows", "after a sync killed before it published", "an upgrade")
PUBLISHED = ("stops", "rejected", "commits")
ERRNOS = (errno.ENOSPC, errno.EACCES, errno.EIO)

PLAIN_SENTENCE = re.compile(r"^[A-Z][^\n]* [^\n]*: [^\n]*\. [A-Z][^\n]*\.$")
NOT_PLAIN = re.compile(r"Traceback|Errno|errno|Detail|Error\(|63998\d")


EVERY = pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)], ids=["a fifth", "all"])
"""The calls that are tried: in the short form one in five."""


def in_short(name: str, names: Sequence[str]) -> Any:
    """A scenario that only the long form tries, unless it is one of these."""
    return name if name in names else pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Warm processes, in each of which one thread forks the syncs."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=warm_up) as executor:
        yield executor


@pytest.fixture
def roots(tmp_path: Path) -> Iterator[Path]:
    """Where data roots are: in memory if there is such a place; a killed process cannot tell, and syncs are free."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY or tmp_path) as folder:
        yield Path(folder)


def recorded(pool: ProcessPoolExecutor, scenario: Scenario, folder: Path) -> Built:
    return pool.submit(build, scenario, folder / "scenario").result()


@dataclass(frozen=True)
class Tried:
    """What a scenario was put through, and what was wrong."""

    ends: list[Left]
    problems: list[str]


def expectation(pool: ProcessPoolExecutor, scenario: Scenario, folder: Path) -> Expected:
    return pool.submit(prepare, scenario, folder / "scenario").result()


def attempt(pool: ProcessPoolExecutor, scenario: Scenario, expected: Expected, plans: list[Plan]) -> Tried:
    """End a sync by each plan, and judge what was left: equal trees once, since a sync sees nothing but the tree."""
    ends = list(pool.map(end_a_sync, repeat(scenario), repeat(expected), plans, chunksize=8))
    trees = {left.digest: left for left in ends}
    roots = [left.root for left in trees.values()]
    verdicts = pool.map(judge, repeat(expected), roots, cycle(expected.next_responses), chunksize=2)
    problems = [
        f"{left.plan} at {expected.built.calls[left.plan.number]}: {problem}"
        for left, found in zip(trees.values(), verdicts, strict=True)
        for problem in found
    ]
    return Tried(ends, problems)


def kill_plans(calls: Sequence[Call]) -> list[Plan]:
    """Before each call that can change something, halfway through each write, and after each rename.

    What is on disk after any other call is there before the next one as well.
    """
    hows: dict[str, list[How]] = {"write": ["before", "half"], "rename": ["before", "after"]}
    return [
        Plan(number, how) for number, call in enumerate(calls) if call.writes for how in hows.get(call.kind, ["before"])
    ]


def fault_plans(calls: Sequence[Call]) -> list[Plan]:
    """A refusal in place of each call, reads included; each errno in turn."""
    return [Plan(number, errno=ERRNOS[number % len(ERRNOS)]) for number in range(len(calls))]


def every(step: int, plans: list[Plan], scenario: Scenario) -> list[Plan]:
    """One plan of a few, the first ones in one scenario and the next ones in the next: most calls are those of all."""
    return plans[list(ALL).index(scenario.name) % step :: step]


@EVERY
def test_a_sync_killed_at_any_call_leaves_every_commit_and_the_next_one_ends_as_if_it_had_never_run(
    pool: ProcessPoolExecutor, roots: Path, figures: Figures, step: int
) -> None:
    scenario = ALL["appended rows"]
    expected = expectation(pool, scenario, roots)
    plans = kill_plans(expected.built.calls)[::step]
    assert_kills_lose_nothing(pool, scenario, expected, plans, figures)


@pytest.mark.slow
def test_an_upgrade_killed_at_a_file_of_its_commits_is_made_good(
    pool: ProcessPoolExecutor, roots: Path, figures: Figures
) -> None:
    scenario = ALL["an upgrade after a killed sync"]
    expected = expectation(pool, scenario, roots)
    calls = expected.built.calls
    of_commits = [number for number, call in enumerate(calls) if call.to.split("/")[0] in ("state", *PUBLISHED)]
    plans = [plan for plan in kill_plans(calls) if plan.number in of_commits]
    assert_kills_lose_nothing(pool, scenario, expected, plans[::3], figures)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_killed_sync_is_made_good_whatever_the_next_response_is(
    pool: ProcessPoolExecutor, roots: Path, figures: Figures, name: str
) -> None:
    scenario = ALL[name]
    expected = expectation(pool, scenario, roots)
    # One that reads stored rows again makes the same calls for each month.
    plans = every(3 if scenario.rereads else 2, kill_plans(expected.built.calls), scenario)
    assert_kills_lose_nothing(pool, scenario, expected, plans, figures)


@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 22), marks=pytest.mark.slow)], ids=["2", "20"])
def test_syncs_killed_one_after_the_other_read_as_if_each_had_run_or_not(
    pool: ProcessPoolExecutor, roots: Path, figures: Figures, seeds: range
) -> None:
    folders = [roots / str(seed) for seed in seeds]
    problems = [problem for found in pool.map(kill_again_and_again, seeds, folders) for problem in found]
    figures.add("syncs killed at random calls, eight in a row", tried=8 * len(seeds), lost=len(problems))
    assert problems == []


def assert_kills_lose_nothing(
    pool: ProcessPoolExecutor,
    scenario: Scenario,
    expected: Expected,
    plans: list[Plan],
    figures: Figures,
) -> None:
    assert expected.built.uncounted == ()
    tried = attempt(pool, scenario, expected, plans)
    figures.add("kills of a sync, at each of its file-system calls", tried=len(tried.ends), lost=len(tried.problems))
    assert [left for left in tried.ends if not left.ended.killed] == []
    assert tried.problems == []
    # One more call than the sync has: it runs through.
    through = pool.submit(end_a_sync, scenario, expected, Plan(len(expected.built.calls))).result()
    assert (through.ended.killed, through.ended.error_type) == (False, None)
    assert through.complete


@EVERY
def test_a_disk_that_is_full_ends_the_sync_with_a_sentence_at_any_call_that_needs_space(
    pool: ProcessPoolExecutor, roots: Path, figures: Figures, step: int
) -> None:
    scenario = ALL["an altered row"]
    expected = expectation(pool, scenario, roots)
    needs_space = ("mkdir", "open to write", "write", "rename")
    calls = [number for number, call in enumerate(expected.built.calls) if call.kind in needs_space]
    plans = [Plan(number, errno=errno.ENOSPC) for number in calls[::step]]
    assert_faults_lose_nothing(pool, scenario, expected, plans, figures)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_any_refusal_of_the_disk_ends_the_sync_with_a_sentence_and_the_next_one_repairs_it(
    pool: ProcessPoolExecutor, roots: Path, figures: Figures, name: str
) -> None:
    expected = expectation(pool, ALL[name], roots)
    plans = every(4, fault_plans(expected.built.calls), ALL[name])
    assert_faults_lose_nothing(pool, ALL[name], expected, plans, figures)


def assert_faults_lose_nothing(
    pool: ProcessPoolExecutor,
    scenario: Scenario,
    expected: Expected,
    plans: list[Plan],
    figures: Figures,
) -> None:
    tried = attempt(pool, scenario, expected, plans)
    figures.add("refusals by the disk, of each call", tried=len(tried.ends), lost=len(tried.problems))
    assert [left for left in tried.ends if left.ended.killed] == []
    unplain = []
    for left in tried.ends:
        ended, call = left.ended, expected.built.calls[left.plan.number]
        if ended.error_type is None:
            if not (is_tolerated(call) and left.complete):
                unplain.append(f"{left.plan} at {call}: passed over, complete: {left.complete}")
        elif ended.error_type != "StoreError" or not is_plain(ended.error):
            unplain.append(f"{left.plan} at {call}: {ended.error_type}: {ended.error}")
    assert unplain == []
    assert tried.problems == []


def is_tolerated(call: Call) -> bool:
    """Refusals that need not end a sync.

    Of clearing up, which the next one repeats; of looking at the lock; and of reading tables that are made again.
    """
    made_again = not call.writes and call.path.startswith(("snapshot/", "suppression_list/", "stops_per_day/"))
    return made_again or call.path.startswith(".work") or call.path == "."


def is_plain(sentence: str) -> bool:
    return bool(PLAIN_SENTENCE.match(sentence)) and not NOT_PLAIN.search(sentence)


# What is synced when, so that a power cut loses nothing either


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_power_cut_that_leaves_only_what_was_synced_is_made_good_as_well(
    pool: ProcessPoolExecutor, roots: Path, figures: Figures, name: str
) -> None:
    expected = expectation(pool, ALL[name], roots)
    left = []
    for number, tree in power_cuts(expected.built.base, expected.built.calls):
        root = roots / f"cut-{number}" / "data"
        root.parent.mkdir()
        write_tree(tree, root)
        left.append(root)
    assert len(left) > 2
    assert pool.submit(is_complete, expected, left[-1]).result(), "a sync that was reported as done may be lost"
    verdicts = pool.map(judge, repeat(expected), left, cycle(expected.next_responses))
    judged = zip(left, verdicts, strict=True)
    problems = [f"{root.parent.name}: {problem}" for root, found in judged for problem in found]
    figures.add("power cuts, each leaving only what was synced", tried=len(left), lost=len(problems))
    assert problems == []


def test_a_new_data_root_is_synced_down_to_its_place_on_disk(pool: ProcessPoolExecutor, roots: Path) -> None:
    root = roots / "folder" / "data"
    ended = pool.submit(sync_in_a_process, root, ALL["a removal"].killed, KILLED_AT, watched=roots).result()
    assert ended.error_type is None, ended
    committed = next(number for number, call in enumerate(ended.calls) if call.to == f"folder/data/{STATE_FILE}")
    for folder in ("folder", "folder/data", "folder/data/.work", "folder/data/.work/staged"):
        first = next(number for number, call in enumerate(ended.calls) if (call.kind, call.path) == ("mkdir", folder))
        synced = {call.path for call in ended.calls[first:committed] if call.kind == "fsync"}
        assert Path(folder).parent.as_posix() in synced, folder


@pytest.mark.parametrize("name", ["a small change", "an upgrade"])
def test_each_file_is_synced_before_it_is_renamed_and_its_folder_before_the_next_that_relies_on_it(
    pool: ProcessPoolExecutor, roots: Path, name: str
) -> None:
    built = recorded(pool, ALL[name], roots)
    calls = built.calls
    renames = [(number, call) for number, call in enumerate(calls) if call.kind == "rename"]
    assert renames
    for number, call in renames:
        touched = [earlier for earlier in calls[:number] if earlier.path == call.path and earlier.writes]
        assert touched[-1].kind == "fsync", call
        assert "close" in {earlier.kind for earlier in touched}, call
        assert Path(call.to).parent.as_posix() in synced_until_relied_on(calls, number), call
    for number, call in enumerate(calls):
        made = call.kind == "mkdir" and not (built.base / call.path).exists() and call not in calls[:number]
        if made and not call.path.startswith(".work/account="):
            assert Path(call.path).parent.as_posix() in synced_until_relied_on(calls, number), call
    # Nothing is ever opened for writing but temporary files, staged ones and locks.
    assert {call.path.split("/")[0] for call in calls if call.kind == "open to write"} == {".work"}


def synced_until_relied_on(calls: Sequence[Call], number: int) -> set[str]:
    """The folders synced between a call and the next file that relies on it.

    Files that are published together do not rely on each other; the state that calls them published does.
    """
    together = calls[number].to.split("/")[0] in PUBLISHED
    synced = set()
    for call in calls[number + 1 :]:
        if call.kind == "rename" and not (together and call.to.split("/")[0] in PUBLISHED):
            # A folder that was made for this very file is synced after it.
            if calls[number].kind != "mkdir" or not call.to.startswith(f"{calls[number].path}/"):
                break
            together = True
        if call.kind == "fsync":
            synced.add(call.path)
    return synced


@pytest.mark.parametrize("name", [in_short(name, ORDERED) for name in ALL if name != "an unchanged list"])
def test_the_files_are_staged_before_the_commit_and_published_after_it(
    pool: ProcessPoolExecutor, roots: Path, name: str
) -> None:
    scenario = ALL[name]
    calls = recorded(pool, scenario, roots).calls
    renames = [(number, call) for number, call in enumerate(calls) if call.kind == "rename"]
    tables = [call.to.split("/")[0] for _, call in renames]
    commit = ["state", "published", "state"]
    reread = ["state", "state"] if scenario.version_1 == "first_sync_killed" else commit  # it has no rows to publish
    pending = commit[1:] if scenario.interrupted and scenario.interrupted.committed else []
    assert [place for place, _ in collapsed(tables)] == [
        *pending,
        *["accounts"] * (not scenario.before),
        *("raw", "raw", "snapshot"),
        *reread * scenario.rereads,
        *commit,
        *("suppression_list", "stops_per_day"),
    ]
    commits = [number for number, call in renames if call.to == STATE_FILE]
    for number, call in renames:
        if call.to.split("/")[0] in PUBLISHED:
            assert call.path.startswith(".work/staged/"), call
            committed = max((commit for commit in commits if commit < number), default=0)
            if committed:  # not what a killed sync had staged
                assert any((other.kind, other.path) == ("fsync", call.path) for other in calls[:committed]), call


def test_an_unchanged_list_writes_what_is_known_about_the_commit_and_nothing_else(
    pool: ProcessPoolExecutor, roots: Path
) -> None:
    calls = recorded(pool, ALL["an unchanged list"], roots).calls
    assert [call.to for call in calls if call.kind == "rename"] == ["raw/account=main/latest.json", STATE_FILE]


def collapsed(tables: Sequence[str]) -> list[tuple[str, int]]:
    """Each step of a sync, files that are published together as one."""
    steps: list[tuple[str, int]] = []
    for table in tables:
        if table in PUBLISHED and steps and steps[-1][0] == "published":
            steps[-1] = ("published", steps[-1][1] + 1)
        else:
            steps.append(("published" if table in PUBLISHED else table, 1))
    return steps
