"""The checks: what makes each fail, and the sentence that says what to do."""

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped] # of Dagster

from stop_pipeline.defs import checks
from stop_pipeline.schema import STOPS
from stop_pipeline.table.periods import STOPS_ORDER
from stop_pipeline.table.store import month_file
from stop_pipeline_tests.support.loopback import reply
from stop_pipeline_tests.support.pipeline import ASSETS, Pipeline, failed_checks, listing
from stop_pipeline_tests.support.pipeline import checks as checks_of
from stop_pipeline_tests.support.syncing import Row, Syncer, response_body, rows


def test_all_checks_pass_after_a_sync_without_surprises(pipeline: Pipeline) -> None:
    result = pipeline.sync(listing(100))
    assert len(checks_of(result)) == sum(len(checks.specs_of(asset)) for asset in ASSETS) == 8
    assert failed_checks(result) == set()


def test_withheld_removals_say_how_many_rows_vanished_or_were_altered_and_how_to_accept_them(
    pipeline: Pipeline,
) -> None:
    pipeline.sync(listing(100))
    altered = [Row(i, f"+3363998{9000 + i}", "2025-06-01 12:00:00") for i in range(1, 11)]
    result = pipeline.sync(reply(200, response_body([*altered, *rows(30, first_id=11)])))
    assert result.success
    assert failed_checks(result) == {"removals_plausible"}
    advice = checks_of(result)["removals_plausible"].description or ""
    assert advice.startswith("70 removals were withheld: 60 rows no longer listed and 10 rows altered, more than the ")
    config = yaml.safe_load(advice.split("with the run config ")[1].split(", or run")[0])
    assert config == {"ops": {"stops": {"config": {"accept_removals": 70}}}}
    again = reply(200, response_body([*altered, *rows(30, first_id=11)]))
    assert failed_checks(pipeline.sync(again, **config["ops"]["stops"]["config"])) == set()
    assert "stop-pipeline run --accept-removals 70 --account main" in advice


def test_removals_from_an_incomplete_response_are_not_offered_for_acceptance(pipeline: Pipeline) -> None:
    pipeline.sync(listing(100))
    result = pipeline.sync(listing(99, nb_data=100))
    advice = checks_of(result)["removals_plausible"].description or ""
    assert advice.startswith("1 removal was withheld")
    assert "They cannot be accepted" in advice
    assert "accept_removals" not in advice


def test_an_incomplete_response_fails_the_check_of_nb_data(pipeline: Pipeline) -> None:
    result = pipeline.sync(listing(3, nb_data=4))
    assert failed_checks(result) == {"nb_data_equals_rows"}
    advice = checks_of(result)["nb_data_equals_rows"].description or ""
    assert "It has code 200, nbData 4 and 3 rows, but needs code 200 and as many rows as nbData says." in advice


def test_listed_rows_without_a_phone_number_are_counted_and_where_they_are_is_said(pipeline: Pipeline) -> None:
    malformed = {"id": 78, "phoneNumber": None, "createdAt": "2025-06-01 10:00:00"}
    result = pipeline.sync(reply(200, response_body([*rows(5), Row(77, "unknown"), malformed])))
    assert failed_checks(result) == {"nothing_rejected", "numbers_readable"}
    check = checks_of(result)["numbers_readable"]
    assert check.metadata["unreadable_rows"].value == 2
    assert (check.description or "").startswith("2 listed rows contain no phone number and so cannot block anybody.")
    assert "read_stops()" in (check.description or "")
    assert failed_checks(pipeline.sync(listing(5))) == set()


@pytest.mark.parametrize(("doubled", "gone", "passed"), [(0, 0, True), (1, 0, False), (2, 1, False), (0, 1, True)])
def test_an_id_that_is_open_twice_without_a_reason_fails_its_check(
    syncer: Syncer, doubled: int, gone: int, *, passed: bool
) -> None:
    syncer.sync(rows(30))
    # What no sync does: open rows are written once more.
    with syncer.store.locked("main"):
        state = syncer.store.state("main")
        month = syncer.store.read_stops("main", state, STOPS.names, ["2025-06"])
        periods = pd.concat([month, month.head(doubled)]).sort_values(STOPS_ORDER, ignore_index=True)
        syncer.store.commit("main", state, {"2025-06": periods})

    merged = syncer.sync([*rows(30)[: 30 - gone], Row(99, created_at="2025-07-01 10:00:00")], nb_data=99)

    results = {check.check_name: check for check in checks.of_merged(merged, syncer.store, "main")}
    assert merged.counts.withheld == gone
    assert results["open_ids_unique"].metadata["doubled_open_ids"].value == doubled
    assert results["open_ids_unique"].passed is passed


def test_a_null_in_a_file_that_was_just_written_fails_its_check(syncer: Syncer) -> None:
    merged = syncer.sync(rows(3))
    path = syncer.root / month_file("main", "2025-06")
    damaged = pq.read_table(path).to_pandas()
    damaged.loc[0, "phone_number"] = None
    damaged[list(STOPS.names)].to_parquet(path)
    (failed,) = [check for check in checks.of_merged(merged, syncer.store, "main") if not check.passed]
    assert (failed.check_name, failed.metadata["nulls"].value) == ("no_nulls", 1)
