"""The command `stop-pipeline`: its subcommands and exit codes. What they print is in `cli_output`.

Nothing large is imported before a command needs it, so that `--help` is instant.

Exit codes: 0 done, also if a check failed (a warning says which); 1 something failed, or `verify` found a problem;
2 the configuration or what was asked for is wrong; 3 the suppression list is too old, or missing; 4 the number must not
be texted (`lookup`).
"""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import click

from stop_pipeline.account_keys import DEFAULT_ACCOUNT, account_names, key_variable, missing_key
from stop_pipeline.errors import ConfigurationError, InputError, OutdatedListError, StopPipelineError
from stop_pipeline.settings import Settings, parse_age

DEMO_FOLDER = "demo"
"""Where `demo` and `dev --sandbox` keep the data and Dagster's home, unless the environment says otherwise."""

_OBJECTS_PER_COLLECTION = 100_000


def _age(_context: click.Context, _option: click.Parameter, text: str) -> timedelta:
    """The value of an option that is a length of time, such as 24h."""
    try:
        return parse_age(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stop_pipeline")
def main() -> None:
    """SMS Partner's STOP list as a table that compliance can rely on and analysts can read."""
    # Data, logs and Dagster's database hold or surround personal data: only their owner may read them.
    os.umask(0o077)


@main.command()
@click.option("--account", metavar="NAME", help="Sync only this account.")
@click.option(
    "--accept-removals",
    type=click.IntRange(min=0),
    metavar="N",
    help="Accept up to N removals that would otherwise be withheld.",
)
def run(account: str | None, accept_removals: int | None) -> None:
    """Fetch the list of every account once and merge it into the table; no server is needed."""
    with _plain_errors():
        settings = Settings.from_environment()
        accounts = _chosen(settings, account)
        if accept_removals is not None and len(accounts) > 1:
            raise ConfigurationError("--accept-removals is for one account: name it with --account.")
        if not set(accounts) & set(settings.accounts_with_key()):
            raise missing_key(accounts[0], settings.accounts_file)
        sys.exit(_sync(settings, accounts, accept_removals))


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the UI.")
@click.option("--sandbox", is_flag=True, help="Use a stand-in for SMS Partner, which needs no key.")
def dev(port: int, *, sandbox: bool) -> None:
    """Open the Dagster UI and run the schedule, until Ctrl-C."""
    _end_when_asked()
    with _plain_errors(), _sandboxed(os.environ) if sandbox else nullcontext():
        settings = Settings.from_environment()  # before the import below, which would refuse a setting by a traceback
        from stop_pipeline.local_dagster import serve

        _warn_of_another_owner(settings)
        sys.exit(serve(settings, port, lambda url: click.echo(f"Open {url} in a browser. Ctrl-C ends it.")))


@main.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8025, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--rows", type=click.IntRange(0, 10_000_000), default=2_000, show_default=True, help="Rows of the first response."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another number gives another list.")
@click.option(
    "--accounts", default=DEFAULT_ACCOUNT, metavar="A,B,…", help="Names of the accounts, each with its own list."
)
def sandbox(port: int, rows: int, seed: int, accounts: str) -> None:
    """Run a stand-in for SMS Partner on this machine, until Ctrl-C."""
    from stop_pipeline.cli_output import sandbox_instructions
    from stop_pipeline.smspartner.sandbox import serve

    with _plain_errors():
        keys = {name: _sandbox_key(name) for name in account_names(accounts, "--accounts")}
    try:
        server = serve(port=port, rows=rows, seed=seed, api_keys=tuple(keys.values()))
    except OSError as error:
        click.echo(f"The stand-in cannot listen on port {port} ({error.strerror}): name another with --port.", err=True)
        sys.exit(1)
    variables = {"SMSPARTNER_BASE_URL": server.base_url}
    if len(keys) > 1:
        variables["SMSPARTNER_ACCOUNTS"] = ",".join(keys)
    variables |= {key_variable(name): key for name, key in keys.items()}
    variables["STOP_PIPELINE_DATA"] = f"{DEMO_FOLDER}/data"
    _end_when_asked()
    with server, suppress(KeyboardInterrupt):
        click.echo(sandbox_instructions(server.base_url, variables))
        server.run_forever()


@main.command()
@click.option("--account", metavar="NAME", help="Verify only this account.")
def verify(account: str | None) -> None:
    """Read everything in the data root and name every problem; nothing is changed."""
    from stop_pipeline.root_commands import verify_accounts

    with _plain_errors():
        sys.exit(verify_accounts(Settings.from_environment(), account))


@main.command()
@click.option(
    "--into",
    metavar="DIR",
    required=True,
    help="Folder, or prefix in a bucket, for the result; it must be empty or not exist.",
)
@click.option("--account", metavar="NAME", help="Rebuild only this account.")
def rebuild(into: str, account: str | None) -> None:
    """Replay the kept responses into a fresh folder, to see what they give by this version's rules."""
    from stop_pipeline.root_commands import rebuild_accounts

    with _plain_errors():
        rebuild_accounts(Settings.from_environment(), into, account)


@main.command("suppress")
@click.argument("campaign", type=click.Path(path_type=Path))
@click.option("--column", default="phone", show_default=True, metavar="NAME", help="Column of the phone numbers.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    required=True,
    help="Folder for the three files; it must be empty or not exist.",
)
@click.option("--account", metavar="NAME", help="Use only this account's list; by default, the lists of all accounts.")
@click.option(
    "--max-age",
    callback=_age,
    default="24h",
    show_default=True,
    metavar="AGE",
    help="How long ago the list may have been verified, such as 90m, 24h or 2d.",
)
def suppress_campaign(campaign: Path, column: str, out: Path, account: str | None, max_age: timedelta) -> None:
    """Split a campaign file (CSV or Parquet) into clean, blocked and invalid rows.

    “clean” holds the rows to send to, “blocked” those whose number has opted out, and “invalid” those without a phone
    number. If the list is missing, or too old to rely on, nothing is written and the exit code is 3.
    """
    from stop_pipeline.campaign import suppress_file
    from stop_pipeline.cli_output import suppressed_lines
    from stop_pipeline.progress import progress_shown

    with _plain_errors():
        root = Settings.from_environment().data_root
        with progress_shown():
            done = suppress_file(campaign, column, out, root=root, account=account, max_age=max_age)
        click.echo(suppressed_lines(campaign, out, **vars(done)))


@main.command()
def accounts() -> None:
    """List the accounts in the data root and the state of each."""
    from stop_pipeline.root_commands import list_accounts

    with _plain_errors():
        list_accounts(Settings.from_environment())


@main.command()
@click.argument("name")
def retire(name: str) -> None:
    """Stop expecting syncs of an account. Its numbers stay blocked, but its list may be of any age."""
    from stop_pipeline.root_commands import retire_account

    with _plain_errors():
        retire_account(Settings.from_environment(), name)


@main.command()
def demo() -> None:
    """Show a whole sync without a key: a stand-in for SMS Partner, one sync, and the result, verified."""
    with _plain_errors(), _sandboxed(os.environ):
        from stop_pipeline.root_commands import how_to_read, verify_accounts

        settings = Settings.from_environment()
        code = _sync(settings, settings.accounts, None) or verify_accounts(settings, None)
        if code == 0:
            click.echo(how_to_read(settings))
        sys.exit(code)


def _list_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that reads the suppression list."""
    account = click.option("--account", metavar="NAME", help="Use only this account's list; by default, all lists.")
    max_age = click.option(
        "--max-age",
        callback=_age,
        default="24h",
        show_default=True,
        metavar="AGE",
        help="How long ago the list may have been verified, such as 90m, 24h or 2d; past times do not need it.",
    )
    return account(max_age(command))


_out_file = click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="File to be written, .csv or .parquet; it must not exist.",
)


@main.command("lookup")
@click.argument("number", nargs=-1, required=True)
@click.option("--on", metavar="TIME", help="Tell what was known then; of a date, at the end of that day in Paris.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@_list_options
def lookup_number(
    number: tuple[str, ...], on: str | None, account: str | None, max_age: timedelta, *, as_json: bool
) -> None:
    """Tell whether a number may be texted, since when not, and which responses show that.

    The number may be in any spelling. The exit code is 0 if it may be texted (or was not on the list at that time), 4
    if it must not be, and 3 if the list is missing or too old to tell.
    """
    from stop_pipeline.list_commands import print_lookup

    with _plain_errors():
        root = Settings.from_environment().data_root
        sys.exit(print_lookup(root, " ".join(number), on=on, account=account, as_json=as_json, max_age=max_age))


@main.command()
@click.option("--since", metavar="TIME", help="Begin here; with --since-file, only while that file does not exist.")
@click.option("--since-file", type=click.Path(path_type=Path), metavar="PATH", help="File that keeps where to go on.")
@click.option("--until", metavar="TIME", help="End here; by default, where the lists are known to.")
@_out_file
@_list_options
def changes(
    since: str | None, since_file: Path | None, until: str | None, out: Path, account: str | None, max_age: timedelta
) -> None:
    """Write which numbers came onto the suppression list, or left it, between two times.

    A time is a date, which means the end of that day in Paris, or a time such as 2026-11-05T09:30+01:00.
    """
    from stop_pipeline.list_commands import write_changes

    with _plain_errors():
        root = Settings.from_environment().data_root
        write_changes(root, out, since=since, since_file=since_file, until=until, account=account, max_age=max_age)


@main.command()
@_out_file
@_list_options
def export(out: Path, account: str | None, max_age: timedelta) -> None:
    """Write the suppression list, one row per number, for the import page of another tool."""
    from stop_pipeline.list_commands import export_list

    with _plain_errors():
        export_list(Settings.from_environment().data_root, out, account=account, max_age=max_age)


def _sandbox_key(account: str) -> str:
    """The API key with which the stand-in serves the list of `account`."""
    from stop_pipeline.smspartner.sandbox import API_KEY

    return API_KEY if account == DEFAULT_ACCOUNT else f"{API_KEY}-{account}"


def _chosen(settings: Settings, account: str | None) -> tuple[str, ...]:
    if account is None:
        return settings.accounts
    if account not in settings.accounts:
        raise ConfigurationError(
            f"--account {account} is not one of the accounts that are set up ({', '.join(settings.accounts)})."
        )
    return (account,)


def _sync(settings: Settings, accounts: tuple[str, ...], accept_removals: int | None) -> int:
    """Sync the accounts, as many in a run as the schedule does, and print what each did; gives the exit code."""
    # What Dagster loads stays. The collector would go through it a hundred times, a tenth of a small sync; and when the
    # process ends and Python takes it apart, again and again: a fifth.
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    atexit.register(gc.freeze)
    from stop_pipeline.cli_output import sync_line
    from stop_pipeline.definitions import build_definitions
    from stop_pipeline.local_dagster import run_syncs
    from stop_pipeline.progress import progress_shown

    _warn_of_another_owner(settings)
    code = 0
    for together in [accounts] if len(accounts) == 1 else settings.accounts_by_run():
        with progress_shown():
            reports = run_syncs(build_definitions(settings), settings, together, accept_removals=accept_removals)
        for report in reports:
            for name, advice in report.failed_checks:
                click.echo(f"Warning: {report.account}: check {name} failed. {advice}", err=True)
            if report.error is None:
                click.echo(sync_line(report.account, report.figures))
            else:
                click.echo(f"{report.account}: {report.error}", err=True)
                code = 1
    return code


def _warn_of_another_owner(settings: Settings) -> None:
    from stop_pipeline.local_dagster import owned_by_another

    owner = owned_by_another(settings)
    if owner is not None:
        click.echo(
            f"Warning: the data root {settings.data_root} belongs to {owner}, who will not be able to use the files "
            "that this process writes: run it as that user, or give that user the files afterwards (chown -R).",
            err=True,
        )


def _end_when_asked() -> None:
    """Have SIGINT, SIGTERM and SIGHUP raise `KeyboardInterrupt`, for commands that go on until then.

    A shell lets what a script starts in the background ignore SIGINT, and every child of it would. `nohup` asks to
    ignore SIGHUP, and that stays.
    """

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if asked is not signal.SIGHUP or signal.getsignal(asked) is not signal.SIG_IGN:
            signal.signal(asked, end)


@contextmanager
def _sandboxed(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Run a stand-in for SMS Partner on a free port, and point the environment to it."""
    from stop_pipeline.smspartner.sandbox import serve

    with serve() as server:
        for variable in ("SMSPARTNER_ACCOUNTS", "SMSPARTNER_ACCOUNTS_FILE"):
            environ.pop(variable, None)
        environ.update(SMSPARTNER_BASE_URL=server.base_url, SMSPARTNER_API_KEY=server.api_key)
        environ.setdefault("STOP_PIPELINE_DATA", f"{DEMO_FOLDER}/data")
        yield


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Print one sentence on stderr in place of a traceback."""
    try:
        yield
    except (ConfigurationError, InputError) as error:
        sentence, code = str(error), 2
    except OutdatedListError as error:
        sentence, code = str(error), 3
    except StopPipelineError as error:
        sentence, code = str(error), 1
    else:
        return
    click.echo(sentence, err=True)
    sys.exit(code)
