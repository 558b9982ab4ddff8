"""Syncs without HTTP: responses from a list, everything else real."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stop_pipeline import sync
from stop_pipeline.results import Fetched, Merged
from stop_pipeline.settings import Format
from stop_pipeline.table.merge import RemovalPolicy
from stop_pipeline.table.store import Store

PARIS = "Europe/Paris"
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
"""Where many data roots may lie, if the system has such a place: a process kill cannot tell, and syncs are free."""
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    """One well-formed row of a response."""

    id: int
    phone_number: str = "+33639980001"
    created_at: str = "2025-06-01 10:00:00"

    def document(self) -> dict[str, Any]:
        return {"id": self.id, "phoneNumber": self.phone_number, "createdAt": self.created_at}


def rows(count: int, *, first_id: int = 1, month: str = "2025-06") -> list[Row]:
    """Distinct rows of one month."""
    return [
        Row(i, f"+3363998{i % 10_000:04}", f"{month}-{1 + i % 28:02} 10:00:00")
        for i in range(first_id, first_id + count)
    ]


def response_body(listed: Iterable[Row | Mapping[str, Any] | list[Any]], *, nb_data: int | None = None) -> bytes:
    """A JSON response; `nb_data` announces another number of rows than there are."""
    data = [row.document() if isinstance(row, Row) else row for row in listed]
    return json.dumps(
        {"success": True, "code": 200, "nbData": len(data) if nb_data is None else nb_data, "data": data}
    ).encode()


class Syncer:
    """Syncs one account of one data root, an hour apart."""

    def __init__(self, root: str | Path, account: str = "main", start: datetime = START, timezone: str = PARIS) -> None:
        self.store = Store(root)
        self.root = Path(root)  # of use for a folder only
        self.account = account
        self.now = start
        self.timezone = timezone

    def fetch(self, body: bytes, *, at: datetime | None = None, response_format: Format = "json") -> Fetched:
        self.now = self.now + timedelta(hours=1) if at is None else at
        return sync.fetch(self.store, self.account, sync.FetchedBefore(body, self.now, response_format))

    def merge(self, *, accept_removals: int | None = None) -> Merged:
        sync.parse(self.store, self.account, timezone=self.timezone)
        return sync.merge(self.store, self.account, RemovalPolicy(accept_removals=accept_removals))

    def up_to_stops(
        self,
        listed: Sequence[Row | Mapping[str, Any]] | bytes,
        *,
        nb_data: int | None = None,
        at: datetime | None = None,
        accept_removals: int | None = None,
        response_format: Format = "json",
    ) -> Merged:
        """The steps up to the commit; the tables that are made from it are left as they are."""
        body = listed if isinstance(listed, bytes) else response_body(listed, nb_data=nb_data)
        self.fetch(body, at=at, response_format=response_format)
        return self.merge(accept_removals=accept_removals)

    def sync(self, listed: Sequence[Row | Mapping[str, Any]] | bytes, **options: Any) -> Merged:
        """All five steps; the options are those of `up_to_stops`."""
        merged = self.up_to_stops(listed, **options)
        sync.derive_tables(self.store, self.account)
        return merged


def tree(root: Path, *folders: str) -> dict[str, bytes]:
    """Every file below some folders of a data root, with its bytes."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in folders or [entry.name for entry in root.iterdir() if entry.name != ".work"]
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }
