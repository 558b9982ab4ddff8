"""Accounts as Dagster partitions.

What belongs here: how several accounts become partitions, and the op that ticks those of a run. What does not: what a
tick of an account does (`assets`), and when it is due (`schedules`).

One account: five assets, unpartitioned, each an op of its own, one click. Several: the same five assets with a static
partition for each account, made by one op, because a run may tick many accounts and one that fails must not stop the
others. Dagster cannot fail one partition of an op and go on: what the op gives out stands for every partition of the
run, and while it gives nothing out no later op starts (dagster-io/dagster, issues 17836 and 21072). An op that need
give nothing out can report each partition by itself, though; a partition that was planned, and not reported when the
run failed, is shown as failed, which is what it is.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import dagster as dg

from stop_pipeline.defs.assets import StopsConfig, stops
from stop_pipeline.defs.resources import SmsPartnerResource, StoreResource
from stop_pipeline.errors import ConfigurationError, StopPipelineError
from stop_pipeline.settings import Settings

log = logging.getLogger(__name__)

Reported = dg.AssetMaterialization | dg.AssetCheckEvaluation


def partitioned_by_account(assets: Sequence[dg.AssetsDefinition], settings: Settings) -> Sequence[dg.AssetsDefinition]:
    """The assets with a partition for each account, or as they are for a single one.

    Args:
        assets: Those of one account, in the order in which a tick makes them.
        settings: Which accounts there are, and how many of them one run of a backfill ticks.
    """
    if len(settings.accounts) == 1:
        return assets
    partitions = dg.StaticPartitionsDefinition(list(settings.accounts))

    @dg.multi_asset(
        # The op of one account that takes a person's word for removals: the run config is the same for several.
        name=stops.op.name,
        specs=[
            spec.replace_attributes(partitions_def=partitions, skippable=True)
            for asset in assets
            for spec in asset.specs
        ],
        # A check that is not partitioned would show only how the account that was ticked last fared.
        check_specs=[spec._replace(partitions_def=partitions) for asset in assets for spec in asset.check_specs],
        can_subset=True,
        # No pool: it would make accounts wait for each other. `dagster.yaml` allows one run at a time per partition.
        backfill_policy=dg.BackfillPolicy.multi_run(settings.accounts_per_run),
    )
    def tick_accounts(
        context: dg.AssetExecutionContext, config: StopsConfig, sms_partner: SmsPartnerResource, store: StoreResource
    ) -> Iterator[Reported]:
        """Tick the accounts of the run one after the other; one that fails stops none of the others."""
        accounts = context.partition_keys
        if config.accept_removals is not None and len(accounts) > 1:
            raise ConfigurationError("accept_removals is about one account: start a run of its partition alone.")
        selected = [asset for asset in assets if asset.key in context.selected_asset_keys]
        resources = {"sms_partner": sms_partner, "store": store}
        failures: dict[str, Exception] = {}
        for account in accounts:
            log.info("Account %s: its tick begins", account)
            try:
                yield from _tick(context, account, selected, config, resources)
            except Exception as error:
                # A line of its own among the run's events. A traceback could hold what it was about.
                context.log.error("Account %s: %s", account, _sentence(error))  # noqa: TRY400
                if len(accounts) == 1:
                    raise
                failures[account] = error
        if failures:
            raise dg.Failure(
                f"{len(failures):,} of {len(accounts):,} accounts failed, the others are done. "
                + " ".join(f"Account {account}: {_sentence(error)}" for account, error in failures.items()),
                metadata={account: _sentence(error) for account, error in failures.items()},
            )

    return [tick_accounts]


def _tick(
    context: dg.AssetExecutionContext,
    account: str,
    assets: Sequence[dg.AssetsDefinition],
    config: StopsConfig,
    resources: Mapping[str, object],
) -> Iterator[Reported]:
    """Make each asset for one account, and report it with its checks as of that partition."""
    for asset in assets:
        with dg.build_asset_context(resources, partition_key=account, instance=context.instance) as of_account:
            of_account.log.setLevel(logging.CRITICAL)  # it is of no run, and would write to the console
            made = asset(of_account, config=config) if asset is stops else asset(of_account)
        result = cast(dg.MaterializeResult[None], made)
        yield dg.AssetMaterialization(
            asset.key,
            partition=account,
            metadata=result.metadata,
            tags=result.data_version and {"dagster/data_version": result.data_version.value},
        )
        for check in result.check_results:
            yield dg.AssetCheckEvaluation(
                asset_key=asset.key,
                check_name=str(check.check_name),
                passed=check.passed,
                severity=check.severity,
                description=check.description,
                metadata=check.metadata,
                partition=account,
            )


def _sentence(error: Exception) -> str:
    if isinstance(error, StopPipelineError):
        return str(error)
    return f"{type(error).__name__}, which nobody foresaw; a run of its partition alone tells more."
