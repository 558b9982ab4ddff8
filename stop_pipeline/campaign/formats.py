"""The forms that a campaign file may have: CSV, as spreadsheets write it, and Parquet.

Either class reads a file in batches and writes its parts, which are files of the same form for some of the rows. A
CampaignError says what is wrong with a file.
"""

import codecs
import csv
import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice, product, tee
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stop_pipeline.errors import CampaignError, counted, excerpt
from stop_pipeline.phone_numbers import read_phone_number

BATCH_ROWS = 131_072  # memory holds so many rows, whatever the size of the file
HEADER_WITHIN = 50  # the header of a CSV file begins in one of so many lines
DELIMITERS = (";", ",", "\t", "|")

NO_NUMBER = "no phone number"  # why a row with an empty cell is invalid
RAGGED = "not as many fields as the header"  # why a row of a CSV file without a cell for the number is

OWN_COLUMNS: dict[str, list[pa.Field]] = {
    "clean": [],
    "blocked": [pa.field("first_stop_at", pa.timestamp("us", tz="UTC"))],
    "invalid": [pa.field("reason", pa.string())],
}
"""The parts of a campaign, and the columns that each has after those of the campaign."""

WriteRows = Callable[[Any, pd.DataFrame], None]
"""Adds rows of a batch to a part of a campaign, with the part's own columns, which the DataFrame has."""

_GZIP = b"\x1f\x8b"
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_DELIMITER_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?[;,|\s]*', re.IGNORECASE)  # a first line, for Excel
_BYTE_ORDER_MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
_ENCODING_NAMES = {"utf-8": "UTF-8", "cp1252": "Windows-1252", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}
_SUFFIXES = (".csv", ".txt", ".tsv")
_SAMPLE_BYTES = 1 << 16
_PAGE_BYTES = 1 << 20
_SELECTABLE = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
"""Types that Arrow cannot select rows from, and types of the same values that it can."""
_LARGEST_EXACT = 2**53  # above it, not every whole number is a float
_DIGITS_OF_A_NUMBER = 6


def open_campaign(path: Path, column: str) -> "CsvCampaign | ParquetCampaign":
    """The campaign in a file whose phone numbers are in `column`, as in `find_column`."""
    with _readable(path):
        if path.exists() and not path.is_file() and not path.is_dir():  # such as a pipe: it can be read only once
            raise CampaignError(f"{path} is not a regular file: save the campaign to a file first.")
        with path.open("rb") as file:
            start = file.read(4)
    if start.startswith(_GZIP):
        raise CampaignError(f"{path} is compressed: unpack it first.")
    if start in _WORKBOOKS:
        raise CampaignError(f"{path} is a workbook: save it as “CSV UTF-8” in the spreadsheet first.")
    return ParquetCampaign(path, column) if start == b"PAR1" else CsvCampaign(path, column)


class CsvCampaign:
    """A CSV file with a header, in UTF-8, UTF-16 or Windows-1252.

    The header is the first line that has the column by one of `DELIMITERS`, or by the one that a line `sep=…` names.
    Titles above it, which have fewer cells, are not part of the campaign. Each row is carried along as the text it came
    as: quotes, leading zeros, spaces and line ends are those of the file, and so are the delimiter, the encoding and
    the byte order mark. Only the empty cells at its end that Excel leaves out in some rows are added again.
    """

    null_reason = RAGGED  # why a row without a spelling is invalid

    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        self._encoding, self._mark = _encoding_of(path)
        with _readable(path), self._open() as file:
            lines = list(islice(file, HEADER_WITHIN))
        named = _DELIMITER_LINE.fullmatch(lines[0]) if lines else None
        self._delimiter_line, start = (lines[0], 1) if named else ("", 0)
        delimiters = (named[1], *DELIMITERS) if named else DELIMITERS
        self._lines_above, self._delimiter, names = _find_header(column, lines, delimiters, start)
        self._width = len(names)
        self._position = find_column(column, names, str(path))
        titles = [line for line in lines[start : self._lines_above] if line.strip()]
        if _hold_phone_number(cell.strip(' "\r\n') for line in titles for cell in line.split(self._delimiter)):
            raise CampaignError(
                f"{path} has phone numbers above its line of column names: move that line to the top, or delete what "
                "is above it."
            )
        between = "tabs" if self._delimiter == "\t" else f"“{excerpt(self._delimiter)}”"
        skipped = f", {counted(len(titles), 'title line')} skipped" if titles else ""
        columns = "one column" if self._width == 1 else f"{between} between columns"
        self.form = f"CSV with {columns}, {_ENCODING_NAMES[self._encoding]}{skipped}"
        self.suffix = path.suffix if path.suffix.lower() in _SUFFIXES else ".csv"

    def batches(self) -> Iterator[tuple[pa.Array, pd.Series]]:
        """All rows below the header, as text; blank lines are left out, and a ragged row has no spelling."""
        with _readable(self._path), self._open() as file:
            records = (self._row(text, fields) for text, fields in islice(self._records(file), 1, None))
            while batch := list(islice(records, BATCH_ROWS)):
                texts, spellings = zip(*batch, strict=True)
                yield pa.array(texts, pa.large_string()), pd.Series(spellings, dtype="str")

    @contextmanager
    def part(self, path: Path, own_columns: Sequence[pa.Field] = ()) -> Iterator[WriteRows]:
        """A file that begins as this one does, without its titles."""
        with _readable(self._path), self._open() as file:
            header, _ = next(self._records(file))
        end_of_line = header[len(header.rstrip("\r\n")) :] or "\n"

        def extended(record: str, *values: str) -> str:
            text = record.rstrip("\r\n")
            row = self._delimiter.join([text, *values])
            return f"{row}{record[len(text) :] or end_of_line}" if values else record

        def write(rows: pa.Array, checked: pd.DataFrame) -> None:
            own = (_as_csv(checked[column.name]) for column in own_columns)
            file.writelines(map(extended, rows.to_pylist(), *own))

        with path.open("w", encoding=self._encoding, newline="") as file:
            file.write(self._mark + self._delimiter_line)
            file.write(extended(header, *(column.name for column in own_columns)))
            yield write

    def _row(self, text: str, fields: list[str]) -> tuple[str, str | None]:
        """The text of a row and its spelling of a number; None if it lacks that field, or has too many."""
        if not self._position < len(fields) <= self._width:
            return text, None
        row = text.rstrip("\r\n")
        return f"{row}{self._delimiter * (self._width - len(fields))}{text[len(row) :]}", fields[self._position]

    def _open(self) -> TextIO:
        """The text after the byte order mark."""
        file = self._path.open(encoding=self._encoding, newline="")
        file.read(len(self._mark))
        return file

    def _records(self, file: TextIO) -> Iterator[tuple[str, list[str]]]:
        """The text and the fields of the header and of every record below it that is not blank.

        Quotes must be as CSV has them: a reader that forgives a stray one may take several rows for one.
        """
        lines, texts = tee(islice(file, self._lines_above, None))
        reader, lines_before = csv.reader(lines, delimiter=self._delimiter, strict=True), 0
        try:
            for fields in reader:
                text = "".join(islice(texts, reader.line_num - lines_before))
                lines_before = reader.line_num
                if fields:
                    yield text, fields
        except csv.Error as error:
            raise CampaignError(
                f"{self._path} cannot be read as CSV near line {self._lines_above + reader.line_num:,} ({error}): look "
                'there for an extra or missing quote ("), or export the file from the spreadsheet again.'
            ) from None


class ParquetCampaign:
    """A Parquet file, with the attributes of a `CsvCampaign`; its parts have the same columns, types and metadata."""

    form = "Parquet"
    suffix = ".parquet"
    null_reason = NO_NUMBER

    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        with _readable(path), pq.ParquetFile(path) as file:
            self._schema = file.schema_arrow
            fields = [field.with_type(_SELECTABLE.get(field.type, field.type)) for field in self._schema]
            self._selectable = pa.schema(fields, self._schema.metadata)
            for field in self._selectable:
                pa.nulls(1, field.type).filter(pa.array([True]))  # an ArrowException if that will not be possible
        self._position = find_column(column, self._schema.names, str(path))
        as_text(pa.nulls(0, self._schema.field(self._position).type))

    def batches(self) -> Iterator[tuple[pa.RecordBatch, pd.Series]]:
        """All rows, in order."""
        # Page by page: a row group, which may be the whole file, is not read ahead.
        with _readable(self._path), pq.ParquetFile(self._path, pre_buffer=False, buffer_size=_PAGE_BYTES) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                numbers = batch.column(self._position)
                numbers.validate(full=True)  # text that is not UTF-8 is damage
                yield batch.cast(self._selectable), as_text(numbers)

    @contextmanager
    def part(self, path: Path, own_columns: Sequence[pa.Field] = ()) -> Iterator[WriteRows]:
        """A Parquet file with this one's schema."""
        schema = pa.schema([*self._schema, *own_columns], self._schema.metadata)

        def write(rows: pa.RecordBatch, checked: pd.DataFrame) -> None:
            own = [pa.array(checked[column.name], column.type, from_pandas=True) for column in own_columns]
            writer.write_batch(pa.RecordBatch.from_arrays([*rows.cast(self._schema).columns, *own], schema=schema))

        with pq.ParquetWriter(path, schema) as writer:
            yield write


def find_column(column: str, names: Sequence[str], where: str) -> int:
    """The position of the column of that name; if there is none, case and surrounding spaces do not matter.

    A CampaignError, which begins with `where`, says that there is none, or more than one; that the names look like data
    and are therefore not shown; or that one of them is a name of `OWN_COLUMNS`. Another says that `column` is empty.
    """
    if not _simplified(column):  # as from a shell variable that is not set; a column without a name may be there
        raise CampaignError("The name of the column is empty: name the column that holds the phone numbers.")
    found = _positions_of(column, names)
    wanted = f"column “{excerpt(column)}”"
    shown = [f"“{''.join(filter(str.isprintable, name))[:40]}”" for name in names]
    has_digits = any(sum(map(str.isdigit, name)) >= _DIGITS_OF_A_NUMBER for name in names)
    taken = [own.name for columns in OWN_COLUMNS.values() for own in columns if own.name in names]
    if _hold_phone_number(names) or (has_digits and not found):
        problem = "no line of column names: its first line looks like data; add one above it"
    elif not found:
        columns = ", ".join(shown[:20]) or "none"
        problem = f"no {wanted}; its columns are {columns}: name the one that holds the phone numbers"
    elif len(found) > 1:
        columns = " and ".join(shown[position] for position in found)
        problem = f"more than one {wanted}, {columns}: give the exact name of one, or rename the others"
    elif taken:
        problem = f"a column “{taken[0]}” already, which the result needs: rename it first"
    else:
        return found[0]
    raise CampaignError(f"{where} has {problem}.")


def as_text(values: pa.Array | pa.ChunkedArray) -> pd.Series:
    """Phone numbers as text (`str`) from a column of text or of numbers; a null stays null.

    Other types are refused: a 32-bit float has already rounded a phone number.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pa.types.is_float64(kind):
        return pd.Series(values.to_pandas().map(_float_as_text, na_action="ignore"), dtype="str")
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (is_text or pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)):
        raise wrong_type(kind)
    return pd.Series(values.cast(pa.string()).to_pandas(), dtype="str")


def wrong_type(kind: object) -> CampaignError:
    """The error that a column of another type is."""
    return CampaignError(f"The column of phone numbers is of type {kind}: it must be text or whole numbers.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn any failure to read a campaign's file into a CampaignError."""
    try:
        yield
    except (OSError, UnicodeError, pa.ArrowException) as error:
        plain = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else None
        problem = plain or "it is damaged, or a kind of Parquet file that is not supported"
        raise CampaignError(f"Cannot read {path}: {problem}.") from None  # the error may quote the file


def _find_header(column: str, lines: list[str], delimiters: Sequence[str], start: int) -> tuple[int, str, list[str]]:
    """How many lines are above the header, its delimiter, and its column names.

    The header is the first line from `start` on that has the column and is not a row below a header; if none is, the
    first with several columns, or with one.
    """
    ranked: dict[tuple[int, int, int], tuple[int, str, list[str]]] = {}
    above: dict[str, list[list[str]]] = {delimiter: [] for delimiter in delimiters}
    for lines_above, delimiter in product(range(start, len(lines)), delimiters):
        with suppress(csv.Error):  # quotes that are right by one delimiter are wrong by the others
            if names := next(csv.reader(lines[lines_above:], delimiter=delimiter)):
                is_named = _positions_of(column, names) and not any(
                    _is_header_of(names, line) for line in above[delimiter]
                )
                rank = 0 if is_named else 1 if any(names[1:]) else 2
                above[delimiter].append(names)
                ranked.setdefault((rank, lines_above, -len(names)), (lines_above, delimiter, names))
    return ranked[min(ranked)] if ranked else (start, delimiters[0], [])


def _is_header_of(row: list[str], line: list[str]) -> bool:
    """Whether a line above a row has as many cells, and is no title or row; then the row only holds the name."""
    cells = sum(map(bool, line))
    return max(sum(map(bool, row)), 2) <= cells and not _hold_phone_number(line)


def _encoding_of(path: Path) -> tuple[str, str]:
    """The encoding of a text file, and the byte order mark that it begins with, if any.

    Without a mark it is UTF-16 if every other byte of many is zero, else UTF-8 if all bytes fit, else Windows-1252.
    """
    with _readable(path):
        with path.open("rb") as file:
            start = file.read(_SAMPLE_BYTES)
        marked = [encoding for encoding, mark in _BYTE_ORDER_MARKS.items() if start.startswith(mark)]
        zeros = {"utf-16-be": start[0::2].count(0), "utf-16-le": start[1::2].count(0)}
        as_utf16 = [encoding for encoding, count in zeros.items() if count > len(start) / 10]
        for encoding in marked or as_utf16 or ["utf-8", "cp1252"]:
            with suppress(UnicodeDecodeError), path.open(encoding=encoding) as file:
                deque(file, maxlen=0)  # decodes all of it
                return encoding, "\ufeff" if marked else ""
    raise CampaignError(f"{path} is not in an encoding that spreadsheets use: save it as “CSV UTF-8” there.")


def _positions_of(column: str, names: Sequence[str]) -> list[int]:
    exact = [position for position, name in enumerate(names) if name == column]
    return exact or [position for position, name in enumerate(names) if _simplified(name) == _simplified(column)]


def _simplified(name: str) -> str:
    """The name without case, invisible characters and spaces that nobody sees."""
    visible = "".join(char for char in unicodedata.normalize("NFC", name) if unicodedata.category(char) != "Cf")
    return unicodedata.normalize("NFC", " ".join(visible.split()).casefold())


def _hold_phone_number(texts: Iterable[str]) -> bool:
    return any(read_phone_number(text).readable for text in texts)


def _float_as_text(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < _LARGEST_EXACT else str(number)


def _as_csv(values: pd.Series) -> pd.Series:
    is_time = isinstance(values.dtype, pd.DatetimeTZDtype)
    return (values.dt.strftime("%Y-%m-%dT%H:%M:%SZ") if is_time else values).fillna("")
