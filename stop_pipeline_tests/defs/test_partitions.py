"""Several accounts: one run syncs some of them, and one that fails does not stop the others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from stop_pipeline import read_stops, sync
from stop_pipeline.definitions import build_definitions
from stop_pipeline.results import Merged
from stop_pipeline.settings import Settings
from stop_pipeline.table.store import Store
from stop_pipeline_tests.support.loopback import Exchange, Loopback, reply
from stop_pipeline_tests.support.pipeline import ASSETS, QUIET, reason_of
from stop_pipeline_tests.support.syncing import response_body, rows

ACCOUNTS = ("lille", "lyon", "nice", "paris")
KEYS = {account: f"key-of-{account}" for account in ACCOUNTS}


class Fleet:
    """Accounts whose keys are in a file, and a server that has a list for the key of each.

    Attributes:
        lists: How many rows the list of each account has; every other key is refused.
        settings: Of these accounts.
    """

    def __init__(self, folder: Path, instance: dg.DagsterInstance, base_url: str, lists: dict[str, int]) -> None:
        self.root, self.instance, self.lists = folder / "data", instance, lists
        self._file = folder / "accounts.toml"
        self.settings = Settings(accounts_file=self._file, base_url=base_url, data_root=str(self.root))
        self.use(KEYS)

    def use(self, keys: Mapping[str, str]) -> None:
        """Take these accounts with these keys."""
        self._file.touch(mode=0o600)
        self._file.write_text("[accounts]\n" + "".join(f'{account} = "{key}"\n' for account, key in keys.items()))
        self.settings = replace(self.settings, accounts=tuple(keys))

    def run(
        self, first: str, last: str | None = None, *, tags: Mapping[str, str] | None = None, **config: Any
    ) -> dg.ExecuteInProcessResult:
        """Run the job for one partition, or for a range of them."""
        if last:
            tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        return (
            build_definitions(self.settings)
            .resolve_job_def("sync")
            .execute_in_process(
                QUIET | ({"ops": {"stops": {"config": config}}} if config else {}),
                instance=self.instance,
                tags=tags,
                partition_key=None if last else first,
                raise_on_error=False,
            )
        )

    def status(self, asset: str) -> dict[str, str | None]:
        """How Dagster shows each partition of an asset."""
        accounts = list(self.settings.accounts)
        partitions = dg.StaticPartitionsDefinition(accounts)
        shown = self.instance.get_status_by_partition(dg.AssetKey(asset), accounts, partitions) or {}
        return {account: status and status.value for account, status in shown.items()}

    @property
    def rows(self) -> dict[str, int]:
        """How many rows `stops` has of each account."""
        return {str(name): int(count) for name, count in read_stops(self.root)["account"].value_counts().items()}


@pytest.fixture
def fleet(tmp_path: Path, instance: dg.DagsterInstance) -> Iterator[Fleet]:
    with provided(tmp_path, instance, {"lille": 3, "lyon": 5, "nice": 7, "paris": 9}) as fleet:
        yield fleet


@contextmanager
def provided(folder: Path, instance: dg.DagsterInstance, lists: dict[str, int]) -> Iterator[Fleet]:
    """The accounts, while a server has these lists."""

    def respond(exchange: Exchange) -> None:
        account = exchange.request.query["apiKey"].removeprefix("key-of-")
        refusal = b'{"success": false, "code": 10, "message": "Cl\\u00e9 API incorrecte"}'
        reply(200, response_body(rows(lists[account])) if account in lists else refusal)(exchange)

    with Loopback(respond) as server:
        yield Fleet(folder, instance, server.base_url, lists)


def test_a_single_account_has_no_partitions_and_several_have_one_each() -> None:
    def partitions(settings: Settings) -> list[list[str] | None]:
        specs = build_definitions(settings).resolve_all_asset_specs()
        return [list(spec.partitions_def.get_partition_keys()) if spec.partitions_def else None for spec in specs]

    assert partitions(Settings()) == [None] * 5
    assert partitions(Settings(accounts=ACCOUNTS)) == [list(ACCOUNTS)] * 5


def test_a_run_of_one_partition_syncs_that_account_and_its_checks_belong_to_what_it_materialized(fleet: Fleet) -> None:
    result = fleet.run("lyon")
    events = result.asset_materializations_for_node("stops")
    assert [(event.asset_key.path[-1], event.partition) for event in events] == [(asset, "lyon") for asset in ASSETS]
    assert events[2].metadata["row_count"].value == 5
    assert fleet.rows == {"lyon": 5}
    checks = result.get_asset_check_evaluations()
    assert len(checks) == 8
    for check in checks:
        assert check.partition == "lyon"
        assert check.target_materialization_data is not None
        assert check.target_materialization_data.run_id == result.run_id
    assert not [entry for entry in fleet.instance.all_logs(result.run_id) if "did not yield" in entry.user_message]


def test_a_run_without_a_partition_says_what_to_do(fleet: Fleet) -> None:
    job = build_definitions(fleet.settings).resolve_job_def("sync")
    result = job.execute_in_process(QUIET, instance=fleet.instance, raise_on_error=False)
    assert "materialize the partition of an account" in reason_of(result)


def test_freshness_is_only_told_of_a_single_account() -> None:
    def policies(settings: Settings) -> list[str]:
        specs = build_definitions(settings).resolve_all_asset_specs()
        return [spec.key.to_user_string() for spec in specs if spec.freshness_policy is not None]

    assert policies(Settings()) == ["stops"]
    assert policies(Settings(accounts=ACCOUNTS)) == []


@pytest.mark.parametrize(("alert_after", "fails_after"), [(2, 24), (26, 52)], ids=["every 15 minutes", "daily"])
def test_a_list_is_stale_when_an_alert_would_say_so(alert_after: int, fails_after: int) -> None:
    settings = Settings(alert_after=timedelta(hours=alert_after))
    specs = {spec.key: spec for spec in build_definitions(settings).resolve_all_asset_specs()}
    policy = specs[dg.AssetKey("stops")].freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(
        warn_window=timedelta(hours=alert_after), fail_window=timedelta(hours=fails_after)
    )


def test_a_run_syncs_a_range_of_accounts_and_reports_each_with_its_checks(fleet: Fleet) -> None:
    result = fleet.run("lille", "nice")
    assert result.success
    assert fleet.rows == {"lille": 3, "lyon": 5, "nice": 7}
    for asset in ASSETS:
        assert fleet.instance.get_materialized_partitions(dg.AssetKey(asset)) == {"lille", "lyon", "nice"}
    checks = {(check.partition, check.check_name) for check in result.get_asset_check_evaluations() if check.passed}
    assert len(checks) == 3 * 8
    (event,) = fleet.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("stops"), asset_partitions=["lyon"]), limit=1
    ).records
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["new"].value == 5
    assert event.asset_materialization.metadata["row_count"].value == 5
    assert "dagster/row_count" not in event.asset_materialization.metadata
    assert "dagster/data_version" in (event.asset_materialization.tags or {})


def test_an_account_that_fails_does_not_stop_the_others_and_its_partition_is_shown_as_failed(fleet: Fleet) -> None:
    fleet.use(KEYS | {"lyon": "a-wrong-one", "nice": ""})
    result = fleet.run("lille", "paris")
    assert not result.success
    assert "2 of 4 accounts failed; the others are done. Account lyon: SMS Partner" in reason_of(result)
    assert "has no API key for the account “nice”" in reason_of(result)
    expected = {"lille": "MATERIALIZED", "lyon": "FAILED", "nice": "FAILED", "paris": "MATERIALIZED"}
    assert [fleet.status(asset) for asset in ASSETS] == [expected] * 5
    assert fleet.rows == {"lille": 3, "paris": 9}


def test_an_unexpected_error_in_one_account_does_not_stop_the_others_and_tells_no_secret(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = rows(5)[0].phone_number
    real = sync.merge

    def merge(store: Store, account: str, *arguments: Any, **named: Any) -> Merged:
        if account == "lyon":
            raise ZeroDivisionError(f"{number} of {KEYS[account]}")
        return real(store, account, *arguments, **named)

    monkeypatch.setattr(sync, "merge", merge)
    result = fleet.run("lille", "paris")
    assert not result.success
    told = "1 of 4 accounts failed; the others are done. Account lyon: Unexpected error (ZeroDivisionError)"
    assert told in reason_of(result)
    expected = {"lille": "MATERIALIZED", "lyon": "FAILED", "nice": "MATERIALIZED", "paris": "MATERIALIZED"}
    assert [fleet.status(asset) for asset in ("stops", "suppression_list", "stops_per_day")] == [expected] * 3
    assert fleet.rows == {"lille": 3, "nice": 7, "paris": 9}
    events = "".join(map(repr, fleet.instance.all_logs(result.run_id)))
    assert "ZeroDivisionError" in events
    assert [secret for secret in (*KEYS.values(), number) if secret in events] == []


def test_a_check_that_fails_for_one_account_is_not_hidden_by_the_next(fleet: Fleet) -> None:
    fleet.lists["lyon"] = 100
    assert fleet.run("lille", "nice").success
    fleet.lists["lyon"] = 30
    assert fleet.run("lille", "nice").success
    key = dg.AssetCheckKey(dg.AssetKey("stops"), "removals_plausible")
    latest = fleet.instance.event_log_storage.get_asset_check_execution_history(key, limit=3)
    assert {record.partition: record.status.value for record in latest} == {
        "lille": "SUCCEEDED",
        "lyon": "FAILED",
        "nice": "SUCCEEDED",
    }


def test_removals_are_accepted_for_one_account_only(fleet: Fleet) -> None:
    fleet.lists |= {"lille": 100, "lyon": 100}
    fleet.run("lille", "lyon")
    fleet.lists |= {"lille": 30, "lyon": 30}
    assert "accept_removals is for one account" in reason_of(fleet.run("lille", "lyon", accept_removals=70))
    # A backfill gives the same number to the run of each account.
    backfill = fleet.run("lille", tags={"dagster/backfill": "abcdefgh"}, accept_removals=70)
    assert "accept_removals is for one account" in reason_of(backfill)
    assert fleet.run("lyon", accept_removals=70).success
    assert fleet.rows == {"lille": 100, "lyon": 30}


def test_a_range_that_holds_no_account_fails(fleet: Fleet) -> None:
    assert "this run covers none now: start a new one" in reason_of(fleet.run("nice", "lille"))


def test_a_check_alone_is_no_run_that_succeeds(fleet: Fleet) -> None:
    check = dg.AssetCheckKey(dg.AssetKey("stops"), "removals_plausible")
    job = dg.define_asset_job("one_check", selection=dg.AssetSelection.checks(check))
    definitions = dg.Definitions.merge(build_definitions(fleet.settings), dg.Definitions(jobs=[job]))
    result = definitions.resolve_job_def("one_check").execute_in_process(
        QUIET, instance=fleet.instance, tags={"dagster/partition": "lyon"}, raise_on_error=False
    )
    assert "A check runs only with its asset: materialize the asset." in reason_of(result)


def test_the_data_of_one_account_stays_when_another_joins_it(fleet: Fleet) -> None:
    fleet.use({"lyon": "key-of-lyon"})
    job = build_definitions(fleet.settings).resolve_job_def("sync")
    assert job.execute_in_process(QUIET, instance=fleet.instance).success
    before = read_stops(fleet.root, history=True)

    fleet.use({"lyon": "key-of-lyon", "nice": "key-of-nice"})
    assert fleet.status("stops") == {"lyon": None, "nice": None}
    for account in ("lyon", "nice"):
        assert fleet.run(account).success
        assert fleet.status("stops")[account] == "MATERIALIZED"
    after = read_stops(fleet.root, history=True)
    assert after[after["account"] == "lyon"].to_numpy().tolist() == before.to_numpy().tolist()
    assert fleet.rows == {"lyon": 5, "nice": 7}


def test_a_backfill_takes_as_many_accounts_into_a_run_as_the_schedule_does() -> None:
    def policy(accounts_per_run: int) -> dg.BackfillPolicy | None:
        definitions = build_definitions(Settings(accounts=ACCOUNTS, accounts_per_run=accounts_per_run))
        (found,) = {asset.backfill_policy for asset in definitions.assets or []}  # type: ignore[union-attr]
        return found

    assert policy(3) == dg.BackfillPolicy.multi_run(3)
    assert policy(1) is None  # a run of a partition, of which Dagster keeps the check results
