"""One data root: which file is where, the commit, and rows in and out.

    raw/account=A/…                                         responses as received (`responses`)
    snapshot/account=A/stop_snapshot.parquet                the newest response, parsed, or what it appends
    stops/account=A/created_month=YYYY-MM/stops.parquet     every opt-out ever listed
    rejected/account=A/rejected.parquet                     every malformed row ever listed
    commits/account=A/commits.parquet                       every response that was merged
    suppression_list/account=A/suppression_list.parquet
    stops_per_day/account=A/stops_per_day.parquet
    state/account=A.json                                    the commit
    accounts/account=A.json                                 the account belongs to this data root
    .work/                                                  locks, temporary and staged files

Several files change together by `commit`: the new files are staged, then the state that names them replaces the old
one, then they are published, that is, moved to their places. Whoever locks the account next publishes what a killed
process left.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stop_pipeline import schema
from stop_pipeline.errors import ConfigurationError, StoreError, counted
from stop_pipeline.schema import TableSchema, to_pandas
from stop_pipeline.settings import data_root, expanded, is_remote
from stop_pipeline.table.bucket import BucketFiles
from stop_pipeline.table.files import MADE_AGAIN, WORK_FOLDER, Files, read_document, write_document
from stop_pipeline.table.parquet import decode, encode, info_of, note_of
from stop_pipeline.table.periods import month_info, split_by_month, with_commit
from stop_pipeline.table.responses import Responses
from stop_pipeline.table.state import (
    DerivedInfo,
    MonthInfo,
    SnapshotInfo,
    State,
    from_document,
    sealed,
    state_from_document,
    state_of_version_1,
)

FILES_AT_ONCE = 4
"""Files that are read or written at the same time."""

_FOLDERS_OF_A_ROOT = {WORK_FOLDER, "accounts", "raw", "state"}  # one of them is there from the first sync on
_ACCOUNT = re.compile(r"account=([a-z][a-z0-9_]*)(?:\.json)?")

Item = TypeVar("Item")
Result = TypeVar("Result")


def month_file(account: str, month: str) -> str:
    """Name of a month's file of `stops`; with `*` as the month, the pattern of all."""
    return f"stops/account={account}/created_month={month}/stops.parquet"


def table_file(table: str, account: str) -> str:
    """Name of the file of a table that has one file per account."""
    return f"{table}/account={account}/{table}.parquet"


def snapshot_file(account: str) -> str:
    """Name of the file of the snapshot."""
    return f"snapshot/account={account}/stop_snapshot.parquet"


def recorded_files(account: str, state: State) -> dict[str, MonthInfo]:
    """The files of `stops` and `rejected` that a commit has, by name."""
    files = {month_file(account, month): info for month, info in state.months.items()}
    return files | ({table_file(schema.REJECTED.name, account): state.rejected_file} if state.rejected_file else {})


class Store:
    """One data root: a folder, or the URI of a bucket and a prefix.

    Every method that writes is to be called under `locked`. Every method raises a StoreError if the data root refuses,
    or if a file is damaged or missing.
    """

    def __init__(self, root: str | Path) -> None:
        try:
            self.files: Files = BucketFiles(str(root)) if is_remote(root) else Files(Path(expanded(str(root))))
        except ValueError as error:
            raise ConfigurationError(f"The data root {error}.") from None
        self.responses = Responses(self.files)

    @classmethod
    def existing(cls, root: str | Path | None) -> "Store":
        """The store of a data root that exists, by default the one of the settings; a StoreError says that it does not.

        A folder that holds other things is none: taken for an empty list, it would block nobody.
        """
        store = cls(root or data_root())
        found = store.files.matching("*")
        if not found and not store.files.has_root():
            raise StoreError(
                f"There is no data root at {store.root}: run “stop-pipeline run” (or “demo”) first, or set "
                "STOP_PIPELINE_DATA (in Python, give root=…)."
            )
        if found and _FOLDERS_OF_A_ROOT.isdisjoint(found):
            raise StoreError(f"{store.root} is not a data root: name the folder that has “state” and “stops” in it.")
        return store

    @property
    def root(self) -> str:
        """The data root, absolute, for a person to read."""
        return self.files.shown()

    def uri(self, table: str, account: str) -> str:
        """The URI of the folder that holds a table of the account."""
        return self.files.uri(f"{table}/account={account}")

    @contextmanager
    def locked(self, account: str) -> Iterator[None]:
        """Hold the account's lock, and publish what a killed process has committed but not published."""
        with self.files.locked(account):
            state = self.state(account)
            if state.staged:
                self._publish(account, state)
            self.files.discard_staged(account)
            yield

    def committed_accounts(self) -> list[str]:
        """The accounts that have a commit, or have lost it, of which `state` raises an error."""
        patterns = ("stops/account=*", "commits/account=*", "state/account=*.json")
        return sorted({account for pattern in patterns for account in self._accounts_in(pattern)})

    def accounts_seen(self) -> list[str]:
        """Every account that has anything below the data root."""
        return self._accounts_in("*/account=*")

    def _accounts_in(self, pattern: str) -> list[str]:
        """The accounts whose files or folders match; what only looks like one, such as a copy, is left out."""
        names = (name.split("/") for name in self.files.matching(pattern))
        accounts = {_ACCOUNT.fullmatch(name) for folder, name in names if not folder.startswith(".")}
        return sorted({account[1] for account in accounts if account})

    # The commit

    def state(self, account: str) -> State:
        """The commit that stands; an empty state before the first.

        Raises:
            StoreError: a later version of this package wrote it, or it is missing though there are tables.
        """
        name = f"state/account={account}.json"
        while True:
            document = read_document(self.files, name, dict)
            try:
                return self._state_of(account, name, document)
            except StoreError:
                # The first sync, or an upgrade, may have replaced in between what this was about.
                if read_document(self.files, name, dict) == document:
                    raise

    def _state_of(self, account: str, name: str, document: Mapping[str, Any] | None) -> State:
        """The commit that the content of a state file is; None if there is no file."""
        if document is None:
            tables = (
                table_file(table.name, account) for table in (schema.COMMITS, schema.REJECTED, schema.SUPPRESSION_LIST)
            )
            left = [*self.files.matching(month_file(account, "*")), *filter(self.files.exists, tables)]
            if left:
                raise StoreError(
                    f"There is {self.files.shown(left[0])}, but no commit: restore {name} from a backup, after "
                    "everything else."
                )
            return State()
        version = document.get("schema_version")
        if isinstance(version, int) and version > schema.SCHEMA_VERSION:
            raise StoreError(
                f"{self.files.shown(name)} has schema version {version}, and this version of stop_pipeline reads up to "
                f"{schema.SCHEMA_VERSION}: install the version that wrote it."
            )
        with self.files.reading(name):
            if version == 1:
                return state_of_version_1(document, self.recorded_months(account), self.recorded_rejected(account))
            return state_from_document(document)

    def write_state(self, account: str, state: State) -> None:
        """Replace the commit, or what is known about it."""
        state = dataclasses.replace(state, schema_version=schema.SCHEMA_VERSION)
        write_document(self.files, account, f"state/account={account}.json", sealed(state))

    def commit(
        self,
        account: str,
        state: State,
        months: Mapping[str, pd.DataFrame],
        rejected: pd.DataFrame | None = None,
    ) -> State:
        """Write some months, `rejected` and the next row of `commits`, as one commit.

        Args:
            account: Account name.
            state: The new state, as far as it does not follow from the files.
            months: All periods (`schema.STOPS`) of each month to be written; without rows, its file is removed.
            rejected: All periods of malformed rows (`schema.REJECTED`); None leaves their file as it is.

        Returns:
            The state as written.
        """

        def stage_month(month: str) -> tuple[str | None, MonthInfo]:
            return self._stage(account, months[month], schema.STOPS)

        staged_months = dict(zip(months, self.in_threads(stage_month, months), strict=True))
        staged = {month_file(account, month): name for month, (name, _) in staged_months.items()}
        infos = {**state.months, **{month: info for month, (_, info) in staged_months.items()}}
        rejected_file = state.rejected_file
        if rejected is not None:
            name = table_file(schema.REJECTED.name, account)
            staged[name], rejected_file = self._stage(account, rejected, schema.REJECTED)
        commits = self.read_commits(account, state)
        if len(commits) > state.commits:
            staged[table_file(schema.COMMITS.name, account)] = self.files.stage(
                account, encode(commits, schema.COMMITS, {})
            )
        state = dataclasses.replace(
            state,
            months={month: info for month, info in sorted(infos.items()) if info.rows},
            rejected_file=rejected_file if rejected_file and rejected_file.rows else None,
            commits=len(commits),
            staged=staged,
        )
        self.write_state(account, state)
        return self._publish(account, state) if staged else state

    def _stage(self, account: str, rows: pd.DataFrame, table: TableSchema) -> tuple[str | None, MonthInfo]:
        info = month_info(rows)
        if not info.rows:
            return None, info
        return self.files.stage(account, encode(rows, table, info)), info

    def _publish(self, account: str, state: State) -> State:
        self.files.publish(state.staged)
        state = dataclasses.replace(state, staged={})
        self.write_state(account, state)
        return state

    # Opt-outs and malformed rows

    def recorded_months(self, account: str) -> dict[str, MonthInfo]:
        """What the files of `stops` say about themselves, by month."""

        def recorded(name: str) -> tuple[str, MonthInfo]:
            with self.files.reading(name):
                month = name.split("/")[-2].removeprefix("created_month=")
                return month, info_of(self.files.footer(name), MonthInfo)

        return dict(self.in_threads(recorded, self.files.matching(month_file(account, "*"))))

    def recorded_rejected(self, account: str) -> MonthInfo | None:
        """What the file of `rejected` holds; None if there is none."""
        name = table_file(schema.REJECTED.name, account)
        if not self.files.exists(name):
            return None
        with self.files.reading(name), self.files.open(name) as file:
            return month_info(to_pandas(decode(file, schema.REJECTED)))

    def read_stops(
        self, account: str, state: State, columns: Sequence[str], months: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Some columns of all periods of a commit, or of some months: in their order, sorted within each.

        A month that the commit does not have is empty.
        """

        def read(month: str) -> pa.Table:
            return self._read_periods(account, state, month_file(account, month), state.months[month], columns)

        names = state.months if months is None else [month for month in months if month in state.months]
        empty = pa.schema([schema.STOPS.arrow.field(name) for name in columns]).empty_table()
        return to_pandas(pa.concat_tables([empty, *self.in_threads(read, names)]))

    def read_rejected(self, account: str, state: State) -> pd.DataFrame:
        """All periods of malformed rows (`schema.REJECTED`), sorted."""
        name, recorded = table_file(schema.REJECTED.name, account), state.rejected_file
        return self.read_periods(account, state, name, recorded) if recorded else schema.REJECTED.empty

    def read_periods(self, account: str, state: State, name: str, recorded: MonthInfo) -> pd.DataFrame:
        """All periods of one of the `recorded_files` of a commit."""
        return to_pandas(self._read_periods(account, state, name, recorded))

    def refuse_older(self, account: str, state: State, name: str, rows: int, recorded: MonthInfo) -> None:
        """Refuse a file with fewer rows than the commit records, as one from an older backup has: it lacks opt-outs.

        A sync only adds rows; but an upgrade may join some while this process reads.
        """
        if rows < recorded.rows and self.state(account).months == state.months:
            raise StoreError(
                f"{self.files.shown(name)} holds {counted(rows, 'row')}, but the commit records {recorded.rows:,}: "
                "restore it as it was at the last commit, or all files of the account, its state too, from one backup."
            )

    def read_commits(self, account: str, state: State) -> pd.DataFrame:
        """Every response that was merged (`schema.COMMITS`), in order, that of this commit included."""
        name, commits = table_file(schema.COMMITS.name, account), schema.COMMITS.empty
        if state.commits:
            advice = "Restore it from a backup; if there is none, remove it, and the next sync says how to go on."
            with (
                self.files.reading(name, advice),
                suppress(FileNotFoundError),
                self.open_committed(name, state) as file,
            ):
                commits = to_pandas(decode(file, schema.COMMITS)).iloc[: state.commits]
        if len(commits) < state.commits:
            raise StoreError(
                f"{self.files.shown(name)} holds {counted(len(commits), 'row')}, but the commit records "
                f"{state.commits:,}: restore it from a backup. If there is none, write {len(commits)} for “commits” in "
                f"state/account={account}.json, and delete its line “state_sha256”; lookup can then no longer name the "
                "responses that are missing."
            )
        return with_commit(commits, state)

    def open_committed(self, name: str, state: State) -> pa.NativeFile:
        """A file as the commit has it: where it is staged, or else where it is published."""
        if staged := state.staged.get(name):
            with suppress(FileNotFoundError):  # it has been published since the state was read
                return self.files.open(staged)
        return self.files.open(name)

    # The newest response, parsed

    def snapshot_info(self, account: str) -> SnapshotInfo | None:
        """What the snapshot is; None if there is none, or it is damaged and has to be made again."""
        with suppress(StoreError), self.files.reading(snapshot_file(account)):
            return from_document(SnapshotInfo, note_of(self.files.footer(snapshot_file(account))))
        return None

    def write_snapshot(self, account: str, listed: pd.DataFrame, rejected: pd.DataFrame, info: SnapshotInfo) -> None:
        """Replace the snapshot: a row group for each month of good rows, and a last one of malformed rows.

        Good rows are `schema.LISTED` and malformed ones `schema.REJECTED_ROWS`, sorted. `info` goes into the footer.
        """
        groups = [len(rows) for rows in split_by_month(listed).values()]
        rows = pd.concat([schema.STOP_SNAPSHOT.empty, listed, rejected], ignore_index=True)  # what a part lacks is null
        data = encode(rows, schema.STOP_SNAPSHOT, info, row_groups=[*groups, len(rejected)])
        self.files.write(account, snapshot_file(account), data)

    def read_snapshot(
        self, account: str, info: SnapshotInfo, months: Collection[str]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The good rows (`schema.LISTED`) of some months of a snapshot, and its malformed rows (`REJECTED_ROWS`)."""
        name = snapshot_file(account)
        groups = [group for group, month in enumerate(info.months) if month in months]
        advice = "Materialize stop_snapshot again, or leave that to the next sync."
        with self.files.reading(name, advice), self.files.open(name) as file:
            listed = decode(file, schema.LISTED, row_groups=groups)
            rejected = decode(file, schema.REJECTED_ROWS, row_groups=[len(info.months)])
        return to_pandas(listed), to_pandas(rejected)

    # Tables made from a commit

    def derived_info(self, table: TableSchema, account: str) -> DerivedInfo | None:
        """What a derived table is; None if there is none, or it is damaged and has to be made again."""
        name = table_file(table.name, account)
        with suppress(StoreError), self.files.reading(name):
            return info_of(self.files.footer(name), DerivedInfo)
        return None

    def read_derived(self, table: TableSchema, account: str) -> tuple[pd.DataFrame, DerivedInfo]:
        """A derived table and what it is, from one version of its file."""
        name = table_file(table.name, account)
        with self.files.reading(name, MADE_AGAIN), self.files.open(name) as file:
            return to_pandas(decode(file, table)), info_of(pq.read_metadata(file), DerivedInfo)

    def write_derived(self, table: TableSchema, account: str, rows: pd.DataFrame, info: DerivedInfo) -> None:
        """Replace a derived table."""
        self.files.write(account, table_file(table.name, account), encode(rows, table, info))

    def is_intact(self, name: str) -> bool:
        """Whether a file that can be made again can be read from its first row to its last, which is what this does."""
        with suppress(StoreError), self.files.reading(name), self.files.open(name) as file:
            for _ in pq.ParquetFile(file, page_checksum_verification=True).iter_batches():
                pass
            return True
        return False

    def in_threads(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """What `work` gives for each item, in order; several files at a time."""
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return list(pool.map(work, items))

    def _read_periods(
        self, account: str, state: State, name: str, recorded: MonthInfo, columns: Sequence[str] | None = None
    ) -> pa.Table:
        with self.files.reading(name), self.open_committed(name, state) as file:
            table = decode(file, schema.STOPS if name.startswith("stops/") else schema.REJECTED, columns)
        self.refuse_older(account, state, name, table.num_rows, recorded)
        return table
