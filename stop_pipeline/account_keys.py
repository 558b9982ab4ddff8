"""Names of the SMS Partner accounts, and where the API key of each is found: in a variable, or in a private file."""

import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stop_pipeline.errors import ConfigurationError

DEFAULT_ACCOUNT = "main"

_ACCOUNT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NAME_RULE = "made of lower-case letters, digits and underscores, starting with a letter"
_RIGHTS_OF_OTHERS = 0o077


def account_names(text: str, given_by: str = "SMSPARTNER_ACCOUNTS") -> tuple[str, ...]:
    """Split a comma-separated list of account names, given by a variable or an option, keeping its order.

    Raises:
        ConfigurationError: A name is empty, repeated, or unsafe in a path.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name, count in Counter(names).items():
        if not _ACCOUNT_NAME.fullmatch(name):
            raise ConfigurationError(
                f"{given_by} holds “{name}”: an account name is {_NAME_RULE}; separate with commas."
            )
        if count > 1:
            raise ConfigurationError(f"{given_by} names “{name}” more than once.")
    return names


def key_variable(account: str) -> str:
    """Return the name of the environment variable that holds the API key of `account`."""
    return "SMSPARTNER_API_KEY" if account == DEFAULT_ACCOUNT else f"SMSPARTNER_API_KEY_{account.upper()}"


def api_keys(
    accounts: Iterable[str], accounts_file: Path | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the API key of each account that has one, from `accounts_file` if there is one, else from its variable.

    Raises:
        ConfigurationError: The file is refused.
    """
    by_variable = {account: environ.get(key_variable(account), "").strip() for account in accounts}
    keys = read_keys(accounts_file) if accounts_file else by_variable
    return {account: keys[account] for account in by_variable if keys.get(account)}


def api_key(account: str, accounts_file: Path | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the API key of one account, as `api_keys` does.

    Raises:
        ConfigurationError: The account has no API key, or the file is refused.
    """
    keys = api_keys([account], accounts_file, environ)
    if account not in keys:
        raise missing_key(account, accounts_file)
    return keys[account]


def missing_key(account: str, accounts_file: Path | None = None) -> ConfigurationError:
    """Return the error for an account without an API key, where keys are in variables or in `accounts_file`."""
    if accounts_file is not None:
        return ConfigurationError(
            f"SMSPARTNER_ACCOUNTS_FILE: {accounts_file} has no API key for the account “{account}”: add the key shown "
            "in that SMS Partner account."
        )
    return ConfigurationError(
        f"{key_variable(account)} is not set: set it to the API key shown in the SMS Partner account “{account}”, or "
        "try “stop-pipeline demo”, which needs none."
    )


def read_keys(file: Path) -> dict[str, str]:
    """Read a TOML file with a table `accounts` of names and keys; an account with an empty key has none.

    Raises:
        ConfigurationError: Others can read the file, or its content is wrong. The message repeats nothing that the file
            holds, not even a name: someone who swaps the two sides of a line has written a key there.
    """
    keys: Any = None
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_mode & _RIGHTS_OF_OTHERS:
                problem = f"can be read by others than its owner: run chmod 600 {file}"
            else:
                keys = tomllib.load(opened).get("accounts")
                problem = _problem_of(keys)
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


def _problem_of(keys: Any) -> str:
    if not isinstance(keys, dict) or not keys:
        return 'needs a table [accounts] with one line per account, such as lyon = "its API key"'
    for number, (name, key) in enumerate(keys.items(), 1):
        if not _ACCOUNT_NAME.fullmatch(name):
            return f"has a name, number {number}, that is not {_NAME_RULE}"
        if not isinstance(key, str):
            return f"has a key, number {number}, that is not in quotes"
    return ""
