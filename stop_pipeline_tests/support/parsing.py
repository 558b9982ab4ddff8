"""Responses written by hand, parsed from a file as the pipeline does it."""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pandas as pd

from stop_pipeline.schema import LISTED, REASONS, REJECTED_ROWS, to_arrow
from stop_pipeline.smspartner.document import ListDocument, open_list
from stop_pipeline.smspartner.response import Snapshot, parse
from stop_pipeline_tests.support.syncing import IN_MEMORY, PARIS

DATA = Path(__file__).parent.parent / "data"
FETCHED_AT = datetime(2024, 11, 5, 9, 0, 0, tzinfo=UTC)
NUMBER = "+33639980012"
NOON = "2024-06-01 12:00:00"
GOOD = {"id": 1, "phoneNumber": NUMBER, "createdAt": NOON}


def read_file(path: Path, response_format: str = "json", timezone: str = PARIS) -> tuple[ListDocument, Snapshot]:
    document = open_list(path, response_format, secrets=())
    return document, parse(document, fetched_at=FETCHED_AT, timezone=timezone)


def read_document(
    body: bytes | str, response_format: str = "json", timezone: str = PARIS
) -> tuple[ListDocument, Snapshot]:
    """What surrounds the rows of a response, and its rows."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder) / "response"
        path.write_bytes(body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass"))
        return read_file(path, response_format, timezone)


def read(body: bytes | str, response_format: str = "json", timezone: str = PARIS) -> Snapshot:
    return read_document(body, response_format, timezone)[1]


def read_rows(*rows: Any) -> Snapshot:
    return read(json_document(list(rows)))


def json_document(rows: Any, **around: Any) -> str:
    count = len(rows) if isinstance(rows, list) else 0
    return json.dumps({"success": True, "code": 200, "nbData": count, "data": rows} | around)


def xml_entry(content: str) -> str:
    return f"<entry>{content}</entry>\n"


def xml_row(*texts: str) -> str:
    return xml_entry("".join(xml_entry(f"\n  {escape(text)}\n") for text in texts))


def xml_document(rows: str, *, success: str = "true", code: str = "200", nb_data: str = "1") -> str:
    around = "".join(map(xml_entry, (success, code, nb_data)))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<result>\n{around}{xml_entry(rows)}</result>\n'


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as values of plain Python; what is missing is None."""
    plain = [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
    return [
        {name: value.to_pydatetime() if isinstance(value, pd.Timestamp) else value for name, value in row.items()}
        for row in plain
    ]


def reasons(snapshot: Snapshot) -> list[str]:
    return snapshot.rejected["reason"].tolist()


def only_rejected(snapshot: Snapshot) -> tuple[str, str, str | None]:
    (row,) = records(snapshot.rejected)
    return row["raw"], row["reason"], row["phone_number"]


def holds_its_promises(snapshot: Snapshot) -> None:
    """Whatever the response was: rows add up, columns are as declared, and the order is."""
    assert snapshot.rows == len(snapshot.listed) + len(snapshot.rejected) + snapshot.duplicates
    assert snapshot.duplicates >= 0
    for frame, schema in ((snapshot.listed, LISTED), (snapshot.rejected, REJECTED_ROWS)):
        assert {str(name): str(dtype) for name, dtype in frame.dtypes.items()} == schema.dtypes
        assert frame.index.equals(pd.RangeIndex(len(frame)))
        to_arrow(frame, schema).validate(full=True)
    keys = list(zip(snapshot.listed["created_at_local"], snapshot.listed["id"], strict=True))
    assert keys == sorted(keys)
    assert snapshot.listed["id"].is_unique
    raws = snapshot.rejected["raw"].tolist()
    assert raws == sorted(set(raws))
    assert set(snapshot.rejected["reason"]) <= set(REASONS)
