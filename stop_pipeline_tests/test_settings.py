"""Each variable: its default, what it takes, and the sentence that refuses the rest."""

from pathlib import Path

import pytest

from stop_pipeline.errors import ConfigurationError
from stop_pipeline.settings import Settings, key_variable, read_keys


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


def accounts_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / "accounts.toml"
    file.touch(mode=mode)
    file.write_text(text)
    return file


def test_accounts_and_their_keys_come_from_a_file(tmp_path: Path) -> None:
    file = accounts_file(tmp_path, '[accounts]\nparis = "s3cret"\nlyon_2 = "two"\nnice = ""\n')
    settings = Settings.from_environment({"SMSPARTNER_ACCOUNTS_FILE": str(file)})
    assert (settings.accounts, settings.accounts_file) == (("paris", "lyon_2", "nice"), file)
    assert settings.accounts_with_key({"SMSPARTNER_API_KEY_NICE": "ignored"}) == ("paris", "lyon_2")
    assert read_keys(file) == {"paris": "s3cret", "lyon_2": "two", "nice": ""}
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_file_of_keys_that_others_have_a_right_to_is_refused(mode: int, tmp_path: Path) -> None:
    file = accounts_file(tmp_path, '[accounts]\nparis = "one"\n')
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match=r"SMSPARTNER_ACCOUNTS_FILE: .* run chmod 600"):
        Settings.from_environment({"SMSPARTNER_ACCOUNTS_FILE": str(file)})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[accounts]\nparis = "s3cret"\nparis = "s3cret-2"\n', "names each account once: look at line 3"),
        ("[accounts]\nparis = s3cret\n", "look at line 2"),
        ('[accounts]\nparis = "s3cret', "look at"),
        ("[accounts]\nparis = 1" + 5_000 * "0", "look at"),
        ('[accounts]\n"" = "s3cret"\n', "its number 1, that is not lower-case letters"),
        ('[accounts]\nparis = "s3cret"\n"../etc" = "s3cret"\n', "its number 2, that is not lower-case letters"),
        ('[accounts]\n"s3cret/+" = "paris"\n', "its number 1, that is not lower-case letters"),
        ('[accounts]\nparis.key = "s3cret"\n', "its number 1, that is not in quotes"),
        ("[accounts]\nparis = 73\n", "its number 1, that is not in quotes"),
        ('paris = "s3cret"\n', "needs a table"),
        ("accounts = 's3cret'\n", "needs a table"),
        ("[accounts]\n", "needs a table"),
        ("", "needs a table"),
    ],
)
def test_a_file_that_does_not_name_accounts_and_keys_is_refused_without_a_word_of_it(
    text: str, sentence: str, tmp_path: Path
) -> None:
    file = accounts_file(tmp_path, text)
    with pytest.raises(ConfigurationError, match=f"SMSPARTNER_ACCOUNTS_FILE: .*{sentence}") as refusal:
        Settings.from_environment({"SMSPARTNER_ACCOUNTS_FILE": str(file)})
    assert "s3cret" not in str(refusal.value)
    assert refusal.value.__context__ is None


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = accounts_file(tmp_path, "")
    file.write_bytes(b"[accounts]\nparis = '\xe9'\n")
    for path, reason in ((tmp_path / "absent", "No such file"), (tmp_path, "Is a directory"), (file, "not in UTF-8")):
        with pytest.raises(ConfigurationError, match=f"SMSPARTNER_ACCOUNTS_FILE: .*{reason}"):
            Settings.from_environment({"SMSPARTNER_ACCOUNTS_FILE": str(path)})


def test_accounts_in_a_variable_and_in_a_file_are_refused(tmp_path: Path) -> None:
    file = accounts_file(tmp_path, '[accounts]\nparis = "one"\n')
    with pytest.raises(ConfigurationError, match="SMSPARTNER_ACCOUNTS and SMSPARTNER_ACCOUNTS_FILE are both set"):
        Settings.from_environment({"SMSPARTNER_ACCOUNTS": "paris", "SMSPARTNER_ACCOUNTS_FILE": str(file)})


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "ten"])
def test_a_number_of_accounts_per_run_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="STOP_PIPELINE_ACCOUNTS_PER_RUN"):
        Settings.from_environment({"STOP_PIPELINE_ACCOUNTS_PER_RUN": text})


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
