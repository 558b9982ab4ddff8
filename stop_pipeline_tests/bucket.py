"""A way to have a bucket: moto's S3 server as a process of its own on loopback, and what can go wrong on the way to it.

What belongs here: starting the server, buckets, users with few rights, and a proxy that counts requests and refuses
some. What does not: what a data root in a bucket is expected to do.
"""

import http.client
import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
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
_STUCK_AFTER_SECONDS = 60
_REFUSAL = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

Fault = Literal["refused", "done, but refused", "done, but cut off"]
"""What a request meets: a 403 in place of what it asked for, a 403 or no answer at all once it was done."""

Choice = Callable[[str, str], Fault | None]
"""Which fault a request of this method and target meets."""


def environment(endpoint: str, *, key: str = "a-key-id", secret: str = SECRET) -> dict[str, str]:
    """The variables by which Amazon's clients find the server at `endpoint`."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
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
        # Its log of requests must be read, or the pipe fills up and it waits for ever.
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
        answer = requests.post(self.endpoint + path, data=data, headers=headers, timeout=_STUCK_AFTER_SECONDS)
        answer.raise_for_status()
        return answer.text


@dataclass
class Proxy:
    """Stands between a client and the server, counts what passes, and does to a request what `fault` says.

    Attributes:
        upstream: The server's endpoint.
        fault: Asked before a request is passed on, with its method and target; None lets it through.
        seen: Method and target of every request so far.
    """

    upstream: str
    fault: Choice = lambda method, target: None
    seen: list[tuple[str, str]] = field(default_factory=list)

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

    def writes(self) -> list[str]:
        """The targets of the requests that change something."""
        return [target for method, target in self.seen if method in WRITING]

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        proxy = self

        class Handler(_PassingOn):
            def answer(self, body: bytes) -> Answered | None:
                proxy.seen.append((self.command, self.path))
                fault = proxy.fault(self.command, self.path)
                answered = None if fault == "refused" else self.ask(proxy.upstream, body)
                if fault == "done, but cut off":
                    return None
                return answered if answered and fault is None else Answered(403, [], _REFUSAL)

        return Handler


@dataclass(frozen=True)
class Answered:
    """What the server said: status, headers, body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _PassingOn(http.server.BaseHTTPRequestHandler):
    """Reads a request, answers it with what `answer` gives, or cuts the connection off."""

    protocol_version = "HTTP/1.1"

    def answer(self, body: bytes) -> Answered | None:
        raise NotImplementedError

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client has hung up
            super().handle()

    def _answer(self) -> None:
        answered = self.answer(self._body())
        if answered is None:
            self.close_connection = True
            return
        self.send_response(answered.status)
        for name, value in answered.headers:
            self.send_header(name, value)
        if self.command != "HEAD":  # whose answer tells the length of what it does not bring
            self.send_header("Content-Length", str(len(answered.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answered.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 – http.server's names

    def ask(self, upstream: str, body: bytes) -> Answered:
        """What `upstream` says to this request."""
        connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=_STUCK_AFTER_SECONDS)
        try:
            connection.request(self.command, self.path, body, _without(self.headers.items(), _OF_A_CONNECTION))
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        own = _OF_A_CONNECTION | (set() if self.command == "HEAD" else {"content-length"})
        return Answered(answer.status, list(_without(answer.getheaders(), own).items()), data)

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *_: object) -> None:
        """Nothing: a test says what it saw."""


_OF_A_CONNECTION = {"connection", "date", "expect", "server", "transfer-encoding"}
"""Headers that are not passed on, in lower case."""


def _without(headers: Iterable[tuple[str, str]], names: set[str]) -> dict[str, str]:
    return {name: value for name, value in headers if name.lower() not in names}


WRITING = ("PUT", "POST", "DELETE")


def nth_write(number: int, fault: Fault) -> Choice:
    """The fault of the write of that number, counted from 0, and of every retry of it."""
    targets: list[str] = []

    def choose(method: str, target: str) -> Fault | None:
        if method not in WRITING:
            return None
        if not targets or targets[-1] != target:
            targets.append(target)
        return fault if len(targets) == number + 1 else None

    return choose
