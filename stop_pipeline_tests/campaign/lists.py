"""Data roots with a suppression list, made by real syncs, and campaigns split by them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from stop_pipeline.campaign.suppression import SuppressedFile, suppress_file
from stop_pipeline_tests.support.syncing import Row, Syncer

STOPPED, FREE = "+33639980001", "+33639980002"
CELLS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00\ufeff"), max_size=6
) | st.sampled_from(["two\nlines", "a\r\nb", '5" 2', ";,\t|", " "])
"""Cells of a campaign, of any text."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def synced(
    root: Path,
    *listed: str | Mapping[str, Any],
    account: str = "main",
    ago: timedelta = timedelta(0),
    nb_data: int | None = None,
) -> Syncer:
    """A data root whose list, of these numbers or rows, was fetched some time ago."""
    syncer = Syncer(root, account, start=datetime.now(UTC) - ago - HOUR)
    rows = [Row(n, row) if isinstance(row, str) else row for n, row in enumerate(listed or [STOPPED], start=1)]
    syncer.sync(rows, nb_data=nb_data)
    return syncer


def split(campaign: Path, into: Path, *, root: Path) -> SuppressedFile:
    """A campaign's file split by the lists of all accounts, none of which may be older than a day."""
    return suppress_file(campaign, "phone", into, root=root, account=None, max_age=DAY)
