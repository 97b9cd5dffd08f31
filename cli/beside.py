"""What can be written beside a picture: loss curves and a time-lapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import stylekeras as sk

if TYPE_CHECKING:
    from .display import Display
    from .plot import Curve
    from .runs import Job, Outcome
    from .timelapse import Film

Plot = Annotated[
    str | None,
    typer.Option(
        "--plot",
        metavar="FILE.png",
        help="Also draw the loss, its terms and its layers over the steps.",
        show_default=False,
    ),
]
Timelapse = Annotated[
    str | None,
    typer.Option(
        "--timelapse",
        metavar="FILE",
        help="Also show the picture as it is made: .gif, .webp, or .mp4 with the extra 'video'.",
        show_default=False,
    ),
]
TimelapseEvery = Annotated[
    int | None,
    typer.Option(
        "--timelapse-every",
        metavar="N",
        min=1,
        help="A frame every N steps. (default: about 80 in all, close together at first)",
        show_default=False,
    ),
]


@dataclass
class Beside:
    """The files beside one picture, and what goes into them.

    Attributes:
        curve: The losses so far, also if no plot is asked for: checkpoints keep them.
        film: The frames so far, None if no time-lapse is asked for.
        written: By the option, the files that have been written.
    """

    job: Job
    display: Display
    curve: Curve
    film: Film | None
    plot: str | None
    timelapse: str | None
    overwrite: bool
    written: dict[str, str] = field(default_factory=dict)

    def watch(self, done: int, progress: sk.Progress) -> None:
        """Called after every step, with the number of steps over all scales."""
        self.curve.add(done, progress)
        if self.film is not None:
            self.film.watch(done, progress)

    def write(self, outcome: Outcome) -> None:
        """Write them, of a run that has a picture, whole or so far.

        Raises: RunError for those that cannot be written, when the others are.
        """
        failed = []
        for option, path in (("plot", self.plot), ("timelapse", self.timelapse)):
            if path is None:
                continue
            target = _unused(Path(path).resolve(), overwrite=self.overwrite)
            try:
                told = self._plot(target, outcome) if option == "plot" else self._timelapse(target, outcome)
            except (OSError, MemoryError) as error:
                from stylekeras.files import reason

                failed.append(f"could not write {path}: {reason(error)}")
                continue
            if told:
                self.written[option] = str(Path(path).with_name(target.name))
                self.display.message(f"wrote {self.written[option]} ({told})")
        if failed:
            raise sk.RunError("; ".join(failed))

    def _plot(self, target: Path, outcome: Outcome) -> str:
        import io

        from stylekeras.files import write

        from .plot import draw

        curve = self.curve.until(outcome.done)
        if not curve.points:
            self.display.warning("no loss curves: the checkpoint does not hold them, and no step was left to do")
            return ""
        stored = io.BytesIO()
        draw(curve, self.job.settings, _title(outcome)).save(stored, "PNG")
        write(target, stored.getvalue())
        return f"loss curves from step {curve.points[0].step} to {curve.points[-1].step}"

    def _timelapse(self, target: Path, outcome: Outcome) -> str:
        film = self.film
        assert film is not None
        if not film.count:
            self.display.warning("no time-lapse: no step was left to do")
            return ""
        film.end(outcome.done, outcome.image)
        film.write(target)
        return f"{film.count} frames, {film.shape[1]}x{film.shape[0]}"


def beside(
    job: Job,
    display: Display,
    plot: str | None,
    timelapse: str | None,
    every: int | None,
    *,
    outputs: Sequence[str | None],
    inputs: Sequence[str],
    overwrite: bool,
    curve: Curve | None = None,
) -> Beside:
    """What a command line asks for.

    Args:
        outputs: The picture, and the checkpoint if there is one.
        curve: What there was of it before a run is gone on with.

    Raises: RequestError, and then nothing has been written.
    """
    from . import plot as plots
    from . import timelapse as films

    if every is not None and timelapse is None:
        raise sk.SettingsError("--timelapse-every needs --timelapse FILE")
    film = None
    if plot is not None:
        _check(plot, (".png",), outputs, inputs, overwrite=overwrite)
    if timelapse is not None:
        _check(timelapse, films.ENDINGS, outputs, inputs, overwrite=overwrite)
        steps = sum(steps for _, _, steps in job.schedule)
        ending = films.check(timelapse, every, steps)
        film = films.Film(job.schedule[-1][:2], ending, films.moments(steps, every), display.warning)
    return Beside(job, display, curve or plots.Curve(), film, plot, timelapse, overwrite)


def _check(
    path: str, endings: Sequence[str], outputs: Sequence[str | None], inputs: Sequence[str], *, overwrite: bool
) -> None:
    from stylekeras.files import check_destination

    target = check_destination(path, endings, overwrite=overwrite, inputs=inputs)
    for output in outputs:
        if output is not None and Path(output).resolve() == target:
            raise sk.OutputError(f"cannot write {path}: another output goes there; choose another name")


def _unused(path: Path, *, overwrite: bool) -> Path:
    """The path, or one beside it if a file of that name has come up during the run: neither is lost."""
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, 1000))
    return path if overwrite else next((free for free in (path, *others) if not free.exists()), path)


def _title(outcome: Outcome) -> str:
    """A run in a line, from its recipe."""
    made: Mapping[str, Any] = outcome.recipe
    named = {role: [e["name"] for e in made["inputs"] if e["role"] == role] for role in ("content", "style")}
    content, styles = " ".join(map(str, named["content"])), " and ".join(map(str, named["style"]))
    what = f"{content} in the style of {styles}" if content and styles else content or styles
    height, width = outcome.image.shape[:2]
    by = made["provenance"]
    return f"{what}, {width}x{height}, {by['steps_done']} of at most {by['steps_total']} steps"
