"""How bytes reach a bucket: S3, Google Cloud Storage or Azure, through pyarrow's own file systems.

What belongs here: what an object store does otherwise than a disk. What does not: what every data root can do
(`files`), which URI can be one (`roots`), which files there are (`layout`).

- **A put is atomic**: an object appears whole, in place of the old one, when its upload is completed. But an Arrow
  stream completes it however it is closed, even when it is forgotten half written. So an object is built whole before
  its stream is opened, and written where no Ctrl-C reaches. A small one goes up in one request.
- **There is no rename, and an open object is no inode**: two reads of one key can see two versions. So whoever may read
  while a tick writes gets the whole object, its bytes by one request.
- **A request takes milliseconds**: reads of many files go out together, footers are read alone, and a folder is listed
  once.
- **No conditional writes**: pyarrow (26) sends no If-Match. One writer per account is up to Dagster's pool, and on one
  machine to the lock, which lies in `~/.stop_pipeline/work`.
"""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from stop_pipeline.errors import ConfigurationError, StoreError
from stop_pipeline.files import WORK_FOLDER, Damage, Files, Item, Result, damage_if
from stop_pipeline.roots import checked_uri

SCRATCH = Path(".stop_pipeline") / "work"
"""Where locks and temporaries lie, below the home folder: one folder for each data root."""

_ONE_REQUEST_BYTES = 8_000_000
"""Up to this size an object goes up in one request; Arrow's own limit is 10 MiB."""
_READ_ATTEMPTS = 10
_ENDS = {".parquet": b"PAR1", ".json": b"\n}\n"}
"""How files end that are ever replaced: one that does not was replaced while it was read."""
_OPTIONS = {"s3": "?allow_delayed_open=true", "gs": "?retry_limit_seconds=60", "abfs": ""}
"""Amazon's: a small object in one request. Google's: else its client would go on for a quarter of an hour."""
_DAMAGED = "it is damaged or no file of this package; restore it from a backup"
_UNREACHABLE = "the store cannot be reached; look at the network, the bucket's name and the endpoint"
_REFUSED = "access is refused; look at the credentials, and that they may list, read, write and delete there"
_REASONS = {
    "NETWORK_CONNECTION": _UNREACHABLE,
    "UNAVAILABLE": _UNREACHABLE,
    "": _UNREACHABLE,
    "NO_SUCH_BUCKET": "there is no such bucket",
    "ACCESS_DENIED": _REFUSED,
    "INVALID_ACCESS_KEY_ID": _REFUSED,
    "SIGNATURE_DOES_NOT_MATCH": _REFUSED,
    "403": _REFUSED,
    "PERMISSION_DENIED": _REFUSED,
    "UNAUTHENTICATED": _REFUSED,
    "AuthenticationFailed": _REFUSED,
    "AuthorizationFailure": _REFUSED,
    "AuthorizationPermissionMismatch": _REFUSED,
}
"""What the codes that people meet come to; any other is told as it is."""
_ANSWERS = (
    re.compile(r"AWS Error (?P<code>\w+)(?: \(HTTP status (?P<status>\d+)\))? during (?P<call>\w+)"),
    re.compile(r"google::cloud::Status\((?P<code>\w+)"),
    re.compile(r"Azure Error: \[(?P<code>\w*)\]"),
)
"""Where Arrow's messages tell the store's answer. Nothing else of them is shown, for they may hold a credential."""

_PARQUET = ds.ParquetFileFormat()
_POOL = ThreadPoolExecutor(max_workers=16, thread_name_prefix="objects")


class ObjectFiles(Files):
    """The objects below one prefix of a bucket; its scratch is a folder below the home folder."""

    def __init__(self, uri: str) -> None:
        self._uri = checked_uri(uri)
        self._scheme = self._uri.partition(":")[0]
        super().__init__(Path.home() / SCRATCH / hashlib.sha256(self._uri.encode()).hexdigest()[:16])

    def shown(self, name: str = "") -> str:
        """The URI."""
        return self.uri(name)

    def uri(self, name: str) -> str:
        """The URI, as a person gave it."""
        return f"{self._uri}/{name}" if name else self._uri

    def has_root(self) -> bool:
        """Whether there is any object below the prefix: there is no other way for it to exist."""
        return self.exists("")

    def is_unused(self) -> bool:
        """Whether there is no object below the prefix; in a bucket without prefix, none in it."""
        return not self._listed("")

    def is_writable(self) -> bool:
        """Always: the lock and temporaries lie on local disk, and what the bucket allows shows when it is asked."""
        return True

    def encloses(self, other: Files) -> bool:
        """Whether the other data root has the same prefix, or a longer one."""
        return isinstance(other, ObjectFiles) and f"{other.shown()}/".startswith(f"{self.shown()}/")

    def write(self, account: str, name: str, data: bytes | pa.Buffer) -> None:  # noqa: ARG002 – no temporary is needed
        """Put the object."""
        with self._writing(name):
            self._put(name, pa.py_buffer(data))

    def adopt(self, temporary: Path, name: str) -> None:
        """Put the file's bytes, and remove it."""
        with self._writing(name):
            with pa.memory_map(str(temporary)) as file:
                self._put(name, file.read_buffer())
            temporary.unlink()

    def remove(self, name: str) -> None:
        """Remove the object. Arrow leaves an empty one in place of its folder, which no listing here gives."""
        with self._writing(name), suppress(FileNotFoundError):
            self._filesystem.delete_file(self._path(name))

    @contextmanager
    def reading(self, name: str = "", damage: Damage | None = None) -> Iterator[None]:
        """As `files.readable`, in words for an object store."""
        refusal = None
        try:
            yield
        except OSError as error:
            refusal = _reason(error)
        except damage_if(damage):
            refusal = _DAMAGED
        if refusal is not None:
            raise StoreError(f"Cannot read {self.shown(name)}: {refusal}.")

    def open(self, name: str) -> pa.NativeFile:
        """The whole object, in memory."""
        return pa.BufferReader(self._object(self._path(name)))

    def footers(self, pattern: str) -> dict[str, pq.FileMetaData]:
        """The ends of the objects alone, many at once; their sizes are known from the listing."""

        def footer(info: fs.FileInfo) -> tuple[str, pq.FileMetaData]:
            name = self._name(info)
            with self.reading(name):
                return name, _PARQUET.make_fragment(info.path, self._filesystem, file_size=info.size).metadata

        return dict(self.each(footer, self._objects_matching(pattern)))

    def scan(
        self, folder: str, schema: pa.Schema, keys: pa.Schema, columns: list[str], condition: pc.Expression | None
    ) -> pa.Table:
        """Rows of whole objects: those whose keys cannot meet the condition are not fetched."""
        paths = [info.path for info in self._listed(folder)]
        above = self._path(folder).rpartition("/")[0]
        partitioning = ds.partitioning(keys, flavor="hive")
        partitions = [partitioning.parse(path.removeprefix(f"{above}/")) for path in paths]
        listed = ds.FileSystemDataset.from_paths(
            paths, schema=schema, format=_PARQUET, filesystem=self._filesystem, partitions=partitions
        )

        def fetched(fragment: ds.ParquetFileFragment) -> ds.ParquetFileFragment:
            data = self._object(fragment.path)
            return _PARQUET.make_fragment(pa.py_buffer(data), partition_expression=fragment.partition_expression)

        fragments = self.each(fetched, listed.get_fragments(condition))
        return ds.FileSystemDataset(fragments, schema, _PARQUET).to_table(columns, filter=condition)

    def exists(self, name: str) -> bool:
        """Whether there is such an object, or one below it."""
        with self.reading(name):
            found: bool = self._filesystem.get_file_info(self._path(name)).type != fs.FileType.NotFound
        return found

    def matching(self, pattern: str) -> list[str]:
        """The names that match, by few listings: of all below a folder only if they end in a name that is known."""
        parts = pattern.split("/")
        if "*" not in parts[-1]:
            return [self._name(info) for info in self._objects_matching(pattern)]
        names = [""]
        for part in parts:
            names = [
                f"{name}/{entry}" if name else entry
                for name in names
                for entry in (fnmatch.filter(self._entries(name), part) if "*" in part else [part])
            ]
        return sorted(names)

    def below(self, folder: str) -> list[str]:
        """The names of all objects below `folder`."""
        return sorted(map(self._name, self._listed(folder)), key=lambda name: name.split("/"))

    def each(self, read: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """What `read` gives for each item, many at once."""
        return list(_POOL.map(read, items))

    def _objects_matching(self, pattern: str) -> list[fs.FileInfo]:
        folder = pattern.partition("*")[0].rpartition("/")[0]
        matching = re.compile("[^/]*".join(map(re.escape, pattern.split("*"))))
        return [info for info in self._listed(folder) if matching.fullmatch(self._name(info))]

    def _listed(self, folder: str) -> list[fs.FileInfo]:
        """All objects below a folder, sorted by name."""
        with self.reading(folder):
            selector = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True)
            infos = self._filesystem.get_file_info(selector)
            return sorted((info for info in infos if info.is_file), key=self._name)

    def _entries(self, folder: str) -> list[str]:
        """The names of objects and folders in a folder, each without what comes before."""
        start = len(self._path(folder)) + 1
        with self.reading(folder):
            # For Google, Arrow finds a folder only by what lies below it.
            selector = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=self._scheme == "gs")
            infos = self._filesystem.get_file_info(selector)
            return sorted({info.path[start:].partition("/")[0] for info in infos})

    def _name(self, info: fs.FileInfo) -> str:
        return str(info.path.removeprefix(f"{self._base}/"))

    def _bytes(self, name: str, *, last: int | None = None) -> bytes:
        return bytes(self._object(self._path(name), last=last))

    def _object(self, path: str, *, last: int | None = None) -> bytearray:
        """An object's bytes, or the last so many of them, of one version.

        Arrow asks for the size first, and takes as many bytes for read, whatever came. So a longer version that came in
        between is cut, and of a shorter one what lies behind it is what was in memory before, which here is nothing.

        Raises:
            OSError: it cannot be read; FileNotFoundError, if there is none, or it vanishes.
        """
        end = _ENDS.get(PurePosixPath(path).suffix, b"")
        for attempt in range(_READ_ATTEMPTS):
            with self._filesystem.open_input_file(path) as file:
                size = file.size()
                data = bytearray(size if last is None else min(size, last))
                try:
                    file.seek(size - len(data))
                    file.readinto(data)
                except OSError:  # it may have vanished; Arrow tells so only when it opens
                    if attempt:
                        raise
                    continue
            if data.endswith(end):
                break
        return data

    def _put(self, name: str, data: pa.Buffer) -> None:
        upload = _POOL.submit(self._upload, name, data)
        try:
            upload.result()
        finally:
            wait([upload])  # an interrupt must not free the account's lock before it is over

    def _upload(self, name: str, data: pa.Buffer) -> None:
        """To be called outside the main thread: interrupted midway, a stream would complete what there is."""
        path = self._path(name)
        if self._scheme == "abfs":  # Arrow empties a blob before it uploads to it; a copy within the store replaces it
            aside = self._path(f"{WORK_FOLDER}/{name}")
            _write_through(self._filesystem, aside, data)
            self._filesystem.copy_file(aside, path)
            self._filesystem.delete_file(aside)
        elif self._scheme == "s3" and data.size > _ONE_REQUEST_BYTES:
            _write_through(self._filesystem_for_parts, path, data)
        else:
            _write_through(self._filesystem, path, data)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """As `files.writable`, in words for an object store."""
        refusal = None
        try:
            yield
        except OSError as error:
            refusal = _reason(error)
        except pa.ArrowException as error:
            refusal = type(error).__name__
        if refusal is not None:
            raise StoreError(f"Cannot write {self.shown(name)}: {refusal}. What was committed before stands.")

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base

    @property
    def _base(self) -> str:
        """Bucket and prefix, as Arrow names them."""
        return self._connection[1]

    @property
    def _filesystem(self) -> fs.FileSystem:
        return self._connection[0]

    @cached_property
    def _connection(self) -> tuple[fs.FileSystem, str]:
        """Made when it is first needed, under `reading` or `_writing`: for S3 the bucket's region is asked for."""
        return _connected(self._uri + _OPTIONS[self._scheme])

    @cached_property
    def _filesystem_for_parts(self) -> fs.FileSystem:
        """For S3: it asks for an upload in parts before there is a stream, which would end an upload that was refused.

        With the option for one request, it asks within the first write; closed after that, it puts an empty object.
        """
        return _connected(self._uri)[0]


def _connected(uri: str) -> tuple[fs.FileSystem, str]:
    refused = None
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError):  # its message repeats the URI
        refused = (
            "STOP_PIPELINE_DATA is a URI that Arrow cannot read: look at its bucket and prefix for odd characters."
        )
    if refused is not None:
        raise ConfigurationError(refused)
    return filesystem, path


def _write_through(filesystem: fs.FileSystem, path: str, data: pa.Buffer) -> None:
    stream = filesystem.open_output_stream(path, compression=None)
    stream.write(data)
    stream.close()


def _reason(error: OSError) -> str:
    """Why the store refused, in words that hold nothing but what it answered, and to which call."""
    if isinstance(error, FileNotFoundError):
        return "there is no such object, or no such bucket"
    for form in _ANSWERS:
        if answer := form.search(str(error)):
            code, status, call = (answer.groupdict().get(part) for part in ("code", "status", "call"))
            told = " ".join(filter(None, (code, status, call and f"to {call}")))
            reason = _REASONS.get(str(status)) or _REASONS.get(str(code), "the store failed")
            return f"{reason} ({told})" if told else reason
    return _DAMAGED
