"""When the pipeline ticks.

What belongs here: the job over all assets and its schedule. What does not: anything that a tick does.
"""

from collections.abc import Iterator

import dagster as dg

from stop_pipeline.defs.assets import GROUP
from stop_pipeline.errors import ConfigurationError
from stop_pipeline.settings import PROVIDER_TIMEZONE, Settings, key_variable

TICK_JOB = dg.define_asset_job(
    "tick",
    selection=dg.AssetSelection.groups(GROUP),
    description="One tick: fetch the list, parse it, bring it into the table, remake what is made from it.",
)


def tick_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Tick every account at the times of STOP_PIPELINE_CRON, in Europe/Paris; skip while no account has a key.

    Raises:
        ConfigurationError: STOP_PIPELINE_CRON is no cron expression.
    """

    def requests(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        variables = [key_variable(account) for account in settings.accounts]
        if not any(dg.EnvVar(variable).get_value() for variable in variables):
            yield dg.SkipReason(f"No API key is set: set {' or '.join(variables)}, then restart Dagster.")
            return
        time = context.scheduled_execution_time.isoformat()
        for account in settings.accounts:
            partition = account if len(settings.accounts) > 1 else None
            # The key makes a tick that the daemon evaluates twice one run.
            yield dg.RunRequest(run_key=f"{account} {time}", partition_key=partition)

    try:
        return dg.ScheduleDefinition(
            name="every_tick",
            job=TICK_JOB,
            cron_schedule=settings.cron,
            execution_timezone=PROVIDER_TIMEZONE,
            execution_fn=requests,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Ticks at the times of STOP_PIPELINE_CRON (Europe/Paris).",
        )
    except dg.DagsterInvalidDefinitionError:
        refused = f"STOP_PIPELINE_CRON is “{settings.cron}”, which is no cron expression such as */15 * * * *."
    raise ConfigurationError(refused)
