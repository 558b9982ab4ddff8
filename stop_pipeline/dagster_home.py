"""The folder where Dagster keeps its history, and one sentence for whatever can be wrong with it."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

import dagster as dg
import filelock
import yaml

from stop_pipeline.errors import ConfigurationError, StopPipelineError, StoreError, excerpt
from stop_pipeline.settings import Settings, check_dagster_home, dagster_home, is_remote

_CONFIGURATION = "dagster.yaml"
_UNHARMED = "The tables of the data root are not affected."


def use_home(settings: Settings) -> Path:
    """DAGSTER_HOME if it is set, else a folder that lasts; with its absolute path in the environment.

    A home that is new gets this package's `dagster.yaml`.

    Raises:
        ConfigurationError: DAGSTER_HOME is not a folder that Dagster can use, or its `dagster.yaml` is wrong.
        StoreError: the folder cannot be made.
    """
    if (home := dagster_home()) is None:
        home = Path(settings.data_root).absolute().parent / ".dagster_home"
        if is_remote(settings.data_root):
            home = Path.home() / ".stop_pipeline"
    elif not (home.is_absolute() and home.is_dir()):
        raise ConfigurationError(
            f"DAGSTER_HOME is “{home}”, but Dagster needs the absolute path of a folder that exists: make the folder, "
            "or leave DAGSTER_HOME unset."
        )
    check_dagster_home(home)
    with _plain_errors(home):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _opening(home):
            if not (home / _CONFIGURATION).exists() and not (home / "history").exists():
                with as_file(files("stop_pipeline") / _CONFIGURATION) as defaults:
                    shutil.copyfile(defaults, home / _CONFIGURATION)
    _check_configuration(home / _CONFIGURATION)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


@contextmanager
def open_instance(home: Path, *, with_launcher: bool = False) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance in a home, for the block; `with_launcher` checks what starts runs as well.

    Raises:
        ConfigurationError: `dagster.yaml` cannot be used, here or in the block.
        StoreError: the history cannot be read or written, here or in the block.
    """
    with _plain_errors(home):
        # Two processes that start at once would both create its files and tables.
        with _opening(home):
            instance = dg.DagsterInstance.from_config(str(home))
        with instance:
            if with_launcher:
                for part in ("run_launcher", "run_coordinator", "scheduler", "compute_log_manager"):
                    getattr(instance, part)
            yield instance


def unwritable(home: Path, reason: str) -> str:
    """The sentence for a home in which Dagster cannot write."""
    return (
        f"Dagster cannot write its history in {home} ({reason}): make room there, make it writable for this user, or "
        f"set DAGSTER_HOME to another folder. {_UNHARMED}"
    )


def _opening(home: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(home / ".opening.lock", mode=0o600)


def _check_configuration(file: Path) -> None:
    """Refuse a `dagster.yaml` of which Dagster would print a traceback."""
    problem = None
    try:
        if not isinstance(yaml.safe_load(file.read_text(encoding="utf-8")) or {}, dict):
            problem = "does not hold settings, each with a name"
    except FileNotFoundError:
        return  # Dagster has defaults
    except OSError as error:
        problem = f"cannot be read ({os.strerror(error.errno or 0)})"
    except UnicodeDecodeError:
        problem = "is not text in UTF-8"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = "is not valid YAML" + (f" (line {mark.line + 1})" if mark else "")
    if problem is not None:
        raise ConfigurationError(f"{file} {problem}: correct it, or delete it for Dagster's defaults.")


@contextmanager
def _plain_errors(home: Path) -> Iterator[None]:
    """One sentence in place of what Dagster raises about its home."""
    try:
        yield
    except StopPipelineError:
        raise
    except Exception as error:
        explained = _explained(error, home)
        if explained is None:
            raise
        raise explained from None


def _explained(error: Exception, home: Path) -> StopPipelineError | None:
    """The sentence for an error; None if it is not about the home."""
    file = home / _CONFIGURATION
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ImportError):
            needed = f"the package “{cause.name}”" if cause.name else "a package"
            return ConfigurationError(
                f"{file} needs {needed}, which is not installed: install it, or correct the file."
            )
        if isinstance(cause, sqlite3.Error) and ("not a database" in str(cause) or "malformed" in str(cause)):
            return StoreError(
                f"Dagster's history in {home} is damaged ({cause}): move the folders “history” and “schedules” in it "
                f"elsewhere, and run again. {_UNHARMED}"
            )
        if isinstance(cause, sqlite3.Error | OSError):
            reason = os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else str(cause)
            return StoreError(unwritable(home, reason))
        cause = cause.__cause__ or cause.__context__
    if (refusal := getattr(error, "orig", None)) is not None:  # of a database server, by SQLAlchemy
        return StoreError(f"Dagster cannot use its database ({excerpt(str(refusal))}): check the server and {file}.")
    if isinstance(error, dg.DagsterError):
        reason = next((line for line in str(error).splitlines() if "Error 1" in line), str(error))
        return ConfigurationError(f"Dagster cannot use {file}: {excerpt(reason)}.")
    return None
