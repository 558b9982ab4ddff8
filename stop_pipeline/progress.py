"""Shows on stderr what the package logs while a command runs: a moving line on a terminal, plain lines elsewhere."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.status import Status


class _ShownOnStderr(logging.Handler):
    """Shows a record as the text of the moving line, if there is one; a warning always gets a line of its own."""

    def __init__(self, console: Console, status: Status | None) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._status = status

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"Warning: {text}"
        elif self._status is not None:
            self._status.update(text)
            return
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show the package's log on stderr for the block."""
    console = Console(stderr=True)
    status = console.status("Starting …") if console.is_terminal else None
    handler = _ShownOnStderr(console, status)
    logger = logging.getLogger("stop_pipeline")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with status or nullcontext():
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
