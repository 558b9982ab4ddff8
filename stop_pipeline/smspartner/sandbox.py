"""A stand-in for SMS Partner on loopback: an HTTP server that serves invented lists as the provider documents.

It shares no code with the client, so that a misreading of the documentation cannot hide by being made twice. Every
phone number comes from a range that never belongs to a person, and every `id` lies far above the provider's.
"""

import json
import sys
import threading
from collections import deque
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

Format = Literal["json", "xml"]

API_KEY = "sandbox-key"
DEFAULT_ROWS = 2_000

_CONTENT_TYPES: dict[Format, str] = {"json": "application/json", "xml": "text/xml; charset=UTF-8"}

_FOREIGN_NUMBERS = np.array(
    [f"+447700900{n:03}" for n in range(1_000)]  # Ofcom's mobile numbers for drama
    + [f"+46701740{n:03}" for n in range(605, 700)]  # the same of the Swedish regulator, PTS
    + [f"+1{area}55501{n:02}" for area in (202, 212, 312, 415, 418, 514, 617, 819) for n in range(100)]
)
"""Numbers reserved for fiction. Most countries reserve none, hence no Belgian and no Swiss ones."""

_NINE_DIGITS = "{}" * 9
_SPELLINGS = [f"+33{_NINE_DIGITS}", f"0{_NINE_DIGITS}", f"0033{_NINE_DIGITS}", "0{} {}{} {}{} {}{} {}{}"]
_SPELLING_SHARES = [0.955, 0.015, 0.015, 0.015]

_IDS_PER_SEED = 100_000_000
_WEEKDAY_WEIGHTS = np.array([1.0, 1.3, 1.1, 1.4, 1.2, 0.5, 0.1])
_HOUR_WEIGHTS = np.array([0] * 7 + [1, 3, 6, 9, 9, 8, 5, 5, 7, 8, 10, 9, 6, 3, 2, 1, 1])
"""In France, advertising by SMS rests at night and on Sundays, and so do the replies. Without night hours no time is
skipped or repeated by a clock change."""

_Row = dict[str, Any]  # as in the provider's JSON
_Times = npt.NDArray[np.datetime64]  # to the second, local as the provider writes them


class Sandbox(ThreadingHTTPServer):
    """The provider's endpoint on 127.0.0.1, which serves from the moment it is made until it is closed.

    `GET {base_url}/stop-sms/list?apiKey=…&_format=json|xml` returns the list of that key, in JSON unless XML is
    requested. The HTTP status of a refusal (codes 1 and 10) is not documented; here it is 200, the harder case for a
    client, since only the body tells a refusal from a list. Any other path is 404, another method 405. Nothing is
    logged, because every URL holds a key.

    Port 0 takes a free one; one that is taken is an OSError. Each of `api_keys` opens its own list, of `rows` rows
    before the day `until`, by default today, in its first response. The seeds of the lists count up from `seed`.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        rows: int = DEFAULT_ROWS,
        seed: int = 0,
        until: date | None = None,
        api_keys: Sequence[str] = (API_KEY,),
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        until = until or today()
        self.lists = {key: StopList(rows, seed + place, until=until) for place, key in enumerate(api_keys)}
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
    server: Sandbox

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        response_format: Format = "xml" if query.get("_format") == "xml" else "json"
        key = query.get("apiKey", "")
        if url.path != "/v1/stop-sms/list":
            self._send(HTTPStatus.NOT_FOUND)
            return
        if key in self.server.lists:
            body = self.server.lists[key].next_response(response_format, today=today())
        else:
            code, message = (10, "Clé API incorrecte") if key else (1, "Clé API requise")
            body = _document(response_format, {"success": False, "code": code, "message": message})
        self._send(HTTPStatus.OK, body, _CONTENT_TYPES[response_format])

    def refuse_method(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = refuse_method  # noqa: N815 (its names)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the parent's name)
        """Say nothing: a request line holds the key."""

    def _send(self, status: HTTPStatus, body: bytes = b"", content_type: str = "text/plain") -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(body)), "Allow": "GET"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _document(response_format: Format, fields: _Row) -> bytes:
    """A response as the provider documents it; XML has the same values as JSON, by their position."""
    if response_format == "json":
        return json.dumps(fields, ensure_ascii=False).encode()
    entries = [_entry(value, "  ") for value in fields.values()]
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', "<result>", *entries, "</result>"]).encode()


def _entry(value: Any, indent: str) -> str:
    if isinstance(value, list | dict):
        parts = value.values() if isinstance(value, dict) else value
        entries = [_entry(part, f"{indent}  ") for part in parts]
        return "\n".join([f"{indent}<entry>", *entries, f"{indent}</entry>"])
    return f"{indent}<entry>{f'<![CDATA[{value}]]>' if isinstance(value, str) else json.dumps(value)}</entry>"


class StopList:
    """An invented list of opt-outs that changes from response to response, in the same way for the same arguments.

    The first response holds five years of growth, with working weeks, office hours and campaigns. A few rows are listed
    twice, a few numbers have opted out twice, a few are foreign or spelled nationally. Between two responses new rows
    join, sometimes a number is removed, and sometimes a removed number returns under a new id; before a quarter of the
    responses nothing happens.

    Nothing here reads a clock. Two lists made with the same arguments (and the same numpy) and asked on the same days
    give the same responses, byte for byte, in any process. A row that joins is dated on the day before the request that
    first lists it. Some rows join after younger ones: the delay that the provider announces.

    The first response has `rows` rows, and ends before the day `until` (Europe/Paris). Lists of different seeds (modulo
    1,000) share no id and can stand for accounts.
    """

    def __init__(self, rows: int = DEFAULT_ROWS, seed: int = 0, *, until: date = date(2026, 1, 1)) -> None:
        self._lock = threading.Lock()
        self._random = np.random.default_rng(seed)
        self._until = until
        self._last_id = 9_000_000_000 + seed % 1_000 * _IDS_PER_SEED
        # First the 10,000 mobile numbers that Arcep reserves for fiction, 06 39 98 xx xx. Then 07 00 xx xx xx: numbers
        # that begin like that have fourteen digits and belong to machines, so one of ten digits is nobody's.
        self._national_numbers = np.concatenate(
            [639_980_000 + self._random.permutation(10_000), 700_000_000 + self._random.permutation(1_000_000)]
        )
        self._numbers_given = 0
        self._removed_numbers: deque[str] = deque()
        self._rows = self._new_rows(self._first_times(rows))
        self._has_responded = False

    def next_response(self, response_format: Format, *, today: date | None = None) -> bytes:
        """Return the next response to a request on this day (Europe/Paris), by default the latest day known.

        Threads may call this at the same time.
        """
        with self._lock:
            self._until = max(self._until, today or self._until)
            if self._has_responded and not self._sometimes(0.25):
                self._change()
            self._has_responded = True
            fields = {"success": True, "code": 200, "nbData": len(self._rows), "data": self._rows}
            return _document(response_format, fields)

    def _change(self) -> None:
        """Let rows join and leave, as they do between one response and the next."""
        returning = [self._removed_numbers.popleft()] if self._removed_numbers and self._sometimes(0.1) else []
        count = int(self._random.integers(1, 6)) + len(returning)
        yesterday = np.datetime64(self._until - timedelta(days=1), "s")
        joining = self._new_rows(yesterday + self._seconds_of_day(count))
        for row, number in zip(joining, returning, strict=False):
            row["phoneNumber"] = number
        self._rows = [*self._rows, *joining]
        if self._sometimes(0.2):  # as by the provider's delete call: every row that spells a number in this way
            number = self._rows[self._random.integers(len(self._rows))]["phoneNumber"]
            self._removed_numbers.append(number)
            self._rows = [row for row in self._rows if row["phoneNumber"] != number]

    def _new_rows(self, times: _Times) -> list[_Row]:
        """Return a row for each of these times, under new ids except for a few repeated rows."""
        ids = self._last_id + self._random.integers(1, 4, len(times)).cumsum()
        self._last_id = int(ids.max(initial=self._last_id))
        rows = [
            {"id": row_id, "phoneNumber": number, "createdAt": str(time)}
            for row_id, number, time in zip(ids.tolist(), self._new_numbers(len(times)), times.tolist(), strict=True)
        ]
        for place in self._random.integers(1, max(len(rows), 2), len(rows) // 400):
            rows[place] = rows[place - 1]
        return rows

    def _new_numbers(self, count: int) -> list[str]:
        """Return the next phone numbers: one in a hundred was given before, a few are foreign or spelled nationally."""
        places = np.arange(self._numbers_given, self._numbers_given + count)
        self._numbers_given += count
        again = self._sometimes(0.01, count)
        places[again] = places[again] * self._random.random(again.sum())
        national = self._national_numbers[places % len(self._national_numbers)].tolist()
        spellings = self._random.choice(_SPELLINGS, count, p=_SPELLING_SHARES).tolist()
        numbers = [spelling.format(*str(number)) for spelling, number in zip(spellings, national, strict=True)]
        for place in np.flatnonzero(self._sometimes(0.03, count)):
            numbers[place] = str(self._random.choice(_FOREIGN_NUMBERS))
        return numbers

    def _first_times(self, count: int) -> _Times:
        """Return growth × week × campaigns, in the order in which the provider learned of the opt-outs."""
        days = np.datetime64(self._until) + np.arange(-5 * 365, 0)
        weekdays = (days.astype("i8") + 3) % 7  # day 0 was a Thursday
        campaigns = self._sometimes(0.08, len(days)) * self._random.uniform(2, 8, len(days))
        replies = np.convolve(campaigns, (1, 0.3, 0.1))[: len(days)]  # on the day of the campaign, and on two more
        weights = np.linspace(0.15, 1, len(days)) * _WEEKDAY_WEIGHTS[weekdays] * (1 + replies)
        midnights: _Times = self._random.choice(days, count, p=weights / weights.sum()).astype("datetime64[s]")
        times = midnights + self._seconds_of_day(count)
        delays = self._sometimes(0.01, count) * self._random.uniform(0, 172_800, count)  # up to 48 hours
        return times[np.argsort(times.astype("i8") + delays, kind="stable")]

    def _seconds_of_day(self, count: int) -> npt.NDArray[np.int64]:
        hours = self._random.choice(len(_HOUR_WEIGHTS), count, p=_HOUR_WEIGHTS / _HOUR_WEIGHTS.sum())
        return hours * 3_600 + self._random.integers(0, 3_600, count)

    def _sometimes(self, share: float, count: int = 1) -> npt.NDArray[np.bool_]:
        return self._random.random(count) < share
