"""The pipeline, top to bottom: five assets, each one step of a tick.

What belongs here: which step an asset runs, on what it depends, and how it is shown. What does not: the steps
themselves (`stop_pipeline.tick`). No asset has a retry policy: the client retries what can be retried, and a second
layer would multiply that and repeat what is permanent. The steps are imported where they run: Dagster loads this file
also to show it, in processes that never tick.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

import dagster as dg
from pydantic import Field

from stop_pipeline import schema
from stop_pipeline.defs import checks, metadata, pictures
from stop_pipeline.defs.resources import SmsPartnerResource, StoreResource
from stop_pipeline.errors import StopPipelineError
from stop_pipeline.guard import Guard
from stop_pipeline.model import MAX_REMOVED_SHARE

if TYPE_CHECKING:
    from stop_pipeline.tick import Derived

GROUP = "stop_list"
POOL = "stop_list"
"""One writer at a time: the pool's limit is 1 in the `dagster.yaml` that `stop-pipeline dev` makes. The store's lock
holds where the pool does not reach, and where two runs ask for it in the same instant, of which SQLite may let in both.
Of several accounts, which are to tick side by side, see `partitions`."""

OWNERS = ["team:compliance"]
CODE_VERSION = str(schema.SCHEMA_VERSION)


class _Shown(TypedDict):
    group_name: str
    pool: str
    owners: list[str]
    code_version: str
    kinds: set[str]
    tags: dict[str, str]
    metadata: dict[str, Any]


def _shown(table: schema.TableSchema, *keys: schema.Column, kinds: set[str], private: bool) -> _Shown:
    """How an asset is shown and grouped; `private` marks those that hold phone numbers."""
    return {
        "group_name": GROUP,
        "pool": POOL,
        "owners": OWNERS,
        "code_version": CODE_VERSION,
        "kinds": kinds,
        "tags": {"personal_data": "yes" if private else "no"},
        "metadata": {
            "dagster/column_schema": metadata.column_schema(table, *keys),
            "dagster/column_lineage": metadata.column_lineage(table),
        },
    }


@contextmanager
def _sentence_logged(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Why a step fails, on a line of its own among the run's events, where Dagster hides it below a traceback."""
    try:
        yield
    except StopPipelineError as error:
        context.log.error(str(error))  # noqa: TRY400 – the traceback follows anyway
        raise


@dg.asset(check_specs=checks.OF_RAW_STOP_LIST, **_shown(schema.RAW_STOP_LIST, kinds={"python", "json"}, private=True))
def raw_stop_list(
    context: dg.AssetExecutionContext, sms_partner: SmsPartnerResource, store: StoreResource
) -> dg.MaterializeResult:
    """The answer of SMS Partner's `stop-sms/list`, byte for byte as received.

    - **Source:** one HTTP GET, which gives the whole list each time.
    - **Cadence:** every tick of the schedule. The bytes are kept, compressed, only when they differ from the last ones,
      and for `STOP_PIPELINE_RAW_DAYS` once a newer answer is committed.
    - **A row** is an opt-out as SMS Partner lists it; one that is made now can show up as much as 48 hours later.
    - **Goes wrong when** the key is refused, the service is down, or what comes is no such list: the run fails with one
      sentence, and nothing changes.
    """
    from stop_pipeline import tick

    account = store.account(context)
    with _sentence_logged(context):
        fetched = tick.fetch(store.store(), account, sms_partner.client(account), timezone=sms_partner.timezone)
    return dg.MaterializeResult(
        metadata=metadata.of_fetched(fetched),
        data_version=dg.DataVersion(fetched.landed.sha256),
        check_results=checks.of_fetched(fetched),
    )


@dg.asset(deps=[raw_stop_list], **_shown(schema.STOP_SNAPSHOT, kinds={"pandas", "parquet"}, private=True))
def stop_snapshot(
    context: dg.AssetExecutionContext, sms_partner: SmsPartnerResource, store: StoreResource
) -> dg.MaterializeResult:
    """The newest answer as typed rows: good ones month by month, and malformed ones with the reason.

    - **Source:** the newest answer in `raw_stop_list`.
    - **Cadence:** every tick; an answer that is parsed already is not parsed again.
    - **A row** is a row of the answer; equal rows are collapsed. Rows in = kept + duplicates + rejected.
    - **Goes wrong when** the answer is no such list: the run fails. A malformed row does not stop the others.
    """
    from stop_pipeline import tick

    account = store.account(context)
    with _sentence_logged(context):
        parsed = tick.parse_newest(store.store(), account, timezone=sms_partner.timezone)
    return dg.MaterializeResult(
        metadata=metadata.of_parsed(parsed, store.store().uri("snapshot", account)),
        data_version=dg.DataVersion(parsed.info.sha256),
    )


class StopsConfig(dg.Config):
    """What a person can say of one run."""

    accept_removals: int | None = Field(
        default=None,
        ge=0,
        description="Accept this many removals at most, whatever their share, from an answer that is proven whole.",
    )
    max_removed_share: float = Field(
        default=MAX_REMOVED_SHARE,
        ge=0,
        le=1,
        description="Share of the open rows that one answer may take away without a person's word.",
    )


@dg.asset(
    deps=[stop_snapshot],
    check_specs=checks.OF_STOPS,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=24), warn_window=timedelta(hours=2)),
    **_shown(schema.STOPS, schema.ACCOUNT, schema.CREATED_MONTH, kinds={"pandas", "parquet"}, private=True),
)
def stops(context: dg.AssetExecutionContext, config: StopsConfig, store: StoreResource) -> dg.MaterializeResult:
    """Every opt-out ever listed, in Parquet by month; with it `rejected`, the malformed rows.

    - **Source:** `stop_snapshot`, compared with what was listed before.
    - **Cadence:** every tick; a month in which nothing changed keeps its file untouched.
    - **A row** is a period in which the list showed an opt-out unchanged: `first_seen_at` to `removed_at`. It is
      written once and ended at most once, so the table tells what was known at any time.
    - **Goes wrong when** the list is likely another account's: the run fails, and nothing changes. Removals that look
      wrong are withheld: a check fails, and says how to accept them.
    - **The chart** tells how long opt-outs took to be listed. It is drawn at most once an hour; until then it is a link
      to the run that drew it.
    """
    from stop_pipeline import tick

    account = store.account(context)
    guard = Guard(max_removed_share=config.max_removed_share, accept_removals=config.accept_removals)
    with _sentence_logged(context):
        applied = tick.apply_newest(store.store(), account, guard, raw_days=store.raw_days)
    return dg.MaterializeResult(
        metadata=metadata.of_applied(
            applied,
            store.store().uri("stops", account),
            pictures.of_stops(context, store.store(), account, applied.state),
        ),
        data_version=dg.DataVersion(applied.state.sha256 or applied.info.sha256),
        check_results=checks.of_applied(applied, account),
    )


@dg.asset(deps=[stops], **_shown(schema.SUPPRESSION_LIST, schema.ACCOUNT, kinds={"pandas", "parquet"}, private=True))
def suppression_list(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Whom not to text now.

    - **Source:** the open rows of `stops`, and those of `rejected` that bear a usable phone number.
    - **Cadence:** every tick; remade when the commit of `stops` changed.
    - **A row** is a phone number, with its earliest and latest opt-out.
    - **Goes wrong when** nothing is committed yet: materialise `stops` first.
    """
    from stop_pipeline import tick

    account = store.account(context)
    with _sentence_logged(context):
        derived = tick.derive_suppression_list(store.store(), account)
    shown = pictures.of_suppression_list(context, derived)
    return _derived_result(derived, store.store().uri("suppression_list", account), shown)


@dg.asset(deps=[stops], **_shown(schema.STOPS_PER_DAY, schema.ACCOUNT, kinds={"pandas", "parquet"}, private=False))
def stops_per_day(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """How many opt-outs were made, by day and country; no personal data.

    - **Source:** `stops`, ended rows too: an opt-out that no longer stands was made all the same.
    - **Cadence:** every tick; remade when the commit of `stops` changed.
    - **A row** is a local day and a country that had opt-outs.
    - **Goes wrong when** nothing is committed yet: materialise `stops` first.
    - **The chart** shows every day, and the last 90 by country. It is drawn at most once an hour; until then it is a
      link to the run that drew it.
    """
    from stop_pipeline import tick

    account = store.account(context)
    with _sentence_logged(context):
        derived = tick.derive_stops_per_day(store.store(), account)
    shown = pictures.of_stops_per_day(context, derived)
    return _derived_result(derived, store.store().uri("stops_per_day", account), shown)


def _derived_result(derived: "Derived", uri: str, shown: metadata.Metadata) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        metadata=shown | metadata.of_derived(derived, uri), data_version=dg.DataVersion(derived.commit)
    )


ASSETS = [raw_stop_list, stop_snapshot, stops, suppression_list, stops_per_day]
