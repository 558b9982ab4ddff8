"""Several things at once, where that pays.

What belongs here: how many threads work, and in what order their results come. What does not: the work.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

_MOST_THREADS = 4

S = TypeVar("S")
T = TypeVar("T")


def in_threads(work: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """`work` on each item, in order; by several threads, for Arrow and much of NumPy let go of Python's lock."""
    if len(items) <= 1:
        return list(map(work, items))
    pool = ThreadPoolExecutor(min(_MOST_THREADS, pa.cpu_count()))
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
