"""A campaign in CSV, as spreadsheets write it.

Each row is carried along as the text it came as: quotes, leading zeros, spaces and line ends are those of the file, and
so are the delimiter, the encoding and the byte order mark of its parts.
"""

import codecs
import collections
import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pandas as pd
import pyarrow as pa

from stop_pipeline.campaign.campaign_file import BATCH_ROWS, WriteRows, readable
from stop_pipeline.campaign.columns import find_column, holds_phone_number, positions_of
from stop_pipeline.errors import CampaignError

DELIMITERS = (";", ",", "\t", "|")
RAGGED = "not as many fields as the header"
HEADER_WITHIN = 20
"""The header is one of the first 20 records that are not blank."""

_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_ENCODING_NAMES = {"utf-8": "UTF-8", "cp1252": "Windows-1252", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}
_MARK = "\ufeff"
_READ_CHARACTERS = 1 << 20
_SAMPLE_BYTES = 1 << 16
_DELIMITER_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?[;,\t|]*\s*', re.IGNORECASE)
"""A first line that tells Excel the delimiter."""


@dataclass(frozen=True)
class _Header:
    """The header by one delimiter: its column names, the records above it, and how many lines precede it."""

    delimiter: str
    names: list[str]
    titles: list[list[str]]
    lines_above: int


class CsvFile:
    """A CSV file with a header, in UTF-8, UTF-16 or Windows-1252.

    The header is the first record that has the column by one of `DELIMITERS`, or by the one that a line `sep=…` names.
    Titles above it are not part of the campaign.
    """

    null_reason = RAGGED
    """Why a row without a spelling is invalid."""

    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        self._encoding, self._mark = _encoding_of(path)
        self._delimiter_line = ""
        with readable(path), self._open() as file:
            first_line = file.readline()
        named = _DELIMITER_LINE.fullmatch(first_line)
        self._delimiter_line = first_line if named else ""
        self._header = self._find_header(column, [named[1], *DELIMITERS] if named else DELIMITERS)
        self._position = find_column(column, self._header.names, str(path))
        if holds_phone_number(itertools.chain(*self._header.titles)):
            raise CampaignError(
                f"{path} has phone numbers above its line of column names: move that line to the top, or delete what "
                "is above it."
            )
        between = "tabs" if self._header.delimiter == "\t" else f"“{self._header.delimiter}”"
        titles = len(self._header.titles)
        skipped = f", {titles} title line{'' if titles == 1 else 's'} skipped" if titles else ""
        self.form = f"CSV with {between} between columns, {_ENCODING_NAMES[self._encoding]}{skipped}"
        self.suffix = path.suffix or ".csv"

    def batches(self) -> Iterator[tuple[pa.RecordBatch, pd.Series]]:
        """All rows below the header, as text; blank lines are left out, and a ragged row has no spelling."""
        with readable(self._path), self._open() as file:
            width = len(self._header.names)
            records = (
                (text, fields[self._position] if len(fields) == width else None)
                for text, fields in itertools.islice(self._records(file), 1, None)
            )
            while batch := list(itertools.islice(records, BATCH_ROWS)):
                texts, spellings = zip(*batch, strict=True)
                yield pa.record_batch({"text": pa.array(texts, pa.large_string())}), pd.Series(spellings, dtype="str")

    @contextmanager
    def part(self, path: Path, own_column: pa.Field | None = None) -> Iterator[WriteRows]:
        """A file that begins as this one does, without its titles."""
        with readable(self._path), self._open() as file:
            header, _ = next(self._records(file))
        end_of_line = _end_of_line(header) or "\n"

        def extended(record: str, value: str) -> str:
            end = _end_of_line(record)
            return f"{record.removesuffix(end)}{self._header.delimiter}{value}{end or end_of_line}"

        with path.open("w", encoding=self._encoding, newline="") as file:

            def write(rows: pa.RecordBatch, values: pd.Series | None) -> None:
                records = rows.column(0).to_pylist()
                file.writelines(records if values is None else map(extended, records, _as_csv(values)))

            file.write(self._mark + self._delimiter_line)
            file.write(header if own_column is None else extended(header, own_column.name))
            yield write

    def _open(self) -> TextIO:
        """The text after the byte order mark and the line `sep=…`."""
        file = self._path.open(encoding=self._encoding, newline="")
        file.read(len(self._mark + self._delimiter_line))
        return file

    def _find_header(self, column: str, delimiters: Iterable[str]) -> _Header:
        """The first record that has the column; if there is none, the first that has several."""
        records = [record for delimiter in delimiters for record in self._first_records(delimiter)]
        records.sort(key=lambda record: (len(record.titles), -len(record.names)))
        with_column = (record for record in records if positions_of(column, record.names))
        with_several = (record for record in records if sum(map(bool, record.names)) > 1)
        return next(itertools.chain(with_column, with_several, records), _Header(DELIMITERS[0], [], [], 0))

    def _first_records(self, delimiter: str) -> list[_Header]:
        """The first records that are not blank, each as if it were the header."""
        found: list[_Header] = []
        lines_above = 0
        # Not strict, and an error ends it: quotes that are right by one delimiter are wrong by the others.
        with readable(self._path), self._open() as file, suppress(csv.Error):
            reader = csv.reader(file, delimiter=delimiter)
            for fields in reader:
                if fields:
                    found.append(_Header(delimiter, fields, [header.names for header in found], lines_above))
                if len(found) == HEADER_WITHIN:
                    break
                lines_above = reader.line_num
        return found

    def _records(self, file: TextIO) -> Iterator[tuple[str, list[str]]]:
        """The text and the fields of the header and of every record below it that is not blank.

        Quotes must be as CSV has them: a reader that forgives a stray one may take several rows for one.
        """
        lines_read: list[str] = []

        def lines() -> Iterator[str]:
            for line in file:
                lines_read.append(line)
                yield line

        above = self._header.lines_above
        collections.deque(itertools.islice(file, above), maxlen=0)
        reader = csv.reader(lines(), delimiter=self._header.delimiter, strict=True)
        problem = None
        try:
            for fields in reader:
                if fields:
                    yield "".join(lines_read), fields
                lines_read.clear()
        except csv.Error as error:
            problem = str(error)
        if problem is not None:
            line = bool(self._delimiter_line) + above + reader.line_num
            raise CampaignError(
                f'{self._path} cannot be read as CSV near line {line:,} ({problem}): look there for a quote (") too '
                "many or too few, or export the file from the spreadsheet again."
            )


def _end_of_line(record: str) -> str:
    return record[len(record.rstrip("\r\n")) :]


def _as_csv(values: pd.Series) -> Iterable[str]:
    """Values as text that needs no quotes: a time as ISO 8601 to the second, a null as nothing."""
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        values = values.dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return values.fillna("")


def _encoding_of(path: Path) -> tuple[str, str]:
    """The encoding of a text file, and the byte order mark that it begins with, if any.

    Without a mark it is UTF-16 if every other byte of many is zero, else UTF-8 if all bytes fit, else Windows-1252.
    """
    with readable(path):
        with path.open("rb") as file:
            start = file.read(_SAMPLE_BYTES)
        marked = [encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if start.startswith(mark)]
        zeros = {"utf-16-be": start[0::2].count(0), "utf-16-le": start[1::2].count(0)}
        fewer, more = sorted(zeros, key=lambda encoding: zeros[encoding])
        is_utf16 = zeros[more] > max(len(start), 10 * zeros[fewer]) / 10
        for encoding in marked or ([more] if is_utf16 else ["utf-8", "cp1252"]):
            with suppress(UnicodeDecodeError), path.open(encoding=encoding, newline="") as file:
                while file.read(_READ_CHARACTERS):
                    pass
                return encoding, _MARK if marked else ""
    raise CampaignError(f"{path} is text in no encoding that spreadsheets write: save it as “CSV UTF-8” there.")
