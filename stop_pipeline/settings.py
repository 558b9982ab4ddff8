"""The environment, read once into typed settings.

What belongs here: every variable that this package reads, its default, and the sentence that refuses a wrong value; and
where an account's API key is to be found. What does not: the keys themselves, which `Settings` never holds. The address
of the webhook is a secret as well, for whoever knows it can post to it: it is kept out of `repr` and of every message.
"""

import ipaddress
import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stop_pipeline.errors import ConfigurationError
from stop_pipeline.model import Format
from stop_pipeline.roots import checked_uri, is_remote

DEFAULT_ACCOUNT = "main"
DEFAULT_BASE_URL = "https://api.smspartner.fr/v1"
DEFAULT_CRON = "*/15 * * * *"
DEFAULT_DATA_ROOT = "data"
DEFAULT_RAW_DAYS = 30
DEFAULT_HISTORY_DAYS = 90
PROVIDER_TIMEZONE = "Europe/Paris"
"""`createdAt` has no zone; everything else that this provider shows is French time."""

_ACCOUNT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_A_NAME = "lower-case letters, digits and underscores, a letter first"
_WHOLE_NUMBER = re.compile(r"[0-9]{1,6}")
_RIGHTS_OF_OTHERS = 0o077


@dataclass(frozen=True)
class Settings:
    """What the environment says, checked.

    Attributes:
        accounts: Names of the SMS Partner accounts, in the order given.
        accounts_file: The file that names them and holds their keys, absolute; None if variables do.
        accounts_per_run: How many of several accounts one run ticks.
        base_url: Of the API, without a trailing slash.
        answer_format: Which of its two formats to ask for.
        timezone: IANA name of the zone that `createdAt` is read in.
        data_root: Folder (or URI) below which everything is stored, as given.
        cron: When the schedule ticks, in Europe/Paris.
        raw_days: For how many days an answer is kept as received, once a newer one is committed.
        history_days: For how many days Dagster remembers a run.
        alert_webhook: Where alerts are posted; None for nowhere.
    """

    accounts: tuple[str, ...] = (DEFAULT_ACCOUNT,)
    accounts_file: Path | None = None
    accounts_per_run: int = 1
    base_url: str = DEFAULT_BASE_URL
    answer_format: Format = "json"
    timezone: str = PROVIDER_TIMEZONE
    data_root: str = DEFAULT_DATA_ROOT
    cron: str = DEFAULT_CRON
    raw_days: int = DEFAULT_RAW_DAYS
    history_days: int = DEFAULT_HISTORY_DAYS
    alert_webhook: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read and check every variable; an empty one counts as unset.

        Raises:
            ConfigurationError: a value is wrong; the message names its variable.
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
        accounts_file = Path(file).absolute() if file else None
        return cls(
            accounts=tuple(read_keys(accounts_file)) if accounts_file else account_names(names or DEFAULT_ACCOUNT),
            accounts_file=accounts_file,
            accounts_per_run=whole_number("STOP_PIPELINE_ACCOUNTS_PER_RUN", 1),
            base_url=_base_url(value("SMSPARTNER_BASE_URL", DEFAULT_BASE_URL)),
            answer_format=_answer_format(value("SMSPARTNER_FORMAT", "json")),
            timezone=_timezone(value("SMSPARTNER_TIMEZONE", PROVIDER_TIMEZONE)),
            data_root=_data_root(value("STOP_PIPELINE_DATA", DEFAULT_DATA_ROOT)),
            cron=value("STOP_PIPELINE_CRON", DEFAULT_CRON),
            raw_days=whole_number("STOP_PIPELINE_RAW_DAYS", DEFAULT_RAW_DAYS),
            history_days=whole_number("STOP_PIPELINE_HISTORY_DAYS", DEFAULT_HISTORY_DAYS),
            alert_webhook=_alert_webhook(value("STOP_PIPELINE_ALERT_WEBHOOK", "")),
        )

    def accounts_by_run(self) -> list[tuple[str, ...]]:
        """The accounts as runs tick them: neighbours, as many as STOP_PIPELINE_ACCOUNTS_PER_RUN says."""
        size = self.accounts_per_run
        return [self.accounts[at : at + size] for at in range(0, len(self.accounts), size)]

    def accounts_with_key(self, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
        """The accounts that have an API key at this moment.

        Raises:
            ConfigurationError: the file that holds the keys is refused.
        """
        if self.accounts_file is None:
            return tuple(account for account in self.accounts if environ.get(key_variable(account)))
        keys = read_keys(self.accounts_file)
        return tuple(account for account in self.accounts if keys.get(account))


def read_keys(file: Path) -> dict[str, str]:
    """The API key of each account by its name, in the order of the file; an empty key counts as none.

    Args:
        file: TOML, whose table `accounts` gives each account's name its key; readable by its owner only.

    Raises:
        ConfigurationError: others may read it, or it is no such file. The message holds nothing that stands in it,
            not even as a name: who swaps the two sides of a line has written a key there.
    """
    text = _read_private(file)
    refused = ""
    try:
        keys = tomllib.loads(text).get("accounts")
    except ValueError as error:
        # Of the error its place only: the rest may quote the file.
        place = re.search(r"at line \d+", str(error))
        refused = f"is no TOML that names each account once: look {place[0] if place else 'at its end'}"
    if refused:
        raise _refused_file(file, refused)
    if not isinstance(keys, dict) or not keys:
        raise _refused_file(file, 'needs a table [accounts] with a line such as lyon = "its API key" for each account')
    for number, (name, key) in enumerate(keys.items(), 1):
        if not _ACCOUNT_NAME.fullmatch(name):
            raise _refused_file(file, f"has a name, its number {number}, that is not {_A_NAME}")
        if not isinstance(key, str):
            raise _refused_file(file, f"has a key, its number {number}, that is not in quotes")
    return keys


def _read_private(file: Path) -> str:
    """The text of a file that nobody but its owner may read."""
    try:
        with file.open(encoding="utf-8") as opened:
            # Asked of the open file, which nobody can exchange in between.
            private = not os.fstat(opened.fileno()).st_mode & _RIGHTS_OF_OTHERS
            text = opened.read() if private else ""
        refused = "" if private else f"can be read by others than its owner: run chmod 600 {file}"
    except OSError as error:
        refused = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        refused = "is not in UTF-8"
    if refused:
        raise _refused_file(file, refused)
    return text


def _refused_file(file: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"SMSPARTNER_ACCOUNTS_FILE: {file} {reason}.")


def account_names(text: str, given_by: str = "SMSPARTNER_ACCOUNTS") -> tuple[str, ...]:
    """The names in a text, between commas, in its order.

    Args:
        text: The names.
        given_by: The variable or option that the text is of, for the sentence that refuses it.

    Raises:
        ConfigurationError: a name is empty, unsafe in a path, or there twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name, count in Counter(names).items():
        if not _ACCOUNT_NAME.fullmatch(name):
            raise ConfigurationError(
                f"{given_by} holds the name “{name}”, which is not {_A_NAME}; commas stand between names."
            )
        if count > 1:
            raise ConfigurationError(f"{given_by} names “{name}” more than once.")
    return names


def key_variable(account: str) -> str:
    """Name of the variable that holds the API key of `account`."""
    return "SMSPARTNER_API_KEY" if account == DEFAULT_ACCOUNT else f"SMSPARTNER_API_KEY_{account.upper()}"


def missing_key(account: str, accounts_file: Path | None = None) -> ConfigurationError:
    """The error of an account that has no API key, where keys are in variables or in that file."""
    if accounts_file is not None:
        return ConfigurationError(
            f"SMSPARTNER_ACCOUNTS_FILE: {accounts_file} has no API key for the account “{account}”, which its SMS "
            "Partner page shows."
        )
    return ConfigurationError(
        f"{key_variable(account)} is not set: set it to the API key of the account “{account}”, which its SMS Partner "
        "page shows, or try “stop-pipeline demo”, which needs none."
    )


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError("SMSPARTNER_BASE_URL must not hold credentials, a query or a fragment.")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"SMSPARTNER_BASE_URL is not an https:// address; its default is {DEFAULT_BASE_URL}.")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ConfigurationError(
            f"SMSPARTNER_BASE_URL would send the API key to {parts.hostname} unencrypted: use https:// "
            "(http:// is for a loopback address only)."
        )
    return text.rstrip("/")


def _alert_webhook(text: str) -> str | None:
    if not text:
        return None
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    safe = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
    if not safe or not parts.hostname:
        raise ConfigurationError(
            "STOP_PIPELINE_ALERT_WEBHOOK is no https:// address (http:// is for a loopback address only). It is not "
            "shown here, since whoever knows it can post to it."
        )
    return text


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _answer_format(text: str) -> Format:
    if text not in ("json", "xml"):
        raise ConfigurationError(f"SMSPARTNER_FORMAT is “{text}”: it can be json or xml.")
    return cast(Format, text)


def _timezone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = False
    else:
        known = True
    if not known:
        raise ConfigurationError(f"SMSPARTNER_TIMEZONE is “{text}”, which is no IANA time zone such as Europe/Paris.")
    return text


def _data_root(text: str) -> str:
    return checked_uri(text) if is_remote(text) else text


def _whole_number(variable: str, text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text) or int(text) < 1:
        raise ConfigurationError(f"{variable} is “{text}”: it must be a whole number from 1 to 999999.")
    return int(text)
