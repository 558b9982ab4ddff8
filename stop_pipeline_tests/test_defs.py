"""What Dagster is told: that the definitions load anywhere, and what a real run on a real instance shows."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from stop_pipeline import read_stops, schema
from stop_pipeline.definitions import build_definitions
from stop_pipeline.defs import checks
from stop_pipeline.errors import ConfigurationError, ForeignListError
from stop_pipeline.periods import STOPS_ORDER
from stop_pipeline.settings import Settings
from stop_pipeline_tests.commands import clean_environment
from stop_pipeline_tests.loopback import Loopback, reply
from stop_pipeline_tests.ticking import Row, Ticker, answer_body, rows

REPOSITORY = Path(__file__).parent.parent
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
ASSETS = ["raw_stop_list", "stop_snapshot", "stops", "suppression_list", "stops_per_day"]


class Pipeline:
    """The definitions against a loopback server, on an instance of their own."""

    def __init__(self, root: Path, server: Loopback, instance: dg.DagsterInstance, accounts: tuple[str, ...]) -> None:
        self.settings = Settings(accounts=accounts, base_url=server.base_url, data_root=str(root))
        self.instance = instance

    def run(self, **options: Any) -> dg.ExecuteInProcessResult:
        config = QUIET | options.pop("run_config", {})
        job = build_definitions(self.settings).resolve_job_def("tick")
        return job.execute_in_process(instance=self.instance, run_config=config, **options)

    @staticmethod
    def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
        (event,) = result.asset_materializations_for_node(asset)
        return {name: value.value for name, value in event.metadata.items()}

    @staticmethod
    def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
        return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture(autouse=True)
def api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMSPARTNER_API_KEY", "key-of-main")


def listing(*bodies: bytes) -> Loopback:
    return Loopback(*(reply(200, body) for body in bodies))


def test_definitions_load_without_any_environment() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from stop_pipeline.definitions import defs; print(len(list(defs.assets)))"],
        env={},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr


def test_the_workspace_is_valid_from_a_clone() -> None:
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "All code locations passed validation" in done.stderr + done.stdout


def test_one_run_materialises_all_five_assets_and_tells_what_happened(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    malformed = {"id": 999, "phoneNumber": "+33639980999", "createdAt": "2025-02-30 00:00:00", "operator": "x"}
    body = answer_body([*rows(40), rows(1)[0], malformed])
    with listing(body) as server:
        result = Pipeline(tmp_path, server, instance, ("main",)).run()

    assert result.success
    assert sorted(key.path[-1] for key in _materialised(result)) == sorted(ASSETS)
    stops = Pipeline.metadata(result, "stops")
    expected = {"listed": 40, "new": 40, "changed": 0, "removed": 0, "restored": 0, "rejected": 1, "withheld": 0}
    assert {name: stops[name] for name in expected} == expected
    assert stops["rows"] == "42 rows = 40 kept + 1 duplicates collapsed + 1 rejected"
    assert (stops["months_written"], stops["months"], stops["dagster/row_count"]) == (1, "2025-06", 40)
    assert stops["dagster/uri"] == (tmp_path / "stops/account=main").as_uri()
    assert Pipeline.metadata(result, "stop_snapshot")["extra_fields"] == "operator"
    assert Pipeline.metadata(result, "raw_stop_list")["bytes"] == len(body)
    checks = Pipeline.checks(result)
    assert {name for name, check in checks.items() if not check.passed} == {"nothing_rejected"}
    assert checks["nothing_rejected"].severity is dg.AssetCheckSeverity.WARN


def _materialised(result: dg.ExecuteInProcessResult) -> list[dg.AssetKey]:
    return [event.asset_key for event in result.all_events if event.is_step_materialization and event.asset_key]


def test_the_data_version_is_the_sha256_of_the_answer(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    with listing(answer_body(rows(5))) as server:
        result = Pipeline(tmp_path, server, instance, ("main",)).run()
    sha256 = Pipeline.metadata(result, "raw_stop_list")["sha256"]
    for asset in ("raw_stop_list", "stop_snapshot", "stops"):
        (event,) = result.asset_materializations_for_node(asset)
        assert (event.tags or {})["dagster/data_version"] == sha256


def test_withheld_removals_fail_a_check_whose_sentence_tells_how_to_accept_them(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with listing(answer_body(rows(100)), answer_body(rows(30)), answer_body(rows(30))) as server:
        pipeline = Pipeline(tmp_path, server, instance, ("main",))
        pipeline.run()
        withheld = pipeline.run()
        check = pipeline.checks(withheld)["removals_plausible"]
        assert withheld.success
        assert not check.passed
        assert "ops.stops.config.accept_removals: 70" in (check.description or "")
        assert "stop-pipeline run --accept-removals 70 --account main" in (check.description or "")
        assert len(read_stops(tmp_path)) == 100

        accepted = pipeline.run(run_config={"ops": {"stops": {"config": {"accept_removals": 70}}}})
        assert pipeline.checks(accepted)["removals_plausible"].passed
        assert pipeline.metadata(accepted, "stops")["accepted_removals"] == 70
        assert len(read_stops(tmp_path)) == 30


def test_removals_from_an_answer_that_is_not_whole_are_not_offered_for_acceptance(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with listing(answer_body(rows(100)), answer_body(rows(99), nb_data=100)) as server:
        pipeline = Pipeline(tmp_path, server, instance, ("main",))
        pipeline.run()
        check = pipeline.checks(pipeline.run())["removals_plausible"]
    assert not check.passed
    assert "They cannot be accepted" in (check.description or "")
    assert "accept_removals" not in (check.description or "")


def test_an_answer_that_is_not_whole_fails_the_check_of_nb_data(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    with listing(answer_body(rows(3), nb_data=4)) as server:
        result = Pipeline(tmp_path, server, instance, ("main",)).run()
    assert {name for name, check in Pipeline.checks(result).items() if not check.passed} == {"nb_data_equals_rows"}


def test_a_foreign_list_fails_the_run_and_no_dagster_retry_repeats_it(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with listing(answer_body(rows(20)), answer_body(rows(20, first_id=500))) as server:
        pipeline = Pipeline(tmp_path, server, instance, ("main",))
        pipeline.run()
        with pytest.raises(ForeignListError):
            pipeline.run()
        assert len(server.requests) == 2


def test_every_asset_is_described_owned_grouped_and_versioned() -> None:
    specs = {spec.key.path[-1]: spec for spec in build_definitions(Settings()).resolve_all_asset_specs()}
    assert set(specs) == set(ASSETS)
    for name, spec in specs.items():
        assert spec.description
        assert len(spec.description) > 100, name
        assert (spec.group_name, spec.owners) == ("stop_list", ["team:compliance"])
        assert spec.kinds
        assert spec.code_version
    columns = specs["stops"].metadata["dagster/column_schema"]
    assert [column.name for column in columns.columns] == [*schema.STOPS.names, "account", "created_month"]
    assert all(column.description for column in columns.columns)


def test_a_single_account_has_no_partitions_and_several_have_one_each(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMSPARTNER_API_KEY_LYON", "key-of-lyon")
    assert all(spec.partitions_def is None for spec in build_definitions(Settings()).resolve_all_asset_specs())
    with listing(answer_body(rows(7)), answer_body(rows(9))) as server:
        pipeline = Pipeline(tmp_path, server, instance, ("main", "lyon"))
        for account in ("main", "lyon"):
            result = pipeline.run(partition_key=account)
            events = result.asset_materializations_for_node("stops")
            assert [(event.asset_key.path[-1], event.partition) for event in events] == [(a, account) for a in ASSETS]
    assert read_stops(tmp_path)["account"].value_counts().to_dict() == {"main": 7, "lyon": 9}


def test_an_account_without_a_key_fails_by_name(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    with listing(answer_body(rows(7))) as server:
        pipeline = Pipeline(tmp_path, server, instance, ("main", "lyon"))
        assert pipeline.run(partition_key="main").success
        with pytest.raises(ConfigurationError, match="SMSPARTNER_API_KEY_LYON"):
            pipeline.run(partition_key="lyon")


def _tick_of(settings: Settings, instance: dg.DagsterInstance) -> Any:
    definitions = build_definitions(settings)
    context = dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime(2026, 1, 1, 12, 15, tzinfo=UTC),
        repository_def=definitions.get_repository_def(),
    )
    return definitions.resolve_schedule_def("every_tick").evaluate_tick(context)


def test_the_schedule_asks_for_one_run(instance: dg.DagsterInstance) -> None:
    (request,) = _tick_of(Settings(), instance).run_requests
    assert request.partition_key is None


def test_the_schedule_skips_with_a_plain_reason_while_no_key_is_set(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMSPARTNER_API_KEY")
    tick = _tick_of(Settings(), instance)
    assert not tick.run_requests
    assert tick.skip_message == "No API key is set: set SMSPARTNER_API_KEY, then restart Dagster."


def test_the_schedule_runs_by_default_in_french_time() -> None:
    schedule = build_definitions(Settings(cron="5 * * * *")).resolve_schedule_def("every_tick")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("5 * * * *", "Europe/Paris")


def test_a_wrong_cron_expression_is_refused_by_the_name_of_its_variable() -> None:
    with pytest.raises(ConfigurationError, match="STOP_PIPELINE_CRON"):
        build_definitions(Settings(cron="every quarter"))


def test_the_key_is_a_reference_marked_secret() -> None:
    resource = (build_definitions(Settings()).resources or {})["sms_partner"]
    schema_of_fields: Any = type(resource).to_config_schema().as_field().config_type
    assert schema_of_fields.fields["api_keys"].is_secret
    assert "key-of-main" not in repr(resource)


@pytest.mark.parametrize(("doubled", "gone", "passed"), [(0, 0, True), (1, 0, False), (2, 1, False), (0, 1, True)])
def test_an_id_that_stands_twice_without_a_reason_fails_its_check(
    tmp_path: Path, doubled: int, gone: int, *, passed: bool
) -> None:
    ticker = Ticker(tmp_path)
    ticker.tick(rows(30))
    # What no tick does: rows that stand are written once more.
    month = ticker.store.tables.read_month("main", "2025-06")
    with ticker.store.locked("main"):
        periods = pa.concat_tables([month, month.slice(0, doubled)]).sort_by(
            [(name, "ascending") for name in STOPS_ORDER]
        )
        ticker.store.tables.write_months("main", ["2025-06"], lambda _: periods)

    applied = ticker.tick([*rows(30)[: 30 - gone], Row(99, created_at="2025-07-01 10:00:00")], nb_data=99)

    assert (applied.state.figures.doubled_open_ids, applied.counts.withheld) == (doubled, gone)
    assert {check.check_name: check.passed for check in checks.of_applied(applied, "main")}["open_ids_unique"] is passed
