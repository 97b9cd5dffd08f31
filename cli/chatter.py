"""Keep TensorFlow's start-up chatter off the terminal.

Its C++ libraries write to file descriptor 2 before any of TF_CPP_MIN_LOG_LEVEL and absl's settings is looked at, so
lines are filtered there. A forked child does that: should TensorFlow take the process down, its last words still come
out.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator

# Information and warnings in absl's and TensorFlow's own format, and errors that are none: no CUDA on this machine, or
# a plug-in registered twice.
_CHATTER = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog"
    rb"|[IW]\d{4} \d\d:\d\d:\d\d"
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] "
    rb"|(E\d{4} |\d{4}-\d\d-\d\d ).*(failed call to cuInit|Unable to register cu\w+ (factory|plugin))"
    rb"|To enable the following instructions: "
)


@contextlib.contextmanager
def filtered(active: bool = True) -> Iterator[None]:
    """Drop chatter from file descriptor 2 meanwhile. What Python writes to sys.stderr is not touched."""
    # A fork is only safe while this is the only thread, which it is until TensorFlow is loaded; then all was said.
    if not active or not hasattr(os, "fork") or threading.active_count() > 1 or "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 counts NumPy's threads too
        child = os.fork()
    if child == 0:
        _filter(reader, writer, terminal)
    os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    python = sys.stderr
    if _is_descriptor_2(python):
        sys.stderr = open(terminal, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    try:
        yield
    finally:
        if sys.stderr is not python:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
        sys.stderr = python
        os.dup2(terminal, 2)
        os.close(terminal)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _is_descriptor_2(stream: object) -> bool:
    try:
        return bool(stream.fileno() == 2)  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False


def _filter(reader: int, writer: int, terminal: int) -> None:
    """The child: copy lines until the parent is gone or done; never returns."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.close(writer)
        os.dup2(terminal, 2)
        with open(reader, "rb") as stream:
            for line in stream:
                if not _CHATTER.match(line):
                    os.write(terminal, line)
    finally:
        os._exit(0)
