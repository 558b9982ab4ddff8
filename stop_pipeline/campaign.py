"""A campaign's file: read in batches, its rows written out again in parts, as they came.

What belongs here: the delimiters and encodings that spreadsheets write, Parquet, and that the parts appear together or
not at all. What does not: which row goes into which part (`suppression`), and how a number is read (`phones`).

A CSV row is carried as the text it came as: quotes, leading zeros, spaces and line ends are those of the file, and so
are delimiter, encoding and byte order mark of the parts. Memory holds one batch, whatever the size of the file.
"""

import codecs
import csv
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TextIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stop_pipeline.errors import CampaignError, excerpt

BATCH_ROWS = 131_072
DELIMITERS = (";", ",", "\t", "|")
RAGGED = "not as many fields as the header"

_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_WITHOUT_MARK = ("utf-8", "cp1252")
_ENCODING_NAMES = {"utf-8": "UTF-8", "cp1252": "Windows-1252", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}
_MARK = "\ufeff"
_PARQUET = b"PAR1"
_WORKBOOK = b"PK\x03\x04"
_READ_CHARACTERS = 1 << 20
_LARGEST_EXACT = 2**53
"""Above it, not every whole number is a float."""
_PAGE_BYTES = 1 << 20
_MOST_NAMES = 20
_LONGEST_NAME = 40
_DIGITS_OF_A_NUMBER = 6

Rows = TypeVar("Rows")
Rows_contra = TypeVar("Rows_contra", contravariant=True)
Records = list[str]


@dataclass(frozen=True)
class Batch(Generic[Rows]):
    """Some rows of a campaign, in order.

    Attributes:
        rows: As its file holds them.
        spellings: The phone number of each as text; null if there is none, or the row cannot be read.
        faults: Why a row cannot be read; null for most.
    """

    rows: Rows
    spellings: pa.Array
    faults: pa.Array


class Part(Protocol[Rows_contra]):
    """A file that some of a campaign's rows go into."""

    def write(self, rows: Rows_contra, chosen: NDArray[np.bool_], added: pa.Array | None = None) -> None:
        """Add the chosen rows; `added` holds, for these only, the values of the part's own column."""


class Campaign(Protocol[Rows]):
    """A campaign's file.

    Attributes:
        form: What it is, in words.
        suffix: What the names of its parts end with.
    """

    form: str
    suffix: str

    def batches(self) -> Iterator[Batch[Rows]]:
        """All rows, in order."""

    def part(self, path: Path, added: pa.Field | None = None) -> AbstractContextManager[Part[Rows]]:
        """A new file of the same form, with the column `added` after its own, if one is given."""


def open_campaign(path: Path, column: str, own_columns: Sequence[str]) -> Campaign[Any]:
    """The campaign in a file that has a column of phone numbers.

    Args:
        path: CSV (`DELIMITERS`; UTF-8, UTF-16 with a byte order mark, or Windows-1252; a header line) or Parquet.
        column: Name of the column.
        own_columns: Names that the parts need for columns of their own.

    Raises:
        CampaignError: it cannot be read, has no such column, or one that is named like one of `own_columns`.
    """
    with _readable(path), path.open("rb") as file:
        start = file.read(4)
    if start == _WORKBOOK:
        raise CampaignError(f"{path} is a workbook: save it as “CSV UTF-8” in the spreadsheet first.")
    campaign: CsvCampaign | ParquetCampaign
    campaign = ParquetCampaign(path, column) if start == _PARQUET else CsvCampaign(path, column)
    refuse_taken_names(campaign.columns, own_columns, str(path))
    return campaign


class CsvCampaign:
    """A campaign in CSV; its rows are the records as text, line ends included."""

    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        self._encoding = _encoding_of(path)
        self._delimiter, self.columns = self._header_with(column)
        self._position = position_of(column, self.columns, str(path))
        between = "tabs" if self._delimiter == "\t" else f"“{self._delimiter}”"
        self.form = f"CSV with {between} between columns, {_ENCODING_NAMES[self._encoding]}"
        self.suffix = path.suffix or ".csv"

    def batches(self) -> Iterator[Batch[Records]]:
        """All rows but the header, in order; a blank line is none."""
        with _readable(self._path), self._open() as file:
            reading = _Reading(file, self._path, self._delimiter)
            reading.header()
            while (batch := self._batch(reading)) is not None:
                yield batch

    @contextmanager
    def part(self, path: Path, added: pa.Field | None = None) -> Iterator["_CsvPart"]:
        """As `Campaign.part`."""
        with self._open() as file:
            header = _Reading(file, self._path, self._delimiter).header().text
        with path.open("w", encoding=self._encoding, newline="") as file:
            part = _CsvPart(file, self._delimiter, _line_end(header) or "\n")
            part.write([header], np.array([True]), None if added is None else pa.array([added.name]))
            yield part

    def _open(self) -> TextIO:
        return self._path.open(encoding=self._encoding, newline="")

    def _header_with(self, column: str) -> tuple[str, list[str]]:
        """The delimiter by which the header has the column, or else most columns; and its columns."""
        headers = {}
        with _readable(self._path):
            for delimiter in DELIMITERS:
                with self._open() as file:
                    # Not strict: quotes that are right by one delimiter are wrong by the others.
                    headers[delimiter] = _Reading(file, self._path, delimiter, strict=False).header().fields
        delimiter = max(DELIMITERS, key=lambda delimiter: (column in headers[delimiter], len(headers[delimiter])))
        return delimiter, headers[delimiter]

    def _batch(self, reading: "_Reading") -> Batch[Records] | None:
        records: list[tuple[int, int]] = []  # the lines that each spans
        spellings: list[str | None] = []
        faults: list[str | None] = []
        lines_before = lines = reading.lines_read
        for fields in itertools.islice(reading.records(), BATCH_ROWS):
            if fields:
                ragged = len(fields) != len(self.columns)
                records.append((lines - lines_before, reading.lines_read - lines_before))
                spellings.append(None if ragged else fields[self._position])
                faults.append(RAGGED if ragged else None)
            lines = reading.lines_read
        if lines == lines_before:
            return None
        text = reading.text_of(lines - lines_before)
        return Batch(
            text if len(text) == len(records) else ["".join(text[start:end]) for start, end in records],
            pa.array(spellings, pa.string()),
            pa.array(faults, pa.string()),
        )


@dataclass(frozen=True)
class _Header:
    text: str
    fields: list[str]


class _Reading:
    """One pass over a CSV file: its records as fields, and the lines that they came as.

    Quotes must be as CSV has them. A reader that forgives a stray one may take several rows for one, and the numbers in
    it for text.
    """

    def __init__(self, file: TextIO, path: Path, delimiter: str, *, strict: bool = True) -> None:
        self._path = path
        self._mark = file.read(1)
        if self._mark != _MARK:
            file.seek(0)
            self._mark = ""
        lines, self._text = itertools.tee(file)
        self._reader = csv.reader(lines, delimiter=delimiter, strict=strict)

    @property
    def lines_read(self) -> int:
        """How many lines the records so far came as."""
        return self._reader.line_num

    def header(self) -> _Header:
        """The first record that is not blank, to be read before any other; without fields if there is none."""
        fields = next(filter(None, self.records()), [])
        return _Header(self._mark + "".join(self.text_of(self.lines_read)), fields)

    def records(self) -> Iterator[list[str]]:
        """The records from here on; of a blank line, an empty list."""
        problem = None
        try:
            yield from self._reader
        except csv.Error as error:
            problem = str(error)
        if problem is not None:
            raise CampaignError(
                f"{self._path} cannot be read as CSV near line {self.lines_read:,} ({problem}): look there for a quote "
                '(") too many or too few, or save the file anew from the spreadsheet.'
            )

    def text_of(self, lines: int) -> Records:
        """The next so many lines that were read, as they came."""
        return list(itertools.islice(self._text, lines))


class _CsvPart:
    def __init__(self, file: TextIO, delimiter: str, line_end: str) -> None:
        self._file = file
        self._delimiter = delimiter
        self._line_end = line_end

    def write(self, rows: Records, chosen: NDArray[np.bool_], added: pa.Array | None = None) -> None:
        records: Iterator[str] = itertools.compress(rows, chosen)
        if added is not None:
            values = _csv_values(added)
            records = (self._with(record, value) for record, value in zip(records, values, strict=True))
        self._file.writelines(records)

    def _with(self, record: str, value: str) -> str:
        end = _line_end(record)
        return f"{record.removesuffix(end)}{self._delimiter}{value}{end or self._line_end}"


def _line_end(record: str) -> str:
    return record[len(record.rstrip("\r\n")) :]


def _csv_values(values: pa.Array) -> list[str]:
    """As text that needs no quotes; a time as ISO 8601 to the second, of a null nothing."""
    if pa.types.is_timestamp(values.type):
        values = pc.strftime(values.cast(pa.timestamp("s", tz="UTC"), safe=False), format="%Y-%m-%dT%H:%M:%SZ")
    text: list[str] = pc.fill_null(values, "").to_pylist()
    return text


class ParquetCampaign:
    """A campaign in Parquet; its rows are record batches."""

    form = "Parquet"
    suffix = ".parquet"

    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        with _readable(path), pq.ParquetFile(path) as file:
            self._schema = file.schema_arrow
        self.columns = self._schema.names
        self._position = position_of(column, self.columns, str(path))
        as_text(pa.nulls(0, self._schema.field(self._position).type))

    def batches(self) -> Iterator[Batch[pa.RecordBatch]]:
        """All rows, in order."""
        # Page by page: a row group, which may be the whole file, is not read ahead.
        with _readable(self._path), pq.ParquetFile(self._path, pre_buffer=False, buffer_size=_PAGE_BYTES) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                yield Batch(batch, as_text(batch.column(self._position)), pa.nulls(batch.num_rows, pa.string()))

    @contextmanager
    def part(self, path: Path, added: pa.Field | None = None) -> Iterator["_ParquetPart"]:
        """As `Campaign.part`."""
        schema = self._schema if added is None else self._schema.append(added)
        with pq.ParquetWriter(path, schema) as writer:
            yield _ParquetPart(writer, schema)


class _ParquetPart:
    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema

    def write(self, rows: pa.RecordBatch, chosen: NDArray[np.bool_], added: pa.Array | None = None) -> None:
        columns = rows.filter(pa.array(chosen)).columns
        self._writer.write_batch(
            pa.RecordBatch.from_arrays(columns if added is None else [*columns, added], schema=self._schema)
        )


def position_of(column: str, columns: Sequence[str], where: str) -> int:
    """The position of the column of that name.

    Raises:
        CampaignError: there is none, or more than one. Column names are shown, unless they look like data.
    """
    if columns.count(column) == 1:
        return columns.index(column)
    if any(sum(map(str.isdigit, name)) >= _DIGITS_OF_A_NUMBER for name in columns):
        raise CampaignError(
            f"{where} has no column “{excerpt(column)}”, and its first line looks like data: put a line of names above."
        )
    names = ", ".join(f"“{''.join(filter(str.isprintable, name))[:_LONGEST_NAME]}”" for name in columns[:_MOST_NAMES])
    count = "more than one" if column in columns else "no"
    raise CampaignError(
        f"{where} has {count} column “{excerpt(column)}”; its columns are {names or 'none'}: name the one that holds "
        "the phone numbers."
    )


def refuse_taken_names(columns: Sequence[str], own_columns: Sequence[str], where: str) -> None:
    """Raise CampaignError if one of `own_columns` is there already."""
    for name in own_columns:
        if name in columns:
            raise CampaignError(f"{where} has a column “{name}” already, which the result needs: rename it first.")


def as_text(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Phone numbers as text in one piece, from a column of text or of numbers; a null stays null.

    Raises:
        CampaignError: they are of another type. A 32-bit float has rounded a phone number before anybody reads it.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_float64(values.type):
        # As the whole numbers that they are: the text of a large float has an exponent.
        whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), _LARGEST_EXACT))
        return pc.coalesce(pc.if_else(whole, values, None).cast(pa.int64()).cast(pa.string()), values.cast(pa.string()))
    is_text = (
        pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type)
    )
    if is_text or pa.types.is_integer(values.type) or pa.types.is_null(values.type):
        return values.cast(pa.string())
    raise CampaignError(f"The column of phone numbers is of type {values.type}: it must be text or whole numbers.")


@contextmanager
def appearing_whole(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `folder` once the block ends well, and is gone if it does not.

    It is made beside `folder`, for its owner only, under a hidden name; a killed process leaves it there.

    Raises:
        CampaignError: `folder` exists and is not an empty folder, or cannot be written.
    """
    folder = folder.resolve()
    problem = None
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise CampaignError(f"{folder} is not empty: name a folder that is, or does not exist yet.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        filling = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            yield filling
            for path in filling.iterdir():
                path.chmod(0o600)
                with path.open("rb") as file:
                    os.fsync(file.fileno())  # or a power cut could leave the folder with files cut short
            filling.replace(folder)
        finally:
            shutil.rmtree(filling, ignore_errors=True)
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno else type(error).__name__
    if problem is not None:
        raise CampaignError(f"Cannot write {folder}: {problem}. Nothing was left there.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn a campaign's file that cannot be read into one sentence."""
    problem = None
    try:
        yield
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno else "it is damaged"
    except pa.ArrowException:
        problem = "it is damaged, or no such Parquet file as this can read"
    if problem is not None:
        raise CampaignError(f"Cannot read {path}: {problem}.")


def _encoding_of(path: Path) -> str:
    """As the byte order mark says; without one UTF-8, unless a byte of the file cannot be, else Windows-1252."""
    with _readable(path):
        with path.open("rb") as file:
            start = file.read(3)
        marked = [encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if start.startswith(mark)]
        for encoding in marked or _WITHOUT_MARK:
            with suppress(UnicodeDecodeError), path.open(encoding=encoding, newline="") as file:
                while file.read(_READ_CHARACTERS):
                    pass
                return encoding
    raise CampaignError(f"{path} is text in no encoding that spreadsheets write: save it as “CSV UTF-8” there.")
