"""`stylekeras sheet`: every content in every style, on one labelled picture."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

import stylekeras as sk
from stylekeras.files import write

from .options import Config, Json, Output, Overwrite, Painted, Quiet, Verbose, settings, with_settings

Contents = Annotated[
    list[str], typer.Option("--content", "-c", metavar="FILE", help="A photo; repeat it for more.", show_default=False)
]
Paintings = Annotated[
    list[str], typer.Option("--style", "-s", metavar="FILE", help="A painting; repeat it for more.", show_default=False)
]


@with_settings()
def sheet(
    content: Contents,
    style: Paintings,
    output: Output,
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    *,
    given: dict[str, Any],
) -> int:
    """Paint every content in every style: one labelled sheet, and a JSON file beside it with each picture's losses."""
    chosen = settings(given, config)

    from stylekeras.images import check_output

    from . import runs
    from .chatter import filtered
    from .contact import Cell, compose
    from .display import Display

    check_output(output, overwrite=overwrite, inputs=[*content, *style, chosen.init])
    beside = Path(output).with_suffix(".json")
    if beside.is_dir() or (beside.exists() and not overwrite):
        raise sk.OutputError(f"cannot write {beside}: it exists; choose another name, or ask to overwrite it")
    with Display(json=as_json, quiet=quiet, verbose=verbose) as display, filtered(not verbose):
        pictures = runs.Pictures()
        jobs = [[runs.prepare(chosen, photo, [Painted(path)], pictures) for path in style] for photo in content]
        header: list[Cell] = [(None, "")]
        header += [(job.styles[0].image, Path(painting).name) for job, painting in zip(jobs[0], style, strict=True)]
        rows: list[list[Cell]] = [header]
        reports: list[dict[str, Any]] = []
        made: list[dict[str, Any]] = []
        total, began = runs.Outcome(), time.perf_counter()
        for photo, row in zip(content, jobs, strict=True):
            rows.append([(row[0].content, Path(photo).name)])
            for painting, job in zip(style, row, strict=True):
                report: dict[str, Any] = {"content": Path(photo).name, "style": Path(painting).name}
                picture = None
                if total.error is None or isinstance(total.error, sk.RunError):  # another picture may still work
                    extra = {"cell": len(reports) + 1, "cells": len(content) * len(style), **report}
                    title = f"{report['content']} x {report['style']} ({extra['cell']}/{extra['cells']})"
                    outcome = runs.follow(job, display, title=title, extra=extra)
                    total.error = outcome.error or total.error
                    report["error"] = None if outcome.error is None else _reason(outcome.error)
                    if outcome.progress is not None:
                        made.append(outcome.recipe)
                        picture, last = outcome.image, outcome.progress
                        report |= {"loss": last.loss, "terms": dict(last.terms), "seconds": last.seconds}
                else:
                    report["error"] = "not run"
                reports.append(report)
                rows[-1].append((picture, report["error"] or f"loss {report['loss']:.4g}"))
        if made:
            total.recipe = runs.recipe_of_a_sheet("sheet", [job for row in jobs for job in row], made, reports)
            total.image = compose(rows, chosen.size) / 255
        return runs.finish(
            total,
            output,
            display,
            overwrite=overwrite,
            extra=runs.of_a_sheet(began, reports),
            saved=lambda written: _write(Path(written), total.recipe),
        )


def _reason(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__


def _write(picture: Path, report: dict[str, Any]) -> None:
    """The JSON file beside the picture, whole or not at all, as pictures are."""
    from .display import strict

    path = picture.with_suffix(".json")
    text = json.dumps(strict(report), indent=2, allow_nan=False) + "\n"
    try:
        write(path, text.encode("utf-8"))
    except OSError as error:
        raise sk.RunError(f"could not write {path}: {error.strerror or error}; the picture is in {picture}") from error
