"""One HTTP request: the whole STOP list as a file on disk, or a typed error that says why not.

The response is judged here by its status, its headers and, if it is short, by what it says; its rows are not read.
"""

import email.utils
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from urllib3 import HTTPResponse
from urllib3.exceptions import DecodeError, HTTPError, MaxRetryError, ReadTimeoutError, SSLError

from stop_pipeline.errors import (
    ApiError,
    StopPipelineError,
    StoreError,
    TransientApiError,
    UnreadableResponseError,
    redact,
    redacted_logs,
    secret_forms,
)
from stop_pipeline.settings import Format
from stop_pipeline.smspartner.envelope import Envelope, read_envelope, refusal
from stop_pipeline.smspartner.transport import Deadline, failure_reason, open_session

log = logging.getLogger(__name__)

MAX_CLOCK_DIFFERENCE = timedelta(minutes=10)
MAX_ENVELOPE_BYTES = 64 * 1024
"""A refusal is a hundred bytes long; a much larger document is either a list or not worth reading."""

_CHUNK_BYTES = 64 * 1024
_LOGGED_BYTES = 20_000_000
_UNHARMED = "nothing was changed, and a later sync may succeed"


@dataclass(frozen=True)
class Response:
    """One response of the API, on disk as received."""

    path: Path  # the body, uncompressed
    format: Format  # as requested
    fetched_at: datetime  # when the headers arrived or, of a copy that a proxy had kept, left the server; UTC
    sha256: str  # of the uncompressed body, 64 hexadecimal digits
    size_bytes: int  # of the uncompressed body
    seconds: float  # from sending the request to the last byte, retries included


@dataclass(frozen=True)
class StopListClient:
    """Fetches the STOP list of one account.

    It keeps nothing open between fetches and can be shared by threads. Proxies and CA bundles come from the usual
    environment variables (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`), but nothing from `.netrc`. A plain http
    address is loopback and never goes through a proxy.
    """

    api_key: str = field(repr=False)
    _: KW_ONLY
    base_url: str  # without a trailing slash
    response_format: Format = "json"
    timeout_seconds: tuple[float, float] = (10, 60)  # for each attempt to connect, and for the server's silence
    # For everything: connecting, retries and the waits between them, headers and body. A name look-up or connection
    # attempt in progress cannot be interrupted, and can add a few seconds.
    deadline_seconds: float = 300
    max_bytes: int = 4 * 1024**3  # of the uncompressed body
    retries: int = 4  # after the first try
    # Half the wait before the third try (the second follows at once). The wait doubles with each further try, and up to
    # this much is added at random.
    backoff_seconds: float = 1
    retry_after_max_seconds: int = 60  # longest wait that the server can ask for; four of them fit in the deadline
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The spellings of the API key, for `errors.redact`."""
        return secret_forms(self.api_key)

    def fetch(self, into: Path) -> Response:
        """Download the whole list into a new file that only its owner can read.

        After an error no file is left, and the error holds the API key neither in its message nor in a cause.

        Raises:
            ApiError: SMS Partner returned no list; the subclass says why.
            StoreError: The file exists or cannot be written.
        """
        started = time.monotonic()
        with Deadline(self.deadline_seconds) as deadline, redacted_logs(self.secrets):
            try:
                with self._session(deadline) as session, self._get(session) as response:
                    fetched_at = self.clock() - _age(response)
                    self._check_status(response)
                    _check_clock(response, fetched_at)
                    sha256, size = self._download(response.raw, into, deadline)
                return Response(into, self.response_format, fetched_at, sha256, size, time.monotonic() - started)
            except StopPipelineError as error:
                failure = type(error)(redact(str(error), self.secrets))
            if deadline.expired.is_set() and isinstance(failure, TransientApiError | UnreadableResponseError):
                failure = TransientApiError(
                    f"SMS Partner sent no complete response within {self.deadline_seconds:g} s: {_UNHARMED}."
                )
        raise failure  # outside the `except` block, so that it carries no cause or context

    def _session(self, deadline: Deadline) -> requests.Session:
        session = open_session(
            self.api_key,
            deadline,
            total=self.retries,
            redirect=False,
            status_forcelist=(429, 500, 502, 503, 504),
            raise_on_status=False,  # the last response is judged like any other
            backoff_factor=self.backoff_seconds,
            backoff_jitter=self.backoff_seconds,
            retry_after_max=self.retry_after_max_seconds,
        )
        session.trust_env = urlsplit(self.base_url).scheme == "https"
        return session

    def _get(self, session: requests.Session) -> requests.Response:
        url = f"{self.base_url}/stop-sms/list?_format={self.response_format}"
        try:
            return session.get(url, timeout=self.timeout_seconds, allow_redirects=False, stream=True)
        except (OSError, HTTPError, ValueError) as error:  # ValueError: a few malformed headers get past urllib3
            gave_up = self.retries and error.args and isinstance(error.args[0], MaxRetryError)
            tries = f" after {self.retries + 1} tries" if gave_up else ""
            raise TransientApiError(
                f"SMS Partner could not be reached at {urlsplit(self.base_url).netloc}{tries} "
                f"({failure_reason(error)}): {_UNHARMED}; if it never does, check the network."
            ) from error

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status >= HTTPStatus.BAD_REQUEST:
            body = _start_of(response.raw)
            undocumented = Envelope(message=body.decode("utf-8", "replace"))
            raise refusal(read_envelope(body) or undocumented, status=status, secrets=self.secrets)
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            target = redact(response.headers.get("Location", ""), self.secrets)
            host = re.match(r"https?://([a-z0-9.-]{1,253})(?::\d+)?(?:[/?#]|$)", target, re.IGNORECASE)
            raise ApiError(
                f"SMS Partner responded with a redirect{f' to {host[1]}' if host else ''} (HTTP {status}), which is "
                "not followed, because the API key would go along: check the base URL (SMSPARTNER_BASE_URL)."
            )
        if status != HTTPStatus.OK:
            raise UnreadableResponseError(
                f"SMS Partner responded with HTTP {status}, where a list comes with HTTP 200: {_UNHARMED}."
            )

    def _download(self, raw: HTTPResponse, into: Path, deadline: Deadline) -> tuple[str, int]:
        """Stream the body to disk; return its SHA-256 and size."""
        digest, size, logged = hashlib.sha256(), 0, 0
        with _new_file(into) as file:
            for chunk in _chunks(raw):
                size += len(chunk)
                if size > self.max_bytes:
                    raise UnreadableResponseError(
                        f"SMS Partner's response is larger than {self.max_bytes} bytes: nothing was changed; if the "
                        "list is really that long, report it to the maintainers of stop_pipeline."
                    )
                digest.update(chunk)
                file.write(chunk)
                if size - logged >= _LOGGED_BYTES:
                    logged = size
                    log.info("Fetching the list, %d MB so far", size // 1_000_000)
            if deadline.expired.is_set():  # then a body of undeclared length seems to have ended well
                raise TransientApiError("The deadline passed.")
            if size == 0:
                raise UnreadableResponseError(f"SMS Partner's response is empty, not even an empty list: {_UNHARMED}.")
            file.seek(0)
            envelope = read_envelope(file.read()) if size <= MAX_ENVELOPE_BYTES else None
            if envelope and envelope.refused:
                raise refusal(envelope, secrets=self.secrets)
        return digest.hexdigest(), size


def _age(response: requests.Response) -> timedelta:
    """How long ago the server sent a response that a proxy had kept: as of now, it would end the newest opt-outs."""
    seconds = response.headers.get("Age", "")
    return timedelta(seconds=int(seconds)) if re.fullmatch("[0-9]{1,7}", seconds) else timedelta()


def _check_clock(response: requests.Response, fetched_at: datetime) -> None:
    try:
        server_time = email.utils.parsedate_to_datetime(response.headers.get("Date", ""))
        server_time = server_time.replace(tzinfo=server_time.tzinfo or UTC)
        difference = server_time - fetched_at
    except (ValueError, TypeError, IndexError, OverflowError):
        return  # a missing or unreadable date says nothing about the clocks
    if abs(difference) > MAX_CLOCK_DIFFERENCE:
        raise ApiError(
            f"SMS Partner's clock says {server_time:%Y-%m-%d %H:%M:%S %Z} and this machine's says "
            f"{fetched_at:%Y-%m-%d %H:%M:%S} UTC: nothing was changed; set this machine's clock and sync again."
        )


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Create a file for its owner only, and delete it unless the block ends well."""
    try:
        with open(path, "x+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as file, ExitStack() as failed:
            failed.callback(path.unlink, missing_ok=True)
            yield file
            file.flush()
            failed.pop_all()
    except OSError as error:
        raise StoreError(
            f"The response cannot be written to {path} ({error.strerror or type(error).__name__}): make room there, or "
            "make it writable, and sync again."
        ) from error


def _chunks(raw: HTTPResponse) -> Iterator[bytes]:
    """Yield the decoded body as it arrives; an ApiError says that it ends early, or is not encoded as it says."""
    try:
        while chunk := raw.read1(_CHUNK_BYTES, decode_content=True):
            yield chunk
    except (HTTPError, ValueError) as error:  # ValueError: a few malformed bodies get past urllib3
        arrived = raw.tell()
        if isinstance(error, ReadTimeoutError | SSLError) or any(isinstance(arg, OSError) for arg in error.args):
            raise TransientApiError(
                f"The connection to SMS Partner broke after {arrived} bytes ({failure_reason(error)}): {_UNHARMED}."
            ) from error
        problem = "not compressed as its headers say" if isinstance(error, DecodeError) else "truncated"
        expected = f" of {arrived + raw.length_remaining}" if raw.length_remaining else ""
        raise UnreadableResponseError(
            f"SMS Partner's response is {problem}, {arrived}{expected} bytes arrived: {_UNHARMED}."
        ) from error


def _start_of(raw: HTTPResponse) -> bytes:
    """Return the first 64 KiB of an error's body, or whatever part of them arrived."""
    start = b""
    with suppress(ApiError):
        for chunk in _chunks(raw):
            start += chunk
            if len(start) >= MAX_ENVELOPE_BYTES:
                break
    return start[:MAX_ENVELOPE_BYTES]
