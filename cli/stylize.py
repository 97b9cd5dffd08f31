"""`stylekeras stylize`: paint a photo in the style of one or several paintings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import stylekeras as sk

from .options import Config, Content, Json, Output, Overwrite, Quiet, Styles, Verbose, numbers, settings, with_settings

PerStyle = Annotated[
    str | None,
    typer.Option(
        "--style-weights", metavar="X,X,...", help="The share of each style, in their order.", show_default=False
    ),
]
Scales = Annotated[
    str | None,
    typer.Option(
        "--style-scales", metavar="X,X,...", help="The size of each style; larger strokes above 1.", show_default=False
    ),
]
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
    style_weights: PerStyle = None,
    style_scales: Scales = None,
    save_every: Every = None,
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
    weights = numbers("--style-weights", style_weights, len(styles))
    scales = numbers("--style-scales", style_scales, len(styles))

    from stylekeras.images import check_output

    from . import runs
    from .chatter import filtered
    from .display import Display

    check_output(output, overwrite=overwrite, inputs=[content, *styles, chosen.init])
    with Display(json=as_json, quiet=quiet, verbose=verbose) as display, filtered(not verbose):
        job = runs.prepare(chosen, content, styles, weights, scales)
        watch = None
        if save_every is not None:
            every = save_every
            name = runs.numbered(output, every, job.schedule, overwrite=overwrite)

            def watch(done: int, progress: Any) -> None:
                if done % every == 0:
                    made_by = runs.recipe_of(job, done, progress)
                    try:
                        sk.save_image(name(done), progress.image, overwrite=overwrite, recipe=made_by)
                    except sk.StyleKerasError as error:  # the run's own picture is still to come
                        display.warning(str(error))

        outcome = runs.follow(job, display, watch=watch)
        return runs.finish(outcome, output, display, overwrite=overwrite)
