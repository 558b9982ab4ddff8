"""The errors that this package raises on purpose, and what keeps secrets and phone numbers out of messages and logs.

There is a class for each error that callers, the command or the alerts tell apart. A message is one or two plain
sentences: what was expected, what came, what to do. It never holds an API key or a phone number: text from outside goes
through `redact` and `excerpt` first. The command ends with an error's exit code.
"""

import html
import json
import logging
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

WRONG_CLOCK = (
    "as is every response before that time: check this machine's clock. If it was ahead then, restore the data root "
    "from a backup made before."
)
"""How a sentence about a response that is left out, for not being later than the last one, goes on."""

_URLLIB3_LOGGERS = ("urllib3.connection", "urllib3.connectionpool", "urllib3.response", "urllib3.util.retry")


class StopPipelineError(Exception):
    """Base class of every error that this package raises on purpose."""

    exit_code = 1


class ConfigurationError(StopPipelineError):
    """A setting is missing or wrong; the message names the variable."""

    exit_code = 2


class InputError(StopPipelineError, ValueError):
    """What a person asked for cannot be read or makes no sense: a phone number, a time, the name of a file."""

    exit_code = 2


class ApiError(StopPipelineError):
    """SMS Partner did not return a list."""


class KeyRefusedError(ApiError):
    """The API key is missing or unknown to SMS Partner (codes 1 and 10, HTTP 401)."""


class TransientApiError(ApiError):
    """SMS Partner could not be reached or failed on its side; a later sync may succeed."""


class UnreadableResponseError(ApiError):
    """The response is truncated, too large, or not a list."""


class ForeignListError(StopPipelineError):
    """The list has nothing in common with the table: it probably belongs to another account."""


class StoreError(StopPipelineError):
    """The data root cannot be read or written."""


class OutdatedListError(StopPipelineError):
    """The suppression list is missing, or too old to check a campaign against."""

    exit_code = 3


class CampaignError(StopPipelineError):
    """A campaign file cannot be read, or a file of results cannot be written."""


def secret_forms(key: str) -> tuple[str, ...]:
    """Return the spellings of `key` in a text: as it is, in a URL, in HTML or JSON, and as `excerpt` masks them."""
    in_url = [key, quote(key), quote(key, safe=""), quote_plus(key)]
    in_url += [re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), form) for form in in_url]
    in_json, in_headers = json.dumps(key)[1:-1], key.encode().decode("latin-1")  # as http.client reads them
    forms = [*in_url, in_headers, html.escape(key), html.escape(key, quote=False), in_json, in_json.replace("/", r"\/")]
    return tuple(dict.fromkeys(forms + [re.sub(r"\d", "•", form) for form in forms]))


def unexpected(error: Exception) -> str:
    """Say what an error is that nobody expected, and where; without its text, which could hold a key or a number."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames[:-1] if Path(frame.filename).is_relative_to(Path(__file__).parent)]
    places = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*own, *frames[-1:]))
    return (
        f"Unexpected error ({type(error).__name__}) at {places}: report this to the maintainers of stop_pipeline. Its "
        "text is not shown, because it could hold a phone number."
    )


def counted(count: int, what: str) -> str:
    """A number and its noun: “1 row”, “2,000 rows”."""
    return f"{count:,} {what}" + "s" * (count != 1)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with every occurrence of every secret replaced by `[redacted]`."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "[redacted]")
    return text


def excerpt(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the start of a text from outside, fit for a message: at most 80 characters, one line, digits masked.

    Secrets are redacted before the text is cut: half a key would not be found.
    """
    text = redact(text, secrets)
    line = re.sub(r"\s+", " ", "".join(char if char.isprintable() else " " for char in text)).strip()
    return re.sub(r"\d", "•", line[:80])


@contextmanager
def redacted_logs(secrets: Iterable[str]) -> Iterator[None]:
    """Remove secrets from urllib3's log records, which hold paths and whatever a server echoes of a request."""

    def redacted(record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), secrets), None
        record.exc_info = record.exc_text = None
        return True

    with ExitStack() as stack:
        for name in _URLLIB3_LOGGERS:  # each of them, because a parent's filter does not see their records
            logger = logging.getLogger(name)
            logger.addFilter(redacted)
            stack.callback(logger.removeFilter, redacted)
        yield
