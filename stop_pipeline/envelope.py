"""What SMS Partner says around the rows: success, code, message, and the error that they mean.

What belongs here: the provider's codes and the reading of a small error document, JSON or XML. What does not: rows
(`snapshot`) and transport (`client`). Source: the provider's page "List of stops" and its general table of codes.
"""

import json
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from stop_pipeline.errors import AccessRefusedError, ApiError, KeyRefusedError, TransientApiError, excerpt
from stop_pipeline.model import Format

_MAX_CODE_DIGITS = 6
"""The provider's codes have three; a number beyond this is no code, and would flood the message."""
_MAX_COUNT_DIGITS = 18


@dataclass(frozen=True)
class _Meaning:
    """What a code or a status stands for, as “SMS Partner `says` (details): `remedy`.”."""

    error: type[ApiError]
    says: str
    remedy: str


_KEY_REFUSED = _Meaning(
    KeyRefusedError, "does not accept the API key", "compare the API key with the one that your account there shows"
)
_FAILED = _Meaning(TransientApiError, "failed on its side", "nothing was changed; a later tick may succeed")

_BY_CODE = {
    1: _Meaning(KeyRefusedError, "got no API key", "set the API key to the one that your account there shows"),
    10: _KEY_REFUSED,
    20: _Meaning(AccessRefusedError, "has disabled this account", "ask SMS Partner to enable it again"),
    30: _Meaning(AccessRefusedError, "has blocked this account", "ask SMS Partner why, and to unblock it"),
    40: _Meaning(AccessRefusedError, "denies this account access", "ask SMS Partner to allow it to list its stops"),
    90: _Meaning(AccessRefusedError, "calls the request malformed", "look for a newer version of stop_pipeline"),
    96: _Meaning(
        AccessRefusedError,
        "does not allow this machine's IP address",
        "add the address to those that your account there allows",
    ),
    500: _FAILED,
}

ERROR_CODES = frozenset(_BY_CODE)
"""Every code that means that there is no list, whatever `success` says."""

_BY_STATUS = {
    401: _KEY_REFUSED,
    403: _Meaning(AccessRefusedError, "denies access", "ask SMS Partner which addresses and calls the account may use"),
    404: _Meaning(AccessRefusedError, "knows no such page", "check the base URL (SMSPARTNER_BASE_URL)"),
    408: _FAILED,
    425: _FAILED,
    429: _Meaning(TransientApiError, "was asked too often", "nothing was changed; let ticks come further apart"),
}

_UNKNOWN = _Meaning(AccessRefusedError, "refused the request", "ask SMS Partner what that means")
"""A refusal nobody has documented goes to a person: taken for a passing one it would be retried, unread, for ever."""


@dataclass(frozen=True)
class Envelope:
    """`success`, `code` and `message` of an answer; None where it does not give one of the right type."""

    success: bool | None
    code: int | None
    message: str | None

    @property
    def refused(self) -> bool:
        """Whether it says that there is no list: `refusal` tells why."""
        return self.success is False or self.code in ERROR_CODES


def read_envelope(body: bytes, answer_format: Format) -> Envelope | None:
    """The envelope of a small whole document; None if it is no such document. Never raises."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return None
    envelope = _from_xml(text) if answer_format == "xml" else _from_json(text)
    if envelope is None or (envelope.success is None and envelope.code is None):
        return None
    return envelope


def refusal(envelope: Envelope, *, status: int | None = None) -> ApiError:
    """The error that an answer without a list means, by its code and, failing that, its HTTP status.

    A documented code goes before the status: nobody says which status it comes with. An unknown code under an
    unknown status is an `AccessRefusedError`, so that a person reads it.
    """
    meaning = _by_code(envelope.code) or _by_status(status)
    details = [
        *([f"HTTP {status}"] if status not in (None, 200) else []),
        *([f"code {envelope.code}"] if envelope.code is not None else []),
        *([f"“{message}”"] if (message := excerpt(envelope.message or "")) else []),
    ]
    return meaning.error(f"SMS Partner {meaning.says} ({', '.join(details) or 'without a reason'}): {meaning.remedy}.")


def _by_code(code: int | None) -> _Meaning | None:
    return None if code is None else _BY_CODE.get(code)


def _by_status(status: int | None) -> _Meaning:
    if status is None:
        return _UNKNOWN
    return _BY_STATUS.get(status, _FAILED if status >= 500 else _UNKNOWN)  # noqa: PLR2004 – as HTTP defines them


def _from_json(text: str) -> Envelope | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):  # ValueError also for a number of more than 4300 digits
        return None
    if not isinstance(document, dict):
        return None
    success, message = document.get("success"), document.get("message")
    return Envelope(
        success=success if isinstance(success, bool) else None,
        code=whole_code(document.get("code")),
        message=message if isinstance(message, str) else None,
    )


def _from_xml(text: str) -> Envelope | None:
    """By position, as documented: success, code, then a message (or, with rows, `nbData`)."""
    try:
        root = fromstring(text, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    if root.tag != "result":
        return None
    entries = [(entry.text or "").strip() for entry in root.findall("entry")[:3]]
    success, code, message = entries + [""] * (3 - len(entries))
    return Envelope(success={"true": True, "false": False}.get(success), code=whole_code(code), message=message or None)


def whole_code(value: Any) -> int | None:
    """A code: the provider writes it as a number, or as a string of its digits; None for anything else."""
    return _whole_number(value, _MAX_CODE_DIGITS)


def whole_count(value: Any) -> int | None:
    """`nbData`, likewise."""
    return _whole_number(value, _MAX_COUNT_DIGITS)


def _whole_number(value: Any, max_digits: int) -> int | None:
    digits = str(value) if type(value) is int else value
    if isinstance(digits, str) and digits.isascii() and digits.isdigit() and len(digits) <= max_digits:
        return int(digits)
    return None
