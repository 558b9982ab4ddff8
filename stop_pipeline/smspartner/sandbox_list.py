"""An invented STOP list that changes from response to response, for the stand-in, for demos, tests and benchmarks.

It shares no code with the client, so that a misreading of the documentation cannot hide by being made twice. Every
phone number comes from a range that never belongs to a person, and every `id` lies far above the provider's.
"""

import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

import numpy as np
import numpy.typing as npt

Format = Literal["json", "xml"]

DEFAULT_ROWS = 2_000
DEFAULT_UNTIL = date(2026, 1, 1)
FIRST_ID = 9_000_000_000
IDS_PER_SEED = 100_000_000

_FOREIGN_NUMBERS = np.array(
    [b"+447700900%03d" % n for n in range(1_000)]  # Ofcom's mobile numbers for drama
    + [b"+46701740%03d" % n for n in range(605, 700)]  # the same of the Swedish regulator, PTS
    + [b"+1%d55501%02d" % (area, n) for area in (202, 212, 312, 415, 418, 514, 617, 819) for n in range(100)]
)
"""Numbers reserved for fiction. Most countries reserve none, hence no Belgian and no Swiss ones."""

_YEARS = 5
_CAMPAIGNS = 150
_WEEKDAY_WEIGHTS = np.array([1.0, 1.3, 1.1, 1.4, 1.2, 0.5, 0.1])
_HOUR_WEIGHTS = np.array([0] * 7 + [1, 3, 6, 9, 9, 8, 5, 5, 7, 8, 10, 9, 6, 3, 2, 1, 1])
"""In France, advertising by SMS rests at night and on Sundays, and so do the replies. Without night hours no time is
skipped or repeated by a clock change."""

_DAY_SECONDS = 86_400
_BLOCK_ROWS = 10_000
"""Number of rows that are rendered anew when one of them changes: about ten milliseconds' worth."""

_Rows = npt.NDArray[np.void]
_Times = npt.NDArray[np.int64]
"""Wall-clock times as the provider writes them, without a zone, in seconds since 1970-01-01 00:00:00."""
_ROW = np.dtype([("id", "i8"), ("phone_number", "S15"), ("created_at", "S19")])


@dataclass(frozen=True)
class Document:
    """How one format writes the documented responses."""

    content_type: str
    head: bytes
    row: bytes
    row_without_date: bytes
    between_rows: bytes
    tail: bytes
    refusal: str


DOCUMENTS: dict[Format, Document] = {
    "json": Document(
        content_type="application/json",
        head=b'{"success": true, "code": 200, "nbData": %d, "data": [',
        row=b'{"id": %d, "phoneNumber": "%s", "createdAt": "%s"}',
        row_without_date=b'{"id": %d, "phoneNumber": "%s"}',
        between_rows=b", ",
        tail=b"]}",
        refusal='{"success": false, "code": %d, "message": "%s"}',
    ),
    "xml": Document(
        content_type="text/xml; charset=UTF-8",
        head=b"""<?xml version="1.0" encoding="UTF-8"?>
<result>
  <entry>true</entry>
  <entry>200</entry>
  <entry>%d</entry>
  <entry>
""",
        row=b"""    <entry>
      <entry>%d</entry>
      <entry><![CDATA[%s]]></entry>
      <entry><![CDATA[%s]]></entry>
    </entry>
""",
        row_without_date=b"""    <entry>
      <entry>%d</entry>
      <entry><![CDATA[%s]]></entry>
    </entry>
""",
        between_rows=b"",
        tail=b"  </entry>\n</result>",
        refusal="""<?xml version="1.0" encoding="UTF-8"?>
<result>
  <entry>false</entry>
  <entry>%d</entry>
  <entry><![CDATA[%s]]></entry>
</result>""",
    ),
}


@dataclass(frozen=True)
class _Block:
    """Neighbouring rows, at least one, and their text in each format that was requested."""

    rows: _Rows
    texts: dict[Format, bytes] = field(default_factory=dict)

    def text(self, response_format: Format) -> bytes:
        if response_format not in self.texts:
            document = DOCUMENTS[response_format]
            self.texts[response_format] = document.between_rows.join(map(document.row.__mod__, self.rows.tolist()))
        return self.texts[response_format]


class StopList:
    """An invented list of opt-outs that changes from response to response, in the same way for the same arguments.

    The first response holds exactly `rows` rows: five years of growth, with working weeks, office hours and campaigns.
    A few rows are listed twice, a few numbers have opted out twice, a few are foreign or spelled nationally. Between
    two responses new rows join, sometimes a number is removed, and sometimes a removed number returns under a new id;
    before a quarter of the responses nothing happens.

    Nothing here reads a clock: days come in as arguments. Two lists made with the same arguments (and the same numpy)
    and asked on the same days give the same responses, byte for byte, in any process. The list ends with the day before
    `until`. A row that joins is dated on the day before the request that first lists it, so never in the future and at
    most 48 hours earlier. Some rows join after younger ones: the delay that the provider announces.

    Args:
        rows: Number of rows in the first response.
        seed: Tells lists apart; those of different seeds (modulo 1,000) share no id and can stand for accounts.
        until: First day (Europe/Paris) that the list does not reach.
        changes: Whether the list changes at all.
        malformed: How many of `rows` are malformed: in turn without `createdAt`, on 30 February, without a number.
    """

    def __init__(
        self,
        rows: int = DEFAULT_ROWS,
        seed: int = 0,
        *,
        until: date = DEFAULT_UNTIL,
        changes: bool = True,
        malformed: int = 0,
    ) -> None:
        if not 0 <= malformed <= rows:
            raise ValueError(f"malformed is {malformed}: it must be from 0 to the number of rows, {rows}.")
        self._lock = threading.Lock()
        self._random = np.random.default_rng(seed)
        self._until = until
        self._changes = changes
        self._requested = False
        self._malformed = malformed
        self._last_id = FIRST_ID + seed % 1_000 * IDS_PER_SEED
        self._last_id_of_seed = self._last_id + IDS_PER_SEED
        # First the 10,000 mobile numbers that Arcep reserves for fiction, 06 39 98 xx xx. Then 07 00 xx xx xx: numbers
        # that begin like that have fourteen digits and belong to machines, so one of ten digits is nobody's.
        self._national_numbers = np.concatenate(
            [639_980_000 + self._random.permutation(10_000), 700_000_000 + self._random.permutation(1_000_000)]
        )
        self._numbers_given = 0
        self._removed_numbers: deque[bytes] = deque()
        times = self._first_times(rows - malformed)
        self._blocks = [
            _Block(self._new_rows(times[at : at + _BLOCK_ROWS])) for at in range(0, len(times), _BLOCK_ROWS)
        ]
        for block in self._blocks:
            block.text("json")  # now, so that whoever times the first request does not time this

    def next_response(self, response_format: Format, *, today: date | None = None) -> list[bytes]:
        """Return the next response, in pieces. Threads may call this at the same time.

        Args:
            response_format: Format of the response.
            today: Day of the request (Europe/Paris), which dates new rows; by default the latest day known.
        """
        document = DOCUMENTS[response_format]
        with self._lock:
            self._until = max(self._until, today or self._until)
            if self._changes and self._requested:
                self._change()
            self._requested = True
            rows = sum(len(block.rows) for block in self._blocks) + self._malformed
            texts = [block.text(response_format) for block in self._blocks]
        texts += self._malformed_rows(document)
        separated = [piece for text in texts for piece in (document.between_rows, text)][1:]
        return [document.head % rows, *separated, document.tail]

    def _change(self) -> None:
        """Do what happens between one response and the next."""
        if self._sometimes(0.25):
            return
        self._add(self._new_rows(self._times_of_yesterday(int(self._random.integers(1, 6)))))
        if self._removed_numbers and self._sometimes(0.1):
            returned = self._new_rows(self._times_of_yesterday(1))
            returned["phone_number"] = self._removed_numbers.popleft()
            self._add(returned)
        if self._sometimes(0.2):
            self._remove()

    def _add(self, rows: _Rows) -> None:
        if self._blocks and len(self._blocks[-1].rows) + len(rows) <= _BLOCK_ROWS:
            rows = np.concatenate([self._blocks.pop().rows, rows])
        self._blocks.append(_Block(rows))

    def _remove(self) -> None:
        """Remove one number, as the provider's delete call does: every row that spells it in this way."""
        block = self._blocks[self._random.integers(len(self._blocks))]
        number = self._random.choice(block.rows["phone_number"])
        self._removed_numbers.append(number)
        remaining = [(block, block.rows["phone_number"] != number) for block in self._blocks]
        self._blocks = [
            block if stays.all() else _Block(block.rows[stays]) for block, stays in remaining if stays.any()
        ]

    def _new_rows(self, times: _Times) -> _Rows:
        """Return a row for each of these times (at least one), under new ids except for a few repeated rows."""
        rows = np.empty(len(times), _ROW)
        rows["id"] = self._last_id + self._random.integers(1, 4, len(times)).cumsum()
        rows["phone_number"] = self._new_numbers(len(times))
        rows["created_at"] = np.char.replace(np.datetime_as_string(times.astype("datetime64[s]")), "T", " ")
        self._last_id = int(rows["id"][-1])
        repeated = self._random.integers(1, max(len(times), 2), len(times) // 400)
        rows[repeated] = rows[repeated - 1]
        return rows

    def _new_numbers(self, count: int) -> npt.NDArray[np.bytes_]:
        """Return the next phone numbers: one in a hundred was given before, a few are foreign or spelled nationally."""
        places = np.arange(self._numbers_given, self._numbers_given + count)
        self._numbers_given += count
        again = self._sometimes(0.01, count)
        places[again] = places[again] * self._random.random(again.sum())
        national = self._national_numbers[places % len(self._national_numbers)].tolist()
        numbers = np.array([b"+33%d" % number for number in national], _ROW["phone_number"])
        for place in np.flatnonzero(self._sometimes(0.04, count)):
            digits = b"0%d" % national[place]
            spellings = (digits, b" ".join(digits[at : at + 2] for at in range(0, 10, 2)), b"0033" + digits[1:])
            numbers[place] = spellings[self._random.integers(len(spellings))]
        foreign = self._sometimes(0.03, count)
        numbers[foreign] = self._random.choice(_FOREIGN_NUMBERS, foreign.sum())
        return numbers

    def _first_times(self, count: int) -> _Times:
        """Return growth × week × campaigns, in the order in which the provider learned of the opt-outs."""
        days = _epoch_day(self._until) + np.arange(-_YEARS * 365, 0)
        weights = np.linspace(0.15, 1, len(days)) * _WEEKDAY_WEIGHTS[(days + 3) % 7]  # day 0 was a Thursday
        campaigns = self._random.choice(len(days) - 2, _CAMPAIGNS, replace=False)
        replies = self._random.uniform(2, 8, _CAMPAIGNS)
        for days_after, share in enumerate((1, 0.3, 0.1)):
            weights[campaigns + days_after] *= 1 + replies * share
        day = self._random.choice(days, count, p=weights / weights.sum())
        times = day * _DAY_SECONDS + self._times_of_day(count)
        few_seconds, up_to_48_hours = self._random.exponential(5, count), self._random.uniform(0, 172_800, count)
        delays = np.where(self._sometimes(0.01, count), up_to_48_hours, few_seconds)
        return times[np.argsort(times + delays, kind="stable")]

    def _times_of_yesterday(self, count: int) -> _Times:
        """Return times in the evening, or at any hour of the day for a row that comes late."""
        evening = _DAY_SECONDS - self._random.integers(1, 4 * 3_600, count)
        times = np.where(self._sometimes(0.15, count), self._times_of_day(count), evening)
        return (_epoch_day(self._until) - 1) * _DAY_SECONDS + times

    def _times_of_day(self, count: int) -> _Times:
        hours = self._random.choice(len(_HOUR_WEIGHTS), count, p=_HOUR_WEIGHTS / _HOUR_WEIGHTS.sum())
        return hours * 3_600 + self._random.integers(0, 3_600, count)

    def _sometimes(self, share: float, count: int = 1) -> npt.NDArray[np.bool_]:
        return self._random.random(count) < share

    def _malformed_rows(self, document: Document) -> list[bytes]:
        """Return the malformed rows, under the highest ids of the seed, which no row that joins gets."""
        rows = []
        for n in range(self._malformed):
            row_id, number = self._last_id_of_seed - n, b"+3363998%04d" % (n % 10_000)
            match n % 3:
                case 0:
                    rows.append(document.row_without_date % (row_id, number))
                case 1:
                    rows.append(document.row % (row_id, number, b"2024-02-30 10:19:45"))
                case _:
                    rows.append(document.row % (row_id, b"", b"2024-02-29 10:19:45"))
        return rows


def _epoch_day(day: date) -> int:
    return (day - date(1970, 1, 1)).days
