"""How a request travels: retries, one deadline for all of it, and the API key kept where nothing can print it.

The API wants its key in the URL, and whatever handles a URL prints it: exceptions, retry warnings, debug logs, tracing.
So requests and urllib3 get a URL without the key; the connection adds it while it writes the request line.
"""

import http.client
import re
import socket
import threading
from contextlib import suppress
from typing import Any, Self
from urllib.parse import quote_plus

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, Retry
from urllib3.connection import HTTPConnection
from urllib3.exceptions import InvalidHeader, LocationParseError

from stop_pipeline.errors import excerpt

_WRONG_PROXY = "the address of the proxy, HTTPS_PROXY, is not valid"
_REASONS: dict[type[BaseException], str] = {
    socket.gaierror: "its name could not be resolved",
    TimeoutError: "it did not respond in time",
    http.client.RemoteDisconnected: "it closed the connection",
    http.client.HTTPException: "it did not respond in valid HTTP",
    InvalidHeader: "it did not respond in valid HTTP",
    # Their texts quote the address, password included.
    LocationParseError: _WRONG_PROXY,
    requests.exceptions.InvalidURL: _WRONG_PROXY,
}


class Deadline:
    """Ends whatever a request is waiting for once its time is up.

    A read timeout does not: every byte of a slow drip starts it anew. Instead a timer shuts the sockets down under the
    reader, which ends any read in progress, encrypted or not. It uses duplicates, because TLS takes the original socket
    apart and http.client lets go of it early.
    """

    def __init__(self, seconds: float) -> None:
        self.expired = threading.Event()  # set once the time is up
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        for sock in self._sockets:
            sock.close()

    def watch(self, sock: socket.socket) -> None:
        """Shut `sock` down when the time is up."""
        self._sockets.append(sock.dup())
        if self.expired.is_set():
            self._expire()

    def _expire(self) -> None:
        self.expired.set()
        for sock in self._sockets:
            with suppress(OSError):  # the other side was quicker
                sock.shutdown(socket.SHUT_RDWR)


def open_session(api_key: str, deadline: Deadline, **retry: Any) -> requests.Session:
    """Return a session that adds the API key to the query of each request, unseen by requests and urllib3.

    The deadline ends its connections and the waits between tries; `retry` are arguments of `urllib3.Retry`.
    """

    class Connection(HTTPConnection):
        debuglevel = 0  # whatever http.client is told: it would print the request line

        def _new_conn(self) -> socket.socket:  # before TLS and before a proxy's tunnel
            sock = super()._new_conn()
            deadline.watch(sock)
            return sock

        def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
            super().putrequest(method, f"{url}&apiKey={quote_plus(api_key)}", *args, **kwargs)

    class DeadlineRetry(Retry):
        def sleep(self, response: BaseHTTPResponse | None = None) -> None:
            requested = None
            if response is not None:
                with suppress(InvalidHeader, ValueError, OverflowError):  # an unreadable Retry-After counts as none
                    requested = self.get_retry_after(response)
            if deadline.expired.wait(requested or self.get_backoff_time()):
                raise TimeoutError

    class Adapter(HTTPAdapter):
        def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
            pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
            pool.ConnectionCls = type("Connection", (Connection, pool.ConnectionCls), {})
            return pool

    session = _Session()
    session.auth = lambda request: request  # without one, requests looks for credentials in .netrc
    session.headers["User-Agent"] = "stop_pipeline"
    session.headers["Cache-Control"] = "no-cache"  # a proxy's older list would end the newest opt-outs
    session.headers["Accept-Encoding"] = "gzip"  # what every installation can decode piece by piece
    for scheme in ("https://", "http://"):
        session.mount(scheme, Adapter(max_retries=DeadlineRetry(**retry)))
    return session


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, for no redirect is followed; otherwise `send` would read its whole body."""


def failure_reason(error: BaseException) -> str:
    """Say in words what lies at the bottom of an error of requests or urllib3."""
    while inner := error.__cause__ or next((arg for arg in error.args if isinstance(arg, BaseException)), None):
        error = inner
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    if of_the_system := getattr(error, "strerror", None):
        return excerpt(re.sub(r"^\[.*?\] | \(_ssl.*\)$", "", of_the_system)).lower()
    return excerpt(str(error))  # as it is: in small letters, a key that a proxy echoes would not be found
