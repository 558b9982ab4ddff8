"""The command `stop-pipeline` within the test's own process, which is quicker, for whatever does not need its own."""

import os
import signal
from pathlib import Path
from unittest import mock

from click.testing import CliRunner, Result

from stop_pipeline.cli import main
from stop_pipeline_tests.support.commands import clean_environment


def run_in_process(*arguments: str, cwd: Path, **variables: str) -> Result:
    """Run `stop-pipeline` with these arguments and variables; the result has `exit_code`, `stdout` and `stderr`."""
    folder, umask = Path.cwd(), os.umask(0o022)
    handlers = {asked: signal.getsignal(asked) for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    os.chdir(cwd)
    try:
        with mock.patch.dict(os.environ, clean_environment(**variables), clear=True):
            result = CliRunner().invoke(main, list(arguments))
    finally:
        os.chdir(folder)
        os.umask(umask)
        for asked, handler in handlers.items():
            signal.signal(asked, handler)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
