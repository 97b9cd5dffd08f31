"""Work that is shared out among the cores of a processor."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """So many threads, the one that asks for work among them."""

    def __init__(self, count: int) -> None:
        self.count = count
        # Whoever asks may be bound to one core by then, and threads take that over from those that start them.
        self._cores = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None

    def share(self, work: Callable[[Any], None], tasks: Iterable[Any]) -> None:
        """Do all tasks, in this order as long as threads are free; tasks without the interpreter go on at once.

        A task's own shares are done in its thread.
        """
        waiting = deque(tasks)

        def next_ones() -> None:
            before, _here.busy = _busy(), True
            try:
                while waiting:
                    try:
                        task = waiting.popleft()
                    except IndexError:  # another thread was faster
                        return
                    work(task)
            finally:
                _here.busy = before

        others: list[Future[None]] = []
        try:
            if not _busy():
                pool = _pool(os.getpid(), self.count, self._cores)
                for _ in range(min(self.count, len(waiting)) - 1):
                    others.append(pool.submit(next_ones))
            next_ones()
        finally:
            # Whatever happened, nobody works on once this has returned.
            waiting.clear()
            wait(others)
        for each in others:
            each.result()

    def share_evenly(self, work: Callable[[int, int], None], count: int, *, each: int = 1) -> None:
        """Do all of `count`, from a first one to before a last one at a time: `each` shares a thread, as even as can
        be."""
        shares = min(count, self.count * each)
        bounds = [count * i // shares for i in range(shares + 1)] if count else [0]
        self.share(lambda i: work(bounds[i], bounds[i + 1]), range(len(bounds) - 1))


def undisturbed(function: Callable[..., T], *given: Any) -> T:
    """Call it in another thread than this, which may be the main one: there, a signal would raise its exception in the
    middle of what is not prepared for it. So it comes when this is through."""
    running = _others(os.getpid()).submit(function, *given)
    try:
        return running.result()
    finally:
        # What goes on after an interrupt would be in the way of what comes next. A second one ends the waiting too.
        wait([running])


def in_background(work: Callable[[], None], name: str) -> None:
    """Do it in a thread of that name, which a fork waits for: it would find the locks that are held, and nobody to let
    go of them."""
    thread = threading.Thread(target=work, name=name)
    _background.add(thread)
    thread.start()


_background: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def _wait() -> None:
    for thread in list(_background):
        if thread is not threading.current_thread() and thread.is_alive():
            thread.join()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait)

_here = threading.local()


def _busy() -> bool:
    """Whether this thread is in a task: to wait for others would be to wait for itself."""
    return getattr(_here, "busy", False)


@functools.lru_cache(maxsize=4)
def _pool(process: int, count: int, cores: frozenset[int] | None) -> ThreadPoolExecutor:
    """One for each process: a fork has its parent's objects, but none of its threads."""
    anywhere = (None, ()) if cores is None else (_bind, (cores,))
    return ThreadPoolExecutor(max(count - 1, 1), "stylekeras", *anywhere)


def _bind(cores: frozenset[int]) -> None:
    with contextlib.suppress(OSError):  # it may not be allowed
        os.sched_setaffinity(0, cores)


@functools.lru_cache(maxsize=1)
def _others(process: int) -> ThreadPoolExecutor:
    """Likewise; as many as there can be at once."""
    return ThreadPoolExecutor(64, "stylekeras")
