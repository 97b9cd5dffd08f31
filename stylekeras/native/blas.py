"""NumPy's linear algebra beside threads of our own."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

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
