"""What is checked after each tick, and the sentence that says what to do when a check fails.

What belongs here: the checks' names, severities and sentences. What does not: the figures (`engine`). No check blocks:
additions go in whatever the checks find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:  # showing the definitions takes no tick
    from stop_pipeline.tick import Applied, Fetched

FETCHED_IN_ORDER = dg.AssetCheckSpec(
    "fetched_in_order",
    asset="raw_stop_list",
    description="The answer was fetched later than the newest one landed. Fails if this machine's clock was set back.",
)
OPEN_IDS_UNIQUE = dg.AssetCheckSpec(
    "open_ids_unique",
    asset="stops",
    description="No id stands twice, but while the end of an altered row is withheld.",
)
NO_NULLS = dg.AssetCheckSpec(
    "no_nulls",
    asset="stops",
    description="Every row has an id, a phone number and a time, as the files' statistics tell.",
)
NB_DATA_EQUALS_ROWS = dg.AssetCheckSpec(
    "nb_data_equals_rows",
    asset="stops",
    description="The answer was proven whole: code 200, and as many rows as its nbData. Otherwise it removes nothing.",
)
REMOVALS_PLAUSIBLE = dg.AssetCheckSpec(
    "removals_plausible",
    asset="stops",
    description="No removal was withheld. Withheld rows stay in the table and in the suppression list.",
)
NOTHING_REJECTED = dg.AssetCheckSpec(
    "nothing_rejected",
    asset="stops",
    description="Every row of the answer could be read. Malformed ones are kept in rejected, with the reason.",
)
APPLIED_IN_ORDER = dg.AssetCheckSpec(
    "applied_in_order",
    asset="stops",
    description="The answer is later than the one applied before; an older one is left out.",
)

OF_RAW_STOP_LIST = [FETCHED_IN_ORDER]
OF_STOPS = [OPEN_IDS_UNIQUE, NO_NULLS, NB_DATA_EQUALS_ROWS, REMOVALS_PLAUSIBLE, NOTHING_REJECTED, APPLIED_IN_ORDER]


def of_fetched(fetched: Fetched) -> list[dg.AssetCheckResult]:
    """The checks of `raw_stop_list`."""
    return [
        _result(
            FETCHED_IN_ORDER,
            passed=fetched.in_order,
            advice="The answer is no later than the newest one landed, and was left out: look at this machine's clock.",
            severity=dg.AssetCheckSeverity.WARN,
        )
    ]


def of_applied(applied: Applied, account: str) -> list[dg.AssetCheckResult]:
    """The checks of `stops`."""
    info, state = applied.info, applied.state
    withheld = state.counts.withheld
    return [
        _result(
            OPEN_IDS_UNIQUE,
            passed=state.figures.doubled_open_ids <= withheld,
            advice="More ids stand twice than ends are withheld: restore the data root from a backup, data first, then "
            "state/, and report this.",
            doubled_open_ids=state.figures.doubled_open_ids,
        ),
        _result(
            NO_NULLS,
            passed=state.figures.nulls == 0,
            advice="A file holds nulls that this package never writes: restore the data root from a backup.",
            nulls=state.figures.nulls,
        ),
        _result(
            NB_DATA_EQUALS_ROWS,
            passed=info.whole,
            advice="The answer is not proven whole, so nothing was removed; what it lists was added. If this lasts, "
            "ask SMS Partner's support why nbData and the rows differ.",
            nb_data="none" if info.nb_data is None else info.nb_data,
            rows=info.rows,
            code="none" if info.code is None else info.code,
        ),
        _result(
            REMOVALS_PLAUSIBLE,
            passed=withheld == 0,
            advice=f"{withheld:,} removals were withheld: {state.withheld_because}. {_how_to_accept(applied, account)}",
            withheld=withheld,
        ),
        _result(
            NOTHING_REJECTED,
            passed=info.rejected == 0,
            advice="Rows could not be read and were set aside: look at them with stop_pipeline.read_rejected(). "
            "Numbers that they bear are in suppression_list all the same.",
            severity=dg.AssetCheckSeverity.WARN,
            rejected=info.rejected,
        ),
        _result(
            APPLIED_IN_ORDER,
            passed=applied.outcome != "older",
            advice="The answer is no later than the one applied, and was left out: look at this machine's clock; the "
            "next tick after that time applies again.",
            severity=dg.AssetCheckSeverity.WARN,
        ),
    ]


def _how_to_accept(applied: Applied, account: str) -> str:
    """What can be done about removals that were withheld: only an answer proven whole takes any away."""
    withheld = applied.state.counts.withheld
    if not applied.info.whole:
        return "They cannot be accepted: the next answer that is whole decides."
    return (
        "Look at the list in SMS Partner; if they are right, accept them in a tick of all assets with the run config "
        f"ops.stops.config.accept_removals: {withheld}, or with "
        f"“stop-pipeline run --accept-removals {withheld} --account {account}”."
    )


def _result(
    spec: dg.AssetCheckSpec,
    *,
    passed: bool,
    advice: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    **figures: int | str,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=spec.name,
        passed=passed,
        severity=severity,
        description=None if passed else advice,
        metadata=figures,
    )
