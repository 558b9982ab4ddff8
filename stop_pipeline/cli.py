"""The command `stop-pipeline`.

What belongs here: the commands, what they print, and their exit codes. What does not: how a tick is run and Dagster's
home is kept (`local_dagster`). Nothing heavy is imported before a command needs it, so that `--help` is instant.

Exit codes: 0 done, also when a check failed (a warning line says which); 1 a tick or a split failed, or something is
off; 2 wrong configuration; 3 the suppression list is not fit to hold a campaign against.
"""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stop_pipeline.errors import ConfigurationError, StopPipelineError, StoreError, UnfitListError
from stop_pipeline.settings import DEFAULT_ACCOUNT, Settings, account_names, key_variable, missing_key

if TYPE_CHECKING:
    from stop_pipeline.store import Store

DEMO_FOLDER = "demo"
"""Where `demo` and `dev --sandbox` keep data and Dagster's home, unless the environment says otherwise."""

_OBJECTS_PER_COLLECTION = 100_000


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stop_pipeline")
def main() -> None:
    """SMS Partner's STOP list as a table that compliance can rely on and analysts can read."""
    # Data, logs and Dagster's database hold or surround personal data: readable by their owner only.
    os.umask(0o077)


@main.command()
@click.option("--account", metavar="A", help="Tick this account only.")
@click.option(
    "--accept-removals",
    type=click.IntRange(min=0),
    metavar="N",
    help="Accept up to N removals that would otherwise be withheld.",
)
def run(account: str | None, accept_removals: int | None) -> None:
    """Fetch the list of every account once and bring it into the table, without a server."""
    with _plain_errors():
        settings = Settings.from_environment()
        accounts = _chosen(settings, account)
        if accept_removals is not None and len(accounts) > 1:
            raise ConfigurationError("--accept-removals is about one account: name it with --account.")
        if not set(accounts) & set(settings.accounts_with_key()):
            raise missing_key(accounts[0], settings.accounts_file)
        sys.exit(_tick(settings, accounts, accept_removals))


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the UI.")
@click.option("--sandbox", is_flag=True, help="Bring a stand-in for SMS Partner along; no key is needed.")
def dev(port: int, *, sandbox: bool) -> None:
    """Open the Dagster UI, with its daemon, on a history that lasts. Ctrl-C ends both."""
    _end_when_asked()
    with _plain_errors(), _sandboxed(os.environ) if sandbox else nullcontext():
        settings = Settings.from_environment()  # first: loading the definitions refuses a wrong setting by a traceback
        from stop_pipeline.local_dagster import serve

        sys.exit(serve(settings, port))


@main.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8025, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--rows", type=click.IntRange(0, 10_000_000), default=2_000, show_default=True, help="Rows at the start.")
@click.option("--seed", type=int, default=0, show_default=True, help="What the list holds, and how it changes.")
@click.option(
    "--accounts", default=DEFAULT_ACCOUNT, metavar="A,B,…", help="Stand in for these accounts, each with its own list."
)
def sandbox(port: int, rows: int, seed: int, accounts: str) -> None:
    """Run a stand-in for SMS Partner on loopback, until Ctrl-C."""
    from stop_pipeline.sandbox import serve

    with _plain_errors():
        keys = {name: _sandbox_key(name) for name in account_names(accounts, "--accounts")}
    try:
        server = serve(port=port, rows=rows, seed=seed, api_keys=tuple(keys.values()))
    except OSError as error:
        click.echo(f"The stand-in cannot listen on port {port} ({error.strerror}): name another with --port.", err=True)
        sys.exit(1)
    variables = {key_variable(name): key for name, key in keys.items()}
    if len(keys) > 1:
        variables = {"SMSPARTNER_ACCOUNTS": ",".join(keys)} | variables
    _end_when_asked()
    with server, suppress(KeyboardInterrupt):
        click.echo(f"A stand-in for SMS Partner listens at {server.base_url}. To use it, in another terminal:\n")
        for name, value in {"SMSPARTNER_BASE_URL": server.base_url, **variables}.items():
            click.echo(f"  export {name}={value}")
        click.echo(f"  export STOP_PIPELINE_DATA={DEMO_FOLDER}/data\n  stop-pipeline run\n")
        click.echo("Ctrl-C ends it.")
        server.run_forever()


@main.command()
@click.option("--account", metavar="A", help="Verify this account only.")
def verify(account: str | None) -> None:
    """Read everything below the data root, and say whether it holds together."""
    with _plain_errors():
        sys.exit(_verify(Settings.from_environment(), account))


@main.command()
@click.option(
    "--into",
    metavar="DIR",
    required=True,
    help="Fresh folder, or prefix in a bucket, for the result; refused if it is not empty.",
)
@click.option("--account", metavar="A", help="Rebuild this account only.")
def rebuild(into: str, account: str | None) -> None:
    """Replay the answers that are kept, by today's rules, into a fresh folder, for a look at what they give."""
    from stop_pipeline.progress import progress_shown
    from stop_pipeline.rebuild import fresh_root
    from stop_pipeline.rebuild import rebuild as replay
    from stop_pipeline.store import Store

    with _plain_errors():
        settings = Settings.from_environment()
        source = Store.existing(settings.data_root)
        accounts = _found(source, account)
        target = fresh_root(into, source)
        for name in accounts:
            with progress_shown():
                rebuilt = replay(source, target, name, timezone=settings.timezone)
            for file, reason in rebuilt.skipped:
                click.echo(f"Warning: {name}: {file} was skipped. {reason}", err=True)
            click.echo(
                f"{name}: {_counted(rebuilt.replayed, 'answer')} replayed into {target.root}, {len(rebuilt.skipped):,} "
                f"skipped; {_counted(rebuilt.rows, 'row')}, {rebuilt.open_rows:,} of them open."
            )


@main.command("suppress")
@click.argument("campaign", type=click.Path(path_type=Path))
@click.option("--column", default="phone", show_default=True, metavar="NAME", help="Column of the phone numbers.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    required=True,
    help="Fresh folder for the three files; refused if it is not empty.",
)
@click.option("--account", metavar="A", help="Block what this account's list holds; by default, any account's.")
@click.option(
    "--max-age",
    default="24h",
    show_default=True,
    metavar="AGE",
    help="How long ago the list may have been verified, such as 90m, 24h or 2d.",
)
def suppress_campaign(campaign: Path, column: str, out: Path, account: str | None, max_age: str) -> None:
    """Split a campaign's file (CSV or Parquet) into clean, blocked and invalid rows.

    Whom to text is in “clean”, who has opted out in “blocked”, and what is no phone number in “invalid”. It is refused
    with exit code 3 if the list is missing, or too old to rely on.
    """
    from stop_pipeline.progress import progress_shown
    from stop_pipeline.suppression import parse_age, suppress_file

    with _plain_errors():
        root = Settings.from_environment().data_root
        try:
            age = parse_age(max_age)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--max-age") from None
        with progress_shown():
            done = suppress_file(campaign, column, out, root=root, account=account, max_age=age)
    counts = " + ".join(f"{rows:,} {name}" for name, (_, rows) in done.parts.items())
    click.echo(f"{campaign} ({done.form}): {_counted(done.rows, 'row')} = {counts}.")
    click.echo(f"The list was verified at {done.verified_at:%Y-%m-%d %H:%M} UTC. The files are in {out}:")
    for path, _ in done.parts.values():
        click.echo(f"  {path.name}")


@main.command()
def demo() -> None:
    """Show a whole tick without a key: a stand-in for SMS Partner, one tick, and what came out, verified."""
    with _plain_errors(), _sandboxed(os.environ):
        settings = Settings.from_environment()
        code = _tick(settings, settings.accounts, None) or _verify(settings, None)
        if code == 0:
            click.echo(_how_to_read(settings))
        sys.exit(code)


def _sandbox_key(account: str) -> str:
    """The API key under which the stand-in keeps the list of `account`."""
    from stop_pipeline.sandbox import API_KEY

    return API_KEY if account == DEFAULT_ACCOUNT else f"{API_KEY}-{account}"


def _chosen(settings: Settings, account: str | None) -> tuple[str, ...]:
    if account is None:
        return settings.accounts
    if account not in settings.accounts:
        raise ConfigurationError(
            f"--account {account} is none of the accounts that are set up ({', '.join(settings.accounts)})."
        )
    return (account,)


def _tick(settings: Settings, accounts: tuple[str, ...], accept_removals: int | None) -> int:
    """Tick the accounts, as many in a run as the schedule does, and say what came of each; the exit code."""
    # What Dagster loads stays. The collector would go through it a hundred times, a tenth of a small tick; and when the
    # process ends and Python takes it apart, again and again: a fifth.
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    atexit.register(gc.freeze)
    from stop_pipeline.local_dagster import run_ticks
    from stop_pipeline.progress import progress_shown

    code = 0
    for together in [accounts] if len(accounts) == 1 else settings.accounts_by_run():
        with progress_shown():
            reports = run_ticks(settings, together, accept_removals=accept_removals)
        for report in reports:
            for name, advice in report.failed_checks:
                click.echo(f"Warning: {report.account}: check {name} failed. {advice}", err=True)
            if report.error is None:
                click.echo(_summary(report.account, report.figures))
            else:
                click.echo(f"{report.account}: {report.error}", err=True)
                code = 1
    return code


def _found(store: "Store", account: str | None) -> list[str]:
    """The accounts that the data root holds, or the one that was asked for."""
    accounts = store.accounts_seen()
    if account is not None and account not in accounts:
        raise ConfigurationError(
            f"--account {account} is none of the accounts below {store.root} ({', '.join(accounts) or 'none'})."
        )
    if not accounts:
        raise StoreError(f"There is nothing below {store.root} yet: run “stop-pipeline run” (or “demo”) first.")
    return accounts if account is None else [account]


def _verify(settings: Settings, account: str | None) -> int:
    """Read everything of the accounts and say what is off, one line each; the exit code."""
    from stop_pipeline.store import Store
    from stop_pipeline.verify import verify

    store = Store.existing(settings.data_root)
    code = 0
    for name in _found(store, account):
        verified = verify(store, name)
        for finding in verified.findings:
            click.echo(f"{name}: {finding.sentence}", err=True)
        count = len(verified.findings)
        off = _counted(count, "thing") + " off" if count else "nothing off"
        killed = "; a tick was killed while it wrote, and the next one takes back what it left" * verified.pending
        click.echo(f"{name}: {_counted(verified.months, 'month')}, {_counted(verified.rows, 'row')}, {off}{killed}.")
        code = max(code, min(count, 1))
    return code


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)


def _summary(account: str, figures: Mapping[str, Any]) -> str:
    names = ("listed", "new", "changed", "removed", "restored", "rejected")
    counts = ", ".join(f"{figures[name]:,} {name}" for name in names)
    withheld = f", {figures['withheld']:,} removals withheld" if figures["withheld"] else ""
    return f"{account}: {counts}{withheld}; {figures['months_written']} months written."


def _how_to_read(settings: Settings) -> str:
    from stop_pipeline.store import Store

    store = Store(settings.data_root)
    return (
        f"The Parquet lies in {store.files.shown('stops')}. To read it:\n\n"
        "    from stop_pipeline import read_stops\n"
        f'    stops = read_stops("{store.root}")\n'
        '    print(stops.groupby("created_month", observed=True).size())\n'
    )


def _end_when_asked() -> None:
    """Have SIGINT and SIGTERM raise `KeyboardInterrupt`, for commands that go on until then.

    A shell lets what a script starts in the background ignore SIGINT, and every child of it would.
    """

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, end)


@contextmanager
def _sandboxed(environ: MutableMapping[str, str]) -> Iterator[None]:
    """A stand-in for SMS Partner on a free port, which the environment then points to."""
    from stop_pipeline.sandbox import serve

    with serve() as server:
        for variable in ("SMSPARTNER_ACCOUNTS", "SMSPARTNER_ACCOUNTS_FILE"):
            environ.pop(variable, None)
        environ.update(SMSPARTNER_BASE_URL=server.base_url, SMSPARTNER_API_KEY=server.api_key)
        environ.setdefault("STOP_PIPELINE_DATA", f"{DEMO_FOLDER}/data")
        yield


@contextmanager
def _plain_errors() -> Iterator[None]:
    """One sentence on stderr in place of a traceback."""
    try:
        yield
    except ConfigurationError as error:
        sentence, code = str(error), 2
    except UnfitListError as error:
        sentence, code = str(error), 3
    except StopPipelineError as error:
        sentence, code = str(error), 1
    else:
        return
    click.echo(sentence, err=True)
    sys.exit(code)
