"""`stylekeras stylize`: paint a photo in the style of one or several paintings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stylekeras.settings import INITS

from . import outputs
from .beside import Plot, Timelapse, TimelapseEvery
from .checkpoints import Checkpoint, CheckpointEvery
from .options import (
    Config,
    Content,
    Json,
    Output,
    Overwrite,
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

Every = Annotated[
    int | None,
    typer.Option(
        "--save-every",
        metavar="N",
        min=1,
        help="Also write the picture so far every N steps, numbered.",
        show_default=False,
    ),
]


@with_settings()
def stylize(
    content: Content,
    styles: Styles,
    output: Output,
    style_weights: StyleWeights = None,
    style_scales: StyleScales = None,
    style_masks: StyleMasks = None,
    style_regions: StyleRegions = None,
    layers_of: StyleLayers = None,
    profile: outputs.Profile = "srgb",
    metadata: outputs.Metadata = "drop",
    alpha: outputs.Alpha = "keep",
    depth: outputs.Depth = None,
    save_every: Every = None,
    checkpoint: Checkpoint = None,
    checkpoint_every: CheckpointEvery = None,
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
    """Paint CONTENT in the style of STYLE, or of several."""
    chosen = settings(given, config)
    form = outputs.Form(profile, metadata, alpha, depth)
    given_styles = painted(styles, style_weights, style_scales, style_masks, style_regions, layers_of)

    from stylekeras.images import check_output

    from . import runs
    from .beside import beside
    from .chatter import filtered
    from .checkpoints import keeper
    from .display import Display

    files = [path for style in given_styles for path in style.paths]
    check_output(output, overwrite=overwrite, inputs=[content, *files, chosen.init])
    with Display(json=as_json, quiet=quiet, verbose=verbose) as display, filtered(not verbose):
        job = runs.prepare(chosen, content, given_styles)
        job = outputs.written_as(job, form, content, output, display)
        paths = [content, *files, *([chosen.init] if chosen.init not in INITS else [])]
        others, more = (output, checkpoint), (plot, timelapse, timelapse_every)
        side = beside(job, display, *more, outputs=others, inputs=paths, overwrite=overwrite)
        keep = keeper(checkpoint, checkpoint_every, output, job, overwrite=overwrite, save_every=save_every)
        watch = runs.watching(job, display, output, save_every, keep, side, overwrite=overwrite)
        outcome = runs.follow(job, display, watch=watch, plan=True)
        return runs.finish(outcome, output, display, overwrite=overwrite, keeper=keep, beside=side)
