"""Each variable: its default, what it accepts, and the sentence that refuses everything else."""

import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from stop_pipeline.errors import ConfigurationError
from stop_pipeline.settings import Settings, dagster_home, is_remote, parse_age


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings(
        accounts=("main",),
        base_url="https://api.smspartner.fr/v1",
        response_format="json",
        timezone="Europe/Paris",
        data_root="data",
        cron="*/15 * * * *",
        raw_days=30,
        history_days=14,
        alert_webhook=None,
        alert_after=timedelta(hours=2),
    )


def test_an_empty_variable_counts_as_unset() -> None:
    names = ["SMSPARTNER_ACCOUNTS", "SMSPARTNER_BASE_URL", "SMSPARTNER_FORMAT", "STOP_PIPELINE_DATA"]
    assert Settings.from_environment(dict.fromkeys(names, "")) == Settings.from_environment({})


@pytest.mark.parametrize(
    ("variable", "texts"),
    [
        ("SMSPARTNER_FORMAT", ["csv"]),
        ("SMSPARTNER_TIMEZONE", ["Europe/Pariss", "../../etc/passwd", "Europe", "/etc/passwd"]),
        ("STOP_PIPELINE_ACCOUNTS_PER_RUN", ["0", "-1", "1.5", "ten"]),
        ("STOP_PIPELINE_ALERT_AFTER", ["0m", "2", "soon"]),
    ],
)
def test_a_text_that_is_no_value_of_the_variable_is_refused_by_the_variables_name(
    variable: str, texts: list[str]
) -> None:
    for text in texts:
        with pytest.raises(ConfigurationError, match=f"{variable} is “{text}”: it must be"):
            Settings.from_environment({variable: text})


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
    "url",
    [
        *("http://hooks.example/secret", "ftp://127.0.0.1/secret", "https:///secret", "secret", "https://["),
        "https://user:secret@ho\u2100st",
    ],
)
def test_another_webhook_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="STOP_PIPELINE_ALERT_WEBHOOK") as refusal:
        Settings.from_environment({"STOP_PIPELINE_ALERT_WEBHOOK": url})
    assert "secret" not in str(refusal.value)


def test_time_zones_are_known_without_the_systems_zone_files() -> None:
    code = (
        "import zoneinfo; assert zoneinfo.TZPATH == ();"
        "from stop_pipeline.settings import Settings;"
        "print(Settings.from_environment({'SMSPARTNER_TIMEZONE': 'Pacific/Apia'}).timezone)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONTZPATH": ""}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "Pacific/Apia\n"
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(dependency.startswith("tzdata") for dependency in project["dependencies"])


# Ages


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("90m", timedelta(minutes=90)),
        (" 24h ", timedelta(days=1)),
        ("2d", timedelta(days=2)),
        ("0m", timedelta(0)),
        ("999999d", timedelta(days=999_999)),
    ],
)
def test_an_age_is_a_number_of_minutes_hours_or_days(text: str, age: timedelta) -> None:
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "2", "h", "2 h", "-2h", "1.5h", "2s", "2H", "٢h", "1000000d", "1d2h"])
def test_anything_else_is_not_an_age(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an age: write a number followed by m, h or d, such as"):
        parse_age(text)


def test_an_alert_is_due_after_an_age() -> None:
    assert Settings.from_environment({"STOP_PIPELINE_ALERT_AFTER": "90m"}).alert_after == timedelta(minutes=90)


# Folders


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "accounts.toml"
    file.touch(mode=0o600)
    file.write_text('[accounts]\nlyon = "key"\n')
    environ = {
        "STOP_PIPELINE_DATA": "~/stops",
        "SMSPARTNER_ACCOUNTS_FILE": "~/accounts.toml",
        "DAGSTER_HOME": "~/dagster",
    }
    settings = Settings.from_environment(environ)
    assert settings.data_root == str(tmp_path / "stops")
    assert settings.accounts_file == file
    assert dagster_home(environ) == tmp_path / "dagster"


@pytest.mark.parametrize("variable", ["STOP_PIPELINE_DATA", "SMSPARTNER_ACCOUNTS_FILE", "DAGSTER_HOME"])
def test_the_home_of_an_unknown_user_is_refused_and_never_made(variable: str) -> None:
    environ = {variable: "~no_such_user/stops"}
    with pytest.raises(ConfigurationError, match=f"{variable} is “~no_such_user/stops”, but this machine has no such"):
        (dagster_home if variable == "DAGSTER_HOME" else Settings.from_environment)(environ)


def test_a_tilde_that_does_not_lead_is_part_of_a_name() -> None:
    for path in ("./~", "data/~", "a~"):
        assert Settings.from_environment({"STOP_PIPELINE_DATA": path}).data_root == path


@pytest.mark.parametrize("home", [None, "", " "])
def test_an_empty_dagster_home_counts_as_not_set(home: str | None) -> None:
    assert dagster_home({} if home is None else {"DAGSTER_HOME": home}) is None


# Buckets


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket",
        "s3://bucket/a/b/",
        "s3://b/a b/50%/.x",
        "gs://b/p",
        "abfs://container@account.dfs.core.windows.net/p",
    ],
)
def test_a_data_root_can_be_a_prefix_in_a_bucket(uri: str) -> None:
    root = Settings.from_environment({"STOP_PIPELINE_DATA": uri}).data_root
    assert root == uri.rstrip("/")
    assert is_remote(root)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///data",
        "http://secret/x",
        "s3://",
        "s3://bucket//x",
        "s3://user:secret@bucket/x",
        "s3://secret@bucket/x",
        "s3://bucket/x?key=secret",
        "abfs://account.dfs.core.windows.net/secret",
        "s3://[secret",
        "s3://bucket/secret%20x",
        "s3://bucket/x/../secret",
        "s3://bucket/./secret",
        "s3://bucket/secret /x",
        "s3://bucket/secret\tx",
    ],
)
def test_another_uri_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="STOP_PIPELINE_DATA") as refusal:
        Settings.from_environment({"STOP_PIPELINE_DATA": uri})
    assert "secret" not in str(refusal.value)
