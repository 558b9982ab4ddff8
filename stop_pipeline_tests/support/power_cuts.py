"""What a power cut would leave of a data root, at the worst: only what was synced.

POSIX promises no more: the content of a file is safe once the file is synced, and its name, or that it has none any
more, once its folder is synced. A file whose name is safe and whose content is not comes back empty. A killed process,
on the other hand, leaves everything it wrote (`faults`); a real power cut lies somewhere in between.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stop_pipeline_tests.support.faults import Call


@dataclass
class _File:
    """One file, whatever it is named."""

    safe: bytes = b""


@dataclass(frozen=True)
class _Folder:
    """One folder."""


_Entries = dict[str, "_File | _Folder"]
"""What each path names."""


def power_cuts(root: Path, calls: Sequence[Call]) -> Iterator[tuple[int, dict[str, bytes | None]]]:
    """What would be left if the power failed before each call, wherever that changes, and after the last.

    Args:
        root: The data root before the calls; all of it is safe.
        calls: Recorded calls.

    Yields:
        The number of the call, and each path with its content; None for a folder.
    """
    now: _Entries = {
        path.relative_to(root).as_posix(): _Folder() if path.is_dir() else _File(path.read_bytes())
        for path in root.rglob("*")
    }
    safe = dict(now)
    left = None
    for number, call in enumerate([*calls, Call("the end", "")]):
        if (leaves := _reachable(safe)) != left:
            left = leaves
            yield number, left
        _carry_out(call, now, safe)


def write_tree(tree: dict[str, bytes | None], root: Path) -> None:
    """Make a data root of what a power cut left."""
    root.mkdir(mode=0o700)
    for name, content in sorted(tree.items()):
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def _carry_out(call: Call, now: _Entries, safe: _Entries) -> None:
    """What a call does to the names as processes see them, and to those that are safe."""
    if call.kind == "mkdir":
        now.setdefault(call.path, _Folder())
    elif call.kind == "open to write":
        now.setdefault(call.path, _File())
    elif call.kind == "rename":
        now[call.to] = now.pop(call.path)
    elif call.kind in ("unlink", "remove", "rmdir"):
        is_empty = not any(_parent(name) == call.path for name in now)
        if call.kind != "rmdir" or is_empty:
            now.pop(call.path, None)
    elif call.kind == "fsync":
        synced = _Folder() if call.path == "." else now[call.path]
        if isinstance(synced, _File):
            assert call.content is not None
            synced.safe = call.content
        else:
            for name in {name for name in (*now, *safe) if _parent(name) == call.path}:
                if name in now:
                    safe[name] = now[name]
                else:
                    del safe[name]


def _reachable(entries: _Entries) -> dict[str, bytes | None]:
    """The files and folders all of whose folders are there."""
    found: dict[str, bytes | None] = {}
    for name in sorted(entries, key=lambda name: name.count("/")):
        if _parent(name) == "." or _parent(name) in found:
            entry = entries[name]
            found[name] = entry.safe if isinstance(entry, _File) else None
    return found


def _parent(name: str) -> str:
    return Path(name).parent.as_posix()
