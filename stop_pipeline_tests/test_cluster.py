"""A fleet on a cluster, as it is shipped: two Ray nodes, PostgreSQL, forty accounts, and a node that dies at work.

Eight accounts share a run here, so that ten processes and not eighty are started: CI has two cores, and each start
costs seconds of imports.
"""

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import dagster as dg
import pytest
import yaml

from stop_pipeline import read_stops
from stop_pipeline.store import Store
from stop_pipeline.verify import verify
from stop_pipeline_tests import postgres, ray_cluster
from stop_pipeline_tests.commands import clean_environment
from stop_pipeline_tests.loopback import Exchange, Loopback, reply
from stop_pipeline_tests.ray_cluster import Cluster, started, wait_until
from stop_pipeline_tests.test_accounts import fleet
from stop_pipeline_tests.test_secrets import DagsterUi
from stop_pipeline_tests.ticking import Row, Ticker, answer_body, rows

ACCOUNTS = [f"account_{number:02}" for number in range(40)]
ACCOUNTS_PER_RUN = 8
RUNS = len(ACCOUNTS) // ACCOUNTS_PER_RUN
NODES = 2

BACKFILL = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message stack }
  }
}"""

Listed = tuple[str, str, str, str, bool]
"""account, id, phone number, `created_at_local`, whether it has ended"""


def listing(account: str, turn: int) -> list[Row]:
    """The list of an account in a round: each has another length, and later some of its rows are gone, others new."""
    number = ACCOUNTS.index(account)
    return rows(20 + number + 5 * turn, first_id=1_000 * (number + 1))[3 * turn :]


@dataclass
class Provider:
    """Answers each account with its list of the round; in the second it lets all of them wait until told otherwise."""

    turn: int = 0
    waiting: set[str] = field(default_factory=set)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self, exchange: Exchange) -> None:
        account = exchange.request.query["apiKey"].removeprefix("key-of-")
        if self.turn == 1:
            self.waiting.add(account)
            self.go_on.wait(ray_cluster.GIVE_UP_SECONDS)
        reply(200, answer_body(listing(account, self.turn)))(exchange)


@dataclass(frozen=True)
class Fleet:
    """All of it, running."""

    cluster: Cluster
    instance: dg.DagsterInstance
    ui: DagsterUi
    provider: Provider
    data: Path

    def tick_all(self) -> None:
        """Ask for every account at once, as *Materialize all* does."""
        assets = [{"path": [name]} for name in ("raw_stop_list", "stop_snapshot", "stops", "suppression_list")]
        params = {"assetSelection": [*assets, {"path": ["stops_per_day"]}], "partitionNames": ACCOUNTS}
        launched = self.ui.ask(BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def ticked(self) -> Counter[str]:
        """How often the table of each account was made, by what Dagster recorded."""
        found = self.instance.fetch_materializations(dg.AssetKey("stops"), limit=1_000).records
        return Counter(str(record.partition_key) for record in found)

    def statuses(self) -> Counter[str]:
        """How many runs ended how, or stand how."""
        return Counter(run.status.value for run in self.instance.get_runs())

    def finished(self) -> int:
        """How many runs have ended."""
        return self.statuses()["SUCCESS"] + self.statuses()["FAILURE"]


def listed_in(root: Path) -> set[Listed]:
    """Every period of a table, without the times at which it was seen."""
    periods = read_stops(root, history=True)
    keys = periods[["account", "id", "phone_number", "created_at_local"]].astype(str).itertuples(index=False)
    found = [(*key, ended) for key, ended in zip(keys, periods["removed_at"].notna(), strict=True)]
    assert len(found) == len(set(found)), "nothing is there twice"
    return set(found)


def by_single_ticks(root: Path, turns: int) -> set[Listed]:
    """The sum of what ticks of one account after the other, in this process, give for the same lists."""
    for account in ACCOUNTS:
        ticker = Ticker(root, account)
        for turn in range(turns):
            ticker.tick(listing(account, turn))
    return listed_in(root)


@contextmanager
def running(folder: Path) -> Iterator[Fleet]:
    """PostgreSQL, two Ray nodes, Dagster's webserver and daemon, and the provider."""
    home = folder / "home"
    home.mkdir()
    shipped = files("stop_pipeline") / "fleet"
    configuration = yaml.safe_load("".join((shipped / name).read_text() for name in ("dagster.yaml", "ray.yaml")))
    configuration["concurrency"]["runs"]["max_concurrent_runs"] = NODES
    (home / "dagster.yaml").write_text(yaml.safe_dump(configuration))
    provider = Provider()
    port = postgres.free_port()
    with postgres.running() as database, Loopback(provider) as api:
        settings = fleet(folder, api, {account: f"key-of-{account}" for account in ACCOUNTS})
        environment = clean_environment(
            PATH=f"{ray_cluster.PROGRAMS}:{os.environ['PATH']}",
            DAGSTER_HOME=str(home),
            DAGSTER_POSTGRES_URL=database.url,
            SMSPARTNER_ACCOUNTS_FILE=str(settings.accounts_file),
            SMSPARTNER_BASE_URL=api.base_url,
            STOP_PIPELINE_ACCOUNTS_PER_RUN=str(ACCOUNTS_PER_RUN),
            STOP_PIPELINE_CRON="0 0 29 2 *",
            STOP_PIPELINE_DATA=settings.data_root,
        )
        with (
            ray_cluster.running(folder, environment) as cluster,
            pytest.MonkeyPatch.context() as patch,
        ):
            environment["RAY_API_SERVER_ADDRESS"] = cluster.address
            patch.setenv("RAY_API_SERVER_ADDRESS", cluster.address)
            patch.setenv("DAGSTER_POSTGRES_URL", database.url)
            dagster = [sys.executable, "-m", "dagster", "dev", "-m", "stop_pipeline.definitions", f"--port={port}"]
            with started(dagster, folder / "dagster.log", environment):
                ui = DagsterUi(f"http://127.0.0.1:{port}")
                ui.wait_until_loaded()
                with dg.DagsterInstance.from_config(str(home)) as instance:
                    yield Fleet(cluster, instance, ui, provider, Path(settings.data_root))
                provider.go_on.set()


@pytest.mark.cluster
def test_forty_accounts_on_two_nodes_of_which_one_dies_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as fleet:
        fleet.tick_all()
        wait_until(lambda: fleet.finished() == RUNS, "round 1")
        assert fleet.statuses() == {"SUCCESS": RUNS}
        assert fleet.ticked() == dict.fromkeys(ACCOUNTS, 1)
        assert len({job["driver_node_id"] for job in fleet.cluster.jobs()}) == NODES
        assert listed_in(fleet.data) == by_single_ticks(tmp_path / "single", 1)

        fleet.provider.turn = 1
        fleet.tick_all()
        wait_until(lambda: len(fleet.provider.waiting) == NODES, "a run at work on each node")
        fleet.cluster.second.kill()
        fleet.provider.go_on.set()
        wait_until(lambda: fleet.finished() == 2 * RUNS + 1, "round 2")
        assert fleet.statuses() == {"SUCCESS": 2 * RUNS, "FAILURE": 1}
        (lost,) = fleet.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        (again,) = fleet.instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": lost.run_id}))
        assert again.status is dg.DagsterRunStatus.SUCCESS
        assert listed_in(fleet.data) == by_single_ticks(tmp_path / "twice", 2)
        store = Store(fleet.data)
        assert [finding for account in ACCOUNTS for finding in verify(store, account).findings] == []
