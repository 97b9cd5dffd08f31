"""Work that is shared out among the cores of a processor."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

# Of the cache, in bytes.
_LINE = 64


class Threads:
    """So many threads, the one that asks for work among them."""

    def __init__(self, count: int) -> None:
        self.count = count
        # Whoever asks may be bound to one core, and threads take that over from those that start them.
        free = (os.sched_setaffinity, (0, os.sched_getaffinity(0))) if hasattr(os, "sched_setaffinity") else (None, ())
        self._pool = ThreadPoolExecutor(max(count - 1, 1), "stylekeras", *free)

    @functools.cached_property
    def _libraries(self) -> ThreadpoolController:
        return ThreadpoolController()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within it NumPy's linear algebra takes no threads of its own: each of ours has something else to do, and
        those would go on turning for a while where others are to work next."""
        with self._libraries.limit(limits=1, user_api="blas"):
            yield

    def share(self, work: Callable[[Any], None], tasks: Iterable[Any]) -> None:
        """Do all tasks, in this order as long as threads are free; tasks without the interpreter go on at once."""
        waiting = deque(tasks)

        def next_ones() -> None:
            while waiting:
                try:
                    task = waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                work(task)

        others = [self._pool.submit(next_ones) for _ in range(min(self.count, len(waiting)) - 1)]
        try:
            next_ones()
        finally:
            # Whatever happened, nobody works on once this has returned.
            waiting.clear()
            wait(others)
        for each in others:
            each.result()


def aligned(size: int) -> np.ndarray:
    """Zeros in float32, from the beginning of a line of the cache on."""
    whole = np.zeros(size + _LINE // 4, np.float32)
    start = -whole.ctypes.data % _LINE // 4
    return whole[start : start + size]
