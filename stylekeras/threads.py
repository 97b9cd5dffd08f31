"""Work that is shared out among the cores of a processor."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any


class Threads:
    """So many threads, the one that asks for work among them."""

    def __init__(self, count: int) -> None:
        self.count = count
        # Whoever asks may be bound to one core by then, and threads take that over from those that start them.
        self._cores = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None

    def share(self, work: Callable[[Any], None], tasks: Iterable[Any]) -> None:
        """Do all tasks, in this order as long as threads are free; tasks without the interpreter go on at once."""
        waiting = deque(tasks)
        pool = _pool(os.getpid(), self.count, self._cores)

        def next_ones() -> None:
            while waiting:
                try:
                    task = waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                work(task)

        others = [pool.submit(next_ones) for _ in range(min(self.count, len(waiting)) - 1)]
        try:
            next_ones()
        finally:
            # Whatever happened, nobody works on once this has returned.
            waiting.clear()
            wait(others)
        for each in others:
            each.result()


@functools.lru_cache(maxsize=4)
def _pool(process: int, count: int, cores: frozenset[int] | None) -> ThreadPoolExecutor:
    """One for each process: a fork has its parent's objects, but none of its threads."""
    anywhere = (None, ()) if cores is None else (os.sched_setaffinity, (0, cores))
    return ThreadPoolExecutor(max(count - 1, 1), "stylekeras", *anywhere)
