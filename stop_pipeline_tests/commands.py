"""A way to run the command as a user does: a process of its own, in a folder, with an environment.

What belongs here: starting `stop-pipeline` with nothing of this machine's own settings, and its stand-in for SMS
Partner beside a test. What does not: what it is expected to do.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMAND = Path(sys.executable).parent / "stop-pipeline"
OURS = ("SMSPARTNER_", "STOP_PIPELINE_", "DAGSTER_")


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without any setting of ours, and with `variables`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | variables


def run_command(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`stop-pipeline` with these arguments; it may write to `cwd` only."""
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=cwd,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def sandbox(*arguments: str, cwd: Path) -> Iterator[dict[str, str]]:
    """`stop-pipeline sandbox` at work on a free port; gives the variables that it says to set."""
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
        process.communicate(timeout=20)
    assert process.returncode == 0
