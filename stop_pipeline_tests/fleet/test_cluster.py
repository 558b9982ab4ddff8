"""A fleet on a cluster, as it is shipped: two Ray nodes, PostgreSQL, a bucket, forty accounts, a node dying at work.

The API is the command's own stand-in, whose lists change from sync to sync; the bucket is that of moto's S3 server.
Eight accounts share a run here, so that ten processes and not eighty are started: CI has two cores, and each start
costs seconds of imports. All else is configured as shipped.
"""

import os
import select
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import dagster as dg
import pytest
import requests

from stop_pipeline import read_stops
from stop_pipeline.table.store import Store
from stop_pipeline_tests.support import bucket, postgres, ray_cluster
from stop_pipeline_tests.support.bucket import S3Server
from stop_pipeline_tests.support.commands import (
    GIVE_UP_SECONDS,
    clean_environment,
    free_port,
    run_command,
    sandbox,
    wait_until,
)
from stop_pipeline_tests.support.loopback import Exchange, Loopback, reply
from stop_pipeline_tests.support.ray_cluster import Cluster, started
from stop_pipeline_tests.support.syncing import Syncer, tree
from stop_pipeline_tests.test_secrets import DagsterUi

ACCOUNTS = [f"account_{number:02}" for number in range(40)]
ACCOUNTS_PER_RUN = 8
RUNS = len(ACCOUNTS) // ACCOUNTS_PER_RUN
HELD = {account for number, account in enumerate(ACCOUNTS) if number % ACCOUNTS_PER_RUN == 3}
"""Of each run one: others of the run are done by then, others are to come."""
NODES = 2
BUCKET = "a-bucket"
TABLES = ("stops", "suppression_list", "stops_per_day")

BACKFILL = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message stack }
  }
}"""


@dataclass
class Relay:
    """Stands before the API, keeps what it sent each account, and can hold a request of each run back.

    Attributes:
        base_url: Of the API.
        responses: By account, in order: every response that a client was there to read.
        holding: Whether requests of `HELD` wait until `go_on`.
        waiting: Those that do, by account.
    """

    base_url: str
    responses: dict[str, list[bytes]] = field(default_factory=lambda: {account: [] for account in ACCOUNTS})
    holding: bool = False
    waiting: dict[str, Exchange] = field(default_factory=dict)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self, exchange: Exchange) -> None:
        account = exchange.request.query["apiKey"].removeprefix("sandbox-key-")
        if self.holding and account in HELD:
            self.waiting[account] = exchange
            self.go_on.wait(GIVE_UP_SECONDS)
            if hung_up(exchange):  # it asked nothing, so its list has not changed either
                return
        url = self.base_url.removesuffix("/v1") + exchange.request.target
        response = requests.get(url, timeout=GIVE_UP_SECONDS)
        self.responses[account].append(response.content)
        reply(200, response.content, {name: response.headers[name] for name in ("Content-Type", "Date")})(exchange)

    def abandoned(self) -> list[str]:
        """The accounts whose client waits no longer."""
        return [account for account, exchange in self.waiting.items() if hung_up(exchange)]


def hung_up(exchange: Exchange) -> bool:
    """Whether the client is gone: one that waits sends nothing more."""
    readable, _, _ = select.select([exchange.connection], [], [], 0)
    return bool(readable)


@dataclass(frozen=True)
class Fleet:
    """All of it, running."""

    cluster: Cluster
    instance: dg.DagsterInstance
    ui: DagsterUi
    relay: Relay
    server: S3Server
    root: str

    def sync_all(self) -> None:
        """Ask for every account at once, as *Materialize all* does."""
        assets = [{"path": [name]} for name in ("raw_stop_list", "stop_snapshot", *TABLES)]
        params = {"assetSelection": assets, "partitionNames": ACCOUNTS}
        launched = self.ui.ask(BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def synced(self) -> Counter[str]:
        """How often the table of each account was made, by what Dagster recorded."""
        found = self.instance.fetch_materializations(dg.AssetKey("stops"), limit=1_000).records
        return Counter(str(record.partition_key) for record in found)

    def statuses(self) -> Counter[str]:
        """How many runs ended how, or stand how."""
        return Counter(run.status.value for run in self.instance.get_runs())

    def finished(self) -> int:
        """How many runs have ended."""
        return self.statuses()["SUCCESS"] + self.statuses()["FAILURE"]

    def tables(self) -> dict[str, bytes]:
        """Every file of the tables."""
        objects = self.server.objects(self.root.removeprefix("s3://"))
        return {name: data for name, data in objects.items() if name.startswith(TABLES)}

    def by_single_syncs(self, folder: Path) -> dict[str, bytes]:
        """What syncs of one account after the other, in this process, make of the same responses."""
        for account in ACCOUNTS:
            syncer = Syncer(folder, account)
            kept = Store(self.root).responses.all(account)
            # Responses that are equal are kept once, under the time of the first.
            different = [list(equal) for _, equal in groupby(self.relay.responses[account])]
            for response, equal in zip(kept, different, strict=True):
                for later, body in enumerate(equal):
                    syncer.sync(body, at=response.fetched_at + timedelta(milliseconds=later))
        return tree(folder, *TABLES)


@contextmanager
def running(folder: Path) -> Iterator[Fleet]:
    """PostgreSQL, the bucket, two Ray nodes, Dagster's webserver and daemon, and the API."""
    home = folder / "home"
    home.mkdir()
    shipped = files("stop_pipeline") / "fleet"
    (home / "dagster.yaml").write_text("".join((shipped / name).read_text() for name in ("dagster.yaml", "ray.yaml")))
    port = free_port()
    accounts = ["--accounts", ",".join(ACCOUNTS)]
    with (
        postgres.running() as database,
        S3Server() as server,
        sandbox("--rows", "15", *accounts, cwd=folder) as variables,
        Loopback(relay := Relay(variables["SMSPARTNER_BASE_URL"])) as api,
        pytest.MonkeyPatch.context() as patch,
    ):
        server.make_bucket(BUCKET)
        for name, value in bucket.environment(server.endpoint).items():
            patch.setenv(name, value)
        patch.setenv("DAGSTER_POSTGRES_URL", database.url)
        ours = {
            "DAGSTER_HOME": str(home),
            "DAGSTER_POSTGRES_URL": database.url,
            "SMSPARTNER_BASE_URL": api.base_url,
            "STOP_PIPELINE_ACCOUNTS_PER_RUN": str(ACCOUNTS_PER_RUN),
            "STOP_PIPELINE_CRON": "0 0 29 2 *",
            "STOP_PIPELINE_DATA": f"s3://{BUCKET}/data",
        }
        environment = clean_environment(**variables | ours, PATH=f"{ray_cluster.PROGRAMS}:{os.environ['PATH']}")
        with ray_cluster.running(folder, environment) as cluster:
            environment["RAY_API_SERVER_ADDRESS"] = cluster.address
            patch.setenv("RAY_API_SERVER_ADDRESS", cluster.address)
            dagster = [sys.executable, "-m", "dagster", "dev", "-m", "stop_pipeline.definitions", f"--port={port}"]
            with started(dagster, folder / "dagster.log", environment):
                ui = DagsterUi(f"http://127.0.0.1:{port}")
                ui.wait_until_loaded()
                with dg.DagsterInstance.from_config(str(home)) as instance:
                    yield Fleet(cluster, instance, ui, relay, server, ours["STOP_PIPELINE_DATA"])
                relay.go_on.set()


@pytest.mark.cluster
def test_forty_accounts_on_two_nodes_of_which_one_dies_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as fleet:
        fleet.sync_all()
        wait_until(lambda: fleet.finished() == RUNS, "round 1")
        assert fleet.statuses() == {"SUCCESS": RUNS}
        assert fleet.synced() == dict.fromkeys(ACCOUNTS, 1)
        assert len({job["driver_node_id"] for job in fleet.cluster.jobs()}) == NODES
        assert read_stops(fleet.root)["account"].nunique() == len(ACCOUNTS)
        assert fleet.tables() == fleet.by_single_syncs(tmp_path / "once")

        fleet.relay.holding = True
        fleet.sync_all()
        wait_until(lambda: len(fleet.relay.waiting) == NODES, "a run at work on each node")
        fleet.cluster.second.kill()
        wait_until(fleet.relay.abandoned, "the end of what the node was at")
        assert len(fleet.relay.abandoned()) == 1
        fleet.relay.go_on.set()
        wait_until(lambda: fleet.finished() == 2 * RUNS + 1, "round 2")
        assert fleet.statuses() == {"SUCCESS": 2 * RUNS, "FAILURE": 1}
        (lost,) = fleet.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        (again,) = fleet.instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": lost.run_id}))
        assert again.status is dg.DagsterRunStatus.SUCCESS
        # What the killed run had done is done twice, by the same rules; what it had not, by the second run alone.
        assert set(fleet.synced().values()) == {2, 3}
        assert fleet.tables() == fleet.by_single_syncs(tmp_path / "twice")
        periods = read_stops(fleet.root, history=True)
        assert not periods.duplicated(["account", "id", "phone_number", "created_at_local"]).any()
        verified = run_command("verify", cwd=tmp_path, STOP_PIPELINE_DATA=fleet.root)
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert verified.stdout.count("no problems found") == len(ACCOUNTS)
