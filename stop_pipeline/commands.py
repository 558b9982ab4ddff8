"""What the commands do and print; what starts Dagster or the stand-in is in `cli`.

A command is given the settings, and its options by their names, which `cli` explains; `lists` are `account` and
`max_age`, where they are only passed on.
"""

import dataclasses
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
import pandas as pd
from rich.console import Console

from stop_pipeline.campaign.output import complete_file
from stop_pipeline.campaign.suppression import suppress_file
from stop_pipeline.errors import ConfigurationError, InputError, StoreError, counted
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.rebuild import fresh_root, rebuild
from stop_pipeline.schema import FOUND_ORIGIN, REJECTED_ORIGIN, SUPPRESSION_LIST
from stop_pipeline.settings import PROVIDER_TIMEZONE, Settings
from stop_pipeline.table.accounts import account_record, retire
from stop_pipeline.table.derive import ORIGINS
from stop_pipeline.table.lookup import ADDED, AccountLookup, Lookup, OptOut, lookup, read_changes
from stop_pipeline.table.reading import current_list
from stop_pipeline.table.store import Store
from stop_pipeline.times import parse_moment
from stop_pipeline.verify import verify

_MINUTE = "%Y-%m-%d %H:%M UTC"
_CSV_TIME = "%Y-%m-%dT%H:%M:%SZ"
_PARIS = ZoneInfo(PROVIDER_TIMEZONE)
_BEFORE_EVERYTHING = "1970-01-01"

# By whether a number may be texted; None if there is no list.
_EXIT_CODES = {True: 0, False: 4, None: 3}
_ANSWERS = {True: "may be texted", False: "must not be texted", None: "is unknown: there is no list"}
_ANSWERS_THEN = {True: "was not on the list", False: "was on the list", None: "is unknown: there was no list"}
_WHERE_FOUND = {REJECTED_ORIGIN: " (in a malformed row)", FOUND_ORIGIN: " (in a text that is not one number)"}


def print_sync(account: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what one sync did, given the metadata of each asset and check."""
    stops = figures["stops"]
    counts = ", ".join(f"{stops[name]:,} {name}" for name in ("new", "changed", "removed", "restored"))
    withheld = f", {counted(stops['withheld'], 'removal')} withheld" if stops["withheld"] else ""
    parts = [f"{stops['rows']}; {counts}{withheld}", f"{counted(stops['months_written'], 'month')} written"]
    if stops.get("reread"):
        parts.append("stored rows were first brought up to date")
    if unreadable := figures.get("numbers_readable", {}).get("unreadable_rows"):
        parts.append(f"{counted(unreadable, 'listed row')} without a phone number")
    click.echo(f"{account}: {'; '.join(parts)}.")


# The data root


def verify_accounts(settings: Settings, account: str | None = None) -> int:
    """Print the problems of one account or all, and a line for each account; gives the exit code."""
    store, accounts = _open_accounts(settings, account)
    code = 0
    for name in accounts:
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
    source, accounts = _open_accounts(settings, account)
    target = fresh_root(into, source)
    for name in accounts:
        if len(accounts) > 1 and not source.responses.all(name):
            _warn(f"{name}: no response is kept, so there is nothing to replay.")
            continue
        with progress_shown():
            rebuilt = rebuild(source, target, name, timezone=settings.timezone)
        for file, reason in rebuilt.skipped:
            _warn(f"{name}: {file} was skipped. {reason}")
        click.echo(
            f"{name}: {counted(rebuilt.replayed, 'response')} replayed into {target.root}, {len(rebuilt.skipped):,} "
            f"skipped; {counted(rebuilt.rows, 'row')}, {rebuilt.open_rows:,} of them open."
        )


def list_accounts(settings: Settings) -> None:
    """Print the state of each account: whether it is synced, how old its list is, and how many rows are open."""
    store, accounts = _open_accounts(settings, None)
    for name in accounts:
        record, state = account_record(store, name), store.state(name)
        status = "never synced" if state.commit is None else "synced"
        if record and record.retired_at:
            status = f"retired at {record.retired_at:{_MINUTE}}"
        verified = "never verified" if state.verified_at is None else f"last verified at {state.verified_at:{_MINUTE}}"
        click.echo(f"{name}: {status}; {verified}; {counted(state.open_rows, 'open row')}.")


def retire_account(settings: Settings, name: str) -> None:
    """Record that an account is no longer synced, and warn if the settings still name it."""
    store, _ = _open_accounts(settings, name)
    retire(store, name, now=datetime.now(UTC))
    if name in settings.accounts and (len(settings.accounts) > 1 or settings.accounts_with_key()):
        _warn(f"the settings still name {name}, so its next sync puts it back into use: take its name and its key out.")
    click.echo(f"{name} is retired: its numbers stay blocked, and its list no longer has to be up to date.")


def _open_accounts(settings: Settings, account: str | None) -> tuple[Store, list[str]]:
    """The data root, and the accounts that it holds, or the one that was asked for."""
    store = Store.existing(settings.data_root)
    accounts = store.accounts_seen()
    if account is not None and account not in accounts:
        known = ", ".join(accounts) or "there are none"
        raise ConfigurationError(f"“{account}” is not one of the accounts below {store.root} ({known}).")
    if not accounts:
        raise StoreError(f"There is nothing below {store.root} yet: run “stop-pipeline run” (or “demo”) first.")
    return store, accounts if account is None else [account]


# The suppression list


def split_campaign(settings: Settings, campaign: Path, column: str, out: Path, **lists: Any) -> None:
    """Split a campaign file into three in the folder `out`, and print how many rows each has."""
    with progress_shown():
        done = suppress_file(campaign, column, out, root=settings.data_root, **lists)
    counts = " + ".join(f"{count:,} {name}" for name, (_, count) in done.parts.items())
    click.echo(f"{campaign} ({done.form}): {counted(done.rows, 'row')} = {counts}.")
    if done.unreadable_rows:
        click.echo(
            f"{counted(done.unreadable_rows, 'listed row')} without a phone number blocked nobody. To see them: in "
            "stop_pipeline.read_stops() they are among those whose phone_number is not in E.164, in "
            "stop_pipeline.read_rejected() among those whose phone_number is null."
        )
    click.echo(f"The list was verified at {done.verified_at:{_MINUTE}}. The files are in {out}:")
    for path, _ in done.parts.values():
        click.echo(f"  {path.name}")


def write_changes(
    settings: Settings, out: Path, *, since: str | None, since_file: Path | None, until: str | None, **lists: Any
) -> None:
    """Write the changes to a file, then the time where the next ones begin to `since_file`, and print what it was.

    Killed in between, the next call gives the same changes again: rows may come twice, but none is lost.
    """
    _refuse_place(settings, out, since_file)
    # What a call that goes on has to have in common with the one before: else numbers would be missing.
    basis = f"{READING_RULES}; {lists['account'] or 'all accounts'} of {Store(settings.data_root).root}"
    begin = since if since_file is None else _read_cursor(since_file, since, basis)
    if begin is None:
        raise InputError("Give --since, or --since-file with a file that an earlier call has written.")
    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as remarks:
        changes = read_changes(begin, until, settings.data_root, **lists)
    for remark in remarks if begin != _BEFORE_EVERYTHING else ():
        _warn(remark.message)
    next_since = changes.attrs["until"]
    _write_table(changes, out)
    if since_file is not None:
        with complete_file(since_file) as file:
            file.write_text(f"{next_since}\n{basis}\n", encoding="utf-8")
    added = int((changes["change"] == ADDED).sum())
    kept = f", which {since_file} keeps" if since_file else ""
    click.echo(f"{out}: {added:,} added, {len(changes) - added:,} removed. Next time: --since {next_since}{kept}.")


def export_list(settings: Settings, out: Path, **lists: Any) -> None:
    """Write the suppression list of all accounts, or of one, with one row per number, and print how many there are.

    The columns are those of `schema.SUPPRESSION_LIST`; of a number on several lists, the earliest and latest opt-out.
    """
    _refuse_place(settings, out)
    current = current_list(settings.data_root, **lists)
    numbers = current.numbers.assign(origin=pd.Categorical(current.numbers["origin"], ORIGINS, ordered=True))
    rows = numbers.groupby("phone_number", as_index=False).agg(
        {"first_stop_at": "min", "last_stop_at": "max", "stop_count": "sum", "origin": "min"}
    )
    _write_table(rows.astype(SUPPRESSION_LIST.dtypes), out)
    click.echo(
        f"{out}: {counted(len(rows), 'number')}. The list was last complete at {_format_time(current.verified_at)}."
    )


def _refuse_place(settings: Settings, out: Path, since_file: Path | None = None) -> None:
    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"{out} must end in .csv or .parquet.")
    if os.path.lexists(out):  # not `Path.exists`, which fails where it may not look; writing says so in a sentence
        raise InputError(f"{out} exists already: name a file that does not.")
    if since_file is not None and os.path.realpath(since_file) == os.path.realpath(out):
        raise InputError(f"--out and --since-file both name {out}: choose two files.")
    for path in filter(None, (out, since_file)):
        if Store(settings.data_root).files.encloses(path):
            raise InputError(f"{path} is inside the data root {settings.data_root}: name a file outside it.")


def _read_cursor(since_file: Path, since: str | None, basis: str) -> str | None:
    """The time where the changes begin: where the last call ended, or `since` while there is no file."""
    try:
        time, last_basis = since_file.read_text(encoding="utf-8").splitlines()
        parse_moment(time)
    except FileNotFoundError:
        if since is None:
            raise InputError(f"{since_file} does not exist yet: give --since as well, for the first time.") from None
        return since
    except PermissionError:
        raise InputError(f"{since_file} cannot be read by this user: run as its owner, or change its mode.") from None
    except (OSError, ValueError):
        raise InputError(
            f"{since_file} does not hold what this command writes there: remove it, and give --since."
        ) from None
    if last_basis == basis:
        return time
    _warn(
        "the last call was about other accounts, another data root or other reading rules, so this file holds the "
        "whole list: replace your copy with it."
    )
    return _BEFORE_EVERYTHING


def _write_table(rows: pd.DataFrame, out: Path) -> None:
    """Write a DataFrame as Parquet or CSV, by the name of the file."""
    with complete_file(out) as file:
        if out.suffix == ".parquet":
            rows.to_parquet(file, index=False)
        else:
            numbers = rows["phone_number"]
            # A spreadsheet would take such a text, or what follows a semicolon, for a formula, which can do harm: it is
            # marked as text.
            marked = numbers.str.replace(r"(^|[;\t|])([=+@\t\r-])", r"\1'\2", regex=True)
            is_number = numbers.str.fullmatch(r"\+[0-9][\w .()/-]*")
            table = rows.assign(phone_number=numbers.where(is_number, marked))
            table.to_csv(file, index=False, date_format=_CSV_TIME, lineterminator="\n")


# One number


def look_up(settings: Settings, number: Sequence[str], on: str | None, *, as_json: bool, **lists: Any) -> int:
    """Print what is known about a number, as JSON with times in ISO 8601 or as text; gives the exit code."""
    found = lookup(" ".join(number), on, settings.data_root, **lists)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2, default=datetime.isoformat, ensure_ascii=False))
    else:
        click.echo("\n".join(_lookup_lines(found)))
    return _EXIT_CODES[found.may_be_texted]


def _lookup_lines(found: Lookup) -> Iterator[str]:
    then = "" if found.on is None else f" at {_format_time(found.on)}"
    yield f"{found.number} {(_ANSWERS_THEN if then else _ANSWERS)[found.may_be_texted]}{then}."
    for answer in found.accounts:
        yield f"\nAccount {answer.account}: {_list_status(answer)}."
        if answer.opt_outs:
            yield "\n\n".join("\n".join(_opt_out_lines(row, answer, found.on)) for row in answer.opt_outs)
    for name in found.other_accounts:
        yield f"\nAccount {name}, which was not asked for: on the list."


def _list_status(answer: AccountLookup) -> str:
    if answer.may_be_texted is None:
        first = _format_time(answer.known_since)
        return f"no list at that time; the first is from {first}" if answer.known_since else "never synced"
    return (
        f"{'not ' if answer.may_be_texted else ''}on the list. Last complete list: {_format_time(answer.verified_at)}"
    )


def _opt_out_lines(opt_out: OptOut, answer: AccountLookup, on: datetime | None) -> Iterator[str]:
    made = _format_time(opt_out.created_at, "at an unknown time")
    yield f"  opted out    {made}{_WHERE_FOUND.get(opt_out.origin, '')}"
    if on is not None:
        not_known = "no longer" if opt_out.first_seen_at <= on else "not yet"
        yield f"  known then   {'yes' if opt_out.in_force else not_known}"
    yield f"  first seen   {_format_time(opt_out.first_seen_at)}"
    yield f"    SHA-256    {opt_out.first_seen_sha256 or 'not recorded'}"
    yield f"  last listed  {_format_time(opt_out.last_listed_at)}"
    if opt_out.last_listed_sha256:
        yield f"    SHA-256    {opt_out.last_listed_sha256}"
    if opt_out.removed_at is not None:
        yield f"  removed      {_format_time(opt_out.removed_at)}"
    elif answer.removals_withheld:
        yield "  still kept   even if the last response no longer lists it: removals are withheld"


def _format_time(time: datetime | None, unknown: str = "not recorded") -> str:
    if time is None:
        return unknown
    return f"{time.astimezone(_PARIS):%Y-%m-%d %H:%M:%S} Paris ({time:%Y-%m-%d %H:%M:%S} UTC)"


# Progress


class _Stderr(Console):
    def on_broken_pipe(self) -> None:
        """Say no more: rich would end this process in the middle of a sync."""
        self.quiet = True


class _Shown(logging.Handler):
    """Shows a record as the text of a moving line on a terminal, or else as a line; a warning is always a line."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._console = _Stderr(stderr=True)
        self.moving_line = self._console.status("Starting …")

    def emit(self, record: logging.LogRecord) -> None:
        is_warning = record.levelno >= logging.WARNING
        text = f"Warning: {record.getMessage()}" if is_warning else record.getMessage()
        with suppress(OSError):  # such as of a full disk that stderr goes to: the sync matters more
            if self._console.is_terminal and not is_warning:
                self.moving_line.update(text)
            else:
                self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show on stderr what the package logs in the block."""
    shown, logger = _Shown(), logging.getLogger("stop_pipeline")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(shown)
    try:
        with suppress(OSError):
            shown.moving_line.start()
        yield
    finally:
        with suppress(OSError):
            shown.moving_line.stop()
        logger.removeHandler(shown)
        logger.setLevel(before)


def _warn(sentence: object) -> None:
    click.echo(f"Warning: {sentence}", err=True)
