"""Names of accounts, and the API key of each: from variables, or from a file that only its owner can read."""

from pathlib import Path

import pytest

from stop_pipeline.errors import ConfigurationError
from stop_pipeline.settings import Settings, api_key, key_variable, read_keys


def test_the_key_of_main_and_of_another_account_have_their_own_variables() -> None:
    assert key_variable("main") == "SMSPARTNER_API_KEY"
    assert key_variable("lyon") == "SMSPARTNER_API_KEY_LYON"


def test_accounts_are_names_between_commas() -> None:
    assert Settings.from_environment({"SMSPARTNER_ACCOUNTS": "paris, lyon_2"}).accounts == ("paris", "lyon_2")


NAMES_AND_FIRST_WRONG = [
    *(("Paris", 1), ("../etc", 1), ("2paris", 1), ("paris;lyon", 1), ("é", 1), ("paris,paris", 1), ("paris,,lyon", 2)),
    ("paris,0123456789abcdefKEY", 2),
]


@pytest.mark.parametrize(("names", "number"), NAMES_AND_FIRST_WRONG)
def test_a_duplicate_empty_or_unsafe_account_name_is_refused_and_not_shown_since_it_may_be_a_key(
    names: str, number: int
) -> None:
    with pytest.raises(ConfigurationError, match=f"SMSPARTNER_ACCOUNTS is wrong at name {number}: name") as refused:
        Settings.from_environment({"SMSPARTNER_ACCOUNTS": names})
    assert "KEY" not in str(refused.value)


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


def test_a_file_of_keys_may_begin_with_the_mark_of_an_editor_on_windows(tmp_path: Path) -> None:
    file = accounts_file(tmp_path, '\ufeff[accounts]\r\nparis = "s3cret"\r\n')
    assert read_keys(file) == {"paris": "s3cret"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_file_of_keys_that_others_have_a_right_to_is_refused(mode: int, tmp_path: Path) -> None:
    file = accounts_file(tmp_path, '[accounts]\nparis = "one"\n')
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match=r"SMSPARTNER_ACCOUNTS_FILE: .* run chmod 600"):
        Settings.from_environment({"SMSPARTNER_ACCOUNTS_FILE": str(file)})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[accounts]\nparis = "s3cret"\nparis = "s3cret-2"\n', "that names each account once: look at line 3"),
        ("[accounts]\nparis = s3cret\n", "look at line 2"),
        ('[accounts]\nparis = "s3cret', "look at"),
        ("[accounts]\nparis = 1" + 5_000 * "0", "look at"),
        ('[accounts]\n"" = "s3cret"\n', "number 1, that is not made of lower-case letters"),
        ('[accounts]\nparis = "s3cret"\n"../etc" = "s3cret"\n', "number 2, that is not made of lower-case letters"),
        ('[accounts]\n"s3cret/+" = "paris"\n', "number 1, that is not made of lower-case letters"),
        ('[accounts]\nparis.key = "s3cret"\n', "number 1, that is not in quotes"),
        ("[accounts]\nparis = 73\n", "number 1, that is not in quotes"),
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


@pytest.mark.parametrize("key", ["s3cret ", "\ts3cret", "s3cret\n", "\r\n s3cret \u00a0"])
def test_white_space_around_a_key_is_trimmed(key: str, tmp_path: Path) -> None:
    file = accounts_file(tmp_path, f"[accounts]\nlyon = '''{key}'''\nnice = ' '\n")
    assert read_keys(file) == {"lyon": "s3cret", "nice": ""}
    assert api_key("lyon", file) == api_key("lyon", environ={"SMSPARTNER_API_KEY_LYON": key}) == "s3cret"


def test_a_key_of_white_space_is_no_key(tmp_path: Path) -> None:
    file = accounts_file(tmp_path, "[accounts]\nlyon = '  '\n")
    environ = {"SMSPARTNER_API_KEY": " \n"}
    assert Settings.from_environment(environ).accounts_with_key(environ) == ()
    with pytest.raises(ConfigurationError, match="SMSPARTNER_API_KEY is not set"):
        api_key("main", environ=environ)
    for account in ("lyon", "nice"):
        with pytest.raises(ConfigurationError, match=f"SMSPARTNER_ACCOUNTS_FILE: .* no API key .*“{account}”"):
            api_key(account, file)
