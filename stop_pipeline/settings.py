"""The environment variables, read once into typed settings: each variable, its default, and what it accepts.

`Settings` never holds an API key (see `account_keys`). The address of the webhook is a secret as well, since whoever
knows it can post to it: it is left out of `repr` and of every message.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args
from zoneinfo import available_timezones

from stop_pipeline.account_keys import DEFAULT_ACCOUNT, account_names, api_keys, read_keys
from stop_pipeline.errors import ConfigurationError
from stop_pipeline.storage_uri import checked_uri, is_remote

Format = Literal["json", "xml"]
"""The two formats that SMS Partner can respond in."""

DEFAULT_DATA_ROOT = "data"
PROVIDER_TIMEZONE = "Europe/Paris"
"""`createdAt` has no zone; everything else that this provider shows is French time."""

_AGE = re.compile(r"([0-9]{1,6})([mhd])")
_AGE_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_SAFE_URL = re.compile(
    r"https://([^/?#]*@)?\[?\w|http://(localhost|\[::1\]|127(\.[0-9]{1,3}){3})(:[0-9]+)?([/?#]|$)", re.IGNORECASE
)
_BREAKS_SQLITE_URL = re.compile(r"\?|%[0-9A-Fa-f]{2}")


@dataclass(frozen=True)
class Settings:
    """The settings that the environment gives, checked.

    Attributes:
        accounts: Names of the SMS Partner accounts, in the order given.
        accounts_file: Path of the file that holds their names and keys; None if variables hold them.
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
    base_url: str = "https://api.smspartner.fr/v1"
    response_format: Format = "json"
    timezone: str = PROVIDER_TIMEZONE
    data_root: str = DEFAULT_DATA_ROOT
    cron: str = "*/15 * * * *"
    raw_days: int = 30
    history_days: int = 14
    alert_webhook: str | None = field(default=None, repr=False)
    alert_after: timedelta = timedelta(hours=2)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read and check every variable; an empty one counts as not set.

        Raises:
            ConfigurationError: A value is wrong; the message names its variable.
        """
        names = _read(environ, "SMSPARTNER_ACCOUNTS", account_names, None)
        file = _read(environ, "SMSPARTNER_ACCOUNTS_FILE", lambda text: Path(_expanded(text)).absolute(), None)
        if names and file:
            raise ConfigurationError(
                "SMSPARTNER_ACCOUNTS and SMSPARTNER_ACCOUNTS_FILE are both set: name the accounts in one of them."
            )
        return cls(
            accounts=tuple(read_keys(file)) if file else names or cls.accounts,
            accounts_file=file,
            accounts_per_run=_read(environ, "STOP_PIPELINE_ACCOUNTS_PER_RUN", _whole_number, cls.accounts_per_run),
            base_url=_read(environ, "SMSPARTNER_BASE_URL", _base_url, cls.base_url),
            response_format=_read(environ, "SMSPARTNER_FORMAT", _format, cls.response_format),
            timezone=_read(environ, "SMSPARTNER_TIMEZONE", _timezone, cls.timezone),
            data_root=_read(environ, "STOP_PIPELINE_DATA", _data_root, cls.data_root),
            cron=_read(environ, "STOP_PIPELINE_CRON", str, cls.cron),
            raw_days=_read(environ, "STOP_PIPELINE_RAW_DAYS", _whole_number, cls.raw_days),
            history_days=_read(environ, "STOP_PIPELINE_HISTORY_DAYS", _whole_number, cls.history_days),
            alert_webhook=_read(environ, "STOP_PIPELINE_ALERT_WEBHOOK", _url, None),
            alert_after=_read(environ, "STOP_PIPELINE_ALERT_AFTER", _alert_after, cls.alert_after),
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
        return tuple(api_keys(self.accounts, self.accounts_file, environ))


def parse_age(text: str) -> timedelta:
    """Return the length of time that a text such as “90m”, “24h” or “2d” stands for.

    Raises:
        ValueError: The text is not of that form.
    """
    parts = _AGE.fullmatch(text.strip())
    if parts is None:
        raise ValueError(f"“{text}” is not an age: write a number followed by m, h or d, such as 90m, 24h or 2d.")
    return int(parts[1]) * _AGE_UNITS[parts[2]]


def dagster_home(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder that DAGSTER_HOME names, with `~` expanded; None if the variable is not set.

    Raises:
        ConfigurationError: DAGSTER_HOME starts with the name of a user that this machine does not have.
    """
    home: Path | None = _read(environ, "DAGSTER_HOME", lambda text: Path(_expanded(text)), None)
    return home


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


def _read(environ: Mapping[str, str], variable: str, parse: Callable[[str], Any], default: Any) -> Any:
    """The value of a variable, or `default`. What a parser raises follows the name of the variable in the message."""
    text = environ.get(variable, "").strip()
    try:
        return parse(text) if text else default
    except ValueError as error:
        raise ConfigurationError(f"{variable} {error}.") from error


def _expanded(text: str) -> str:
    path = os.path.expanduser(text)  # noqa: PTH111 – Path.expanduser raises an untyped error for an unknown user
    if path.startswith("~"):
        raise ValueError(
            f"is “{text}”, but this machine has no such user: write the path without “~”, or as “./{text}” if a folder "
            "has that name"
        )
    return path


def _data_root(text: str) -> str:
    return checked_uri(text) if is_remote(text) else _expanded(text)


def _url(text: str) -> str:
    if not _SAFE_URL.match(text):  # not repeated in the message, because it may hold a secret
        raise ValueError("is not an https:// address (http:// is for a loopback address only)")
    return text


def _base_url(text: str) -> str:
    if set(text) & set("@?#"):
        raise ValueError("must not hold credentials, a query or a fragment")
    return _url(text).rstrip("/")


def _format(text: str) -> str:
    if text not in get_args(Format):
        raise ValueError(f"is “{text}”: it must be json or xml")
    return text


def _timezone(text: str) -> str:
    if text not in available_timezones():  # of the system, or of the package `tzdata`
        raise ValueError(f"is “{text}”, which is not an IANA time zone like Europe/Paris")
    return text


def _alert_after(text: str) -> timedelta:
    age = parse_age(text) if _AGE.fullmatch(text) else timedelta(0)
    if not age:
        raise ValueError(f"is “{text}”: it must be an age such as 90m, 2h or 1d")
    return age


def _whole_number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) == 0:
        raise ValueError(f"is “{text}”: it must be a whole number from 1 to 999999")
    return int(text)
