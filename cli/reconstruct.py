"""`stylekeras reconstruct`: what layers know of a picture, content alone or style alone (the paper's figure 1)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

import stylekeras as sk
from stylekeras.errors import nearest

from .options import Config, Json, Output, Overwrite, Painted, Quiet, Verbose, settings, with_settings

if TYPE_CHECKING:
    from .display import Display


# The figure's columns a to e: content at each of these layers alone, style up to each of them.
FIGURE = {
    "content": [[f"block{k}_conv2"] for k in range(1, 6)],
    "style": [[f"block{i}_conv1" for i in range(1, k + 1)] for k in range(1, 6)],
}
DEFAULTS = {"init": "noise"}

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="The picture to reconstruct.", show_default=False)]
Of = Annotated[
    str,
    typer.Option("--of", metavar="content|style", help="Its content alone, or its style alone.", show_default=False),
]
Layers = Annotated[
    str,
    typer.Option(
        "--layers",
        metavar="TAPS|all",
        help="Taps, 'name,...' or 'name=weight,...'; 'all' for the paper's sheet of five.",
    ),
]


@with_settings(without=("content_layers", "style_layers"), defaults=DEFAULTS)
def reconstruct(
    image: Image,
    of: Of,
    layers: Layers,
    output: Output,
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    *,
    given: dict[str, Any],
) -> int:
    """Rebuild IMAGE from noise out of what some layers keep: its content alone, or its style alone."""
    if of not in FIGURE:
        raise sk.SettingsError(f"--of {of} is unknown{nearest(of, FIGURE)}")
    sheet = layers == "all"
    columns = [dict.fromkeys(taps, 1.0) for taps in FIGURE[of]] if sheet else [layers]
    chosen = [settings({**given, f"{of}_layers": column}, config, DEFAULTS) for column in columns]

    from stylekeras.images import check_output

    from . import runs
    from .chatter import filtered
    from .display import Display

    check_output(output, overwrite=overwrite, inputs=[image, chosen[0].init])
    with Display(json=as_json, quiet=quiet, verbose=verbose) as display, filtered(not verbose):
        content, styles = (image, []) if of == "content" else (None, [Painted(image)])
        pictures = runs.Pictures()
        jobs = [runs.prepare(settings, content, styles, pictures) for settings in chosen]
        if sheet:
            return _sheet(jobs, of, output, display, overwrite=overwrite)
        return runs.finish(runs.follow(jobs[0], display), output, display, overwrite=overwrite)


def _sheet(jobs: list[Any], of: str, output: str, display: Display, *, overwrite: bool) -> int:
    """All of the figure's columns in one picture, the original first."""
    from stylekeras.images import fit

    from . import runs
    from .contact import Cell, compose

    longest = jobs[0].settings.size
    original = jobs[0].styles[0].image if of == "style" else jobs[0].content
    cells: list[Cell] = [(fit(original, longest), "original")]
    reports: list[dict[str, Any]] = []
    made: list[dict[str, Any]] = []
    outcome, began = runs.Outcome(), time.perf_counter()
    for number, job in enumerate(jobs, start=1):
        taps = list(getattr(job.settings, f"{of}_layers"))
        title = taps[0] if len(taps) == 1 else f"to {taps[-1]}"
        extra = {"cell": number, "cells": len(jobs), "layers": taps}
        latest = runs.follow(job, display, title=f"{title} ({number}/{len(jobs)})", extra=extra)
        if latest.image is not None and latest.progress is not None:
            made.append(latest.recipe)
            last = latest.progress
            told = {"layers": taps, "loss": last.loss, "seconds": last.seconds}
            reports.append({**told, "settings": latest.recipe["settings"]})
            cells.append((latest.image, title))
        outcome.error = latest.error
        if outcome.error is not None:
            break
    if reports:
        outcome.recipe = runs.recipe_of_a_sheet("reconstruct", jobs, made, reports)
        outcome.recipe["provenance"] |= {"reconstructs": of, "layers": "all"}
        outcome.image = compose([cells], longest) / 255
    return runs.finish(outcome, output, display, overwrite=overwrite, extra=runs.of_a_sheet(began, reports))
