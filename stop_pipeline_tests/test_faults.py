"""Ticks killed, or refused by the disk, at every file-system call: nothing is lost, and the next tick mends it."""

import errno
import multiprocessing
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import pytest

from stop_pipeline_tests.conftest import Figures
from stop_pipeline_tests.faults import (
    Call,
    Expected,
    How,
    Left,
    Plan,
    Scenario,
    end_a_tick,
    judge,
    prepare,
    scenarios,
    warm_up,
)
from stop_pipeline_tests.ticking import IN_MEMORY

ALL = {scenario.name: scenario for scenario in scenarios()}
SHORT = ["a first load over four months", "an altered row"]
ERRNOS = (errno.ENOSPC, errno.EACCES, errno.EIO)

PLAIN_SENTENCE = re.compile(r"^[A-Z][^\n]* [^\n]*: [^\n]*\. [A-Z][^\n]*\.$")
NOT_PLAIN = re.compile(r"Traceback|Errno|errno|Detail|Error\(|63998\d")


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Warm processes, in each of which one thread forks the ticks."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=warm_up) as executor:
        yield executor


@pytest.fixture
def roots(tmp_path: Path) -> Iterator[Path]:
    """Where data roots lie: in memory if there is such a place; a killed process cannot tell, and syncs are free."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY or tmp_path) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Tried:
    """What a scenario was put through, and what was wrong."""

    ends: list[Left]
    problems: list[str]


def expectation(pool: ProcessPoolExecutor, scenario: Scenario, folder: Path) -> Expected:
    return pool.submit(prepare, scenario, folder / "scenario").result()


def attempt(
    pool: ProcessPoolExecutor, scenario: Scenario, expected: Expected, plans: list[Plan], *, nexts: int = 3
) -> Tried:
    """End a tick by each plan, and judge what was left: equal trees once, since a tick sees nothing but the tree."""
    ends = list(pool.map(end_a_tick, repeat(scenario), repeat(expected.folder), plans, chunksize=8))
    trees = {left.digest: left for left in ends}
    roots = [left.root for left in trees.values()]
    verdicts = pool.map(judge, repeat(scenario), repeat(expected), roots, repeat(nexts), chunksize=2)
    problems = [
        f"{left.plan} at {expected.calls[left.plan.number]}: {problem}"
        for left, found in zip(trees.values(), verdicts, strict=True)
        for problem in found
    ]
    return Tried(ends, problems)


def kill_plans(calls: Sequence[Call], hows: Sequence[How]) -> list[Plan]:
    """Before, after and, for a write, halfway through each call that can change something."""
    return [
        Plan(number, how)
        for number, call in enumerate(calls)
        if call.writes
        for how in hows
        if how != "half" or call.kind == "write"
    ]


def fault_plans(calls: Sequence[Call]) -> list[Plan]:
    """Each kind of refusal in place of each call, reads included."""
    return [Plan(number, errno=code) for number in range(len(calls)) for code in ERRNOS]


@pytest.mark.parametrize("name", SHORT)
def test_a_tick_killed_at_any_call_leaves_every_commit_and_the_next_one_ends_as_if_it_had_never_run(
    pool: ProcessPoolExecutor, roots: Path, figures: Figures, name: str
) -> None:
    # What stands after a call stands before the next one, so the long form alone kills after each as well.
    assert_kills_lose_nothing(pool, ALL[name], roots, figures, hows=("before", "half"), nexts=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_killed_tick_is_made_good_whatever_the_next_answer_is(
    pool: ProcessPoolExecutor, roots: Path, figures: Figures, name: str
) -> None:
    assert_kills_lose_nothing(pool, ALL[name], roots, figures, hows=("before", "half", "after"), nexts=3)


def assert_kills_lose_nothing(
    pool: ProcessPoolExecutor,
    scenario: Scenario,
    folder: Path,
    figures: Figures,
    *,
    hows: Sequence[How],
    nexts: int,
) -> None:
    expected = expectation(pool, scenario, folder)
    tried = attempt(pool, scenario, expected, kill_plans(expected.calls, hows), nexts=nexts)
    figures.add("kills of a tick, at each of its file-system calls", tried=len(tried.ends), lost=len(tried.problems))
    assert [left for left in tried.ends if not left.ended.killed] == []
    assert tried.problems == []
    # One more call than the tick has: it runs through.
    through = pool.submit(end_a_tick, scenario, expected.folder, Plan(len(expected.calls))).result()
    assert (through.ended.killed, through.ended.error_type) == (False, None)


@pytest.mark.parametrize("name", ["an altered row"])
def test_a_disk_that_is_full_ends_the_tick_with_a_sentence_at_any_call(
    pool: ProcessPoolExecutor, roots: Path, figures: Figures, name: str
) -> None:
    expected = expectation(pool, ALL[name], roots)
    plans = [Plan(number, errno=errno.ENOSPC) for number, call in enumerate(expected.calls) if call.writes]
    assert_faults_lose_nothing(pool, ALL[name], expected, plans, figures, nexts=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_any_refusal_of_the_disk_ends_the_tick_with_a_sentence_and_the_next_one_repairs_it(
    pool: ProcessPoolExecutor, roots: Path, figures: Figures, name: str
) -> None:
    expected = expectation(pool, ALL[name], roots)
    assert_faults_lose_nothing(pool, ALL[name], expected, fault_plans(expected.calls), figures, nexts=3)


def assert_faults_lose_nothing(
    pool: ProcessPoolExecutor,
    scenario: Scenario,
    expected: Expected,
    plans: list[Plan],
    figures: Figures,
    *,
    nexts: int,
) -> None:
    tried = attempt(pool, scenario, expected, plans, nexts=nexts)
    figures.add("refusals by the disk, of each call", tried=len(tried.ends), lost=len(tried.problems))
    unplain = []
    for left in tried.ends:
        ended, call = left.ended, expected.calls[left.plan.number]
        if ended.error_type is None and is_tolerated(call):
            continue
        if ended.error_type != "StoreError" or not is_plain(ended.error):
            unplain.append(f"{left.plan} at {call}: {ended.error_type}: {ended.error}")
    assert unplain == []
    assert tried.problems == []


def is_tolerated(call: Call) -> bool:
    """Refusals that need not end a tick.

    Of clearing up, which the next one repeats; of looking at the lock; and of reading the answer before and its
    snapshot, without which all of the new answer is parsed.
    """
    reads_before = not call.writes and call.path.startswith(("raw/", "snapshot/"))
    return reads_before or call.path.startswith(".work") or call.path == "."


def is_plain(sentence: str) -> bool:
    return bool(PLAIN_SENTENCE.match(sentence)) and not NOT_PLAIN.search(sentence)


def until_relied_on(calls: Sequence[Call], number: int) -> Sequence[Call]:
    """The calls after one that moves a file, or makes its folder, up to the next file that tells of it.

    Months of one table do not tell of each other; of those of the snapshot the file of no month tells.
    """
    later = [(place, call) for place, call in enumerate(calls[number + 1 :], number + 1) if call.kind == "rename"]
    table = written_with(calls[number].to or next((call.to for _, call in later), ""))
    return calls[number + 1 : next((place for place, call in later if written_with(call.to) != table), None)]


def written_with(name: str) -> str:
    """The files that are put at once: the months of a table."""
    return re.sub("created_month=[0-9-]+", "created_month=*", name)


@pytest.mark.parametrize("name", ALL)
def test_each_file_is_synced_before_it_is_renamed_and_its_folder_before_the_next_that_relies_on_it(
    pool: ProcessPoolExecutor, roots: Path, name: str
) -> None:
    expected = expectation(pool, ALL[name], roots)
    calls = expected.calls
    assert expected.uncounted == ()
    renames = [(number, call) for number, call in enumerate(calls) if call.kind == "rename"]
    assert renames
    for number, call in renames:
        touched = [earlier for earlier in calls[:number] if earlier.path == call.path and earlier.writes]
        assert touched[-1].kind == "fsync", call
        assert "close" in {earlier.kind for earlier in touched}, call
        assert Call("fsync", os.path.dirname(call.to)) in until_relied_on(calls, number), call  # noqa: PTH120
    for number, call in enumerate(calls):
        if call.kind == "mkdir" and not call.path.startswith(".work"):
            assert Call("fsync", os.path.dirname(call.path) or ".") in until_relied_on(calls, number), call  # noqa: PTH120
    # Nothing is ever opened for writing but temporaries and locks.
    assert {call.path.split("/")[0] for call in calls if call.kind.endswith("to write")} == {".work"}


@pytest.mark.parametrize("name", [scenario.name for scenario in scenarios() if not scenario.interrupted])
def test_the_pending_mark_comes_before_the_first_month_and_the_commit_after_the_last(
    pool: ProcessPoolExecutor, roots: Path, name: str
) -> None:
    expected = expectation(pool, ALL[name], roots)
    written = [call.to.split("/")[0] for call in expected.calls if call.kind == "rename"]
    months, parsed = written.count("stops"), written.count("snapshot")
    assert months >= (4 if name == SHORT[0] else 1)
    assert written == [
        *("raw", "raw"),
        *["snapshot"] * parsed,
        *("state", *["stops"] * months, "rejected", "state"),
        *("suppression_list", "stops_per_day"),
    ]
