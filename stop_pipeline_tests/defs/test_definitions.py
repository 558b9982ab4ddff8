"""What Dagster loads: definitions that need no environment, and pages that say where columns come from."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from stop_pipeline import schema
from stop_pipeline.definitions import build_definitions, defs
from stop_pipeline.errors import ConfigurationError
from stop_pipeline.settings import Settings
from stop_pipeline_tests.support.commands import clean_environment
from stop_pipeline_tests.support.pipeline import ASSETS, Pipeline, listing, reason_of

REPOSITORY = Path(__file__).parent.parent.parent
TABLES: dict[str, tuple[schema.TableSchema, tuple[schema.Column, ...]]] = {
    "raw_stop_list": (schema.RAW_STOP_LIST, ()),
    "stop_snapshot": (schema.STOP_SNAPSHOT, ()),
    "stops": (schema.STOPS, (schema.ACCOUNT, schema.CREATED_MONTH)),
    "suppression_list": (schema.SUPPRESSION_LIST, (schema.ACCOUNT,)),
    "stops_per_day": (schema.STOPS_PER_DAY, (schema.ACCOUNT,)),
}
FROM_NO_COLUMN = {"first_seen_at", "removed_at", "account", "origin"}


def test_definitions_load_without_any_environment() -> None:
    code = "from stop_pipeline.definitions import defs; print(len(list(defs.assets)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={}, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr


def test_another_project_that_merges_these_definitions_keeps_its_own_executor() -> None:
    @dg.job
    def payroll() -> None: ...

    other = dg.Definitions(jobs=[payroll], executor=dg.multiprocess_executor)
    merged = dg.Definitions.merge(other, build_definitions(Settings()))
    executors = {job.name: job.executor_def.name for job in merged.resolve_all_job_defs()}
    assert executors["payroll"] == "multiprocess"
    assert executors["sync"] == executors["forget_history"] == "in_process"
    assert {job.executor_def.name for job in defs.resolve_all_job_defs()} == {"in_process"}


@pytest.mark.slow
def test_the_workspace_is_valid_from_a_clone() -> None:
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "All code locations passed validation" in done.stderr + done.stdout


def test_every_asset_is_described_owned_grouped_and_versioned() -> None:
    specs = {spec.key.path[-1]: spec for spec in build_definitions(Settings()).resolve_all_asset_specs()}
    assert set(specs) == set(ASSETS)
    for name, spec in specs.items():
        assert spec.description
        assert len(spec.description) > 100, name
        assert (spec.group_name, spec.owners) == ("stop_list", ["team:compliance"])
        assert spec.kinds
        assert spec.code_version


def test_every_column_says_from_which_existing_upstream_column_it_is_made() -> None:
    specs = {spec.key.path[-1]: spec for spec in build_definitions(Settings()).resolve_all_asset_specs()}
    columns = {name: [*(column.name for column in (*table.columns, *keys))] for name, (table, keys) in TABLES.items()}
    assert schema.LINEAGE.keys() < specs.keys() == TABLES.keys()

    def upstream(name: str) -> set[str]:
        above = {dep.asset_key.path[-1] for dep in specs[name].deps}
        return above.union(*map(upstream, above))

    for name, spec in specs.items():
        shown = {column.name: column for column in spec.metadata["dagster/column_schema"].columns}
        assert [*shown] == columns[name]
        assert all(column.description for column in shown.values())
        lineage = spec.metadata["dagster/column_lineage"].deps_by_column
        if name != "raw_stop_list":
            assert shown.keys() - lineage.keys() <= FROM_NO_COLUMN
        assert set(lineage) <= shown.keys()
        for column, sources in lineage.items():
            for source in sources:
                upstream_name = source.asset_key.path[-1]
                assert upstream_name in upstream(name)
                assert source.column_name in columns[upstream_name]
                assert f"`{upstream_name}.{source.column_name}`" in (shown[column].description or "")


def test_no_key_passes_through_dagsters_configuration(pipeline: Pipeline) -> None:
    definitions = build_definitions(pipeline.settings)
    config: Any = [vars(resource) for resource in (definitions.resources or {}).values()]
    assert "key-of-main" not in repr(config)
    result = pipeline.sync(listing(3))
    assert result.success
    assert "key-of-main" not in "".join(map(repr, pipeline.instance.all_logs(result.run_id)))
    assert pipeline.server.requests[0].query["apiKey"] == "key-of-main"


def test_an_account_without_a_key_fails_with_the_name_of_its_variable(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMSPARTNER_API_KEY")
    assert "SMSPARTNER_API_KEY is not set" in reason_of(pipeline.sync())


def test_a_wrong_cron_expression_is_refused_by_the_name_of_its_variable() -> None:
    with pytest.raises(ConfigurationError, match="STOP_PIPELINE_CRON"):
        build_definitions(Settings(cron="every quarter"))


@pytest.mark.parametrize("file", ["dagster.yaml", "fleet/dagster.yaml"])
def test_the_instances_that_come_with_the_package_are_ones_that_dagster_accepts(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (REPOSITORY / "stop_pipeline" / file).read_text()
    assert "_core" not in text
    # The fleet's history is in PostgreSQL, which the tests of the cluster start.
    lines = text.split("storage:\n  postgres:\n    postgres_url:\n      env: DAGSTER_POSTGRES_URL\n")
    (tmp_path / "dagster.yaml").write_text("".join(lines))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.compute_log_manager).__name__ == "NoOpComputeLogManager"
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
