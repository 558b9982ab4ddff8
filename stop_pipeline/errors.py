"""Every way a tick, or the split of a campaign, can fail, one class each.

What belongs here: the exceptions that callers, the command and the alerts tell apart. What does not: deciding when to
raise them. A message is one plain sentence (what was expected, what came, what to do) and never holds an API key or a
phone number; text that came from outside passes through `excerpt` first.
"""

import re
from collections.abc import Iterable

EXCERPT_LENGTH = 80


class StopPipelineError(Exception):
    """Base of every error that this package raises on purpose."""

    def redacted(self, secrets: Iterable[str]) -> "StopPipelineError":
        """The same error with each of `secrets` struck out of its message, and without cause or context."""
        return type(self)(redact(str(self), secrets))


class ConfigurationError(StopPipelineError):
    """A setting is missing or wrong; the message names the variable."""


class ApiError(StopPipelineError):
    """SMS Partner gave no list."""


class KeyRefusedError(ApiError):
    """The API key is missing or unknown to SMS Partner (codes 1 and 10)."""


class AccessRefusedError(ApiError):
    """SMS Partner refuses this account, address or request for good (codes 20, 30, 40, 90, 96)."""


class TransientApiError(ApiError):
    """SMS Partner could not be reached or failed on its side; a later tick may succeed."""


class UnexpectedRedirectError(ApiError):
    """The API answered with a redirect, which is not followed: it would carry the key along."""


class UnreadableAnswerError(ApiError):
    """The answer is cut, too large, or no such document."""


class ClockError(ApiError):
    """The server's `Date` and this machine's clock are too far apart to date an opt-out."""


class ForeignListError(StopPipelineError):
    """The list shares nothing with the table: it is likely another account's."""


class AlertError(StopPipelineError):
    """The webhook did not take an alert."""


class StoreError(StopPipelineError):
    """The data root cannot be read or written."""


class SchemaVersionError(StoreError):
    """The data root was written by a version of this package that this one cannot read."""


class UnfitListError(StopPipelineError):
    """The suppression list is missing, behind its commit, or too old to hold a campaign against."""


class CampaignError(StopPipelineError):
    """A campaign cannot be read, or its parts cannot be written."""


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with every occurrence of each secret replaced, whatever stands around it."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "[redacted]")
    return text


def excerpt(text: str) -> str:
    """The start of a text from outside, fit for a message: 80 characters at most, on one line, its digits masked."""
    line = re.sub(r"\s+", " ", "".join(char if char.isprintable() else " " for char in text)).strip()
    return re.sub(r"\d", "•", line[:EXCERPT_LENGTH])
