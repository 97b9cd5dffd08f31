"""`stylekeras sheet`: contents by styles, or settings over their values, on one labelled picture."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

import stylekeras as sk
from stylekeras.errors import nearest
from stylekeras.files import write
from stylekeras.settings import FIELDS, INITS

from .options import Config, Json, Output, Overwrite, Painted, Quiet, Verbose, settings, with_settings

if TYPE_CHECKING:
    from .contact import Cell
    from .runs import Job

Contents = Annotated[
    list[str], typer.Option("--content", "-c", metavar="FILE", help="A photo; repeat it for more.", show_default=False)
]
Paintings = Annotated[
    list[str], typer.Option("--style", "-s", metavar="FILE", help="A painting; repeat it for more.", show_default=False)
]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        metavar="SETTING=X,X,...",
        help="A column for each value of a setting; given twice, a row for each of the first one's. Semicolons stand "
        "between values that have commas, 'steps=60,40;100'; preset=none is without one.",
        show_default=False,
    ),
]

_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Variant(NamedTuple):
    """What is varied, a line for each setting, such as "strength=0.5", and the settings that this makes."""

    label: str
    settings: sk.Settings


class _Picture(NamedTuple):
    """A picture to make, and what is told of it."""

    told: dict[str, Any]
    label: str
    job: Job


class _Row(NamedTuple):
    """The inputs that stand before a row's pictures, and these."""

    lead: list[Cell]
    pictures: list[_Picture]


@with_settings()
def sheet(
    content: Contents,
    style: Paintings,
    output: Output,
    vary: Vary = None,
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    *,
    given: dict[str, Any],
) -> int:
    """Paint every content in every style, also with every value of a setting or two: one labelled sheet.

    A JSON file beside it has each picture's losses, and the settings in which they differ.
    """
    grid = variants(vary or [], given, config)
    every = [variant.settings for row in grid for variant in row]

    from stylekeras.images import check_output, to_uint8

    from . import runs
    from .chatter import filtered
    from .contact import compose
    from .display import Display

    inits = [chosen.init for chosen in every if chosen.init not in INITS]
    check_output(output, overwrite=overwrite, inputs=[*content, *style, *inits])
    beside = Path(output).with_suffix(".json")
    if beside.is_dir() or (beside.exists() and not overwrite):
        raise sk.OutputError(f"cannot write {beside}: it exists; choose another name, or ask to overwrite it")
    with Display(json=as_json, quiet=quiet, verbose=verbose) as display, filtered(not verbose):
        rows = _varied(content, style, grid) if vary else _pairs(content, style, every[0])
        jobs = [picture.job for row in rows for picture in row.pictures]
        cells: list[list[Cell]] = []
        if not vary:
            paintings = [(picture.job.styles[0].image, picture.told["style"]) for picture in rows[0].pictures]
            cells.append([(None, ""), *paintings])
        reports: list[dict[str, Any]] = []
        made: list[dict[str, Any]] = []
        total, began = runs.Outcome(), time.perf_counter()
        for row in rows:
            cells.append(list(row.lead))
            for told, label, job in row.pictures:
                report, picture = dict(told), None
                if total.error is None or isinstance(total.error, sk.RunError):  # another picture may still work
                    extra = {"cell": len(reports) + 1, "cells": len(jobs), **report}
                    name = ", ".join(f"{report['content']} x {report['style']}\n{label}".splitlines())
                    outcome = runs.follow(job, display, title=f"{name} ({extra['cell']}/{extra['cells']})", extra=extra)
                    total.error = outcome.error or total.error
                    report["error"] = None if outcome.error is None else _reason(outcome.error)
                    if outcome.progress is not None:
                        made.append(outcome.recipe)
                        picture, last = to_uint8(outcome.image), outcome.progress
                        report |= {"loss": last.loss, "terms": dict(last.terms), "seconds": last.seconds}
                else:
                    report["error"] = "not run"
                reports.append(report)
                caption = report["error"] or f"loss {report['loss']:.4g}"
                cells[-1].append((picture, f"{label}\n{caption}" if label else caption))
        if made:
            total.recipe = runs.recipe_of_a_sheet("sheet", jobs, made, reports)
            total.image = compose(cells, max(chosen.size for chosen in every))
        return runs.finish(
            total,
            output,
            display,
            overwrite=overwrite,
            extra=runs.of_a_sheet(began, reports),
            saved=lambda written: _write(Path(written), total.recipe),
        )


def variants(vary: Sequence[str], given: Mapping[str, Any], config: str | None) -> list[list[Variant]]:
    """The settings of `--vary`, in rows and columns; of none of them, one alone.

    Args:
        vary: None, one or two of "setting=value,value,..."; the last one makes the columns.
        given: What else was given on the command line.

    Raises: SettingsError.
    """
    if len(vary) > 2:
        raise sk.SettingsError(f"--vary was given {len(vary)} times: a sheet has rows and columns, for two settings")
    axes = [_values(text) for text in vary]
    names = [name for name, _ in axes]
    for name in names:
        if name in given:
            raise sk.SettingsError(f"--vary {name} and --{name.replace('_', '-')}: leave one of them out")
        if names.count(name) > 1:
            raise sk.SettingsError(f"--vary {name} was given twice: put all of its values into one")
    rows: list[list[Variant]] = []
    for row in itertools.product(*(values for _, values in axes[:-1])):
        rows.append([])
        for column in itertools.product(*(values for _, values in axes[-1:])):
            chosen = list(zip(names, (*row, *column), strict=True))
            label = "\n".join(f"{name}={text}" for name, (text, _) in chosen)
            try:
                made = settings({**given, **{name: value for name, (_, value) in chosen}}, config)
            except sk.SettingsError as error:
                raise sk.SettingsError(f"--vary {', '.join(label.splitlines())}: {error}") if vary else error from None
            rows[-1].append(Variant(label, made))
    found = [variant.settings for row in rows for variant in row]
    for i, variant in enumerate(itertools.chain(*rows)):
        if variant.settings in found[:i]:
            raise sk.SettingsError(f"--vary {', '.join(variant.label.splitlines())}: these settings come twice")
    return rows


def _values(text: str) -> tuple[str, list[tuple[str, Any]]]:
    """A setting's name, and each of its values as typed and as `Settings` takes it."""
    name, equals, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals:
        raise sk.SettingsError(f"--vary {text}: expected SETTING=X,X,..., such as strength=0,0.5,1")
    if name not in FIELDS:
        raise sk.SettingsError(f"--vary {name}: unknown setting{nearest(name, FIELDS)}")
    values = [value.strip() for value in listed.split(";" if ";" in listed else ",")]
    if "" in values:
        raise sk.SettingsError(f"--vary {text}: a value is empty")
    if name == "preset":
        return name, [(value, None if value == "none" else value) for value in values]
    if isinstance(FIELDS[name].default, bool):
        return name, [(value, _FLAGS.get(value.lower(), value)) for value in values]
    return name, [(value, value) for value in values]


def _pairs(content: Sequence[str], style: Sequence[str], chosen: sk.Settings) -> list[_Row]:
    """A row for every content, its pictures in every style."""
    from . import runs

    known, rows = runs.Pictures(), []
    for photo in content:
        told = [{"content": Path(photo).name, "style": Path(painting).name} for painting in style]
        jobs = [runs.prepare(chosen, photo, [Painted(painting)], known) for painting in style]
        pictures = [_Picture(one, "", job) for one, job in zip(told, jobs, strict=True)]
        rows.append(_Row([(jobs[0].content, Path(photo).name)], pictures))
    return rows


def _varied(content: Sequence[str], style: Sequence[str], grid: Sequence[Sequence[Variant]]) -> list[_Row]:
    """The rows of the grid for every content in every style, these two before the first of them."""
    from . import runs

    every = [variant.settings.to_dict() for row in grid for variant in row]
    differ = [name for name in FIELDS if any(chosen[name] != every[0][name] for chosen in every)]
    known, rows = runs.Pictures(), []
    for photo, painting in itertools.product(content, style):
        pair = {"content": Path(photo).name, "style": Path(painting).name}
        for i, variants in enumerate(grid):
            jobs = [runs.prepare(chosen, photo, [Painted(painting)], known) for _, chosen in variants]
            pictures = [
                _Picture({**pair, "varied": {name: job.recipe["settings"][name] for name in differ}}, label, job)
                for (label, _), job in zip(variants, jobs, strict=True)
            ]
            images = [jobs[0].content, jobs[0].styles[0].image]
            lead: list[Cell] = list(zip(images, pair.values(), strict=True)) if i == 0 else [(None, "")] * 2
            rows.append(_Row(lead, pictures))
    return rows


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
        raise sk.RunError(f"could not write {path}: {error.strerror or error}") from error
