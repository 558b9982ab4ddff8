"""What is known about one number is what the list's history says, and names the very responses that show it."""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from stop_pipeline import lookup, read_changes
from stop_pipeline.errors import OutdatedListError
from stop_pipeline.table.accounts import register, retire
from stop_pipeline.table.lookup import OptOut
from stop_pipeline_tests.support import version_1
from stop_pipeline_tests.support.histories import (
    A_MALFORMED_ROW_VANISHES,
    HISTORIES,
    NUMBERS,
    SPELLINGS,
    VARIED,
    History,
    Step,
    spelled,
    synced,
)
from stop_pipeline_tests.support.syncing import IN_MEMORY, PARIS, START, Row, Syncer, response_body, rows

ANY_AGE = timedelta.max
HOUR = timedelta(hours=1)
STOPPED, FREE = NUMBERS[1], NUMBERS[2]


def expected_opt_outs(history: History, number: str, on: datetime | None) -> Iterator[OptOut]:
    for period in history.periods:
        if number in period.entry.blocks:
            last = history.last_listed(period)
            is_last_of_all = last is history.responses[-1]
            yield OptOut(
                created_at=period.entry.created_at,
                origin=period.entry.blocks[number],
                first_seen_at=period.first.fetched_at,
                first_seen_sha256=period.first.sha256,
                last_listed_at=last.last_fetched_at if is_last_of_all else last.fetched_at,
                last_listed_sha256=last.sha256,
                removed_at=period.removed_at,
                in_force=period.covers(on),
            )


def compare(history: History, spelling: str, on: datetime | None, numbers: tuple[str, ...]) -> None:
    """Look numbers up, and compare what is said with the model."""
    begun = on is None or on >= history.responses[0].fetched_at
    blocked = history.numbers(on)
    for number in numbers:
        found = lookup(spelled(number, spelling), on=on, root=history.syncer.root, max_age=ANY_AGE)
        (answer,) = found.accounts
        assert found.may_be_texted == answer.may_be_texted == (number not in blocked if begun else None)
        assert answer.known_since == history.responses[0].fetched_at
        assert set(answer.opt_outs) == set(expected_opt_outs(history, number, on))
        assert [row.first_seen_at for row in answer.opt_outs] == sorted(row.first_seen_at for row in answer.opt_outs)
        if on is None:
            assert answer.verified_at == history.verified_at


def look_at_history(steps: list[Step], spelling: str, choice: int) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        history = synced(Path(folder), steps)
        times = list(history.times())
        compare(history, spelling, times[choice % len(times)], NUMBERS[choice % 2 :: 2])
        if history.verified_at is None:
            with pytest.raises(OutdatedListError, match="never complete"):
                lookup(STOPPED, root=folder, max_age=ANY_AGE)
        else:
            compare(history, spelling, None, NUMBERS[1 - choice % 2 :: 2])


@settings(phases=[Phase.explicit], deadline=None)
@given(HISTORIES, st.sampled_from(SPELLINGS), st.integers(0, 1000))
@example(VARIED, SPELLINGS[6], 7)
@example(A_MALFORMED_ROW_VANISHES, SPELLINGS[0], 0)
def test_lookup_agrees_with_a_model_of_the_history(steps: list[Step], spelling: str, choice: int) -> None:
    look_at_history(steps, spelling, choice)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HISTORIES, st.sampled_from(SPELLINGS), st.integers(0, 1000))
def test_lookup_agrees_with_a_model_of_many_histories(steps: list[Step], spelling: str, choice: int) -> None:
    look_at_history(steps, spelling, choice)


def test_at_every_time_the_answer_is_what_was_known_then(tmp_path: Path) -> None:
    history = synced(tmp_path, VARIED)
    for on in list(history.times())[::2]:
        compare(history, SPELLINGS[0], on, (NUMBERS[1],))


# Evidence


def test_the_evidence_is_the_first_response_and_the_last_one_that_list_the_number(tmp_path: Path) -> None:
    syncer, others = Syncer(tmp_path), rows(9, first_id=100)
    bodies = [
        response_body(others),
        response_body([*others, Row(1, STOPPED)]),
        response_body([*others, Row(1, STOPPED), Row(2, FREE)]),
        response_body([*others, Row(2, FREE)]),
    ]
    for body in bodies:
        syncer.sync(body)
    (opt_out,) = lookup(STOPPED, on=START + 2 * HOUR, root=tmp_path).accounts[0].opt_outs
    assert opt_out == OptOut(
        created_at=datetime(2025, 6, 1, 8, tzinfo=UTC),
        origin="listed",
        first_seen_at=START + 2 * HOUR,
        first_seen_sha256=hashlib.sha256(bodies[1]).hexdigest(),
        last_listed_at=START + 3 * HOUR,
        last_listed_sha256=hashlib.sha256(bodies[2]).hexdigest(),
        removed_at=START + 4 * HOUR,
        in_force=True,
    )


@pytest.mark.parametrize("nb_data", [None, 99], ids=["removals withheld", "incomplete"])
def test_a_response_that_need_not_list_the_number_is_no_evidence_of_it(tmp_path: Path, nb_data: int | None) -> None:
    syncer, others = Syncer(tmp_path), rows(60, first_id=100)
    syncer.sync([Row(1, STOPPED), *others])
    syncer.sync(others[:5], nb_data=nb_data)
    answer = lookup(STOPPED, root=tmp_path, max_age=ANY_AGE).accounts[0]
    assert answer.may_be_texted is False
    assert answer.opt_outs[0].last_listed_at == START + HOUR
    assert answer.verified_at == START + (2 * HOUR if nb_data is None else HOUR)
    syncer.sync(others[:5], accept_removals=99)
    (ended,) = lookup(STOPPED, root=tmp_path, max_age=ANY_AGE).accounts[0].opt_outs
    assert (ended.last_listed_at, ended.removed_at) == (START + HOUR, START + 3 * HOUR)


def test_what_the_earlier_version_did_not_record_is_not_made_up(tmp_path: Path) -> None:
    root = version_1.unpack("several_months", tmp_path)
    ended, standing = "+33639980023", "+33639980010"
    bodies = version_1.responses(root)

    def look(number: str) -> OptOut:
        return lookup(number, root=root, max_age=ANY_AGE).accounts[0].opt_outs[0]

    with pytest.raises(OutdatedListError, match="was last verified"):
        lookup(standing, root=root)
    for _ in range(2):  # before the upgrade, and after it
        found = look(standing)
        assert found.first_seen_at == datetime(2026, 1, 1, 13, tzinfo=UTC)
        assert found.first_seen_sha256 is None
        assert found.last_listed_sha256 == hashlib.sha256(bodies[-1]).hexdigest()
        found = look(ended)
        assert found.removed_at == datetime(2026, 1, 1, 14, tzinfo=UTC)
        assert (found.last_listed_at, found.last_listed_sha256) == (None, None)
        Syncer(root).sync(bodies[-1], at=datetime(2026, 1, 1, 18, tzinfo=UTC))


# Numbers


@pytest.mark.parametrize("number", ["+590691990001", "0691990001", "+33691990001", "0690000000 "])
def test_all_spellings_that_reach_one_subscriber_meet(tmp_path: Path, number: str) -> None:
    Syncer(tmp_path).sync([Row(1, "+33 (0) 691 99 00 01"), Row(2, "+590 690 00 00 00")])
    assert lookup(number, root=tmp_path, max_age=ANY_AGE).may_be_texted is False


@pytest.mark.parametrize(
    ("text", "understood"),
    [
        ("06 39 98 00", "it has 8 digits"),
        ("", "it has 0 digits"),
        ("the one of Mr Martin", "it has 0 digits"),
        ("+331639980001234567", "it has 18 digits"),
        ("6,398E+08", "it has 6 digits"),
        ("06 39 98 00 01 ou 06 39 98 00 02", re.escape("(found: +33 6•• •• •• 01, +33 6•• •• •• 02)")),
    ],
)
def test_a_number_that_cannot_be_read_is_refused_with_what_was_understood(
    tmp_path: Path, text: str, understood: str
) -> None:
    Syncer(tmp_path).sync(rows(3))
    with pytest.raises(ValueError, match=understood) as refused:
        lookup(text, root=tmp_path, max_age=ANY_AGE)
    assert not re.search(r"\d[\d ]{4,}", str(refused.value).replace("0033", ""))


def test_a_number_that_several_overseas_codes_share_is_found_under_any_of_them(tmp_path: Path) -> None:
    Syncer(tmp_path).sync([*rows(3), Row(9, "+590976123456")])
    for spelling in ("0976 12 34 56", "+596976123456"):
        assert lookup(spelling, root=tmp_path, max_age=ANY_AGE).may_be_texted is False


@pytest.mark.parametrize("listed", ["+447700900123", "12345", "(12 345)"])
def test_a_listed_spelling_that_cannot_be_read_is_found_as_a_campaign_finds_it(tmp_path: Path, listed: str) -> None:
    Syncer(tmp_path).sync([*rows(3), Row(9, listed)])
    assert lookup(listed, root=tmp_path, max_age=ANY_AGE).may_be_texted is False


def test_ages_may_be_texts_as_in_suppress(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path, start=datetime.now(UTC) - timedelta(hours=30))
    syncer.sync(rows(3))
    assert lookup(STOPPED, root=tmp_path, max_age="2d").may_be_texted is not None
    assert read_changes(syncer.now, root=tmp_path, max_age="48h").empty
    with pytest.raises(OutdatedListError, match="more than 90 min ago"):
        lookup(STOPPED, root=tmp_path, max_age="90m")
    with pytest.raises(ValueError, match="is not an age"):
        lookup(STOPPED, root=tmp_path, max_age="soon")


def test_the_number_itself_is_not_in_the_answer(tmp_path: Path) -> None:
    Syncer(tmp_path).sync([Row(1, f"{STOPPED} poste 12"), {"id": 2, "phoneNumber": STOPPED}])
    found = lookup(STOPPED, root=tmp_path, max_age=ANY_AGE)
    assert [row.origin for row in found.accounts[0].opt_outs] in (
        ["found in text", "rejected row"],
        ["rejected row", "found in text"],
    )
    assert found.number == "+33 6•• •• •• 01"
    assert "39980001" not in repr(found)


# Times


def test_today_is_now_and_a_past_day_is_its_end_in_paris(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    syncer = Syncer(tmp_path)
    syncer.sync(rows(9), at=datetime(2026, 1, 1, 12, tzinfo=UTC))
    syncer.sync([*rows(9), Row(99, "+33639989999")], at=datetime(2026, 1, 5, 22, 59, 59, tzinfo=UTC))
    today = now.astimezone(ZoneInfo("Europe/Paris")).date()
    days: list[date | str] = [today, "2026-01-05", "2026-01-04", "2025-12-31"]
    answers = [lookup("+33639989999", on=day, root=tmp_path).may_be_texted for day in days]
    assert answers == [False, False, True, None]
    with pytest.raises(ValueError, match="in the future"):
        lookup(STOPPED, on=today + timedelta(days=1), root=tmp_path)
    with pytest.raises(ValueError, match="is not a date or time") as refused:
        lookup(STOPPED, on="0639980001", root=tmp_path)
    assert "0639980001" not in str(refused.value)  # as if the two had been swapped


def test_before_the_first_sync_there_is_no_answer(tmp_path: Path) -> None:
    Syncer(tmp_path).sync([Row(1, STOPPED)])
    found = lookup(STOPPED, on=START, root=tmp_path)
    assert (found.may_be_texted, found.accounts[0].may_be_texted) == (None, None)
    assert found.accounts[0].known_since == START + HOUR
    assert found.accounts[0].verified_at is None
    assert [row.in_force for row in found.accounts[0].opt_outs] == [False]


def test_for_a_past_time_the_last_complete_list_is_the_one_known_then(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path)
    syncer.sync(rows(9))
    syncer.sync(rows(10), nb_data=11)
    syncer.sync(rows(11))
    verified = [lookup(FREE, on=START + n * HOUR, root=tmp_path).accounts[0].verified_at for n in range(1, 4)]
    assert verified == [START + HOUR, START + HOUR, START + 3 * HOUR]


def test_a_row_from_a_clock_that_is_a_little_ahead_blocks_already(tmp_path: Path) -> None:
    Syncer(tmp_path).sync([Row(1, STOPPED)], at=datetime.now(UTC) + timedelta(minutes=5))
    assert lookup(STOPPED, root=tmp_path).may_be_texted is False
    today = datetime.now(ZoneInfo(PARIS)).date()
    assert lookup(STOPPED, on=today, root=tmp_path).may_be_texted is False


# Lists that cannot tell


def test_without_a_recent_list_there_is_no_answer_about_now(tmp_path: Path) -> None:
    with pytest.raises(OutdatedListError, match="There is no data root"):
        lookup(STOPPED, root=tmp_path / "none")
    with pytest.raises(OutdatedListError, match="There is no list below"):
        lookup(STOPPED, root=tmp_path)
    Syncer(tmp_path).sync([Row(1, STOPPED)], at=datetime.now(UTC) - 5 * HOUR)
    assert lookup(STOPPED, root=tmp_path).may_be_texted is False
    with pytest.raises(OutdatedListError, match="more than 4 h ago"):
        lookup(STOPPED, root=tmp_path, max_age=4 * HOUR)
    assert lookup(STOPPED, root=tmp_path, on=datetime.now(UTC), max_age=HOUR).may_be_texted is False


def test_a_sync_that_is_not_finished_does_not_keep_an_answer_back(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path)
    syncer.sync(rows(9))
    syncer.fetch(response_body([*rows(9), Row(99, "+33639989999")]))
    assert lookup("+33639989999", root=tmp_path, max_age=ANY_AGE).may_be_texted is True
    syncer.merge()  # its suppression_list is not made yet
    assert lookup("+33639989999", root=tmp_path, max_age=ANY_AGE).may_be_texted is False


# Accounts


def test_a_number_on_the_list_of_another_account_than_the_one_asked_for_is_told(tmp_path: Path) -> None:
    Syncer(tmp_path, "lyon").sync([Row(1, STOPPED)])
    Syncer(tmp_path, "paris").sync([Row(1, FREE)])
    found = lookup(STOPPED, root=tmp_path, account="paris", max_age=ANY_AGE)
    assert (found.may_be_texted, found.other_accounts) == (True, ("lyon",))
    assert lookup(STOPPED, on=START, root=tmp_path, account="paris").other_accounts == ()  # not yet known
    both = lookup(STOPPED, root=tmp_path, max_age=ANY_AGE)
    assert [(answer.account, answer.may_be_texted) for answer in both.accounts] == [("lyon", False), ("paris", True)]
    assert (both.may_be_texted, both.other_accounts) == (False, ())
    with pytest.raises(OutdatedListError, match=r"“nice” is not one of the accounts \(lyon, paris\)"):
        lookup(STOPPED, root=tmp_path, account="nice")


def test_an_account_without_a_list_answers_for_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncer = Syncer(tmp_path, "lyon")
    syncer.sync([Row(1, STOPPED)])
    monkeypatch.setenv("SMSPARTNER_ACCOUNTS", "lyon,nice")
    with pytest.raises(OutdatedListError, match="no list of the account “nice”"):
        lookup(STOPPED, root=tmp_path, max_age=ANY_AGE)
    for number, may_be_texted in [(STOPPED, False), (FREE, True)]:  # nothing was known from “nice” then
        found = lookup(number, on=syncer.now, root=tmp_path)
        assert found.may_be_texted is may_be_texted
        assert [answer.may_be_texted for answer in found.accounts] == [may_be_texted, None]
    assert lookup(STOPPED, on=syncer.now, root=tmp_path, account="nice").may_be_texted is None


def test_an_account_that_was_retired_before_its_first_list_has_no_answer(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path, "lyon")
    with syncer.store.locked("lyon"):
        register(syncer.store, "lyon", now=START)
    retire(syncer.store, "lyon", now=START)
    found = lookup(STOPPED, root=tmp_path)
    assert (found.may_be_texted, found.accounts[0].known_since) == (None, None)
