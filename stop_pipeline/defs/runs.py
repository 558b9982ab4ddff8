"""Runs of the sync, as Dagster records them: the accounts that a run syncs, and why a step of it failed."""

from collections.abc import Sequence

import dagster as dg

_PARTITION = "dagster/partition"
_FIRST, _LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def partition_tags(accounts: Sequence[str]) -> dict[str, str]:
    """The tags of a run that syncs the partitions of these accounts: one, or neighbours."""
    if len(accounts) == 1:
        return {_PARTITION: accounts[0]}
    return {_FIRST: accounts[0], _LAST: accounts[-1]}


def accounts_of(run: dg.DagsterRun, accounts: Sequence[str]) -> Sequence[str]:
    """Which of the accounts a run synced: its partition, or its range of them; without either, the only account.

    Empty if an account at an end of the range is set up no more.
    """
    if partition := run.tags.get(_PARTITION):
        return [partition]
    first, last = run.tags.get(_FIRST), run.tags.get(_LAST)
    if first is None:
        return accounts[:1]
    if first in accounts and last in accounts:
        return accounts[accounts.index(first) : accounts.index(last) + 1]
    return []


def failed_accounts(step_failure: dg.DagsterEvent) -> dict[str, str]:
    """Why a step failed, by account, if it went on after each failure (see `partitions`); else empty."""
    failure = step_failure.step_failure_data.user_failure_data
    return {account: str(reason.value) for account, reason in failure.metadata.items()} if failure else {}


def error_of(step_failure: dg.DagsterEvent) -> tuple[str, str]:
    """The error that ended a step: its class, with the module unless it is built in, and its message."""
    error = step_failure.step_failure_data.error
    error = error and (error.cause or error)
    kind, _, message = error.message.partition(": ") if error else ("", "", "")
    return kind.strip(), message.strip()
