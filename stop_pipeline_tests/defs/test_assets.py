"""What a real run on a real instance does and shows."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from stop_pipeline import read_stops
from stop_pipeline.table import updating
from stop_pipeline.table.store import Store
from stop_pipeline_tests.support.loopback import reply
from stop_pipeline_tests.support.pipeline import (
    ASSETS,
    REFUSED,
    Pipeline,
    checks,
    failed_checks,
    listing,
    reason_of,
    shown,
    values,
)
from stop_pipeline_tests.support.syncing import Row, response_body, rows


def test_one_run_materializes_all_five_assets_and_shows_what_happened(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    malformed = {"id": 999, "phoneNumber": "+33639980999", "createdAt": "2025-02-30 00:00:00", "operator": "x"}
    body = response_body([*rows(40), rows(1)[0], malformed])
    result = pipeline.sync(reply(200, body))

    assert result.success
    made = [event.asset_key for event in result.all_events if event.is_step_materialization and event.asset_key]
    assert sorted(key.path[-1] for key in made) == sorted(ASSETS)
    stops = values(result, "stops")
    expected = {"listed": 40, "new": 40, "changed": 0, "removed": 0, "restored": 0, "rejected": 1, "withheld": 0}
    assert {name: stops[name] for name in expected} == expected
    assert stops["rows"] == "42 rows = 40 kept + 1 duplicates collapsed + 1 rejected"
    assert (stops["months_written"], stops["months"], stops["dagster/row_count"]) == (1, "2025-06", 40)
    assert stops["dagster/uri"].startswith((pipeline.root / "stops").as_uri())
    assert "reread" not in stops
    assert values(result, "stop_snapshot")["extra_fields"] == "operator"
    assert values(result, "raw_stop_list")["bytes"] == len(body)
    assert "could not be made" not in caplog.text  # the charts of any asset
    assert failed_checks(result) == {"nothing_rejected"}
    assert checks(result)["nothing_rejected"].severity is dg.AssetCheckSeverity.WARN


def test_every_count_is_a_number_that_dagster_can_plot(pipeline: Pipeline) -> None:
    result = pipeline.sync(listing(30))
    stops, raw = shown(result, "stops"), shown(result, "raw_stop_list")
    for name in ("listed", "new", "changed", "removed", "restored", "rejected", "withheld", "months_written"):
        assert isinstance(stops[name], dg.IntMetadataValue), name
    assert isinstance(raw["bytes"], dg.IntMetadataValue)
    assert isinstance(raw["http_seconds"], dg.FloatMetadataValue)
    assert stops["age_hours"].value == 0


def test_the_data_version_is_that_of_the_response_and_from_stops_on_the_commit(pipeline: Pipeline) -> None:
    def versions(result: dg.ExecuteInProcessResult) -> list[str]:
        made = [result.asset_materializations_for_node(asset) for asset in ASSETS]
        return [(events[0].tags or {})["dagster/data_version"] for events in made]

    store = Store(pipeline.root)
    pipeline.sync(listing(100))
    withheld = versions(pipeline.sync(listing(30)))
    kept, commit = store.responses.newest("main"), store.state("main").commit
    assert kept is not None
    assert withheld == [kept.sha256, kept.sha256, commit, commit, commit]
    # The same response, of which more is applied, gives other tables.
    accepted = versions(pipeline.sync(listing(30), accept_removals=70))
    assert accepted[:2] == withheld[:2]
    assert accepted[2:] == [store.state("main").commit] * 3 != withheld[2:]


@pytest.mark.parametrize("config", [{"max_removed_share": 2.0}, {"max_removed_share": -0.1}, {"accept_removals": -1}])
def test_a_run_config_that_makes_no_sense_is_told_in_a_sentence(pipeline: Pipeline, config: dict[str, Any]) -> None:
    pipeline.sync(listing(3))
    ((name, value),) = config.items()
    failed = pipeline.sync(listing(4), **config)
    assert re.search(rf"\b{name}( is)? {re.escape(str(value))}\b", reason_of(failed))
    assert "ValidationError" not in reason_of(failed)
    assert len(read_stops(pipeline.root)) == 3


def test_withheld_removals_are_shown_also_by_a_step_that_is_repeated_and_applied_if_a_person_accepts_them(
    pipeline: Pipeline,
) -> None:
    pipeline.sync(listing(100))
    assert values(pipeline.sync(listing(30)), "stops")["withheld"] == 70
    assert values(pipeline.sync(assets=["stops"]), "stops")["withheld"] == 70
    assert len(read_stops(pipeline.root)) == 100

    accepted = pipeline.sync(listing(30), accept_removals=70)
    assert failed_checks(accepted) == set()
    assert values(accepted, "stops")["accepted_removals"] == 70
    assert len(read_stops(pipeline.root)) == 30
    assert "accepted_removals" not in values(pipeline.sync(listing(30)), "stops")


def test_a_clock_that_was_ahead_fails_the_checks_of_order_until_then(pipeline: Pipeline) -> None:
    assert pipeline.sync(listing(30)).success
    store = Store(pipeline.root)
    state, ahead = store.state("main"), datetime.now(UTC) + timedelta(days=1)
    with store.locked("main"):
        store.write_state("main", replace(state, applied_at=ahead, verified_at=ahead))
    result = pipeline.sync(listing(31))
    assert result.success
    assert failed_checks(result) == {"applied_in_order"}
    assert values(result, "stops")["outcome"] == "older"
    latest = pipeline.root / "raw/account=main/latest.json"
    latest.write_text(re.sub('"fetched_at": "[^"]*"', f'"fetched_at": "{ahead.isoformat()}"', latest.read_text()))
    assert failed_checks(pipeline.sync(listing(32))) == {"fetched_in_order", "applied_in_order"}


def test_a_foreign_list_fails_the_run_and_no_dagster_retry_repeats_it(pipeline: Pipeline) -> None:
    pipeline.sync(listing(20))
    foreign = pipeline.sync(reply(200, response_body(rows(20, first_id=500, month="2024-01"))))
    assert not foreign.success
    assert "it probably belongs to another account" in reason_of(foreign)
    assert len(pipeline.server.requests) == 2
    assert len(read_stops(pipeline.root)) == 20


def test_stored_rows_that_were_read_again_are_shown(pipeline: Pipeline) -> None:
    listed = reply(200, response_body([Row(1, created_at="2025-06-01 10:00:00")]))
    before = shown(pipeline.sync(listed), "stops")["preview"]
    pipeline.settings = replace(pipeline.settings, timezone="Indian/Reunion")
    result = pipeline.sync(listed)
    stops = values(result, "stops")
    assert stops["reread"] == (
        "Stored rows were first brought up to date: by today's rules and settings, and without rows from after the "
        "commit."
    )
    assert (stops["changed"], stops["removed"]) == (0, 0)
    assert shown(result, "stops")["preview"] != before
    assert "reread" not in values(pipeline.sync(listed), "stops")


def test_a_failed_step_says_why_in_a_line_of_its_own_and_above_its_traceback(pipeline: Pipeline) -> None:
    result = pipeline.sync(REFUSED)
    lines = [entry for entry in pipeline.instance.all_logs(result.run_id) if not entry.is_dagster_event]
    (error,) = [entry for entry in lines if entry.level == 40 and entry.step_key == "raw_stop_list"]
    assert "SMSPARTNER_API_KEY" in error.user_message
    (failure,) = result.get_step_failure_events()
    assert failure.step_failure_data.user_failure_data is not None
    sentence = failure.step_failure_data.user_failure_data.description
    assert sentence is not None
    assert "SMSPARTNER_API_KEY" in sentence
    assert failure.step_failure_data.error is not None
    assert failure.step_failure_data.error.cause is None


def test_an_unexpected_error_is_told_by_its_place_alone_since_its_text_may_hold_a_number(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        cause = KeyError("+33639980001")
        cause.add_note("of +33639980001")
        raise ValueError("time data “06 39 98 00 01” does not match") from cause

    monkeypatch.setattr(updating, "compare", broken)
    result = pipeline.sync(listing(3))
    assert not result.success
    place = r"Unexpected error \(ValueError\) at assets\.py:\d+, .*, updating\.py:\d+, test_assets\.py:\d+: "
    assert re.search(place, reason_of(result))
    events = "".join(map(repr, pipeline.instance.all_logs(result.run_id)))
    assert "ValueError" in events
    assert not re.search("39980001|39 98 00 01", events)
