"""What is kept below one data root: the answers, the commits, and the tables made of them.

What belongs here: answers as received, the commit and its pending mark, and what can be told of a table without its
rows. What does not: rows (`tables`), which file is which (`layout`), what a tick changes (`merge`), and how bytes reach
the disk (`files`) or a bucket (`objects`).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stop_pipeline.errors import SchemaVersionError, StoreError
from stop_pipeline.files import Files, LocalFiles, readable, writable
from stop_pipeline.footers import Footer, as_json, read_footer
from stop_pipeline.frames import Kept, compress, opened, unpack
from stop_pipeline.layout import NO_MONTH, single_file, snapshot_file
from stop_pipeline.model import (
    Answer,
    Counts,
    DerivedInfo,
    Figures,
    Format,
    Landed,
    Pending,
    RawFile,
    SnapshotInfo,
    State,
)
from stop_pipeline.pieces import Piece, Span, named
from stop_pipeline.roots import is_remote
from stop_pipeline.schema import SCHEMA_VERSION, TableSchema

if TYPE_CHECKING:  # a tick that changes nothing needs no Arrow
    import pyarrow as pa

    from stop_pipeline.tables import Tables

_FETCH_TIME = "%Y%m%dT%H%M%S.%fZ"
_ACCOUNT_NAME = re.compile(r"account=([a-z][a-z0-9_]*)(?:\.json)?")
_RAW_FILE = re.compile(r"([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)-([0-9a-f]{12})\.(json|xml)\.zst")
_COPY_BYTES = 1 << 20


class Store:
    """One data root.

    Every method that writes is to be called under `locked`. Times are timezone-aware UTC.
    """

    def __init__(self, root: str | Path) -> None:
        self.files: Files
        if is_remote(root):
            from stop_pipeline.objects import ObjectFiles  # noqa: PLC0415 – it loads what only a bucket needs

            self.files = ObjectFiles(str(root))
        else:
            self.files = LocalFiles(Path(root))

    @classmethod
    def existing(cls, root: str | Path) -> Store:
        """The store of a data root that something has been written to.

        Raises:
            StoreError: there is no such folder.
        """
        store = cls(root)
        if not store.files.has_root():
            raise StoreError(
                f"There is no data root at {store.root}: run “stop-pipeline run” (or “demo”) first, or set "
                "STOP_PIPELINE_DATA (in Python, give root=…)."
            )
        return store

    @cached_property
    def tables(self) -> Tables:
        """The rows below this data root; they load Arrow."""
        from stop_pipeline.tables import Tables  # noqa: PLC0415 – see above

        return Tables(self.files)

    @property
    def root(self) -> str:
        """The data root, absolute, as a person is told."""
        return self.files.shown()

    def locked(self, account: str) -> AbstractContextManager[None]:
        """Hold the account's lock; see `files.Files.locked`."""
        return self.files.locked(account)

    def temporary(self, account: str) -> Path:
        """A fresh path for a temporary file of the account, to be used under its lock."""
        return self.files.temporary(account)

    def uri(self, table: str, account: str) -> str:
        """The URI of the folder in which a table's files of the account lie."""
        return self.files.uri(f"{table}/account={account}")

    def accounts(self) -> list[str]:
        """The accounts that have a state."""
        return [Path(name).stem.removeprefix("account=") for name in self.files.matching("state/account=*.json")]

    def accounts_seen(self) -> list[str]:
        """The accounts that anything below the root is of, whether or not they have a state."""
        names = (name.split("/") for name in self.files.matching("*/account=*"))
        accounts = {_ACCOUNT_NAME.fullmatch(name) for folder, name in names if not folder.startswith(".")}
        return sorted({account[1] for account in accounts if account})

    # Answers as received

    def newest_answer(self, account: str) -> Landed | None:
        """The newest answer landed; None before the first."""
        name = f"raw/account={account}/latest.json"
        document = self._read_json(name)
        if document is None:
            return None
        with self.files.reading(name, (KeyError, TypeError, ValueError)):
            return Landed(**document | {"fetched_at": _time(document["fetched_at"])})

    def land(self, account: str, answer: Answer, compressed: Path | None = None) -> Landed:
        """Keep an answer's bytes, compressed; if they are those of the newest one, only its fetch time moves.

        Args:
            account: Whose.
            answer: The answer.
            compressed: A temporary file into which `compress` has put its bytes; if not given, it is done here.
        """
        newest = self.newest_answer(account)
        if newest is not None and newest.sha256 == answer.sha256:
            landed = dataclasses.replace(newest, fetched_at=answer.fetched_at)
        else:
            file = f"{answer.fetched_at:{_FETCH_TIME}}-{answer.sha256[:12]}.{answer.format}.zst"
            if compressed is None:
                compressed = self.compress(account, answer, named(answer.path, answer.format), known=None)
            with writable(compressed):
                compressed.chmod(0o600)
            self.files.adopt(compressed, f"raw/account={account}/{file}")
            landed = Landed(answer.fetched_at, answer.sha256, answer.size_bytes, file)
        self._write_json(account, f"raw/account={account}/latest.json", dataclasses.asdict(landed))
        return landed

    def compress(self, account: str, answer: Answer, pieces: Sequence[Piece], known: Kept | None) -> Path:
        """Compress an answer, which `land` then keeps; lets other threads work meanwhile.

        Args:
            account: Whose.
            answer: The answer.
            pieces: Its pieces.
            known: An answer kept before: pieces that it has as well are copied.
        """
        temporary = self.temporary(account)
        with writable(temporary):
            compress(answer.path, pieces, known, temporary)
        return temporary

    @contextmanager
    def kept(self, account: str, landed: Landed) -> Iterator[Kept | None]:
        """The pieces of a landed answer; None if they cannot be had."""
        name = f"raw/account={account}/{landed.file}"
        try:
            with self.files.reading(name):
                file = self.files.open(name)
                known = opened(file)
        except StoreError:
            yield None
            return
        with file:
            yield known

    def unpack_pieces(self, account: str, known: Kept, without: frozenset[bytes]) -> tuple[Path, list[Span]]:
        """A landed answer without some of its pieces in a temporary file, uncompressed, and where the others lie in it.

        Raises:
            StoreError: the answer is damaged.
        """
        temporary = self.temporary(account)
        with readable(temporary):
            return temporary, unpack(known, without, temporary)

    def unpack(self, account: str, landed: Landed) -> Path:
        """The landed answer's bytes in a temporary file, uncompressed."""
        temporary = self.temporary(account)
        with self._reading_answer(account, landed.file) as source, writable(temporary), temporary.open("xb") as file:
            while chunk := source.read(_COPY_BYTES):
                file.write(chunk)
        return temporary

    def read_answer(self, account: str, file: str) -> bytes:
        """The bytes of an answer kept as received, uncompressed."""
        with self._reading_answer(account, file) as source:
            return cast(bytes, source.read())

    @contextmanager
    def _reading_answer(self, account: str, file: str) -> Iterator[pa.NativeFile]:
        import pyarrow as pa  # noqa: PLC0415 – see above

        name = f"raw/account={account}/{file}"
        with (
            self.files.reading(name),
            self.files.open(name) as compressed,
            pa.input_stream(compressed, compression="zstd") as source,
        ):
            yield source

    def answers(self, account: str) -> list[RawFile]:
        """Every answer kept as received, in order of fetch time."""
        names = (Path(name).name for name in self.files.matching(f"raw/account={account}/*.zst"))
        return [
            RawFile(
                file=parts[0],
                fetched_at=datetime.strptime(parts[1], _FETCH_TIME).replace(tzinfo=UTC),
                sha256_start=parts[2],
                format=cast(Format, parts[3]),
            )
            for parts in map(_RAW_FILE.fullmatch, names)
            if parts
        ]

    def forget_answer(self, account: str, answer: RawFile) -> None:
        """Remove an answer kept as received."""
        self.files.remove(f"raw/account={account}/{answer.file}")

    # The newest answer, parsed

    def snapshot_info(self, account: str) -> SnapshotInfo | None:
        """What the snapshot on disk is; None before the first."""
        footer = self._footer(snapshot_file(account, NO_MONTH))
        if footer is None:
            return None
        document = footer.note
        with self.files.reading(snapshot_file(account, NO_MONTH), (KeyError, TypeError, ValueError)):
            return SnapshotInfo(
                **document
                | {
                    "fetched_at": _time(document["fetched_at"]),
                    "extra_fields": tuple(document["extra_fields"]),
                    "list_at": document.get("list_at") and tuple(document["list_at"]),
                }
            )

    # The commit

    def state(self, account: str) -> State:
        """What was applied last; an empty state before the first tick.

        Raises:
            SchemaVersionError: the data root was written by another version of this package.
        """
        name = f"state/account={account}.json"
        document = self._read_json(name)
        if document is None:
            return State()
        version = document.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"The data below {self.root} has schema version {version}, and this version of stop_pipeline reads "
                f"{SCHEMA_VERSION}: install the version that wrote it, or start a new data root."
            )
        with self.files.reading(name, (KeyError, TypeError, ValueError)):
            pending = document["pending"]
            return State(
                **document
                | {
                    "applied_at": _time(document["applied_at"]),
                    "verified_at": _time(document["verified_at"]),
                    "counts": Counts(**document["counts"]),
                    # An older version of this package committed none.
                    "figures": Figures(**document["figures"])
                    if "figures" in document
                    else self.tables.figures(account),
                    "settings": tuple((name, document["settings"][name]) for name in document["settings"]),
                    "pending": pending and Pending(_time(pending["fetched_at"]), tuple(pending["months"])),
                }
            )

    def write_state(self, account: str, state: State) -> None:
        """Commit, or with `pending` set, mark what is about to be written."""
        document = {"schema_version": SCHEMA_VERSION} | dataclasses.asdict(state) | {"settings": dict(state.settings)}
        self._write_json(account, f"state/account={account}.json", document)

    def take_back(self, account: str, state: State) -> State:
        """Undo what a tick that never committed may have written; the result is as if it had never run."""
        if state.pending is None:
            return state
        self.tables.take_back(account, state.pending.months, state.applied_at)
        state = dataclasses.replace(state, pending=None)
        self.write_state(account, state)
        return state

    # What is made from a commit

    def derived(self, schema: TableSchema, account: str) -> DerivedInfo | None:
        """What a derived table on disk is; None if it was never made."""
        name = single_file(schema.name, account)
        footer = self._footer(name)
        if footer is None:
            return None
        with self.files.reading(name, (KeyError,)):
            return DerivedInfo(footer.note["commit"], footer.rows)

    def _footer(self, name: str) -> Footer | None:
        """What a Parquet file of this package says of itself; None if there is no such file."""
        with self.files.reading(name):
            try:
                return read_footer(self.files.footer(name))
            except FileNotFoundError:
                return None

    def _read_json(self, name: str) -> dict[str, Any] | None:
        data = self.files.read(name)
        if data is None:
            return None
        try:
            document = json.loads(data)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise StoreError(
                f"{self.files.shown(name)} is not the JSON document it should be: restore it from a backup."
            )
        return document

    def _write_json(self, account: str, name: str, document: Mapping[str, Any]) -> None:
        self.files.write(account, name, as_json(document).encode() + b"\n")


def _time(text: str | None) -> Any:
    """A time as `as_json` wrote it, read again; one without a zone is none of ours (ValueError)."""
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(text)
    return time
