"""Three assets that do nothing, for Dagster to run as it does by default: each step in a process of its own."""

import dagster as dg


@dg.asset
def first() -> None:
    """Nothing."""


@dg.asset(deps=[first])
def second() -> None:
    """Nothing."""


@dg.asset(deps=[second])
def third() -> None:
    """Nothing."""


defs = dg.Definitions(assets=[first, second, third])
