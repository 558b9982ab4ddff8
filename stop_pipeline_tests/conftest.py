"""What any test may ask for: a data root to sync into, a free port, and where to tell what it tried and what was lost.

What belongs here: fixtures of several files; counting over the whole run of pytest, and the table at its end, which
benchmarks/README.md quotes. What does not: what is tried, and what counts as lost, which each test says.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stop_pipeline_tests.support.commands import free_port
from stop_pipeline_tests.support.syncing import IN_MEMORY, Syncer


@dataclass
class Figures:
    """For each row of the table, how often it was tried and how often something was lost."""

    rows: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def add(self, what: str, *, tried: int, lost: int) -> None:
        """Count, before the test asserts anything, so that the table shows losses too."""
        self.rows[what][0] += tried
        self.rows[what][1] += lost

    def add_all(self, rows: Mapping[str, tuple[int, int]]) -> None:
        """Count what another process counted."""
        for what, (tried, lost) in rows.items():
            self.add(what, tried=tried, lost=lost)


FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = Figures()


@pytest.fixture
def syncer() -> Iterator[Syncer]:
    """Syncs into a data root of its own, in memory: no machine ends here."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Syncer(Path(folder, "data"))


@pytest.fixture(name="free_port")
def a_free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    return free_port()


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> Figures:
    """Where a test tells what it tried."""
    return pytestconfig.stash[FIGURES]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where tests run in several processes (`pytest -n 2`), give the figures to the one that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = dict(session.config.stash[FIGURES].rows)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the figures of such a process, which has ended."""
    node.config.stash[FIGURES].add_all(getattr(node, "workeroutput", {}).get("figures", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table in Markdown."""
    rows = config.stash[FIGURES].rows
    if not rows:
        return
    terminalreporter.section("what was tried, and what was lost")
    terminalreporter.write_line("| | tried | lost |\n|---|---|---|")
    for what, (tried, lost) in rows.items():
        terminalreporter.write_line(f"| {what} | {tried:,} | {lost:,} |")
