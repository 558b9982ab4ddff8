"""Keeps a secret that travels in a URL (an API key, a webhook's address) out of logs and messages."""

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import quote, quote_plus

from stop_pipeline.errors import redact

_URLLIB3_LOGGERS = ("urllib3.connection", "urllib3.connectionpool", "urllib3.response", "urllib3.util.retry")


def secret_forms(key: str) -> tuple[str, ...]:
    """Return the spellings of `key` that a text can hold: raw, percent-encoded, and as `errors.excerpt` masks them."""
    forms = (key, quote(key), quote(key, safe=""), quote_plus(key))
    return tuple(dict.fromkeys(forms + tuple(re.sub(r"\d", "•", form) for form in forms)))


@contextmanager
def redacted_logs(secrets: tuple[str, ...]) -> Iterator[None]:
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
