"""The environment variables: read once into typed settings, and the API keys, read where they are needed.

What is wrong with a value is a `ConfigurationError`, whose message names the variable. `Settings` never holds an API
key. The address of the webhook is a secret as well, since whoever knows it can post to it: it is left out of `repr` and
of every message.
"""

import os
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_type_hints
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from stop_pipeline.errors import ConfigurationError, InputError

Format = Literal["json", "xml"]
"""The two formats that SMS Partner can respond in."""

DEFAULT_ACCOUNT = "main"
PROVIDER_TIMEZONE = "Europe/Paris"
"""`createdAt` has no zone; everything else that this provider shows is French time."""

_Value = TypeVar("_Value")
_ACCOUNT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NAME_RULE = "made of lower-case letters, digits and underscores, starting with a letter"
_AGE = re.compile(r"0*([0-9]{1,6})([mhd])")
_AGE_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_SAFE_URL = re.compile(
    r"https://([^/?#]*@)?\[?\w|http://(localhost|\[::1\]|127(\.[0-9]{1,3}){3})(:[0-9]+)?([/?#]|$)", re.IGNORECASE
)
_BUCKET_NAME = r"[\w.-]+"
_BUCKET_URI = re.compile(rf"((s3|gs)://{_BUCKET_NAME}|abfs://{_BUCKET_NAME}@{_BUCKET_NAME})(/[^/?#]+)*/*")
# Written in another way when the URI is used: two spellings of one prefix would have a lock each.
_REWRITTEN = re.compile(r"%[0-9A-Fa-f]{2}|/\.{1,2}(/|$)|[\x00-\x1f\x7f]| (/|$)")


def account_names(text: str, given_by: str = "SMSPARTNER_ACCOUNTS") -> tuple[str, ...]:
    """Split a comma-separated list of account names, given by a variable or an option, keeping its order.

    A name that is empty, repeated, or unsafe in a path is refused, and not shown: it may be a key in the wrong place.
    """
    names = tuple(name.strip() for name in text.split(","))
    for number, name in enumerate(names, 1):
        if not _ACCOUNT_NAME.fullmatch(name) or names.count(name) > 1:
            rule = f"name each account once, separated by commas; a name is {_NAME_RULE}"
            raise ConfigurationError(f"{given_by} is wrong at name {number}: {rule}.")
    return names


def parse_age(text: str) -> timedelta:
    """Return the length of time that a text such as “90m”, “24h” or “2d” stands for; an InputError says it is none."""
    parts = _AGE.fullmatch(text.strip())
    if parts is None:
        raise InputError(f"“{text}” is not an age: write a number followed by m, h or d, such as 90m, 24h or 2d.")
    return int(parts[1]) * _AGE_UNITS[parts[2]]


def age_as_text(age: timedelta) -> str:
    """Return a length of time as a person reads it: “90 min” or “24 h”."""
    minutes = age / timedelta(minutes=1)
    return f"{minutes:g} min" if minutes % 60 else f"{minutes / 60:,.0f} h"


def is_remote(root: str | Path) -> bool:
    """Return whether a data root is a prefix in a bucket, given as a URI, rather than a folder."""
    return "://" in str(root)


def checked_uri(root: str) -> str:
    """Return the URI of a remote data root without a trailing slash, if it is a bucket and a prefix alone.

    The message of a refusal does not repeat the URI, because it may hold a credential.
    """
    if not _BUCKET_URI.fullmatch(root) or _REWRITTEN.search(root):
        raise ConfigurationError(
            "STOP_PIPELINE_DATA is a URI that cannot be a data root: use a folder, s3://bucket/prefix, "
            "gs://bucket/prefix or abfs://container@account.dfs.core.windows.net/prefix. Credentials and endpoint go "
            "into the provider's own variables, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL."
        )
    return root.rstrip("/")


def home_folder() -> Path:
    """The home folder of this user; a ConfigurationError says that there is none."""
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigurationError(
            "This user has no home folder, for locks and Dagster's history: set HOME to a folder."
        ) from None


def expanded(text: str) -> str:
    """A path with “~” replaced; a ValueError says, after the name of a variable, that it cannot be."""
    path = os.path.expanduser(text)  # noqa: PTH111 – Path.expanduser takes “./~” for the home folder as well
    if path.startswith("~"):
        raise ValueError(f"is “{text}”, but this machine has no such user: write it without “~”, or as “./{text}”")
    return path


def _absolute(text: str) -> Path:
    return Path(expanded(text)).absolute()


def _data_root(text: str) -> str:
    return checked_uri(text) if is_remote(text) else expanded(text)


def _url(text: str) -> str:
    with suppress(ValueError):  # its message would repeat the address, which may hold a secret
        if _SAFE_URL.match(text) and urlsplit(text).hostname:
            return text
    raise ValueError("is not an https:// address (http:// is for a loopback address only)")


def _base_url(text: str) -> str:
    if set(text) & set("@?#"):
        raise ValueError("must not hold credentials, a query or a fragment")
    return _url(text).rstrip("/")


def _must_be(what: str, is_right: Callable[[str], object], make: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """A function that reads a value from text; its ValueError says what the text must be."""

    def read(text: str) -> _Value:
        if not is_right(text):
            raise ValueError(f"is “{text}”: it must be {what}")
        return make(text)

    return read


_format = _must_be("json or xml", get_args(Format).__contains__, str)
_timezone = _must_be("an IANA time zone like Europe/Paris", lambda text: text in available_timezones(), str)
_alert_after = _must_be("an age such as 90m, 2h or 1d", re.compile("0*[1-9][0-9]{0,5}[mhd]").fullmatch, parse_age)
_whole_number = _must_be("a whole number from 1 to 999999", re.compile("0*[1-9][0-9]{0,5}").fullmatch, int)


@dataclass(frozen=True)
class Settings:
    """The settings that the environment gives, each with its variable and what reads the variable's text."""

    # In the order given, by this variable or by the file.
    accounts: Annotated[tuple[str, ...], "SMSPARTNER_ACCOUNTS", account_names] = (DEFAULT_ACCOUNT,)
    # Holds the names and keys of the accounts; None if variables do.
    accounts_file: Annotated[Path | None, "SMSPARTNER_ACCOUNTS_FILE", _absolute] = None
    accounts_per_run: Annotated[int, "STOP_PIPELINE_ACCOUNTS_PER_RUN", _whole_number] = 1
    base_url: Annotated[str, "SMSPARTNER_BASE_URL", _base_url] = "https://api.smspartner.fr/v1"  # no trailing slash
    response_format: Annotated[Format, "SMSPARTNER_FORMAT", _format] = "json"  # to request
    timezone: Annotated[str, "SMSPARTNER_TIMEZONE", _timezone] = PROVIDER_TIMEZONE  # of `createdAt`, an IANA name
    # A folder, relative to the working directory unless absolute, or a URI.
    data_root: Annotated[str, "STOP_PIPELINE_DATA", _data_root] = "data"
    cron: Annotated[str, "STOP_PIPELINE_CRON", str] = "*/15 * * * *"  # when the schedule runs, in Europe/Paris
    # How long a response is kept as received, once a newer one is committed.
    raw_days: Annotated[int, "STOP_PIPELINE_RAW_DAYS", _whole_number] = 30
    history_days: Annotated[int, "STOP_PIPELINE_HISTORY_DAYS", _whole_number] = 14  # how long Dagster remembers a run
    # Address that alerts are posted to.
    alert_webhook: Annotated[str | None, "STOP_PIPELINE_ALERT_WEBHOOK", _url] = field(default=None, repr=False)
    # How long an account may go without a complete list.
    alert_after: Annotated[timedelta, "STOP_PIPELINE_ALERT_AFTER", _alert_after] = timedelta(hours=2)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read and check every variable; an empty one counts as not set."""
        hints = get_type_hints(cls, include_extras=True)
        given: dict[str, Any] = {name: _read(environ, *hint.__metadata__) for name, hint in hints.items()}
        given["accounts"] = named_accounts(environ)
        return cls(**{name: value for name, value in given.items() if value})

    def accounts_by_run(self) -> list[tuple[str, ...]]:
        """Group the accounts into runs: neighbours, as many as STOP_PIPELINE_ACCOUNTS_PER_RUN says."""
        size = self.accounts_per_run
        return [self.accounts[at : at + size] for at in range(0, len(self.accounts), size)]

    def forget_runs_before(self, now: datetime) -> datetime:
        """Return the time before which Dagster's runs are to be forgotten."""
        return now - timedelta(days=min(self.history_days, 365_000))  # more would lead out of the calendar

    def accounts_with_key(self, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
        """Return the accounts that have an API key at this moment."""
        return tuple(api_keys(self.accounts, self.accounts_file, environ))


def data_root() -> str:
    """The folder or URI that STOP_PIPELINE_DATA names, by default `data`."""
    return _read(os.environ, "STOP_PIPELINE_DATA", _data_root) or Settings.data_root


def named_accounts(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The accounts that the environment names, by either variable; none if it names none."""
    names = _read(environ, "SMSPARTNER_ACCOUNTS", account_names)
    file = _read(environ, "SMSPARTNER_ACCOUNTS_FILE", _absolute)
    if names and file:
        raise ConfigurationError(
            "SMSPARTNER_ACCOUNTS and SMSPARTNER_ACCOUNTS_FILE are both set: name the accounts in one of them."
        )
    return tuple(read_keys(file)) if file else names or ()


def key_variable(account: str) -> str:
    """Return the name of the environment variable that holds the API key of `account`."""
    return "SMSPARTNER_API_KEY" if account == DEFAULT_ACCOUNT else f"SMSPARTNER_API_KEY_{account.upper()}"


def api_keys(
    accounts: Sequence[str], accounts_file: Path | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the API key of each account that has one, from `accounts_file` if there is one, else from its variable."""
    in_variables = {account: environ.get(key_variable(account), "").strip() for account in accounts}
    keys = read_keys(accounts_file) if accounts_file else in_variables
    return {account: keys[account] for account in accounts if keys.get(account)}


def api_key(account: str, accounts_file: Path | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the API key of one account, as `api_keys` does; a ConfigurationError says that it has none."""
    if key := api_keys([account], accounts_file, environ).get(account):
        return key
    problem = f"{key_variable(account)} is not set"
    if accounts_file is not None:
        problem = f"SMSPARTNER_ACCOUNTS_FILE: {accounts_file} has no API key for the account “{account}”"
    advice = f"set the key shown in the SMS Partner account “{account}”, or try “stop-pipeline demo”, which needs none"
    raise ConfigurationError(f"{problem}: {advice}.")


def read_keys(file: Path) -> dict[str, str]:
    """Read a TOML file with a table `accounts` of names and keys; an account with an empty key has none.

    A file that others can read is refused. A message repeats nothing that the file holds, not even a name: someone who
    swaps the two sides of a line has written a key there.
    """
    keys: Any = None
    try:
        with file.open("rb") as opened:
            others_can_read = os.fstat(opened.fileno()).st_mode & 0o077
            # Editors on Windows write a byte order mark.
            keys = tomllib.loads(opened.read().decode("utf-8-sig")).get("accounts")
        problem = _problem_of(keys)
        if others_can_read:
            problem = f"can be read by others than its owner: run chmod 600 {shlex.quote(str(file))}"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is not in UTF-8"
    except ValueError as error:
        place = re.search(r"at line \d+", str(error))  # nothing else, because it may quote the file
        problem = f"is not a TOML file that names each account once: look {place[0] if place else 'at its end'}"
    if problem:
        raise ConfigurationError(f"SMSPARTNER_ACCOUNTS_FILE: {file} {problem}.")
    return {name: key.strip() for name, key in keys.items()}


def dagster_home(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder that DAGSTER_HOME names, with `~` expanded; None if the variable is not set."""
    return _read(environ, "DAGSTER_HOME", lambda text: Path(expanded(text)))


def _problem_of(keys: Any) -> str:
    if not isinstance(keys, dict) or not keys:
        return 'needs a table [accounts] with one line per account, such as lyon = "its API key"'
    for number, (name, key) in enumerate(keys.items(), 1):
        if not _ACCOUNT_NAME.fullmatch(name):
            return f"has a name, number {number}, that is not {_NAME_RULE}"
        if not isinstance(key, str):
            return f"has a key, number {number}, that is not in quotes"
    return ""


def _read(environ: Mapping[str, str], variable: str, parse: Callable[[str], _Value]) -> _Value | None:
    """The value of a variable; None if it is not set. The message of a ValueError follows the variable's name."""
    text = environ.get(variable, "").strip()
    try:
        return parse(text) if text else None
    except ValueError as error:
        raise ConfigurationError(f"{variable} {error}.") from error
