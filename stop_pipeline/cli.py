"""The command `stop-pipeline`: its subcommands and exit codes.

Nothing large is imported before a command needs it, so that `--help` is instant.

Exit codes: 0 done, also if a check failed (a warning says which); 1 something failed, or `verify` found a problem;
2 the configuration or what was asked for is wrong; 3 the suppression list is too old, or missing; 4 the number must not
be texted (`lookup`).
"""

import errno
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import date, timedelta
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import click

from stop_pipeline.errors import ConfigurationError, StopPipelineError, unexpected
from stop_pipeline.settings import (
    DEFAULT_ACCOUNT,
    PROVIDER_TIMEZONE,
    Settings,
    account_names,
    api_key,
    is_remote,
    key_variable,
    parse_age,
)

DEMO_ROOT = "demo/data"
"""Data root of `demo` and `dev --sandbox`, whatever the environment says: a real one must get no invented rows."""

_OUTPUT_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # tables refuse by a StoreError, so these are of stdout


class _Commands(click.Group):
    """Ends with the exit code that a command returns; what it raises becomes one sentence on stderr and a code."""

    def invoke(self, ctx: click.Context) -> NoReturn:
        try:
            code = super().invoke(ctx) or 0
        except StopPipelineError as error:
            _tell(str(error))
            code = error.exit_code
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise  # click ends with them
        except Exception as error:  # noqa: BLE001 – any; cron mails what it prints
            refused = isinstance(error, OSError) and error.errno in _OUTPUT_REFUSED and error.strerror
            _tell(f"The output cannot be written: {refused}." if refused else unexpected(error))
            code = 1
        ctx.exit(code)


def _tell(sentence: str) -> None:
    with suppress(OSError):  # such as of a full disk that stderr goes to
        click.echo(sentence, err=True)


def _age(_context: click.Context, _option: click.Parameter, text: str) -> timedelta:
    try:
        return parse_age(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _path(text: str) -> Path:
    if is_remote(text):
        raise click.BadParameter(f"“{text}” is in a bucket: name a file or folder on this machine.")
    return Path(text)


_account = partial(click.option, "--account", metavar="NAME")
_max_age = partial(click.option, "--max-age", callback=_age, default="24h", metavar="AGE")
_out = partial(click.option, "--out", type=_path, required=True)

_LIST_ACCOUNT = _account(help="Use only this account's list; by default, all lists.")
_LIST_AGE = _max_age(
    help="How long ago the list may have been verified, such as 90m, 24h or 2d; a past time is not checked for that."
)
_OUT_FILE = _out(metavar="FILE", help="File to be written, .csv or .parquet; it must not exist.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="stop_pipeline")
def main() -> None:
    """SMS Partner's STOP list as a table that compliance can rely on and analysts can read."""
    # Data, logs and Dagster's database hold or surround personal data: only their owner may read them.
    os.umask(0o077)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has a “•”
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ConfigurationError("The current folder no longer exists: change to one that does.") from None


# Syncs


@main.command()
@_account(help="Sync only this account.")
@click.option(
    "--accept-removals",
    type=click.IntRange(min=0),
    metavar="N",
    help="Accept up to N removals that would otherwise be withheld.",
)
def run(account: str | None, accept_removals: int | None) -> int:
    """Sync every account once: fetch its list, and merge it. No server is needed."""
    settings = Settings.from_environment()
    if account is not None and account not in settings.accounts:
        raise ConfigurationError(
            f"--account {account} is not one of the accounts that are set up ({', '.join(settings.accounts)}): set its "
            "name and key in the variables, or the file, that name the accounts."
        )
    accounts = settings.accounts if account is None else (account,)
    if accept_removals is not None and len(accounts) > 1:
        raise ConfigurationError("--accept-removals is for one account: name it with --account.")
    if not set(accounts) & set(settings.accounts_with_key()):
        api_key(accounts[0], settings.accounts_file)  # it has none, and the error says where to put one
    return _sync(settings, accounts, accept_removals)


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, help="Port of the UI.")
@click.option("--sandbox", is_flag=True, help="Use a stand-in for SMS Partner, which needs no key.")
def dev(port: int, *, sandbox: bool) -> int:
    """Open the Dagster UI and run the schedule, until Ctrl-C."""
    from stop_pipeline.process_group import end_when_asked

    end_when_asked()
    from stop_pipeline.local_dagster import serve

    with _sandboxed() if sandbox else nullcontext():
        settings = Settings.from_environment()
        _warn_of_another_owner(settings.data_root)
        return serve(settings, port)


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8025, help="Port; 0 takes a free one.")
@click.option("--rows", type=click.IntRange(0, 10_000_000), default=2_000, help="Rows of the first response.")
@click.option("--seed", type=int, default=0, help="Seed of the invented list.")
@click.option("--accounts", metavar="A,B,…", help="Names of the accounts, each with its own list.")
def sandbox(port: int, rows: int, seed: int, accounts: str | None) -> int:
    """Run a stand-in for SMS Partner on this machine, until Ctrl-C."""
    from stop_pipeline.process_group import end_when_asked
    from stop_pipeline.smspartner.sandbox import API_KEY, Sandbox

    names = (DEFAULT_ACCOUNT,) if accounts is None else account_names(accounts, "--accounts")
    keys = {name: API_KEY if name == DEFAULT_ACCOUNT else f"{API_KEY}-{name}" for name in names}
    try:
        server = Sandbox(port=port, rows=rows, seed=seed, until=_demo_began(), api_keys=tuple(keys.values()))
    except OSError as error:
        problem = f"The stand-in cannot listen on port {port} ({error.strerror})"
        raise StopPipelineError(f"{problem}: choose another with --port.") from None
    variables = {
        "SMSPARTNER_BASE_URL": server.base_url,
        **({"SMSPARTNER_ACCOUNTS": ",".join(names)} if len(names) > 1 else {}),
        **{key_variable(name): key for name, key in keys.items()},
        "STOP_PIPELINE_DATA": DEMO_ROOT,
    }
    exports = "".join(f"  export {name}={value}\n" for name, value in variables.items())
    end_when_asked()
    with server, suppress(KeyboardInterrupt):
        click.echo(
            f"A stand-in for SMS Partner listens at {server.base_url}. To use it, in another terminal:\n\n{exports}"
            "  stop-pipeline run\n\nCtrl-C ends it."
        )
        server.run_forever()
    return 0


@main.command()
def demo() -> int:
    """Show a whole sync without a key, and verify its result. A stand-in plays SMS Partner."""
    from stop_pipeline import commands

    with _sandboxed():
        settings = Settings.from_environment()
        code = _sync(settings, settings.accounts, None) or commands.verify_accounts(settings)
    if code == 0:
        click.echo(
            f"The Parquet files are in {Path(DEMO_ROOT, 'stops').absolute()}. To read them:\n\n"
            "    from stop_pipeline import read_stops\n"
            f'    stops = read_stops("{Path(DEMO_ROOT).absolute()}")\n'
            '    print(stops.groupby("created_month").size())\n'
        )
    return code


# The data root


@main.command("verify")
@_account(help="Verify only this account.")
def verify_accounts(**options: Any) -> int:
    """Read the whole data root and name every problem. Nothing is changed."""
    from stop_pipeline import commands

    return commands.verify_accounts(Settings.from_environment(), **options)


@main.command("rebuild")
@click.option(
    "--into",
    metavar="DIR",
    required=True,
    help="Folder, or prefix in a bucket, for the result; it must be empty or not exist.",
)
@_account(help="Rebuild only this account.")
def rebuild_accounts(**options: Any) -> None:
    """Replay the kept responses into a fresh folder. It shows what this version makes of them."""
    from stop_pipeline import commands

    commands.rebuild_accounts(Settings.from_environment(), **options)


@main.command("accounts")
def list_accounts() -> None:
    """List the accounts in the data root and the state of each."""
    from stop_pipeline import commands

    commands.list_accounts(Settings.from_environment())


@main.command("retire")
@click.argument("name")
def retire_account(**options: Any) -> None:
    """Mark an account as no longer synced. Its numbers stay blocked, and its list may be of any age."""
    from stop_pipeline import commands

    commands.retire_account(Settings.from_environment(), **options)


# The suppression list


@main.command("suppress")
@click.argument("campaign", type=_path)
@click.option("--column", default="phone", metavar="NAME", help="Column of the phone numbers.")
@_out(metavar="DIR", help="Folder for the three files; it must be empty or not exist.")
@_account(help="Use only this account's list; by default, the lists of all accounts.")
@_max_age(help="How long ago the list may have been verified, such as 90m, 24h or 2d.")
def split_campaign(**options: Any) -> None:
    """Split a campaign file into clean, blocked and invalid rows.

    The file is CSV or Parquet. “clean” holds the rows that may be texted, “blocked” those whose number has opted out,
    and “invalid” those without a phone number. If the list is missing, or too old to rely on, nothing is written and
    the exit code is 3.
    """
    from stop_pipeline import commands

    commands.split_campaign(Settings.from_environment(), **options)


@main.command("lookup")
@click.argument("number", nargs=-1, required=True)
@click.option("--on", metavar="TIME", help="Say what was known then; a date means the end of that day in Paris.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@_LIST_ACCOUNT
@_LIST_AGE
def look_up(**options: Any) -> int:
    """Say whether a number may be texted, and what shows that.

    The number may be in any spelling. What is printed says when it opted out, and which responses show that. The exit
    code is 0 if it may be texted (or was not on the list at that time), 4 if it must not be, and 3 if the list is
    missing or too old to tell.
    """
    from stop_pipeline import commands

    return commands.look_up(Settings.from_environment(), **options)


@main.command("changes")
@click.option("--since", metavar="TIME", help="Where to begin; with --since-file, only while that file does not exist.")
@click.option("--since-file", type=_path, metavar="PATH", help="File that remembers where the last call ended.")
@click.option("--until", metavar="TIME", help="Where to end; by default, the latest time at which every list is known.")
@_OUT_FILE
@_LIST_ACCOUNT
@_LIST_AGE
def write_changes(**options: Any) -> None:
    """Write what changed on the suppression list between two times.

    There is a row for each number that was added or removed. A time is a date, which means the end of that day in
    Paris, or a time such as 2026-11-05T09:30+01:00.
    """
    from stop_pipeline import commands

    commands.write_changes(Settings.from_environment(), **options)


@main.command("export")
@_OUT_FILE
@_LIST_ACCOUNT
@_LIST_AGE
def export_list(**options: Any) -> None:
    """Write the suppression list, to import into another tool. It has one row per number."""
    from stop_pipeline import commands

    commands.export_list(Settings.from_environment(), **options)


def _sync(settings: Settings, accounts: tuple[str, ...], accept_removals: int | None) -> int:
    """Sync the accounts, as many in a run as the schedule does, and print what each did; gives the exit code."""
    from stop_pipeline.commands import print_sync, progress_shown
    from stop_pipeline.definitions import build_definitions
    from stop_pipeline.local_dagster import run_syncs

    gc.freeze()  # what was imported stays: going through it again and again takes a fifth of a small sync
    _warn_of_another_owner(settings.data_root)
    definitions = build_definitions(settings)
    code = 0
    for together in [accounts] if len(accounts) == 1 else settings.accounts_by_run():
        with progress_shown():
            reports = run_syncs(definitions, settings, together, accept_removals=accept_removals)
        for report in reports:
            code = code if report.error is None else 1
            for name, advice in report.failed_checks:
                _tell(f"Warning: {report.account}: check {name} failed. {advice}")
            if report.error is not None:
                _tell(f"{report.account}: {report.error}")
                continue
            with suppress(OSError):  # such as of a full disk that the output goes to: other accounts are still to sync
                print_sync(report.account, report.figures)
    return code


def _warn_of_another_owner(root: str) -> None:
    """Only the owner of a file can read it, so the files of this process would lock the owner of the root out."""
    with suppress(OSError):  # there is none yet, or it is in a bucket
        if (owner := Path(root).stat().st_uid) != os.geteuid():
            _tell(
                f"Warning: the data root {root} belongs to user {owner}, who will not be able to use the files that "
                "this process writes: run it as that user, or give that user the files afterwards (chown -R, of "
                "Dagster's home as well)."
            )


def _demo_began() -> date | None:
    """The day on which the demo's data root was made, if there is one: its list is to be the same on a later day."""
    from stop_pipeline.table.accounts import account_record
    from stop_pipeline.table.store import Store

    store = Store(DEMO_ROOT)
    records = (account_record(store, name) for name in store.accounts_seen())
    began = [record.registered_at for record in records if record and record.registered_at]
    return min(began).astimezone(ZoneInfo(PROVIDER_TIMEZONE)).date() if began else None


@contextmanager
def _sandboxed() -> Iterator[None]:
    """Run a stand-in for SMS Partner on a free port, and point the environment to it."""
    from stop_pipeline.smspartner.sandbox import Sandbox

    with Sandbox(until=_demo_began()) as server:
        for variable in ("SMSPARTNER_ACCOUNTS", "SMSPARTNER_ACCOUNTS_FILE"):
            os.environ.pop(variable, None)
        os.environ.update(
            SMSPARTNER_BASE_URL=server.base_url, SMSPARTNER_API_KEY=server.api_key, STOP_PIPELINE_DATA=DEMO_ROOT
        )
        yield
