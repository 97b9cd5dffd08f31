"""Ctrl-C and its relatives."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM is Ctrl-C meanwhile."""
    with _handled({signal.SIGTERM: signal.default_int_handler}):
        yield


@contextlib.contextmanager
def noticed() -> Iterator[Callable[[], None]]:
    """Gives a function that raises KeyboardInterrupt if one has been lost.

    Where frameworks run Python from C++ or from a finalizer, exceptions are ignored, that of Ctrl-C too.
    """
    came = threading.Event()

    def interrupt(number: int, frame: Any) -> None:
        came.set()
        raise KeyboardInterrupt

    def check() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    with _handled(dict.fromkeys((signal.SIGINT, signal.SIGTERM), interrupt)):
        yield check


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Neither stops anything meanwhile."""
    with _handled(dict.fromkeys((signal.SIGINT, signal.SIGTERM), signal.SIG_IGN)):
        yield


@contextlib.contextmanager
def _handled(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only that one may
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, old in before.items():
            if old is not None:  # None: it was not set from Python
                signal.signal(number, old)
