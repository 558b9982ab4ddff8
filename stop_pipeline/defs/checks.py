"""What is checked after each sync, and the sentence that says what to do when a check fails.

No check blocks anything: additions go in whatever the checks find.
"""

import dagster as dg

from stop_pipeline.errors import WRONG_CLOCK, counted
from stop_pipeline.results import Derived, Fetched, Merged
from stop_pipeline.schema import STOPS
from stop_pipeline.table.state import SUCCESS_CODE
from stop_pipeline.table.store import Store, month_file

_CHECKS = {
    "raw_stop_list": {
        "fetched_in_order": "Passes if the response was fetched later than the newest one kept. Fails if the clock was "
        "set back.",
    },
    "stops": {
        "open_ids_unique": "Passes if no id is open twice, except while the end of an altered row is withheld.",
        "no_nulls": "Passes if every row has an id, a phone number and its times, according to the statistics of the "
        "files just written.",
        "nb_data_equals_rows": "Passes if the response is complete: code 200, and exactly nbData rows. An "
        "incomplete response removes nothing.",
        "removals_plausible": "Passes if no removal was withheld. Withheld rows stay in the table and on the "
        "suppression list.",
        "nothing_rejected": "Passes if every row of the response is well-formed. Malformed rows are kept in rejected, "
        "with the reason.",
        "applied_in_order": "Passes if the response is later than the one merged before; an older one is left out.",
    },
    "suppression_list": {
        "numbers_readable": "Passes if every listed row contains a phone number. A row without one blocks nobody.",
    },
}
"""The checks of each asset, and what they are about."""

_NOT_LATER = f"The response is not later than the newest one {{}}, so it was left out, {WRONG_CLOCK}"


def specs_of(asset: str) -> list[dg.AssetCheckSpec]:
    """The checks of an asset, as Dagster plans them."""
    checks = _CHECKS.get(asset, {})
    # Dagster calls a check failed that was never reached.
    not_reached = "“Execution failed” means that the sync ended before it reached this check: look at the run."
    return [
        dg.AssetCheckSpec(name, asset=asset, description=f"{about} {not_reached}") for name, about in checks.items()
    ]


def of_fetched(fetched: Fetched) -> list[dg.AssetCheckResult]:
    """The checks of `raw_stop_list`."""
    return [_result("fetched_in_order", _NOT_LATER.format("kept"), passed=fetched.in_order)]


def of_merged(merged: Merged, store: Store, account: str) -> list[dg.AssetCheckResult]:
    """The checks of `stops`."""
    info, state = merged.info, merged.state
    withheld = state.counts.withheld
    listed = state.rows - state.rejected - state.duplicates
    doubled = state.doubled_open_ids if withheld else state.open_rows - listed
    nulls = _nulls(merged, store, account)
    nb_data, code = ("none" if number is None else number for number in (info.nb_data, info.code))
    return [
        _result(
            "open_ids_unique",
            "Some ids have two open rows, and no withheld removal explains it: restore the data root from a backup, "
            "data first, then state/, and report this.",
            passed=doubled <= withheld,
            doubled_open_ids=doubled,
        ),
        _result(
            "no_nulls",
            "A file holds nulls that this package never writes: restore the data root from a backup.",
            passed=nulls == 0,
            nulls=nulls,
        ),
        _result(
            "nb_data_equals_rows",
            "The response is not complete, so nothing was removed; what it lists was added. It has code "
            f"{code}, nbData {nb_data} and {counted(info.rows, 'row')}, but needs code {SUCCESS_CODE} and as many rows "
            "as nbData says. If this lasts, ask SMS Partner's support about it.",
            passed=info.complete,
            nb_data=nb_data,
            rows=info.rows,
            code=code,
        ),
        _result("removals_plausible", _what_was_withheld(merged, account), passed=withheld == 0, withheld=withheld),
        _result(
            "nothing_rejected",
            f"{_there_were(info.rejected, 'malformed row')} set aside: stop_pipeline.read_rejected() shows them. The "
            "phone numbers that can be read in them are on the suppression list all the same.",
            passed=info.rejected == 0,
            warns=True,
            rejected=info.rejected,
        ),
        _result(
            "applied_in_order",
            _NOT_LATER.format("merged"),
            passed=merged.outcome != "older",
        ),
    ]


def of_suppression_list(derived: Derived) -> list[dg.AssetCheckResult]:
    """The checks of `suppression_list`."""
    rows = derived.info.unreadable_rows
    advice = (
        f"{counted(rows, 'listed row')} {'contains' if rows == 1 else 'contain'} no phone number and so cannot block "
        "anybody. Look among the rows of stop_pipeline.read_stops() whose phone_number is not in E.164, and those of "
        "stop_pipeline.read_rejected() whose phone_number is null, and look them up in SMS Partner."
    )
    return [_result("numbers_readable", advice, passed=rows == 0, warns=True, unreadable_rows=rows)]


def _result(name: str, advice: str, *, passed: bool, warns: bool = False, **figures: int | str) -> dg.AssetCheckResult:
    """A result; `advice` says what is wrong if the check fails, and what to do."""
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
        description=None if passed else advice,
        metadata=figures,
    )


def _nulls(merged: Merged, store: Store, account: str) -> int:
    """Number of nulls in the required columns of `stops`, from the footers of the files just written."""
    required = {column.name for column in STOPS.columns if not column.nullable}

    def of_month(month: str) -> int:
        name = month_file(account, month)
        with store.files.reading(name):
            footer = store.files.footer(name)
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        columns = [group.column(number) for group in groups for number in range(footer.num_columns)]
        return sum(column.statistics.null_count for column in columns if column.path_in_schema in required)

    return sum(store.in_threads(of_month, [month for month in merged.months_written if month in merged.state.months]))


def _what_was_withheld(merged: Merged, account: str) -> str:
    """How many removals were withheld, why, and what can be done: only a complete response may remove rows."""
    withheld = merged.state.counts.withheld
    how_to_accept = (
        "Look at the list in SMS Partner. If they are right, accept them: materialize all assets (with several "
        f"accounts, the partition of this one) with the run config {{ops: {{stops: {{config: {{accept_removals: "
        f"{withheld}}}}}}}}}, or run “stop-pipeline run --accept-removals {withheld} --account {account}”."
        if merged.info.complete
        else "They cannot be accepted: the next complete response decides."
    )
    return f"{_there_were(withheld, 'removal')} withheld: {merged.state.withheld_because}. {how_to_accept}"


def _there_were(number: int, what: str) -> str:
    return f"{counted(number, what)} {'was' if number == 1 else 'were'}"
