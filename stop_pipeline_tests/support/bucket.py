"""A bucket for tests: moto's S3 server as a process on loopback, and a proxy for what goes wrong on the way to it."""

import http.client
import http.server
import itertools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit
from uuid import uuid4

import requests
from pyarrow import fs

REGION = "us-east-1"
SECRET = "a-secret-key-that-is-not-shown"  # noqa: S105 – no secret
WRITES = ("PUT", "POST", "DELETE")
_STUCK_AFTER_SECONDS = 60

Fault = Literal["refused", "busy", "elsewhere", "done, but refused", "done, but cut off", "cut off midway", "lost"]
"""What a request meets: an error in place of what it asked for; an error, or no response, though it was done; or a
response that ends in the middle."""

_ERRORS = {"busy": (503, "SlowDown"), "elsewhere": (301, "PermanentRedirect"), "lost": (404, "NoSuchUpload")}
_REFUSAL = (403, "AccessDenied")


@dataclass(frozen=True)
class Request:
    """What a client asked for.

    Attributes:
        method: HTTP method.
        target: Path and query.
        range: The header `Range`; None if whole objects are asked for.
    """

    method: str
    target: str
    range: str | None = None

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.method in WRITES


Choice = Callable[[Request], Fault | None]
"""Which fault a request meets; None lets it through."""


def environment(endpoint: str, *, key: str = "a-key-id", secret: str = SECRET) -> dict[str, str]:
    """The variables by which S3 clients find the server at `endpoint`."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": REGION,
    }


class S3Server:
    """The server, while the `with` block lasts."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", line):
                self.endpoint = found[1]
                break
        else:
            raise RuntimeError("moto's server did not start")
        # Its log of requests has to be read, or it stops once the pipe is full.
        self._drain = threading.Thread(target=self._process.stdout.read, daemon=True)
        self._drain.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(_STUCK_AFTER_SECONDS)
        self._drain.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def filesystem(self) -> fs.S3FileSystem:
        """The server's objects, past any proxy and any policy."""
        return fs.S3FileSystem(
            access_key="a-key-id",
            secret_key=SECRET,
            region=REGION,
            endpoint_override=self.endpoint,
            allow_bucket_creation=True,
        )

    def make_bucket(self, bucket: str) -> None:
        self.filesystem().create_dir(bucket)

    def objects(self, path: str) -> dict[str, bytes]:
        """Every object below `bucket/prefix`, by its name relative to that, with its bytes."""
        return {name: self.filesystem().open_input_file(f"{path}/{name}").read() for name in self.names(path)}

    def names(self, path: str) -> list[str]:
        """The name of every object below `bucket/prefix`."""
        selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
        return [
            info.path.removeprefix(f"{path}/") for info in self.filesystem().get_file_info(selector) if info.is_file
        ]

    def copy(self, source: str, target: str) -> None:
        """Copy every object below a prefix."""
        for name in self.names(source):
            self.filesystem().copy_file(f"{source}/{name}", f"{target}/{name}")

    def make_user(self, *allowed: str) -> tuple[str, str]:
        """A user that may do some actions and no other: access key and secret."""
        name = uuid4().hex
        statement = {"Effect": "Allow", "Action": allowed, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self._iam(Action="CreateUser", UserName=name)
        self._iam(Action="PutUserPolicy", UserName=name, PolicyName="few", PolicyDocument=policy)
        made = self._iam(Action="CreateAccessKey", UserName=name)
        key, secret = (
            re.search(f"<{tag}>([^<]+)</{tag}>", made)[1]  # type: ignore[index]
            for tag in ("AccessKeyId", "SecretAccessKey")
        )
        return key, secret

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Credentials and policies are checked; otherwise the server lets anybody in."""
        self._post("/moto-api/reset-auth", "0")
        try:
            yield
        finally:
            self._post("/moto-api/reset-auth", "inf")

    def _iam(self, **form: str) -> str:
        scope = f"Credential=a-key-id/20260101/{REGION}/iam/aws4_request, SignedHeaders=host, Signature=none"
        return self._post("/", {"Version": "2010-05-08"} | form, {"Authorization": f"AWS4-HMAC-SHA256 {scope}"})

    def _post(self, path: str, data: str | dict[str, str], headers: dict[str, str] | None = None) -> str:
        response = requests.post(self.endpoint + path, data=data, headers=headers, timeout=_STUCK_AFTER_SECONDS)
        response.raise_for_status()
        return response.text


@dataclass
class Proxy:
    """Stands between a client and the server, records the requests, and does to each what `fault` says.

    Attributes:
        upstream: The server's endpoint.
        fault: Called with each request before it is passed on.
        seen: Every request so far.
    """

    upstream: str
    fault: Choice = lambda request: None
    seen: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        proxy = self

        class Handler(_PassingOn):
            def respond(self, body: bytes) -> None:
                request = Request(self.command, self.path, self.headers.get("Range"))
                proxy.seen.append(request)
                fault = proxy.fault(request)
                if fault == "refused" or fault in _ERRORS:
                    self.send_error_document(*_ERRORS.get(fault, _REFUSAL))
                    return
                response = self.ask(proxy.upstream, body)
                if fault == "done, but refused":
                    self.send_error_document(*_REFUSAL)
                elif fault == "done, but cut off":
                    self.close_connection = True
                else:
                    self.send(response, cut_off=fault == "cut off midway")

        return Handler


@dataclass(frozen=True)
class _Response:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _PassingOn(http.server.BaseHTTPRequestHandler):
    """Reads a request, and has what sends a response or cuts the connection off."""

    protocol_version = "HTTP/1.1"

    def respond(self, body: bytes) -> None:
        raise NotImplementedError

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client has hung up
            super().handle()

    def _respond(self) -> None:
        self.respond(self._body())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _respond  # noqa: N815 – http.server's names

    def send(self, response: _Response, *, cut_off: bool = False) -> None:
        self.send_response(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        if self.command != "HEAD":  # its headers give the length of a body that is not sent
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[: len(response.body) // 2] if cut_off else response.body)
        if cut_off:
            self.close_connection = True

    def send_error_document(self, status: int, code: str) -> None:
        """Send an error that repeats the request's headers, the key's name among them."""
        document = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{self.headers}</Message></Error>"
        self.send(_Response(status, [], document.encode()))

    def ask(self, upstream: str, body: bytes) -> _Response:
        """What `upstream` responds to this request."""
        connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=_STUCK_AFTER_SECONDS)
        try:
            connection.request(self.command, self.path, body, _without(self.headers.items(), _OF_A_CONNECTION))
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        own = _OF_A_CONNECTION | (set() if self.command == "HEAD" else {"content-length"})
        return _Response(response.status, list(_without(response.getheaders(), own).items()), data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, *_: object) -> None:
        """Log nothing."""


_OF_A_CONNECTION = {"connection", "date", "server", "transfer-encoding"}
"""Headers that are not passed on, in lower case."""


def _without(headers: Iterable[tuple[str, str]], names: set[str]) -> dict[str, str]:
    return {name: value for name, value in headers if name.lower() not in names}


def nth_write(number: int, fault: Fault, methods: Collection[str] = WRITES) -> Choice:
    """The fault of the write of that number, counted from 0, or of the request of that number by some methods."""
    writes = itertools.count()
    return lambda request: fault if request.method in methods and next(writes) == number else None


def first(method: str, part: str, fault: Fault) -> Choice:
    """The fault of the first request of a method with some text in its target."""
    requests_seen = itertools.count()

    def choose(request: Request) -> Fault | None:
        matches = request.method == method and part in request.target
        return fault if matches and next(requests_seen) == 0 else None

    return choose
