"""What the assets are given: a client of the API, and the data root. No API key passes through Dagster."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from stop_pipeline.settings import Format, Settings, api_key
from stop_pipeline.smspartner.client import StopListClient
from stop_pipeline.table.merge import MAX_REMOVED_SHARE
from stop_pipeline.table.store import Store


class SmsPartnerResource(dg.ConfigurableResource[None]):
    """The API of SMS Partner.

    API keys are no part of this resource's configuration, which Dagster stores and shows: a key is read where it is
    needed, from its variable or from the accounts file.
    """

    base_url: str = Field(description="Address of the API, without a trailing slash (SMSPARTNER_BASE_URL).")
    response_format: Format = Field(description="Format to request (SMSPARTNER_FORMAT).")
    timezone: str = Field(description="IANA time zone in which createdAt is read (SMSPARTNER_TIMEZONE).")
    accounts_file: str | None = Field(
        default=None, description="File that holds the API keys instead of variables (SMSPARTNER_ACCOUNTS_FILE)."
    )

    def client(self, account: str) -> StopListClient:
        """A client that fetches the list of an account; `ConfigurationError` if it has no API key that can be read."""
        key = api_key(account, Path(self.accounts_file) if self.accounts_file else None)
        return StopListClient(key, base_url=self.base_url, response_format=self.response_format)


class StoreResource(dg.ConfigurableResource[None]):
    """The folder or bucket that holds all tables, responses and commits."""

    root: str = Field(description="Folder or bucket that holds everything (STOP_PIPELINE_DATA).")
    raw_days: int = Field(
        ge=1, description="For how many days responses are kept as received (STOP_PIPELINE_RAW_DAYS)."
    )
    default_account: str = Field(description="Account of a run that has no partition (SMSPARTNER_ACCOUNTS).")

    def open(self, context: dg.AssetExecutionContext) -> tuple[Store, str]:
        """The store, and the account that a run syncs: its partition, where the assets have partitions."""
        return Store(self.root), context.partition_key if context.has_partition_key else self.default_account


class StopsConfig(dg.Config):
    """What a person can decide for one run."""

    accept_removals: int | None = Field(
        default=None,
        description="Accept up to this many removals, whatever their share, if the response is complete.",
    )
    max_removed_share: float = Field(
        default=MAX_REMOVED_SHARE,
        description="Share of the open rows that may be removed within 24 hours without being accepted.",
    )


def build_resources(settings: Settings) -> dict[str, dg.ConfigurableResource[None]]:
    """The resources that the assets name, from the settings."""
    return {
        "sms_partner": SmsPartnerResource(
            base_url=settings.base_url,
            response_format=settings.response_format,
            timezone=settings.timezone,
            accounts_file=None if settings.accounts_file is None else str(settings.accounts_file),
        ),
        "store": StoreResource(
            root=settings.data_root, raw_days=settings.raw_days, default_account=settings.accounts[0]
        ),
    }
