"""How far a tick has come: a moving line on a terminal, plain lines elsewhere.

What belongs here: showing what the package logs while a command runs. What does not: what is logged.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.status import Status


class _Shown(logging.Handler):
    """Shows each record on stderr: as the text of the spinner if there is one, else, and for warnings, as a line."""

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
    """Show the package's log on stderr while the block runs."""
    console = Console(stderr=True)
    status = console.status("Starting …") if console.is_terminal else None
    handler = _Shown(console, status)
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
