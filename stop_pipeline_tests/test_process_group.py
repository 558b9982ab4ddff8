"""Whatever ends the process that started a command ends the command, and everything that the command started."""

import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stop_pipeline_tests.support.commands import wait_until

COMMAND = """
import pathlib, signal, subprocess, sys, time
{ignores}
child = subprocess.Popen(["sleep", "600"])  # which no signal finds still starting
pathlib.Path("pids").write_text(f"{{child.pid}} {{__import__('os').getpid()}}")
time.sleep(600)
"""
"""A command that starts another one."""

PARENT = """
import signal, sys
from stop_pipeline.process_group import process_group
def end(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may have it ignored, as nohup does
with process_group([sys.executable, "-c", sys.argv[1]]) as process:
    process.wait()
"""


def start(folder: Path, ignores: str = "") -> tuple[subprocess.Popen[bytes], list[int]]:
    """A process that runs the command, and the process ids of the command and its child."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, COMMAND.format(ignores=ignores)], cwd=folder)
    return parent, pids_in(folder)


def pids_in(folder: Path) -> list[int]:
    wait_until((folder / "pids").exists, "the command")
    return [int(pid) for pid in wait_until((folder / "pids").read_text, "the process ids").split()]


def is_running(pid: int) -> bool:
    """Whether a process is there and is not a zombie."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607
    return shown.stdout.strip()[:1] not in ("", "Z")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_command_ends_with_the_process_that_started_it(how: signal.Signals, tmp_path: Path) -> None:
    parent, pids = start(tmp_path)
    assert all(map(is_running, pids))
    parent.send_signal(how)
    parent.wait(timeout=60)
    wait_until(lambda: not any(map(is_running, pids)), "the end of the command")


@pytest.mark.slow
def test_a_command_that_does_not_want_to_end_is_killed(tmp_path: Path) -> None:
    parent, pids = start(tmp_path, "signal.signal(signal.SIGINT, signal.SIG_IGN)")
    started_at = time.monotonic()
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(map(is_running, pids)), "the end of the command")
    assert time.monotonic() - started_at > 25, "it had no time to end in order"


def test_the_exit_code_is_that_of_the_command_and_its_children_end_with_it(tmp_path: Path) -> None:
    command = COMMAND.replace("time.sleep(600)\n", "sys.exit(3)\n").format(ignores="")
    code = (
        "import sys\nfrom stop_pipeline.process_group import process_group\n"
        "with process_group([sys.executable, '-c', sys.argv[1]]) as process:\n    sys.exit(process.wait())"
    )
    done = subprocess.run([sys.executable, "-c", code, command], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 3
    assert not any(map(is_running, pids_in(tmp_path)))


def test_a_lock_that_is_handed_over_is_held_until_everything_has_ended(tmp_path: Path) -> None:
    code = (
        "import fcntl, os, signal, subprocess, sys\n"
        "from stop_pipeline.process_group import process_group\n"
        "with open('lock', 'w') as lock:\n"
        "    fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "    with process_group([sys.executable, '-c', sys.argv[1]], kept_open=[lock.fileno()]) as process:\n"
        "        process.wait()\n"
    )
    slow_to_end = "import atexit, time; atexit.register(time.sleep, 1)"
    parent = subprocess.Popen([sys.executable, "-c", code, COMMAND.format(ignores=slow_to_end)], cwd=tmp_path)
    pids = pids_in(tmp_path)
    parent.kill()
    parent.wait()
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert not any(map(is_running, pids))
