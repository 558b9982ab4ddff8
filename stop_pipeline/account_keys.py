"""Names of the SMS Partner accounts, and where the API key of each is found: in a variable, or in a private file."""

import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from stop_pipeline.errors import ConfigurationError

DEFAULT_ACCOUNT = "main"

_ACCOUNT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NAME_RULE = "made of lower-case letters, digits and underscores, starting with a letter"
_RIGHTS_OF_OTHERS = 0o077


def account_names(text: str, given_by: str = "SMSPARTNER_ACCOUNTS") -> tuple[str, ...]:
    """Split a comma-separated list of account names, keeping its order.

    Args:
        text: The names.
        given_by: Variable or option that holds the names, for the error message.

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


def api_key(account: str, accounts_file: Path | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the API key of an account, without surrounding white space.

    Args:
        account: Account name.
        accounts_file: File that holds the keys; None if they are in variables.
        environ: The environment.

    Raises:
        ConfigurationError: The account has no API key, or the file is refused.
    """
    if accounts_file is None:
        key = environ.get(key_variable(account), "").strip()
    else:
        key = read_keys(accounts_file).get(account, "")
    if not key:
        raise missing_key(account, accounts_file)
    return key


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
    """Read the API key of each account, in the order of the file; an empty key means that the account has none.

    Args:
        file: TOML file with a table `accounts` of names and keys, readable by its owner only.

    Raises:
        ConfigurationError: Others can read the file, or its content is wrong. The message repeats nothing that the file
            holds, not even a name: someone who swaps the two sides of a line has written a key there.
    """
    text = _read_private(file)
    refused = ""
    try:
        keys = tomllib.loads(text).get("accounts")
    except ValueError as error:
        # Only the position is taken from the error: the rest may quote the file.
        place = re.search(r"at line \d+", str(error))
        refused = f"is not a TOML file that names each account once: look {place[0] if place else 'at its end'}"
    if refused:
        raise _refused_file(file, refused)
    if not isinstance(keys, dict) or not keys:
        raise _refused_file(file, 'needs a table [accounts] with one line per account, such as lyon = "its API key"')
    for number, (name, key) in enumerate(keys.items(), 1):
        if not _ACCOUNT_NAME.fullmatch(name):
            raise _refused_file(file, f"has a name, number {number}, that is not {_NAME_RULE}")
        if not isinstance(key, str):
            raise _refused_file(file, f"has a key, number {number}, that is not in quotes")
    return {name: key.strip() for name, key in keys.items()}


def _read_private(file: Path) -> str:
    """Return the text of a file that nobody but its owner may read."""
    try:
        with file.open(encoding="utf-8") as opened:
            # The open file is asked: nobody can exchange it in between.
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
