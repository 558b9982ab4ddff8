"""Responses kept as received: `raw/account=A/<fetched_at>-<sha256, 12 digits>.<format>.zst`, and `latest.json`.

A file is a Zstandard stream that any tool can unpack. It has one frame for every 16 MB, so that several processors can
compress a large response.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from stop_pipeline.table.files import Files, read_document, write_document, writing
from stop_pipeline.table.state import TIME_FORMAT, KeptResponse, RawFile

WRITTEN_AGAIN = "Remove it, and the next sync writes it again."
"""What to do about a `latest.json` that is damaged, or does not fit."""

_FRAME_BYTES = 16_000_000
_COPY_BYTES = 1 << 20
_COMPRESSORS = 2
_RAW_FILE = re.compile(r"([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)-([0-9a-f]{12})\.(json|xml)\.zst")


class Responses:
    """The kept responses of one data root; a StoreError says that one is missing or damaged, or cannot be written.

    What writes is to be called under the account's lock.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def newest(self, account: str) -> KeptResponse | None:
        """The newest response kept; None before the first."""
        return read_document(self._files, f"raw/account={account}/latest.json", KeptResponse, WRITTEN_AGAIN)

    def keep(
        self, account: str, body: Path, *, response_format: str, fetched_at: datetime, sha256: str, size_bytes: int
    ) -> KeptResponse:
        """Keep a response; if it has the bytes of the newest one, only the fetch time changes.

        `sha256` and `size_bytes` are those of the uncompressed body; `response_format` is “json” or “xml”.
        """
        newest, files = self.newest(account), [response.file for response in self.all(account)]
        # If a killed sync has kept a later one, the newest must come after that again.
        if newest and newest.sha256 == sha256 and files[-1:] == [newest.file]:
            kept = dataclasses.replace(newest, fetched_at=fetched_at)
        else:
            file = f"{fetched_at:{TIME_FORMAT}}-{sha256[:12]}.{response_format}.zst"
            compressed = self._files.temporary(account)
            with writing(str(compressed)):
                _compress(body, size_bytes, compressed)
            self._files.write(account, f"raw/account={account}/{file}", compressed)
            kept = KeptResponse(fetched_at, sha256, size_bytes, file)
        write_document(self._files, account, f"raw/account={account}/latest.json", kept)
        return kept

    def unpack(self, account: str, kept: KeptResponse) -> Path:
        """Uncompress a kept response into a temporary file, if its bytes are those that were received."""
        temporary, digest = self._files.temporary(account), hashlib.sha256()
        advice = "Remove it, and the next sync keeps the list again."
        with writing(str(temporary)), temporary.open("xb") as file, self._stream(account, kept.file, advice) as source:
            while chunk := source.read(_COPY_BYTES):
                digest.update(chunk)
                with writing(str(temporary)):
                    file.write(chunk)
                    file.flush()
            if digest.hexdigest() != kept.sha256:
                raise ValueError(kept.file)
        return temporary

    def read(self, account: str, response: RawFile) -> tuple[bytes, KeptResponse]:
        """The uncompressed bytes of a kept response, if they are those that its name says, and what they show of it."""
        with self._stream(account, response.file, "Restore it from a backup, or remove it.") as source:
            body: bytes = source.read()
            sha256 = hashlib.sha256(body).hexdigest()
            if not sha256.startswith(response.sha256_start):
                raise ValueError(response.file)
        return body, KeptResponse(response.fetched_at, sha256, len(body), response.file)

    def all(self, account: str) -> list[RawFile]:
        """Every response kept, by fetch time."""
        names = (Path(name).name for name in self._files.matching(f"raw/account={account}/*.zst"))
        return [
            RawFile(parts[0], datetime.strptime(parts[1], TIME_FORMAT).replace(tzinfo=UTC), parts[2], parts[3])
            for parts in map(_RAW_FILE.fullmatch, names)
            if parts
        ]

    def forget(self, account: str, response: RawFile) -> None:
        """Remove a kept response."""
        self._files.remove(f"raw/account={account}/{response.file}")

    @contextmanager
    def _stream(self, account: str, file: str, advice: str) -> Iterator[pa.NativeFile]:
        name = f"raw/account={account}/{file}"
        with (
            self._files.reading(name, advice),
            self._files.open(name) as compressed,
            pa.input_stream(compressed, compression="zstd") as source,
        ):
            yield source


def _compress(body: Path, size_bytes: int, into: Path) -> None:
    codec = pa.Codec("zstd", compression_level=1)

    def frame(start: int) -> bytes:
        with body.open("rb") as file:
            file.seek(start)
            compressed: bytes = codec.compress(file.read(_FRAME_BYTES), asbytes=True)
        return compressed

    with ThreadPoolExecutor(_COMPRESSORS) as pool, into.open("xb") as file:
        for compressed in pool.map(frame, range(0, size_bytes, _FRAME_BYTES)):
            file.write(compressed)
