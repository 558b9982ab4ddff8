"""The data root in a bucket: S3, Google Cloud Storage or Azure, through obstore.

A put is one object, old or new, and a get reads one version of it. So a file is replaced by a put, and readers get
whole objects. There is no rename: a staged object is published by a put of its bytes. The lock and temporary files are
on the local disk, below the home folder: they let one process at a time write, as long as all are on one machine.
"""

import errno
import fnmatch
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from stop_pipeline.errors import ConfigurationError, StoreError
from stop_pipeline.settings import checked_uri, home_folder
from stop_pipeline.table.files import Content, Files, staged_folder, writing

try:
    import obstore
    import obstore.exceptions
    import obstore.store
except ImportError:  # the extra “bucket”: a data root in a folder does without it
    obstore = None  # type: ignore[assignment]

SCRATCH = Path(".stop_pipeline") / "work"  # below the home folder; it has a folder for each data root
FOOTER_BYTES = 4_096  # read from the end of an object: enough for a month; a longer footer takes a second request

_PUBLISHED_AT_ONCE = 8
_PARTS_AT_ONCE = 3  # of a large object: of more that share a slow line, each would run out of time
_REFUSED = "access is refused; look at the credentials, and whether they may list, read, write and delete there"
_UNREACHABLE = "the store cannot be reached; look at the network and the endpoint"
_REASONS = {
    r"<Code>(NoSuchBucket|ContainerNotFound)</Code>": "there is no such bucket",
    r"object with invalid path": "another program's object there has a name that no file can have; remove it, or use "
    "another prefix",
    # Where no variable holds credentials, the machine is asked for its own, as the provider's machines have them.
    r"http://(169\.254\.|metadata\.google\.internal)|/latest/api/token": "no credentials are set; set the provider's "
    "own variables, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    r"<Code>(AuthorizationHeaderMalformed|PermanentRedirect)</Code>|incorrectly configured region": "the bucket is in "
    "another region; set AWS_REGION to that",
    r"status code: 40[13]|<Code>ExpiredToken</Code>": _REFUSED,
    r"status code: 416|non-partial response": "it is empty, or was replaced meanwhile; try "
    "again, or restore it from a backup",
}
"""What to say where a pattern is in the text of an error, which itself may hold a credential."""

Result = TypeVar("Result")


class BucketFiles(Files):
    """The objects below one prefix of a bucket. Credentials and endpoint come from the provider's own variables.

    Raises:
        ConfigurationError: the URI or one of these variables cannot be used, or obstore is not installed.
    """

    def __init__(self, uri: str) -> None:  # not the parent's, which is for a folder
        self._uri = checked_uri(uri)
        self._scratch = home_folder() / SCRATCH / hashlib.sha256(self._uri.encode()).hexdigest()[:16]
        self._store = _connected(self._uri)

    def shown(self, name: str = "") -> str:
        """The URI, as the user gave it."""
        return f"{self._uri}/{name}" if name else self._uri

    def has_root(self) -> bool:
        """Whether there is an object below the prefix."""
        return bool(self._entries(""))

    def is_writable(self) -> bool:
        """Always: locks and temporary files are on the local disk. What the bucket allows shows when it is asked."""
        return True

    def encloses(self, place: str | Path) -> bool:
        """Whether a URI has the same prefix, or a longer one."""
        return f"{place}/".startswith(f"{self._uri}/")

    def open(self, name: str) -> pa.NativeFile:
        """The whole object, in memory."""
        return pa.BufferReader(self._get(name))

    def footer(self, name: str) -> pq.FileMetaData:
        """The footer of a Parquet file, from the end of the object alone; Azure gives whole objects only."""
        size, is_azure = FOOTER_BYTES, self._uri.startswith("abfs:")
        while True:  # until one version of the object has given its whole footer
            end = self._get(name, None if is_azure else {"range": {"suffix": size}})
            needed = int.from_bytes(end[-8:-4].to_pybytes(), "little") + 8
            if needed <= size or len(end) < size:
                return pq.read_metadata(pa.BufferReader(end))
            size = needed

    def write(self, account: str, name: str, data: Content | Path) -> None:  # noqa: ARG002 – no temporary file is needed
        """Put the object."""
        with writing(self.shown(name)):
            self._put(name, data)
            if isinstance(data, Path):
                data.unlink()

    def stage(self, account: str, data: Content) -> str:
        """Put an object in `.work/staged`."""
        self._put(name := f"{staged_folder(account)}/{uuid4().hex}", data)
        return name

    def publish(self, staged: Mapping[str, str | None]) -> None:
        """Put the bytes of staged objects at their places, and remove them.

        Not by a copy within the store: Azure's may still be at it when it has responded.
        """

        def publish_one(name: str, source: str | None) -> None:
            if source is None:
                self.remove(name)
            else:
                with suppress(FileNotFoundError):  # it has been published already
                    self._put(name, self._get(source))
                    self.remove(source)

        with ThreadPoolExecutor(_PUBLISHED_AT_ONCE) as pool:
            list(pool.map(publish_one, staged, staged.values()))

    def discard_staged(self, account: str) -> None:
        """Remove the staged objects."""
        for name in self._listed(staged_folder(account)):
            self.remove(name)

    def remove(self, name: str) -> None:
        """Remove the object."""
        with suppress(FileNotFoundError):
            self._ask("write", name, lambda: self._store.delete(name))

    def exists(self, name: str) -> bool:
        """Whether there is such an object, or one below it."""
        with suppress(FileNotFoundError):
            return bool(self._ask("read", name, lambda: self._store.head(name)))
        return bool(self._entries(name))

    def matching(self, pattern: str) -> list[str]:
        """The names that match; one listing gives all files of one name below a folder."""
        if "*" in pattern.rpartition("/")[2]:
            return super().matching(pattern)
        names = self._listed(pattern.partition("*")[0].rpartition("/")[0])
        return [name for name in fnmatch.filter(names, pattern) if name.count("/") == pattern.count("/")]

    def below(self, folder: str) -> list[str]:
        """The names of all objects below a folder; the folder itself, if it is an object."""
        return self._listed(folder) or ([folder] if folder and self.exists(folder) else [])

    def _listed(self, folder: str) -> list[str]:
        return sorted(_names(self._ask("read", folder, lambda: self._store.list(folder).collect())))

    def _entries(self, folder: str) -> list[str]:
        listed = self._ask("read", folder, lambda: self._store.list_with_delimiter(folder))
        return [Path(name).name for name in (*listed["common_prefixes"], *_names(listed["objects"]))]

    def _get(self, name: str, options: Any = None) -> pa.Buffer:
        return pa.py_buffer(self._ask("read", name, lambda: self._store.get(name, options=options).bytes()))

    def _put(self, name: str, data: Content | Path) -> None:
        content = data if isinstance(data, Path) else memoryview(data).cast("B")
        try:
            self._ask("write", name, lambda: self._store.put(name, content, max_concurrency=_PARTS_AT_ONCE))
        except FileNotFoundError:
            reason = "the store lost the upload. The last commit is unharmed."
            raise StoreError(f"Cannot write {self.shown(name)}: {reason}") from None

    def _ask(self, what: str, name: str, request: Callable[[], Result]) -> Result:
        """What a request gives; a FileNotFoundError says that there is no such object."""
        try:
            return request()
        except (FileNotFoundError, obstore.exceptions.BaseError) as error:
            reason = _reason(error)
        # Not within `except`: a traceback would show the error, which may hold a credential.
        if reason is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.shown(name))
        advice = " The last commit is unharmed." if what == "write" else ""
        raise StoreError(f"Cannot {what} {self.shown(name)}: {reason}.{advice}")


def _connected(uri: str) -> "obstore.store.ObjectStore":
    """The store; nothing is asked there yet. Asked later, it fails within half a minute if it does not respond."""
    if obstore is None:
        raise ConfigurationError(
            "STOP_PIPELINE_DATA is in a bucket, which needs an extra: pip install -c constraints.txt -e '.[bucket]'"
        )
    with suppress(ValueError, obstore.exceptions.BaseError):  # its message may hold a credential
        return obstore.store.from_url(
            uri,
            # Not every store that speaks S3's protocol can delete several objects by one request.
            config={"disable_bulk_delete": True} if uri.startswith("s3:") else None,
            client_options={
                "allow_http": True,  # for an endpoint given as http://; the providers' own are https://
                "connect_timeout": timedelta(seconds=5),
                "read_timeout": timedelta(seconds=30),
                "timeout": timedelta(minutes=10),
            },
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=20)},
        )
    raise ConfigurationError(
        "The bucket of STOP_PIPELINE_DATA cannot be used: look for odd characters in its URI, and for wrong values in "
        "the provider's own variables (AWS_…, GOOGLE_…, AZURE_…)."
    )


def _names(listed: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of objects; empty ones only mark a folder, as some programs do."""
    return [meta["path"] for meta in listed if meta["size"]]


def _reason(error: Exception) -> str | None:
    """Why the store refused, in words; None if there is no such object."""
    text = str(error)
    status = re.search(r"status code: (\d{3})", text)
    reason = f"the store failed with HTTP status {status[1]}" if status else _UNREACHABLE
    known = (words for pattern, words in _REASONS.items() if re.search(pattern, text))
    return next(known, None if isinstance(error, FileNotFoundError) else reason)
