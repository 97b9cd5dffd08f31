"""`stylekeras reconstruct`: what layers know of a picture, content alone or style alone (the paper's figure 1)."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

import stylekeras as sk
from stylekeras.errors import nearest

from .beside import Plot, Timelapse, TimelapseEvery
from .options import Config, Json, Output, Overwrite, Painted, Quiet, Verbose, settings, with_settings

if TYPE_CHECKING:
    from .display import Display
    from .runs import Job


# The figure's columns a to e: content at each of these layers alone, style up to each of them.
FIGURE = {
    "content": [[f"block{k}_conv2"] for k in range(1, 6)],
    "style": [[f"block{i}_conv1" for i in range(1, k + 1)] for k in range(1, 6)],
}
# The figure's rows, from above. Styles are first also because they have no photo to start from: if that is asked for,
# it is found at once.
BOTH = ("style", "content")
DEFAULTS = {"init": "noise"}

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="The picture to reconstruct.", show_default=False)]
Painting = Annotated[
    str | None,
    typer.Argument(metavar="[PAINTING]", help="With --of both, the one whose style is rebuilt.", show_default=False),
]
Of = Annotated[
    str,
    typer.Option(
        "--of",
        metavar="content|style|both",
        help="Its content alone, its style alone, or the paper's figure: IMAGE's content and PAINTING's style.",
        show_default=False,
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        "--layers",
        metavar="TAPS|all",
        help="Taps, 'name,...' or 'name=weight,...'; 'all' for the paper's sheet of five.",
    ),
]


class _Row(NamedTuple):
    """A row of the figure: the original, and a job for each column."""

    of: str
    original: Any
    jobs: list[Job]


@with_settings(without=("content_layers", "style_layers"), defaults=DEFAULTS)
def reconstruct(
    image: Image,
    of: Of,
    output: Output,
    painting: Painting = None,
    layers: Layers = "all",
    plot: Plot = None,
    timelapse: Timelapse = None,
    timelapse_every: TimelapseEvery = None,
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    *,
    given: dict[str, Any],
) -> int:
    """Rebuild IMAGE from noise out of what some layers keep: its content alone, or its style alone."""
    if of not in (*FIGURE, "both"):
        raise sk.SettingsError(f"--of {of} is unknown{nearest(of, (*FIGURE, 'both'))}")
    if (of == "both") != (painting is not None):
        raise sk.SettingsError("--of both takes two pictures, IMAGE and PAINTING; --of content and --of style take one")
    sheet = layers == "all"
    if of == "both" and not sheet:
        raise sk.SettingsError(
            f"--of both is the paper's figure, with --layers all; for {layers} name content or style"
        )
    extras = {"--plot": plot, "--timelapse": timelapse, "--timelapse-every": timelapse_every}
    unfit = next((option for option, value in extras.items() if value is not None and sheet), None)
    if unfit is not None:
        raise sk.SettingsError(f"{unfit} is of one picture, and --layers all makes several: name the layers of one")
    pictures = {"content": image, "style": painting or image}
    chosen = {
        kind: [
            settings({**given, f"{kind}_layers": column}, config, DEFAULTS)
            for column in ([dict.fromkeys(taps, 1.0) for taps in FIGURE[kind]] if sheet else [layers])
        ]
        for kind in (BOTH if of == "both" else (of,))
    }
    init = next(iter(chosen.values()))[0].init

    from stylekeras.images import check_output
    from stylekeras.settings import INITS

    from . import runs
    from .beside import beside
    from .chatter import filtered
    from .display import Display

    paths = [*(pictures[kind] for kind in chosen), *([init] if init not in INITS else [])]
    check_output(output, overwrite=overwrite, inputs=paths)
    with Display(json=as_json, quiet=quiet, verbose=verbose) as display, filtered(not verbose):
        known, rows = runs.Pictures(), []
        for kind, columns in chosen.items():
            content, styles = (image, []) if kind == "content" else (None, [Painted(pictures["style"])])
            jobs = [runs.prepare(column, content, styles, known) for column in columns]
            rows.append(_Row(kind, jobs[0].content if kind == "content" else jobs[0].styles[0].image, jobs))
        if sheet:
            return _sheet(rows, of, output, display, overwrite=overwrite)
        job = rows[0].jobs[0]
        side = beside(
            job, display, plot, timelapse, timelapse_every, outputs=[output], inputs=paths, overwrite=overwrite
        )
        outcome = runs.follow(job, display, watch=side.watch)
        return runs.finish(outcome, output, display, overwrite=overwrite, beside=side)


def _sheet(rows: Sequence[_Row], of: str, output: str, display: Display, *, overwrite: bool) -> int:
    """All of the figure's columns in one picture, the originals first."""
    from stylekeras.images import fit, to_uint8

    from . import runs
    from .contact import Cell, compose

    longest = rows[0].jobs[0].settings.size
    cells: list[list[Cell]] = []
    reports: list[dict[str, Any]] = []
    made: list[dict[str, Any]] = []
    outcome, began, number = runs.Outcome(), time.perf_counter(), 0
    jobs = [job for row in rows for job in row.jobs]
    for row in rows:
        cells.append([(fit(row.original, longest), "original" if len(rows) == 1 else row.of)])
        for job in row.jobs:
            number += 1
            taps = list(getattr(job.settings, f"{row.of}_layers"))
            picture, label = None, caption(taps)
            if outcome.error is None:
                extra = {"cell": number, "cells": len(jobs), "of": row.of, "layers": taps}
                title = f"{row.of}, {label} ({number}/{len(jobs)})"
                latest = runs.follow(job, display, title=title, extra=extra)
                outcome.error = latest.error
                if latest.image is not None and latest.progress is not None:
                    picture, last = to_uint8(latest.image), latest.progress
                    made.append(latest.recipe)
                    told = {"of": row.of, "layers": taps, "loss": last.loss, "seconds": last.seconds}
                    reports.append({**told, "settings": latest.recipe["settings"]})
            cells[-1].append((picture, label))
    if reports:
        outcome.recipe = runs.recipe_of_a_sheet("reconstruct", jobs, made, reports)
        outcome.recipe["provenance"] |= {"reconstructs": of, "layers": "all"}
        outcome.image = compose(cells, longest)
    return runs.finish(outcome, output, display, overwrite=overwrite, extra=runs.of_a_sheet(began, reports))


def caption(taps: Sequence[str]) -> str:
    """A column of the figure in the paper's words: "conv4_2", or of several layers "3 layers, to conv3_1"."""
    last = re.sub(r"^block(\d+)_conv(\d+)$", r"conv\1_\2", taps[-1])
    return last if len(taps) == 1 else f"{len(taps)} layers, to {last}"
