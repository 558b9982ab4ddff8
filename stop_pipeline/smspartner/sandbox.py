"""A stand-in for SMS Partner on loopback: an HTTP server that serves invented lists as the provider documents.

It shares no code with the client, so that a misreading of the documentation cannot hide by being made twice. Every
phone number comes from a range that never belongs to a person, and every `id` lies far above the provider's.
"""

import json
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
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

_IDS_PER_SEED = 100_000_000
_CAMPAIGNS = 150
_WEEKDAY_WEIGHTS = np.array([1.0, 1.3, 1.1, 1.4, 1.2, 0.5, 0.1])
_HOUR_WEIGHTS = np.array([0] * 7 + [1, 3, 6, 9, 9, 8, 5, 5, 7, 8, 10, 9, 6, 3, 2, 1, 1])
"""In France, advertising by SMS rests at night and on Sundays, and so do the replies. Without night hours no time is
skipped or repeated by a clock change."""

_Rows = npt.NDArray[np.void]
_Times = npt.NDArray[np.datetime64]  # to the second, local as the provider writes them
_ROW = np.dtype([("id", "i8"), ("phone_number", "U15"), ("created_at", "U19")])
_XML_BEGINS = ['<?xml version="1.0" encoding="UTF-8"?>', "<result>"]


class Sandbox(ThreadingHTTPServer):
    """The provider's endpoint on 127.0.0.1, which serves from the moment it is made until it is closed.

    `GET {base_url}/stop-sms/list?apiKey=…&_format=json|xml` returns the list of that key, in JSON unless XML is
    requested. The HTTP status of a refusal (codes 1 and 10) is not documented; here it is 200, the harder case for a
    client, since only the body tells a refusal from a list. Any other path is 404, another method 405. Nothing is
    logged, because every URL holds a key.

    Port 0 takes a free one; one that is taken is an OSError. Each of `api_keys` opens its own list, of `rows` rows up
    to yesterday in its first response. The seeds of the lists count up from `seed`.
    """

    def __init__(
        self, *, port: int = 0, rows: int = DEFAULT_ROWS, seed: int = 0, api_keys: Sequence[str] = (API_KEY,)
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.lists = {key: StopList(rows, seed + place, until=today()) for place, key in enumerate(api_keys)}
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
        query = dict(parse_qsl(url.query))
        response_format: Format = "xml" if query.get("_format") == "xml" else "json"
        key = query.get("apiKey", "")
        if key in self.server.lists:
            body = self.server.lists[key].next_response(response_format, today=today())
        else:
            refusal = (10, "Clé API incorrecte") if key else (1, "Clé API requise")
            body = refusal_document(response_format, *refusal)
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


def list_document(response_format: Format, rows: Sequence[tuple[Any, ...]]) -> bytes:
    """Return a list as the provider documents it; a row is an id, a number and a date."""
    if response_format == "json":
        data = [dict(zip(("id", "phoneNumber", "createdAt"), row, strict=True)) for row in rows]
        return json.dumps({"success": True, "code": 200, "nbData": len(rows), "data": data}).encode()
    lines = ["  <entry>true</entry>", "  <entry>200</entry>", f"  <entry>{len(rows)}</entry>", "  <entry>"]
    for row_id, number, created_at in rows:
        lines += ["    <entry>", f"      <entry>{row_id}</entry>", f"      <entry><![CDATA[{number}]]></entry>"]
        lines += [f"      <entry><![CDATA[{created_at}]]></entry>", "    </entry>"]
    return "\n".join([*_XML_BEGINS, *lines, "  </entry>", "</result>"]).encode()


def refusal_document(response_format: Format, code: int, message: str) -> bytes:
    """Return an error as the provider documents it."""
    if response_format == "json":
        return json.dumps({"success": False, "code": code, "message": message}, ensure_ascii=False).encode()
    entries = [f"  <entry>{value}</entry>" for value in ("false", code, f"<![CDATA[{message}]]>")]
    return "\n".join([*_XML_BEGINS, *entries, "</result>"]).encode()


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
        times = self._first_times(rows)
        self._rows = self._new_rows(times) if len(times) else np.empty(0, _ROW)
        self._documents: dict[Format, bytes] = {}

    def next_response(self, response_format: Format, *, today: date | None = None) -> bytes:
        """Return the next response to a request on this day (Europe/Paris), by default the latest day known.

        Threads may call this at the same time.
        """
        with self._lock:
            self._until = max(self._until, today or self._until)
            if self._documents and not self._sometimes(0.25):
                self._change()
                self._documents.clear()
            if response_format not in self._documents:
                self._documents[response_format] = list_document(response_format, self._rows.tolist())
            return self._documents[response_format]

    def _change(self) -> None:
        """Let rows join and leave, as they do between one response and the next."""
        joining = [self._new_rows(self._times_of_yesterday(int(self._random.integers(1, 6))))]
        if self._removed_numbers and self._sometimes(0.1):
            returned = self._new_rows(self._times_of_yesterday(1))
            returned["phone_number"] = self._removed_numbers.popleft()
            joining.append(returned)
        self._rows = np.concatenate([self._rows, *joining])
        if self._sometimes(0.2):  # as by the provider's delete call: every row that spells a number in this way
            number = self._random.choice(self._rows["phone_number"])
            self._removed_numbers.append(number)
            self._rows = self._rows[self._rows["phone_number"] != number]

    def _new_rows(self, times: _Times) -> _Rows:
        """Return a row for each of these times (at least one), under new ids except for a few repeated rows."""
        rows = np.empty(len(times), _ROW)
        rows["id"] = self._last_id + self._random.integers(1, 4, len(times)).cumsum()
        rows["phone_number"] = self._new_numbers(len(times))
        rows["created_at"] = np.char.replace(np.datetime_as_string(times), "T", " ")
        self._last_id = int(rows["id"][-1])
        repeated = self._random.integers(1, max(len(times), 2), len(times) // 400)
        rows[repeated] = rows[repeated - 1]
        return rows

    def _new_numbers(self, count: int) -> npt.NDArray[np.str_]:
        """Return the next phone numbers: one in a hundred was given before, a few are foreign or spelled nationally."""
        places = np.arange(self._numbers_given, self._numbers_given + count)
        self._numbers_given += count
        again = self._sometimes(0.01, count)
        places[again] = places[again] * self._random.random(again.sum())
        national = self._national_numbers[places % len(self._national_numbers)].tolist()
        numbers = np.array([f"+33{number}" for number in national], _ROW["phone_number"])
        for place in np.flatnonzero(self._sometimes(0.04, count)):
            digits = f"0{national[place]}"
            spellings = (digits, " ".join(digits[at : at + 2] for at in range(0, 10, 2)), f"0033{digits[1:]}")
            numbers[place] = spellings[self._random.integers(len(spellings))]
        foreign = self._sometimes(0.03, count)
        numbers[foreign] = self._random.choice(_FOREIGN_NUMBERS, foreign.sum())
        return numbers

    def _first_times(self, count: int) -> _Times:
        """Return growth × week × campaigns, in the order in which the provider learned of the opt-outs."""
        days = np.datetime64(self._until) + np.arange(-5 * 365, 0)
        weekdays = (days.astype("i8") + 3) % 7  # day 0 was a Thursday
        weights = np.linspace(0.15, 1, len(days)) * _WEEKDAY_WEIGHTS[weekdays]
        campaigns = self._random.choice(len(days) - 2, _CAMPAIGNS, replace=False)
        replies = self._random.uniform(2, 8, _CAMPAIGNS)
        for days_after, share in enumerate((1, 0.3, 0.1)):
            weights[campaigns + days_after] *= 1 + replies * share
        midnights: _Times = self._random.choice(days, count, p=weights / weights.sum()).astype("datetime64[s]")
        times = midnights + self._seconds_of_day(count)
        few_seconds, up_to_48_hours = self._random.exponential(5, count), self._random.uniform(0, 172_800, count)
        delays = np.where(self._sometimes(0.01, count), up_to_48_hours, few_seconds)
        return times[np.argsort(times.astype("i8") + delays, kind="stable")]

    def _times_of_yesterday(self, count: int) -> _Times:
        """Return times in the evening, or at any hour of the day for a row that comes late."""
        evening = 24 * 3_600 - self._random.integers(1, 4 * 3_600, count)
        seconds = np.where(self._sometimes(0.15, count), self._seconds_of_day(count), evening)
        return np.datetime64(self._until - timedelta(days=1), "s") + seconds

    def _seconds_of_day(self, count: int) -> npt.NDArray[np.int64]:
        hours = self._random.choice(len(_HOUR_WEIGHTS), count, p=_HOUR_WEIGHTS / _HOUR_WEIGHTS.sum())
        return hours * 3_600 + self._random.integers(0, 3_600, count)

    def _sometimes(self, share: float, count: int = 1) -> npt.NDArray[np.bool_]:
        return self._random.random(count) < share
