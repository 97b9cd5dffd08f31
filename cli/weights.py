"""`stylekeras weights`: weight sets, where they are, and how to get and convert them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json, Overwrite, Quiet

if TYPE_CHECKING:
    from .display import Display

Name = Annotated[str, typer.Argument(metavar="NAME", help="A set's name, 'imagenet' or 'offline'.", show_default=False)]
File = Annotated[
    str | None, typer.Argument(metavar="[FILE.onnx]", help="A network in an ONNX file.", show_default=False)
]
Backbone = Annotated[str, typer.Option("--backbone", metavar="vgg19|vgg16", help="Whose, for 'imagenet'.")]
Source = Annotated[str, typer.Argument(metavar="IN", help="A weight file, or a set's name.", show_default=False)]
Target = Annotated[str, typer.Argument(metavar="OUT", help="Ends in .npz or .safetensors.", show_default=False)]


def list_sets(file: File = None, as_json: Json = False) -> int:
    """Show every weight set, and where it is or how to get it; or what in an .onnx FILE can be a layer."""
    from stylekeras import weights

    from .display import Display

    display = Display(json=as_json)
    if file is not None:
        return _list_taps(file, display)
    rows = weights.catalogue()
    if as_json:
        for row in rows:
            display.event("set", **row)
        return 0
    columns = ("name", "backbone", "here", "licence", "where, or how to get it")
    here = {True: "yes", False: "no"}
    display.table(
        columns,
        (
            (
                str(row["name"]),
                str(row["backbone"]),
                here[bool(row["available"])],
                str(row["licence"]),
                str(row["where"]),
            )
            for row in rows
        ),
    )
    return 0


def _list_taps(file: str, display: Display) -> int:
    from stylekeras.graphs.file import candidates

    taps = candidates(file)
    if display.json:
        for tap in taps:
            display.event("tap", name=tap.name, channels=tap.channels, operator=tap.operator)
        return 0
    display.table(("layer", "channels", "made by"), [(tap.name, str(tap.channels), tap.operator) for tap in taps])
    return 0


def fetch(name: Name, backbone: Backbone = "vgg19", as_json: Json = False, quiet: Quiet = False) -> int:
    """Download a weight set into Keras' cache unless it is there, and print the file's path."""
    from stylekeras import weights

    from .chatter import filtered
    from .display import Display

    with Display(json=as_json, quiet=quiet) as display, filtered():
        path = weights.fetch(name, backbone)
        display.event("done", set=name, path=str(path))
        display.result(str(path))
    return 0


def convert(
    source: Source, target: Target, overwrite: Overwrite = False, as_json: Json = False, quiet: Quiet = False
) -> int:
    """Save a weight file, or a set, in this project's own format, with its preprocessing."""
    from stylekeras import weights

    from .chatter import filtered
    from .display import Display

    with Display(json=as_json, quiet=quiet) as display, filtered():
        saved = weights.convert(source, target, overwrite=overwrite)
        display.event("done", output=target, backbone=saved.backbone, layers=list(saved.layers), sha256=saved.sha256)
        display.message(f"wrote {target} ({saved.backbone}, {len(saved.layers)} layers)")
    return 0
