"""What the commands `lookup`, `changes` and `export` do: answers as text, lists as files for other tools."""

import dataclasses
import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from stop_pipeline.errors import CampaignError, ConfigurationError, StoreError
from stop_pipeline.schema import ACCOUNT
from stop_pipeline.settings import PROVIDER_TIMEZONE
from stop_pipeline.table.changes import Changes, find_changes
from stop_pipeline.table.current_list import current_list
from stop_pipeline.table.files import LocalFiles
from stop_pipeline.table.lookup import AccountLookup, Evidence, Lookup, OptOut
from stop_pipeline.times import parse_moment

_PARIS = ZoneInfo(PROVIDER_TIMEZONE)
_CSV_TIME = "%Y-%m-%dT%H:%M:%SZ"


def lookup_as_text(found: Lookup) -> str:
    """The answer to `lookup` for a person, with times in Paris and UTC."""
    when = "now" if found.on is None else f"as known at {_both(found.on)}"
    verdict = "may be texted" if found.may_be_texted else "must not be texted"
    lines = [f"{found.number} {verdict} ({when})."]
    for account in found.accounts:
        lines += _account_lines(account, found.on)
    lines += [f"It is on the list of the account {name}, which was not asked for." for name in found.other_accounts]
    return "\n".join(lines)


def lookup_as_json(found: Lookup) -> str:
    """The answer to `lookup` as a JSON document, times in ISO 8601 (UTC)."""
    return json.dumps(dataclasses.asdict(found), indent=2, default=datetime.isoformat, ensure_ascii=False)


def write_changes(
    out: Path,
    *,
    since: str | None,
    since_file: Path | None,
    until: str | None,
    root: str,
    account: str | None,
    max_age: timedelta,
) -> Changes:
    """Write the changes to a file, then the time where the next ones begin to `since_file`.

    Killed in between, the next call gives the same changes again: rows may come twice, but none is lost.

    Raises:
        CampaignError: the file exists or cannot be written.
        ConfigurationError: neither time is given, or `since_file` holds none.
        StoreError: `since_file` cannot be written.
        ValueError, OutdatedListError: as in `changes.read_changes`.
    """
    begin = since or _read_cursor(since_file)
    changes = find_changes(begin, until, root, account, max_age)
    _write_table(changes.rows, out, root)
    if since_file is not None:
        _write_cursor(since_file, changes.until)
    return changes


def export_list(out: Path, *, root: str, account: str | None, max_age: timedelta) -> tuple[int, datetime]:
    """Write the suppression list of all accounts, or of one, with one row per number.

    The columns are those of `schema.SUPPRESSION_LIST`; of a number on several lists, the earliest and latest opt-out.

    Returns:
        How many numbers there are, and when the list was last complete (UTC; of several accounts, the earliest time).

    Raises:
        OutdatedListError: as in `current_list`.
        CampaignError: the file exists or cannot be written.
    """
    current = current_list(root, account, max_age=max_age)
    numbers = current.numbers.drop(columns=ACCOUNT.name).groupby("phone_number", as_index=False)
    rows = numbers.agg(
        {"first_stop_at": "min", "last_stop_at": "max", "stop_count": "sum", "origin": "min"}
    )  # “found in text” < “listed” < “rejected row”
    _write_table(rows, out, root)
    return len(rows), current.verified_at


def _account_lines(answer: AccountLookup, on: datetime | None) -> list[str]:
    verified = "never" if answer.verified_at is None else _both(answer.verified_at)
    listed = "not on the list" if answer.may_be_texted else "on the list"
    lines = [f"{answer.account}: {listed}; the list was last complete at {verified}."]
    for opt_out in answer.opt_outs:
        lines += _opt_out_lines(opt_out, on)
    return lines


def _opt_out_lines(opt_out: OptOut, on: datetime | None) -> list[str]:
    made = "at an unknown time" if opt_out.created_at is None else f"at {_both(opt_out.created_at)}"
    unknown = " (not known yet at the time asked for)" if on and opt_out.first_seen.fetched_at > on else ""
    last = "unknown while removals are withheld" if opt_out.last_listed is None else _shown(opt_out.last_listed)
    lines = [
        f"  opted out {made}, {opt_out.origin}{unknown}",
        f"    first seen in the response of {_shown(opt_out.first_seen)}",
        f"    last listed in the response of {last}",
    ]
    if opt_out.removed_at is not None:
        lines.append(f"    left the list by {_both(opt_out.removed_at)}")
    return lines


def _shown(evidence: Evidence) -> str:
    return f"{_both(evidence.fetched_at)}, SHA-256 {evidence.sha256 or 'not recorded'}"


def _both(time: datetime) -> str:
    return f"{time.astimezone(_PARIS):%Y-%m-%d %H:%M:%S} Paris ({time:%Y-%m-%d %H:%M:%S} UTC)"


def _write_table(rows: pd.DataFrame, out: Path, root: str) -> None:
    """Write a DataFrame as Parquet or CSV, by the name of the file; it appears complete, for its owner only."""
    if out.exists():
        raise CampaignError(f"{out} exists already: name a file that does not.")
    if LocalFiles(Path(root)).encloses(LocalFiles(out)):
        raise CampaignError(f"{out} is inside the data root {root}: name a file outside it.")
    temporary = out.with_name(f".{out.name}.tmp")
    problem = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            if out.suffix == ".parquet":
                rows.to_parquet(file, index=False)
            else:
                rows.to_csv(file, index=False, date_format=_CSV_TIME, lineterminator="\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        problem = error.strerror
    if problem is not None:
        raise CampaignError(f"Cannot write {out}: {problem}. Nothing was left there.")


def _read_cursor(since_file: Path | None) -> str:
    problem: Any = "is needed, or --since"
    if since_file is not None:
        try:
            text = since_file.read_text(encoding="utf-8").strip()
            parse_moment(text)
        except FileNotFoundError:
            problem = "does not exist yet: give --since the first time"
        except (OSError, ValueError):
            problem = "does not hold the time that this command writes there: give --since"
        else:
            return text
    raise ConfigurationError(f"--since-file {since_file or ''} {problem}.")


def _write_cursor(since_file: Path, until: datetime) -> None:
    temporary = since_file.with_name(f".{since_file.name}.tmp")
    try:
        temporary.write_text(f"{until.isoformat()}\n", encoding="utf-8")
        temporary.replace(since_file)
    except OSError as error:
        problem = str(error.strerror)
    else:
        return
    raise StoreError(f"Cannot write {since_file}: {problem}. The next call gives the same changes again.")
