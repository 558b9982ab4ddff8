"""Each variable: its default, what it takes, and the sentence that refuses the rest."""

import pytest

from stop_pipeline.errors import ConfigurationError
from stop_pipeline.settings import Settings, key_variable


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings(
        accounts=("main",),
        base_url="https://api.smspartner.fr/v1",
        answer_format="json",
        timezone="Europe/Paris",
        data_root="data",
        cron="*/15 * * * *",
    )


def test_an_empty_variable_counts_as_unset() -> None:
    names = ["SMSPARTNER_ACCOUNTS", "SMSPARTNER_BASE_URL", "SMSPARTNER_FORMAT", "STOP_PIPELINE_DATA"]
    assert Settings.from_environment(dict.fromkeys(names, "")) == Settings.from_environment({})


def test_the_key_of_main_and_of_another_account_have_their_own_variables() -> None:
    assert key_variable("main") == "SMSPARTNER_API_KEY"
    assert key_variable("lyon") == "SMSPARTNER_API_KEY_LYON"


def test_accounts_are_names_between_commas() -> None:
    assert Settings.from_environment({"SMSPARTNER_ACCOUNTS": "paris, lyon_2"}).accounts == ("paris", "lyon_2")


@pytest.mark.parametrize("names", ["paris,,lyon", "Paris", "../etc", "2paris", "paris;lyon", "paris,paris", "é"])
def test_a_duplicate_empty_or_unsafe_account_name_is_refused(names: str) -> None:
    with pytest.raises(ConfigurationError, match="SMSPARTNER_ACCOUNTS"):
        Settings.from_environment({"SMSPARTNER_ACCOUNTS": names})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8025/v1", "http://localhost:1/v1/", "http://[::1]:1/v1", "https://example.org/v1"]
)
def test_https_or_a_loopback_address_is_taken(url: str) -> None:
    assert Settings.from_environment({"SMSPARTNER_BASE_URL": url}).base_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://api.smspartner.fr/v1",
        "http://127.0.0.1.example.org/v1",
        "http://localhost.example.org",
        "ftp://127.0.0.1/v1",
        "https://",
        "https://[",
        "api.smspartner.fr/v1",
        "https://user:secret@example.org/v1",
        "https://example.org/v1?apiKey=x",
    ],
)
def test_plain_http_to_elsewhere_and_odd_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SMSPARTNER_BASE_URL") as refusal:
        Settings.from_environment({"SMSPARTNER_BASE_URL": url})
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("url", ["https://hooks.example/services/T0/B0/x?y=z", "http://127.0.0.1:1/x"])
def test_a_webhook_is_https_or_a_loopback_address_and_is_not_shown(url: str) -> None:
    settings = Settings.from_environment({"STOP_PIPELINE_ALERT_WEBHOOK": url})
    assert settings.alert_webhook == url
    assert url not in repr(settings)
    assert Settings.from_environment({"STOP_PIPELINE_ALERT_WEBHOOK": " "}).alert_webhook is None


@pytest.mark.parametrize(
    "url", ["http://hooks.example/secret", "ftp://127.0.0.1/secret", "https:///secret", "secret", "https://["]
)
def test_another_webhook_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="STOP_PIPELINE_ALERT_WEBHOOK") as refusal:
        Settings.from_environment({"STOP_PIPELINE_ALERT_WEBHOOK": url})
    assert "secret" not in str(refusal.value)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="SMSPARTNER_FORMAT"):
        Settings.from_environment({"SMSPARTNER_FORMAT": "csv"})


@pytest.mark.parametrize("zone", ["Europe/Pariss", "../../etc/passwd", "Europe", "/etc/passwd"])
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(ConfigurationError, match="SMSPARTNER_TIMEZONE"):
        Settings.from_environment({"SMSPARTNER_TIMEZONE": zone})
