"""What Dagster loads: one explicit `Definitions`, named by `workspace.yaml`.

It loads without an API key. A wrong setting is refused with a sentence that names its variable. Another Dagster project
merges `build_definitions(Settings.from_environment())` with its own definitions; a job of its own that makes these
assets needs the tag `schedules.SYNC_TAG`, by which alerts and the clean-up know it.
"""

import dagster as dg

from stop_pipeline.defs.alerts import alert_sensor
from stop_pipeline.defs.assets import ASSETS
from stop_pipeline.defs.partitions import partitioned_by_account
from stop_pipeline.defs.resources import build_resources
from stop_pipeline.defs.schedules import SYNC_JOB, history_schedule, sync_schedule
from stop_pipeline.settings import Settings


def build_definitions(settings: Settings) -> dg.Definitions:
    """The definitions for some settings; a ConfigurationError says that one of them is wrong."""
    return dg.Definitions(
        assets=partitioned_by_account(ASSETS, settings),
        jobs=[SYNC_JOB],
        schedules=[sync_schedule(settings), history_schedule(settings)],
        sensors=[alert_sensor(settings)],
        resources=build_resources(settings),
    )


defs = dg.Definitions.merge(
    build_definitions(Settings.from_environment()),
    # Not above, where it would replace the executor of a project that merges these definitions with its own.
    dg.Definitions(executor=dg.in_process_executor),
)
