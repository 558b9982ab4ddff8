"""Data roots that the earlier version of this package wrote (schema version 1), and what its own readers gave for them.

- `several_months`: three syncs; ended, altered and restored rows, malformed rows, and spellings that are read
  differently today.
- `killed_before_commit` and `killed_halfway`: the same, with a fourth sync that was killed after it had written all, or
  half, of its months.
- `withheld`: two syncs; the second withheld the ends of vanished and altered rows.
- `first_sync_killed`: a first sync that had written everything but its commit.
"""

import json
import tarfile
from pathlib import Path

from stop_pipeline.table.store import Store

FOLDER = Path(__file__).parent.parent / "data" / "version_1"
ROOTS = ("several_months", "killed_before_commit", "killed_halfway", "withheld", "first_sync_killed")
KILLED = ("killed_before_commit", "killed_halfway")
"""Roots whose commit is that of `several_months`."""


def unpack(name: str, into: Path) -> Path:
    """One of the data roots, in a new folder."""
    with tarfile.open(FOLDER / f"{name}.tar.gz") as archive:
        archive.extractall(into, filter="data")
    return into / name


def read_by_version_1(name: str) -> dict[str, list[str]]:
    """What the earlier version's readers gave for a data root that has a commit: lines of CSV by reader."""
    readings: dict[str, dict[str, list[str]]] = json.loads((FOLDER / "read.json").read_text())
    return readings["several_months" if name in KILLED else name]


def old_readings() -> list[tuple[str, str]]:
    """Spellings, and the phone number that the earlier version stored for each."""
    return [(spelling, number) for spelling, number in json.loads((FOLDER / "readings.json").read_text())]


def responses(root: Path) -> list[bytes]:
    """The responses that were merged, or about to be merged, in order."""
    store = Store(root)
    return [store.responses.read("main", raw)[0] for raw in store.responses.all("main")]
