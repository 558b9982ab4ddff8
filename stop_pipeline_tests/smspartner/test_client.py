"""One fetch gives the whole list on disk, or a typed error that says why not."""

import gzip
import hashlib
import resource
import stat
import threading
import tracemalloc
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from stop_pipeline.errors import (
    ApiError,
    KeyRefusedError,
    StopPipelineError,
    StoreError,
    TransientApiError,
    UnreadableResponseError,
)
from stop_pipeline.smspartner.client import MAX_ENVELOPE_BYTES
from stop_pipeline_tests.support.fetching import (
    KEY,
    LIST,
    LONG_LIST,
    NOW,
    assert_keyless,
    client_for,
    fetch,
    fetch_error,
)
from stop_pipeline_tests.support.loopback import Exchange, Loopback, Script, head, raw, reply, reply_json


def assert_fails(script: Script, kind: type[StopPipelineError], sentence: str, into: Path, **settings: Any) -> None:
    """The fetch ends with an error of exactly this kind that says this, without a second try."""
    with Loopback(script) as server:
        error = fetch_error(server.base_url, into, **settings)
    assert type(error) is kind
    assert sentence in str(error)
    assert len(server.requests) == 1


# What is asked


def test_the_list_is_asked_for_with_the_key_and_the_format(into: Path) -> None:
    with Loopback(reply(200, LIST)) as server:
        client_for(server.base_url, response_format="xml").fetch(into)
    [request] = server.requests
    assert (request.method, request.path) == ("GET", "/v1/stop-sms/list")
    assert request.query == {"apiKey": KEY, "_format": "xml"}
    assert request.headers["User-Agent"] == "stop_pipeline"
    assert request.headers["Cache-Control"] == "no-cache"


def use_proxy(monkeypatch: pytest.MonkeyPatch, scheme: str, port: int) -> None:
    for variable in ("no_proxy", f"{scheme}_proxy"):
        monkeypatch.delenv(variable.upper(), raising=False)
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{port}")


def test_a_loopback_address_is_never_asked_through_a_proxy(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(reply(200, LIST)) as server, Loopback(reply(502)) as proxy:
        use_proxy(monkeypatch, "http", proxy.port)
        client_for(server.base_url).fetch(into)
    assert proxy.requests == []


def test_https_goes_through_the_proxy_of_the_environment_which_never_sees_the_key(
    into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loopback(raw(f"HTTP/1.1 407 No {KEY}\r\n\r\n".encode())) as proxy:
        use_proxy(monkeypatch, "https", proxy.port)
        error = fetch_error("https://api.smspartner.invalid/v1", into, retries=0)
    [request] = proxy.requests
    assert (request.method, request.target) == ("CONNECT", "api.smspartner.invalid:443")
    assert_keyless(request.raw.decode())
    assert type(error) is TransientApiError
    assert "Tunnel connection failed: ••• No [redacted]" in str(error)


@pytest.mark.parametrize("password", ["Sesame/Open", "Sesame#Open", "Sesame?Open", "Sesame\\Open"])
def test_an_address_of_a_proxy_that_is_not_valid_is_told_without_it(
    into: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    use_proxy(monkeypatch, "https", 1)
    monkeypatch.setenv("https_proxy", f"http://user:{password}@127.0.0.1:1")
    error = fetch_error("https://api.smspartner.invalid/v1", into, retries=0)
    assert "the address of the proxy, HTTPS_PROXY, is not valid" in str(error)
    assert "sesame" not in str(error).lower()


# What is given


def test_a_response_says_what_came_and_when_its_headers_came(into: Path) -> None:
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

    response = fetch(into, script, clock=clock)
    assert response.path == into
    assert response.path.read_bytes() == LIST
    assert response.format == "json"
    assert response.fetched_at == NOW
    assert response.sha256 == hashlib.sha256(LIST).hexdigest()
    assert response.size_bytes == len(LIST)
    assert 0 < response.seconds < 10


def test_the_file_is_readable_by_its_owner_only(into: Path) -> None:
    fetch(into, reply(200, LIST))
    assert stat.S_IMODE(into.stat().st_mode) == 0o600


def test_a_compressed_response_is_stored_uncompressed(into: Path) -> None:
    with Loopback(reply(200, gzip.compress(LONG_LIST), {"Content-Encoding": "gzip"})) as server:
        response = client_for(server.base_url).fetch(into)
    assert server.requests[0].headers["Accept-Encoding"] == "gzip"
    assert into.read_bytes() == LONG_LIST
    assert response.sha256 == hashlib.sha256(LONG_LIST).hexdigest()


def test_a_chunked_response_is_put_together(into: Path) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (LIST[:9], LIST[9:], b""))
    fetch(into, raw(head(200, {"Transfer-Encoding": "chunked"}), chunks))
    assert into.read_bytes() == LIST


def test_a_response_that_ends_with_the_connection_is_accepted(into: Path) -> None:
    assert fetch(into, raw(head(200), LIST)).size_bytes == len(LIST)


def test_a_long_download_is_logged_every_twenty_megabytes(into: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Loopback(reply(200, b" " * 45_000_000 + LIST)) as server, caplog.at_level("INFO"):
        client_for(server.base_url).fetch(into)
    assert caplog.messages == [f"Fetching the list, {size} MB so far" for size in (20, 40)]


def test_what_is_not_an_error_document_is_left_to_the_parser(into: Path) -> None:
    for body in (b"<html>Welcome</html>", b"[]", b'{"rows": 1}', b"\xff"):
        fetch(into, reply(200, body))
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
@pytest.mark.parametrize("response_format", ["json", "xml"])
@pytest.mark.parametrize(
    "body",
    [
        '{"success": false, "code": 10, "message": "Clé API incorrecte"}',
        "<result><entry>false</entry><entry>10</entry><entry><![CDATA[Clé API incorrecte]]></entry></result>",
    ],
    ids=["as JSON", "as XML"],
)
def test_a_refused_key_is_told_by_the_body_under_whatever_status_and_format(
    body: str, response_format: str, status: int, into: Path
) -> None:
    with Loopback(reply(status, body.encode())) as server:
        error = fetch_error(server.base_url, into, response_format=response_format)
    assert type(error) is KeyRefusedError
    assert "code 10, “Clé API incorrecte”" in str(error)
    assert (f"HTTP {status}" in str(error)) == (status != 200)


@pytest.mark.parametrize("encoding", ["iso-8859-1", "utf-16", "utf-8-sig", "cp437"])
@pytest.mark.parametrize("status", [200, 401])
def test_a_refused_key_is_told_in_whatever_encoding(status: int, encoding: str, into: Path) -> None:
    body = '{"success": false, "code": 10, "message": "Clé API incorrecte"}'.encode(encoding)
    assert_fails(reply(status, body), KeyRefusedError, "code 10", into)


def test_a_large_response_is_left_to_the_parser_even_if_it_says_that_it_failed(into: Path) -> None:
    body = b'{"success": false, "code": 10, "message": "' + b"x" * MAX_ENVELOPE_BYTES + b'"}'
    fetch(into, reply(200, body))
    assert into.read_bytes() == body


@pytest.mark.parametrize(("status", "kind"), [(401, KeyRefusedError), (403, ApiError), (404, ApiError)])
def test_an_error_without_the_documented_body_is_judged_by_its_status_and_quoted(
    status: int, kind: type[ApiError], into: Path
) -> None:
    told = f"HTTP {status}, “<h•>Not for you, +•••••••••••</h•>”"
    assert_fails(reply(status, b"<h1>Not\n for you, +33612345678</h1>"), kind, told, into)


# Redirects


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("https://elsewhere.example:8443/secret?apiKey=1", " redirect to elsewhere.example (HTTP"),
        ("https://elsewhere.example", " redirect to elsewhere.example (HTTP"),
        ("https://secret:secret@elsewhere.example/", " redirect (HTTP"),
        ("/secret", " redirect (HTTP"),
        ("//[", " redirect (HTTP"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_only_its_host_is_named(
    status: int, location: str, named: str, into: Path
) -> None:
    with Loopback(reply(status, b"moved", {"Location": location}), reply(200, LIST)) as server:
        error = fetch_error(server.base_url, into)
    assert len(server.requests) == 1
    assert type(error) is ApiError
    assert named in str(error)
    assert "secret" not in str(error)


# No whole list


def endless(headers: bytes, piece: bytes = b"x" * 65_536) -> Script:
    def script(exchange: Exchange) -> None:
        exchange.write(headers)
        while not exchange.closing.is_set():
            exchange.write(piece)

    return script


def cut(body: bytes, headers: dict[str, str]) -> Script:
    return reply(200, body, headers | {"Content-Length": str(len(body) + 1)})


CHUNKED, ZIPPED, GZIP = (
    head(200, {"Transfer-Encoding": "chunked"}),
    gzip.compress(LONG_LIST),
    {"Content-Encoding": "gzip"},
)
CUT_REFUSAL = reply(403, b'{"success": false, "code": 20, "message": "off"}', {"Content-Length": "1000"})
NO_LIST: dict[str, tuple[Script, type[ApiError], str]] = {
    "a documented code where success is claimed": (reply_json({"success": True, "code": 96}), ApiError, "code 96"),
    "a refusal that is cut": (CUT_REFUSAL, ApiError, "code 20, “off”"),
    "an error without end": (endless(head(403)), ApiError, "HTTP 403"),
    "a redirect without end": (endless(head(302, {"Location": "/login"})), ApiError, "redirect"),
    "HTTP 201": (raw(head(201), LIST), UnreadableResponseError, "HTTP 201"),
    "HTTP 204": (raw(head(204)), UnreadableResponseError, "HTTP 204"),
    "HTTP 206": (raw(head(206), LIST), UnreadableResponseError, "HTTP 206"),
    "nothing": (reply(200, b""), UnreadableResponseError, "is empty, not even an empty list"),
    "a cut body": (cut(LIST, {}), UnreadableResponseError, f"truncated, {len(LIST)} of {len(LIST) + 1} bytes arrived"),
    "a cut compressed body": (
        cut(ZIPPED, GZIP),
        UnreadableResponseError,
        f"truncated, {len(ZIPPED)} of {len(ZIPPED) + 1}",
    ),
    "a body that is not compressed": (reply(200, LIST, GZIP), UnreadableResponseError, "not compressed as its headers"),
    **{
        f"chunks {chunks!r}": (raw(CHUNKED, chunks), UnreadableResponseError, "is truncated")
        for chunks in (b"5\r\n{....", b"5\r\n{....\r\n", b"5\r\n{....\r\nzz\r\n", b"-5\r\n{....\r\n", b"")
    },
}


@pytest.mark.parametrize(("script", "kind", "sentence"), NO_LIST.values(), ids=NO_LIST.keys())
def test_a_response_that_is_not_a_whole_list_is_an_error_that_says_why(
    script: Script, kind: type[ApiError], sentence: str, into: Path
) -> None:
    assert_fails(script, kind, sentence, into)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (Exchange.reset, "(connection reset by peer)"),
        (Exchange.hang, "broke after 1 bytes (it did not respond in time)"),
    ],
)
def test_a_connection_that_breaks_in_the_body_may_work_later_but_is_not_retried(
    end: Script, told: str, into: Path
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.write(head(200, {"Content-Length": "1000"}) + b"{")
        end(exchange)

    assert_fails(script, TransientApiError, told, into, timeout_seconds=(1, 0.1))


def test_a_body_of_exactly_the_largest_size_is_accepted(into: Path) -> None:
    with Loopback(reply(200, LIST)) as server:
        client_for(server.base_url, max_bytes=len(LIST)).fetch(into)
        into.unlink()
        error = fetch_error(server.base_url, into, max_bytes=len(LIST) - 1)
    assert type(error) is UnreadableResponseError
    assert f"larger than {len(LIST) - 1} bytes" in str(error)


def test_a_compressed_body_is_measured_uncompressed_in_bounded_memory(into: Path) -> None:
    bomb = gzip.compress(gzip.compress(bytes(100_000_000), 1), 9)
    with Loopback(reply(200, bomb, {"Content-Encoding": "gzip, gzip"})) as server:
        tracemalloc.start()
        try:
            error = fetch_error(server.base_url, into, max_bytes=20_000_000)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert type(error) is UnreadableResponseError
    assert "larger than" in str(error)
    assert peak_bytes < 20_000_000


def test_an_endless_body_ends_at_the_largest_size(into: Path) -> None:
    script = endless(CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n")
    told = (
        "larger than 1000000 bytes: nothing was changed; if the list is really that long, report it to the maintainers "
        "of stop_pipeline."
    )
    assert_fails(script, UnreadableResponseError, told, into, max_bytes=1_000_000)


# The clock


def date(difference: timedelta) -> dict[str, str]:
    return {"Date": format_datetime(NOW + difference, usegmt=True)}


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        (date(timedelta(minutes=10, seconds=1)), "2026-03-01 12:10:01"),
        (date(timedelta(minutes=-11)), "2026-03-01 11:49:00"),
        (date(timedelta(days=9000)), "2050-10-21 12:00:00"),
        ({"Date": "Fri, 31 Dec 9999 23:59:59 -0100"}, "9999-12-31 23:59:59"),
    ],
    ids=lambda value: value.get("Date", "") if isinstance(value, dict) else "",
)
def test_clocks_too_far_apart_fail_before_anything_is_kept(headers: dict[str, str], told: str, into: Path) -> None:
    with Loopback(reply(200, LIST, headers)) as server:
        error = fetch_error(server.base_url, into)
    assert type(error) is ApiError
    assert f"SMS Partner's clock says {told} UTC" in str(error)
    assert "this machine's says 2026-03-01 12:00:00 UTC" in str(error)


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
        {"Date": "Sun, 01 Mar 2026 12:00:00 +9999"},
    ],
    ids=lambda headers: headers.get("Date", "none"),
)
def test_clocks_close_enough_and_dates_that_cannot_be_read_are_accepted(headers: dict[str, str], into: Path) -> None:
    fetch(into, reply(200, LIST, headers))


@pytest.mark.parametrize(("age", "seconds"), [("480", 480), ("0", 0), ("-5", 0), ("1e9", 0), ("", 0)])
def test_a_copy_that_a_proxy_had_kept_is_as_old_as_it_says(age: str, seconds: int, into: Path) -> None:
    sent_at = NOW - timedelta(seconds=seconds)
    headers = {"Age": age, "Date": format_datetime(sent_at, usegmt=True)}
    assert fetch(into, reply(200, LIST, headers), clock=lambda: NOW).fetched_at == sent_at


# The disk


def test_a_folder_that_is_not_there_is_a_store_error(tmp_path: Path) -> None:
    with Loopback(reply(200, LIST)) as server:
        error = fetch_error(server.base_url, tmp_path / "nowhere" / "response")
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
