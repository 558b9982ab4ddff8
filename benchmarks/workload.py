"""The answers that the benchmark puts before every contender.

What belongs here: an invented list of any length, the same bytes for the same arguments. What does not: who reads it
(`contenders`) and how that is timed (`speed`).

Ten years of growth; ids in the order of time, with gaps; French mobile numbers, one in a hundred spelled nationally,
one in two hundred foreign. The rows come in no order, since the provider promises none. Numbers are drawn at random: an
answer is written into a folder that goes away with the run.
"""

import json
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Format = Literal["json", "xml"]

MONTHS = 120
BEGIN, END = np.datetime64("2016-01-01", "D"), np.datetime64("2026-01-01", "D")
NATIONAL_SHARE = 0.01
FOREIGN_SHARE = 0.005
FOREIGN_RANGES = ((3247, 8), (4179, 7), (49151, 8), (346, 8))
"""Mobile numbers of Belgium, Switzerland, Germany and Spain: how they begin, and how many digits follow."""

_ROWS_AT_ONCE = 500_000
_FORMS: dict[Format, tuple[str, tuple[str, str, str, str], str]] = {
    "json": (
        '{"success": true, "code": 200, "nbData": %d, "data": [',
        ('{"id": ', ', "phoneNumber": "', '", "createdAt": "', '"}, '),
        "]}",
    ),
    "xml": (
        """<?xml version="1.0" encoding="UTF-8"?>
<result>
  <entry>true</entry>
  <entry>200</entry>
  <entry>%d</entry>
  <entry>
""",
        (
            "    <entry>\n      <entry>",
            "</entry>\n      <entry><![CDATA[",
            "]]></entry>\n      <entry><![CDATA[",
            "]]></entry>\n    </entry>\n",
        ),
        "  </entry>\n</result>\n",
    ),
}
"""How the provider writes a list: what comes first, what stands around the three fields of a row, what comes last."""

Integers = npt.NDArray[np.int64]


def write_answer(
    path: Path,
    rows: int,
    *,
    new: int = 0,
    new_in: str = "last days",
    gone: int = 0,
    altered: int = 0,
    reordered: bool = False,
    form: Format = "json",
) -> list[int]:
    """Write the answer that lists `rows` rows, and on top of them `new` ones; gives the ids of the new ones.

    Args:
        path: Where.
        rows: How many rows the list held before.
        new: How many came since.
        new_in: In which months these were made: in the “last days”, or in “all months”.
        gone: How many of `rows` are no longer listed, here and there.
        altered: How many of the others have another number, here and there.
        reordered: Whether the rows come in another order than they did.
        form: As documented.
    """
    random = np.random.default_rng(rows)
    ids = 1_000 + random.integers(1, 4, rows).cumsum()
    times = _times(random, rows)
    order = random.permutation(rows)
    numbers = _numbers(random, rows).take(pa.array(order))

    random = np.random.default_rng([rows, new, new_in == "all months"])
    touched = random.permutation(np.linspace(0, rows - 1, gone + altered, dtype=np.int64))
    is_gone, is_altered = np.zeros(rows, bool), np.zeros(rows, bool)
    is_gone[touched[:gone]] = True
    is_altered[touched[gone:]] = True
    numbers = pc.replace_with_mask(numbers, pa.array(is_altered), _numbers(random, altered))
    places = np.flatnonzero(~is_gone)
    if reordered:
        places = random.permutation(places)
    listed = {"id": ids[order][places], "time": times[order][places], "number": numbers.take(pa.array(places))}
    new_ids = 1_000 + 3 * rows + np.arange(1, new + 1)
    span = int((END - BEGIN).astype(int))
    days = np.linspace(0, span - 1, new, dtype=np.int64) if new_in == "all months" else span - 1 - np.arange(new) % 2
    new_rows = {"id": new_ids, "time": _at_daytime(random, days), "number": _numbers(random, new)}

    head, _, tail = _FORMS[form]
    with path.open("wb") as file:
        file.write((head % (new + rows - gone)).encode())
        _write_rows(file, new_rows, form, new, ends=rows == gone)
        _write_rows(file, listed, form, rows - gone, ends=True)
        file.write(tail.encode())
    return [int(new_id) for new_id in new_ids]


def _write_rows(file: BinaryIO, table: dict[str, Any], form: Format, count: int, *, ends: bool) -> None:
    """Write the first `count` rows of a table; `ends` says that no row comes after them."""
    before, between, then, after = _FORMS[form][1]
    for start in range(0, count, _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, count)
        rows = pc.binary_join_element_wise(
            before,
            pa.array(table["id"][start:end]).cast(pa.string()),
            between,
            table["number"].slice(start, end - start),
            then,
            pa.array(table["time"][start:end].astype("datetime64[s]")).cast(pa.string()),
            after,
            "",
        )
        text = bytes(rows.buffers()[2])
        file.write(text.removesuffix(b", ") if ends and end == count else text)


def _times(random: np.random.Generator, count: int) -> Integers:
    """Rising times with linear growth, in seconds since 1970 as a clock in France showed them."""
    span = int((END - BEGIN).astype(int))
    days = np.sort((np.sqrt(random.random(count)) * span).astype(np.int64))
    return np.sort(_at_daytime(random, days))


def _at_daytime(random: np.random.Generator, days: Integers) -> Integers:
    """Some second between 8 and 21 o'clock of each day."""
    return (int(BEGIN.astype(int)) + days) * 86_400 + random.integers(8 * 3_600, 21 * 3_600, len(days))


def _numbers(random: np.random.Generator, count: int) -> pa.Array:
    """Phone numbers as the provider shows them."""
    national = random.integers(600_000_000, 800_000_000, count)
    numbers = pc.binary_join_element_wise("+33", pa.array(national).cast(pa.string()), "")
    numbers = np.array(numbers.to_numpy(zero_copy_only=False), dtype=object)
    kind = random.random(count)
    for place in np.flatnonzero(kind < NATIONAL_SHARE):
        numbers[place] = ("0", "0033")[place % 2] + str(national[place])
    for place in np.flatnonzero(kind > 1 - FOREIGN_SHARE):
        begins, digits = FOREIGN_RANGES[place % len(FOREIGN_RANGES)]
        numbers[place] = f"+{begins}{random.integers(0, 10**digits):0{digits}}"
    return pa.array(numbers, pa.string())


if __name__ == "__main__":
    import sys

    where, arguments = sys.argv[1:]
    print(json.dumps(write_answer(Path(where), **json.loads(arguments))))
