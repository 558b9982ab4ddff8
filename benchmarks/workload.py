"""Writes the responses for the benchmark: an invented list, the same bytes for the same arguments.

    python benchmarks/workload.py FILE '{"rows": 1000000, "new": 1000}'     # the arguments of `write_response`

Ten years of growth; ids in the order of time, with gaps; French mobile numbers, one in a hundred of them spelled
nationally, and one in two hundred foreign. The rows are in no order, since the provider promises none. Numbers are
drawn at random and may belong to people, so a response is written into a folder that is deleted after the run.
"""

import json
import sys
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Format = Literal["json", "xml"]
Integers = npt.NDArray[np.int64]

BEGIN, END = np.datetime64("2016-01-01", "D"), np.datetime64("2026-01-01", "D")
DAYS = int((END - BEGIN).astype(int))
NATIONAL_SHARE = 0.01
FOREIGN_SHARE = 0.005
FOREIGN_RANGES = ((3247, 8), (4179, 7), (49151, 8), (346, 8))
"""Mobile numbers of Belgium, Switzerland, Germany and Spain: how they begin, and how many digits follow."""

_ROWS_AT_ONCE = 500_000
_XML_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<result>
  <entry>true</entry>
  <entry>200</entry>
  <entry>%d</entry>
  <entry>
"""
_FORMS: dict[Format, tuple[str, tuple[str, str, str, str], str]] = {
    "json": (
        '{"success": true, "code": 200, "nbData": %d, "data": [',
        ('{"id": ', ', "phoneNumber": "', '", "createdAt": "', '"}, '),
        "]}",
    ),
    "xml": (
        _XML_HEAD,
        (
            "    <entry>\n      <entry>",
            "</entry>\n      <entry><![CDATA[",
            "]]></entry>\n      <entry><![CDATA[",
            "]]></entry>\n    </entry>\n",
        ),
        "  </entry>\n</result>\n",
    ),
}
"""How the provider writes a list: what comes first, what surrounds the three fields of a row, what comes last."""


def write_response(
    path: Path,
    rows: int,
    *,
    new: int = 0,
    gone: int = 0,
    altered: int = 0,
    reordered: bool = False,
    form: Format = "json",
) -> list[int]:
    """Write a response, and return the ids of its new rows.

    Args:
        path: Where to write it.
        rows: Number of rows that the list had before.
        new: Number of rows added since, made in the last two days; they come first.
        gone: Number of `rows` that are no longer listed, all over the list.
        altered: Number of the other rows that have another phone number now, all over the list.
        reordered: Whether the rows are in another order than before.
        form: Format of the response.
    """
    random = np.random.default_rng(rows)
    ids = 1_000 + random.integers(1, 4, rows).cumsum()
    times = _rising_times(random, rows)
    order = random.permutation(rows)
    numbers = _phone_numbers(random, rows).take(pa.array(order))

    random = np.random.default_rng([rows, new])
    touched = random.permutation(np.linspace(0, rows - 1, gone + altered, dtype=np.int64))
    is_altered = np.isin(np.arange(rows), touched[gone:])
    numbers = pc.replace_with_mask(numbers, pa.array(is_altered), _phone_numbers(random, altered))
    kept = np.setdiff1d(np.arange(rows), touched[:gone])
    if reordered:
        kept = random.permutation(kept)
    new_ids = 1_000 + 3 * rows + np.arange(1, new + 1)
    new_times = _in_the_daytime(random, DAYS - 1 - np.arange(new) % 2)

    head, _, tail = _FORMS[form]
    with path.open("wb") as file:
        file.write((head % (new + len(kept))).encode())
        _write_rows(file, form, new_ids, _phone_numbers(random, new), new_times, last=len(kept) == 0)
        _write_rows(file, form, ids[order][kept], numbers.take(pa.array(kept)), times[order][kept], last=True)
        file.write(tail.encode())
    return [int(new_id) for new_id in new_ids]


def _write_rows(file: BinaryIO, form: Format, ids: Integers, numbers: Any, times: Integers, *, last: bool) -> None:
    """Write some rows; `last` says that no row follows them."""
    before, between, then, after = _FORMS[form][1]
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, len(ids))
        rows = pc.binary_join_element_wise(
            before,
            pa.array(ids[start:end]).cast(pa.string()),
            between,
            numbers.slice(start, end - start),
            then,
            pa.array(times[start:end].astype("datetime64[s]")).cast(pa.string()),
            after,
            "",
        )
        text = bytes(rows.buffers()[2])
        file.write(text.removesuffix(b", ") if last and end == len(ids) else text)


def _rising_times(random: np.random.Generator, count: int) -> Integers:
    """Times with linear growth, in seconds since 1970 by a clock in France."""
    days = np.sort((np.sqrt(random.random(count)) * DAYS).astype(np.int64))
    return np.sort(_in_the_daytime(random, days))


def _in_the_daytime(random: np.random.Generator, days: Integers) -> Integers:
    """A second between 8 and 21 o'clock of each day, counted from `BEGIN`."""
    return (int(BEGIN.astype(int)) + days) * 86_400 + random.integers(8 * 3_600, 21 * 3_600, len(days))


def _phone_numbers(random: np.random.Generator, count: int) -> Any:
    """Phone numbers as the provider spells them, an Arrow array."""
    national = random.integers(600_000_000, 800_000_000, count)
    spellings = pc.binary_join_element_wise("+33", pa.array(national).cast(pa.string()), "")
    numbers = np.array(spellings.to_numpy(zero_copy_only=False), dtype=object)
    kind = random.random(count)
    for place in np.flatnonzero(kind < NATIONAL_SHARE):
        numbers[place] = ("0", "0033")[place % 2] + str(national[place])
    for place in np.flatnonzero(kind > 1 - FOREIGN_SHARE):
        begins, digits = FOREIGN_RANGES[place % len(FOREIGN_RANGES)]
        numbers[place] = f"+{begins}{random.integers(0, 10**digits):0{digits}}"
    return pa.array(numbers, pa.string())


if __name__ == "__main__":
    print(json.dumps(write_response(Path(sys.argv[1]), **json.loads(sys.argv[2]))))
