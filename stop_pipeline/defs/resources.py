"""What the assets are given: a client of the API, and the store.

What belongs here: thin resources whose methods build the plain objects that notebooks and tests use too. What does not:
what those objects do. API keys are references: to environment variables (`EnvVar`), marked secret, or to the path of a
file that is read when a client is made. Dagster's pages and database hold names and that path, never a key. HTTP and
Parquet are imported where an object is built: Dagster also loads these resources to show them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from stop_pipeline.model import Format
from stop_pipeline.settings import Settings, key_variable, missing_key, read_keys

if TYPE_CHECKING:
    from stop_pipeline.client import StopListClient
    from stop_pipeline.store import Store


class SmsPartnerResource(dg.ConfigurableResource[None]):
    """The API of SMS Partner."""

    base_url: str = Field(description="Of the API, without a trailing slash (SMSPARTNER_BASE_URL).")
    answer_format: Format = Field(description="Which of its formats to ask for (SMSPARTNER_FORMAT).")
    timezone: str = Field(description="IANA zone that createdAt is read in (SMSPARTNER_TIMEZONE).")
    api_keys: dict[str, str] = Field(
        description="API key of each account (SMSPARTNER_API_KEY, or SMSPARTNER_API_KEY_<ACCOUNT>).",
        json_schema_extra={"dagster__is_secret": True},
    )
    accounts_file: str | None = Field(
        default=None, description="File that holds the API keys instead, read at each tick (SMSPARTNER_ACCOUNTS_FILE)."
    )

    def client(self, account: str) -> "StopListClient":
        """A client that asks for the list of `account`.

        Raises:
            ConfigurationError: the account has no API key, or the file that holds the keys is refused.
        """
        from stop_pipeline.client import StopListClient

        file = Path(self.accounts_file) if self.accounts_file else None
        key = (self.api_keys if file is None else read_keys(file)).get(account)
        if not key:
            raise missing_key(account, file)
        return StopListClient(key, base_url=self.base_url, answer_format=self.answer_format)


class StoreResource(dg.ConfigurableResource[None]):
    """The data root."""

    root: str = Field(description="Folder below which everything is stored (STOP_PIPELINE_DATA).")
    raw_days: int = Field(ge=1, description="For how many days answers are kept as received (STOP_PIPELINE_RAW_DAYS).")
    default_account: str = Field(description="The account of a run that has no partition (SMSPARTNER_ACCOUNTS).")

    def store(self) -> "Store":
        """The store below this root."""
        from stop_pipeline.store import Store

        return Store(self.root)

    def account(self, context: dg.AssetExecutionContext) -> str:
        """The account that a run is for: its partition, where the assets have any."""
        return context.partition_key if context.has_partition_key else self.default_account


def build_resources(settings: Settings) -> dict[str, dg.ConfigurableResource[None]]:
    """The resources that the assets name, from the settings."""
    in_variables = settings.accounts_with_key() if settings.accounts_file is None else ()
    return {
        "sms_partner": SmsPartnerResource(
            base_url=settings.base_url,
            answer_format=settings.answer_format,
            timezone=settings.timezone,
            # An account without a key is left out, so that the others' runs start and its own fails by name.
            api_keys={account: dg.EnvVar(key_variable(account)) for account in in_variables},
            accounts_file=None if settings.accounts_file is None else str(settings.accounts_file),
        ),
        "store": StoreResource(
            root=settings.data_root, raw_days=settings.raw_days, default_account=settings.accounts[0]
        ),
    }
