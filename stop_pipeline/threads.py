"""Several things at once, where that pays.

What belongs here: how many threads work, and in what order their results come. What does not: the work.
"""

from collections.abc import Callable, Iterable, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_MOST_THREADS = 4

S = TypeVar("S")
T = TypeVar("T")


def in_threads(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """`work` on each item, in order; by several threads, for Arrow and much of NumPy let go of Python's lock.

    The items are drawn while the first ones are worked on.
    """
    if isinstance(items, Sized) and len(items) <= 1:
        return list(map(work, items))
    import pyarrow as pa  # noqa: PLC0415 – who has one thing to do may have no other use for Arrow

    pool = ThreadPoolExecutor(min(_MOST_THREADS, pa.cpu_count()))
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
