"""Many accounts: each ticks once per interval, some of them in one run, and one that fails stops none of the others."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stop_pipeline import read_stops, tick
from stop_pipeline.definitions import build_definitions
from stop_pipeline.defs.schedules import due_in_minute, interval_around, intervals_of
from stop_pipeline.settings import Settings
from stop_pipeline.store import Store
from stop_pipeline_tests.loopback import Exchange, Loopback, reply
from stop_pipeline_tests.ticking import answer_body, rows

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
ASSETS = [
    dg.AssetKey(name) for name in ("raw_stop_list", "stop_snapshot", "stops", "suppression_list", "stops_per_day")
]
ACCOUNTS = ("lille", "lyon", "nice", "paris")
KEYS = {account: f"key-of-{account}" for account in ACCOUNTS}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def provider(lists: dict[str, int]) -> Loopback:
    """A server that has a list of so many rows for the key of each account, and refuses every other key."""

    def script(exchange: Exchange) -> None:
        key = exchange.request.query["apiKey"]
        account = key.removeprefix("key-of-")
        if account in lists:
            reply(200, answer_body(rows(lists[account])))(exchange)
        else:
            reply(200, b'{"success": false, "code": 10, "message": "Cl\\u00e9 API incorrecte"}')(exchange)

    return Loopback(script)


def fleet(folder: Path, server: Loopback, keys: Mapping[str, str], **settings: Any) -> Settings:
    """Settings for these accounts, with their keys in a file."""
    file = folder / "accounts.toml"
    file.touch(mode=0o600)
    file.write_text("[accounts]\n" + "".join(f'{account} = "{key}"\n' for account, key in keys.items()))
    return Settings(
        accounts=tuple(keys),
        accounts_file=file,
        base_url=server.base_url,
        data_root=str(folder / "data"),
        **settings,
    )


def run(settings: Settings, instance: dg.DagsterInstance, first: str, last: str | None = None, **config: Any) -> Any:
    """Run the job for one partition, or for a range of them."""
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
    job = build_definitions(settings).resolve_job_def("tick")
    return job.execute_in_process(
        instance=instance,
        run_config=QUIET | ({"ops": {"stops": {"config": config}}} if config else {}),
        raise_on_error=False,
        tags=tags if last else None,
        partition_key=None if last else first,
    )


def status_of(instance: dg.DagsterInstance, asset: str, settings: Settings) -> dict[str, str | None]:
    """How Dagster shows each partition of the asset."""
    partitions = dg.StaticPartitionsDefinition(list(settings.accounts))
    shown = instance.get_status_by_partition(dg.AssetKey(asset), list(settings.accounts), partitions) or {}
    return {account: status and status.value for account, status in shown.items()}


def failure_of(result: Any) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    return str(event.step_failure_data.error_display_string)


# A run that ticks several


def test_a_run_ticks_a_range_of_accounts_and_reports_each_with_its_checks(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with provider({"lille": 3, "lyon": 5, "nice": 7, "paris": 9}) as server:
        settings = fleet(tmp_path, server, KEYS)
        assert run(settings, instance, "lille", "nice").success

    assert read_stops(tmp_path / "data")["account"].value_counts().to_dict() == {"lille": 3, "lyon": 5, "nice": 7}
    for asset in ASSETS:
        assert instance.get_materialized_partitions(asset) == {"lille", "lyon", "nice"}
    (event,) = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("stops"), asset_partitions=["lyon"]), limit=1
    ).records
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["new"].value == 5
    assert "dagster/data_version" in (event.asset_materialization.tags or {})


def test_an_account_that_fails_stops_none_of_its_run_and_is_shown_as_that_partitions_failure(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with provider({"lille": 3, "paris": 9}) as server:
        settings = fleet(tmp_path, server, KEYS | {"lyon": "a-wrong-one", "nice": ""})
        result = run(settings, instance, "lille", "paris")

    assert not result.success
    assert "2 of 4 accounts failed, the others are done. Account lyon: SMS Partner" in failure_of(result)
    assert "has no API key for the account “nice”" in failure_of(result)
    expected = {"lille": "MATERIALIZED", "lyon": "FAILED", "nice": "FAILED", "paris": "MATERIALIZED"}
    for asset in ASSETS:
        assert status_of(instance, asset.path[-1], settings) == expected
    assert read_stops(tmp_path / "data")["account"].value_counts().to_dict() == {"lille": 3, "paris": 9}


def test_a_bug_met_by_one_account_of_a_run_stops_none_of_the_others_and_tells_no_secret(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = rows(5)[0].phone_number

    def apply_newest(store: Store, account: str, *arguments: Any, **named: Any) -> tick.Applied:
        if account == "lyon":
            raise ZeroDivisionError(f"{number} of {KEYS[account]}")
        return real(store, account, *arguments, **named)

    real = tick.apply_newest
    monkeypatch.setattr(tick, "apply_newest", apply_newest)
    with provider({"lille": 3, "lyon": 5, "nice": 7, "paris": 9}) as server:
        settings = fleet(tmp_path, server, KEYS)
        result = run(settings, instance, "lille", "paris")

    assert not result.success
    told = "1 of 4 accounts failed, the others are done. Account lyon: ZeroDivisionError, which nobody foresaw"
    assert told in failure_of(result)
    others = {"lille": "MATERIALIZED", "nice": "MATERIALIZED", "paris": "MATERIALIZED"}
    for asset in ("stops", "suppression_list", "stops_per_day"):
        assert status_of(instance, asset, settings) == others | {"lyon": "FAILED"}
    assert read_stops(tmp_path / "data")["account"].value_counts().to_dict() == {"lille": 3, "nice": 7, "paris": 9}
    events = "".join(map(repr, instance.all_logs(result.run_id)))
    assert "ZeroDivisionError" in events
    assert [secret for secret in (*KEYS.values(), number) if secret in events] == []


def test_a_check_that_fails_for_one_account_is_not_hidden_by_the_next(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    for lists in ({"lille": 3, "lyon": 100, "nice": 7}, {"lille": 3, "lyon": 30, "nice": 7}):
        with provider(lists) as server:
            result = run(fleet(tmp_path, server, KEYS), instance, "lille", "nice")
            assert result.success
    passed = {evaluation.partition: evaluation.passed for evaluation in _evaluations(result, "removals_plausible")}
    assert passed == {"lille": True, "lyon": False, "nice": True}
    key = dg.AssetCheckKey(dg.AssetKey("stops"), "removals_plausible")
    latest = instance.event_log_storage.get_asset_check_execution_history(key, limit=3)
    assert {record.partition: record.status.value for record in latest} == {
        "lille": "SUCCEEDED",
        "lyon": "FAILED",
        "nice": "SUCCEEDED",
    }


def _evaluations(result: Any, check: str) -> list[dg.AssetCheckEvaluation]:
    return [evaluation for evaluation in result.get_asset_check_evaluations() if evaluation.check_name == check]


def test_removals_are_accepted_of_one_account_only(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    with provider({"lille": 100, "lyon": 100}) as server:
        run(fleet(tmp_path, server, KEYS), instance, "lille", "lyon")
    with provider({"lille": 30, "lyon": 30}) as server:
        several = run(fleet(tmp_path, server, KEYS), instance, "lille", "lyon", accept_removals=70)
        assert "accept_removals is about one account" in failure_of(several)
        assert run(fleet(tmp_path, server, KEYS), instance, "lyon", accept_removals=70).success
    assert read_stops(tmp_path / "data")["account"].value_counts().to_dict() == {"lille": 100, "lyon": 30}


def test_the_data_of_one_account_stays_when_others_join_it(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMSPARTNER_API_KEY", "key-of-main")
    with provider({"main": 7, "lyon": 5}) as server:
        alone = Settings(base_url=server.base_url, data_root=str(tmp_path / "data"))
        job = build_definitions(alone).resolve_job_def("tick")
        assert job.execute_in_process(instance=instance, run_config=QUIET).success
        before = read_stops(tmp_path / "data", history=True)

        settings = fleet(tmp_path, server, {"main": "key-of-main", "lyon": "key-of-lyon"})
        assert status_of(instance, "stops", settings) == {"main": None, "lyon": None}
        for account in settings.accounts:
            assert run(settings, instance, account).success
            assert status_of(instance, "stops", settings)[account] == "MATERIALIZED"
    after = read_stops(tmp_path / "data", history=True)
    assert after[after["account"] == "main"].to_numpy().tolist() == before.to_numpy().tolist()
    assert len(after) == 12


def test_a_backfill_takes_as_many_accounts_into_a_run_as_the_schedule_does() -> None:
    settings = Settings(accounts=ACCOUNTS, accounts_per_run=3)
    (policy,) = {asset.backfill_policy for asset in build_definitions(settings).assets or []}  # type: ignore[union-attr]
    assert policy == dg.BackfillPolicy.multi_run(3)


# When each is due

PARIS = ZoneInfo("Europe/Paris")
CRONS = ("*/15 * * * *", "0 * * * *", "*/7 * * * *", "0 3 * * *", "30 6,18 * * 1-5", "* * * * *")


def interval(time: datetime, cron: str) -> dg.TimeWindow:
    return interval_around(time, intervals_of(cron))


@given(
    runs=st.integers(1, 400),
    cron=st.sampled_from(CRONS),
    time=st.integers(0, 365 * 24 * 60).map(
        lambda minutes: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    ),
)
def test_each_run_is_due_in_one_minute_of_an_interval_and_no_minute_has_two_more_than_another(
    runs: int, cron: str, time: datetime
) -> None:
    window = interval(time, cron)
    assert window.start <= time < window.end
    minutes = int(window.end.timestamp() - window.start.timestamp()) // 60
    accounts = [(f"a{number}",) for number in range(runs)]
    due = [due_in_minute(accounts, window.start + timedelta(minutes=m), window) for m in range(minutes)]
    assert [run for of_minute in due for run in of_minute] == accounts
    sizes = Counter(map(len, due))
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_a_day_on_which_the_clocks_change_has_its_own_length(day: str, hours: int) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=PARIS)
    window = interval(noon, "0 0 * * *")
    assert window.end.timestamp() - window.start.timestamp() == hours * 3600
    accounts = [(f"a{number}",) for number in range(hours)]
    minutes = range(0, hours * 60, 60)
    instants = [datetime.fromtimestamp(window.start.timestamp() + 60 * minute, UTC) for minute in minutes]
    assert [due_in_minute(accounts, instant, window) for instant in instants] == [[run] for run in accounts]


def requests_of(settings: Settings, instance: dg.DagsterInstance, time: datetime) -> list[dg.RunRequest]:
    definitions = build_definitions(settings)
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=time, repository_def=definitions.get_repository_def()
    )
    return list(definitions.resolve_schedule_def("every_tick").evaluate_tick(context).run_requests or [])


def test_the_schedule_asks_for_each_account_once_per_interval_and_twice_the_same(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with provider({}) as server:
        settings = fleet(tmp_path, server, KEYS)
    start = datetime(2026, 1, 1, 12, 15, tzinfo=UTC)
    minutes = [requests_of(settings, instance, start + timedelta(minutes=minute)) for minute in range(15)]
    assert [request.tags["dagster/partition"] for of_minute in minutes for request in of_minute] == list(ACCOUNTS)
    assert [len(of_minute) for of_minute in minutes] == [1, 0, 0, *[1, 0, 0, 0] * 3]
    keys = [request.run_key for of_minute in minutes for request in of_minute]
    assert keys == [f"{account} 2026-01-01T12:15:00+00:00" for account in ACCOUNTS]
    (again,) = requests_of(settings, instance, start)
    assert again.run_key == keys[0]
    assert keys[0] != requests_of(settings, instance, start + timedelta(minutes=15))[0].run_key


def test_the_schedule_asks_for_runs_of_so_many_accounts_as_the_setting_says(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with provider({"lille": 1, "lyon": 2, "nice": 3, "paris": 4}) as server:
        settings = fleet(tmp_path, server, KEYS, accounts_per_run=3)
        start = datetime(2026, 1, 1, 12, 15, tzinfo=UTC)
        requests = [
            request
            for minute in range(15)
            for request in requests_of(settings, instance, start + timedelta(minutes=minute))
        ]
        job = build_definitions(settings).resolve_job_def("tick")
        for request in requests:
            assert job.execute_in_process(instance=instance, run_config=QUIET, tags=dict(request.tags)).success
    assert len(requests) == 2
    assert instance.get_materialized_partitions(dg.AssetKey("stops")) == set(ACCOUNTS)


def test_the_schedule_of_several_accounts_is_skipped_while_none_has_a_key(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with provider({}) as server:
        settings = fleet(tmp_path, server, dict.fromkeys(ACCOUNTS, ""))
    assert not requests_of(settings, instance, datetime(2026, 1, 1, 12, 15, tzinfo=UTC))
