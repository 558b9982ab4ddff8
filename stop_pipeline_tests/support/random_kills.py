"""Several syncs in a row of a list that changes at random, each killed at a random call."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random

from stop_pipeline_tests.support.fault_scenarios import KILLED_AT, PARQUET_TABLES, has_run, torn, view
from stop_pipeline_tests.support.faults import How, Plan, sync_in_a_process, whole_sync
from stop_pipeline_tests.support.syncing import Row, response_body, rows, tree

SYNCS = 8
MOST_CALLS = 330
"""A sync makes about 300 calls; one that is to end at a later one runs through."""

HOWS: list[How] = ["before", "half", "after"]


def kill_again_and_again(seed: int, folder: Path) -> list[str]:
    """What is wrong after any of the syncs; nothing, if all is well.

    Beside the data root stands another one with the same syncs, as far as they had committed, undisturbed.
    """
    chance = Random(seed)  # noqa: S311 – a seed, so that a failure can be repeated
    root, undisturbed = folder / "killed", folder / "undisturbed"
    root.mkdir(parents=True)
    undisturbed.mkdir()
    listed = rows(40) + rows(10, first_id=100, month="2025-07")
    at, problems = KILLED_AT, list[str]()
    for number in range(SYNCS):
        listed = chance.choice(CHANGES)(listed, number)
        at += timedelta(hours=1)
        plan = Plan(chance.randrange(MOST_CALLS), chance.choice(HOWS))
        sync_in_a_process(root, response_body(listed), at, plan)
        if has_run(root, at):
            whole_sync(undisturbed, response_body(listed), at)
        problems += torn(root)
        seen, wanted = view(root), view(undisturbed)
        if (seen.stops, seen.rejected) != (wanted.stops, wanted.rejected):
            problems.append(f"sync {number}, {plan}: readers see something else than the commit")
    for each in (root, undisturbed):
        whole_sync(each, response_body(listed), at + timedelta(hours=1))
    tables = [table for table in (*PARQUET_TABLES, "state") if table != "snapshot" and (root / table).exists()]
    if tree(root, *tables) != tree(undisturbed, *tables):
        problems.append("the last sync ends with other files")
    return problems


def _unchanged(listed: list[Row], _: int) -> list[Row]:
    return listed


def _with_appended(listed: list[Row], number: int) -> list[Row]:
    return [*listed, *rows(3, first_id=1000 + 10 * number, month=f"2025-{5 + number % 4:02}")]


def _with_one_in_between(listed: list[Row], number: int) -> list[Row]:
    return [listed[0], Row(500 + number, f"+33639985{number:03}", "2024-12-24 10:00:00"), *listed[1:]]


def _with_fewer(listed: list[Row], _: int) -> list[Row]:
    return listed[1:-1]


def _with_altered(listed: list[Row], number: int) -> list[Row]:
    altered = Row(listed[5].id, f"+33639986{number:03}", listed[5].created_at)
    return [*listed[:5], altered, *listed[6:]]


CHANGES: list[Callable[[list[Row], int], list[Row]]] = [
    _unchanged,
    _with_appended,
    _with_appended,
    _with_one_in_between,
    _with_fewer,
    _with_altered,
]
