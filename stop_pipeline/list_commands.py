"""What the commands `lookup`, `changes` and `export` do: answers as text, lists as files for other tools."""

import dataclasses
import json
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import click
import pandas as pd

from stop_pipeline.campaign.output import complete_file
from stop_pipeline.cli_output import counted
from stop_pipeline.errors import CampaignError, InputError
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.schema import FOUND_ORIGIN, REJECTED_ORIGIN, SUPPRESSION_LIST
from stop_pipeline.settings import PROVIDER_TIMEZONE
from stop_pipeline.table.changes import ADDED, read_changes
from stop_pipeline.table.current_list import current_list
from stop_pipeline.table.derive import ORIGINS
from stop_pipeline.table.files import LocalFiles
from stop_pipeline.table.lookup import AccountLookup, Lookup, OptOut, lookup
from stop_pipeline.table.store import Store
from stop_pipeline.times import parse_moment

EXIT_CODES = {True: 0, False: 4, None: 3}
"""Exit code of `lookup`, by whether the number may be texted; None if there is no list."""

_PARIS = ZoneInfo(PROVIDER_TIMEZONE)
_CSV_TIME = "%Y-%m-%dT%H:%M:%SZ"
_BEFORE_EVERYTHING = "1970-01-01"
_VERDICTS = {True: "may be texted", False: "must not be texted", None: "cannot be judged: there is no list"}
_VERDICTS_THEN = {True: "was not on the list", False: "was on the list", None: "cannot be judged: there was no list"}
_WHERE_FOUND = {REJECTED_ORIGIN: " (in a malformed row)", FOUND_ORIGIN: " (in a text that is not one number)"}


def print_lookup(
    root: str, number: str, *, on: str | None, account: str | None, as_json: bool, max_age: timedelta
) -> int:
    """Print what is known about a number, as JSON with times in ISO 8601 or as text; gives the exit code."""
    found = lookup(number, on, root, account, max_age)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2, default=datetime.isoformat, ensure_ascii=False))
    else:
        click.echo("\n".join(_lookup_lines(found)))
    return EXIT_CODES[found.may_be_texted]


def write_changes(
    root: str,
    out: Path,
    *,
    since: str | None,
    since_file: Path | None,
    until: str | None,
    account: str | None,
    max_age: timedelta,
) -> None:
    """Write the changes to a file, then the time where the next ones begin to `since_file`, and print what it was.

    Killed in between, the next call gives the same changes again: rows may come twice, but none is lost.

    Raises:
        InputError: a time or a name cannot be used, or `since_file` does not hold a time.
        OutdatedListError: as in `read_changes`.
        CampaignError: a file cannot be written.
    """
    _refuse_place(root, out, since_file)
    begin, rules = (since, READING_RULES) if since_file is None else _read_cursor(since_file, since)
    if begin is None:
        raise InputError("Give --since, or --since-file with a file that an earlier call has written.")
    if rules != READING_RULES:
        click.echo("Warning: phone numbers are read by other rules than last time: the whole list is given.", err=True)
        begin = _BEFORE_EVERYTHING
    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as remarks:
        changes = read_changes(begin, until, root, account, max_age)
    for remark in remarks:
        click.echo(f"Warning: {remark.message}", err=True)
    next_since = changes.attrs["until"]
    _write_table(changes, out)
    if since_file is not None:
        with complete_file(since_file) as file:
            file.write_text(f"{next_since}\n{READING_RULES}\n", encoding="utf-8")
    added = int((changes["change"] == ADDED).sum())
    kept = f", which {since_file} keeps" if since_file else ""
    click.echo(f"{out}: {added:,} added, {len(changes) - added:,} removed. Next time: --since {next_since}{kept}.")


def export_list(root: str, out: Path, *, account: str | None, max_age: timedelta) -> None:
    """Write the suppression list of all accounts, or of one, with one row per number, and print how many there are.

    The columns are those of `schema.SUPPRESSION_LIST`; of a number on several lists, the earliest and latest opt-out.

    Raises:
        InputError: the name of the file cannot be used.
        OutdatedListError: as in `current_list`.
        CampaignError: the file cannot be written.
    """
    _refuse_place(root, out)
    current = current_list(root, account, max_age=max_age)
    numbers = current.numbers.assign(origin=pd.Categorical(current.numbers["origin"], ORIGINS, ordered=True))
    rows = numbers.groupby("phone_number", as_index=False).agg(
        {"first_stop_at": "min", "last_stop_at": "max", "stop_count": "sum", "origin": "min"}
    )
    _write_table(rows.astype(SUPPRESSION_LIST.dtypes), out)
    click.echo(f"{out}: {counted(len(rows), 'number')}. The list was last complete at {_both(current.verified_at)}.")


def _lookup_lines(found: Lookup) -> Iterator[str]:
    then = "" if found.on is None else f" at {_both(found.on)}"
    yield f"{found.number} {(_VERDICTS_THEN if then else _VERDICTS)[found.may_be_texted]}{then}."
    for answer in found.accounts:
        yield f"\nAccount {answer.account}: {_list_status(answer)}."
        if answer.opt_outs:
            yield "\n\n".join("\n".join(_opt_out_lines(row, answer, found.on)) for row in answer.opt_outs)
    for name in found.other_accounts:
        yield f"\nAccount {name}, which was not asked for: on the list."


def _list_status(answer: AccountLookup) -> str:
    if answer.may_be_texted is None:
        return f"no list; the first is of {_both(answer.known_since)}" if answer.known_since else "never synced"
    complete = "not recorded" if answer.verified_at is None else _both(answer.verified_at)
    return f"{'not ' if answer.may_be_texted else ''}on the list. Last complete list: {complete}"


def _opt_out_lines(opt_out: OptOut, answer: AccountLookup, on: datetime | None) -> Iterator[str]:
    made = "at an unknown time" if opt_out.created_at is None else _both(opt_out.created_at)
    yield f"  opted out    {made}{_WHERE_FOUND.get(opt_out.origin, '')}"
    if on is not None:
        not_known = "no longer" if opt_out.first_seen_at <= on else "not yet"
        yield f"  known then   {'yes' if opt_out.in_force else not_known}"
    yield f"  first seen   {_both(opt_out.first_seen_at)}"
    yield f"    SHA-256    {opt_out.first_seen_sha256 or 'not recorded'}"
    yield f"  last listed  {_both(opt_out.last_listed_at) if opt_out.last_listed_at else 'not recorded'}"
    if opt_out.last_listed_sha256:
        yield f"    SHA-256    {opt_out.last_listed_sha256}"
    if opt_out.removed_at is not None:
        yield f"  removed      {_both(opt_out.removed_at)}"
    elif opt_out.last_listed_at and answer.verified_at and opt_out.last_listed_at < answer.verified_at:
        yield "  still kept   because removals are withheld"


def _both(time: datetime) -> str:
    return f"{time.astimezone(_PARIS):%Y-%m-%d %H:%M:%S} Paris ({time:%Y-%m-%d %H:%M:%S} UTC)"


def _refuse_place(root: str, out: Path, since_file: Path | None = None) -> None:
    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"{out} must end in .csv or .parquet.")
    if out.exists():
        raise CampaignError(f"{out} exists already: name a file that does not.")
    for path in filter(None, (out, since_file)):
        if Store(root).files.encloses(LocalFiles(path)):
            raise CampaignError(f"{path} is inside the data root {root}: name a file outside it.")


def _write_table(rows: pd.DataFrame, out: Path) -> None:
    """Write a DataFrame as Parquet or CSV, by the name of the file."""
    with complete_file(out) as file:
        if out.suffix == ".parquet":
            rows.to_parquet(file, index=False)
        else:
            rows.to_csv(file, index=False, date_format=_CSV_TIME, lineterminator="\n")


def _read_cursor(since_file: Path, since: str | None) -> tuple[str | None, str]:
    """The time where the changes begin, and the reading rules of the last call; while there is no file, `since`."""
    try:
        time, rules = since_file.read_text(encoding="utf-8").splitlines()
        parse_moment(time)
    except FileNotFoundError:
        if since is not None:
            return since, READING_RULES
        problem = "does not exist yet: give --since as well, for the first time"
    except (OSError, ValueError):
        problem = "does not hold what this command writes there: remove it, and give --since"
    else:
        return time, rules
    raise InputError(f"{since_file} {problem}.")
