"""Replays the kept responses into a fresh data root, to show what they give by this version's rules.

The data root that is replayed is only read, without its lock: a kept response never changes. A replay differs from what
stands there in these points:

- Only responses that differed from the one before are kept. One that repeated it only moved `verified_at`; the newest
  is therefore replayed at both times, when it first came and when it last came. While removals were withheld, or the
  response was incomplete, however, each repetition was merged anew.
- Removals that a person accepted are withheld again, because that decision is not in any response.
- It begins with the oldest response kept (STOP_PIPELINE_RAW_DAYS), so no `first_seen_at` is earlier than that.
- A response that was fetched, but whose sync was killed before the merge, is merged here.
- A response that is refused is skipped and named. Its sync failed as well.
"""

from dataclasses import dataclass
from pathlib import Path

from stop_pipeline import sync
from stop_pipeline.errors import ApiError, ForeignListError, StoreError
from stop_pipeline.settings import Format
from stop_pipeline.table.merge import RemovalPolicy
from stop_pipeline.table.store import Store


@dataclass(frozen=True)
class Rebuilt:
    """The result of replaying one account."""

    replayed: int  # responses that were merged
    skipped: tuple[tuple[str, str], ...]  # file name of each response that was refused, and why
    rows: int  # periods in `stops`
    open_rows: int  # periods that have not ended


def fresh_root(into: str | Path, source: Store) -> Store:
    """The store at `into`, to replay `source` into; a StoreError if it is not empty, or inside that data root."""
    target = Store(into)
    if target.files.below(""):
        raise StoreError(f"{into} is not empty: name an empty folder, or one that does not exist yet.")
    if source.files.encloses(target.root):
        raise StoreError(f"{into} is inside the data root {source.root}: name a folder outside it.")
    return target


def rebuild(source: Store, into: Store, account: str, *, timezone: str) -> Rebuilt:
    """Replay every response of an account that `source` keeps into a fresh data root, by their fetch times.

    A StoreError says that there is none, or that one of the two data roots refuses.
    """
    responses = source.responses.all(account)
    if not responses:
        raise StoreError(f"No response of the account “{account}” is kept below {source.files.shown('raw')}.")
    replays = [(response, response.fetched_at) for response in responses]
    newest = source.responses.newest(account)
    if newest is not None and newest.file == responses[-1].file and newest.fetched_at > responses[-1].fetched_at:
        replays.append((responses[-1], newest.fetched_at))
    skipped: dict[str, str] = {}
    expired: set[str] = set()
    for response, fetched_at in replays:
        try:
            body, _ = source.responses.read(account, response)
        except StoreError as error:
            if response in source.responses.all(account):
                skipped[response.file] = str(error)
            else:
                expired.add(response.file)  # a sync has removed it meanwhile
            continue
        response_format: Format = "xml" if response.format == "xml" else "json"
        try:
            replay(into, account, sync.FetchedBefore(body, fetched_at, response_format), timezone=timezone)
        except (ApiError, ForeignListError) as error:
            skipped[response.file] = str(error)
    state = into.state(account)
    if state.commit is not None:
        sync.derive_tables(into, account)
    replayed = len(responses) - len(skipped) - len(expired)
    return Rebuilt(replayed, tuple(skipped.items()), state.total_rows, state.open_rows)


def replay(into: Store, account: str, client: sync.Client, *, timezone: str) -> None:
    """Sync what a client fetches, up to its commit."""
    sync.fetch(into, account, client)
    sync.parse(into, account, timezone=timezone)
    sync.merge(into, account, RemovalPolicy())
