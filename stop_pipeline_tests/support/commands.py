"""Runs the command as a user does: a process of its own, in a folder, with none of this machine's own settings.

Also the command's stand-in for SMS Partner beside a test, a free port, and waiting for what a process brings about.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

COMMAND = Path(sys.executable).parent / "stop-pipeline"
GIVE_UP_SECONDS = 600
"""Far longer than anything takes, on however slow a machine."""

Value = TypeVar("Value")
OURS = ("SMSPARTNER_", "STOP_PIPELINE_", "DAGSTER_")


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without any setting of ours, plus `variables`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | variables


def wait_until(condition: Callable[[], Value | None], what: str) -> Value:
    """Return what the condition returns, once it returns anything true."""
    give_up_at = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < give_up_at:
        if value := condition():
            return value
        time.sleep(0.2)
    pytest.fail(f"{what}: not within {GIVE_UP_SECONDS} s")


def without_root_rights() -> None:
    """Root obeys the rights of files as everybody else does (CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of Linux)."""
    if os.geteuid() == 0:
        for capability in (1, 2):
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


def run_command(*arguments: str, cwd: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run `stop-pipeline` with these arguments; it may write to `cwd` only.

    Names in lower case, such as `stdout`, are options of `subprocess.run`.
    """
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options |= {name: variables.pop(name) for name in [*variables] if name.islower()}
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=cwd,
        env=clean_environment(**variables),
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def sandbox(*arguments: str, cwd: Path) -> Iterator[dict[str, str]]:
    """Run `stop-pipeline sandbox` on a free port; yield the variables that it says to set."""
    process = subprocess.Popen(
        [COMMAND, "sandbox", "--port", "0", *arguments],
        cwd=cwd,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = "".join(iter(process.stdout.readline, "Ctrl-C ends it.\n"))
        yield dict(re.findall(r"^  export (\w+)=(.+)$", said, re.MULTILINE))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
