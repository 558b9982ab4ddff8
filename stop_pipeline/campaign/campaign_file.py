"""What `CsvFile` and `ParquetFile` share."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa

from stop_pipeline.errors import CampaignError

BATCH_ROWS = 131_072
"""Memory holds so many rows, whatever the size of the file."""

WriteRows = Callable[[pa.RecordBatch, "pd.Series | None"], None]
"""Adds rows to a part of a campaign, with the values of the part's own column if it has one."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn any failure to read a campaign's file into a CampaignError."""
    problem = None
    try:
        yield
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno else "it is damaged"
    except UnicodeError:
        problem = "it has changed in the meantime"
    except pa.ArrowException:
        problem = "it is damaged, or a kind of Parquet file that is not supported"
    if problem is not None:
        raise CampaignError(f"Cannot read {path}: {problem}.")
