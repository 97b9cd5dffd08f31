"""Contestants in processes of their own that take turns, so that a slow minute of the machine hits all of them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLAIN = "plain PyTorch loop"


class Contestant:
    """A process that runs `program --worker ORDER` and answers lines of numbers with lines of JSON (`serve`)."""

    def __init__(self, program: str, order: dict[str, Any]) -> None:
        """Start it. It compiles until it is `ready`: one that is started before another is ready slows that."""
        self.order = order
        self.found: list[Any] = []
        command = [sys.executable, program, "--worker", json.dumps(order)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self._ready: Any = None
        self.done = False

    @property
    def ready(self) -> Any:
        """What it tells of itself once it is, None if it fails."""
        if self._ready is None and not self.done:
            line = self._process.stdout.readline()
            self._ready = json.loads(line) if line else None
            self.done = not line
        return self._ready

    def turn(self, count: int) -> None:
        """Let it make that many steps; what it tells of them is added to `found`. One that has died is done."""
        line = ""
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{count}\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        told = json.loads(line) if line else []
        self.found += told
        self.done = len(told) < count

    def end(self) -> None:
        """Let it go."""
        with contextlib.suppress(OSError):  # it may have died with something unread
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def arguments(parser: argparse.ArgumentParser, work: Callable[[dict[str, Any]], None]) -> argparse.Namespace:
    """The command line of a program of contestants; where it is called as one of them, it does its work and ends."""
    parser.add_argument("--output", help="where to keep the table as JSON; the default is benchmarks/results/...")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(json.loads(given.worker))
        sys.exit()
    return given


def command(given: argparse.Namespace) -> str:
    """The command line, but for where the table is kept and where the files lie."""
    return " ".join(Path(part).name for part in sys.argv[1:] if part not in ("--output", given.output))


def serve(ready: dict[str, Any], step: Callable[[], Any]) -> None:
    """A contestant's side: `step` returns what is to be told of it, or raises StopIteration after the last."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        told = []
        for _ in range(int(line)):
            try:
                told.append(step())
            except StopIteration:
                break
        print(json.dumps(told), flush=True)


def machine() -> dict[str, Any]:
    """What it ran on."""
    from stylekeras import engines

    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in engines.processor_flags()]
    cores = engines.cores()
    key = f"{cores}-core-{wide[-1] if wide else 'cpu'}"
    return {"processor": engines.processor_name(), "cores": cores, "features": wide, "key": key}


def keep(report: dict[str, Any], name: str, output: str | None) -> None:
    """Write a report to a file, by default in benchmarks/results/."""
    path = Path(output or Path(__file__).parent / "results" / f"{name}-{report['machine']['key']}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nkept in {os.path.relpath(path)}", file=sys.stderr)
