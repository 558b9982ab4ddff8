"""A campaign in Parquet comes back in parts with its columns, types and metadata."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stop_pipeline.campaign.formats import ParquetCampaign
from stop_pipeline.errors import CampaignError

NUMBER = "06 39 98 00 01"
REASON = pa.field("reason", pa.string())


def parquet(folder: Path, phones: pa.Array, **columns: pa.Array) -> Path:
    path = folder / "campaign.parquet"
    table = pa.table({"phone": phones, "tags": pa.array([["a", None]] * len(phones)), **columns})
    pq.write_table(table.replace_schema_metadata({"made": "by hand"}), path)
    return path


def numbers_in(path: Path, column: str = "phone") -> list[str | None]:
    batches = [spellings for _, spellings in ParquetCampaign(path, column).batches()]
    return [None if pd.isna(spelling) else spelling for spellings in batches for spelling in spellings]


def copied(path: Path, keep: list[bool], *, own_columns: Sequence[pa.Field] = ()) -> pa.Table:
    """A part that some of the rows go into."""
    source = ParquetCampaign(path, "phone")
    copy = path.with_name("copy.parquet")
    with source.part(copy, own_columns) as write:
        ((rows, _),) = source.batches()
        write(rows.filter(pa.array(keep)), pd.DataFrame({"reason": pd.Series(["why"] * sum(keep), dtype="str")}))
    return pq.read_table(copy)


@pytest.mark.parametrize(
    ("phones", "expected"),
    [
        (pa.array([NUMBER, None]), [NUMBER, None]),
        (pa.array([NUMBER, None], pa.large_string()), [NUMBER, None]),
        (pa.array([NUMBER, None], pa.string_view()), [NUMBER, None]),
        (pa.array([NUMBER, None]).dictionary_encode(), [NUMBER, None]),
        (pa.array([639980001, None]), ["639980001", None]),
        (pa.array([33639980000.0, 639980001.0, None]), ["33639980000", "639980001", None]),
        (pa.array([float(10**15), 1e300, 0.5]), [str(10**15), "1e+300", "0.5"]),
        (pa.array([Decimal(33639980001), None], pa.decimal128(11, 0)), ["33639980001", None]),
        (pa.array([Decimal(33639980001), None], pa.decimal256(40, 0)), ["33639980001", None]),
        (pa.array([Decimal(639980001), None], pa.decimal128(12, 2)), ["639980001.00", None]),
        (pa.array([None, None]), [None, None]),
    ],
)
def test_a_column_of_text_or_whole_numbers_is_read_and_comes_back(
    tmp_path: Path, phones: pa.Array, expected: list[str | None]
) -> None:
    path = parquet(tmp_path, phones)
    assert numbers_in(path) == expected
    keep = [n != 1 for n in range(len(phones))]
    kept = pq.read_table(path).take(np.flatnonzero(keep)) if phones.type != pa.string_view() else None
    part = copied(path, keep)
    assert part.schema.equals(pq.read_schema(path), check_metadata=True)
    assert part["phone"].to_pylist() == [
        phone for phone, is_kept in zip(phones.to_pylist(), keep, strict=True) if is_kept
    ]
    assert kept is None or part.equals(kept, check_metadata=True)
    longer = copied(path, keep, own_columns=[REASON])
    assert longer.schema.equals(pq.read_schema(path).append(REASON))
    assert longer["reason"].to_pylist() == ["why"] * sum(keep)


@pytest.mark.parametrize(
    "phones",
    [
        pa.array([1.0], pa.float32()),
        pa.array([1.0], pa.float16()),
        pa.array([True]),
        pa.array([["06"]]),
        pa.array([b"06"]),
        pa.array([b"06"], pa.binary_view()),
        pa.array([0], pa.timestamp("s")),
    ],
    ids=lambda phones: str(phones.type),
)
def test_a_column_of_another_type_is_refused(tmp_path: Path, phones: pa.Array) -> None:
    with pytest.raises(CampaignError, match="must be text or whole numbers"):
        ParquetCampaign(parquet(tmp_path, phones), "phone")


@pytest.mark.parametrize(
    "other",
    [
        pa.array(["a", None], pa.string_view()),
        pa.array([b"a", None], pa.binary_view()),
        pa.array([[1], None], pa.list_view(pa.int8())),
        pa.array([{"a": 1}, None]),
        pa.array([Decimal("1.5"), None]),
    ],
    ids=lambda other: str(other.type),
)
def test_another_column_may_be_of_almost_any_type(tmp_path: Path, other: pa.Array) -> None:
    path = parquet(tmp_path, pa.array([NUMBER, NUMBER]), other=other)
    part = copied(path, [False, True])
    assert part.schema.equals(pq.read_schema(path), check_metadata=True)
    assert part["other"].to_pylist() == other[1:].to_pylist()


@pytest.mark.parametrize("kind", [pa.struct([("x", pa.string_view())]), pa.list_(pa.string_view())], ids=str)
def test_a_column_that_no_rows_can_be_selected_from_is_refused_in_one_sentence(
    tmp_path: Path, kind: pa.DataType
) -> None:
    path = parquet(tmp_path, pa.array([NUMBER]), other=pa.nulls(1, kind))
    with pytest.raises(CampaignError, match="a kind of Parquet file that is not supported"):
        ParquetCampaign(path, "phone")


def test_column_names_meet_without_regard_to_case_and_spaces(tmp_path: Path) -> None:
    path = parquet(tmp_path, pa.array([NUMBER]))
    assert numbers_in(path, " PHONE") == [NUMBER]


def test_text_that_is_not_utf8_is_damage(tmp_path: Path) -> None:
    offsets, data = pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
    path = parquet(tmp_path, pa.Array.from_buffers(pa.string(), 1, [None, offsets, data]))
    with pytest.raises(CampaignError, match="it is damaged"):
        numbers_in(path)


def test_a_file_that_is_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, pa.array([f"063998{n % 10_000:04}" for n in range(50_000)]))
    content = path.read_bytes()
    path.write_bytes(content[:1000] + b"\xff" * 5000 + content[6000:])
    with pytest.raises(CampaignError, match="it is damaged"):
        numbers_in(path)
