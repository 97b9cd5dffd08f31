"""`stylekeras replay`: make a picture again from the recipe that is in it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

import stylekeras as sk

from .options import Devices, Json, Output, Overwrite, Quiet, Verbose

Picture = Annotated[
    str, typer.Argument(metavar="PICTURE", help="A .png, .jpg or .tif that stylekeras wrote.", show_default=False)
]
Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PLACE",
        help="Input files, or folders they are in, beside PICTURE's own; names do not matter.",
        show_default=False,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine", metavar="NAME", help="Another engine than the recipe's: nearly the same.", show_default=False
    ),
]

_PROVENANCE = ("engine", "engine_version", "device", "precision", "backbone", "weights")
_LOSSLESS = (".png", ".tif", ".tiff")


def replay(
    picture: Picture,
    output: Output,
    places: Places = None,
    engine: Engine = None,
    devices: Devices = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Make PICTURE again from its recipe. Its inputs are found by their SHA-256 beside it, or in PLACE.

    On the same machine, with the same versions, it is the same picture; what is not the same is said.
    """
    from stylekeras import recipe
    from stylekeras.images import check_output

    from . import inputs, outputs, runs
    from .chatter import filtered
    from .display import Display
    from .resume import prepare

    made = recipe.read(picture)
    made_by = made.get("provenance")
    if not isinstance(made_by, dict) or not isinstance(made.get("inputs"), list):
        raise sk.RequestError(f"{picture}: its recipe does not say what it was made from")
    if "cells" in made_by:
        command = "reconstruct --layers all" if made_by.get("command") == "reconstruct" else "sheet"
        raise sk.RequestError(
            f"{picture}: a sheet of several pictures; make it again with `stylekeras {command}` and the settings in "
            "its recipe"
        )
    settings = _settings(picture, made["settings"])
    entries = _entries(picture, made, settings)
    searched = [Path(place) for place in places or ()]
    for place in searched:
        if not place.exists():
            raise sk.RequestError(f"{place}: no such file or folder")
    with Display(json=as_json, quiet=quiet, verbose=verbose) as display, filtered(not verbose):
        finder = inputs.Files(
            [*searched, Path(picture).resolve().parent, *_demo()], "give it, or its folder, behind PICTURE"
        )
        if engine is not None:
            changes = {"engine": engine, "devices": "auto", "preset": settings.preset}
            settings = sk.Settings(**{**settings.to_dict(), **changes})
        by = made_by if engine is None else _without_engine(made_by)
        what = inputs.again(settings, entries, by, finder.find, devices)
        check_output(output, overwrite=overwrite, inputs=[picture, *what.pictures])
        job = prepare(settings, entries, what)
        form = outputs.fitting(outputs.recorded(made.get("output")), output, display)
        job = outputs.written_as(job, form, what.content, output, display)
        for line in what.notes:
            display.message(line)
        for name, version in _versions(made):
            here = {"stylekeras": sk.__version__, **job.recipe["versions"]}.get(name)
            if version != here:
                display.message(f"{name}: it was {version}, here it is {here}")
        until = made_by.get("steps_done")
        whole = made_by.get("finished", True) is True or not isinstance(until, int) or until < 1
        check = functools.partial(_check, display, made_by)
        before = runs.Before(check=check, until=None if whole else until)
        outcome = runs.follow(job, display, before=before)
        saved = functools.partial(_compare, display, picture)
        return runs.finish(outcome, output, display, overwrite=overwrite, saved=saved)


def _demo() -> list[Path]:
    """The inputs of `stylekeras demo`, which nobody has to look for."""
    from .demo import photograph

    places = [Path(str(resources.files("stylekeras.data") / "brushwork.jpg"))]
    with contextlib.suppress(sk.RequestError):
        places.append(photograph())
    return places


def _settings(picture: str, values: Mapping[str, Any]) -> sk.Settings:
    try:
        return sk.Settings(**values)
    except (sk.SettingsError, TypeError) as error:
        what = " ".join(str(error).split())[:200]
        raise sk.RequestError(f"{picture}: its recipe is of another version, or was changed: {what}") from error


def _entries(picture: str, made: Mapping[str, Any], settings: sk.Settings) -> list[dict[str, Any]]:
    """The inputs, checked, and the network's file if it is one."""
    from stylekeras import checkpoint

    from .inputs import network_file

    entries = list(made["inputs"])
    for role, file in network_file(settings):
        # Only its name: a path in a recipe is a stranger's.
        entries.append({"role": role, "name": file.name, "sha256": made["provenance"].get("weights_sha256")})
    for entry in entries:
        try:
            checkpoint.check_input(entry)
        except sk.CheckpointError as error:
            raise sk.RequestError(f"{picture}: its recipe is {error}") from error
    return entries


def _without_engine(made_by: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in made_by.items() if name not in ("engine", "precision")}


def _versions(made: Mapping[str, Any]) -> list[tuple[str, Any]]:
    versions = made.get("versions")
    every = {"stylekeras": made["stylekeras"], **(versions if isinstance(versions, dict) else {})}
    return [(name, str(version)[:40]) for name, version in every.items() if version is not None]


def _check(display: Any, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    from .inputs import differences

    found = differences(before, now, ("weights_sha256",))
    if found:
        raise sk.RequestError(f"the network's weights are not those of the picture: {found[0]}")
    for line in differences(before, now, _PROVENANCE):
        display.message(line)


def _compare(display: Any, picture: str, written: str) -> None:
    """Say whether they are the same, if their format would show it."""
    import numpy as np

    endings = {Path(path).suffix.lower() for path in (picture, written)}
    if not (len(endings) == 1 and endings <= set(_LOSSLESS)):
        return
    with contextlib.suppress(sk.StyleKerasError, MemoryError):
        old, new = (sk.load_image(path) for path in (picture, written))
        if old.shape != new.shape:
            display.message(f"not the same picture as {picture}: another size")
        elif np.array_equal(old, new):
            display.message(f"the same picture as {picture}, pixel for pixel")
        else:
            display.message(
                f"not quite the same picture as {picture}: up to {255 * np.abs(old - new).max():.1f} of 255"
            )
