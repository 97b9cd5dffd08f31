"""`stylekeras plan`: memory, time per step and tiles of a picture, before paying for it."""

from __future__ import annotations

from typing import Any

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


@with_settings()
def plan(
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
    """Tell what painting CONTENT in the style of STYLE would need: memory, tiles, time. A few steps are timed once."""
    chosen = settings(given, config)
    given_styles = painted(styles, style_weights, style_scales, style_masks, style_regions, layers_of)

    from stylekeras.forecast import duration
    from stylekeras.memory import text

    from . import runs
    from .chatter import filtered
    from .display import Display

    with Display(json=as_json, quiet=quiet, verbose=verbose) as display, filtered(not verbose):
        job = runs.prepare(chosen, content, given_styles)
        found = sk.plan(job.content, list(job.styles), chosen)
        display.notes(found.provenance["notes"])
        display.message(runs.runs_on(found.provenance))
        if as_json:
            display.event("plan", **found.to_dict(), settings=chosen.to_dict(), inputs=job.recipe["inputs"])
            return 0
        rows = []
        for scale in found.scales:
            tiles = "whole" if scale.tile is None else f"{scale.tiles} of {scale.tile} px{', disk' * scale.on_disk}"
            memory = "?" if scale.memory is None else text(scale.memory)
            each = scale.seconds_per_step or 0.0
            size = f"{scale.size[1]}x{scale.size[0]}"
            rows.append((size, tiles, memory, str(scale.steps), f"{each:.2f} s", duration(each * scale.steps)))
        display.table(("size", "tiles", "memory", "steps", "a step", "all steps"), rows)
        display.result(str(found))
        if found.budget is not None:
            display.result(f"{text(found.budget)} of memory may be taken")
    return 0
