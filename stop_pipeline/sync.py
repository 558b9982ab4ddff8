"""One sync without Dagster: fetch → parse → merge → derive.

Each step reads what it needs from the data root and writes what it made, under the account's lock. A step can be
repeated, or killed at any point and run again: it looks at what is stored, not at who called it before. Every step
raises a StoreError if the data root refuses, or if the step before it was never done.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import pandas as pd

from stop_pipeline.errors import WRONG_CLOCK, KeyRefusedError, StoreError, counted
from stop_pipeline.results import Derived, Fetched, Merged, Outcome, Parsed
from stop_pipeline.schema import STOPS_PER_DAY, SUPPRESSION_LIST, TableSchema
from stop_pipeline.settings import Format, key_variable
from stop_pipeline.smspartner.client import Response
from stop_pipeline.smspartner.document import open_list
from stop_pipeline.snapshot import is_usable, make_snapshot, newest_snapshot
from stop_pipeline.table import derive
from stop_pipeline.table.accounts import account_record, register
from stop_pipeline.table.files import reading_temporary, writing
from stop_pipeline.table.merge import RemovalPolicy
from stop_pipeline.table.periods import open_rows
from stop_pipeline.table.state import Counts, DerivedInfo, State
from stop_pipeline.table.store import Store, snapshot_file, table_file
from stop_pipeline.table.updating import bring_up_to_date, merge_snapshot, reads_differently

log = logging.getLogger(__name__)

_LEFT_OUT = (
    f"Account %s: the response fetched at %s is not later than the last one, of %s, and is left out, {WRONG_CLOCK}"
)


class Client(Protocol):
    """What a sync needs of `smspartner.client.StopListClient`."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The spellings of the API key, to be struck from whatever is shown."""

    def fetch(self, into: Path) -> Response:
        """Download the whole list into a new file."""


@dataclass(frozen=True)
class FetchedBefore:
    """A response that was fetched before, in place of the client that would fetch it."""

    body: bytes
    fetched_at: datetime  # UTC
    format: Format = "json"
    secrets: tuple[str, ...] = ()

    def fetch(self, into: Path) -> Response:
        """Write it to a new file."""
        with writing(str(into)):
            into.write_bytes(self.body)
        sha256 = hashlib.sha256(self.body).hexdigest()
        return Response(into, self.format, self.fetched_at, sha256, len(self.body), seconds=0.0)


def fetch(store: Store, account: str, client: Client) -> Fetched:
    """Download the list and keep it, once both its ends show that it is one.

    Raises:
        KeyRefusedError: the API key is refused; the message names its variable.
        ApiError: there was no list, or not a readable one; nothing was kept.
    """
    with store.locked(account):
        if account_record(store, account) is None:
            register(store, account, now=datetime.now(UTC))
        response = _download(client, store.files.temporary(account), account)
        newest = store.responses.newest(account)
        if newest is not None and response.fetched_at <= newest.fetched_at:
            log.warning(_LEFT_OUT, account, response.fetched_at, newest.fetched_at)
            return Fetched(response, newest, changed=False, in_order=False)
        changed = newest is None or newest.sha256 != response.sha256
        if changed:
            with reading_temporary(response.path):
                open_list(response.path, response.format, secrets=client.secrets)
        kept = store.responses.keep(
            account,
            response.path,
            response_format=response.format,
            fetched_at=response.fetched_at,
            sha256=response.sha256,
            size_bytes=response.size_bytes,
        )
        register(store, account, now=datetime.now(UTC))  # a retired account is in use again once it has a response
    log.info("Account %s: fetched %s bytes in %.2f s", account, f"{response.size_bytes:,}", response.seconds)
    return Fetched(response, kept, changed=changed, in_order=True)


def parse(store: Store, account: str, *, timezone: str) -> Parsed:
    """Parse the newest response, unless the snapshot on disk is that already.

    Which dates are usable depends on when a response was fetched. One that is merged already, with nothing left undone,
    is read as it was then, any other as of its own fetch time, so that the snapshot never depends on a sync that was
    killed in between.

    Raises:
        UnreadableResponseError: it is not a list of rows.
    """
    with store.locked(account):
        kept = store.responses.newest(account)
        if kept is None:
            raise StoreError(f"No response of the account “{account}” is kept yet: materialize raw_stop_list first.")
        state, info = store.state(account), store.snapshot_info(account)
        done = state.settled and state.settings.get("timezone") == timezone
        merged_at = state.applied_at if done and state.sha256 == kept.sha256 else None
        fetched_at = merged_at or kept.fetched_at
        current = info and (info.sha256, info.timezone, info.fetched_at) == (kept.sha256, timezone, fetched_at)
        if info and current and is_usable(info, state) and store.is_intact(snapshot_file(account)):
            return Parsed(dataclasses.replace(info, fetched_at=kept.fetched_at), parsed=False)
        info = make_snapshot(store, account, kept, state, fetched_at=fetched_at, timezone=timezone)
    log.info("Account %s: parsed %s, %s malformed", account, counted(info.rows, "row"), f"{info.rejected:,}")
    return Parsed(dataclasses.replace(info, fetched_at=kept.fetched_at), parsed=True)


def merge(store: Store, account: str, policy: RemovalPolicy, *, raw_days: int | None = None) -> Merged:
    """Merge the newest snapshot into `stops` and `rejected`, and commit.

    With `raw_days`, kept responses that a newer one replaced more than so many days ago are removed then.

    Raises:
        ForeignListError: the list belongs to another account; nothing was changed.
    """
    with store.locked(account):
        before = store.state(account)
        info = newest_snapshot(store, account, before)
        state = bring_up_to_date(store, account, before, timezone=info.timezone)
        reread = state is not before
        settings = {"timezone": info.timezone, "max_removed_share": repr(policy.max_removed_share)}
        outcome: Outcome = "unchanged"
        counts = Counts(listed=info.listed, unchanged=info.listed)
        months_written: tuple[str, ...] = ()
        if state.sha256 == info.sha256 and info.fetched_at in (state.applied_at, state.verified_at):
            log.info("Account %s: this response was merged before", account)
            if policy.accept_removals is not None and state.withheld_because is not None:
                log.warning(
                    "Account %s: no removal is accepted, because this response was merged before: materialize all "
                    "assets with this run config.",
                    account,
                )
        elif state.last_response_at is not None and info.fetched_at <= state.last_response_at:
            outcome, counts = "older", Counts()
            log.warning(_LEFT_OUT, account, info.fetched_at, state.last_response_at)
        elif state.sha256 == info.sha256 and state.settled and not reads_differently(state, info):
            log.info("Account %s: the list is unchanged", account)
            state = dataclasses.replace(state, verified_at=info.fetched_at)
            store.write_state(account, state)
        else:
            outcome = "merged"
            state, months_written = merge_snapshot(store, account, state, info, policy, settings)
            counts = state.counts
        if raw_days is not None:
            _forget_old_responses(store, account, state, timedelta(days=raw_days))
    return Merged(info, state, outcome, counts, months_written, reread)


def derive_suppression_list(store: Store, account: str) -> Derived:
    """Make `suppression_list` again if it was not made from the commit that stands."""

    def make(state: State) -> tuple[pd.DataFrame, int]:
        stops = open_rows(store.read_stops(account, state, ["phone_number", "country", "created_at", "removed_at"]))
        made = derive.suppression_list(stops, open_rows(store.read_rejected(account, state)))
        return made.numbers, made.unreadable_rows

    return _derive(store, account, SUPPRESSION_LIST, make)


def derive_stops_per_day(store: Store, account: str) -> Derived:
    """Make `stops_per_day` again if it was not made from the commit that stands."""

    def make(state: State) -> tuple[pd.DataFrame, int]:
        columns = ["id", "country", "created_at_local", "first_seen_at", "removed_at"]
        return derive.stops_per_day(store.read_stops(account, state, columns)), 0

    return _derive(store, account, STOPS_PER_DAY, make)


def derive_tables(store: Store, account: str) -> None:
    """Make every derived table, as the last assets of the pipeline do."""
    derive_suppression_list(store, account)
    derive_stops_per_day(store, account)


def _download(client: Client, into: Path, account: str) -> Response:
    log.info("Account %s: fetching the list", account)
    try:
        return client.fetch(into)
    except KeyRefusedError as error:
        failure = KeyRefusedError(
            f"{error} The key of the account “{account}” is read from {key_variable(account)}, or from "
            "SMSPARTNER_ACCOUNTS_FILE where that is set."
        )
    raise failure


def _forget_old_responses(store: Store, account: str, state: State, kept_for: timedelta) -> None:
    """Remove responses that were replaced more than `kept_for` before the last one was merged or found unchanged.

    So the one that the commit was made from stays. If the disk refuses, that is a warning: the commit stands, and the
    tables made from it must not wait for this.
    """
    try:
        for raw, newer in pairwise(store.responses.all(account)):
            if state.last_response_at is not None and state.last_response_at - newer.fetched_at > kept_for:
                store.responses.forget(account, raw)
    except StoreError as error:
        log.warning("Account %s: an old response could not be removed. %s", account, error)


def _derive(
    store: Store, account: str, schema: TableSchema, make: Callable[[State], tuple[pd.DataFrame, int]]
) -> Derived:
    """Make a derived table again, unless it was made from this commit by these rules."""
    with store.locked(account):
        state = store.state(account)
        if state.commit is None:
            raise StoreError(f"Nothing is committed yet for the account “{account}”: materialize stops first.")
        info = store.derived_info(schema, account)
        if info and info.is_of(state) and store.is_intact(table_file(schema.name, account)):
            return Derived(info, remade=False)
        rows, unreadable_rows = make(state)
        timezone = state.settings.get("timezone")
        info = DerivedInfo(state.commit, len(rows), state.reading_rules, unreadable_rows, timezone)
        store.write_derived(schema, account, rows, info)
    return Derived(info, remade=True)
