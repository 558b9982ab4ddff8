"""What the webhook is told: each incident once, that it is over, nothing secret, and nothing lost."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stop_pipeline.definitions import build_definitions
from stop_pipeline.defs.alerts import Cursor
from stop_pipeline.errors import AlertError
from stop_pipeline.incidents import Outcome, follow, message
from stop_pipeline.settings import Settings
from stop_pipeline.webhook import post
from stop_pipeline_tests.loopback import Loopback, Script, raw, reply, reply_json
from stop_pipeline_tests.ticking import START, answer_body, rows

KEY = "key-of-main"
PATH = "/services/T0/B0/whoever-knows-this-can-post"
REFUSED = reply_json({"success": False, "code": 10, "message": "Clé API incorrecte"})


PROBLEMS = ("raw_stop_list", "stops", "check removals_plausible", "the run")
OUTCOMES = st.lists(
    st.tuples(st.sampled_from(["main", "lyon"]), st.dictionaries(st.sampled_from(PROBLEMS), st.booleans())).map(
        lambda drawn: Outcome(
            account=drawn[0],
            run_id="1a2b3c4d-0000",
            ended_at=START,
            failed={problem: "Do this." for problem, passed in drawn[1].items() if not passed},
            passed=[problem for problem, passed in drawn[1].items() if passed],
        )
    )
)


def listing(count: int, *, nb_data: int | None = None) -> Script:
    return reply(200, answer_body(rows(count), nb_data=nb_data))


class Watched:
    """Ticks against one loopback server, and the sensor that tells another, on an instance that outlives both."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, accounts: tuple[str, ...] = ("main",)) -> None:
        self.root, self.instance, self.accounts = root, instance, accounts
        self.cursor: str | None = None

    def tick(self, *answers: Script, account: str | None = None) -> None:
        """A tick for each answer."""
        for answer in answers:
            self.tick_once(answer, tags=None if account is None else {"dagster/partition": account})

    def tick_once(self, *answers: Script, tags: dict[str, str] | None) -> None:
        """One run, whose requests get these answers."""
        with Loopback(*answers) as provider:
            settings = Settings(accounts=self.accounts, base_url=provider.base_url, data_root=str(self.root))
            job = build_definitions(settings).resolve_job_def("tick")
            config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
            job.execute_in_process(config, instance=self.instance, tags=tags, raise_on_error=False)

    def evaluate(self, *webhook: Script) -> list[str]:
        """One evaluation of the sensor; gives the texts that were posted."""
        with Loopback(*webhook or (reply(200, b"ok"),)) as server:
            self.result = self.evaluate_for(server.base_url.removesuffix("/v1") + PATH)
            assert all((request.method, request.target) == ("POST", PATH) for request in server.requests)
            documents = [json.loads(request.body) for request in server.requests]
        assert all(document.keys() == {"text"} for document in documents)
        self.cursor = self.result.cursor
        return [document["text"] for document in documents]

    def evaluate_for(self, webhook: str | None) -> Any:
        definitions = build_definitions(Settings(accounts=self.accounts, alert_webhook=webhook))
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=definitions.get_repository_def()
        )
        return definitions.resolve_sensor_def("alerts").evaluate_tick(context)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """In memory: the browser test has the sensor run by the daemon, on a home on disk."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def watched(tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setenv("SMSPARTNER_API_KEY", KEY)
    monkeypatch.setenv("SMSPARTNER_API_KEY_LYON", KEY)
    return Watched(tmp_path, instance)


def test_a_failed_run_is_told_once_and_then_that_it_is_over(watched: Watched) -> None:
    watched.tick(listing(30), REFUSED)
    (text,) = watched.evaluate()
    assert text.startswith("STOP list of main: raw_stop_list failed at ")
    assert "SMSPARTNER_API_KEY" in text

    watched.tick(REFUSED, REFUSED)
    assert watched.evaluate() == []

    watched.tick(listing(30))
    (text,) = watched.evaluate()
    assert text.startswith("STOP list of main: all is well again at ")
    assert text.endswith(" this had failed: raw_stop_list.")
    watched.tick(listing(30))
    assert watched.evaluate() == []


def test_a_failed_check_is_told_though_its_run_succeeds(watched: Watched) -> None:
    watched.tick(listing(100), listing(30))
    (text,) = watched.evaluate()
    assert text.startswith("STOP list of main: check removals_plausible failed at ")
    assert "stop-pipeline run --accept-removals 70 --account main" in text
    watched.tick(listing(30))
    assert watched.evaluate() == []
    watched.tick(listing(100))
    (text,) = watched.evaluate()
    assert "all is well again" in text


def test_a_check_that_only_warns_is_not_told(watched: Watched) -> None:
    watched.tick(reply(200, answer_body([*rows(3), {"id": 0, "phoneNumber": "+33639980099"}])))
    assert watched.evaluate() == []


def test_another_problem_in_the_same_incident_is_told_once_as_well(watched: Watched) -> None:
    watched.tick(listing(100), REFUSED, listing(30), REFUSED, listing(30))
    (text,) = watched.evaluate()
    first, second = text.splitlines()
    assert "raw_stop_list failed" in first
    assert "check removals_plausible failed" in second
    watched.tick(listing(100))
    (text,) = watched.evaluate()
    assert text.endswith(" this had failed: check removals_plausible, raw_stop_list.")


def test_a_failure_that_passed_before_the_sensor_looked_is_told_with_its_end(watched: Watched) -> None:
    watched.tick(listing(3), REFUSED, listing(3))
    (text,) = watched.evaluate()
    assert [line.split(" at ")[0] for line in text.splitlines()] == [
        "STOP list of main: raw_stop_list failed",
        "STOP list of main: all is well again",
    ]


def test_a_part_of_the_pipeline_that_passes_does_not_end_an_incident(watched: Watched) -> None:
    watched.tick(listing(3), REFUSED)
    watched.evaluate()
    definitions = build_definitions(Settings(data_root=str(watched.root)))
    asset = definitions.resolve_implicit_global_asset_job_def()
    done = asset.execute_in_process(instance=watched.instance, asset_selection=[dg.AssetKey("stops_per_day")])
    assert done.success
    assert watched.evaluate() == []
    watched.tick(listing(3))
    assert "all is well again" in watched.evaluate()[0]


def test_each_account_has_its_own_incidents(tmp_path: Path, instance: dg.DagsterInstance, watched: Watched) -> None:
    fleet = Watched(tmp_path, instance, ("main", "lyon"))
    fleet.tick(listing(3), REFUSED, account="main")
    fleet.tick(listing(3), REFUSED, account="lyon")
    (text,) = fleet.evaluate()
    assert [line.split(" at ")[0] for line in text.splitlines()] == [
        "STOP list of main: stops failed",
        "STOP list of lyon: stops failed",
    ]
    fleet.tick(listing(3), account="lyon")
    (text,) = fleet.evaluate()
    assert text.startswith("STOP list of lyon: all is well again")


def test_of_a_run_that_ticks_several_accounts_those_are_told_that_failed(
    tmp_path: Path, instance: dg.DagsterInstance, watched: Watched
) -> None:
    fleet = Watched(tmp_path, instance, ("main", "lyon"))
    both = {"dagster/asset_partition_range_start": "main", "dagster/asset_partition_range_end": "lyon"}
    fleet.tick_once(listing(100), REFUSED, tags=both)
    (text,) = fleet.evaluate()
    assert text.startswith("STOP list of lyon: stops failed")
    assert "SMSPARTNER_API_KEY_LYON" in text
    assert len(text.splitlines()) == 1

    fleet.tick_once(listing(30), listing(3), tags=both)
    (text,) = fleet.evaluate()
    assert [line.split(" at ")[0] for line in text.splitlines()] == [
        "STOP list of main: check removals_plausible failed",
        "STOP list of lyon: all is well again",
    ]


@pytest.mark.parametrize("answer", [reply(500), reply(404), reply(302, b"", {"Location": "/"}), raw(b"")])
def test_what_the_webhook_does_not_take_is_told_at_the_next_evaluation(watched: Watched, answer: Script) -> None:
    watched.tick(listing(3))
    watched.evaluate()
    cursor = watched.cursor
    watched.tick(REFUSED)
    (refused,) = watched.evaluate(answer)
    assert watched.cursor in (None, cursor)
    watched.cursor = cursor
    assert "It is tried again" in watched.result.skip_message
    assert PATH not in watched.result.skip_message
    assert watched.evaluate() == [refused]
    assert watched.evaluate() == []


def test_a_backlog_longer_than_one_evaluation_reads_is_read_in_several(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stop_pipeline.defs.alerts.RUNS_READ", 2)
    watched.tick(listing(3), listing(3), REFUSED, REFUSED, listing(3))
    texts = [watched.evaluate() for _ in range(4)]
    assert [len(posted) for posted in texts] == [0, 1, 1, 0]
    assert "failed" in texts[1][0]
    assert "all is well again" in texts[2][0]


def test_a_run_that_was_tagged_after_it_was_told_is_not_told_again(watched: Watched) -> None:
    watched.tick(listing(3), REFUSED)
    watched.evaluate()
    watched.tick(listing(3))
    watched.evaluate()
    for run in watched.instance.get_runs():
        watched.instance.add_run_tags(run.run_id, {"looked_at_by": "someone"})
    assert watched.evaluate() == []


def test_a_run_whose_process_died_is_told(watched: Watched) -> None:
    job = build_definitions(Settings()).resolve_job_def("tick")
    run = watched.instance.create_run_for_job(job)
    watched.instance.report_run_failed(run)
    (text,) = watched.evaluate()
    assert "STOP list of main: the run failed at " in text
    assert "ended before it could say why" in text
    watched.tick(listing(3))
    assert "all is well again" in watched.evaluate()[0]


def test_runs_of_other_projects_on_the_instance_are_not_told(watched: Watched) -> None:
    @dg.op
    def fails() -> None:
        raise ValueError("not ours")

    @dg.job
    def others() -> None:
        fails()

    others.execute_in_process(instance=watched.instance, raise_on_error=False)
    assert watched.evaluate() == []


def test_an_alert_holds_no_key_no_number_and_no_markup(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    echo = f"<b>{KEY} & 06 39 98 00 01 +33639980001</b>".encode()
    watched.tick(listing(3), reply(200, echo))
    (text,) = watched.evaluate()
    assert "raw_stop_list failed" in text
    assert "&lt;b&gt;" in text
    assert "&amp;" in text
    assert not any(secret in text for secret in (KEY, "39980001", "39 98 00 01", "<", PATH))
    assert KEY not in str(watched.cursor)


def test_what_another_library_says_of_an_error_is_not_told(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("+33639980001")

    monkeypatch.setattr("stop_pipeline.tick.apply_newest", broken)
    watched.tick(listing(3))
    (text,) = watched.evaluate()
    assert "stops failed" in text
    assert "KeyError" in text
    assert "39980001" not in text


def test_without_a_webhook_the_sensor_is_stopped_and_says_what_to_set(watched: Watched) -> None:
    sensor = build_definitions(Settings()).resolve_sensor_def("alerts")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    watched.tick(REFUSED)
    assert "STOP_PIPELINE_ALERT_WEBHOOK" in watched.evaluate_for(None).skip_message
    told = build_definitions(Settings(alert_webhook="https://hooks.example" + PATH))
    assert told.resolve_sensor_def("alerts").default_status is dg.DefaultSensorStatus.RUNNING


@given(OUTCOMES, st.integers(0, 10))
def test_it_makes_no_difference_when_the_sensor_looks_and_that_it_was_restarted(
    outcomes: list[Outcome], looked_after: int
) -> None:
    incidents, first = follow({}, outcomes[:looked_after])
    kept = Cursor.from_json(Cursor(START, frozenset({"a run"}), incidents).to_json())
    assert kept == Cursor(START, frozenset({"a run"}), incidents)
    incidents, then = follow(kept.incidents, outcomes[looked_after:])
    assert (incidents, first + then) == follow({}, outcomes)


@given(OUTCOMES)
def test_a_problem_is_told_once_until_all_is_well_again(outcomes: list[Outcome]) -> None:
    incidents, sentences = follow({}, outcomes)
    for account in ("main", "lyon"):
        told: set[str] = set()
        for sentence in (sentence for sentence in sentences if f"of {account}:" in sentence):
            if "all is well again" in sentence:
                assert told, "it was never told that something is wrong"
                told = set()
            else:
                problem = re.sub(r"STOP list of \w+: (.*) failed at .*", r"\1", sentence)
                assert problem not in told
                told.add(problem)
        assert told == (incidents[account].told if account in incidents else set())


def test_when_a_fleet_fails_at_once_the_text_stays_short() -> None:
    text = message(tuple(f"STOP list of a{n}: raw_stop_list failed." for n in range(1_000)))
    assert len(text.splitlines()) == 21
    assert text.endswith("… and 980 more, which the Dagster UI shows.")


def test_the_address_is_in_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), Loopback(reply(500)) as server, pytest.raises(AlertError) as refusal:
        post(server.base_url + PATH, "text")
    closed = server.base_url + PATH
    with caplog.at_level(logging.DEBUG), pytest.raises(AlertError, match="could not be reached") as unreachable:
        post(closed, "text")
    assert any("urllib3" in record.name for record in caplog.records)
    for error in (refusal.value, unreachable.value):
        assert error.__cause__ is error.__context__ is None
        assert "whoever-knows" not in str(error)
    assert "whoever-knows" not in caplog.text
