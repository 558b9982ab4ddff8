"""A campaign is checked against lists that are recent and complete, of every account, or not at all."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stop_pipeline import read_suppression_list
from stop_pipeline.campaign.suppression import suppress
from stop_pipeline.errors import OutdatedListError
from stop_pipeline.table.accounts import retire
from stop_pipeline.table.reading import current_list
from stop_pipeline_tests.campaign.lists import DAY, FREE, HOUR, STOPPED, split, synced
from stop_pipeline_tests.support.syncing import Row, response_body


def refusal(root: Path, *, account: str | None = None, max_age: timedelta | str = DAY) -> str:
    with pytest.raises(OutdatedListError) as caught:
        suppress(pd.DataFrame({"phone": [FREE]}), root=root, account=account, max_age=max_age)
    return str(caught.value)


def blocked_of(root: Path, phones: Sequence[str], **arguments: Any) -> list[str]:
    return list(suppress(pd.DataFrame({"phone": phones}), root=root, **arguments).blocked["phone"])


def test_without_a_list_nothing_is_split(tmp_path: Path) -> None:
    assert "There is no data root" in refusal(tmp_path / "data")
    (tmp_path / "data").mkdir()
    assert "run “stop-pipeline run” first" in refusal(tmp_path / "data")


def test_an_old_list_is_refused_by_its_age(tmp_path: Path) -> None:
    root = synced(tmp_path / "data", ago=5 * HOUR).root
    assert blocked_of(root, [STOPPED, FREE]) == [STOPPED]
    assert blocked_of(root, [STOPPED, FREE], max_age="301m") == [STOPPED]
    sentence = refusal(root, max_age="4h")
    assert "more than 4 h ago" in sentence
    assert "run “stop-pipeline run --account main” first" in sentence
    for no_age in ("soon", pd.NaT, 24, None):
        with pytest.raises(ValueError, match="90m"):
            blocked_of(root, [FREE], max_age=no_age)


def test_a_list_that_was_found_unchanged_is_as_recent_as_that(tmp_path: Path) -> None:
    syncer = synced(tmp_path / "data", ago=30 * HOUR)
    refusal(syncer.root)
    syncer.sync([Row(1, STOPPED)], at=datetime.now(UTC))
    assert blocked_of(syncer.root, [STOPPED]) == [STOPPED]


def test_a_list_that_was_never_complete_is_refused(tmp_path: Path) -> None:
    sentence = refusal(synced(tmp_path, nb_data=2).root)
    assert "was never complete: run “stop-pipeline run --account main” to see why its last response was not" in sentence


def test_what_is_committed_blocks_before_the_list_is_made_again(tmp_path: Path) -> None:
    syncer = synced(tmp_path)
    syncer.fetch(response_body([Row(1, STOPPED), Row(2, FREE)]), at=datetime.now(UTC))
    syncer.merge()
    assert blocked_of(tmp_path, [STOPPED, FREE]) == [STOPPED, FREE]
    assert sorted(read_suppression_list(tmp_path)["phone_number"]) == sorted([STOPPED, FREE])


def test_a_list_from_the_future_means_a_wrong_clock(tmp_path: Path) -> None:
    assert "set this machine's clock" in refusal(synced(tmp_path / "data", ago=-HOUR).root)


def test_an_incomplete_list_from_the_future_means_that_newer_ones_are_left_out(tmp_path: Path) -> None:
    syncer = synced(tmp_path)
    syncer.sync([Row(1, STOPPED)], nb_data=2, at=datetime.now(UTC) + HOUR)
    assert "newer responses are left out: set this machine's clock" in refusal(tmp_path)


def test_a_damaged_list_follows_from_the_rows_that_it_was_made_of(tmp_path: Path) -> None:
    root = synced(tmp_path).root
    (root / "suppression_list/account=main/suppression_list.parquet").write_bytes(b"no Parquet")
    assert blocked_of(root, [STOPPED, FREE]) == [STOPPED]
    for month in (root / "stops").rglob("*.parquet"):
        month.write_bytes(b"no Parquet")
    assert "stops.parquet: it is damaged" in refusal(root)


def test_a_number_that_any_account_lists_is_blocked_unless_one_is_named(tmp_path: Path) -> None:
    root = synced(tmp_path).root
    synced(root, FREE, account="lyon")
    assert blocked_of(root, [STOPPED, FREE]) == [STOPPED, FREE]
    assert blocked_of(root, [STOPPED, FREE], account="lyon") == [FREE]
    assert "“nice” is not one of the accounts (lyon, main)" in refusal(root, account="nice")


def test_one_account_whose_list_is_old_or_missing_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = synced(tmp_path).root
    monkeypatch.setenv("SMSPARTNER_ACCOUNTS", "main,nice")
    assert "no list of the account “nice”" in refusal(root)
    monkeypatch.delenv("SMSPARTNER_ACCOUNTS")
    synced(root, FREE, account="lyon", ago=2 * DAY)
    assert "account “lyon” was last verified" in refusal(root)
    assert blocked_of(root, [FREE, STOPPED], account="main") == [STOPPED]


def test_of_several_lists_the_age_is_that_of_the_oldest_and_rows_without_a_number_add_up(tmp_path: Path) -> None:
    synced(tmp_path, STOPPED, "unknown")
    older = synced(tmp_path, "unknown", account="nice", ago=5 * HOUR)
    current = current_list(tmp_path, None, max_age=DAY)
    assert (current.verified_at, current.unreadable_rows) == (older.now, 2)
    retire(older.store, "nice", now=datetime.now(UTC))  # its list need not be recent any more
    assert current_list(tmp_path, None, max_age=HOUR).verified_at > older.now
    assert current_list(tmp_path, "nice", max_age=HOUR).verified_at == older.now


def test_of_two_accounts_the_earlier_opt_out_is_given(tmp_path: Path) -> None:
    root = synced(tmp_path).root
    synced(root, {"id": 9, "phoneNumber": STOPPED, "createdAt": "2024-01-01 01:00:00"}, account="lyon")
    blocked = suppress(pd.DataFrame({"phone": [STOPPED]}), root=root).blocked
    assert list(blocked["first_stop_at"]) == [pd.Timestamp("2024-01-01", tz="UTC")]


def test_the_number_of_a_malformed_row_is_blocked_without_a_date(tmp_path: Path) -> None:
    root = synced(tmp_path, {"id": 1, "phoneNumber": STOPPED}).root
    blocked = suppress(pd.DataFrame({"phone": [STOPPED]}), root=root).blocked
    assert blocked["first_stop_at"].isna().all()
    (tmp_path / "campaign.csv").write_text("phone\n0639980001\n")
    done = split(tmp_path / "campaign.csv", tmp_path.with_name("checked"), root=root)
    assert done.parts["blocked"][0].read_text() == "phone;first_stop_at\n0639980001;\n"


def test_numbers_inside_other_text_are_blocked_and_rows_without_any_are_counted(tmp_path: Path) -> None:
    listed = ["tel:+33639980003", "+33639980004;+33639980005", "06_39_98_00_09", "+33639xxxx01", "inconnu"]
    root = synced(tmp_path / "data", *listed).root
    campaign = ["0639980003", "0639980004", "0639980005", "0639980009", "0639980001"]
    assert blocked_of(root, campaign) == campaign[:4]
    (tmp_path / "campaign.csv").write_text("phone\n")
    done = split(tmp_path / "campaign.csv", tmp_path / "checked", root=root)
    assert done.unreadable_rows == 2
