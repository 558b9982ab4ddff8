"""A campaign in CSV, as spreadsheets write it.

Each row is carried along as the text it came as: quotes, leading zeros, spaces and line ends are those of the file, and
so are the delimiter, the encoding and the byte order mark of its parts.
"""

import codecs
import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TextIO

import pandas as pd
import pyarrow as pa

from stop_pipeline.campaign.campaign_file import (
    BATCH_ROWS,
    WriteRows,
    find_column,
    holds_phone_number,
    positions_of,
    readable,
)
from stop_pipeline.errors import CampaignError

DELIMITERS = (";", ",", "\t", "|")
RAGGED = "not as many fields as the header"
HEADER_WITHIN = 50
"""The header begins in one of so many lines."""

_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_ENCODING_NAMES = {"utf-8": "UTF-8", "cp1252": "Windows-1252", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}
_READ_CHARACTERS = 1 << 20
_SAMPLE_BYTES = 1 << 16
_DELIMITER_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?[;,\t|]*\s*', re.IGNORECASE)
"""A first line that tells Excel the delimiter."""


class _Header(NamedTuple):
    """A line that may be the header: how many are above it, the delimiter, and its column names by that delimiter."""

    lines_above: int
    delimiter: str
    names: list[str]


class CsvFile:
    """A CSV file with a header, in UTF-8, UTF-16 or Windows-1252.

    The header is the first line that has the column by one of `DELIMITERS`, or by the one that a line `sep=…` names.
    Titles above it are not part of the campaign.
    """

    null_reason = RAGGED
    """Why a row without a spelling is invalid."""

    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        self._encoding, self._mark = _encoding_of(path)
        self._delimiter_line = ""
        with readable(path), self._open() as file:
            lines = list(itertools.islice(file, HEADER_WITHIN))
        delimiters: Sequence[str] = DELIMITERS
        if lines and (named := _DELIMITER_LINE.fullmatch(lines[0])):
            self._delimiter_line = lines.pop(0)
            delimiters = (named[1], *DELIMITERS)
        self._header = _find_header(column, lines, delimiters)
        self._position = find_column(column, self._header.names, str(path))
        delimiter = self._header.delimiter
        titles = [line for line in lines[: self._header.lines_above] if line.strip()]
        if holds_phone_number(cell.strip(' "\r\n') for line in titles for cell in line.split(delimiter)):
            raise CampaignError(
                f"{path} has phone numbers above its line of column names: move that line to the top, or delete what "
                "is above it."
            )
        between = "tabs" if delimiter == "\t" else f"“{delimiter}”"
        skipped = f", {len(titles)} title line{'s' * (len(titles) > 1)} skipped" if titles else ""
        self.form = f"CSV with {between} between columns, {_ENCODING_NAMES[self._encoding]}{skipped}"
        self.suffix = path.suffix or ".csv"

    def batches(self) -> Iterator[tuple[pa.Array, pd.Series]]:
        """All rows below the header, as text; blank lines are left out, and a ragged row has no spelling."""
        with readable(self._path), self._open() as file:
            width = len(self._header.names)
            records = (
                (text, fields[self._position] if len(fields) == width else None)
                for text, fields in itertools.islice(self._records(file), 1, None)
            )
            while batch := list(itertools.islice(records, BATCH_ROWS)):
                texts, spellings = zip(*batch, strict=True)
                yield pa.array(texts, pa.large_string()), pd.Series(spellings, dtype="str")

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

            def write(rows: pa.Array, values: pd.Series | None) -> None:
                records = rows.to_pylist()
                if values is not None:
                    if isinstance(values.dtype, pd.DatetimeTZDtype):
                        values = values.dt.strftime("%Y-%m-%dT%H:%M:%SZ")
                    records = map(extended, records, values.fillna(""))
                file.writelines(records)

            file.write(self._mark + self._delimiter_line)
            file.write(header if own_column is None else extended(header, own_column.name))
            yield write

    def _open(self) -> TextIO:
        """The text after the byte order mark and the line `sep=…`."""
        file = self._path.open(encoding=self._encoding, newline="")
        file.read(len(self._mark + self._delimiter_line))
        return file

    def _records(self, file: TextIO) -> Iterator[tuple[str, list[str]]]:
        """The text and the fields of the header and of every record below it that is not blank.

        Quotes must be as CSV has them: a reader that forgives a stray one may take several rows for one.
        """
        lines_read: list[str] = []

        def lines() -> Iterator[str]:
            for line in itertools.islice(file, self._header.lines_above, None):
                lines_read.append(line)
                yield line

        reader = csv.reader(lines(), delimiter=self._header.delimiter, strict=True)
        try:
            for fields in reader:
                if fields:
                    yield "".join(lines_read), fields
                lines_read.clear()
        except csv.Error as error:
            line = bool(self._delimiter_line) + self._header.lines_above + reader.line_num
            raise CampaignError(
                f'{self._path} cannot be read as CSV near line {line:,} ({error}): look there for a quote (") too '
                "many or too few, or export the file from the spreadsheet again."
            ) from None


def _find_header(column: str, lines: list[str], delimiters: Sequence[str]) -> _Header:
    """The first line that has the column; if there is none, the first that has several columns, or one."""
    ranked = []
    for lines_above, delimiter in itertools.product(range(len(lines)), delimiters):
        with suppress(csv.Error):  # quotes that are right by one delimiter are wrong by the others
            if names := next(csv.reader(lines[lines_above:], delimiter=delimiter)):
                rank = 0 if positions_of(column, names) else 1 if any(names[1:]) else 2
                ranked.append(((rank, lines_above, -len(names)), _Header(lines_above, delimiter, names)))
    return min(ranked, key=itemgetter(0))[1] if ranked else _Header(0, delimiters[0], [])


def _end_of_line(record: str) -> str:
    return record[len(record.rstrip("\r\n")) :]


def _encoding_of(path: Path) -> tuple[str, str]:
    """The encoding of a text file, and the byte order mark that it begins with, if any.

    Without a mark it is UTF-16 if every other byte of many is zero, else UTF-8 if all bytes fit, else Windows-1252.
    """
    with readable(path):
        with path.open("rb") as file:
            start = file.read(_SAMPLE_BYTES)
        marked = [encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if start.startswith(mark)]
        zeros = {"utf-16-be": start[0::2].count(0), "utf-16-le": start[1::2].count(0)}
        as_utf16 = [encoding for encoding, count in zeros.items() if count > len(start) / 10]
        for encoding in marked or as_utf16 or ["utf-8", "cp1252"]:
            with suppress(UnicodeDecodeError), path.open(encoding=encoding, newline="") as file:
                while file.read(_READ_CHARACTERS):
                    pass
                return encoding, "\ufeff" if marked else ""
    raise CampaignError(f"{path} is text in no encoding that spreadsheets write: save it as “CSV UTF-8” there.")
