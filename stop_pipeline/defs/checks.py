"""What is checked after each sync, and the sentence that says what to do when a check fails.

No check blocks anything: additions go in whatever the checks find.
"""

from collections.abc import Iterable

import dagster as dg

from stop_pipeline.results import Derived, Fetched, Merged
from stop_pipeline.schema import STOPS
from stop_pipeline.table.store import Store, month_file


def _specs(asset: str, **descriptions: str) -> list[dg.AssetCheckSpec]:
    return [dg.AssetCheckSpec(name, asset=asset, description=text) for name, text in descriptions.items()]


OF_RAW_STOP_LIST = _specs(
    "raw_stop_list",
    fetched_in_order="The response was fetched later than the newest one kept. Fails if the clock was set back.",
)
OF_STOPS = _specs(
    "stops",
    open_ids_unique="No id is open twice, except while the end of an altered row is withheld.",
    no_nulls="Every row has an id, a phone number and its times, by the statistics of the files just written.",
    nb_data_equals_rows="The response is complete: code 200, and exactly nbData rows. Otherwise it removes nothing.",
    removals_plausible="No removal was withheld. Withheld rows stay in the table and on the suppression list.",
    nothing_rejected="Every row of the response is well-formed. Malformed rows are kept in rejected, with the reason.",
    applied_in_order="The response is later than the one merged before; an older one is left out.",
)
OF_SUPPRESSION_LIST = _specs(
    "suppression_list",
    numbers_readable="Every listed row contains a phone number. A row without one blocks nobody.",
)
_ONLY_WARN = {"fetched_in_order", "nothing_rejected", "applied_in_order", "numbers_readable"}


def of_fetched(fetched: Fetched) -> list[dg.AssetCheckResult]:
    """The checks of `raw_stop_list`."""
    return [
        _result(
            "fetched_in_order",
            passed=fetched.in_order,
            advice="The response is not later than the newest one kept, and was left out: check this machine's clock.",
        )
    ]


def of_merged(merged: Merged, store: Store, account: str) -> list[dg.AssetCheckResult]:
    """The checks of `stops`."""
    info, state = merged.info, merged.state
    withheld = state.counts.withheld
    listed = state.rows - state.rejected - state.duplicates
    doubled = state.doubled_open_ids if withheld else state.open_rows - listed
    nulls = _nulls(store, account, (month for month in merged.months_written if month in state.months))
    return [
        _result(
            "open_ids_unique",
            passed=doubled <= withheld,
            advice="More ids are open twice than ends are withheld: restore the data root from a backup, data first, "
            "then state/, and report this.",
            doubled_open_ids=doubled,
        ),
        _result(
            "no_nulls",
            passed=nulls == 0,
            advice="A file holds nulls that this package never writes: restore the data root from a backup.",
            nulls=nulls,
        ),
        _result(
            "nb_data_equals_rows",
            passed=info.complete,
            advice="The response is not complete, so nothing was removed; what it lists was added. If this lasts, ask "
            "SMS Partner's support why nbData and the rows differ.",
            nb_data=_or_none(info.nb_data),
            rows=info.rows,
            code=_or_none(info.code),
        ),
        _result(
            "removals_plausible",
            passed=withheld == 0,
            advice=f"{_count(withheld, 'removal')} withheld: {state.withheld_because}. "
            f"{_how_to_accept(merged, account)}",
            withheld=withheld,
        ),
        _result(
            "nothing_rejected",
            passed=info.rejected == 0,
            advice=f"{_count(info.rejected, 'malformed row')} set aside: stop_pipeline.read_rejected() shows them. The "
            "phone numbers that they contain are on the suppression list all the same.",
            rejected=info.rejected,
        ),
        _result(
            "applied_in_order",
            passed=merged.outcome != "older",
            advice="The response is not later than the last one merged, and was left out: check this machine's clock. "
            "Responses are merged again after that time.",
        ),
    ]


def of_suppression_list(derived: Derived) -> list[dg.AssetCheckResult]:
    """The checks of `suppression_list`."""
    unreadable = derived.info.unreadable_rows
    return [
        _result(
            "numbers_readable",
            passed=unreadable == 0,
            advice=f"{unreadable:,} listed row{'s contain' if unreadable > 1 else ' contains'} no phone number and so "
            "cannot block anybody. They are the rows of stop_pipeline.read_stops() whose phone_number is not in E.164, "
            "and those of stop_pipeline.read_rejected() whose phone_number is null. Look them up in SMS Partner.",
            unreadable_rows=unreadable,
        )
    ]


def _nulls(store: Store, account: str, months: Iterable[str]) -> int:
    """Nulls in the columns of some files of `stops` that may hold none, as their footers tell."""
    required = {column.name for column in STOPS.columns if not column.nullable}

    def of_month(month: str) -> int:
        footer = store.files.footer(month_file(account, month))
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        columns = [group.column(number) for group in groups for number in range(footer.num_columns)]
        return sum(column.statistics.null_count for column in columns if column.path_in_schema in required)

    return sum(store.in_threads(of_month, months))


def _how_to_accept(merged: Merged, account: str) -> str:
    """What can be done about withheld removals: only a complete response may remove rows."""
    withheld = merged.state.counts.withheld
    if not merged.info.complete:
        return "They cannot be accepted: the next complete response decides."
    return (
        "Look at the list in SMS Partner. If they are right, accept them: materialize all assets with the run config "
        f"ops.stops.config.accept_removals: {withheld}, or run "
        f"“stop-pipeline run --accept-removals {withheld} --account {account}”."
    )


def _or_none(number: int | None) -> int | str:
    return "none" if number is None else number


def _count(number: int, what: str) -> str:
    return f"{number:,} {what} was" if number == 1 else f"{number:,} {what}s were"


def _result(name: str, *, passed: bool, advice: str, **figures: int | str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN if name in _ONLY_WARN else dg.AssetCheckSeverity.ERROR,
        description=None if passed else advice,
        metadata=figures,
    )
