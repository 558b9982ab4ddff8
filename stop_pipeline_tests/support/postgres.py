"""A real PostgreSQL server on a free port of 127.0.0.1, from Debian's packages, for as long as a test needs it."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy

from stop_pipeline_tests.support.commands import free_port

USER = "dagster"
UNPRIVILEGED = "nobody"
"""Who the server runs as if the tests run as root, as whom it refuses to run."""

_READY_WITHIN_SECONDS = 60


@dataclass(frozen=True)
class Postgres:
    """A running server with an empty database.

    Attributes:
        url: As SQLAlchemy, hence Dagster, takes it.
    """

    url: str

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sqlalchemy.text(sql))]

    def rows(self, table: str) -> int:
        """How many rows a table has."""
        return int(self.query(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608 – a name that a test wrote


@contextmanager
def running() -> Iterator[Postgres]:
    """A server of its own, gone with its files at the end."""
    programs = _programs()
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    # Beside pytest's folders, which nobody but their owner can pass through.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        port = free_port()
        data = folder / "data"
        initdb = [f"{programs}/initdb", "-D", str(data), "-U", USER, "-A", "trust", "--no-locale", "--no-sync"]
        subprocess.run(initdb, check=True, user=user, cwd=folder, capture_output=True)
        server = [f"{programs}/postgres", "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-F"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(server, user=user, cwd=folder, stdout=log, stderr=log)
        try:
            _wait_until_ready(programs, port, process)
            yield Postgres(f"postgresql+psycopg2://{USER}@127.0.0.1:{port}/postgres")
        finally:
            process.send_signal(signal.SIGINT)  # which does not wait for clients to hang up
            process.wait()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    """The newest server's programs; Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    anywhere = shutil.which("initdb")
    if not found and anywhere is None:
        raise FileNotFoundError("PostgreSQL's programs are not installed: apt-get install postgresql")
    return found[-1].parent if found else Path(str(anywhere)).parent


def _wait_until_ready(programs: Path, port: int, process: subprocess.Popen[bytes]) -> None:
    command = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    give_up_at = time.monotonic() + _READY_WITHIN_SECONDS
    while subprocess.run(command, check=False).returncode != 0:
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise TimeoutError
        time.sleep(0.05)
