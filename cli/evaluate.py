"""`stylekeras evaluate`: the loss and its terms for any picture, whoever made it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import stylekeras as sk

from .options import (
    Config,
    Content,
    Json,
    Quiet,
    StyleLayers,
    StyleMasks,
    StyleRegions,
    Styles,
    StyleScales,
    StyleWeights,
    Verbose,
    painted,
    settings,
    with_settings,
)

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="The picture to judge.", show_default=False)]


# What decides how a picture is made and not what it is worth. In a config file, which other commands read too, they are
# passed over.
UNUSED = (
    "size",
    "min_size",
    "steps",
    "tolerance",
    "margin",
    "optimizer",
    "learning_rate",
    "clip",
    "init",
    "init_noise",
)


@with_settings(without=UNUSED)
def evaluate(
    image: Image,
    content: Content,
    styles: Styles,
    style_weights: StyleWeights = None,
    style_scales: StyleScales = None,
    style_masks: StyleMasks = None,
    style_regions: StyleRegions = None,
    layers_of: StyleLayers = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    *,
    given: dict[str, Any],
) -> int:
    """Tell the loss of IMAGE, at its own size, as a picture of CONTENT in the style of STYLE."""
    if given.get("colors") == "luminance":
        raise sk.SettingsError("--colors luminance changes a picture after its loss is known; leave it out, or 'match'")
    chosen = settings(given, config)
    given_styles = painted(styles, style_weights, style_scales, style_masks, style_regions, layers_of)

    from . import runs
    from .chatter import filtered
    from .display import Display

    with Display(json=as_json, quiet=quiet, verbose=verbose) as display, filtered(not verbose):
        runs.check_layers(chosen)
        picture = sk.load_image(image, clip=False)
        loaded, _ = runs.load_styles(chosen, given_styles, runs.Pictures())
        result = sk.loss_and_gradient(picture, sk.load_image(content, name="content"), loaded, chosen)
        display.notes(result.provenance["notes"])
        display.message(runs.runs_on(result.provenance))
        if as_json:
            found = {"loss": result.loss, "terms": result.terms, "size": picture.shape[:2]}
            display.event("done", **found, settings=chosen.to_dict(), provenance=result.provenance)
            return 0
        rows = [("loss", f"{result.loss:.6g}"), *((name, f"{value:.6g}") for name, value in result.terms.items())]
        display.table(("term", "value"), rows)
    return 0
