"""Parquet files whose rows are damaged although their footer is in order."""

from pathlib import Path

import pyarrow.parquet as pq


def overwrite_pages(path: Path) -> None:
    """Zeros in place of all rows; the file ends in its footer, the footer's length and four letters."""
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:4] + bytes(footer - 4) + data[footer:])


def flip_a_bit(path: Path) -> None:
    """One bit changed in the first column."""
    column = pq.read_metadata(path).row_group(0).column(0)
    end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
    data = bytearray(path.read_bytes())
    data[end - 1] ^= 1
    path.write_bytes(data)
