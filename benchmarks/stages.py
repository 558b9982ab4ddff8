"""Where the time of one whole tick goes; started as `python benchmarks/stages.py STATE ANSWER FETCHED_AT`.

What belongs here: a stopwatch around every function of the package, put on from outside. What does not: any knowledge
of what the functions are, so that it outlives them.

A function is timed with those that it calls, under the one that called it; work in another thread starts a line of its
own. A generator counts for whoever draws from it. Functions that are called for each row would measure the stopwatch:
after `MOST_CALLS` their calls are no longer timed, and their caller keeps the time.
"""

import functools
import importlib
import inspect
import json
import pkgutil
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import FunctionType
from typing import Any

from contenders import Ours

import stop_pipeline

MOST_CALLS = 5_000
NOT_PART_OF_A_TICK = {"cli", "sandbox", "definitions", "local_dagster", "progress", "verify", "rebuild", "defs"}

Line = tuple[str, ...]
"""A function, preceded by those that called it."""


class Stopwatch:
    """Seconds by line, over all calls."""

    def __init__(self) -> None:
        self.seconds: defaultdict[Line, float] = defaultdict(float)
        self._calls: Counter[str] = Counter()
        self._running = threading.local()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._calls[name] >= MOST_CALLS:
                return function(*args, **kwargs)
            self._calls[name] += 1
            caller: Line = getattr(self._running, "line", ())
            self._running.line = (*caller, name)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[self._running.line] += time.perf_counter() - started
                self._running.line = caller

        return timed

    def put_on(self) -> None:
        """Time every function of the package's rooms, wherever it was imported to."""
        rooms = [
            importlib.import_module(f"stop_pipeline.{found.name}")
            for found in pkgutil.iter_modules(stop_pipeline.__path__)
            if found.name not in NOT_PART_OF_A_TICK
        ]
        timed: dict[Any, Any] = {}
        for room in rooms:
            for holder in [room, *(kind for kind in vars(room).values() if inspect.isclass(kind))]:
                if holder is not room and holder.__module__ != room.__name__:
                    continue
                for attribute, value in list(vars(holder).items()):
                    if not isinstance(value, FunctionType) or not value.__module__.startswith("stop_pipeline."):
                        continue
                    if attribute.startswith("__") or inspect.isgeneratorfunction(inspect.unwrap(value)):
                        continue
                    if value not in timed:
                        name = f"{value.__module__.removeprefix('stop_pipeline.')}.{value.__qualname__}"
                        timed[value] = self.around(name, value)
                    setattr(holder, attribute, timed[value])


def main() -> None:
    """Tick once and print the seconds of every line."""
    state, answer, fetched_at = sys.argv[1:]
    watch = Stopwatch()
    watch.put_on()
    started = time.perf_counter()
    Ours().tick(Path(state), Path(answer), datetime.fromisoformat(fetched_at))
    total = time.perf_counter() - started
    lines = [[*line, seconds] for line, seconds in watch.seconds.items()]
    print(json.dumps({"seconds": total, "lines": lines}))


if __name__ == "__main__":
    main()
