"""The suppression list as it stands, if it is recent enough to send a campaign by."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from stop_pipeline.errors import OutdatedListError, StoreError
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.settings import named_accounts
from stop_pipeline.table.accounts import account_record
from stop_pipeline.table.reading import existing_store, list_of_commit, with_account
from stop_pipeline.table.store import Store

DEFAULT_MAX_AGE = timedelta(hours=24)
CLOCK_TOLERANCE = timedelta(minutes=10)


@dataclass(frozen=True)
class CurrentList:
    """The numbers that must not be texted, over some accounts."""

    numbers: pd.DataFrame  # `account` and the columns of `schema.SUPPRESSION_LIST`, read by today's rules
    verified_at: datetime  # when the list was last complete, UTC; of several accounts, the earliest time
    unreadable_rows: int  # listed rows that contain no phone number and so block nobody


def current_list(
    root: str | Path | None, account: str | None, *, max_age: timedelta, now: datetime | None = None
) -> CurrentList:
    """The suppression list of one account, or of all that belong to the data root.

    Raises:
        OutdatedListError: An account has no list, it is older than `max_age` (unless the account is retired), or it
            cannot be read.
    """
    now = now or datetime.now(UTC)
    store, accounts = asked_accounts(root, account)
    with _unreadable_is_outdated():
        verified_at = [check_current(store, name, now=now, max_age=max_age) for name in accounts]
        lists = [list_of_commit(store, name, READING_RULES) for name in accounts]
    numbers = pd.concat(
        [with_account(made.numbers, name) for name, made in zip(accounts, lists, strict=True)], ignore_index=True
    )
    times = [time for time in verified_at if time is not None]
    return CurrentList(numbers, min(times, default=now), sum(made.unreadable_rows for made in lists))


def asked_accounts(root: str | Path | None, account: str | None) -> tuple[Store, list[str]]:
    """The data root, and the accounts that a question is about: the one that is named, or all that are known.

    Raises:
        OutdatedListError: There is no data root, or it cannot be read, or no account is known.
    """
    with _unreadable_is_outdated():
        store = existing_store(root)
        accounts = known_accounts(store) if account is None else [account]
    if not accounts:
        raise OutdatedListError(f"There is no list below {store.root} yet: run “stop-pipeline run” first.")
    return store, accounts


def known_accounts(store: Store) -> list[str]:
    """The accounts that belong to the data root, and those that the environment names."""
    return sorted({*store.accounts_seen(), *named_accounts()})


@contextmanager
def _unreadable_is_outdated() -> Iterator[None]:
    """A list that cannot be read is as bad as one that is too old: neither tells who must not be texted."""
    try:
        yield
    except StoreError as error:
        raise OutdatedListError(str(error)) from None


def check_current(store: Store, account: str, *, now: datetime, max_age: timedelta) -> datetime | None:
    """When an account's list was last complete, UTC; None if a retired account's never was.

    Raises:
        OutdatedListError: There is no list, or that was longer ago than `max_age`, unless the account is retired.
    """
    record = account_record(store, account)
    state = store.state(account)
    run = f"run “stop-pipeline run --account {account}” first"
    if record is not None and record.retired_at is not None:
        return state.verified_at
    if state.commit is None:
        raise OutdatedListError(
            f"There is no list of the account “{account}” below {store.root}: {run}, or, if the account is no longer "
            f"in use, “stop-pipeline retire {account}”."
        )
    if state.verified_at is None:
        raise OutdatedListError(f"The list of the account “{account}” was never complete: {run}.")
    if state.verified_at > now + CLOCK_TOLERANCE:
        raise OutdatedListError(
            f"The list of the account “{account}” was verified at {state.verified_at:%Y-%m-%d %H:%M} UTC, which is in "
            "the future: set this machine's clock."
        )
    if now - state.verified_at > max_age:
        raise OutdatedListError(
            f"The list of the account “{account}” was last verified at {state.verified_at:%Y-%m-%d %H:%M} UTC, more "
            f"than {max_age / timedelta(hours=1):g} h ago: {run}, or allow more with --max-age. If the account is no "
            f"longer in use: “stop-pipeline retire {account}”."
        )
    return state.verified_at
