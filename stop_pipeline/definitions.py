"""What Dagster loads: one explicit `Definitions`, named by `workspace.yaml`.

What belongs here: which assets, job, schedules, sensor and resources there are. What does not: any of them. It loads
without an API key; a wrong setting is refused here, by a sentence that names its variable.
"""

import dagster as dg

from stop_pipeline.defs.alerts import alert_sensor
from stop_pipeline.defs.assets import ASSETS
from stop_pipeline.defs.history import history_schedule
from stop_pipeline.defs.partitions import partitioned_by_account
from stop_pipeline.defs.resources import build_resources
from stop_pipeline.defs.schedules import TICK_JOB, tick_schedule
from stop_pipeline.settings import Settings


def build_definitions(settings: Settings) -> dg.Definitions:
    """The definitions that these settings ask for.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    return dg.Definitions(
        assets=partitioned_by_account(ASSETS, settings),
        jobs=[TICK_JOB],
        schedules=[tick_schedule(settings), history_schedule(settings)],
        sensors=[alert_sensor(settings)],
        resources=build_resources(settings),
        # A process for each step would spend seconds on imports for milliseconds of work.
        executor=dg.in_process_executor,
    )


defs = build_definitions(Settings.from_environment())
