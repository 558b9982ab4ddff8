"""Which accounts belong to a data root: recorded when they are first synced, and kept when they are retired."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stop_pipeline import lookup, read_rejected, read_stops, read_stops_per_day, read_suppression_list
from stop_pipeline.errors import KeyRefusedError, OutdatedListError, StoreError
from stop_pipeline.table.accounts import AccountRecord, account_record, known_accounts, register, retire
from stop_pipeline.table.reading import current_list
from stop_pipeline.table.store import Store
from stop_pipeline.verify import verify
from stop_pipeline_tests.support.syncing import Row, Syncer, response_body, rows, tree

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def registered(store: Store, account: str, at: datetime = NOW) -> None:
    with store.locked(account):
        register(store, account, now=at)


def test_an_account_is_recorded_when_it_is_first_synced_even_if_that_fails(store: Store) -> None:
    syncer = Syncer(store.root)
    with pytest.raises(Exception, match="is not a list"):
        syncer.fetch(b"<html>")
    record = account_record(store, "main")
    assert record is not None
    assert (record.registered_at is None, record.retired_at) == (False, None)
    assert store.accounts_seen() == known_accounts(store) == ["main"]


def test_the_first_time_stays_and_a_retired_account_keeps_its_record_until_it_is_synced_again(store: Store) -> None:
    registered(store, "paris", NOW)
    registered(store, "paris", LATER)
    assert account_record(store, "paris") == AccountRecord(NOW, None)
    assert account_record(store, "lyon") is None
    for at in (LATER, LATER + timedelta(days=1)):
        retire(store, "paris", now=at)
        assert account_record(store, "paris") == AccountRecord(NOW, LATER)
    registered(store, "paris", LATER + timedelta(days=9))
    assert account_record(store, "paris") == AccountRecord(NOW, None)


def test_a_fetch_that_fails_does_not_put_a_retired_account_back_into_use(store: Store) -> None:
    syncer = Syncer(store.root, "paris")
    syncer.sync(rows(3))
    retire(store, "paris", now=LATER)
    with pytest.raises(KeyRefusedError):
        syncer.fetch(b'{"success": false, "code": 10, "message": "key"}')
    assert retired_at(store, "paris") == LATER
    syncer.sync(rows(4))
    assert retired_at(store, "paris") is None


def retired_at(store: Store, account: str) -> datetime | None:
    record = account_record(store, account)
    assert record is not None
    return record.retired_at


def test_an_account_that_an_earlier_version_synced_can_be_retired(store: Store) -> None:
    (Path(store.root) / "raw/account=paris").mkdir(parents=True)
    retire(store, "paris", now=NOW)
    assert account_record(store, "paris") == AccountRecord(None, NOW)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"registered_at": 5, "retired_at": null}', '{"registered_at": "x"}'])
def test_a_damaged_record_is_told_and_not_taken_for_none(store: Store, text: str) -> None:
    registered(store, "paris")
    (Path(store.root) / "accounts/account=paris.json").write_text(text)
    with pytest.raises(StoreError, match=r"account=paris\.json"):
        account_record(store, "paris")


def test_every_account_of_the_data_root_counts_whatever_the_environment_names(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for account in ("paris", "lyon"):
        Syncer(store.root, account).fetch(response_body(rows(1)))
    monkeypatch.delenv("SMSPARTNER_ACCOUNTS", raising=False)
    assert known_accounts(store) == ["lyon", "paris"]
    monkeypatch.setenv("SMSPARTNER_ACCOUNTS", "paris, nice")
    assert known_accounts(store) == ["lyon", "nice", "paris"]


def test_a_retired_account_still_blocks_its_numbers_but_need_not_be_fresh(store: Store) -> None:
    Syncer(store.root, "paris", start=NOW).sync([Row(1, "+33639980001")])
    Syncer(store.root, "lyon", start=LATER).sync([Row(1, "+33639980002")])
    now, max_age = LATER + timedelta(hours=2), timedelta(hours=12)
    with pytest.raises(OutdatedListError, match="“stop-pipeline retire paris”"):
        current_list(store.root, None, max_age=max_age, now=now)
    retire(store, "paris", now=now)
    numbers = current_list(store.root, None, max_age=max_age, now=now).numbers
    assert dict(numbers[["phone_number", "account"]].itertuples(index=False)) == {
        "+33639980001": "paris",
        "+33639980002": "lyon",
    }


def test_a_lost_commit_is_never_an_empty_list_not_even_of_a_retired_account(store: Store) -> None:
    Syncer(store.root, "paris", start=NOW).sync(rows(3))
    Syncer(store.root, "lyon", start=NOW).sync([Row(9, "+33639980009")])
    retire(store, "lyon", now=LATER)
    Path(store.root, "state/account=lyon.json").unlink()
    lost = r"There is .*/account=lyon/.*, but no commit: restore state/account=lyon\.json"
    _assert_refused(store, lost)
    for table in ("stops", "commits"):
        shutil.rmtree(Path(store.root, f"{table}/account=lyon"))
        if table == "stops":
            _assert_refused(store, lost)
    with pytest.raises(StoreError, match=lost):
        store.state("lyon")  # the suppression list is left


def test_a_retired_account_of_which_only_responses_are_left_is_no_empty_list(store: Store) -> None:
    Syncer(store.root, "paris", start=NOW).sync(rows(3))
    Syncer(store.root, "lyon", start=NOW).sync([Row(9, "+33639980009")])
    retire(store, "lyon", now=LATER)
    for path in Path(store.root).glob("*/account=lyon*"):
        if path.parent.name not in ("raw", "accounts"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(OutdatedListError, match=r"“lyon” has responses in .*/raw/account=lyon, but no list: restore"):
        current_list(store.root, None, max_age=timedelta(days=9), now=LATER)
    assert any("but no list: restore" in problem for problem in verify(store, "lyon").problems)
    Syncer(store.root, "lyon", start=LATER).sync([Row(9, "+33639980009")])
    retire(store, "lyon", now=LATER)
    assert len(current_list(store.root, None, max_age=timedelta(days=9), now=LATER).numbers) == 4


def test_an_account_is_retired_while_another_machine_syncs_it(store: Store) -> None:
    staged = store.files.stage("paris", b"what that machine has staged in a bucket")
    retire(store, "paris", now=NOW)
    assert store.files.exists(staged)


def _assert_refused(store: Store, lost: str) -> None:
    with pytest.raises(OutdatedListError, match=lost):
        current_list(store.root, None, max_age=timedelta(days=9), now=LATER)
    for read in (read_stops, read_rejected, read_stops_per_day, read_suppression_list):
        with pytest.raises(StoreError, match=lost):
            read(store.root)
    with pytest.raises(OutdatedListError, match=lost):
        lookup("+33639980009", root=store.root, account="lyon")
    before = tree(Path(store.root))
    with pytest.raises(StoreError, match=lost):
        Syncer(store.root, "lyon", start=LATER).sync(rows(3))
    assert tree(Path(store.root)) == before


def test_retired_accounts_alone_that_never_had_a_complete_list_are_no_list(store: Store) -> None:
    registered(store, "paris")
    Syncer(store.root, "lyon", start=NOW).sync(rows(3), nb_data=4)
    for account in ("paris", "lyon"):
        retire(store, account, now=LATER)
        with pytest.raises(OutdatedListError, match="was ever complete"):
            current_list(store.root, account, max_age=timedelta(days=9), now=LATER)


def test_an_account_without_a_list_blocks_every_campaign_until_it_is_retired(store: Store) -> None:
    Syncer(store.root, "paris", start=NOW).sync(rows(1))
    registered(store, "lyon")
    now = NOW + timedelta(hours=2)
    with pytest.raises(OutdatedListError, match="There is no list of the account “lyon”"):
        current_list(store.root, None, max_age=timedelta(days=1), now=now)
    retire(store, "lyon", now=now)
    assert len(current_list(store.root, None, max_age=timedelta(days=1), now=now).numbers) == 1
