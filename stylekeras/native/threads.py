"""Work that is shared out among the cores of a processor."""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController


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


_lock = threading.Lock()
# Of those within `alone`.
_limits: list[Any] = []


@contextmanager
def alone() -> Iterator[None]:
    """Within it NumPy's linear algebra takes no threads of its own: each of ours has something else to do, and those
    would go on turning for a while where others are to work next. For the process, as its libraries have it."""
    with _lock:
        # The first one's has what was before; the others' change nothing.
        _limits.append(_libraries().limit(limits=1, user_api="blas") if not _limits else None)
    try:
        yield
    finally:
        with _lock:
            if len(_limits) == 1:
                _limits[0].restore_original_limits()
            # Whoever is left: the first is the last to go.
            _limits.pop()


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
