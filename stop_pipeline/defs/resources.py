"""What the assets are given: a client of the API, and the store.

What belongs here: thin resources whose methods build the plain objects that notebooks and tests use too. What does not:
what those objects do. API keys are references to environment variables (`EnvVar`), marked secret: Dagster's pages and
database hold the variable's name, never its value. HTTP and Parquet are imported where an object is built: Dagster also
loads these resources to show them.
"""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from stop_pipeline.model import Format
from stop_pipeline.settings import Settings, key_variable, missing_key

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

    def client(self, account: str) -> "StopListClient":
        """A client that asks for the list of `account`.

        Raises:
            ConfigurationError: the account has no API key.
        """
        from stop_pipeline.client import StopListClient

        if account not in self.api_keys:
            raise missing_key(account)
        return StopListClient(self.api_keys[account], base_url=self.base_url, answer_format=self.answer_format)


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
    variables = {account: dg.EnvVar(key_variable(account)) for account in settings.accounts}
    return {
        "sms_partner": SmsPartnerResource(
            base_url=settings.base_url,
            answer_format=settings.answer_format,
            timezone=settings.timezone,
            # An account without a key is left out, so that the others' runs start and its own fails by name.
            api_keys={account: variable for account, variable in variables.items() if variable.get_value()},
        ),
        "store": StoreResource(
            root=settings.data_root, raw_days=settings.raw_days, default_account=settings.accounts[0]
        ),
    }
