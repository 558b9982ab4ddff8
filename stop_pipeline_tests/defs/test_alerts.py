"""What the webhook is told: each problem once, that all is well again, nothing secret, and nothing lost."""

import json
import logging
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stop_pipeline import sync
from stop_pipeline.definitions import build_definitions
from stop_pipeline.defs import alerts
from stop_pipeline.defs.alerts import CURSOR, OVERDUE, Cursor, Finding, alert_sensor, follow, joined, post
from stop_pipeline.settings import Settings
from stop_pipeline_tests.support.loopback import Loopback, Script, raw, reply
from stop_pipeline_tests.support.pipeline import REFUSED, Pipeline, listing
from stop_pipeline_tests.support.syncing import START, response_body, rows

PATH = "/services/T0/B0/whoever-knows-this-can-post"
BOTH = {"dagster/asset_partition_range_start": "main", "dagster/asset_partition_range_end": "lyon"}


class Watched:
    """Syncs, and the sensor that tells a webhook about them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.cursor: str | None = None

    def use(self, **settings: Any) -> None:
        self.pipeline.settings = replace(self.pipeline.settings, **settings)

    def sync(self, *responses: Script, account: str | None = None) -> None:
        """One sync for each response."""
        for response in responses:
            self.pipeline.sync(response, account=account)

    def evaluate(self, *webhook: Script) -> list[str]:
        """Evaluate the sensor once; return the texts that were posted."""
        with Loopback(*webhook or (reply(200, b"ok"),)) as server:
            self.result = self.evaluate_for(server.base_url.removesuffix("/v1") + PATH)
            assert all((request.method, request.target) == ("POST", PATH) for request in server.requests)
            documents = [json.loads(request.body) for request in server.requests]
        assert all(document.keys() == {"text"} for document in documents)
        self.cursor = self.result.cursor
        return [document["text"] for document in documents]

    def evaluate_for(self, webhook: str | None) -> Any:
        sensor = alert_sensor(replace(self.pipeline.settings, alert_webhook=webhook))
        return sensor.evaluate_tick(dg.build_sensor_context(self.pipeline.instance, cursor=self.cursor))


@pytest.fixture
def watched(pipeline: Pipeline) -> Watched:
    return Watched(pipeline)


def beginnings(text: str) -> list[str]:
    """What each line says, without the time and what follows it."""
    return [line.split(" at ")[0] for line in text.splitlines()]


def test_a_failed_run_is_told_once_and_then_that_all_is_well_again(watched: Watched) -> None:
    watched.sync(listing(30), REFUSED)
    (text,) = watched.evaluate()
    assert text.startswith("STOP list of main: raw_stop_list failed at ")
    assert "SMSPARTNER_API_KEY" in text

    watched.sync(REFUSED)
    assert watched.evaluate() == []

    watched.sync(listing(30))
    (text,) = watched.evaluate()
    assert text.startswith("STOP list of main: all is well again at ")
    assert re.search(r" Problems since 20\d\d-\d\d-\d\d \d\d:\d\d UTC: raw_stop_list\.$", text)
    watched.sync(listing(30))
    assert watched.evaluate() == []


def test_a_failed_check_is_told_though_its_run_succeeds(watched: Watched) -> None:
    watched.sync(listing(100), listing(30))
    (text,) = watched.evaluate()
    assert text.startswith("STOP list of main: check removals_plausible failed at ")
    assert "stop-pipeline run --accept-removals 70 --account main" in text
    watched.sync(listing(30))
    assert watched.evaluate() == []
    watched.sync(listing(100))
    (text,) = watched.evaluate()
    assert "all is well again" in text


def test_a_check_that_only_warns_is_not_told(watched: Watched) -> None:
    watched.sync(reply(200, response_body([*rows(3), {"id": 0, "phoneNumber": "unknown"}])))
    assert watched.evaluate() == []


def test_another_problem_in_the_same_incident_is_told_once_as_well(watched: Watched) -> None:
    watched.sync(listing(100), REFUSED, listing(30), REFUSED, listing(30))
    (text,) = watched.evaluate()
    assert beginnings(text) == [
        "STOP list of main: raw_stop_list failed",
        "STOP list of main: check removals_plausible failed",
    ]
    watched.sync(listing(100))
    (text,) = watched.evaluate()
    assert text.endswith(" UTC: check removals_plausible, raw_stop_list.")


def test_a_failure_that_passed_before_the_sensor_looked_is_told_with_its_end(watched: Watched) -> None:
    watched.sync(listing(3), REFUSED, listing(3))
    (text,) = watched.evaluate()
    assert beginnings(text) == ["STOP list of main: raw_stop_list failed", "STOP list of main: all is well again"]


def test_a_part_of_the_pipeline_that_passes_does_not_end_an_incident(watched: Watched) -> None:
    watched.sync(listing(3), REFUSED)
    watched.evaluate()
    asset = build_definitions(watched.pipeline.settings).resolve_implicit_global_asset_job_def()
    part = [dg.AssetKey("stops_per_day")]
    assert asset.execute_in_process(instance=watched.pipeline.instance, asset_selection=part).success
    assert watched.evaluate() == []


def test_each_account_has_its_own_incidents(watched: Watched) -> None:
    watched.use(accounts=("main", "lyon"))
    for account in ("main", "lyon"):
        watched.sync(listing(3), REFUSED, account=account)
    (text,) = watched.evaluate()
    assert beginnings(text) == ["STOP list of main: stops failed", "STOP list of lyon: stops failed"]
    watched.sync(listing(3), account="lyon")
    (text,) = watched.evaluate()
    assert beginnings(text) == ["STOP list of lyon: all is well again"]


def test_of_a_run_that_syncs_several_accounts_those_are_told_that_failed(watched: Watched) -> None:
    watched.use(accounts=("main", "lyon"))
    watched.pipeline.sync(listing(100), REFUSED, tags=BOTH)
    (text,) = watched.evaluate()
    assert beginnings(text) == ["STOP list of lyon: stops failed"]
    assert "SMSPARTNER_API_KEY_LYON" in text

    watched.pipeline.sync(listing(30), listing(3), tags=BOTH)
    (text,) = watched.evaluate()
    assert beginnings(text) == [
        "STOP list of main: check removals_plausible failed",
        "STOP list of lyon: all is well again",
    ]


@pytest.mark.parametrize("accounts", [("main",), ("lyon",), ("lyon", "main"), ("nice",)])
def test_a_run_of_accounts_that_are_no_longer_set_up_as_they_were_does_not_stop_the_alerts(
    watched: Watched, accounts: tuple[str, ...]
) -> None:
    watched.use(accounts=("main", "lyon"))
    watched.pipeline.sync(listing(3), REFUSED, tags=BOTH)
    watched.use(accounts=accounts)
    watched.evaluate()
    watched.sync(REFUSED, account=accounts[0] if len(accounts) > 1 else None)
    (text,) = watched.evaluate()
    assert text.startswith(f"STOP list of {accounts[0]}: ")


def test_a_job_of_another_project_that_is_called_sync_is_none_of_ours(watched: Watched) -> None:
    @dg.job
    def sync() -> None:
        """A job without steps."""

    watched.pipeline.instance.report_run_failed(watched.pipeline.instance.create_run_for_job(sync))
    assert watched.evaluate() == []


def test_of_several_accounts_a_run_of_some_assets_does_not_make_all_well_again(watched: Watched) -> None:
    watched.use(accounts=("main", "lyon"))
    watched.sync(listing(3), REFUSED, account="main")
    (text,) = watched.evaluate()
    assert beginnings(text) == ["STOP list of main: stops failed"]
    assert watched.pipeline.sync(account="main", assets=["stops_per_day"]).success
    assert watched.evaluate() == []
    watched.sync(listing(3), account="main")
    (text,) = watched.evaluate()
    assert beginnings(text) == ["STOP list of main: all is well again"]


def test_an_account_that_is_set_up_again_is_told_of_again(watched: Watched) -> None:
    watched.use(accounts=("main", "lyon"))
    watched.sync(REFUSED, account="lyon")
    assert len(watched.evaluate()) == 1
    watched.use(accounts=("main", "nice"))
    assert watched.evaluate() == []
    watched.use(accounts=("main", "lyon"))
    watched.sync(REFUSED, account="lyon")
    (text,) = watched.evaluate()
    assert beginnings(text) == ["STOP list of lyon: stops failed"]


def test_a_list_that_is_overdue_is_told_once_whatever_the_reason_and_when_it_came(watched: Watched) -> None:
    watched.use(accounts=("main", "lyon"))
    watched.sync(listing(3), account="main")
    watched.sync(listing(3), account="lyon")
    assert watched.evaluate() == []

    # No run at all: the schedule is off, runs are queued, or no key is set.
    watched.use(alert_after=timedelta(microseconds=1))
    (text,) = watched.evaluate()
    main, lyon = text.splitlines()
    assert main.startswith("STOP list of main: no complete list was synced for more than ")
    assert "the last one was at 20" in main
    assert lyon.startswith("STOP list of lyon: no complete list was synced for more than ")
    assert watched.evaluate() == []

    watched.use(alert_after=timedelta(hours=1))
    _look_at_ages_again(watched)
    (text,) = watched.evaluate()
    assert beginnings(text) == ["STOP list of main: all is well again", "STOP list of lyon: all is well again"]
    assert text.splitlines()[0].endswith(f" UTC: {OVERDUE}.")


def test_an_account_that_never_had_a_list_is_overdue_as_well(watched: Watched) -> None:
    assert watched.evaluate() == []
    watched.use(alert_after=timedelta(microseconds=1))
    (text,) = watched.evaluate()
    assert "there has been none yet" in text
    watched.use(alert_after=timedelta(hours=1))
    _look_at_ages_again(watched)
    watched.sync(listing(3))
    (text,) = watched.evaluate()
    assert "all is well again" in text


def test_ages_are_looked_at_ten_times_in_the_time_that_is_allowed(watched: Watched) -> None:
    watched.use(alert_after=timedelta(hours=1))
    watched.evaluate()
    first = CURSOR.validate_json(watched.cursor or "")
    watched.evaluate()
    assert CURSOR.validate_json(watched.cursor or "").ages_read_at == first.ages_read_at
    assert first.ages_read_at is not None
    _look_at_ages_again(watched, minutes=6)
    watched.evaluate()
    later = CURSOR.validate_json(watched.cursor or "").ages_read_at
    assert later is not None
    assert later >= first.ages_read_at


def test_a_cursor_from_a_time_when_the_clock_was_ahead_holds_nothing_up(watched: Watched) -> None:
    watched.sync(listing(5))
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    watched.cursor = CURSOR.dump_json(Cursor(tomorrow, ages_read_at=tomorrow)).decode()
    assert watched.evaluate() == []
    cursor = CURSOR.validate_json(watched.cursor)
    assert cursor.ages_read_at is not None
    assert max(cursor.since, cursor.ages_read_at) <= datetime.now(UTC)
    watched.sync(REFUSED)
    (text,) = watched.evaluate()
    assert text.startswith("STOP list of main: raw_stop_list failed at ")


def _look_at_ages_again(watched: Watched, minutes: int = 60) -> None:
    """As if this time had passed since the ages of the lists were last looked at."""
    cursor = CURSOR.validate_json(watched.cursor or "")
    assert cursor.ages_read_at is not None
    earlier = replace(cursor, ages_read_at=cursor.ages_read_at - timedelta(minutes=minutes))
    watched.cursor = CURSOR.dump_json(earlier).decode()


@pytest.mark.parametrize("response", [reply(500), reply(302, b"", {"Location": "/"}), raw(b"")])
def test_what_the_webhook_refuses_is_told_at_the_next_evaluation(watched: Watched, response: Script) -> None:
    watched.evaluate()
    cursor = watched.cursor
    watched.sync(REFUSED)
    (refused,) = watched.evaluate(response)
    assert watched.cursor in (None, cursor)
    watched.cursor = cursor
    assert "The next try is in 30 s." in watched.result.skip_message
    assert PATH not in watched.result.skip_message
    assert watched.evaluate() == [refused]
    assert watched.evaluate() == []


def test_a_backlog_longer_than_one_evaluation_reads_is_read_in_several(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "RUNS_READ", 2)
    watched.sync(listing(3), listing(3), REFUSED, REFUSED, listing(3))
    texts = [watched.evaluate() for _ in range(4)]
    assert [len(posted) for posted in texts] == [0, 1, 1, 0]
    assert "failed" in texts[1][0]
    assert "all is well again" in texts[2][0]


def test_a_run_that_was_tagged_long_after_it_was_told_is_not_told_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "OVERLAP", timedelta(0))  # as if it had ended longer ago than that
    watched.sync(REFUSED)
    watched.evaluate()
    watched.sync(listing(3))
    watched.evaluate()
    for run in watched.pipeline.instance.get_runs():
        watched.pipeline.instance.add_run_tags(run.run_id, {"looked_at_by": "someone"})
    assert watched.evaluate() == []


def test_a_run_whose_process_died_is_told_until_a_whole_run_succeeds(watched: Watched) -> None:
    watched.sync(listing(3))
    instance = watched.pipeline.instance
    job = build_definitions(Settings()).resolve_job_def("sync")
    instance.report_run_failed(instance.create_run_for_job(job, tags=job.run_tags))  # as Dagster's daemon makes it
    (text,) = watched.evaluate()
    assert beginnings(text) == ["STOP list of main: the run failed"]
    assert "ended without giving a reason" in text
    assert watched.pipeline.sync(assets=["stops_per_day"]).success
    assert watched.evaluate() == []
    watched.sync(listing(3))
    assert "all is well again" in watched.evaluate()[0]


@pytest.mark.parametrize("unreadable", ["damaged", pytest.param("not to be opened", marks=pytest.mark.slow)])
def test_a_run_whose_events_cannot_be_read_is_told_and_the_others_are_not_held_up(
    on_disk: Pipeline, tmp_path: Path, unreadable: str
) -> None:
    watched = Watched(on_disk)
    run_id = on_disk.sync(listing(5)).run_id
    (events,) = (tmp_path / "home").rglob(f"{run_id}.db")
    if unreadable == "damaged":
        events.write_bytes(b"not a database" * 1000)
    else:
        events.unlink()
        events.mkdir()  # as little as the file of another user's run
    (text,) = watched.evaluate()
    assert text.startswith(f"STOP list of main: the events of the run {run_id[:8]}, which ended at ")
    watched.sync(listing(5))
    (text,) = watched.evaluate()
    assert text.startswith("STOP list of main: all is well again at ")


def test_runs_of_other_projects_on_the_instance_are_not_told(watched: Watched) -> None:
    @dg.op
    def fails() -> None:
        raise ValueError("another project")

    @dg.job
    def others() -> None:
        fails()

    others.execute_in_process(instance=watched.pipeline.instance, raise_on_error=False)
    assert watched.evaluate() == []


def test_an_alert_holds_no_key_no_number_and_no_markup(watched: Watched) -> None:
    watched.sync(reply(200, b"<b>key-of-main & 06 39 98 00 01 +33639980001</b>"))
    (text,) = watched.evaluate()
    assert "raw_stop_list failed" in text
    assert "&lt;b&gt;" in text
    assert "&amp;" in text
    assert not any(secret in text for secret in ("key-of-main", "39980001", "39 98 00 01", "<", PATH))
    assert "key-of-main" not in str(watched.cursor)


def test_the_text_of_an_unexpected_error_is_not_told(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("+33639980001")

    monkeypatch.setattr(sync, "merge", broken)
    watched.sync(listing(3))
    (text,) = watched.evaluate()
    assert "stops failed" in text
    assert "Unexpected error (KeyError)" in text
    assert "39980001" not in text


def test_without_a_webhook_the_sensor_is_stopped_and_says_what_to_set(watched: Watched) -> None:
    sensor = build_definitions(Settings()).resolve_sensor_def("alerts")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert "STOP_PIPELINE_ALERT_WEBHOOK" in watched.evaluate_for(None).skip_message
    with_one = build_definitions(Settings(alert_webhook="https://hooks.example" + PATH))
    assert with_one.resolve_sensor_def("alerts").default_status is dg.DefaultSensorStatus.RUNNING


PROBLEMS = ("raw_stop_list", "stops", "check removals_plausible", "the run", OVERDUE)
FINDINGS = st.lists(
    st.tuples(st.sampled_from(["main", "lyon"]), st.dictionaries(st.sampled_from(PROBLEMS), st.booleans())).map(
        lambda drawn: Finding(
            account=drawn[0],
            at=START,
            problems={problem: None if passed else f"{problem} failed." for problem, passed in drawn[1].items()},
        )
    )
)


@given(FINDINGS, st.integers(0, 10))
def test_it_makes_no_difference_when_the_sensor_looks_and_that_it_was_restarted(
    findings: list[Finding], looked_after: int
) -> None:
    incidents, first = follow({}, findings[:looked_after])
    cursor = Cursor(START, frozenset({"a run"}), incidents, START)
    kept = CURSOR.validate_json(CURSOR.dump_json(cursor))
    assert kept == cursor
    incidents, then = follow(kept.incidents, findings[looked_after:])
    assert (incidents, first + then) == follow({}, findings)


@given(FINDINGS)
def test_a_problem_is_told_once_until_all_is_well_again(findings: list[Finding]) -> None:
    incidents, messages = follow({}, findings)
    for account in ("main", "lyon"):
        told: set[str] = set()
        for message in (message for message in messages if f"of {account}:" in message):
            if "all is well again" in message:
                assert told, "no problem was told before"
                told = set()
            else:
                problem = re.sub(r"STOP list of \w+: (.*) failed\.", r"\1", message)
                assert problem not in told
                told.add(problem)
        assert told == (incidents[account].told if account in incidents else set())


def test_a_cursor_of_an_earlier_version_is_read() -> None:
    began_at = START.isoformat()
    incidents = {"main": {"began_at": began_at, "open": ["stops"], "told": ["stops"]}}
    text = json.dumps({"since": began_at, "read": ["a run"], "incidents": incidents})
    cursor = CURSOR.validate_json(text)
    assert (cursor.since, cursor.read, cursor.incidents["main"].open) == (
        START,
        frozenset({"a run"}),
        frozenset({"stops"}),
    )


def test_when_many_accounts_fail_at_once_the_text_stays_short() -> None:
    text = joined(tuple(f"STOP list of a{n}: raw_stop_list failed." for n in range(1_000)))
    assert len(text.splitlines()) == 21
    assert text.startswith("980 earlier messages are left out here; the Dagster UI shows them.\n")
    assert text.endswith("a999: raw_stop_list failed.")  # what still stands is among the newest


def test_the_address_is_in_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), Loopback(reply(500)) as server:
        refused = post(server.base_url + PATH, "text")
    with caplog.at_level(logging.DEBUG):
        unreachable = post(server.base_url + PATH, "text")
    assert any("urllib3" in record.name for record in caplog.records)
    assert refused == "The webhook responded with HTTP 500."
    assert re.fullmatch(r"The webhook could not be reached \(\w+\)\.", unreachable or "")
    assert "whoever-knows" not in caplog.text
