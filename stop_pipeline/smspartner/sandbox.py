"""A stand-in for SMS Partner on loopback: an HTTP server that serves invented lists as the provider documents."""

import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

from stop_pipeline.smspartner.sandbox_list import DEFAULT_ROWS, Format, StopList, refusal_document

API_KEY = "sandbox-key"

_CONTENT_TYPES: dict[Format, str] = {"json": "application/json", "xml": "text/xml; charset=UTF-8"}


class Sandbox(ThreadingHTTPServer):
    """The provider's endpoint on 127.0.0.1, which serves from the moment it is made until it is closed.

    `GET {base_url}/stop-sms/list?apiKey=…&_format=json|xml` returns the list of that key, in JSON unless XML is
    requested. The HTTP status of a refusal (codes 1 and 10) is not documented; here it is 200, the harder case for a
    client, since only the body tells a refusal from a list. Any other path is 404, another method 405. Nothing is
    logged, because every URL holds a key.

    Args:
        port: Port to listen on; 0 takes a free one.
        rows: Number of rows in the first response of each list, which ends with yesterday.
        seed: Seed of the first list; those of the others count up from it, so that each has opt-outs of its own.
        changes: Whether the lists change.
        api_keys: The keys, at least one; each opens its own list.

    Raises:
        OSError: The port is taken.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        rows: int = DEFAULT_ROWS,
        seed: int = 0,
        changes: bool = True,
        api_keys: Sequence[str] = (API_KEY,),
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.lists = {
            key: StopList(rows, seed + place, until=today(), changes=changes) for place, key in enumerate(api_keys)
        }
        self.api_key = api_keys[0]
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"  # for `SMSPARTNER_BASE_URL`
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="sandbox", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def run_forever(self) -> None:
        """Block until another thread calls `close`, or until Ctrl-C, which raises `KeyboardInterrupt` here."""
        self._thread.join()

    def close(self) -> None:
        """Stop serving; a second call does nothing."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hangs up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def today() -> date:
    """Return the current day in France, where the provider's clocks are."""
    return datetime.now(ZoneInfo("Europe/Paris")).date()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Sandbox

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path != "/v1/stop-sms/list":
            self._send(HTTPStatus.NOT_FOUND, {})
            return
        query = parse_qs(url.query)
        response_format: Format = "xml" if query.get("_format") == ["xml"] else "json"
        key = query.get("apiKey", [""])[0]
        if key in self.server.lists:
            body = self.server.lists[key].next_response(response_format, today=today())
        elif key:
            body = refusal_document(response_format, 10, "Clé API incorrecte")
        else:
            body = refusal_document(response_format, 1, "Clé API requise")
        self._send(HTTPStatus.OK, {"Content-Type": _CONTENT_TYPES[response_format]}, body)

    def refuse_method(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET"})

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = refuse_method  # noqa: N815 (its names)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the parent's name)
        """Say nothing: a request line holds the key."""

    def _send(self, status: HTTPStatus, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
