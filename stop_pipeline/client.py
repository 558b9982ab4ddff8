"""One HTTP request: the whole STOP list onto disk, or a typed error that says why not.

What belongs here: the request, its retries, its deadline, and what makes an answer no list before it is parsed. What
does not: rows (`snapshot`) and where answers are kept (`store`).

The API wants its key in the URL, and whatever handles a URL prints it: exceptions, retry warnings, debug logs, tracing.
So requests and urllib3 get a URL without the key; the connection adds it while it writes the request line.
"""

import email.utils
import hashlib
import http.client
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self
from urllib.parse import quote, quote_plus, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, HTTPResponse, Retry
from urllib3.connection import HTTPConnection
from urllib3.exceptions import DecodeError, HTTPError, InvalidHeader, MaxRetryError, ReadTimeoutError, SSLError

from stop_pipeline.envelope import Envelope, read_envelope, refusal
from stop_pipeline.errors import (
    ApiError,
    ClockError,
    StopPipelineError,
    StoreError,
    TransientApiError,
    UnexpectedRedirectError,
    UnreadableAnswerError,
    excerpt,
    redact,
)
from stop_pipeline.model import Answer, Format

RETRIED_STATUSES = (429, 500, 502, 503, 504)
MAX_CLOCK_DIFFERENCE = timedelta(minutes=10)
MAX_ENVELOPE_BYTES = 64 * 1024
"""A refusal is a hundred bytes; a larger document is either a list or not worth reading."""

_CHUNK_BYTES = 64 * 1024
_UNHARMED = "nothing was changed, and a later tick may succeed"
_URLLIB3_LOGGERS = ("urllib3.connection", "urllib3.connectionpool", "urllib3.response", "urllib3.util.retry")


def _user_agent() -> str:
    try:
        return f"stop_pipeline/{metadata.version('stop_pipeline')}"
    except metadata.PackageNotFoundError:  # imported from a checkout that is not installed
        return "stop_pipeline"


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class StopListClient:
    """Fetches the STOP list of one account.

    It keeps nothing open between fetches, which are minutes apart, and can be shared by threads. Proxies and CA bundles
    are taken from the environment as usual (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`), credentials in `.netrc`
    are not: they are none of SMS Partner's business. A plain http address is loopback and never goes through a proxy.

    Attributes:
        api_key: Of the account.
        base_url: Of the API, without a trailing slash.
        answer_format: Which of its two formats to ask for.
        user_agent: How the client names itself.
        connect_timeout_seconds: For each try to connect.
        read_timeout_seconds: How long the server may stay silent.
        deadline_seconds: For the whole fetch: connecting, retries and their waits, headers and body. What cannot be
            interrupted, a name look-up or a connection attempt in progress, can add its own few seconds.
        max_bytes: Of the body, uncompressed.
        retries: After the first try.
        backoff_seconds: Before the third try (the second follows at once), doubled for each further one.
        backoff_jitter_seconds: At most so much is added to each wait, at random.
        retry_after_max_seconds: Longest wait that the server can ask for; four of them fit in the deadline.
        clock: Gives the time, aware and in UTC.
    """

    api_key: str = field(repr=False)
    _: KW_ONLY
    base_url: str
    answer_format: Format = "json"
    user_agent: str = field(default_factory=_user_agent)
    connect_timeout_seconds: float = 10
    read_timeout_seconds: float = 60
    deadline_seconds: float = 300
    max_bytes: int = 4 * 1024**3
    retries: int = 4
    backoff_seconds: float = 1
    backoff_jitter_seconds: float = 1
    retry_after_max_seconds: int = 60
    clock: Callable[[], datetime] = _utc_now

    @property
    def secrets(self) -> tuple[str, ...]:
        """The spellings of the API key, for `StopPipelineError.redacted`."""
        return secret_forms(self.api_key)

    def fetch(self, into: Path, progress: Callable[[int], None] | None = None) -> Answer:
        """Get the whole list into a new file that only its owner can read.

        An error leaves no file behind and holds the API key nowhere: not in its message, its cause or its context.

        Args:
            into: Where the body goes, uncompressed; nothing may be there yet.
            progress: Called with the number of bytes so far, again and again.

        Raises:
            KeyRefusedError: the API key is missing or unknown to SMS Partner.
            AccessRefusedError: SMS Partner refuses this account, address or request for good.
            TransientApiError: it could not be reached, failed on its side, or took longer than the deadline.
            UnexpectedRedirectError: it answered with a redirect.
            UnreadableAnswerError: the answer is empty, cut, too large or badly encoded.
            ClockError: its clock and this machine's are more than ten minutes apart.
            StoreError: the file cannot be written.
        """
        started = time.monotonic()
        with (
            _Deadline(self.deadline_seconds) as deadline,
            redacted_logs(self.secrets),
            self._session(deadline) as session,
        ):
            try:
                with self._request(session) as response:
                    fetched_at = self.clock()
                    self._check_head(response, fetched_at)
                    sha256, size_bytes = self._download(response.raw, into, deadline, progress)
                seconds = time.monotonic() - started
                return Answer(into, self.answer_format, fetched_at, sha256, size_bytes, seconds)
            except StopPipelineError as error:
                failure = error.redacted(self.secrets)
            if deadline.expired and isinstance(failure, TransientApiError | UnreadableAnswerError):
                failure = TransientApiError(
                    f"SMS Partner gave no whole answer within {self.deadline_seconds:g} s: {_UNHARMED}."
                )
        raise failure  # out of the `except` block, so that no cause or context goes with it

    def _session(self, deadline: "_Deadline") -> requests.Session:
        session = _Session()
        session.trust_env = urlsplit(self.base_url).scheme == "https"
        session.auth = lambda request: request  # requests reads .netrc only where it has no other way to authenticate
        session.headers["User-Agent"] = self.user_agent
        session.headers["Accept-Encoding"] = "gzip"  # what every installation can decode piece by piece
        retry = _Retry(
            total=self.retries,
            redirect=False,
            status_forcelist=RETRIED_STATUSES,
            raise_on_status=False,  # the last answer is judged like any other
            backoff_factor=self.backoff_seconds,
            backoff_jitter=self.backoff_jitter_seconds,
            retry_after_max=self.retry_after_max_seconds,
            deadline=deadline,
        )
        adapter = _Adapter(retry, deadline=deadline, secret_query=f"&apiKey={quote_plus(self.api_key)}")
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return session

    def _request(self, session: requests.Session) -> requests.Response:
        try:
            return session.get(
                f"{self.base_url}/stop-sms/list?_format={self.answer_format}",
                timeout=(self.connect_timeout_seconds, self.read_timeout_seconds),
                allow_redirects=False,
                stream=True,
            )
        except (OSError, HTTPError, ValueError) as error:  # ValueError: a few malformed headers pass through urllib3
            raise TransientApiError(
                f"SMS Partner could not be reached at {urlsplit(self.base_url).netloc}{self._tries(error)} "
                f"({_reason(error)}): {_UNHARMED}; if none does, check the network."
            ) from error

    def _tries(self, error: Exception) -> str:
        if not error.args or not isinstance(error.args[0], MaxRetryError):
            return ""
        return f" after {self.retries + 1} tries" if self.retries else ""

    def _check_head(self, response: requests.Response, fetched_at: datetime) -> None:
        """Refuse whatever status and headers show to be no list."""
        status = response.status_code
        if 300 <= status < 400:  # noqa: PLR2004 – as HTTP defines them
            raise UnexpectedRedirectError(
                f"SMS Partner answered with a redirect (HTTP {status}) to {self._redirect_host(response)}, which is "
                "not followed, since the API key would go along: check the base URL (SMSPARTNER_BASE_URL)."
            )
        if status >= 400:  # noqa: PLR2004 – as HTTP defines them
            body = _start_of(response.raw)
            unread = Envelope(success=None, code=None, message=body.decode("utf-8", "replace"))
            raise self._refusal(self._envelope(body) or unread, status)
        if status != 200:  # noqa: PLR2004 – as HTTP defines them
            raise UnreadableAnswerError(
                f"SMS Partner answered HTTP {status}, where a list comes with HTTP 200: {_UNHARMED}."
            )
        server_time = _parse_date(response.headers.get("Date", ""))
        if server_time is not None and abs(server_time - fetched_at) > MAX_CLOCK_DIFFERENCE:
            raise ClockError(
                f"SMS Partner's clock says {server_time:%Y-%m-%d %H:%M:%S} UTC and this machine's says "
                f"{fetched_at:%Y-%m-%d %H:%M:%S}: the answer was not kept; set this machine's clock, then run again."
            )

    def _redirect_host(self, response: requests.Response) -> str:
        try:
            target = redact(response.headers.get("Location", ""), self.secrets)
            host = urlsplit(urljoin(self.base_url, target)).hostname or ""
        except ValueError:
            host = ""
        return host if re.fullmatch(r"[a-z0-9.:-]{1,253}", host) else "an address that cannot be read"

    def _download(
        self, raw: HTTPResponse, into: Path, deadline: "_Deadline", progress: Callable[[int], None] | None
    ) -> tuple[str, int]:
        """Stream the body to disk; gives its SHA-256 and size."""
        digest, size_bytes, head = hashlib.sha256(), 0, b""
        with _new_file(into) as file:
            for chunk in _chunks(raw):
                size_bytes += len(chunk)
                if size_bytes > self.max_bytes:
                    raise UnreadableAnswerError(
                        f"SMS Partner's answer is larger than {self.max_bytes} bytes: nothing was changed; "
                        "if the list is really that long, raise `max_bytes`."
                    )
                digest.update(chunk)
                file.write(chunk)
                if size_bytes <= MAX_ENVELOPE_BYTES:
                    head += chunk
                if progress is not None:
                    progress(size_bytes)
            if deadline.expired:  # then a body without a declared length seems to have ended well
                raise TransientApiError("The deadline passed.")
            if not size_bytes:
                raise UnreadableAnswerError(f"SMS Partner's answer is empty, where a list was due: {_UNHARMED}.")
            if size_bytes <= MAX_ENVELOPE_BYTES and (envelope := self._envelope(head)) and envelope.refused:
                raise self._refusal(envelope)
        return digest.hexdigest(), size_bytes

    def _envelope(self, body: bytes) -> Envelope | None:
        """The envelope in whichever format: no page says that an error comes in the one that was asked for."""
        return read_envelope(body, "json") or read_envelope(body, "xml")

    def _refusal(self, envelope: Envelope, status: int | None = None) -> ApiError:
        # Struck out before the message is excerpted: half a key would not be found any more.
        message = None if envelope.message is None else redact(envelope.message, self.secrets)
        return refusal(replace(envelope, message=message), status=status)


def secret_forms(key: str) -> tuple[str, ...]:
    """The spellings in which `key` can turn up in a text: raw, percent-encoded, and as `errors.excerpt` masks them."""
    forms = (key, quote(key), quote(key, safe=""), quote_plus(key))
    return tuple(dict.fromkeys(forms + tuple(re.sub(r"\d", "•", form) for form in forms)))


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "its name could not be resolved"),
    (TimeoutError, "it did not answer in time"),
    (http.client.RemoteDisconnected, "it closed the connection"),
    (http.client.HTTPException, "it did not answer in valid HTTP"),
    (InvalidHeader, "it did not answer in valid HTTP"),
)


class _Deadline:
    """Ends whatever a fetch is waiting for once its time is up.

    A read time-out does not: every byte of a slow drip starts it anew. A timer shuts the socket down under the reader
    instead, which ends any read in progress, encrypted or not. It does so through a duplicate of the socket, because
    TLS takes the original apart and http.client lets go of it early.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._expired = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._release()

    @property
    def expired(self) -> bool:
        return self._expired.is_set()

    def limit(self, seconds: float) -> float:
        """`seconds`, or what is left if that is less; never 0, which would mean not to wait for a connection at all."""
        return max(min(seconds, self._end - time.monotonic()), 0.001)

    def watch(self, sock: socket.socket) -> None:
        """Take `sock` for the one in use."""
        with self._lock:
            self._release()
            self._socket = sock.dup()
        if self.expired:
            self._expire()

    def sleep(self, seconds: float) -> None:
        """Wait between tries.

        Raises:
            TimeoutError: the deadline passed.
        """
        if self._expired.wait(seconds):
            raise TimeoutError("the deadline passed")

    def _expire(self) -> None:
        with self._lock:
            self._expired.set()
            if self._socket is not None:
                with suppress(OSError):  # the other side was quicker
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, for no answer is followed: else `send` reads a redirect's body whole even if told not to follow it."""


class _Connection(HTTPConnection):
    """A connection that ends with the deadline, and that alone knows the API key."""

    debuglevel = 0  # whatever http.client is told: it would print the request line
    deadline: ClassVar[_Deadline]
    secret_query: ClassVar[str]

    def _new_conn(self) -> socket.socket:
        # Where urllib3's own SOCKS support steps in too: before TLS, before a proxy's tunnel.
        self.timeout = self.deadline.limit(self.timeout or 0)
        sock = super()._new_conn()
        self.deadline.watch(sock)
        return sock

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        super().putrequest(method, url + self.secret_query, *args, **kwargs)


class _Adapter(HTTPAdapter):
    """requests' adapter over connections of ours, whether direct or through a proxy."""

    def __init__(self, retry: Retry, **connection_attributes: Any) -> None:
        super().__init__(max_retries=retry)
        self._connection_attributes = connection_attributes

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = type("_Connection", (_Connection, pool.ConnectionCls), self._connection_attributes)
        return pool


class _Retry(Retry):
    """urllib3's retries; their waits end with the deadline, and an unreadable Retry-After counts as none."""

    def __init__(self, *args: Any, deadline: _Deadline, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline = deadline

    def new(self, **kwargs: Any) -> "_Retry":
        return super().new(deadline=self._deadline, **kwargs)

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        told = None
        if response is not None:
            with suppress(InvalidHeader, ValueError, OverflowError):
                told = self.get_retry_after(response)
        self._deadline.sleep(told or self.get_backoff_time())


@contextmanager
def redacted_logs(secrets: tuple[str, ...]) -> Iterator[None]:
    """Strike secrets out of urllib3's log records: paths are among them, and what a server echoes of a request."""

    def redacted(record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), secrets), None
        record.exc_info = record.exc_text = None
        return True

    loggers = [logging.getLogger(name) for name in _URLLIB3_LOGGERS]  # a parent's filter does not see their records
    for logger in loggers:
        logger.addFilter(redacted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(redacted)


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A new file for its owner only, which is gone again unless the block ends well."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(
            f"The answer cannot be written to {path} ({error.strerror or type(error).__name__}): make room there, or "
            "allow it to be written, and run again."
        ) from error


def _chunks(raw: HTTPResponse) -> Iterator[bytes]:
    """The body, decoded, as it comes in; an early end becomes a typed error."""
    try:
        while chunk := raw.read1(_CHUNK_BYTES, decode_content=True):
            yield chunk
    except (HTTPError, ValueError) as error:  # ValueError: a few malformed bodies pass through urllib3
        raise _broken_off(raw, error) from error


def _start_of(raw: HTTPResponse) -> bytes:
    """The first 64 KiB of an error's body, or what came of them."""
    start = b""
    with suppress(ApiError):
        for chunk in _chunks(raw):
            start += chunk
            if len(start) >= MAX_ENVELOPE_BYTES:
                break
    return start[:MAX_ENVELOPE_BYTES]


def _broken_off(raw: HTTPResponse, error: Exception) -> ApiError:
    came = raw.tell()
    if isinstance(error, DecodeError):
        return UnreadableAnswerError(
            f"SMS Partner's answer is not compressed as its header says, after {came} bytes: {_UNHARMED}."
        )
    if isinstance(error, ReadTimeoutError | SSLError) or any(isinstance(arg, OSError) for arg in error.args):
        return TransientApiError(
            f"The connection to SMS Partner broke after {came} bytes ({_reason(error)}): {_UNHARMED}."
        )
    due = f" of {came + raw.length_remaining}" if raw.length_remaining else ""
    return UnreadableAnswerError(f"SMS Partner's answer is cut: {came}{due} bytes came; {_UNHARMED}.")


def _reason(error: BaseException) -> str:
    """What lies at the bottom of an error of requests or urllib3, in words."""
    while inner := error.__cause__ or next((arg for arg in error.args if isinstance(arg, BaseException)), None):
        error = inner
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words
    text = getattr(error, "strerror", None) or str(error)
    return excerpt(re.sub(r"^\[.*?\] | \(_ssl.*\)$", "", text)).lower()


def _parse_date(text: str) -> datetime | None:
    """The time in a `Date` header; None if there is none that can be read."""
    try:
        server_time = email.utils.parsedate_to_datetime(text)
        return server_time.replace(tzinfo=UTC) if server_time.tzinfo is None else server_time.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
