"""The environment, read once into typed settings.

What belongs here: every variable that this package reads, its default, and the sentence that refuses a wrong value.
What does not: API keys, which are known here by the names of their variables only. The address of the webhook is a
secret as well: whoever knows it can post to it. It is kept out of `repr` and of every message.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
PROVIDER_TIMEZONE = "Europe/Paris"
"""`createdAt` has no zone; everything else that this provider shows is French time."""

_ACCOUNT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WHOLE_DAYS = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True)
class Settings:
    """What the environment says, checked.

    Attributes:
        accounts: Names of the SMS Partner accounts, in the order given.
        base_url: Of the API, without a trailing slash.
        answer_format: Which of its two formats to ask for.
        timezone: IANA name of the zone that `createdAt` is read in.
        data_root: Folder (or URI) below which everything is stored, as given.
        cron: When the schedule ticks, in Europe/Paris.
        raw_days: For how many days an answer is kept as received, once a newer one is committed.
        alert_webhook: Where alerts are posted; None for nowhere.
    """

    accounts: tuple[str, ...] = (DEFAULT_ACCOUNT,)
    base_url: str = DEFAULT_BASE_URL
    answer_format: Format = "json"
    timezone: str = PROVIDER_TIMEZONE
    data_root: str = DEFAULT_DATA_ROOT
    cron: str = DEFAULT_CRON
    raw_days: int = DEFAULT_RAW_DAYS
    alert_webhook: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read and check every variable; an empty one counts as unset.

        Raises:
            ConfigurationError: a value is wrong; the message names its variable.
        """

        def value(name: str, default: str) -> str:
            return environ.get(name, "").strip() or default

        return cls(
            accounts=_accounts(value("SMSPARTNER_ACCOUNTS", DEFAULT_ACCOUNT)),
            base_url=_base_url(value("SMSPARTNER_BASE_URL", DEFAULT_BASE_URL)),
            answer_format=_answer_format(value("SMSPARTNER_FORMAT", "json")),
            timezone=_timezone(value("SMSPARTNER_TIMEZONE", PROVIDER_TIMEZONE)),
            data_root=_data_root(value("STOP_PIPELINE_DATA", DEFAULT_DATA_ROOT)),
            cron=value("STOP_PIPELINE_CRON", DEFAULT_CRON),
            raw_days=_raw_days(value("STOP_PIPELINE_RAW_DAYS", str(DEFAULT_RAW_DAYS))),
            alert_webhook=_alert_webhook(value("STOP_PIPELINE_ALERT_WEBHOOK", "")),
        )


def key_variable(account: str) -> str:
    """Name of the variable that holds the API key of `account`."""
    return "SMSPARTNER_API_KEY" if account == DEFAULT_ACCOUNT else f"SMSPARTNER_API_KEY_{account.upper()}"


def missing_key(account: str) -> ConfigurationError:
    """The error of an account that has no API key."""
    return ConfigurationError(
        f"{key_variable(account)} is not set: set it to the API key of the account “{account}”, which its SMS Partner "
        "page shows, or try “stop-pipeline demo”, which needs none."
    )


def _accounts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not _ACCOUNT_NAME.fullmatch(name):
            raise ConfigurationError(
                f"SMSPARTNER_ACCOUNTS holds the name “{name}”: a name is lower-case letters, digits and underscores, "
                "a letter first, with commas between names."
            )
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"SMSPARTNER_ACCOUNTS names “{name}” more than once.")
    return names


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


def _raw_days(text: str) -> int:
    if not _WHOLE_DAYS.fullmatch(text) or int(text) < 1:
        raise ConfigurationError(f"STOP_PIPELINE_RAW_DAYS is “{text}”: it must be a whole number from 1 to 999999.")
    return int(text)
