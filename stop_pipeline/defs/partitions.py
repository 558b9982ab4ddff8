"""Accounts as Dagster partitions.

What belongs here: how many partitions the assets have. One account: no partitions, so
that one click materialises everything. Several: one static partition each, so that a run launcher spreads them.
"""

from collections.abc import Sequence

import dagster as dg


def account_partitions(accounts: Sequence[str]) -> dg.StaticPartitionsDefinition | None:
    """A partition for each account; None for a single one."""
    return dg.StaticPartitionsDefinition(list(accounts)) if len(accounts) > 1 else None


def partitioned_by_account(
    assets: Sequence[dg.AssetsDefinition], accounts: Sequence[str]
) -> Sequence[dg.AssetsDefinition]:
    """The assets with a partition for each account, or as they are for a single one."""
    partitions = account_partitions(accounts)
    if partitions is None:
        return assets
    return [asset.map_asset_specs(lambda spec: spec.replace_attributes(partitions_def=partitions)) for asset in assets]
