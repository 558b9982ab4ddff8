"""Runs a command that ends, with everything that it starts, when the process that asked for it ends in any way.

The command runs below a watcher, which is this module as a process of its own. It reads its standard input, a pipe that
nobody writes to: the pipe closes when the asking process ends, even by SIGKILL.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

STOP_SECONDS = 30
"""How long the command may take to end when it is interrupted, before it is killed."""
_KILL_SECONDS = 2  # what is left then are zombies, which a container without an init never removes
_LOOK_SECONDS = 0.1
_ASKED_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def process_group(
    command: Sequence[str], *, cwd: Path | None = None, kept_open: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for the length of the block; gives a process that ends when it does, with its exit code.

    It runs in `cwd`, by default in the folder of this process. File descriptors that are `kept_open`, such as that of a
    lock, stay open until everything has ended.
    """
    watcher = [sys.executable, "-m", __name__, *command]
    with subprocess.Popen(  # noqa: S603 – our own arguments
        watcher, cwd=cwd, stdin=subprocess.PIPE, start_new_session=True, pass_fds=kept_open
    ) as process:
        try:
            yield process
        finally:
            process.communicate()  # closes standard input, and waits; the `with` does not wait on KeyboardInterrupt


def end_when_asked() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise `KeyboardInterrupt`, for commands that run until they are stopped.

    A shell lets what a script starts in the background ignore SIGINT, and every child of it would. `nohup` asks to
    ignore SIGHUP, and that stays.
    """
    for asked in _ASKED_TO_END:
        if asked is not signal.SIGHUP or signal.getsignal(asked) is not signal.SIG_IGN:
            signal.signal(asked, signal.default_int_handler)


def main(command: Sequence[str]) -> int:
    """Run a command until it ends, or standard input is closed; gives its exit code."""
    end_when_asked()
    # In a session of its own, so that one signal reaches everything that it starts.
    with subprocess.Popen(  # noqa: S603 – our own arguments
        command, stdin=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            while process.poll() is None:
                readable, _, _ = select.select([sys.stdin], [], [], _LOOK_SECONDS)
                if readable and not os.read(sys.stdin.fileno(), 1):
                    break
        except KeyboardInterrupt:
            pass
        finally:
            for asked in _ASKED_TO_END:
                signal.signal(asked, signal.SIG_IGN)
            _end_group(process)
    return process.returncode


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything that it started: as Ctrl-C would, then by force."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: not permitted if only zombies are left
        for demand, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            os.killpg(process.pid, demand)
            give_up_at = time.monotonic() + seconds
            while time.monotonic() < give_up_at:
                process.poll()
                os.killpg(process.pid, 0)  # raises once no process is left
                time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
