"""The environment variables, read once into typed settings: each variable, its default, and what it accepts.

`Settings` never holds an API key (see `account_keys`). The address of the webhook is a secret as well, since whoever
knows it can post to it: it is left out of `repr` and of every message.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal, cast
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stop_pipeline.account_keys import DEFAULT_ACCOUNT, account_names, key_variable, read_keys
from stop_pipeline.errors import ConfigurationError
from stop_pipeline.storage_uri import checked_uri, is_remote

Format = Literal["json", "xml"]
"""The two formats that SMS Partner can respond in."""

DEFAULT_BASE_URL = "https://api.smspartner.fr/v1"
DEFAULT_CRON = "*/15 * * * *"
DEFAULT_DATA_ROOT = "data"
DEFAULT_RAW_DAYS = 30
DEFAULT_HISTORY_DAYS = 14
DEFAULT_ALERT_AFTER = "2h"
PROVIDER_TIMEZONE = "Europe/Paris"
"""`createdAt` has no zone; everything else that this provider shows is French time."""

_WHOLE_NUMBER = re.compile(r"[0-9]{1,6}")
_AGE = re.compile(r"([0-9]{1,6})([mhd])")
_AGE_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_BREAKS_SQLITE_URL = re.compile(r"\?|%[0-9A-Fa-f]{2}")


@dataclass(frozen=True)
class Settings:
    """The settings that the environment gives, checked.

    Attributes:
        accounts: Names of the SMS Partner accounts, in the order given.
        accounts_file: Absolute path of the file that holds their names and keys; None if variables hold them.
        accounts_per_run: How many accounts one run syncs.
        base_url: Address of the API, without a trailing slash.
        response_format: Format to request.
        timezone: IANA name of the time zone of `createdAt`.
        data_root: Folder or URI of the data root; relative to the working directory unless absolute.
        cron: When the schedule runs, in Europe/Paris.
        raw_days: How many days a response is kept as received, once a newer one is committed.
        history_days: How many days Dagster remembers a run.
        alert_webhook: Address that alerts are posted to; None for none.
        alert_after: How long an account may go without a successful sync before an alert says so.
    """

    accounts: tuple[str, ...] = (DEFAULT_ACCOUNT,)
    accounts_file: Path | None = None
    accounts_per_run: int = 1
    base_url: str = DEFAULT_BASE_URL
    response_format: Format = "json"
    timezone: str = PROVIDER_TIMEZONE
    data_root: str = DEFAULT_DATA_ROOT
    cron: str = DEFAULT_CRON
    raw_days: int = DEFAULT_RAW_DAYS
    history_days: int = DEFAULT_HISTORY_DAYS
    alert_webhook: str | None = field(default=None, repr=False)
    alert_after: timedelta = timedelta(hours=2)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read and check every variable; an empty one counts as not set.

        Raises:
            ConfigurationError: A value is wrong; the message names its variable.
        """

        def value(name: str, default: str) -> str:
            return environ.get(name, "").strip() or default

        def whole_number(name: str, default: int) -> int:
            return _whole_number(name, value(name, str(default)))

        names, file = value("SMSPARTNER_ACCOUNTS", ""), value("SMSPARTNER_ACCOUNTS_FILE", "")
        if names and file:
            raise ConfigurationError(
                "SMSPARTNER_ACCOUNTS and SMSPARTNER_ACCOUNTS_FILE are both set: name the accounts in one of them."
            )
        accounts_file = Path(_expanded("SMSPARTNER_ACCOUNTS_FILE", file)).absolute() if file else None
        return cls(
            accounts=tuple(read_keys(accounts_file)) if accounts_file else account_names(names or DEFAULT_ACCOUNT),
            accounts_file=accounts_file,
            accounts_per_run=whole_number("STOP_PIPELINE_ACCOUNTS_PER_RUN", 1),
            base_url=_base_url(value("SMSPARTNER_BASE_URL", DEFAULT_BASE_URL)),
            response_format=_response_format(value("SMSPARTNER_FORMAT", "json")),
            timezone=_timezone(value("SMSPARTNER_TIMEZONE", PROVIDER_TIMEZONE)),
            data_root=_data_root(value("STOP_PIPELINE_DATA", DEFAULT_DATA_ROOT)),
            cron=value("STOP_PIPELINE_CRON", DEFAULT_CRON),
            raw_days=whole_number("STOP_PIPELINE_RAW_DAYS", DEFAULT_RAW_DAYS),
            history_days=whole_number("STOP_PIPELINE_HISTORY_DAYS", DEFAULT_HISTORY_DAYS),
            alert_webhook=_alert_webhook(value("STOP_PIPELINE_ALERT_WEBHOOK", "")),
            alert_after=_alert_after(value("STOP_PIPELINE_ALERT_AFTER", DEFAULT_ALERT_AFTER)),
        )

    def accounts_by_run(self) -> list[tuple[str, ...]]:
        """Group the accounts into runs: neighbours, as many as STOP_PIPELINE_ACCOUNTS_PER_RUN says."""
        size = self.accounts_per_run
        return [self.accounts[at : at + size] for at in range(0, len(self.accounts), size)]

    def accounts_with_key(self, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
        """Return the accounts that have an API key at this moment.

        Raises:
            ConfigurationError: The file that holds the keys is refused.
        """
        if self.accounts_file is None:
            return tuple(account for account in self.accounts if environ.get(key_variable(account), "").strip())
        keys = read_keys(self.accounts_file)
        return tuple(account for account in self.accounts if keys.get(account))


def parse_age(text: str) -> timedelta:
    """Return the length of time that a text such as “90m”, “24h” or “2d” stands for.

    Raises:
        ValueError: The text is not of that form.
    """
    parts = _AGE.fullmatch(text.strip())
    if parts is None:
        raise ValueError(f"“{text}” is not an age: write a number followed by m, h or d, such as 90m, 24h or 2d.")
    return timedelta(**{_AGE_UNITS[parts[2]]: int(parts[1])})


def dagster_home(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder that DAGSTER_HOME names, with `~` expanded; None if the variable is not set.

    Raises:
        ConfigurationError: DAGSTER_HOME starts with the name of a user that this machine does not have.
    """
    home = environ.get("DAGSTER_HOME", "").strip()
    return Path(_expanded("DAGSTER_HOME", home)) if home else None


def check_dagster_home(home: Path) -> None:
    """Refuse a folder in which Dagster could not open its database.

    Dagster writes the path into a SQLite URL unescaped, where “?” starts the query and a percent code is decoded.

    Raises:
        ConfigurationError: The absolute path of `home` holds one of them.
    """
    if _BREAKS_SQLITE_URL.search(str(home.absolute())):
        raise ConfigurationError(
            f"Dagster cannot keep its database in {home.absolute()}, because the path holds a “?” or a percent code "
            "such as “%20”: set DAGSTER_HOME to a folder whose path has neither."
        )


def _expanded(variable: str, path: str) -> str:
    """Expand a leading `~` or `~user`."""
    expanded = os.path.expanduser(path)  # noqa: PTH111 – Path.expanduser raises an untyped error for an unknown user
    if expanded.startswith("~"):
        raise ConfigurationError(
            f"{variable} is “{path}”, but this machine has no such user: write the path without “~”, or as “./{path}” "
            "if a folder has that name."
        )
    return expanded


def _data_root(text: str) -> str:
    return checked_uri(text) if is_remote(text) else _expanded("STOP_PIPELINE_DATA", text)


def _base_url(text: str) -> str:
    parts = _split_url(text)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError("SMSPARTNER_BASE_URL must not hold credentials, a query or a fragment.")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"SMSPARTNER_BASE_URL is not an https:// address; the default is {DEFAULT_BASE_URL}.")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ConfigurationError(
            f"SMSPARTNER_BASE_URL would send the API key to {parts.hostname} unencrypted: use https:// "
            "(http:// is for a loopback address only)."
        )
    return text.rstrip("/")


def _alert_webhook(text: str) -> str | None:
    if not text:
        return None
    parts = _split_url(text)
    safe = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
    if not safe or not parts.hostname:
        raise ConfigurationError(
            "STOP_PIPELINE_ALERT_WEBHOOK is not an https:// address (http:// is for a loopback address only). It is "
            "not shown here, because whoever knows it can post to it."
        )
    return text


def _split_url(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:
        return urlsplit("")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _response_format(text: str) -> Format:
    if text not in ("json", "xml"):
        raise ConfigurationError(f"SMSPARTNER_FORMAT is “{text}”: it must be json or xml.")
    return cast(Format, text)


def _timezone(text: str) -> str:
    try:
        ZoneInfo(text)  # from the system, else from the package `tzdata`
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = False
    else:
        known = True
    if not known:
        raise ConfigurationError(f"SMSPARTNER_TIMEZONE is “{text}”, which is not an IANA time zone like Europe/Paris.")
    return text


def _alert_after(text: str) -> timedelta:
    try:
        age = parse_age(text)
    except ValueError:
        age = timedelta(0)
    if not age:
        raise ConfigurationError(f"STOP_PIPELINE_ALERT_AFTER is “{text}”: it must be an age such as 90m, 2h or 1d.")
    return age


def _whole_number(variable: str, text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text) or int(text) < 1:
        raise ConfigurationError(f"{variable} is “{text}”: it must be a whole number from 1 to 999999.")
    return int(text)
