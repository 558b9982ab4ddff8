"""A real HTTP server on 127.0.0.1, whose responses a test scripts byte by byte.

    with Loopback(reply(503), reply(200, b"…")) as server:
        ...  # the first request gets the first script, and so on; the last script goes on for ever
        server.requests[0].query["apiKey"]

A script is any function of an `Exchange`: what it writes is what the client reads, and when it returns the connection
closes. A script that fails makes the `with` block fail. Scripts that wait do so on the server's end, so that leaving
the block never waits for them.
"""

import http.client
import io
import json
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.message import Message
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

_STUCK_AFTER_SECONDS = 20
"""A client that neither reads nor closes for so long is a failure, not a wait."""


@dataclass(frozen=True)
class Request:
    """A request as it arrived."""

    method: str
    target: str
    headers: Message
    raw: bytes
    body: bytes = b""
    arrived_at: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


@dataclass(frozen=True)
class Exchange:
    """One request and the connection to respond on."""

    request: Request
    connection: socket.socket
    closing: threading.Event

    def write(self, data: bytes) -> None:
        self.connection.sendall(data)

    def drip(self, data: Iterable[int], *, every_seconds: float = 0.05) -> None:
        """Write byte by byte, for as long as there are any and somebody listens."""
        for byte in data:
            if self.closing.wait(every_seconds):
                return
            self.write(bytes([byte]))

    def hang(self) -> None:
        """Say nothing more, without closing, until the test is over."""
        self.closing.wait()

    def reset(self) -> None:
        """Break the connection off (RST) where closing it would end it in order."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


Script = Callable[[Exchange], None]


def reply(status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None) -> Script:
    """A response in order: status, `headers`, the right Content-Length unless `headers` gives another, `body`."""

    def script(exchange: Exchange) -> None:
        exchange.write(head(status, {"Content-Length": str(len(body))} | (headers or {})) + body)

    return script


def reply_json(document: Any, status: int = 200) -> Script:
    """`document` as JSON."""
    return reply(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


def raw(*parts: bytes) -> Script:
    """Exactly these bytes, then the end of the connection."""

    def script(exchange: Exchange) -> None:
        exchange.write(b"".join(parts))

    return script


def head(status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    """A status line and headers, up to and with the empty line."""
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Loopback:
    """The server. `base_url` is what a client is given, `requests` what came in, in order."""

    def __init__(self, *scripts: Script) -> None:
        self.requests: list[Request] = []
        self._scripts = scripts
        self._failures: list[BaseException] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()  # waits for the scripts, which `_closing` has ended
        self._thread.join()
        if self._failures and error is None:
            raise self._failures[0]

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_STUCK_AFTER_SECONDS)
        request = _read_request(connection)
        if request is None:
            return
        with self._lock:
            script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
            self.requests.append(request)
        try:
            script(Exchange(request, connection, self._closing))
        except ConnectionError:
            pass  # the client has hung up, which many tests are about
        except Exception as failure:  # noqa: BLE001 – it is raised again where the test sees it
            self._failures.append(failure)

    def _handler(self) -> type[socketserver.BaseRequestHandler]:
        serve = self._serve

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                serve(self.request)

        return Handler


def _read_request(connection: socket.socket) -> Request | None:
    """The request; None if the client closed without one."""
    lines = []
    with connection.makefile("rb") as stream:
        while (line := stream.readline()).strip():
            lines.append(line)
        if not lines:
            return None
        method, target, _ = lines[0].decode("latin-1").split(" ")
        headers = http.client.parse_headers(io.BytesIO(b"".join([*lines[1:], b"\r\n"])))
        body = stream.read(int(headers.get("Content-Length", "0")))
    return Request(method, target, headers, raw=b"".join(lines), body=body)
