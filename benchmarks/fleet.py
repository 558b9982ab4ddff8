"""How many accounts one machine syncs: runs a minute, the overhead of a run, and the growth of Dagster's database.

    python benchmarks/fleet.py                       # up to 10 runs for each line; some ten minutes
    python benchmarks/fleet.py --runs 2 --rows 1000  # a quick look

Each account has a list of its own in a stand-in for SMS Partner, which changes from response to response. Two syncs of
every account are made beforehand, without Dagster; the second is timed (`plain`). Then runs are timed: each is a
process of its own, as a run launcher starts it, and as many run side by side as there are cores. The time of a run
beyond that of its plain syncs is overhead. With DAGSTER_POSTGRES_URL set, the configuration of a fleet is used,
otherwise the one of `stop-pipeline dev`, on SQLite.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import mean

import sqlalchemy

from stop_pipeline.rebuild import replay
from stop_pipeline.smspartner.client import StopListClient
from stop_pipeline.smspartner.sandbox import Sandbox
from stop_pipeline.sync import derive_tables
from stop_pipeline.table.store import Store

SHAPES = ((1, 1), (10, 1), (10, 10), (100, 1), (100, 50))
"""Number of accounts, and how many of them one run syncs."""
HEAD = """\
| accounts | per run | runs | runs/min | syncs/min | s/run | overhead s/run | plain s/sync | MB/1,000 syncs |
|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Line:
    """What was measured of one shape."""

    accounts: int
    accounts_per_run: int
    runs: int
    seconds: float
    seconds_of_a_run: float
    plain_seconds_of_a_sync: float
    database_bytes: int

    def __str__(self) -> str:
        syncs = self.runs * self.accounts_per_run
        overhead = self.seconds_of_a_run - self.accounts_per_run * self.plain_seconds_of_a_sync
        return (
            f"| {self.accounts} | {self.accounts_per_run} | {self.runs} | {60 * self.runs / self.seconds:.1f} "
            f"| {60 * syncs / self.seconds:.0f} | {self.seconds_of_a_run:.1f} | {overhead:.1f} "
            f"| {self.plain_seconds_of_a_sync:.2f} | {self.database_bytes / syncs * 1_000 / 1e6:.0f} |"
        )


def plain_sync(store: Store, account: str, client: StopListClient) -> float:
    """Sync once without Dagster, and return the seconds it took."""
    started = time.perf_counter()
    replay(store, account, client, timezone="Europe/Paris")
    derive_tables(store, account)
    return time.perf_counter() - started


def database_bytes(home: Path) -> int:
    """The size of Dagster's history, in PostgreSQL or in files."""
    url = os.environ.get("DAGSTER_POSTGRES_URL")
    if url is None:
        return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    with sqlalchemy.create_engine(url).connect() as connection:
        return int(connection.execute(sqlalchemy.text("SELECT pg_database_size(current_database())")).scalar_one())


def make_home(folder: Path) -> Path:
    """A DAGSTER_HOME with the configuration that the package ships."""
    package = files("stop_pipeline")
    configuration = (package / "fleet" if "DAGSTER_POSTGRES_URL" in os.environ else package) / "dagster.yaml"
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(configuration.read_text())
    return home


def timed_run(accounts: Sequence[str], environment: Mapping[str, str]) -> float:
    """Sync these accounts in one run, a process of its own, and return its seconds."""
    if len(accounts) == 1:
        tags = {"dagster/partition": accounts[0]}
    else:
        tags = {"dagster/asset_partition_range_start": accounts[0], "dagster/asset_partition_range_end": accounts[-1]}
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "stop_pipeline.definitions", "-j", "sync"]
    command += ["--tags", json.dumps(tags)] if environment["SMSPARTNER_ACCOUNTS"] != "main" else []
    started = time.perf_counter()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if finished.returncode:
        sys.exit(f"A run failed:\n{finished.stderr[-2000:]}")
    return time.perf_counter() - started


def measure(accounts: int, accounts_per_run: int, *, rows: int, most_runs: int, folder: Path) -> Line:
    """Sync the accounts without Dagster, then time runs over them."""
    names = ["main"] if accounts == 1 else [f"account_{number:03}" for number in range(accounts)]
    runs = [names[at : at + accounts_per_run] for at in range(0, accounts, accounts_per_run)][:most_runs]
    synced = [name for run in runs for name in run]
    home = make_home(folder)
    store = Store(folder / "data")
    with Sandbox(rows=rows, api_keys=[f"key-{name}" for name in synced]) as sandbox:
        plain_seconds = [
            plain_sync(store, name, StopListClient(f"key-{name}", base_url=sandbox.base_url)) for name in synced * 2
        ][len(synced) :]
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "SMSPARTNER_ACCOUNTS": ",".join(names),
            "SMSPARTNER_BASE_URL": sandbox.base_url,
            "STOP_PIPELINE_DATA": str(folder / "data"),
            "SMSPARTNER_API_KEY": "key-main",
            **{f"SMSPARTNER_API_KEY_{name.upper()}": f"key-{name}" for name in synced},
        }
        timed_run(runs[0], environment)  # makes Dagster's tables, which are no growth
        before = database_bytes(home)
        started = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            seconds = list(pool.map(lambda run: timed_run(run, environment), runs))
        elapsed = time.perf_counter() - started
    grown = database_bytes(home) - before
    return Line(accounts, accounts_per_run, len(runs), elapsed, mean(seconds), mean(plain_seconds), grown)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each account")
    parser.add_argument("--runs", type=int, default=10, help="how many runs are timed for each line, at most")
    options = parser.parse_args()
    print(HEAD)
    for accounts, accounts_per_run in SHAPES:
        with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
            line = measure(accounts, accounts_per_run, rows=options.rows, most_runs=options.runs, folder=Path(folder))
        print(line, flush=True)


if __name__ == "__main__":
    main()
