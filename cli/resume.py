"""`stylekeras resume`: go on with an interrupted run, to the same picture."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import stylekeras as sk

from .beside import Plot, Timelapse, TimelapseEvery
from .options import Devices, Json, Overwrite, Quiet, Verbose

File = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="What --checkpoint wrote.", show_default=False)]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The picture, if not the one that the run began with.",
        show_default=False,
    ),
]
Every = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        metavar="N|Nmin",
        help="How often from now on, in steps or minutes; as before if not given.",
        show_default=False,
    ),
]

# Another one of these would not go on to the same picture.
_SAME = ("engine", "engine_version", "precision", "backbone", "weights_sha256")
# These may round differently; tiles are chosen at each scale.
_ROUNDS = ("device",)
_ROUNDS_AT_A_SCALE = (*_ROUNDS, "tile", "tiles", "held")
_VERSIONS = ("numpy", "pillow", "processor")


def resume(
    checkpoint: File,
    output: Output = None,
    checkpoint_every: Every = None,
    plot: Plot = None,
    timelapse: Timelapse = None,
    timelapse_every: TimelapseEvery = None,
    devices: Devices = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Go on with an interrupted run. Its inputs are found where they were, or beside the checkpoint.

    The picture becomes the one that the run would have made. CHECKPOINT is written again as the run goes on, and
    removed once the picture is written. Loss curves are of the whole run, a time-lapse begins where it goes on.
    """
    from stylekeras import checkpoint as checkpoints
    from stylekeras import files
    from stylekeras.images import check_output

    from . import inputs, outputs, runs
    from .beside import beside
    from .chatter import filtered
    from .checkpoints import DEFAULT, Keeper, absolute, parse_every
    from .display import Display

    about = checkpoints.read(checkpoint)
    target = output or about["output"]
    if not target:
        raise sk.RequestError(f"{checkpoint}: does not say where the picture goes; add -o FILE")
    every = _text(about.get("every")) or DEFAULT if checkpoint_every is None else checkpoint_every
    often, save_every = parse_every(every), _count(about.get("save_every"))
    with Display(json=as_json, quiet=quiet, verbose=verbose) as display, filtered(not verbose):
        made_by, entries = about["provenance"], about["inputs"]
        finder = inputs.Files([Path(checkpoint).resolve().parent], "put it beside the checkpoint")
        what = inputs.again(
            about["settings"], entries, made_by, lambda entry: finder.find(entry, Path(entry["path"])), devices
        )
        job = prepare(about["settings"], entries, what)
        ours = functools.partial(is_ours, job, made_by)
        inside = [*what.pictures, checkpoint]
        check_output(target, overwrite=overwrite or ours(target), inputs=inside)
        form = outputs.fitting(outputs.recorded(about.get("form")), target, display)
        job = outputs.written_as(job, form, what.content, target, display)
        files.check_destination(checkpoint, (Path(checkpoint).suffix.lower(),), overwrite=True, inputs=what.pictures)
        files.sweep(Path(checkpoint).resolve())
        about, state, picture = checkpoints.load(checkpoint)
        done, seconds = about["done"], about["seconds"]
        kept = {"settings": about["settings"].to_dict(), "inputs": entries, "output": absolute(target)}
        kept |= {"versions": job.recipe["versions"], "form": about.get("form")}
        keeper = Keeper(checkpoint, often, {**kept, "every": every, "save_every": save_every}, done)
        curve, more = _curve(about.get("curve"), done), (plot, timelapse, timelapse_every)
        others, given = (target, checkpoint), what.pictures
        side = beside(job, display, *more, outputs=others, inputs=given, overwrite=overwrite, curve=curve)
        watch = runs.watching(job, display, target, save_every, keeper, side, overwrite=overwrite, ours=ours)
        for line in what.notes:
            display.warning(f"{line}; the picture may differ in its last bits")
        for line in inputs.differences(_dict(about.get("versions")), job.recipe["versions"], _VERSIONS):
            display.warning(f"{line}; the picture may differ in its last bits")
        display.message(f"going on after step {done} of at most {sum(steps for *_, steps in job.schedule)} to {target}")
        replace = overwrite or ours(target)
        if picture is not None:
            # All steps were done, and only the picture is missing.
            outcome = runs.Outcome(picture, None, done, runs.recipe_of_last(job, done, made_by), writing=job.writing)
            extra = {"seconds": seconds}
            return runs.finish(outcome, target, display, overwrite=replace, extra=extra, keeper=keeper, beside=side)
        if plot is not None and not curve.points:
            display.warning(f"the loss curves begin at step {done + 1}: the checkpoint does not hold those before")
        if timelapse is not None:
            display.message(f"the time-lapse begins at step {done + 1}: a checkpoint holds no frames")
        # What was "auto" has been decided, and where files are may have changed; everything else has been compared.
        chosen = job.settings.to_dict()
        run = {**state["run"], "settings": {name: chosen[name] for name in state["run"]["settings"]}}
        check = functools.partial(_check, display, made_by, _ROUNDS if state["last"] else _ROUNDS_AT_A_SCALE)
        before = runs.Before({**state, "run": run}, done, seconds, check)
        outcome = runs.follow(job, display, watch=watch, before=before)
        return runs.finish(outcome, target, display, overwrite=replace, keeper=keeper, beside=side)


def prepare(settings: sk.Settings, entries: Any, what: Any) -> Any:
    """The job of what `inputs.again` has found, with the recipe of the settings and names as they were."""
    from stylekeras import recipe

    from . import runs
    from .inputs import PICTURES

    job = runs.prepare(what.settings, what.content, what.styles)
    named = recipe.build(settings.to_dict(), None, {})["settings"]
    pictures = [entry for entry in entries if entry["role"] in PICTURES]
    shown = [{name: value for name, value in entry.items() if name not in ("path", "bytes")} for entry in pictures]
    return dataclasses.replace(job, recipe={**job.recipe, "settings": named, "inputs": shown})


def is_ours(job: Any, made_by: Mapping[str, Any], path: str) -> bool:
    """Whether a picture is of this run: of the same settings and inputs, made by the same engine."""
    from stylekeras import recipe

    try:
        found = recipe.read(path)
    except sk.RequestError:
        return False
    provenance = found.get("provenance")
    return (
        found["settings"] == job.recipe["settings"]
        and found.get("inputs") == job.recipe["inputs"]
        and isinstance(provenance, dict)
        and all(provenance.get(name) == made_by.get(name) for name in _SAME)
    )


def _check(display: Any, before: Mapping[str, Any], rounds: Sequence[str], now: Mapping[str, Any]) -> None:
    from .inputs import differences

    found = differences(before, now, _SAME)
    if found:
        raise sk.CheckpointError(
            f"this would not become the same picture: {'; '.join(found)}; go on where it began, or begin anew"
        )
    for line in differences(before, now, rounds):
        display.warning(f"{line}; the picture may differ in its last bits")


def _curve(kept: Any, done: int) -> Any:
    """The losses until then that a checkpoint holds, none if it does not."""
    from .plot import Curve

    try:
        return Curve.from_dict(kept).until(done)
    except ValueError:
        return Curve()


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
