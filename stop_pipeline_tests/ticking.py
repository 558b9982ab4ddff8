"""A way to tick without HTTP: answers from a list, everything else real.

What belongs here: building answers, a client that hands them out, and one call that runs all steps of a tick.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stop_pipeline import tick
from stop_pipeline.guard import Guard
from stop_pipeline.model import Answer, Format
from stop_pipeline.store import Store

PARIS = "Europe/Paris"
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
"""Where many data roots may lie, if the system has such a place: a test that ends no machine needs no synced disk."""
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    """One well-formed row of an answer."""

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


def answer_body(listed: Iterable[Row | Mapping[str, Any]], *, nb_data: int | None = None) -> bytes:
    """A JSON answer; `nb_data` says something else than the number of rows."""
    data = [row.document() if isinstance(row, Row) else dict(row) for row in listed]
    return json.dumps(
        {"success": True, "code": 200, "nbData": len(data) if nb_data is None else nb_data, "data": data}
    ).encode()


class CannedClient:
    """Hands out one answer, as the real client would."""

    secrets: tuple[str, ...] = ()

    def __init__(self, body: bytes, fetched_at: datetime, answer_format: Format = "json") -> None:
        self._body = body
        self._fetched_at = fetched_at
        self._format = answer_format

    def fetch(self, into: Path, progress: Callable[[int], None] | None = None) -> Answer:
        into.write_bytes(self._body)
        return Answer(
            path=into,
            format=self._format,
            fetched_at=self._fetched_at,
            sha256=hashlib.sha256(self._body).hexdigest(),
            size_bytes=len(self._body),
            seconds=0.0,
        )


class Ticker:
    """Ticks one account of one data root, an hour apart."""

    def __init__(self, root: str | Path, account: str = "main", start: datetime = START) -> None:
        self.store = Store(root)
        self.root = Path(root)  # of use for a folder only
        self.account = account
        self.now = start

    def fetch(self, body: bytes, *, at: datetime | None = None, answer_format: Format = "json") -> tick.Fetched:
        self.now = self.now + timedelta(hours=1) if at is None else at
        client = CannedClient(body, self.now, answer_format)
        return tick.fetch(self.store, self.account, client, timezone=PARIS)

    def apply(self, *, accept_removals: int | None = None) -> tick.Applied:
        tick.parse_newest(self.store, self.account, timezone=PARIS)
        return tick.apply_newest(self.store, self.account, Guard(accept_removals=accept_removals))

    def tick(
        self,
        listed: Sequence[Row | Mapping[str, Any]] | bytes,
        *,
        nb_data: int | None = None,
        at: datetime | None = None,
        accept_removals: int | None = None,
        answer_format: Format = "json",
    ) -> tick.Applied:
        """All five steps."""
        body = listed if isinstance(listed, bytes) else answer_body(listed, nb_data=nb_data)
        self.fetch(body, at=at, answer_format=answer_format)
        applied = self.apply(accept_removals=accept_removals)
        tick.derive_suppression_list(self.store, self.account)
        tick.derive_stops_per_day(self.store, self.account)
        return applied


def tree(root: Path, *folders: str) -> dict[str, bytes]:
    """Every file below some folders of a data root, with its bytes."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in folders or [entry.name for entry in root.iterdir() if entry.name != ".work"]
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }
