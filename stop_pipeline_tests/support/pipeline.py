"""The definitions on a Dagster instance, against a loopback server in place of SMS Partner."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from stop_pipeline.definitions import build_definitions
from stop_pipeline.settings import Settings
from stop_pipeline_tests.support.loopback import Exchange, Loopback, Script, reply, reply_json
from stop_pipeline_tests.support.syncing import response_body, rows

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
ASSETS = ["raw_stop_list", "stop_snapshot", "stops", "suppression_list", "stops_per_day"]
REFUSED = reply_json({"success": False, "code": 10, "message": "Clé API incorrecte"})


def listing(count: int, *, nb_data: int | None = None) -> Script:
    """A response with so many rows."""
    return reply(200, response_body(rows(count), nb_data=nb_data))


class Pipeline:
    """Syncs into one data root, run by Dagster in this process."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, server: Loopback, responses: list[Script]) -> None:
        self.root = root
        self.instance = instance
        self.server = server
        self.settings = Settings(base_url=server.base_url, data_root=str(root))
        self._responses = responses

    @classmethod
    @contextmanager
    def running(cls, root: Path, instance: dg.DagsterInstance) -> Iterator["Pipeline"]:
        """A pipeline whose server runs until the block ends."""
        responses: list[Script] = []

        def respond(exchange: Exchange) -> None:
            responses.pop(0)(exchange)

        with Loopback(respond) as server:
            yield cls(root, instance, server, responses)

    def sync(
        self,
        *responses: Script,
        account: str | None = None,
        tags: dict[str, str] | None = None,
        assets: Sequence[str] | None = None,
        **config: Any,
    ) -> dg.ExecuteInProcessResult:
        """Run the job once.

        Args:
            responses: What SMS Partner responds with, request by request.
            account: Account to sync; its partition.
            tags: Tags of the run, such as those of a range of partitions.
            assets: Those to make, by default all.
            config: Config of `stops`.
        """
        self._responses[:] = responses
        return (
            build_definitions(self.settings)
            .resolve_job_def("sync")
            .execute_in_process(
                QUIET | ({"ops": {"stops": {"config": config}}} if config else {}),
                instance=self.instance,
                partition_key=account,
                asset_selection=None if assets is None else [dg.AssetKey(name) for name in assets],
                tags=tags,
                raise_on_error=False,
            )
        )


def shown(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, dg.MetadataValue[Any]]:
    """The metadata of an asset that a run materialized."""
    events = (event for event in result.all_events if event.is_step_materialization)
    (made,) = (event.materialization for event in events if event.asset_key == dg.AssetKey(asset))
    return dict(made.metadata)


def values(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """The same, as plain values."""
    return {name: value.value for name, value in shown(result, asset).items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The results of the checks of a run of one account, by name."""
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def failed_checks(result: dg.ExecuteInProcessResult) -> set[str]:
    return {name for name, check in checks(result).items() if not check.passed}


def reason_of(result: dg.ExecuteInProcessResult) -> str:
    """Why the run failed, with the names of the exceptions."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    return str(event.step_failure_data.error_display_string)
