"""What surrounds the rows of a response (success, code, message), and the error that it stands for.

Source: the provider's page "List of stops" and its general table of codes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from stop_pipeline.errors import ApiError, KeyRefusedError, TransientApiError, excerpt


@dataclass(frozen=True)
class Envelope:
    """`success`, `code` and `message` of a response; None where a value is missing or of the wrong type."""

    success: bool | None = None
    code: int | None = None
    message: str | None = None

    @property
    def refused(self) -> bool:
        """Whether the response says that it holds no list; `refusal` gives the error."""
        return self.success is False or self.code in ERROR_CODES


@dataclass(frozen=True)
class Document:
    """A whole response, parsed."""

    envelope: Envelope = field(default=Envelope())
    nb_data: int | None = None  # rows that it announces; None if it has no number
    rows: list[Any] | None = None  # as the parser gives them; None if it has no list
    problem: str | None = None  # why it is not a list, as a part of a sentence


# What a code or a status means: an error whose message is “SMS Partner … (details): ….”, with these two phrases.
_KEY_REFUSED = (
    KeyRefusedError,
    "does not accept the API key",
    "compare it with the key shown in your SMS Partner account",
)
_FAILED = (TransientApiError, "failed on its side", "nothing was changed, and a later sync may succeed")
_UNKNOWN = (ApiError, "refused the request", "ask SMS Partner what that means")
"""An undocumented refusal goes to a person: treated as transient, it would be retried for ever without being read."""

_BY_CODE: dict[int, tuple[type[ApiError], str, str]] = {
    1: (KeyRefusedError, "received no API key", "set it to the key shown in your SMS Partner account"),
    10: _KEY_REFUSED,
    20: (ApiError, "has disabled this account", "ask SMS Partner to enable it again"),
    30: (ApiError, "has blocked this account", "ask SMS Partner why, and to unblock it"),
    40: (ApiError, "denies this account access", "ask SMS Partner to let it list its stops"),
    90: (ApiError, "says that the request is malformed", "look for a newer version of stop_pipeline"),
    96: (ApiError, "does not allow this machine's IP address", "allow it in your SMS Partner account"),
    500: _FAILED,
}
_BY_STATUS: dict[int, tuple[type[ApiError], str, str]] = {
    401: _KEY_REFUSED,
    403: (ApiError, "denies access", "ask SMS Partner which addresses and calls the account may use"),
    404: (ApiError, "has no such page", "check the base URL (SMSPARTNER_BASE_URL)"),
    407: (ApiError, "was not reached, because the proxy asks for a password", "check HTTPS_PROXY"),
    408: _FAILED,
    425: _FAILED,
    429: (TransientApiError, "was asked too often", "nothing was changed; sync less often"),
    **dict.fromkeys(range(500, 600), _FAILED),
    511: (TransientApiError, "was not reached, because this network asks for a log-in", "log in to it first"),
}
MAX_CODE_DIGITS = 6  # a code has three; a much longer number is none, and would flood the message
ERROR_CODES = frozenset(_BY_CODE)
"""Every code that means that there is no list, whatever `success` says."""


def read_envelope(body: bytes) -> Envelope | None:
    """Read the envelope of a small document; None if it has none. Never raises.

    The provider does not say that an error comes in the format that was requested, so JSON and XML are both tried. Nor
    does an error have to be in UTF-8: what matters is ASCII, and a letter of the message that is lost does no harm.
    """
    try:
        text = body.decode(json.detect_encoding(body)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        text = body.decode("cp1252", "replace")
    envelope = _from_json(text) or _from_xml(text)
    return None if envelope is None or (envelope.success is None and envelope.code is None) else envelope


def refusal(envelope: Envelope, *, status: int | None = None, secrets: Iterable[str] = ()) -> ApiError:
    """Return the error that a response without a list stands for; its message holds none of the `secrets`.

    A documented code decides, because nobody documents which HTTP status it comes with; then the status, if it matters.
    An unknown code under an unknown status is a permanent error, so that a person reads it.
    """
    error, says, remedy = _BY_CODE.get(envelope.code or 0) or _BY_STATUS.get(status or 0, _UNKNOWN)
    message = excerpt(envelope.message or "", secrets)
    details = [
        f"HTTP {status}" if status not in (None, 200) else "",
        f"code {envelope.code}" if envelope.code is not None else "",
        f"“{message}”" if message else "",
    ]
    return error(f"SMS Partner {says} ({', '.join(filter(None, details)) or 'without a reason'}): {remedy}.")


def envelope_of_object(document: Mapping[str, Any]) -> Envelope:
    """What a JSON document says about itself."""
    success, message = document.get("success"), document.get("message")
    return Envelope(
        success=success if isinstance(success, bool) else None,
        code=whole_count(document.get("code"), MAX_CODE_DIGITS),
        message=message if isinstance(message, str) else None,
    )


def envelope_of_entries(texts: Sequence[str]) -> Envelope:
    """What an XML document says, by position: success, code, then a message (a list has `nbData` there)."""
    success, code, message, *_ = [*(text.strip() for text in texts), "", "", ""]
    return Envelope({"true": True, "false": False}.get(success), whole_count(code, MAX_CODE_DIGITS), message or None)


def whole_count(value: Any, max_digits: int = 18) -> int | None:
    """Return a whole number, which the provider writes as a number or as its digits; None for anything else."""
    digits = str(value) if type(value) is int and value < 10**max_digits else value
    if isinstance(digits, str) and digits.isascii() and digits.isdigit() and len(digits) <= max_digits:
        return int(digits)
    return None


def _from_json(text: str) -> Envelope | None:
    """Read the first object in the text: PHP may print a notice before or after it."""
    try:
        document, _ = json.JSONDecoder().raw_decode(text, text.find("{"))
    except (ValueError, RecursionError):  # ValueError also for a number of more than 4300 digits
        return None
    return envelope_of_object(document)


def _from_xml(text: str) -> Envelope | None:
    try:
        root = fromstring(text.lstrip(), forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    return envelope_of_entries([entry.text or "" for entry in root.findall("entry")] if root.tag == "result" else [])
