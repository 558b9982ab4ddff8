"""Makes the newest response a snapshot: all of its rows, or only those that it appends to the response merged last."""

import dataclasses
from datetime import datetime

from stop_pipeline.errors import StoreError
from stop_pipeline.phone_numbers import READING_RULES
from stop_pipeline.smspartner.document import ListDocument, appended_span, open_list, text_sha256
from stop_pipeline.smspartner.response import Snapshot, parse, parse_span, shown_fields
from stop_pipeline.table.files import reading_temporary
from stop_pipeline.table.periods import fingerprint, split_by_month
from stop_pipeline.table.state import KeptResponse, ListText, SnapshotInfo, State
from stop_pipeline.table.store import Store


def make_snapshot(
    store: Store, account: str, kept: KeptResponse, state: State, *, fetched_at: datetime, timezone: str
) -> SnapshotInfo:
    """Parse a kept response as of a fetch time, and write the snapshot, under the account's lock.

    Rows that the commit `state` merged already are not parsed again if the response only appends to them.

    Raises:
        UnreadableResponseError: it is not a list of rows.
    """
    body = store.responses.unpack(account, kept)
    with reading_temporary(body):
        document = open_list(body, kept.format)
        appended = _parse_appended(document, state, fetched_at=fetched_at, timezone=timezone)
        snapshot = appended or parse(document, fetched_at=fetched_at, timezone=timezone)
        text = None
        if document.span is not None and snapshot.span is not None:
            size = document.span[1] - document.span[0]
            text = ListText(kept.format, size, text_sha256(document, document.span))
    base = state if appended else State()
    info = SnapshotInfo(
        fetched_at=fetched_at,
        sha256=kept.sha256,
        timezone=timezone,
        reading_rules=READING_RULES,
        rows=base.rows + snapshot.rows,
        listed=base.counts.listed + len(snapshot.listed),
        rejected=base.rejected + len(snapshot.rejected),
        duplicates=base.duplicates + snapshot.duplicates,
        code=document.code,
        nb_data=document.nb_data,
        extra_fields=shown_fields({*base.extra_fields, *snapshot.extra_fields}),
        any_too_late=snapshot.any_too_late,
        text=text,
        builds_on=base.commit,
        months={month: fingerprint(rows) for month, rows in split_by_month(snapshot.listed).items()},
    )
    store.write_snapshot(account, snapshot.listed, snapshot.rejected, info)
    return info


def newest_snapshot(store: Store, account: str, state: State) -> SnapshotInfo:
    """What the snapshot is, with the time at which its bytes were last fetched.

    One that was read by other rules, or builds on a commit that no longer stands, is made again from the kept response.

    Raises:
        StoreError: no response is parsed yet, the snapshot is damaged, or it cannot be made again because a later
            response is kept by now.
    """
    info, kept = store.snapshot_info(account), store.responses.newest(account)
    if info is None:
        raise StoreError(
            f"The account “{account}” has no snapshot: no response is parsed yet, or the file cannot be read. "
            "Materialize stop_snapshot first."
        )
    usable = is_usable(info, state)
    if kept is not None and kept.sha256 == info.sha256:
        if not usable:
            info = make_snapshot(store, account, kept, state, fetched_at=info.fetched_at, timezone=info.timezone)
        return dataclasses.replace(info, fetched_at=max(info.fetched_at, kept.fetched_at))
    if not usable:
        raise StoreError(f"The snapshot of the account “{account}” is outdated: materialize stop_snapshot first.")
    return info


def is_usable(info: SnapshotInfo, state: State) -> bool:
    """Whether the snapshot, read by today's rules, holds all rows, or those appended to the commit that stands.

    Once it is merged itself, nothing is to be merged any more.
    """
    holds_all = info.builds_on is None or info.builds_on == state.commit or info.sha256 == state.sha256
    return holds_all and info.reading_rules == READING_RULES


def _parse_appended(document: ListDocument, state: State, *, fetched_at: datetime, timezone: str) -> Snapshot | None:
    """The rows that a response appends to the one merged last; None if it is not exactly that.

    Only rows with new ids are appended: any other could contradict a row that is not read again.
    """
    same_rules = state.reading_rules == READING_RULES and state.settings.get("timezone") == timezone
    if not same_rules or state.text is None or state.text.format != document.format:
        return None
    span = appended_span(document, size=state.text.size, sha256=state.text.sha256)
    snapshot = span and parse_span(document, span, fetched_at=fetched_at, timezone=timezone)
    if not snapshot or len(snapshot.rejected) or snapshot.duplicates or snapshot.listed.empty:
        return None
    return snapshot if snapshot.listed["id"].min() > state.largest_id else None
