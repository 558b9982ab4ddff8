"""That a footer read without Arrow says what Arrow would read in it, and that damage is told as damage."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stop_pipeline.files import LocalFiles
from stop_pipeline.footers import METADATA_KEY, Footer, as_json, footer_bytes, note_in, read_footer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NOTES = st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT, max_size=3), max_size=5)
COLUMNS = {
    "whole": pa.array([-(2**63), None, 2**63 - 1], pa.int64()),
    "text": pa.array(["", "ÿ☎", None], pa.string()),
    "bytes": pa.array([b"\xff\x80", b"", None], pa.binary()),
    "yes": pa.array([True, None, False]),
    "time": pa.array([0, None, -1], pa.timestamp("us", "UTC")),
    "day": pa.array([0, 1, None], pa.date32()),
    "share": pa.array([0.5, None, float("nan")]),
    "list": pa.array([[1], [], None], pa.list_(pa.int32())),
    "struct": pa.array([{"a": 1}, None, {"a": None}], pa.struct([("a", pa.int8())])),
    "nothing": pa.nulls(3),
}


def parquet(table: pa.Table, metadata: dict[bytes, bytes], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink, **options)
    return sink.getvalue()


def a_file(note: dict[str, Any] | None = None, rows: int = 3) -> bytes:
    return parquet(pa.table({"id": range(rows)}), {METADATA_KEY: as_json(note or {}).encode()})


@settings(deadline=None)  # of many row groups, Arrow writes one after the other
@given(
    note=NOTES,
    others=st.dictionaries(TEXT.map(str.encode), TEXT.map(str.encode), max_size=20),
    columns=st.lists(st.sampled_from(sorted(COLUMNS)), unique=True),
    repeated=st.integers(0, 400),
    row_group_rows=st.sampled_from([1, 7, 1_000]),
    version=st.sampled_from(["1.0", "2.4", "2.6"]),
    compression=st.sampled_from(["none", "zstd", "snappy"]),
    indexed=st.sampled_from([False, True]),
)
def test_a_footer_says_what_arrow_reads_in_it(
    note: dict[str, Any],
    others: dict[bytes, bytes],
    columns: list[str],
    repeated: int,
    row_group_rows: int,
    version: Any,
    compression: str,
    indexed: Any,
) -> None:
    table = pa.table({name: COLUMNS[name] for name in columns} or {"id": pa.array([1, 2, 3])})
    data = parquet(
        pa.concat_tables([table.slice(0, 0), *[table] * repeated]),
        others | {METADATA_KEY: json.dumps(note).encode()},
        row_group_size=row_group_rows,
        version=version,
        compression=compression,
        write_page_index=indexed,
    )
    by_arrow = pq.read_metadata(io.BytesIO(data))
    assert read_footer(data) == Footer(by_arrow.num_rows, note_in(by_arrow.metadata))
    assert read_footer(data[-footer_bytes(data) :]).note == note


@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_footer_with_another_byte_is_read_or_refused_and_raises_nothing_else(place: float, byte: int) -> None:
    end = bytearray(a_file({"commit": "x"})[-footer_bytes(a_file({"commit": "x"})) :])
    end[int(place * len(end))] = byte
    try:
        read_footer(bytes(end))
    except (KeyError, ValueError):
        return


@given(st.binary(max_size=300).map(lambda body: body + len(body).to_bytes(4, "little") + b"PAR1"))
def test_bytes_that_only_end_like_a_parquet_file_are_refused(data: bytes) -> None:
    with pytest.raises((KeyError, ValueError)):
        read_footer(data)


@pytest.mark.parametrize("kept", [0, 4, 7, 8, 100])
def test_the_rest_of_a_cut_file_is_refused(kept: int) -> None:
    data = a_file()
    with pytest.raises(ValueError, match="no Parquet footer"):
        read_footer(data[len(data) - kept :])
    with pytest.raises(ValueError, match="no Parquet footer"):
        read_footer(data[:kept])


def test_structures_nested_without_end_are_refused() -> None:
    body = b"\x1c" * 100_000
    with pytest.raises(ValueError, match="no Parquet footer"):
        read_footer(body + len(body).to_bytes(4, "little") + b"PAR1")


def written_by_hand(rows: bytes, *pairs: bytes) -> bytes:
    """A footer that holds a field for the rows, as it stands there, and pairs of metadata."""
    body = rows + bytes([0x29, len(pairs) << 4 | 12]) + b"".join(pair + b"\0" for pair in pairs) + b"\0"
    return body + len(body).to_bytes(4, "little") + b"PAR1"


ROWS, NOTE = b"\x36\x06", b"\x18\x0dstop_pipeline\x18\x02{}"


def test_a_pair_of_another_program_that_has_no_value_does_not_matter() -> None:
    assert read_footer(written_by_hand(ROWS, b"\x18\x05other", NOTE)) == Footer(3, {})


@pytest.mark.parametrize(
    ("rows", "pairs"),
    [
        (b"\x36\x05", [NOTE]),  # -3 rows
        (b"\x31", [NOTE]),  # true
        (b"\x38\x01z", [NOTE]),  # text
        (ROWS, [b"\x18\x0dstop_pipeline"]),  # a note without a value
        (ROWS, [NOTE[:-2] + b"{:"]),  # a note that is no JSON
        (ROWS, [b"\x18\x0dstop_pipeline\x18\x0212"]),  # a note that is no document
    ],
)
def test_a_footer_that_says_something_else_than_a_footer_does_is_refused(rows: bytes, pairs: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"no Parquet footer|Expecting"):
        read_footer(written_by_hand(rows, *pairs))


def test_a_file_of_another_program_is_refused() -> None:
    with pytest.raises(KeyError):
        read_footer(parquet(pa.table({"id": [1]}), {b"pandas": b"{}"}))


@pytest.mark.parametrize("size", [10, 65_536, 200_000])
def test_no_more_of_a_file_is_read_than_its_footer_takes(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.parquet").write_bytes(a_file({"much": "x" * size}, rows=100_000))
    end = LocalFiles(tmp_path).footer("a.parquet")
    assert read_footer(end) == Footer(100_000, {"much": "x" * size})
    assert len(end) == max(footer_bytes(end), 65_536)


def test_a_file_that_claims_a_longer_footer_than_it_has_is_given_as_it_is(tmp_path: Path) -> None:
    claims = b"x" * 100 + (1 << 31).to_bytes(4, "little") + b"PAR1"
    (tmp_path / "a.parquet").write_bytes(claims)
    assert LocalFiles(tmp_path).footer("a.parquet") == claims
