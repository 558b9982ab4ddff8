"""Which accounts belong to a data root: `accounts/account=A.json`, written before an account is first fetched."""

import dataclasses
from dataclasses import dataclass
from datetime import datetime

from stop_pipeline.errors import StoreError
from stop_pipeline.settings import named_accounts
from stop_pipeline.table.files import read_document, write_document
from stop_pipeline.table.state import State, Time
from stop_pipeline.table.store import Store


@dataclass(frozen=True)
class AccountRecord:
    """One account of a data root.

    A retired account still blocks its numbers, but its list no longer has to be up to date.
    """

    registered_at: Time | None  # before its first fetch, UTC; None if an earlier version of this package did that
    retired_at: Time | None  # UTC; None while it is synced


def known_accounts(store: Store) -> list[str]:
    """The accounts that belong to the data root, and those that the environment names."""
    return sorted({*store.accounts_seen(), *named_accounts()})


def account_record(store: Store, account: str) -> AccountRecord | None:
    """What the data root records about an account; None if nothing."""
    advice = "Restore it from a backup, or remove it; an account that was retired then has to be retired again."
    return read_document(store.files, _file(account), AccountRecord, advice)


def register(store: Store, account: str, *, now: datetime) -> None:
    """Record, under the account's lock, that an account belongs to the data root and is synced."""
    record = account_record(store, account)
    if record is None or record.retired_at is not None:
        _write(store, account, AccountRecord(record.registered_at if record else now, None))


def retire(store: Store, account: str, *, now: datetime) -> None:
    """Record that an account is no longer synced."""
    with store.files.locked(account):  # what another machine has staged in a bucket is not to be removed
        record = account_record(store, account) or AccountRecord(None, None)
        if record.retired_at is None:
            _write(store, account, dataclasses.replace(record, retired_at=now))


def refuse_lost_list(store: Store, account: str, state: State) -> None:
    """Refuse a retired account that has responses but no commit: its numbers must stay blocked, and no sync follows."""
    if state.commit is None and store.responses.all(account):
        raise StoreError(
            f"The retired account “{account}” has responses in {store.files.shown(f'raw/account={account}')}, but no "
            "list: restore that from a backup, “state” last, or sync the account once more."
        )


def _write(store: Store, account: str, record: AccountRecord) -> None:
    write_document(store.files, account, _file(account), record)


def _file(account: str) -> str:
    return f"accounts/account={account}.json"
