"""Columns by way of memory: what Arrow's own conversions give, which first import pandas."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stop_pipeline import columns
from stop_pipeline.columns import UTC_TIME, WALL_CLOCK, as_arrow, as_numpy, constant, in_one, repeats, scalar, strings

INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1))
TEXTS = st.lists(st.none() | st.text(max_size=3))


@given(INTEGERS, st.sampled_from(["int64", "datetime64[us]", "bool"]), st.integers(0, 20), st.integers(0, 20))
def test_numbers_times_and_bools_go_to_arrow_and_back_from_wherever_a_slice_begins(
    values: list[int], dtype: str, start: int, length: int
) -> None:
    of_numpy = np.array([value % 2 for value in values] if dtype == "bool" else values, np.int64).astype(dtype)
    column = as_arrow(of_numpy)
    assert column.equals(pa.array(of_numpy)) or np.isnat(of_numpy).any()
    part, of_part = column.slice(start, length), of_numpy[start : start + length]
    np.testing.assert_array_equal(as_numpy(part), of_part)
    np.testing.assert_array_equal(as_numpy(pa.chunked_array([part, column])), np.concatenate([of_part, of_numpy]))


@given(TEXTS)
def test_texts_go_to_arrow(values: list[str | None]) -> None:
    column = strings(values)
    column.validate(full=True)
    assert column.equals(pa.array(values, pa.string()))


def test_more_text_than_a_column_holds_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_MOST_TEXT_BYTES", 4)
    assert strings(["é", "é"]).to_pylist() == ["é", "é"]
    with pytest.raises(OverflowError, match="2 GiB"):
        strings(["é", "éa"])


@pytest.mark.parametrize(
    ("value", "of_type"),
    [
        ("é", None),
        (5, None),
        (True, None),
        (None, pa.string()),
        (None, UTC_TIME),
        (datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC), UTC_TIME),
        (datetime(1969, 12, 31), WALL_CLOCK),  # noqa: DTZ001 – a wall clock
    ],
)
def test_a_value_is_as_arrow_has_it(value: Any, of_type: pa.DataType | None) -> None:
    assert scalar(value, of_type).equals(pa.scalar(value, of_type))
    assert constant(value, 3, of_type).equals(pa.array([value] * 3, of_type))


def test_a_time_comes_back_from_its_microseconds() -> None:
    moment = datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC)
    assert columns.as_time(scalar(moment, UTC_TIME).value) == moment


@given(TEXTS.map(lambda values: sorted(values, key=str)), st.integers(0, 5))
def test_a_row_repeats_the_one_before_it_if_all_its_columns_do(values: list[str | None], cut: int) -> None:
    column = strings(values)
    number = as_arrow(np.arange(len(values)) // 2)
    table = pa.table({"text": pa.chunked_array([column[:cut], column[cut:]]), "number": number})
    pairs = list(zip(values, number.to_pylist(), strict=True))
    assert repeats(table, "text").tolist() == [i > 0 and values[i - 1] == value for i, value in enumerate(values)]
    assert repeats(table, "text", "number").tolist() == [i > 0 and pairs[i - 1] == row for i, row in enumerate(pairs)]


def test_a_column_with_nulls_is_no_array_of_numpy() -> None:
    with pytest.raises(ValueError, match="nulls"):
        as_numpy(pa.array([1, None]))


def test_no_chunk_is_a_column_without_rows() -> None:
    assert in_one(pa.chunked_array([], pa.string())).equals(pa.array([], pa.string()))
