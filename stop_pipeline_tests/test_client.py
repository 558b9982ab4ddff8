import gzip
import hashlib
import http.client
import logging
import resource
import stat
import threading
import time
import traceback
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from stop_pipeline.client import MAX_ENVELOPE_BYTES, StopListClient, secret_forms
from stop_pipeline.errors import (
    AccessRefusedError,
    ApiError,
    ClockError,
    KeyRefusedError,
    StopPipelineError,
    StoreError,
    TransientApiError,
    UnexpectedRedirectError,
    UnreadableAnswerError,
    excerpt,
    redact,
)
from stop_pipeline_tests.loopback import Exchange, Loopback, Script, head, raw, reply, reply_json

KEY = "k3y/w1th +ödd&=%signs"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIST = b'{"success": true, "code": 200, "nbData": 0, "data": []}'
LONG_LIST = b'{"success": true, "code": 200, "nbData": 0, "data": [' + b" " * 500_000 + b"]}"
RETRIED = [429, 500, 502, 503, 504]


def client_for(base_url: str, **settings: Any) -> StopListClient:
    """A client that never waits between tries, and whose clock stands still."""
    quick: dict[str, Any] = {
        "backoff_seconds": 0,
        "backoff_jitter_seconds": 0,
        "retry_after_max_seconds": 0,
        "clock": lambda: NOW,
    }
    return StopListClient(KEY, base_url=base_url, **(quick | settings))


def fetch_error(base_url: str, into: Path, **settings: Any) -> StopPipelineError:
    """The error of a fetch, which must leave no file and no trace of the key behind."""
    with pytest.raises(StopPipelineError) as caught:
        client_for(base_url, **settings).fetch(into)
    assert not into.exists()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert_keyless("".join(traceback.format_exception(caught.value)))
    return caught.value


def assert_keyless(text: str) -> None:
    assert KEY not in text
    assert quote(KEY) not in text
    assert quote_plus(KEY) not in text
    assert "k3y" not in text


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "answer"


# What is asked


def test_the_list_is_asked_for_with_the_key_and_the_format(into: Path) -> None:
    with Loopback(reply(200, LIST)) as server:
        client_for(server.base_url, answer_format="xml", user_agent="tests/1").fetch(into)
    [request] = server.requests
    assert (request.method, request.path) == ("GET", "/v1/stop-sms/list")
    assert request.query == {"apiKey": KEY, "_format": "xml"}
    assert request.headers["User-Agent"] == "tests/1"


def test_the_client_names_itself_by_default(into: Path) -> None:
    with Loopback(reply(200, LIST)) as server:
        client_for(server.base_url).fetch(into)
    assert server.requests[0].headers["User-Agent"].startswith("stop_pipeline")


def test_a_loopback_address_is_never_asked_through_a_proxy(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(reply(200, LIST)) as server, Loopback(reply(502)) as proxy:
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        client_for(server.base_url).fetch(into)
    assert proxy.requests == []


def test_https_goes_through_the_proxy_of_the_environment_which_never_sees_the_key(
    into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loopback(reply(407)) as proxy:
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        error = fetch_error("https://api.smspartner.invalid/v1", into, retries=0)
    [request] = proxy.requests
    assert (request.method, request.target) == ("CONNECT", "api.smspartner.invalid:443")
    assert_keyless(request.raw.decode())
    assert type(error) is TransientApiError
    assert "tunnel connection failed" in str(error)


# What is given


def test_an_answer_says_what_came_and_when_its_headers_came(into: Path) -> None:
    headers_sent = threading.Event()
    times: list[datetime] = []

    def clock() -> datetime:
        headers_sent.set()
        times.append(NOW + timedelta(seconds=len(times)))
        return times[-1]

    def script(exchange: Exchange) -> None:
        exchange.write(head(200, {"Content-Length": str(len(LIST))}))
        assert headers_sent.wait(10), "the clock was not read between headers and body"
        exchange.write(LIST)

    with Loopback(script) as server:
        answer = client_for(server.base_url, clock=clock).fetch(into)
    assert answer.path == into
    assert answer.path.read_bytes() == LIST
    assert answer.format == "json"
    assert answer.fetched_at == NOW
    assert answer.sha256 == hashlib.sha256(LIST).hexdigest()
    assert answer.size_bytes == len(LIST)
    assert 0 < answer.seconds < 10


def test_the_file_is_readable_by_its_owner_only(into: Path) -> None:
    with Loopback(reply(200, LIST)) as server:
        client_for(server.base_url).fetch(into)
    assert stat.S_IMODE(into.stat().st_mode) == 0o600


def test_a_compressed_answer_is_stored_uncompressed(into: Path) -> None:
    with Loopback(reply(200, gzip.compress(LONG_LIST), {"Content-Encoding": "gzip"})) as server:
        answer = client_for(server.base_url).fetch(into)
    assert server.requests[0].headers["Accept-Encoding"] == "gzip"
    assert into.read_bytes() == LONG_LIST
    assert answer.sha256 == hashlib.sha256(LONG_LIST).hexdigest()


def test_a_chunked_answer_is_put_together(into: Path) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (LIST[:9], LIST[9:], b""))
    with Loopback(raw(head(200, {"Transfer-Encoding": "chunked"}), chunks)) as server:
        client_for(server.base_url).fetch(into)
    assert into.read_bytes() == LIST


def test_an_answer_that_ends_with_the_connection_is_accepted(into: Path) -> None:
    with Loopback(raw(head(200), LIST)) as server:
        assert client_for(server.base_url).fetch(into).size_bytes == len(LIST)


def test_progress_is_told_the_bytes_so_far(into: Path) -> None:
    told: list[int] = []
    with Loopback(reply(200, LONG_LIST)) as server:
        client_for(server.base_url).fetch(into, told.append)
    assert told == sorted(set(told))
    assert told[-1] == len(LONG_LIST)


def test_what_is_not_an_error_document_is_left_to_the_parser(into: Path) -> None:
    for body in (b"<html>Welcome</html>", b"[]", b'{"rows": 1}', b"\xff"):
        with Loopback(reply(200, body)) as server:
            client_for(server.base_url).fetch(into)
        assert into.read_bytes() == body
        into.unlink()


def test_a_client_can_fetch_again_and_from_several_threads(tmp_path: Path) -> None:
    with Loopback(reply(200, LIST)) as server:
        client = client_for(server.base_url)
        threads = [threading.Thread(target=client.fetch, args=(tmp_path / str(n),)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [LIST] * 4


# Refusals


@pytest.mark.parametrize("status", [200, 400, 401, 403])
@pytest.mark.parametrize("answer_format", ["json", "xml"])
@pytest.mark.parametrize(
    "body",
    [
        '{"success": false, "code": 10, "message": "Clé API incorrecte"}',
        "<result><entry>false</entry><entry>10</entry><entry><![CDATA[Clé API incorrecte]]></entry></result>",
    ],
    ids=["as JSON", "as XML"],
)
def test_a_refused_key_is_told_by_the_body_under_whatever_status_and_format(
    body: str, answer_format: str, status: int, into: Path
) -> None:
    with Loopback(reply(status, body.encode())) as server:
        error = fetch_error(server.base_url, into, answer_format=answer_format)
    assert type(error) is KeyRefusedError
    assert "code 10, “Clé API incorrecte”" in str(error)
    assert (f"HTTP {status}" in str(error)) == (status != 200)


def test_a_documented_error_code_is_a_refusal_even_where_success_is_claimed(into: Path) -> None:
    with Loopback(reply_json({"success": True, "code": 96, "message": "IP"})) as server:
        assert type(fetch_error(server.base_url, into)) is AccessRefusedError


def test_a_large_answer_is_left_to_the_parser_even_if_it_says_that_it_failed(into: Path) -> None:
    body = b'{"success": false, "code": 10, "message": "' + b"x" * MAX_ENVELOPE_BYTES + b'"}'
    with Loopback(reply(200, body)) as server:
        client_for(server.base_url).fetch(into)
    assert into.read_bytes() == body


@pytest.mark.parametrize(
    ("status", "kind"), [(401, KeyRefusedError), (403, AccessRefusedError), (404, AccessRefusedError)]
)
def test_an_error_without_the_documented_body_is_judged_by_its_status_and_quoted(
    status: int, kind: type[ApiError], into: Path
) -> None:
    with Loopback(reply(status, b"<h1>Not\n for you, +33612345678</h1>")) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is kind
    assert f"HTTP {status}, “<h•>Not for you, +•••••••••••</h•>”" in str(error)
    assert len(server.requests) == 1, "a permanent error must not be retried"


def test_an_error_body_is_judged_even_if_it_is_cut(into: Path) -> None:
    body = b'{"success": false, "code": 20, "message": "off"}'
    with Loopback(reply(403, body, {"Content-Length": "1000"})) as server:
        assert "code 20, “off”" in str(fetch_error(server.base_url, into))


def test_no_more_than_64_kib_of_an_error_body_are_read(into: Path) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.write(head(403))
        while not exchange.closing.is_set():
            exchange.write(b"x" * 65_536)

    with Loopback(endless) as server:
        assert type(fetch_error(server.base_url, into)) is AccessRefusedError


@pytest.mark.parametrize("status", [201, 204, 206])
def test_another_success_than_200_is_no_list(status: int, into: Path) -> None:
    with Loopback(raw(head(status), b"" if status == 204 else LIST)) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is UnreadableAnswerError
    assert f"HTTP {status}" in str(error)


def test_an_empty_answer_is_no_empty_list(into: Path) -> None:
    with Loopback(reply(200, b"")) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is UnreadableAnswerError
    assert "empty" in str(error)


# Redirects


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("https://elsewhere.example:8443/secret?apiKey=1", "to elsewhere.example, which"),
        ("/login", "to 127.0.0.1, which"),
        ("//[", "to an address that cannot be read, which"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_only_its_host_is_named(
    status: int, location: str, named: str, into: Path
) -> None:
    with Loopback(reply(status, b"moved", {"Location": location}), reply(200, LIST)) as server:
        error = fetch_error(server.base_url, into)
    assert len(server.requests) == 1
    assert type(error) is UnexpectedRedirectError
    assert named in str(error)
    assert "secret" not in str(error)


def test_the_body_of_a_redirect_is_not_read(into: Path) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.write(head(302, {"Location": "/login"}))
        while not exchange.closing.is_set():
            exchange.write(b"x" * 65_536)

    with Loopback(endless) as server:
        assert type(fetch_error(server.base_url, into)) is UnexpectedRedirectError


# Retries


@pytest.mark.parametrize("status", RETRIED)
def test_a_passing_error_is_retried(status: int, into: Path) -> None:
    with Loopback(reply(status), reply(status), reply(200, LIST)) as server:
        client_for(server.base_url).fetch(into)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", RETRIED)
def test_a_lasting_error_is_given_up_after_the_retries_and_its_body_told(status: int, into: Path) -> None:
    with Loopback(reply(status, b"try later")) as server:
        error = fetch_error(server.base_url, into, retries=2)
    assert len(server.requests) == 3
    assert type(error) is TransientApiError
    assert f"HTTP {status}, “try later”" in str(error)


def close(_: Exchange) -> None:
    """Close without an answer."""


def test_a_connection_closed_without_an_answer_is_retried(into: Path) -> None:
    with Loopback(close, Exchange.reset, raw(b"SSH-2.0-x\r\n"), reply(200, LIST)) as server:
        client_for(server.base_url).fetch(into)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (close, "it closed the connection"),
        (Exchange.reset, "connection reset by peer"),
        (raw(b"SSH-2.0-x\r\n"), "it did not answer in valid HTTP"),
        (Exchange.hang, "it did not answer in time"),
    ],
)
def test_a_server_that_does_not_answer_is_given_up_after_the_retries(script: Script, reason: str, into: Path) -> None:
    with Loopback(script) as server:
        error = fetch_error(server.base_url, into, retries=1, read_timeout_seconds=0.1)
    assert len(server.requests) == 2
    assert type(error) is TransientApiError
    where = f"127.0.0.1:{server.port} after 2 tries ({reason})"
    assert f"SMS Partner could not be reached at {where}" in str(error)


def test_contradicting_headers_are_no_answer(into: Path) -> None:
    with Loopback(reply(200, LIST, {"Content-Length": "1, 2"})) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is TransientApiError
    assert "valid HTTP" in str(error)


def test_the_server_says_how_long_to_wait_up_to_the_cap(into: Path) -> None:
    with Loopback(reply(429, headers={"Retry-After": "3600"}), reply(200, LIST)) as server:
        client_for(server.base_url, retry_after_max_seconds=1).fetch(into)
    first, second = server.requests
    assert 0.9 < second.arrived_at - first.arrived_at < 60


@pytest.mark.parametrize("retry_after", ["soon", "9" * 5000, "Fri, 99 Dec 9999 99:99:99 GMT"])
def test_an_unreadable_retry_after_counts_as_none(retry_after: str, into: Path) -> None:
    with Loopback(reply(503, headers={"Retry-After": retry_after}), reply(200, LIST)) as server:
        client_for(server.base_url).fetch(into)


def test_waits_grow_from_try_to_try(into: Path) -> None:
    with Loopback(reply(503), reply(503), reply(503), reply(200, LIST)) as server:
        client_for(server.base_url, backoff_seconds=0.1).fetch(into)
    times = [request.arrived_at for request in server.requests]
    assert times[2] - times[1] > 0.19
    assert times[3] - times[2] > 0.39


# Unreachable


def test_a_refused_connection_is_told_in_a_plain_sentence(into: Path) -> None:
    with Loopback(close) as server:
        base_url = server.base_url
    error = fetch_error(base_url, into)
    assert type(error) is TransientApiError
    assert f"SMS Partner could not be reached at 127.0.0.1:{server.port} after 5 tries (connection refused): " in str(
        error
    )


def test_a_name_that_cannot_be_resolved_is_told_in_a_plain_sentence(into: Path) -> None:
    error = fetch_error("https://nonexistent.invalid/v1", into, retries=1)
    assert type(error) is TransientApiError
    assert "could not be reached at nonexistent.invalid after 2 tries (its name could not be resolved)" in str(error)


@pytest.mark.parametrize("base_url", ["https://" + "a" * 70 + ".example", "nothing", "https://é..x"])
def test_an_impossible_address_is_an_error_like_any_other(base_url: str, into: Path) -> None:
    assert type(fetch_error(base_url, into)) is TransientApiError


def test_a_server_without_tls_is_told(into: Path) -> None:
    with Loopback(close) as server:
        server_without_tls = server.base_url.replace("http:", "https:")
        error = fetch_error(server_without_tls, into, retries=0, connect_timeout_seconds=0.5)
    assert type(error) is TransientApiError


def test_a_ca_bundle_that_is_not_there_is_told(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    assert "/nowhere.pem" in str(fetch_error("https://nonexistent.invalid/v1", into))


# Cut, broken and oversized bodies


def test_a_body_shorter_than_its_content_length_is_cut(into: Path) -> None:
    with Loopback(reply(200, LIST, {"Content-Length": "1000"})) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is UnreadableAnswerError
    assert f"is cut: {len(LIST)} of 1000 bytes came" in str(error)
    assert len(server.requests) == 1


def test_a_compressed_body_shorter_than_its_content_length_is_cut(into: Path) -> None:
    body = gzip.compress(LONG_LIST)
    headers = {"Content-Encoding": "gzip", "Content-Length": str(len(body) + 1)}
    with Loopback(reply(200, body, headers)) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is UnreadableAnswerError
    assert f"is cut: {len(body)} of {len(body) + 1} bytes came" in str(error)


@pytest.mark.parametrize("chunks", [b"5\r\n{....", b"5\r\n{....\r\n", b"5\r\n{....\r\nzz\r\n", b"-5\r\n{....\r\n", b""])
def test_a_chunked_body_that_does_not_end_in_order_is_cut(chunks: bytes, into: Path) -> None:
    with Loopback(raw(head(200, {"Transfer-Encoding": "chunked"}), chunks)) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is UnreadableAnswerError
    assert "is cut" in str(error)


def test_a_connection_broken_in_the_body_may_work_later_but_is_not_retried(into: Path) -> None:
    def script(exchange: Exchange) -> None:
        exchange.write(head(200, {"Content-Length": "1000"}) + b"{")
        exchange.reset()

    with Loopback(script) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is TransientApiError
    assert "(connection reset by peer)" in str(error)
    assert len(server.requests) == 1


def test_a_body_that_falls_silent_may_work_later(into: Path) -> None:
    def script(exchange: Exchange) -> None:
        exchange.write(head(200, {"Content-Length": "1000"}) + b"{")
        exchange.hang()

    with Loopback(script) as server:
        error = fetch_error(server.base_url, into, read_timeout_seconds=0.1)
    assert type(error) is TransientApiError
    assert "broke after 1 bytes (it did not answer in time)" in str(error)


def test_a_body_that_is_not_compressed_as_it_says_is_unreadable(into: Path) -> None:
    with Loopback(reply(200, LIST, {"Content-Encoding": "gzip"})) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is UnreadableAnswerError
    assert "compressed" in str(error)


def test_a_body_of_exactly_the_largest_size_is_accepted(into: Path) -> None:
    with Loopback(reply(200, LIST)) as server:
        client_for(server.base_url, max_bytes=len(LIST)).fetch(into)
        into.unlink()
        error = fetch_error(server.base_url, into, max_bytes=len(LIST) - 1)
    assert type(error) is UnreadableAnswerError
    assert f"larger than {len(LIST) - 1} bytes" in str(error)


def test_a_compressed_body_is_measured_uncompressed_in_bounded_memory(into: Path) -> None:
    bomb = gzip.compress(gzip.compress(bytes(300_000_000), 1), 9)
    headers = {"Content-Encoding": "gzip, gzip"}
    with Loopback(reply(200, bomb, headers)) as server, traced_memory() as peak:
        error = fetch_error(server.base_url, into, max_bytes=20_000_000)
    assert type(error) is UnreadableAnswerError
    assert "larger than" in str(error)
    assert peak[0] < 20_000_000


@contextmanager
def traced_memory() -> Iterator[list[int]]:
    """The most bytes that Python held within the block, as the one item of a list, once it has ended."""
    peak: list[int] = []
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


def test_an_endless_body_ends_at_the_largest_size(into: Path) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.write(head(200, {"Transfer-Encoding": "chunked"}))
        while not exchange.closing.is_set():
            exchange.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")

    with Loopback(endless) as server:
        assert "larger than 1000000 bytes" in str(fetch_error(server.base_url, into, max_bytes=1_000_000))


# The deadline

HTTP_GUARD_SECONDS = 10
"""No timing assertion: a deadline of a second that has not ended anything by then does not work."""


@contextmanager
def ends_soon() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < HTTP_GUARD_SECONDS


def drip_headers(exchange: Exchange) -> None:
    exchange.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    exchange.drip(b"x" * 10_000)


def drip_body_of_known_length(exchange: Exchange) -> None:
    exchange.write(head(200, {"Content-Length": "10000"}))
    exchange.drip(b"x" * 10_000)


def drip_body_until_close(exchange: Exchange) -> None:
    exchange.write(head(200))
    exchange.drip(b"x" * 10_000)


def drip_chunks(exchange: Exchange) -> None:
    exchange.write(head(200, {"Transfer-Encoding": "chunked"}))
    exchange.drip(b"1\r\nx\r\n" * 10_000)


def drip_compressed_body(exchange: Exchange) -> None:
    exchange.write(head(200, {"Content-Encoding": "gzip"}))
    exchange.drip(gzip.compress(LONG_LIST))


def drip_body_of_a_retried_error(exchange: Exchange) -> None:
    exchange.write(head(503))
    exchange.drip(b"x" * 10_000)


@pytest.mark.parametrize(
    "script",
    [
        drip_headers,
        drip_body_of_known_length,
        drip_body_until_close,
        drip_chunks,
        drip_compressed_body,
        drip_body_of_a_retried_error,
        Exchange.hang,
    ],
)
def test_the_deadline_interrupts_a_read_in_progress(script: Script, into: Path) -> None:
    with Loopback(script) as server, ends_soon():
        error = fetch_error(server.base_url, into, deadline_seconds=0.5)
    assert type(error) is TransientApiError
    assert "gave no whole answer within 0.5 s" in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("waits", [{"retry_after_max_seconds": 60}, {"backoff_seconds": 60}])
def test_the_deadline_interrupts_the_wait_between_tries(waits: dict[str, int], into: Path) -> None:
    with Loopback(close, reply(503, headers={"Retry-After": "60"})) as server, ends_soon():
        error = fetch_error(server.base_url, into, deadline_seconds=0.5, **waits)
    assert "gave no whole answer within 0.5 s" in str(error)
    assert len(server.requests) == 2


def test_the_deadline_ends_a_tls_handshake_that_hangs(into: Path) -> None:
    def hang_at_once(exchange: Exchange) -> None:
        exchange.hang()

    with Loopback(hang_at_once) as server, ends_soon():
        error = fetch_error(server.base_url.replace("http:", "https:"), into, deadline_seconds=0.5)
    assert "gave no whole answer within 0.5 s" in str(error)


def test_a_refusal_whose_body_drips_past_the_deadline_is_still_told(into: Path) -> None:
    def script(exchange: Exchange) -> None:
        exchange.write(head(403) + b'{"success": false, "code": 30}')
        exchange.drip(b" " * 10_000)

    with Loopback(script) as server, ends_soon():
        error = fetch_error(server.base_url, into, deadline_seconds=0.5)
    assert type(error) is AccessRefusedError
    assert "code 30" in str(error)


def test_a_fetch_leaves_no_thread_and_no_deadline_behind(into: Path) -> None:
    with Loopback(reply(200, LIST)) as server:
        client_for(server.base_url).fetch(into)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)
            assert not thread.is_alive()


# The clock


def date(difference: timedelta) -> dict[str, str]:
    return {"Date": format_datetime(NOW + difference, usegmt=True)}


@pytest.mark.parametrize("difference", [timedelta(minutes=10, seconds=1), timedelta(minutes=-11), timedelta(days=9000)])
def test_clocks_too_far_apart_fail_before_anything_is_kept(difference: timedelta, into: Path) -> None:
    with Loopback(reply(200, LIST, date(difference))) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is ClockError
    assert f"{NOW + difference:%Y-%m-%d %H:%M:%S} UTC" in str(error)
    assert "2026-03-01 12:00:00" in str(error)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        date(timedelta(minutes=10)),
        date(timedelta(minutes=-10)),
        {"Date": "Sun, 01 Mar 2026 12:00:00 -0000"},
        {"Date": "Sun, 01 Mar 2026 13:00:00 +0100"},
        {"Date": "yesterday"},
        {"Date": ""},
        {"Date": "Sun, 99 Mar 2026 12:00:00 GMT"},
        {"Date": "Sun, 01 Mar 99999999999 12:00:00 GMT"},
        {"Date": "Fri, 31 Dec 9999 23:59:59 -0100"},
        {"Date": "Sun, 01 Mar 2026 12:00:00 +9999"},
    ],
    ids=lambda headers: headers.get("Date", "none"),
)
def test_clocks_close_enough_and_dates_that_cannot_be_read_are_accepted(headers: dict[str, str], into: Path) -> None:
    with Loopback(reply(200, LIST, headers)) as server:
        client_for(server.base_url).fetch(into)


# The disk


def test_a_folder_that_is_not_there_is_a_store_error(tmp_path: Path) -> None:
    with Loopback(reply(200, LIST)) as server:
        error = fetch_error(server.base_url, tmp_path / "nowhere" / "answer")
    assert type(error) is StoreError
    assert "No such file or directory" in str(error)


def test_a_file_that_is_there_is_left_alone(into: Path) -> None:
    into.write_text("precious")
    with Loopback(reply(200, LIST)) as server, pytest.raises(StoreError, match="File exists"):
        client_for(server.base_url).fetch(into)
    assert into.read_text() == "precious"


def test_a_disk_that_is_full_is_a_store_error(into: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Loopback(reply(200, LONG_LIST)) as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            error = fetch_error(server.base_url, into)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert type(error) is StoreError
    assert "File too large" in str(error)


# The key


def echo(exchange: Exchange) -> None:
    """Give the request back where an answer is due."""
    exchange.write(exchange.request.raw)


def echo_in_broken_headers(exchange: Exchange) -> None:
    exchange.write(b"HTTP/1.1 200 OK\r\n" + exchange.request.raw + b"\r\n\r\n" + LIST)


def echo_in_the_body(status: int) -> Script:
    def script(exchange: Exchange) -> None:
        message = f"asked for {exchange.request.target}, key {exchange.request.query['apiKey']}"
        reply_json({"success": False, "code": 96, "message": message}, status)(exchange)

    return script


def echo_in_a_redirect(exchange: Exchange) -> None:
    key = quote(exchange.request.query["apiKey"], safe="")
    reply(302, headers={"Location": f"https://{key}.example/{exchange.request.target}"})(exchange)


@pytest.mark.parametrize(
    "script",
    [
        reply(200, LIST),
        reply(503),
        reply(401),
        close,
        Exchange.reset,
        raw(b"SSH-2.0-x\r\n"),
        reply(200, LIST, {"Content-Length": "1000"}),
        echo,
        echo_in_broken_headers,
        echo_in_the_body(200),
        echo_in_the_body(403),
        echo_in_a_redirect,
    ],
)
def test_the_key_is_in_no_log_record_and_no_error(
    script: Script, into: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with Loopback(script) as server:
        try:
            client_for(server.base_url, retries=1).fetch(into)
        except StopPipelineError as error:
            assert error.__cause__ is None
            assert error.__context__ is None
            assert_keyless("".join(traceback.format_exception(error)))
    assert server.requests[0].query["apiKey"] == KEY
    assert any(record.name.startswith("urllib3") for record in caplog.records)
    for record in caplog.records:
        assert_keyless(f"{record.getMessage()} {record.__dict__}")
    assert_keyless(caplog.text + "".join(capsys.readouterr()))


@pytest.mark.parametrize("column", range(60, 80, 5))
def test_no_part_of_the_key_is_left_where_a_long_message_is_cut_off(column: int, into: Path) -> None:
    with Loopback(reply_json({"success": False, "code": 96, "message": "." * column + KEY})) as server:
        error = fetch_error(server.base_url, into)
    assert "k•y" not in str(error)
    assert "..." in str(error)


def test_the_key_is_struck_out_of_a_redirect_before_its_host_loses_its_capitals(into: Path) -> None:
    with Loopback(reply(302, headers={"Location": "https://AbCdEf.example/"})) as server:
        client = StopListClient("AbCdEf", base_url=server.base_url)
        with pytest.raises(UnexpectedRedirectError) as caught:
            client.fetch(into)
    assert "abcdef" not in str(caught.value)


def test_the_key_is_not_printed_by_http_clients_debugging(
    into: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    with Loopback(reply(200, LIST)) as server:
        client_for(server.base_url).fetch(into)
    assert_keyless(capsys.readouterr().out)


def test_the_key_is_not_shown_by_the_client(into: Path) -> None:
    client = client_for("https://api.example/v1")
    assert_keyless(f"{client!r} {client}")
    assert "api.example" in repr(client)


def test_log_records_outside_a_fetch_are_left_alone(into: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Loopback(reply(200, LIST)) as server:
        client_for(server.base_url).fetch(into)
    logging.getLogger("urllib3.connectionpool").warning("about %s", KEY)
    assert caplog.messages == [f"about {KEY}"]


def test_every_spelling_of_the_key_can_be_struck_out() -> None:
    text = f"{KEY} {quote(KEY)} {quote(KEY, safe='')} {quote_plus(KEY)} {excerpt(KEY)}"
    assert redact(text, secret_forms(KEY)) == " ".join(["[redacted]"] * 5)
    assert client_for("https://api.example/v1").secrets == secret_forms(KEY)
