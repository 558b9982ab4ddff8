"""Accounts as Dagster partitions, and the op that syncs several accounts in one run.

With one account there are five unpartitioned assets, each an op of its own. With several accounts the same five assets
have a static partition for each account, and one op makes them all, because a run may sync many accounts and one that
fails must not stop the others. Dagster cannot fail one partition of an op and go on: an output of the op stands for
every partition of the run, and without the output no later op starts (dagster-io/dagster, issues 17836 and 21072). But
an op whose outputs are optional can report each partition by itself, and Dagster shows a partition as failed that was
planned and not reported when the run failed. For such a run, however, Dagster does not separate the results of a check
by partition; so the run of one account returns outputs, as the single account's does.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import dagster as dg

from stop_pipeline.defs.resources import SmsPartnerResource, StopsConfig, StoreResource
from stop_pipeline.errors import unexpected
from stop_pipeline.schema import STOPS
from stop_pipeline.settings import Settings
from stop_pipeline.table.reading import DEFAULT_MAX_AGE

log = logging.getLogger(__name__)

_EACH_ACCOUNT = "This page is about the account synced last; “Partitions” shows the result of each account."

Reported = dg.MaterializeResult[None] | dg.AssetMaterialization | dg.AssetCheckEvaluation


def partitioned_by_account(assets: Sequence[dg.AssetsDefinition], settings: Settings) -> Sequence[dg.AssetsDefinition]:
    """The assets, in the order of a sync, with a partition for each account.

    With a single account they have no partitions, and `stops` has a freshness policy.
    """
    if len(settings.accounts) == 1:
        return [_with_freshness(asset, settings) if asset.key == dg.AssetKey(STOPS.name) else asset for asset in assets]
    partitions, per_run = dg.StaticPartitionsDefinition(list(settings.accounts)), settings.accounts_per_run

    @dg.multi_asset(
        # Named as the op that takes `accept_removals` with a single account, so that its run config is the same.
        name=STOPS.name,
        specs=[
            spec.replace_attributes(partitions_def=partitions, skippable=True)
            for asset in assets
            for spec in asset.specs
        ],
        # A check without partitions would only show the account that was synced last.
        check_specs=[
            spec._replace(partitions_def=partitions, description=f"{spec.description} {_EACH_ACCOUNT}")
            for asset in assets
            for spec in asset.check_specs
        ],
        can_subset=True,
        # Of a run over a range, even of one account, Dagster does not keep the check results of each partition.
        backfill_policy=dg.BackfillPolicy.multi_run(per_run) if per_run > 1 else None,
    )
    def sync_accounts(
        context: dg.AssetExecutionContext, config: StopsConfig, sms_partner: SmsPartnerResource, store: StoreResource
    ) -> Iterator[Reported]:
        """Sync the accounts of the run one after the other; one that fails does not stop the others."""
        accounts = _accounts_to_sync(context, config)
        selected = [asset for asset in assets if asset.key in context.selected_asset_keys]
        resources = {"sms_partner": sms_partner, "store": store}
        failures: dict[str, str] = {}
        for account in accounts:
            log.info("Account %s: the sync begins", account)
            try:
                yield from _sync(context, account, selected, config, resources)
            except Exception as error:
                failures[account] = (isinstance(error, dg.Failure) and error.description) or unexpected(error)
                # Without the traceback, which could hold the data that the error is about.
                context.log.error("Account %s: %s", account, failures[account])  # noqa: TRY400
                if len(accounts) == 1:
                    raise
        if failures:
            raise dg.Failure(
                f"{len(failures):,} of {len(accounts):,} accounts failed; the others are done. "
                + " ".join(f"Account {account}: {reason}" for account, reason in failures.items()),
                metadata=failures,
            )

    return [sync_accounts]


def _with_freshness(asset: dg.AssetsDefinition, settings: Settings) -> dg.AssetsDefinition:
    """The asset, which is to be as fresh as alerts want it. Of several accounts, any one would pass for all."""
    warn_after = settings.alert_after
    policy = dg.FreshnessPolicy.time_window(max(2 * warn_after, DEFAULT_MAX_AGE), warn_after)
    return asset.map_asset_specs(lambda spec: spec.replace_attributes(freshness_policy=policy))


def _accounts_to_sync(context: dg.AssetExecutionContext, config: StopsConfig) -> Sequence[str]:
    """The accounts of a run; a Failure says why it must not be run."""
    if not context.has_partition_key and not context.has_partition_key_range:
        raise dg.Failure("Each account is a partition, and none was chosen: materialize the partition of an account.")
    if not context.selected_asset_keys:
        raise dg.Failure("A check runs only with its asset: materialize the asset.")
    accounts: Sequence[str] = context.partition_keys
    if not accounts:
        raise dg.Failure("The order of the accounts has changed, and this run covers none now: start a new one.")
    if config.accept_removals is not None and (len(accounts) > 1 or "dagster/backfill" in context.run.tags):
        raise dg.Failure("accept_removals is for one account: start a run of its partition alone, not a backfill.")
    return accounts


def _sync(
    context: dg.AssetExecutionContext,
    account: str,
    assets: Sequence[dg.AssetsDefinition],
    config: StopsConfig,
    resources: Mapping[str, object],
) -> Iterator[Reported]:
    """Make each asset for one account, and report it and its checks for that partition."""
    for asset in assets:
        with dg.build_asset_context(resources, partition_key=account, instance=context.instance) as of_account:
            of_account.log.setLevel(logging.CRITICAL)  # it belongs to no run, and would write to the console
            made = asset(of_account, config=config) if asset.key == dg.AssetKey(STOPS.name) else asset(of_account)
        result = cast(dg.MaterializeResult[None], made)
        # As the count of the asset, Dagster would show that of the account synced last.
        metadata = {
            name.replace("dagster/row_count", "row_count"): value for name, value in (result.metadata or {}).items()
        }
        if context.has_partition_key:
            checked = [check._replace(asset_key=asset.key) for check in result.check_results]
            yield result._replace(asset_key=asset.key, check_results=checked, metadata=metadata)
            continue
        yield dg.AssetMaterialization(
            asset.key,
            partition=account,
            metadata=metadata,
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
