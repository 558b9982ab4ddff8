"""A way to run the command as a user does: a process of its own, in a folder, with an environment.

What belongs here: starting `stop-pipeline` with nothing of this machine's own settings. What does not: what it is
expected to do.
"""

import os
import subprocess
import sys
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
