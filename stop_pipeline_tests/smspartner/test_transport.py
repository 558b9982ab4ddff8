"""Retries, the deadline, and the key that nothing prints, seen through the client over real connections."""

import gzip
import http.client
import logging
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from stop_pipeline.errors import (
    ApiError,
    StopPipelineError,
    TransientApiError,
    excerpt,
    redact,
    secret_forms,
)
from stop_pipeline.smspartner.client import StopListClient
from stop_pipeline_tests.support.fetching import KEY, LIST, LONG_LIST, assert_keyless, client_for, fetch, fetch_error
from stop_pipeline_tests.support.loopback import Exchange, Loopback, Script, head, raw, reply, reply_json

RETRIED = [429, 500, 502, 503, 504]


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
    """Close without a response."""


def test_a_connection_closed_without_a_response_is_retried(into: Path) -> None:
    with Loopback(close, Exchange.reset, raw(b"SSH-2.0-x\r\n"), reply(200, LIST)) as server:
        client_for(server.base_url).fetch(into)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (close, "it closed the connection"),
        (Exchange.reset, "connection reset by peer"),
        (raw(b"SSH-2.0-x\r\n"), "it did not respond in valid HTTP"),
        (Exchange.hang, "it did not respond in time"),
    ],
)
def test_a_server_that_does_not_respond_is_given_up_after_the_retries(script: Script, reason: str, into: Path) -> None:
    with Loopback(script) as server:
        error = fetch_error(server.base_url, into, retries=1, timeout_seconds=(1, 0.1))
    assert len(server.requests) == 2
    assert type(error) is TransientApiError
    where = f"127.0.0.1:{server.port} after 2 tries ({reason})"
    assert f"SMS Partner could not be reached at {where}" in str(error)


def test_contradicting_headers_are_no_response(into: Path) -> None:
    with Loopback(reply(200, LIST, {"Content-Length": "1, 2"})) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is TransientApiError
    assert "valid HTTP" in str(error)


def test_the_server_says_how_long_to_wait_up_to_the_cap(into: Path) -> None:
    with Loopback(reply(429, headers={"Retry-After": "3600"}), reply(200, LIST)) as server:
        client_for(server.base_url, retry_after_max_seconds=0.3).fetch(into)
    first, second = server.requests
    assert 0.2 < second.arrived_at - first.arrived_at < 60


@pytest.mark.parametrize("retry_after", ["soon", "9" * 5000, "Fri, 99 Dec 9999 99:99:99 GMT"])
def test_an_unreadable_retry_after_counts_as_none(retry_after: str, into: Path) -> None:
    fetch(into, reply(503, headers={"Retry-After": retry_after}), reply(200, LIST))


def test_waits_grow_from_try_to_try(into: Path) -> None:
    with Loopback(reply(503), reply(503), reply(503), reply(200, LIST)) as server:
        client_for(server.base_url, backoff_seconds=0.05).fetch(into)
    times = [request.arrived_at for request in server.requests]
    assert times[2] - times[1] > 0.09
    assert times[3] - times[2] > 0.19


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
        error = fetch_error(server_without_tls, into, retries=0, timeout_seconds=(0.2, 0.2))
    assert type(error) is TransientApiError


def test_a_ca_bundle_that_is_not_there_is_told(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    assert "/nowhere.pem" in str(fetch_error("https://nonexistent.invalid/v1", into))


# The deadline

HTTP_GUARD_SECONDS = 10
"""No timing assertion: a deadline of a second that has not ended anything by then does not work."""


@contextmanager
def ends_soon() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < HTTP_GUARD_SECONDS


def dripping(start: bytes, rest: bytes = b"x" * 10_000) -> Script:
    """A response that goes on byte by byte once it has begun."""

    def script(exchange: Exchange) -> None:
        exchange.write(start)
        exchange.drip(rest)

    return script


IN_PROGRESS = {
    "headers": dripping(b"HTTP/1.1 200 OK\r\nX-Long: "),
    "a body of known length": dripping(head(200, {"Content-Length": "10000"})),
    "a body until the connection closes": dripping(head(200)),
    "chunks": dripping(head(200, {"Transfer-Encoding": "chunked"}), b"1\r\nx\r\n" * 10_000),
    "a compressed body": dripping(head(200, {"Content-Encoding": "gzip"}), gzip.compress(LONG_LIST)),
    "the body of an error that is retried": dripping(head(503)),
    "nothing": Exchange.hang,
}


@pytest.mark.parametrize("script", IN_PROGRESS.values(), ids=IN_PROGRESS.keys())
def test_the_deadline_interrupts_a_read_in_progress(script: Script, into: Path) -> None:
    with Loopback(script) as server, ends_soon():
        error = fetch_error(server.base_url, into, deadline_seconds=0.3)
    assert type(error) is TransientApiError
    assert "sent no complete response within 0.3 s" in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("waits", [{"retry_after_max_seconds": 60}, {"backoff_seconds": 60}])
def test_the_deadline_interrupts_the_wait_between_tries(waits: dict[str, int], into: Path) -> None:
    with Loopback(close, reply(503, headers={"Retry-After": "60"})) as server, ends_soon():
        error = fetch_error(server.base_url, into, deadline_seconds=0.3, **waits)
    assert "sent no complete response within 0.3 s" in str(error)
    assert len(server.requests) == 2


def test_the_deadline_ends_a_tls_handshake_that_hangs(into: Path) -> None:
    with Loopback(Exchange.hang) as server, ends_soon():
        error = fetch_error(server.base_url.replace("http:", "https:"), into, deadline_seconds=0.3)
    assert "sent no complete response within 0.3 s" in str(error)


def test_a_refusal_whose_body_drips_past_the_deadline_is_still_told(into: Path) -> None:
    script = dripping(head(403) + b'{"success": false, "code": 30}', b" " * 10_000)
    with Loopback(script) as server, ends_soon():
        error = fetch_error(server.base_url, into, deadline_seconds=0.3)
    assert type(error) is ApiError
    assert "code 30" in str(error)


def test_a_fetch_leaves_no_thread_and_no_deadline_behind(into: Path) -> None:
    fetch(into, reply(200, LIST))
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)
            assert not thread.is_alive()


# The key


def echo(exchange: Exchange) -> None:
    """Give the request back where a response is due."""
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
        with pytest.raises(ApiError, match="responded with a redirect") as caught:
            client.fetch(into)
    assert "abcdef" not in str(caught.value)


def test_the_key_is_not_printed_by_http_clients_debugging(
    into: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    fetch(into, reply(200, LIST))
    assert_keyless(capsys.readouterr().out)


def test_the_key_is_not_shown_by_the_client(into: Path) -> None:
    client = client_for("https://api.example/v1")
    assert_keyless(f"{client!r} {client}")
    assert "api.example" in repr(client)


def test_log_records_outside_a_fetch_are_left_alone(into: Path, caplog: pytest.LogCaptureFixture) -> None:
    fetch(into, reply(200, LIST))
    logging.getLogger("urllib3.connectionpool").warning("about %s", KEY)
    assert caplog.messages == [f"about {KEY}"]


def test_every_spelling_of_the_key_can_be_struck_out() -> None:
    text = f"{KEY} {quote(KEY)} {quote(KEY, safe='')} {quote_plus(KEY)} {excerpt(KEY)}"
    assert redact(text, secret_forms(KEY)) == " ".join(["[redacted]"] * 5)
    assert client_for("https://api.example/v1").secrets == secret_forms(KEY)


@pytest.mark.parametrize(
    ("key", "spelled"),
    [
        ("ab/cd-EFGH", r"ab\/cd-EFGH"),
        ("ab&cd-EFGH", "ab&amp;cd-EFGH"),
        ("ab'cd-EFGH", "ab&#x27;cd-EFGH"),
        ("abcdEFGH/ijkl", "abcdEFGH%2fijkl"),
        ('ab"cdé', r"ab\"cd\u00e9"),
    ],
)
def test_a_key_is_struck_out_as_json_html_and_other_servers_spell_it(key: str, spelled: str) -> None:
    assert redact(f"<{spelled}>", secret_forms(key)) == "<[redacted]>"
