"""How a fleet grows on one machine: runs a minute, what a run costs beside its ticks, what Dagster's database gains.

    python benchmarks/fleet.py                       # up to 10 runs for each line; some ten minutes
    python benchmarks/fleet.py --runs 2 --rows 1000  # a quick look

Each account has a list of its own in a stand-in for SMS Partner, which changes from answer to answer. The first tick of
every account is made beforehand, without Dagster; what is timed are the next ones, each run a process of its own as a
run launcher starts it, as many side by side as there are cores. `plain` is the same tick without Dagster; what a run
takes beyond its plain ticks is overhead. With DAGSTER_POSTGRES_URL set, the fleet's configuration is used, else the one
of `stop-pipeline dev`, on SQLite.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import sqlalchemy

from stop_pipeline import tick
from stop_pipeline.client import StopListClient
from stop_pipeline.guard import Guard
from stop_pipeline.sandbox import Sandbox, StopList, today
from stop_pipeline.store import Store

SHAPES = ((1, 1), (10, 1), (10, 10), (100, 1), (100, 50))
"""Accounts, and how many of them a run ticks."""


@dataclass(frozen=True)
class Line:
    """What was measured of one shape."""

    accounts: int
    accounts_per_run: int
    runs: int
    seconds: float
    seconds_of_a_run: float
    plain_seconds_of_a_tick: float
    database_bytes: int

    def __str__(self) -> str:
        ticks = self.runs * self.accounts_per_run
        overhead = self.seconds_of_a_run - self.accounts_per_run * self.plain_seconds_of_a_tick
        return (
            f"| {self.accounts} | {self.accounts_per_run} | {self.runs} | {60 * self.runs / self.seconds:.1f} "
            f"| {60 * ticks / self.seconds:.0f} | {self.seconds_of_a_run:.1f} | {overhead:.1f} "
            f"| {self.plain_seconds_of_a_tick:.2f} | {self.database_bytes / ticks * 1_000 / 1e6:.0f} |"
        )


def plain_tick(store: Store, account: str, client: StopListClient) -> None:
    """One tick without Dagster."""
    tick.fetch(store, account, client, timezone="Europe/Paris")
    tick.parse_newest(store, account, timezone="Europe/Paris")
    tick.apply_newest(store, account, Guard())
    tick.derive_suppression_list(store, account)
    tick.derive_stops_per_day(store, account)


def database_bytes(home: Path) -> int:
    """What Dagster's history takes, in PostgreSQL or in files."""
    url = os.environ.get("DAGSTER_POSTGRES_URL")
    if url is None:
        return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    with sqlalchemy.create_engine(url).connect() as connection:
        return int(connection.execute(sqlalchemy.text("SELECT pg_database_size(current_database())")).scalar_one())


def make_home(folder: Path) -> Path:
    """A DAGSTER_HOME with the configuration as it is shipped."""
    package = files("stop_pipeline")
    folder_of_shipped = package / "fleet" if "DAGSTER_POSTGRES_URL" in os.environ else package
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((folder_of_shipped / "dagster.yaml").read_text())
    return home


def timed_run(accounts: Sequence[str], environment: Mapping[str, str]) -> float:
    """Tick these accounts in one run, a process of its own; gives the seconds it took."""
    if len(accounts) == 1:
        tags = {"dagster/partition": accounts[0]}
    else:
        tags = {"dagster/asset_partition_range_start": accounts[0], "dagster/asset_partition_range_end": accounts[-1]}
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "stop_pipeline.definitions", "-j", "tick"]
    command += ["--tags", json.dumps(tags)] if environment["SMSPARTNER_ACCOUNTS"] != "main" else []
    started = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, check=True)  # noqa: S603 – arguments of ours
    return time.perf_counter() - started


def measure(accounts: int, accounts_per_run: int, *, rows: int, most_runs: int, folder: Path) -> Line:
    """Bring the accounts up without Dagster, then time runs over them."""
    names = ["main"] if accounts == 1 else [f"account_{number:03}" for number in range(accounts)]
    runs = [names[at : at + accounts_per_run] for at in range(0, accounts, accounts_per_run)][:most_runs]
    ticked = [name for run in runs for name in run]
    home = make_home(folder)
    store = Store(folder / "data")
    with Sandbox({f"key-{name}": StopList(rows, seed, until=today()) for seed, name in enumerate(ticked)}) as sandbox:
        clients = {name: StopListClient(f"key-{name}", base_url=sandbox.base_url) for name in ticked}
        for name in ticked:
            plain_tick(store, name, clients[name])
        sample = ticked[:10]
        started = time.perf_counter()
        for name in sample:
            plain_tick(store, name, clients[name])
        plain_seconds = (time.perf_counter() - started) / len(sample)
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "SMSPARTNER_ACCOUNTS": ",".join(names),
            "SMSPARTNER_BASE_URL": sandbox.base_url,
            "STOP_PIPELINE_DATA": str(folder / "data"),
            "SMSPARTNER_API_KEY": "key-main",
            **{f"SMSPARTNER_API_KEY_{name.upper()}": f"key-{name}" for name in ticked},
        }
        timed_run(runs[0], environment)  # makes Dagster's tables, which are no growth
        before = database_bytes(home)
        started = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            seconds = list(pool.map(lambda run: timed_run(run, environment), runs))
        elapsed = time.perf_counter() - started
    grown = database_bytes(home) - before
    return Line(accounts, accounts_per_run, len(runs), elapsed, sum(seconds) / len(seconds), plain_seconds, grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each account")
    parser.add_argument("--runs", type=int, default=10, help="how many runs of a line are timed at most")
    options = parser.parse_args()
    print(
        "| accounts | per run | runs | runs/min | ticks/min | s/run | overhead s/run | plain s/tick | MB/1,000 ticks |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for accounts, accounts_per_run in SHAPES:
        folder = Path(tempfile.mkdtemp(prefix="fleet-"))
        try:
            line = measure(accounts, accounts_per_run, rows=options.rows, most_runs=options.runs, folder=folder)
            print(line, flush=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
