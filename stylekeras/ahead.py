"""A generator that works on in a thread of its own while what it gave is being looked at."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Generator[Item, None, None], count: int) -> Generator[Item, None, None]:
    """The same items, up to `count` of them found before they are asked for; with 0 in this thread.

    An exception is raised where its item would have come. Closed before its end, this closes `items` once that has come
    to its next item.
    """
    if not count:
        yield from items
        return
    # A permit is for an item to be found, and back once that is taken; a notice is for each that was found.
    permits, notices = threading.Semaphore(count), threading.Semaphore(0)
    found: deque[Item] = deque()
    ended: list[BaseException] = []
    stopped = threading.Event()

    def work() -> None:
        try:
            while permits.acquire() and not stopped.is_set():
                found.append(next(items))
                notices.release()
        except BaseException as error:
            ended.append(error)  # raised again where its item is waited for
        finally:
            items.close()
            notices.release()

    thread = threading.Thread(target=work, name="stylekeras-ahead", daemon=True)
    thread.start()
    try:
        while True:
            notices.acquire()
            if not found:
                break
            permits.release()
            yield found.popleft()
        if not isinstance(ended[0], StopIteration):
            raise ended[0]
    finally:
        stopped.set()
        permits.release()
        # A garbage collector may close this in any thread.
        if threading.current_thread() is not thread:
            thread.join()
