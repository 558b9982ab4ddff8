"""What surrounds the rows of a response (success, code, message), and the error that it stands for.

Source: the provider's page "List of stops" and its general table of codes.
"""

import json
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from stop_pipeline.errors import AccessRefusedError, ApiError, KeyRefusedError, TransientApiError, excerpt

_MAX_CODE_DIGITS = 6
"""The provider's codes have three digits; a much longer number is not a code, and would flood the message."""
_MAX_COUNT_DIGITS = 18


@dataclass(frozen=True)
class Envelope:
    """`success`, `code` and `message` of a response; None where a value is missing or of the wrong type."""

    success: bool | None
    code: int | None
    message: str | None

    @property
    def refused(self) -> bool:
        """Whether the response says that it holds no list; `refusal` gives the error."""
        return self.success is False or self.code in ERROR_CODES


@dataclass(frozen=True)
class _Meaning:
    """What a code or a status means; the message is “SMS Partner `says` (details): `remedy`.”."""

    error: type[ApiError]
    says: str
    remedy: str


_KEY_REFUSED = _Meaning(
    KeyRefusedError, "does not accept the API key", "compare it with the key shown in your SMS Partner account"
)
_FAILED = _Meaning(TransientApiError, "failed on its side", "nothing was changed, and a later sync may succeed")

_BY_CODE = {
    1: _Meaning(KeyRefusedError, "received no API key", "set it to the key shown in your SMS Partner account"),
    10: _KEY_REFUSED,
    20: _Meaning(AccessRefusedError, "has disabled this account", "ask SMS Partner to enable it again"),
    30: _Meaning(AccessRefusedError, "has blocked this account", "ask SMS Partner why, and to unblock it"),
    40: _Meaning(AccessRefusedError, "denies this account access", "ask SMS Partner to let it list its stops"),
    90: _Meaning(AccessRefusedError, "calls the request malformed", "look for a newer version of stop_pipeline"),
    96: _Meaning(
        AccessRefusedError,
        "does not allow this machine's IP address",
        "allow it in your SMS Partner account",
    ),
    500: _FAILED,
}

ERROR_CODES = frozenset(_BY_CODE)
"""Every code that means that there is no list, whatever `success` says."""

_BY_STATUS = {
    401: _KEY_REFUSED,
    403: _Meaning(AccessRefusedError, "denies access", "ask SMS Partner which addresses and calls the account may use"),
    404: _Meaning(AccessRefusedError, "does not know this page", "check the base URL (SMSPARTNER_BASE_URL)"),
    408: _FAILED,
    425: _FAILED,
    429: _Meaning(TransientApiError, "was asked too often", "nothing was changed; sync less often"),
}

_UNKNOWN = _Meaning(AccessRefusedError, "refused the request", "ask SMS Partner what that means")
"""An undocumented refusal goes to a person: treated as transient, it would be retried for ever without being read."""


def read_envelope(body: bytes) -> Envelope | None:
    """Read the envelope of a small document; None if it has none. Never raises.

    The provider does not say that an error comes in the format that was requested, so JSON and XML are both tried. Nor
    does an error have to be in UTF-8: what matters is ASCII, and a letter of the message that is lost does no harm.
    """
    text = _decoded(body)
    envelope = _from_json(text) or _from_xml(text)
    return None if envelope is None or (envelope.success is None and envelope.code is None) else envelope


def refusal(envelope: Envelope, *, status: int | None = None) -> ApiError:
    """Return the error that a response without a list stands for.

    A documented code decides, because nobody documents which HTTP status it comes with; then the status. An unknown
    code under an unknown status is an `AccessRefusedError`, so that a person reads it.

    Args:
        envelope: Envelope of the response.
        status: HTTP status of the response, if it matters.
    """
    meaning = _BY_CODE.get(envelope.code or 0) or _by_status(status)
    details = [
        *([f"HTTP {status}"] if status not in (None, 200) else []),
        *([f"code {envelope.code}"] if envelope.code is not None else []),
        *([f"“{message}”"] if (message := excerpt(envelope.message or "")) else []),
    ]
    return meaning.error(f"SMS Partner {meaning.says} ({', '.join(details) or 'without a reason'}): {meaning.remedy}.")


def whole_code(value: Any) -> int | None:
    """Return a code, which the provider writes as a number or as a string of its digits; None for anything else."""
    return _whole_number(value, _MAX_CODE_DIGITS)


def whole_count(value: Any) -> int | None:
    """Return the count `nbData`, which is written in the same way as a code."""
    return _whole_number(value, _MAX_COUNT_DIGITS)


def _whole_number(value: Any, max_digits: int) -> int | None:
    digits = str(value) if type(value) is int and value < 10**max_digits else value
    if isinstance(digits, str) and digits.isascii() and digits.isdigit() and len(digits) <= max_digits:
        return int(digits)
    return None


def _by_status(status: int | None) -> _Meaning:
    if status is None:
        return _UNKNOWN
    return _BY_STATUS.get(status, _FAILED if status >= 500 else _UNKNOWN)  # noqa: PLR2004 – defined by HTTP


def _decoded(body: bytes) -> str:
    """Decode as UTF-8, UTF-16 or UTF-32, whichever the first bytes show, or else as Western European."""
    try:
        return body.decode(json.detect_encoding(body)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return body.decode("cp1252", "replace")


def _from_json(text: str) -> Envelope | None:
    """Read the first object in the text: PHP may print a notice before or after it."""
    try:
        document, _ = json.JSONDecoder().raw_decode(text, text.find("{"))
    except (ValueError, RecursionError):  # ValueError also for a number of more than 4300 digits
        return None
    success, message = document.get("success"), document.get("message")
    return Envelope(
        success=success if isinstance(success, bool) else None,
        code=whole_code(document.get("code")),
        message=message if isinstance(message, str) else None,
    )


def _from_xml(text: str) -> Envelope | None:
    """Read by position, as documented: success, code, then a message (or `nbData` before rows)."""
    try:
        root = fromstring(text, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    if root.tag != "result":
        return None
    entries = [(entry.text or "").strip() for entry in root.findall("entry")[:3]]
    success, code, message = entries + [""] * (3 - len(entries))
    return Envelope(success={"true": True, "false": False}.get(success), code=whole_code(code), message=message or None)
