"""The pipeline, top to bottom: five assets, each one step of a sync.

No asset has a retry policy: the client retries what can be retried, and a second layer would multiply that and repeat
what is permanent.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from stop_pipeline import schema, sync
from stop_pipeline.defs import GROUP, checks, metadata
from stop_pipeline.defs.resources import SmsPartnerResource, StopsConfig, StoreResource
from stop_pipeline.errors import StopPipelineError, unexpected
from stop_pipeline.table.merge import RemovalPolicy

_TABLE = {"pandas", "parquet"}

Step = Callable[..., dg.MaterializeResult]


def _asset(
    table: schema.TableSchema, *keys: schema.Column, kinds: set[str], private: bool, **options: Any
) -> Callable[[Step], dg.AssetsDefinition]:
    """`dg.asset` with what all five have in common; `private` marks assets that hold phone numbers.

    A step's error is a line among the run's events and then a `Failure`, whose sentence stands above the traceback.
    """

    def asset_of(step: Step) -> dg.AssetsDefinition:
        @wraps(step)
        def plainly_failing(context: dg.AssetExecutionContext, **arguments: Any) -> dg.MaterializeResult:
            try:
                return step(context, **arguments)
            except (dg.DagsterError, SQLAlchemyError):
                raise  # about Dagster's history, which holds no phone numbers
            except Exception as error:  # noqa: BLE001 – any
                sentence = str(error) if isinstance(error, StopPipelineError) else unexpected(error)
                context.log.error(sentence)  # noqa: TRY400 – a traceback could hold the rows that the error is about
                raise dg.Failure(sentence) from None

        asset: dg.AssetsDefinition = dg.asset(
            group_name=GROUP,
            owners=["team:compliance"],
            code_version=str(schema.SCHEMA_VERSION),
            kinds=kinds,
            tags={"personal_data": "yes" if private else "no"},
            metadata=metadata.of_columns(table, *keys),
            check_specs=checks.specs_of(table.name),
            **options,
        )(plainly_failing)
        return asset

    return asset_of


@_asset(schema.RAW_STOP_LIST, kinds={"python", "json"}, private=True)
def raw_stop_list(
    context: dg.AssetExecutionContext, sms_partner: SmsPartnerResource, store: StoreResource
) -> dg.MaterializeResult:
    """SMS Partner's response with the whole list of opt-outs, byte for byte as received.

    - **Source:** one HTTP GET of `stop-sms/list`, which returns the whole list each time.
    - **Cadence:** every sync. A response is kept, compressed, only if it differs from the one before, and deleted
      `STOP_PIPELINE_RAW_DAYS` days after a newer one replaced it.
    - **A row** is an opt-out as SMS Partner lists it. A new opt-out can take up to 48 hours to appear.
    - **It fails** if the key is refused, the service is down, or the response is not a list. The error says which, and
      nothing changes.
    """
    tables, account = store.open(context)
    fetched = sync.fetch(tables, account, sms_partner.client(account))
    return dg.MaterializeResult(
        metadata=metadata.of_fetched(fetched),
        data_version=dg.DataVersion(fetched.kept.sha256),
        check_results=checks.of_fetched(fetched),
    )


@_asset(schema.STOP_SNAPSHOT, kinds=_TABLE, private=True, deps=[raw_stop_list])
def stop_snapshot(
    context: dg.AssetExecutionContext, sms_partner: SmsPartnerResource, store: StoreResource
) -> dg.MaterializeResult:
    """The newest response as a typed table, or the rows that it appends to the last one.

    - **Source:** the newest response in `raw_stop_list`.
    - **Cadence:** every sync. A response that has been parsed is not parsed again, and of a response that only appends
      rows to the last one, only these rows are parsed.
    - **A row** is a row of the response, well-formed or malformed (then with the reason); equal rows are collapsed.
      Rows in = kept + duplicates + rejected.
    - **It fails** if the response is not a list. A malformed row does not stop the others.
    """
    tables, account = store.open(context)
    parsed = sync.parse(tables, account, timezone=sms_partner.timezone)
    return dg.MaterializeResult(
        metadata=metadata.of_parsed(parsed, tables.uri("snapshot", account)),
        data_version=dg.DataVersion(parsed.info.sha256),
    )


@_asset(
    schema.STOPS,
    schema.ACCOUNT,
    schema.CREATED_MONTH,
    kinds=_TABLE,
    private=True,
    deps=[stop_snapshot],
)
def stops(context: dg.AssetExecutionContext, config: StopsConfig, store: StoreResource) -> dg.MaterializeResult:
    """Every opt-out ever listed, in one Parquet file per month; malformed rows are kept beside it, in `rejected`.

    - **Source:** `stop_snapshot`, compared with the rows that were listed before.
    - **Cadence:** every sync. A month in which nothing changed keeps its file untouched.
    - **A row** is a period in which the list showed an opt-out unchanged, from `first_seen_at` to `removed_at`. It is
      written once and ended at most once, so the table tells what was known at any time.
    - **It fails** if the list appears to belong to another account; nothing changes then. Removals that look wrong are
      withheld: a check fails, and says how to accept them.
    - **The chart** shows how long opt-outs took to appear on the list; the orange line is at 48 hours.
    """
    tables, account = store.open(context)
    policy = RemovalPolicy(max_removed_share=config.max_removed_share, accept_removals=config.accept_removals)
    merged = sync.merge(tables, account, policy, raw_days=store.raw_days)
    return dg.MaterializeResult(
        metadata=metadata.of_merged(context, tables, account, merged),
        data_version=dg.DataVersion(merged.state.commit or merged.info.sha256),
        check_results=checks.of_merged(merged, tables, account),
    )


@_asset(schema.SUPPRESSION_LIST, schema.ACCOUNT, kinds=_TABLE, private=True, deps=[stops])
def suppression_list(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Phone numbers that must not be texted, each once, with the times of their opt-outs.

    - **Source:** the open rows of `stops`, and every phone number found in the open rows of `rejected`.
    - **Cadence:** every sync; made again when `stops` has a new commit.
    - **A row** is a phone number, with its earliest and latest opt-out.
    - **It fails** if nothing is committed yet: materialize `stops` first.
    """
    tables, account = store.open(context)
    derived = sync.derive_suppression_list(tables, account)
    return dg.MaterializeResult(
        metadata=metadata.of_derived(context, tables, account, schema.SUPPRESSION_LIST, derived),
        data_version=dg.DataVersion(derived.info.commit),
        check_results=checks.of_suppression_list(derived),
    )


@_asset(schema.STOPS_PER_DAY, schema.ACCOUNT, kinds=_TABLE, private=False, deps=[stops])
def stops_per_day(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """How many opt-outs were made, by day and country. No personal data.

    - **Source:** `stops`, ended rows too: an opt-out that was withdrawn was made all the same.
    - **Cadence:** every sync; made again when `stops` has a new commit.
    - **A row** is a local day and a country with opt-outs.
    - **It fails** if nothing is committed yet: materialize `stops` first.
    - **The charts** show the last 90 days and the last five years.
    """
    tables, account = store.open(context)
    derived = sync.derive_stops_per_day(tables, account)
    return dg.MaterializeResult(
        metadata=metadata.of_derived(context, tables, account, schema.STOPS_PER_DAY, derived),
        data_version=dg.DataVersion(derived.info.commit),
    )


ASSETS = [raw_stop_list, stop_snapshot, stops, suppression_list, stops_per_day]
