"""The only place that prints: progress and messages on stderr, results and JSON lines on stdout."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    import stylekeras as sk

# (height, width, steps) of every scale, coarse to fine.
Schedule = Sequence[tuple[int, int, int]]


def error(message: str, hint: str = "") -> None:
    """An error on stderr: what was wrong and what to do, then a hint such as the usage."""
    _stderr(f"Error: {_printable(message)}")
    if hint:
        _stderr(hint)


def interrupted(left: str) -> None:
    """An interruption, and what is left of the run, on stderr."""
    _stderr(f"interrupted; {_printable(left)}")


def text(message: str) -> None:
    """A text as it is on stdout, such as a help page or a version; nothing if it is empty."""
    if message:
        _stdout(message)


def strict(value: Any) -> Any:
    """Plain JSON types, numbers that are not finite as None: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


class Display:
    """What a command says while it works. As a context it also shows the library's log, one line a message."""

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self._handler = _Lines(self, logging.INFO if verbose else logging.WARNING)
        self._level = logging.NOTSET
        self._console: Console | None = None

    def __enter__(self) -> Self:
        logger = logging.getLogger("stylekeras")
        self._level = logger.level
        logger.setLevel(self._handler.level)
        logger.addHandler(self._handler)
        logging.getLogger("tensorflow").addFilter(self._advice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        logger = logging.getLogger("stylekeras")
        logger.removeHandler(self._handler)
        logging.getLogger("tensorflow").removeFilter(self._advice)
        logger.setLevel(self._level)

    def _advice(self, record: logging.LogRecord) -> bool:
        """Whether to keep a message of TensorFlow's: not its advice to us on how often to trace, unless verbose."""
        return self._handler.level < logging.WARNING or "retracing" not in str(record.msg)

    def event(self, name: str, /, **fields: Any) -> None:
        """A JSON line on stdout, with `--json`."""
        if self.json:
            _stdout(json.dumps(strict({"event": name, **fields}), allow_nan=False))

    def message(self, message: str, *, always: bool = False) -> None:
        """A line on stderr; with `--quiet` only if it is to be said always."""
        if always or not self.quiet:
            self._say(_printable(message))

    def warning(self, message: str) -> None:
        """A warning on stderr, not with `--quiet`."""
        self.message(f"Warning: {message}")

    def result(self, message: str) -> None:
        """A line on stdout; with `--json` nothing else than JSON is there."""
        if not self.json:
            _stdout(message)

    def notes(self, notes: Iterable[str]) -> None:
        """What is not as asked for, unless the log has said it already."""
        for note in notes:
            if note not in self._handler.said:
                self._handler.said.add(note)
                self.warning(note)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
        """A table on stdout."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(columns))
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(_printable(item)) for item in row))
        stream = io.StringIO()
        # Piped into a file or another program there is no width to keep to.
        width = None if sys.stdout.isatty() else 200
        Console(file=stream, width=width, highlight=False).print(table)
        _stdout("\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n"))

    @contextlib.contextmanager
    def progress(self, schedule: Schedule, title: str = "") -> Iterator[Run]:
        """Show a run: bars on a terminal, else one line a scale."""
        both = self.json and sys.stdout.isatty()  # JSON lines and bars on one screen would overwrite each other
        if self.quiet or both or not self._stderr_console().is_terminal:
            yield Run(self, schedule, title)
            return
        bars = _bars(self._stderr_console())
        with bars:
            yield Run(self, schedule, title, bars)

    def _say(self, line: str) -> None:
        if self._console is None:
            _stderr(line)
        else:  # so that the bars stay below
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _stderr_console(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True)
        return self._console


class Run:
    """The progress of one run of the optimizer; call `step` after each of its steps."""

    def __init__(self, display: Display, schedule: Schedule, title: str, bars: Bars | None = None) -> None:
        self._display = display
        self._schedule = schedule
        self._title = f"{title}: " if title else ""
        self._bars = bars
        self._task: TaskID | None = None
        if bars is not None:
            self._task = bars.add_task(f"{self._title}loading", total=None, loss="")
        else:
            display.message(f"{self._title}loading ...")

    def step(self, progress: sk.Progress) -> None:
        """Show a step."""
        height, width = progress.size
        scale = f"{self._title}scale {progress.scale + 1}/{progress.scales}, {width}x{height}"
        terms = ", ".join(f"{name} {progress.terms[name]:.4g}" for name in ("content", "style", "tv"))
        loss = f"loss {progress.loss:.4g} ({terms})"
        if self._bars is None or self._task is None:
            if progress.last:
                self._display.message(f"{scale}: {progress.step} steps, {loss}, {progress.seconds:.1f} s")
            return
        # A step takes time in proportion to its pixels, so the bar and the time left count pixels.
        before = sum(math.prod(scale) for scale in self._schedule[: progress.scale])
        done, total = before + height * width * progress.step, sum(math.prod(scale) for scale in self._schedule)
        description = f"{scale}, step {progress.step}/{progress.steps}"
        self._bars.update(self._task, description=description, completed=done, total=total, loss=loss)


class _Lines(logging.Handler):
    """The library's log as lines of the display."""

    def __init__(self, display: Display, level: int) -> None:
        super().__init__(level)
        self._display = display
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        self.said.add(message)
        if record.levelno >= logging.WARNING:
            self._display.warning(message)
        else:
            self._display.message(message)


def _bars(console: Console) -> Bars:
    from rich.console import RenderableType
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.text import Text

    class TwoLines(Progress):
        """The bar, and below it the loss and its terms: together they are too wide for 80 columns."""

        def get_renderables(self) -> Iterable[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                if task.fields["loss"]:
                    yield Text(f"  {task.fields['loss']}", no_wrap=True, overflow="ellipsis")

    return TwoLines(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TimeElapsedColumn(),
        TextColumn("left", markup=False),
        TimeRemainingColumn(),
        console=console,
        expand=True,
        transient=True,
        redirect_stdout=False,  # stdout is JSON's
    )


def _printable(message: str) -> str:
    """Without control characters, which a file's name may hold and a terminal would obey."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in message)


def _stderr(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def _stdout(line: str) -> None:
    try:
        try:
            print(line, flush=True)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # Whoever read it is gone (`| head`). That is no reason to lose a picture: go on without, and keep the
        # interpreter's flush at exit from failing again.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
