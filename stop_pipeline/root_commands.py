"""What the commands do that look after a data root: `verify`, `rebuild`, `accounts` and `retire`."""

from datetime import UTC, datetime

import click

from stop_pipeline.cli_output import counted
from stop_pipeline.errors import ConfigurationError, StoreError
from stop_pipeline.progress import progress_shown
from stop_pipeline.rebuild import fresh_root, rebuild
from stop_pipeline.settings import Settings
from stop_pipeline.table.accounts import account_record, retire
from stop_pipeline.table.store import Store
from stop_pipeline.verify import verify

_TIME = "%Y-%m-%d %H:%M UTC"


def verify_accounts(settings: Settings, account: str | None) -> int:
    """Print the problems of one account or all, and a line for each account; gives the exit code."""
    store = Store.existing(settings.data_root)
    code = 0
    for name in _found(store, account):
        verified = verify(store, name)
        for problem in verified.problems:
            click.echo(f"{name}: {problem}", err=True)
            code = 1
        problems = counted(len(verified.problems), "problem") if verified.problems else "no problems found"
        figures = f"{counted(verified.months, 'month')}, {counted(verified.rows, 'row')}, {problems}"
        click.echo(f"{name}: {'; '.join([figures, *verified.remarks])}.")
    return code


def rebuild_accounts(settings: Settings, into: str, account: str | None) -> None:
    """Replay one account or all, and print a line for each; a response that was skipped gets a line as well."""
    source = Store.existing(settings.data_root)
    accounts = _found(source, account)
    target = fresh_root(into, source)
    for name in accounts:
        with progress_shown():
            rebuilt = rebuild(source, target, name, timezone=settings.timezone)
        for file, reason in rebuilt.skipped:
            click.echo(f"Warning: {name}: {file} was skipped. {reason}", err=True)
        click.echo(
            f"{name}: {counted(rebuilt.replayed, 'response')} replayed into {target.root}, {len(rebuilt.skipped):,} "
            f"skipped; {counted(rebuilt.rows, 'row')}, {rebuilt.open_rows:,} of them open."
        )


def list_accounts(settings: Settings) -> None:
    """Print the state of each account: whether it is synced, how old its list is, and how long."""
    store = Store.existing(settings.data_root)
    for name in _found(store, None):
        record, state = account_record(store, name), store.state(name)
        status = "never synced" if state.commit is None else "synced"
        if record is not None and record.retired_at is not None:
            status = f"retired at {record.retired_at:{_TIME}}"
        verified = "never verified" if state.verified_at is None else f"last verified at {state.verified_at:{_TIME}}"
        click.echo(f"{name}: {status}; {verified}; {counted(state.open_rows, 'open row')}.")


def retire_account(settings: Settings, account: str) -> None:
    """Record that an account is no longer synced, and warn if the settings still name it."""
    store = Store.existing(settings.data_root)
    _found(store, account)
    retire(store, account, now=datetime.now(UTC))
    if account in settings.accounts and (len(settings.accounts) > 1 or settings.accounts_with_key()):
        click.echo(
            f"Warning: the settings still name {account}, so its next sync puts it back into use: remove it there.",
            err=True,
        )
    click.echo(f"{account} is retired: its numbers stay blocked, and its list no longer has to be up to date.")


def how_to_read(settings: Settings) -> str:
    """How to read the tables in Python."""
    store = Store(settings.data_root)
    return (
        f"The Parquet files are in {store.files.shown('stops')}. To read them:\n\n"
        "    from stop_pipeline import read_stops\n"
        f'    stops = read_stops("{store.root}")\n'
        '    print(stops.groupby("created_month").size())\n'
    )


def _found(store: Store, account: str | None) -> list[str]:
    """The accounts that the data root holds, or the one that was asked for."""
    accounts = store.accounts_seen()
    if account is not None and account not in accounts:
        known = ", ".join(accounts) or "there are none"
        raise ConfigurationError(f"“{account}” is not one of the accounts below {store.root} ({known}).")
    if not accounts:
        raise StoreError(f"There is nothing below {store.root} yet: run “stop-pipeline run” (or “demo”) first.")
    return accounts if account is None else [account]
