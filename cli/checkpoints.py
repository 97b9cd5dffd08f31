"""Checkpoints of a run: when one is written, what is in it, and what is said of it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

import stylekeras as sk

DEFAULT = "5min"

Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="Keep what `stylekeras resume FILE` goes on from; removed once the picture is written.",
        show_default=False,
    ),
]
CheckpointEvery = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        metavar="N|Nmin",
        help=f"How often: every N steps, or N minutes, such as 50 or 10min. (default: {DEFAULT})",
        show_default=False,
    ),
]

_EVERY = re.compile(r"([0-9]*\.?[0-9]+)\s*(|s|m|min|h|steps?)")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Every(NamedTuple):
    """Steps, or else seconds, from one checkpoint to the next."""

    steps: int = 0
    seconds: float = 0.0


def parse_every(text: str) -> Every:
    """`--checkpoint-every`: "50" or "50steps", "5min", "300s", "1h".

    Raises: SettingsError.
    """
    match = _EVERY.fullmatch(text.strip().lower())
    if match and match[2] in _SECONDS and 0 < float(match[1]) < 1e6:
        return Every(seconds=float(match[1]) * _SECONDS[match[2]])
    if match and match[1].isdecimal() and 0 < int(match[1]) < 1e9:
        return Every(steps=int(match[1]))
    raise sk.SettingsError(f"--checkpoint-every {text}: expected a number of steps, or a time such as 5min")


@dataclass
class Keeper:
    """Writes the checkpoints of one run.

    Attributes:
        path: Where.
        every: How often.
        about: What is the same in all of them, see `stylekeras.checkpoint.save`.
        done: The steps, over all scales, of the one that is there; 0 if none is.
        since: When it was written, or the run began, of `time.monotonic`.
        curve: The losses so far, a `plot.Curve` that others add to.
    """

    path: str
    every: Every
    about: Mapping[str, Any]
    done: int = 0
    since: float = field(default_factory=lambda: time.monotonic())
    curve: Any = None

    def watch(self, done: int, progress: sk.Progress) -> None:
        """Called after every step. Raises: RunError."""
        waited = time.monotonic() - self.since
        if done - self.done >= self.every.steps if self.every.steps else waited >= self.every.seconds:
            self.save(done, progress)

    def save(self, done: int, progress: sk.Progress) -> None:
        """Write one, if there is none of that step yet.

        Raises: RunError, and then that of an earlier step is still there.
        """
        if done == self.done:
            return
        from stylekeras import checkpoint, files

        about = {**self.about, "done": done, "seconds": progress.seconds, "provenance": dict(progress.provenance)}
        if self.curve is not None:
            about["curve"] = self.curve.until(done).to_dict()
        nothing_left = progress.last and progress.scale + 1 == progress.scales
        try:
            checkpoint.save(self.path, progress.state, about, picture=progress.image if nothing_left else None)
        except OSError as error:
            left = f"; {self.left()}" if self.done else ""
            raise sk.RunError(f"could not write the checkpoint {self.path}: {files.reason(error)}{left}") from error
        self.done, self.since = done, time.monotonic()

    def left(self) -> str:
        """What to do with the one that is there."""
        again = f"stylekeras resume {shlex.quote(self.path)}"
        # A picture so far that does not say whose it is would not be replaced.
        if Path(str(self.about["output"])).suffix.lower() == ".npy":
            again += " --overwrite"
        return f"step {self.done} is kept in {self.path}; go on with: {again}"

    def remove(self) -> None:
        """The picture is written: nothing is left to go on with."""
        from stylekeras import files

        target = Path(self.path).resolve()
        if self.done:
            with contextlib.suppress(OSError):
                target.unlink()
        files.sweep(target)


def keeper(
    path: str | None,
    every: str | None,
    output: str,
    job: Any,
    *,
    overwrite: bool = False,
    save_every: int | None = None,
) -> Keeper | None:
    """The checkpoints that a command line asks for.

    Args:
        job: A `runs.Job`.

    Raises: OutputError for a file that cannot be written, RequestError.
    """
    if path is None:
        if every is not None:
            raise sk.SettingsError("--checkpoint-every needs --checkpoint FILE")
        return None
    from stylekeras import checkpoint, files

    from . import outputs
    from .inputs import network_file

    every = DEFAULT if every is None else every
    often = parse_every(every)
    # A file of its own, also where links lead to it.
    target = checkpoint.check_destination(path, overwrite=overwrite, inputs=[*job.paths, output])
    files.sweep(target)
    inputs = [_input(path, entry) for path, entry in zip(job.paths, job.recipe["inputs"], strict=True)]
    inputs += [_input(str(file), {"role": role}) for role, file in network_file(job.settings) if file.is_file()]
    about = {
        "settings": job.settings.to_dict(),
        "inputs": inputs,
        "versions": job.recipe["versions"],
        "output": absolute(output),
        "form": outputs.of(job.recipe).get("output"),
        "every": every,
        "save_every": save_every,
    }
    return Keeper(path, often, about)


def _input(path: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    from stylekeras import recipe

    seen = entry if "sha256" in entry else {**entry, **recipe.fingerprint(path)}
    return {**seen, "path": absolute(path), "bytes": Path(path).stat().st_size}


def absolute(path: str) -> str:
    """The same place from any folder; links stay links."""
    return os.path.abspath(path)  # noqa: PTH100
